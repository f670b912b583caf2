"""Appends on PostgreSQL: against `eventsourcing`'s own recorder, and against raw COPY of the same rows, in one run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from uuid import uuid4

import asyncpg
from eventsourcing.persistence import StoredEvent
from eventsourcing.postgres import PostgresApplicationRecorder, PostgresDatastore

from cli.system import SystemClock
from ledger.core.checkpoint import origin_prefix
from ledger.core.entry import Event
from ledger.publisher import Publisher
from ledger.sequencer import Sequencer
from ledger.store.base import Prefixed
from ledger.store.directory import DirectoryStore
from ledger.store.postgres import COLUMNS, PostgresEntryStore, record_of
from tests.bench.paired import Pair, run_paired
from tests.support.ledgers import log_signer
from tests.support.postgres import USER, PostgresServer

ACTOR = "local:bench"
ORIGIN = "bench.example/postgres"
STATE = b'{"amount":120000,"note":"' + b"x" * 150 + b'","state":"approved"}'
"""About 200 bytes of canonical JSON, as an aggregate event of a business system."""

SHAPES = ((1, 1, 1_500), (16, 1, 8_000), (64, 1, 12_000), (8, 1, 6_000), (1, 100, 20_000), (8, 1_000, 80_000))
"""(callers, events a call, events in all)."""

_numbers = count()


def events(size: int) -> list[Event]:
    """`size` new events of one new aggregate, as a caller sends them."""
    subject = str(uuid4())
    return [
        Event(id=f"{subject}/{n}", source="urn:bench", type="approval.given.v1", subject=subject, data=STATE)
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


def theirs(recorder: PostgresApplicationRecorder, callers: int, batch: int, total: int) -> float:
    """The same through the library's recorder, a thread a caller."""
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

    with ThreadPoolExecutor(callers) as threads:
        start = time.perf_counter()
        list(threads.map(caller, shares))
        return total / (time.perf_counter() - start)


async def run(scratch: Path, rounds: int, _entries: int) -> None:
    """Every shape against the library's recorder; then batches of 1,000, published and signed, against raw COPY."""
    scratch.chmod(0o755)
    server = PostgresServer.create(scratch / "postgres")
    server.start()
    try:
        await _against_library(server, rounds)
        await _against_copy(server, scratch, rounds)
    finally:
        server.stop()


async def _against_library(server: PostgresServer, rounds: int) -> None:
    datastore = PostgresDatastore(
        dbname="postgres", host="127.0.0.1", port=str(server.port), user=USER, password="", pool_size=64, max_overflow=8
    )
    recorder = PostgresApplicationRecorder(datastore, events_table_name="bench_events")
    recorder.create_table()
    store = await PostgresEntryStore.open(server.place("library"), create=True)
    try:
        for callers, batch, total in SHAPES:
            pair = Pair(f"postgres, {callers} x {batch:,}", "events/s", "eventsourcing")

            async def measure_ours(_number: int, c: int = callers, b: int = batch, t: int = total) -> float:
                return await ours(store, c, b, t)

            async def measure_theirs(_number: int, c: int = callers, b: int = batch, t: int = total) -> float:
                return await asyncio.to_thread(theirs, recorder, c, b, t)

            await run_paired(pair, measure_ours, measure_theirs, rounds)
    finally:
        await store.close()
        datastore.close()


async def _against_copy(server: PostgresServer, scratch: Path, rounds: int, total: int = 40_000) -> None:
    """The limit: COPY of the same rows into the same table with the same indexes, 1,000 a transaction."""
    pair = Pair("postgres, 1 x 1,000, signed", "events/s", "raw COPY")
    names = (f"copy{number}" for number in _numbers)
    kept: list[PostgresEntryStore] = []

    async def measure_ours(number: int) -> float:
        store = await PostgresEntryStore.open(server.place(next(names)), create=True)
        kept.append(store)
        objects = Prefixed(DirectoryStore(scratch / f"published-{number}", create=True), origin_prefix(ORIGIN))
        work = [events(1_000) for _ in range(total // 1_000)]
        async with Sequencer(store, SystemClock()) as sequencer:
            publisher = Publisher(store, objects, log_signer(ORIGIN), ORIGIN, epoch=sequencer.epoch)
            start = time.perf_counter()
            for number, part in enumerate(work, 1):
                await sequencer.append(part, actor=ACTOR)
                if number % 10 == 0:
                    await publisher.publish()
            return total / (time.perf_counter() - start)

    async def measure_copy(_number: int) -> float:
        store = kept.pop()
        rows = await store.rows(0, total)
        await store.close()
        target = await PostgresEntryStore.open(server.place(next(names)), create=True)
        await target.close()
        records = [record_of(position, row) for position, row in enumerate(rows)]
        place = server.place()
        db = await asyncpg.connect(host=place.host, port=place.port, user=USER, database=place.database)
        try:
            schema = target.where.rpartition("#")[2]
            start = time.perf_counter()
            for first in range(0, total, 1_000):
                await db.copy_records_to_table(
                    "entry", schema_name=schema, columns=COLUMNS, records=records[first : first + 1_000]
                )
            return total / (time.perf_counter() - start)
        finally:
            await db.close()

    await run_paired(pair, measure_ours, measure_copy, rounds)
