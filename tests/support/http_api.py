"""The HTTP API over stores a test chooses: in process, on a real socket, or in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from cli.serving.listening import Server, Serving, bound
from cli.serving.tls import TlsFiles, server_context
from ledger.acknowledging import Acknowledging
from ledger.consumers import Consumers
from ledger.core.checkpoint import OpenedCheckpoint
from ledger.core.event import Event
from ledger.core.note import parse_vkey
from ledger.core.policy import make_policy
from ledger.http.app import make_app
from ledger.http.limits import HttpLimits
from ledger.http.metrics import Metrics
from ledger.http.publishing import Publishing
from ledger.http.quorum import Quorum
from ledger.http.receive import STRUCTURED
from ledger.http.service import Service
from ledger.keyring.erasures import Erasures
from ledger.lag import LagMeter
from ledger.publisher import Publisher
from ledger.reader import Reader
from ledger.sealing import Sealer
from ledger.sequencer import Sequencer, SequencerLimits
from ledger.sources import Sources
from ledger.store.base import EntryStore, ObjectStore
from ledger.store.memory import MemoryEntryStore, MemoryObjectStore
from tests.support.ledgers import ACTOR, FixedClock, log_signer

ORIGIN = "example.test/http"
FIRST = Event(id="created", source="urn:test:ledger", type="ledger.created.v1", data=b"{}")
"""Entry 0, as every ledger has one."""

QUICK = HttpLimits(publish_every_s=0.01, receipt_timeout_s=5.0, retry_after_s=0.05)


def structured(id_: str, *, source: str = "urn:test", data: str = '{"n":1}', **more: str) -> bytes:
    """A CloudEvent in JSON format."""
    attributes = {"specversion": "1.0", "id": id_, "source": source, "type": "thing.happened.v1", **more}
    members = [f'"{name}":"{value}"' for name, value in attributes.items()]
    return ("{" + ",".join([*members, f'"data":{data}']) + "}").encode()


@dataclass(frozen=True)
class Served:
    """A ledger that is served, and a client of it."""

    service: Service
    client: httpx.AsyncClient
    store: EntryStore
    objects: ObjectStore
    faults: list[Exception]

    async def post(self, body: bytes, content_type: str = STRUCTURED, **headers: str) -> httpx.Response:
        """POST /events; underscores in header names stand for hyphens."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.post("/events", content=body, headers={"content-type": content_type, **named})


@asynccontextmanager
async def made(
    *,
    store: EntryStore | None = None,
    objects: ObjectStore | None = None,
    consumers: ObjectStore | None = None,
    limits: HttpLimits = QUICK,
    sequencer_limits: SequencerLimits | None = None,
    actor_of: Callable[[Any], str] = lambda scope: ACTOR,
    sites: Sequence[tuple[str, str]] = (),
    wrap: Callable[[EntryStore], EntryStore] = lambda store: store,
    wrap_objects: Callable[[ObjectStore], ObjectStore] = lambda objects: objects,
) -> AsyncIterator[tuple[Service, EntryStore, ObjectStore, list[Exception]]]:
    """A service over a ledger of one entry. `wrap` is put around the stores once it stands.

    `sites`: (name, role) of the sites it knows, of which a test says itself how far they are.
    """
    store = store or MemoryEntryStore()
    objects = objects or MemoryObjectStore("published")
    clock = FixedClock()
    if not (await store.head()).size:
        async with Sequencer(store, clock) as first:
            await first.append([FIRST], actor=ACTOR)
            await Publisher(store, objects, log_signer(ORIGIN), ORIGIN, epoch=first.epoch).publish()
    faults: list[Exception] = []
    wrapped, wrapped_objects = wrap(store), wrap_objects(objects)
    sources = Sources()
    sealer = Sealer(wrapped, None, sources, Erasures())
    async with Sequencer(wrapped, clock, limits=sequencer_limits, sealer=sealer) as sequencer:
        publisher = Publisher(wrapped, wrapped_objects, log_signer(ORIGIN), ORIGIN, epoch=sequencer.epoch)
        metrics = Metrics()
        # Without sites the log's own signature is all that its policy demands.
        quorum = Quorum(make_policy(parse_vkey(log_signer(ORIGIN).vkey), {}, threshold="any"))
        acknowledging = Acknowledging(sites, clock, LagMeter(wrapped, clock))

        def published(opened: OpenedCheckpoint) -> None:
            quorum.offer(opened)
            acknowledging.published(opened.checkpoint)

        async with Publishing(
            wrapped,
            sequencer,
            publisher,
            limits=limits,
            metrics=metrics,
            notice=faults.append,
            published=published,
        ) as publishing:
            service = Service(
                origin=ORIGIN,
                sequencer=sequencer,
                reader=Reader(wrapped, objects, committed=sequencer.committed),
                published=objects,
                publishing=publishing,
                consumers=Consumers(consumers or MemoryObjectStore("consumers"), clock),
                actor_of=actor_of,
                metrics=metrics,
                acknowledging=acknowledging,
                sources=sources,
                limits=limits,
                quorum=quorum,
                on_fault=faults.append,
            )
            yield service, store, objects, faults


@asynccontextmanager
async def served(**how: Any) -> AsyncIterator[Served]:
    """The application in process, without a socket; responses arrive whole."""
    async with made(**how) as (service, store, objects, faults):
        transport = httpx.ASGITransport(make_app(service), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://ledger.test") as client:
            yield Served(service, client, store, objects, faults)


@asynccontextmanager
async def listening(service: Service, tls: TlsFiles | None = None) -> AsyncIterator[str]:
    """The application behind the real server on a free port of the loopback interface; yields its URL."""
    context = None if tls is None else server_context(tls)
    url: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    with bound("127.0.0.1:0", loopback_only=True) as listener:
        server = Server(Serving(make_app(service), url.set_result, context, ending=service.closing.set))
        task = asyncio.create_task(server.serve([listener]))
        try:
            yield await url
        finally:
            server.should_exit = True
            await task


@asynccontextmanager
async def served_on_a_socket(**how: Any) -> AsyncIterator[Served]:
    """The application behind the real server, with a client of it."""
    async with (
        made(**how) as (service, store, objects, faults),
        listening(service) as url,
        httpx.AsyncClient(base_url=url, timeout=20.0) as client,
    ):
        yield Served(service, client, store, objects, faults)


@contextmanager
def served_in_a_thread(**how: Any) -> Iterator[str]:
    """The application behind the real server in a thread, for clients that block; yields its URL."""
    url: list[str] = []
    stop: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
    ready = threading.Event()

    async def run() -> None:
        async with made(**how) as (service, *_), listening(service) as where:
            url.append(where)
            stop.append((asyncio.get_running_loop(), asyncio.Event()))
            ready.set()
            await stop[0][1].wait()

    thread = threading.Thread(target=lambda: asyncio.run(run()), name="server")
    thread.start()
    try:
        assert ready.wait(20)
        yield url[0]
    finally:
        loop, event = stop[0]
        loop.call_soon_threadsafe(event.set)
        thread.join()
