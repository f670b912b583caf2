"""Clusters: a point needs a chain of base backups, and every segment of the log from the last of them on."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ledger.capture.opened import read_data
from ledger.capture.physical.events import BASE, MANIFEST, SEALED, WAL, Seal, parse_listing, parse_seal, parse_segment
from ledger.core.indexes import Indexes
from ledger.sealing import Opened
from ledger.store.base import StoredEntry
from restore.rebuild.physical.choosing import KnownBase, known_bases, leads_to
from restore.retained.base import History, Keeping, Newest, Place


class _Point(NamedTuple):
    index: int  # type: ignore[assignment]  # in place of tuple's method, which nobody asks of it
    seal: Seal

    @property
    def line(self) -> tuple[str, int, int, str]:
        """What decides which base backups lead to it, but for how far it goes; none of it ever goes back."""
        seal = self.seal
        return seal.system, seal.timeline, seal.since, seal.history


@dataclass(frozen=True, slots=True)
class _Marked:
    """A point that a mark stands for, and the segments that it needs, by their numbers."""

    index: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class _Needed:
    """`bases`: indexes of entries. Segments are needed from the number `low` on, and what is `marked` needs.

    Those of another `system` are not told apart: they stay.
    """

    system: str
    bases: frozenset[int]
    low: int
    marked: Sequence[_Marked]

    def by_mark(self, before: Place, until: int | None) -> bool:
        """Whether a mark needs a segment that is the newest of its name from `before` to `until` (None: for good)."""
        first = bisect_right(self.marked, before.index, key=lambda one: one.index)
        for one in self.marked[first:]:
            if until is not None and one.index > until:
                return False
            if one.first <= before.number <= one.last:
                return True
        return False


async def releasable_cluster(history: History, keeping: Keeping) -> Indexes:
    """A `Releasable`. Memory: some hundred bytes for each base backup."""
    found = Indexes()
    oldest = await _point(history, keeping.horizon)
    if oldest is None:
        return found
    known = [one async for one in known_bases(history.view, history.source)]
    needed = await _needed(history, keeping, oldest, known)
    if needed is None:
        return found
    await _release_bases(history, oldest.index, known, needed, found)
    await _release_segments(history, oldest.index, needed, found)
    return found


# -- what is needed ---------------------------------------------------------------------------------------------------


async def _needed(history: History, keeping: Keeping, oldest: _Point, known: Sequence[KnownBase]) -> _Needed | None:
    """None: the oldest point cannot be told to be restorable, and nothing is released."""
    first = _newest_leading(known, oldest.index, oldest.seal)
    if first is None:
        return None
    low = first.index
    async for before, after in _turns(history, oldest):
        # A time between the two points may need a base backup that had ended before the first of them.
        for size in (before.index, after.index):
            base = _newest_leading(known, size, after.seal)
            low = low if base is None else min(low, base.index)
    recent = [one for one in known if one.index >= low]
    chains = {one.index for one in recent}
    marked = []
    for size in sorted(set(keeping.marks)):
        point = await _point(history, size)
        base = None if point is None else _newest_leading(known, point.index, point.seal)
        if point is not None and base is not None:
            chains.add(base.index)
            size_bytes = base.segment_size
            marked.append(_Marked(point.index, base.start // size_bytes, (point.seal.lsn - 1) // size_bytes))
    number = min(one.start // one.segment_size for one in recent)
    return _Needed(oldest.seal.system, frozenset(_with_chains(chains, known)), number, marked)


def _newest_leading(known: Iterable[KnownBase], index: int, seal: Seal) -> KnownBase | None:
    """The base backup that a restore of a seal takes, of those before an index."""
    return max((one for one in known if one.index < index and leads_to(one, seal)), key=_index_of, default=None)


def _index_of(base: KnownBase) -> int:
    return base.index


def _with_chains(indexes: Iterable[int], known: Iterable[KnownBase]) -> set[int]:
    """Base backups, with those that they build upon."""
    upon = {one.index: one.builds_on for one in known}
    found: set[int] = set()
    for index in indexes:
        at: int | None = index
        while at is not None and at not in found:
            found.add(at)
            at = upon.get(at)
    return found


async def _point(history: History, size: int) -> _Point | None:
    return _point_of(await history.opened_at(SEALED, size))


def _point_of(found: Opened | None) -> _Point | None:
    return None if found is None else _Point(found.index, read_data(found, parse_seal))


async def _turns(history: History, oldest: _Point) -> AsyncIterator[tuple[_Point, _Point]]:
    """Where the log took another line after the oldest point: the last point before each turn, the first one after it.

    Each is searched for by halves: the points themselves may be millions.
    """
    newest = await _point(history, 2**62)
    assert newest is not None, "there is an oldest one"
    waiting = [(oldest, newest)]
    while waiting:
        before, after = waiting.pop()
        if before.line == after.line:
            continue
        following = await history.next(SEALED, before.index + 1)
        assert following is not None, "there is one after it"
        if following.index == after.index:
            yield before, after
            continue
        middle = await _point(history, (following.index + after.index) // 2 + 1)
        assert middle is not None, "there is one before it"
        waiting += [(before, middle), (middle, after)] if middle.index < after.index else []


# -- what is not ------------------------------------------------------------------------------------------------------


async def _release_bases(
    history: History, stop: int, known: Sequence[KnownBase], needed: _Needed, found: Indexes
) -> None:
    """Those that could be read and are not needed, each with the list of its files."""
    gone: Mapping[str, int] = {one.id: one.index for one in known if one.index not in needed.bases}
    indexes = set(gone.values())
    async for page in history.referring(stop, BASE):
        for stored in page:
            if stored.index in indexes:
                found.add(stored.index)
    async for page in history.referring(stop, MANIFEST):
        for one in await history.open(page):
            if read_data(one, parse_listing).base in gone:
                found.add(one.index)


async def _release_segments(history: History, stop: int, needed: _Needed, found: Indexes) -> None:
    """What lies before the log of all base backups that are needed, and parts of which there is more."""
    newest = Newest()
    try:
        async for page in history.referring(stop, WAL):
            for before, after in newest.replace(await _segments(history, page, needed.system)):
                if not needed.by_mark(before, after.index):
                    found.add(before.index)
        for place in newest.left():
            if place.number < needed.low and not needed.by_mark(place, None):
                found.add(place.index)
    finally:
        newest.close()


async def _segments(history: History, page: Sequence[StoredEntry], system: str) -> list[tuple[str, Place]]:
    opened = await history.open(page)
    segments = [(one.index, read_data(one, parse_segment)) for one in opened]
    return [(one.name, Place(index, one.number)) for index, one in segments if one.system == system]
