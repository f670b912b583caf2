"""What this process has just committed, at hand for whoever reads right behind it: publishing, live readers.

Entries never change once they are committed, so what a commit returned for is as good as what the store would answer;
what the store really kept is checked where it is read from there (`verify`, `audit`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ledger.store.base import EntryStore, Row, StoredEntry
from ledger.store.forwarding import ForwardingEntryStore

KEPT_BYTES_MAX: Final = 32 * 2**20


class RecentEntryStore(ForwardingEntryStore):
    """An `EntryStore` that answers `read` from memory where it has committed the entries itself.

    It keeps at most `kept_bytes_max` bytes of entries, those of the last commits, without a gap.
    """

    def __init__(self, store: EntryStore, *, kept_bytes_max: int = KEPT_BYTES_MAX) -> None:
        super().__init__(store)
        self._kept_bytes_max = kept_bytes_max
        self._kept: dict[int, bytes] = {}
        self._first = self._end = 0
        self._bytes = 0

    async def commit(self, rows: Sequence[Row], *, expected_size: int, frontier: tuple[bytes, ...], epoch: int) -> None:
        await self._store.commit(rows, expected_size=expected_size, frontier=frontier, epoch=epoch)
        if self._end != expected_size:  # what was committed in between is not known here
            self._kept.clear()
            self._first, self._bytes = expected_size, 0
        self._end = expected_size + len(rows)
        entries = [row.entry for row in rows]
        self._kept.update(enumerate(entries, expected_size))
        self._bytes += sum(map(len, entries))
        while self._bytes > self._kept_bytes_max:
            self._bytes -= len(self._kept.pop(self._first))
            self._first += 1

    async def read(self, start: int, limit: int) -> Sequence[StoredEntry]:
        if not self._first <= start < self._end:
            return await self._store.read(start, limit)
        stop = min(start + limit, self._end)
        indexes = range(start, stop)
        found = list(map(StoredEntry, indexes, map(self._kept.__getitem__, indexes)))
        if stop < start + limit:  # another writer's may follow
            found += await self._store.read(stop, start + limit - stop)
        return found
