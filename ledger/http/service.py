"""What the routes are handed: the ledger's parts, who is calling, and the bounds. Built by whoever serves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from starlette.requests import Request

from ledger.consumers import Consumers
from ledger.errors import Pushback
from ledger.http.limits import HttpLimits
from ledger.http.metrics import Metrics
from ledger.http.publishing import Publishing
from ledger.http.quorum import Quorum
from ledger.http.receipts import Receipts
from ledger.reader import Reader
from ledger.sequencer import Sequencer
from ledger.store.base import ObjectStore

T = TypeVar("T")
Scope = Any
"""An ASGI connection scope."""


@dataclass(eq=False, slots=True)
class Service:
    """One ledger as served. `published` is prefixed to the origin.

    `actor_of` names the caller of a request, from its ASGI scope; that name becomes the entry's `actor`. `quorum`
    knows the newest checkpoint that the ledger's own trust policy accepts, mirrors and all.
    `hosts`: the host names answered to, None for any; on loopback it keeps web pages out that rebind their name.
    """

    origin: str
    sequencer: Sequencer
    reader: Reader
    published: ObjectStore
    publishing: Publishing
    consumers: Consumers
    actor_of: Callable[[Scope], str]
    metrics: Metrics
    limits: HttpLimits = field(default_factory=HttpLimits)
    quorum: Quorum = field(default_factory=Quorum)
    hosts: frozenset[str] | None = None
    on_fault: Callable[[Exception], None] = lambda error: None
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the server ends: streams end, so that it can."""

    receipts: Receipts = field(init=False)
    streams: int = 0
    requests: int = 0
    bodies_size: int = 0

    def __post_init__(self) -> None:
        self.receipts = Receipts(self.published)

    def take_stream(self) -> None:
        """Count a stream that opens. Raises Pushback: there are as many as may be."""
        if self.closing.is_set():
            raise Pushback("the server is ending", retry_after_s=self.limits.retry_after_s)
        if self.streams >= self.limits.streams_max:
            raise Pushback(f"{self.streams} event streams are open, no more may be", retry_after_s=5.0)
        self.streams += 1
        self.metrics.streams.set(self.streams)

    def drop_stream(self) -> None:
        """Count a stream that has ended."""
        self.streams -= 1
        self.metrics.streams.set(self.streams)


def service_of(request: Request) -> Service:
    """The service of the application a request came to."""
    service = request.app.state.service
    assert isinstance(service, Service)
    return service
