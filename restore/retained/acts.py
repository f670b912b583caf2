"""What the acts of a log come to: up to which moment an asset's points were let go, and from which on they are kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from ledger.content.released import Released, release_acts
from ledger.core.entry import decode_entry
from ledger.core.event import event_time_us
from ledger.errors import MalformedEntry
from ledger.store.base import EntryStore, Selection

BEFORE_S_MAX: Final = 253_402_300_799
"""The end of the year 9999: no time of ours lies after it, whatever an act says."""


@dataclass(frozen=True, slots=True)
class Horizon:
    """What was released of a source: points before `before_s` (POSIX seconds), but for the last of them.

    `stop`: one more than the last entry that was released. `act`: the index of the last act.
    """

    before_s: int
    stop: int
    act: int


class Horizons:
    """Of all sources of a log that grows, caught up whenever they are asked for."""

    def __init__(self, entries: EntryStore) -> None:
        self._entries = entries
        self._start = 0
        self._known: dict[str, Horizon] = {}

    async def now(self) -> dict[str, Horizon]:
        """By source; those of which nothing was released are not in it. Raises StoreUnavailable."""
        size = (await self._entries.head()).size
        async for stored in release_acts(self._entries, self._start, size):
            self._take(stored.index, stored.entry)
        self._start = size
        return self._known

    def _take(self, index: int, entry: bytes) -> None:
        release = Released().take(index, entry)
        if release is not None:
            known = self._known.get(release.source, Horizon(0, 0, index))
            before_s = max(known.before_s, min(release.before_s, BEFORE_S_MAX))
            self._known[release.source] = Horizon(before_s, max(known.stop, release.stop), index)


class Point(NamedTuple):
    """A consistent point: the index of the entry that seals it, and when that was recorded."""

    index: int  # type: ignore[assignment]  # in place of tuple's method, which nobody asks of it
    recorded: str

    @property
    def recorded_us(self) -> int:
        return event_time_us(self.recorded)


async def oldest_point(entries: EntryStore, source: str, sealing: str, horizon: Horizon | None) -> Point | None:
    """The point from which on every moment of an asset can be rebuilt; None: it has none. Raises StoreUnavailable."""
    if horizon is not None:
        until_us = horizon.before_s * 1_000_000 + 1
        what = Selection(source=source, type=sealing, recorded_until_us=until_us, newest_first=True)
        for stored in await entries.select(what, limit=1):
            return _point(stored.index, stored.entry)
    return await next_point(entries, source, sealing, 0)


async def next_point(entries: EntryStore, source: str, sealing: str, start: int) -> Point | None:
    """The first point of an asset that is sealed at an index or after it; None: there is none."""
    for stored in await entries.select(Selection(start=start, source=source, type=sealing), limit=1):
        return _point(stored.index, stored.entry)
    return None


def _point(index: int, entry: bytes) -> Point:
    return Point(index, decode_entry(entry).recordedtime)


async def recorded_at(entries: EntryStore, index: int) -> str:
    """When an entry was recorded; '': it cannot be told. Raises StoreUnavailable."""
    for stored in await entries.read_many([index]):
        try:
            return decode_entry(stored.entry).recordedtime
        except MalformedEntry:
            break
    return ""
