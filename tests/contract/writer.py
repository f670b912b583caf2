"""A writer in a process of its own: appends batches of rows to an entry store, and says what has been committed.

    python -m tests.contract.writer URL BATCHES

After each commit the new size is printed, one a line. BATCHES 0 goes on until it is killed.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from itertools import count
from pathlib import Path

from ledger.store.base import EntryStore
from ledger.store.postgres import PostgresEntryStore, PostgresPlace
from ledger.store.sqlite import SqliteEntryStore
from tests.support.postgres import USER
from tests.support.rows import Log, make_row


def batch_of(number: int) -> tuple[int, int]:
    """First index and length of batch `number`: 1, 2, ... 7 rows, then 1 again."""
    rounds, rest = divmod(number, 7)
    return rounds * 28 + rest * (rest + 1) // 2, rest + 1


async def open_postgres(place: str) -> EntryStore:
    """The schema of a server on loopback: PORT/SCHEMA."""
    port, _, schema = place.partition("/")
    return await PostgresEntryStore.open(PostgresPlace("127.0.0.1", int(port), "postgres", USER, schema=schema))


OPENERS: dict[str, Callable[[str], Awaitable[EntryStore]]] = {
    "sqlite": lambda place: SqliteEntryStore.open(Path(place)),
    "postgres": open_postgres,
}


async def write(url: str, batches: int) -> None:
    kind, _, place = url.partition(":")
    store = await OPENERS[kind](place)
    log = await Log.claim(store)
    for number in range(batches) if batches else count():
        first, length = batch_of(number)
        await log.commit([make_row(n) for n in range(first, first + length)])
        print(log.tree.size, flush=True)
    await store.close()


if __name__ == "__main__":
    asyncio.run(write(sys.argv[1], int(sys.argv[2])))
