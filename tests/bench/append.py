"""Appends per second against raw SQLite inserts of the same bytes, with the same durability, in the same run."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from pathlib import Path

from cli.system import SystemClock
from ledger.core.event import Event
from ledger.sequencer import Sequencer
from ledger.store.sqlite import SqliteEntryStore
from tests.bench.paired import Pair, run_paired, stopwatch

ACTOR = "local:bench"
DATA = b'{"code":"110101","name":"\xe4\xb8\x9c\xe5\x9f\x8e\xe5\x8c\xba","note":"' + b"x" * 200 + b'"}'


def event(number: int) -> Event:
    return Event(id=f"e{number}", source="urn:bench", type="record.amended.v1", subject=f"s{number % 5000}", data=DATA)


async def ours(directory: Path, callers: int, batch: int, total: int) -> tuple[float, list[bytes]]:
    """`callers` tasks appending batches until `total` events are durable; the rate, and the entries' bytes."""
    directory.mkdir()
    store = await SqliteEntryStore.open(directory / "ledger.sqlite", create=True)
    numbers = iter(range(0, total, batch))

    async def caller(sequencer: Sequencer) -> None:
        for first in numbers:
            await sequencer.append([event(n) for n in range(first, first + batch)], actor=ACTOR)

    async with Sequencer(store, SystemClock()) as sequencer:
        with stopwatch() as watch:
            await asyncio.gather(*(caller(sequencer) for _ in range(callers)))
    entries = [stored.entry for stored in await store.read(0, total)]
    await store.close()
    shutil.rmtree(directory)
    return total / watch.seconds, entries


def raw(directory: Path, entries: list[bytes], batch: int) -> float:
    """The limit: sqlite3 alone, one table of blobs, WAL, synchronous=FULL, `batch` rows a transaction."""
    directory.mkdir()
    db = sqlite3.connect(directory / "raw.sqlite", isolation_level=None)
    db.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; CREATE TABLE e (i INTEGER PRIMARY KEY, b BLOB)")
    with stopwatch() as watch:
        for first in range(0, len(entries), batch):
            db.execute("BEGIN")
            db.executemany("INSERT INTO e VALUES (?, ?)", enumerate(entries[first : first + batch], first))
            db.execute("COMMIT")
    db.close()
    shutil.rmtree(directory)
    return len(entries) / watch.seconds


async def run(scratch: Path, rounds: int, _entries: int) -> None:
    """1 caller, 64 callers, batches of 1,000. The raw insert gets the same events per transaction as one call."""
    for name, callers, batch, total in (
        ("append, 1 caller x 1", 1, 1, 2_000),
        ("append, 64 callers x 1", 64, 1, 20_000),
        ("append, 1 caller x 1,000", 1, 1_000, 40_000),
    ):
        await _compare(scratch, rounds, Pair(name, "events/s", "raw sqlite3"), callers, batch, total)


async def _compare(scratch: Path, rounds: int, pair: Pair, callers: int, batch: int, total: int) -> None:
    written: list[bytes] = []

    async def measure_ours(number: int) -> float:
        rate, entries = await ours(scratch / f"ours-{number}", callers, batch, total)
        written[:] = entries
        return rate

    async def measure_raw(number: int) -> float:
        return await asyncio.to_thread(raw, scratch / f"raw-{number}", written, batch)

    await run_paired(pair, measure_ours, measure_raw, rounds)
