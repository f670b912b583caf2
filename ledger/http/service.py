"""What the routes are handed: the ledger's parts, who is calling, and the bounds. Built by whoever serves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request

from ledger.acknowledging import Acknowledging
from ledger.asset_lag import AssetLagMeter
from ledger.assets import Registry
from ledger.consumers import Consumers
from ledger.core.acknowledgement import AckPolicy
from ledger.errors import Pushback, Unacknowledged
from ledger.http.bearer import Accept
from ledger.http.limits import HttpLimits
from ledger.http.metrics import Metrics
from ledger.http.problems import ReceiptPending
from ledger.http.publishing import Publishing
from ledger.http.quorum import Quorum
from ledger.http.receipts import Receipts
from ledger.reader import Reader
from ledger.sealing import Opener
from ledger.sequencer import Sequencer
from ledger.sources import Sources
from ledger.store.base import ObjectStore

STREAM_PATH = "/events/stream"

Scope = Any
"""An ASGI connection scope."""


@dataclass(eq=False, slots=True)
class Service:
    """One ledger as served. `published` is prefixed to the origin.

    `actor_of` names the caller of a request, from its ASGI scope; that name becomes the entry's `actor`. `quorum`
    knows the newest checkpoint that the ledger's own trust policy accepts, mirrors and all. `acknowledging` knows how
    far every site is, `sources` what acknowledges which source, `registry` and `asset_lag` which assets there are and
    how far every site is with each (None: nothing is said of them).
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
    acknowledging: Acknowledging
    sources: Sources
    limits: HttpLimits = field(default_factory=HttpLimits)
    quorum: Quorum = field(default_factory=Quorum)
    hosts: frozenset[str] | None = None
    registry: Registry | None = None
    asset_lag: AssetLagMeter | None = None
    on_fault: Callable[[Exception], None] = lambda error: None
    opener_of: Callable[[Scope], Opener | None] = lambda scope: None
    """What opens sealed entries for the caller of a request; None: it may not read them."""
    tokens: Accept | None = None
    """What says which scopes a request's access token has; None: no tokens are looked at."""
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the server ends: streams end, so that it can."""

    receipts: Receipts = field(init=False)
    streams: int = 0
    requests: int = 0
    bodies_size: int = 0

    def __post_init__(self) -> None:
        self.receipts = Receipts(self.published)

    async def acknowledge(self, index: int, policies: Collection[AckPolicy], timeout_s: float) -> None:
        """Wait until the entries up to `index` are published, and where the policies demand. Raises Unacknowledged."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + timeout_s
        try:
            await self.publishing.until_published(index, timeout_s)
        except ReceiptPending as error:
            self.metrics.unacknowledged.inc()
            raise await self.acknowledging.unacknowledged(index, policies, timeout_s, why=error.what) from error
        try:
            await self._acknowledge(index, policies, max(0.0, end_s - loop.time()))
        except Unacknowledged:
            self.metrics.unacknowledged.inc()
            raise

    async def _acknowledge(self, index: int, policies: Collection[AckPolicy], timeout_s: float) -> None:
        """Until the server ends: then whoever waits is told so, and is not cut off."""
        waiting = asyncio.ensure_future(self.acknowledging.acknowledge(index, policies, timeout_s))
        ending = asyncio.ensure_future(self.closing.wait())
        try:
            await asyncio.wait({waiting, ending}, return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                raise await self.acknowledging.unacknowledged(index, policies, timeout_s, why="the server is ending")
            waiting.result()
        finally:
            waiting.cancel()
            ending.cancel()

    @property
    def head_size_max(self) -> int:
        """See `Guarded`."""
        return self.limits.head_size_max

    def check_room(self) -> None:
        """See `Guarded`. A stream that is open is counted apart."""
        if self.requests - self.streams > self.limits.requests_max:
            raise Pushback(
                f"{self.limits.requests_max} requests are being answered", retry_after_s=self.limits.retry_after_s
            )

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """See `Guarded`. How long a stream was open is no answering time."""
        self.metrics.answered(method, route, status, None if route == STREAM_PATH else seconds)

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
