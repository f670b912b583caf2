"""What a writer has just committed is read from memory, within its bounds, and never in place of what is not known."""

from __future__ import annotations

from random import Random

from ledger.store.base import StoredEntry
from ledger.store.memory import MemoryEntryStore
from ledger.store.recent import RecentEntryStore
from tests.support.rows import Log, random_rows


class Counting(MemoryEntryStore):
    """Counts what it was asked for."""

    asked = 0

    async def read(self, start: int, limit: int) -> list[StoredEntry]:
        self.asked += 1
        return list(await super().read(start, limit))


async def test_what_was_just_committed_is_not_asked_of_the_store() -> None:
    behind = Counting()
    store = RecentEntryStore(behind, kept_bytes_max=2**20)
    rows = random_rows(Random(1), 300)
    log = await Log.claim(store)
    for first in range(0, 300, 60):
        await log.commit(rows[first : first + 60])
    assert list(await store.read(59, 200)) == [StoredEntry(n, rows[n].entry) for n in range(59, 259)]
    assert behind.asked == 0
    assert list(await store.read(299, 10)) == [StoredEntry(299, rows[299].entry)]
    assert behind.asked == 1, "what follows may be another writer's"


async def test_no_more_is_kept_than_the_bound_says() -> None:
    behind = Counting()
    rows = random_rows(Random(2), 300)
    bound = sum(len(row.entry) for row in rows[-10:])
    store = RecentEntryStore(behind, kept_bytes_max=bound)
    log = await Log.claim(store)
    for row in rows:
        await log.commit([row])
    assert list(await store.read(290, 10)) == [StoredEntry(n, rows[n].entry) for n in range(290, 300)]
    assert behind.asked == 0
    assert list(await store.read(289, 1)) == [StoredEntry(289, rows[289].entry)]
    assert behind.asked == 1


async def test_after_another_writer_nothing_old_is_answered_beside_a_gap() -> None:
    behind = Counting()
    store = RecentEntryStore(behind)
    rows = random_rows(Random(3), 30)
    await (await Log.claim(store)).commit(rows[:10])
    await (await Log.claim(behind)).commit(rows[10:20])
    await (await Log.claim(store)).commit(rows[20:])
    assert list(await store.read(0, 30)) == [StoredEntry(n, rows[n].entry) for n in range(30)]
    assert behind.asked == 1
