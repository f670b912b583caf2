"""Appends on PostgreSQL: against `eventsourcing`'s own recorder, and against raw COPY of the same rows, in one run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import asyncpg
from eventsourcing.persistence import ApplicationRecorder, StoredEvent
from eventsourcing.postgres import PostgresApplicationRecorder, PostgresDatastore

from cli.system import SystemClock
from ledger.core.acts import CREATED, acts_source
from ledger.core.checkpoint import origin_prefix
from ledger.core.event import Event
from ledger.keyring.data import DataKeys
from ledger.persistence import LedgerFactory
from ledger.publisher import Publisher
from ledger.sealing import Sealer
from ledger.sequencer import Sequencer
from ledger.sources import SEALING, Mode, declaration
from ledger.store.base import ObjectStore, Prefixed
from ledger.store.directory import DirectoryStore
from ledger.store.postgres import COLUMNS, PostgresEntryStore, record_of
from ledger.store.recent import RecentEntryStore
from tests.bench.paired import Pair, run_paired
from tests.support.eventsourcing import environment, make_ledger
from tests.support.ledgers import log_signer
from tests.support.postgres import USER, PostgresServer
from tests.support.sealing import RECOVERY, MemoryKek

ACTOR = "local:bench"
ORIGIN = "bench.example/postgres"
SOURCE = "urn:bench"
PUBLISH_EVERY_S = 0.2
COPIED = 120_000
STATE = b'{"amount":120000,"note":"' + b"x" * 150 + b'","state":"approved"}'
"""About 200 bytes of canonical JSON, as an aggregate event of a business system."""

SHAPES = ((1, 1, 1_500), (16, 1, 8_000), (64, 1, 12_000), (8, 1, 6_000), (1, 100, 20_000), (8, 1_000, 80_000))
"""(callers, events a call, events in all)."""


def events(size: int) -> list[Event]:
    """`size` new events of one new aggregate, as a caller sends them."""
    subject = str(uuid4())
    return [
        Event(id=f"{subject}/{n}", source=SOURCE, type="approval.given.v1", subject=subject, data=STATE)
        for n in range(1, size + 1)
    ]


async def ours(store: PostgresEntryStore, callers: int, batch: int, total: int) -> float:
    """Events a second through the async append; building the events is not counted, for neither side."""
    work = iter([events(batch) for _ in range(total // batch)])

    async def caller(sequencer: Sequencer) -> None:
        for part in work:
            await sequencer.append(part, actor=ACTOR)

    async with Sequencer(store, SystemClock()) as sequencer:
        start = time.perf_counter()
        await asyncio.gather(*(caller(sequencer) for _ in range(callers)))
        return total / (time.perf_counter() - start)


def threads(recorder: ApplicationRecorder, callers: int, batch: int, total: int) -> float:
    """The same through a synchronous recorder, the library's or ours, a thread a caller."""
    work: Iterator[list[StoredEvent]] = iter(
        [
            [StoredEvent(aggregate, n, "approval.given.v1", STATE) for n in range(1, batch + 1)]
            for aggregate in (uuid4() for _ in range(total // batch))
        ]
    )
    parts = list(work)
    shares = [parts[first::callers] for first in range(callers)]

    def caller(share: list[list[StoredEvent]]) -> None:
        for part in share:
            recorder.insert_events(part)

    with ThreadPoolExecutor(callers) as pool:
        start = time.perf_counter()
        list(pool.map(caller, shares))
        return total / (time.perf_counter() - start)


async def run(scratch: Path, rounds: int, _entries: int) -> None:
    """Every shape against the library's recorder; then batches of 1,000, published and signed, against raw COPY."""
    scratch.chmod(0o755)
    server = PostgresServer.create(scratch / "postgres")
    server.start()
    try:
        await _against_library(server, scratch, rounds)
        for mode in (Mode.PUBLIC, Mode.SEALED):
            for callers in (1, 8):
                await _against_copy(server, scratch, rounds, mode, callers)
    finally:
        server.stop()


async def _against_library(server: PostgresServer, scratch: Path, rounds: int) -> None:
    datastore = PostgresDatastore(
        dbname="postgres", host="127.0.0.1", port=str(server.port), user=USER, password="", pool_size=64, max_overflow=8
    )
    recorder = PostgresApplicationRecorder(datastore, events_table_name="bench_events")
    recorder.create_table()
    store = await PostgresEntryStore.open(server.place("library"), create=True)
    root = await asyncio.to_thread(make_ledger, scratch / "ledger", server.place("saved"))
    factory = LedgerFactory(environment(root, "Bench"))
    saved = factory.application_recorder()
    try:
        for callers, batch, total in SHAPES:

            async def append(_number: int, c: int = callers, b: int = batch, t: int = total) -> float:
                return await ours(store, c, b, t)

            async def save(_number: int, c: int = callers, b: int = batch, t: int = total) -> float:
                return await asyncio.to_thread(threads, saved, c, b, t)

            async def theirs(_number: int, c: int = callers, b: int = batch, t: int = total) -> float:
                return await asyncio.to_thread(threads, recorder, c, b, t)

            shape = f"postgres, {callers} x {batch:,}"
            await run_paired(Pair(f"{shape}, async append", "events/s", "eventsourcing"), append, theirs, rounds)
            await run_paired(Pair(f"{shape}, synchronous save", "events/s", "eventsourcing"), save, theirs, rounds)
    finally:
        factory.close()
        await store.close()
        datastore.close()


async def _against_copy(server: PostgresServer, scratch: Path, rounds: int, mode: Mode, callers: int) -> None:
    """The limit: COPY of the same rows into the same table with the same indexes, 1,000 a transaction.

    Ours publishes beside it, as `jinshi serve` does; the last signed checkpoint is within the time.
    """
    pair = Pair(f"postgres, {callers} x 1,000, {mode}, signed", "events/s", "raw COPY")
    kept: list[PostgresEntryStore] = []

    async def measure_ours(number: int) -> float:
        store = await PostgresEntryStore.open(server.place(f"{mode}{callers}{number}"), create=True)
        kept.append(store)
        directory = DirectoryStore(scratch / f"published-{mode}-{callers}-{number}", create=True)
        return await signed(store, Prefixed(directory, origin_prefix(ORIGIN)), mode, callers)

    async def measure_copy(number: int) -> float:
        return await copied(server, kept.pop(), f"copy{mode}{callers}{number}")

    await run_paired(pair, measure_ours, measure_copy, rounds)


async def signed(store: PostgresEntryStore, objects: ObjectStore, mode: Mode, callers: int) -> float:
    """Events a second until all of them are under a signed checkpoint."""
    work = iter([events(1_000) for _ in range(COPIED // 1_000)])
    sealing = Event.of_json({"sealing": SEALING}, id="0", source=acts_source(ORIGIN), type=CREATED, subject=ORIGIN)
    async with Sequencer(store, SystemClock()) as beginning:
        await beginning.append([sealing, declaration(ORIGIN, SOURCE, mode, at=1)], actor=ACTOR)
    keys = DataKeys(objects, MemoryKek(), recovery_public=RECOVERY.public, clock=SystemClock())
    sealer = await Sealer.open(store, keys)

    async def caller(sequencer: Sequencer) -> None:
        for part in work:
            await sequencer.append(part, actor=ACTOR)

    recent = RecentEntryStore(store)  # as cli/wiring opens a ledger for writing
    async with Sequencer(recent, SystemClock(), sealer=sealer) as sequencer:
        publisher = Publisher(recent, objects, log_signer(ORIGIN), ORIGIN, epoch=sequencer.epoch)
        start = time.perf_counter()
        ended = asyncio.Event()
        publishing = asyncio.create_task(_publish(publisher, ended))
        await asyncio.gather(*(caller(sequencer) for _ in range(callers)))
        ended.set()
        await publishing
        assert (await publisher.publish()).size >= COPIED
        return COPIED / (time.perf_counter() - start)


async def _publish(publisher: Publisher, ended: asyncio.Event) -> None:
    while not ended.is_set():
        with suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), PUBLISH_EVERY_S)
        await publisher.publish()


async def copied(server: PostgresServer, store: PostgresEntryStore, schema: str) -> float:
    """Rows of `store` a second by COPY into another schema."""
    rows = await store.rows(0, COPIED)
    await store.close()
    await (await PostgresEntryStore.open(server.place(schema), create=True)).close()
    records = [record_of(position, row) for position, row in enumerate(rows)]
    place = server.place()
    db = await asyncpg.connect(host=place.host, port=place.port, user=USER, database=place.database)
    try:
        start = time.perf_counter()
        for first in range(0, COPIED, 1_000):
            await db.copy_records_to_table(
                "entry", schema_name=schema, columns=COLUMNS, records=records[first : first + 1_000]
            )
        return COPIED / (time.perf_counter() - start)
    finally:
        await db.close()
