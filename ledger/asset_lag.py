"""How far each site is behind with each asset: in entries, bytes, seconds. Reads the log, and nothing at the sites."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ledger.assets import Asset
from ledger.core.entry import decode_entry
from ledger.core.event import event_time_us
from ledger.protocols import Clock
from ledger.store.base import EntryStore, Selection

PAGE_ENTRIES: Final = 1_000
COUNTED_ENTRIES_MAX: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class AssetLag:
    """What a site that has cosigned so much lacks of one asset.

    `entries` and their canonical `bytes` are None where more than COUNTED_ENTRIES_MAX entries, of whatever source, are
    missing: too many to go through. `seconds`: the age of the oldest entry of the asset that is missing; 0: none is.
    """

    entries: int | None
    bytes: int | None
    seconds: float


NONE: Final = AssetLag(0, 0, 0.0)


@dataclass(frozen=True, slots=True)
class _First:
    """The first entry of a source from index `asked` on: where it is, and when it was recorded.

    `recorded_us` None: from `asked` up to `index` there is none.
    """

    asked: int
    index: int
    recorded_us: int | None


_Counts = dict[str, tuple[int, int]]
"""(entries, bytes) by asset, from where the counting began up to one size."""


class AssetLagMeter:
    """Measures against what is committed. Keep it: it goes through every entry once for each site it is asked about.

    Memory: sites times assets; the log may be of any length.
    """

    def __init__(self, entries: EntryStore, clock: Clock, *, counted_entries_max: int = COUNTED_ENTRIES_MAX) -> None:
        self._counted_entries_max = counted_entries_max
        self._entries = entries
        self._clock = clock
        self._owners: dict[str, str] = {}
        self._points: dict[int, _Counts] = {}
        self._firsts: dict[str, list[_First]] = {}  # as the last measuring found them
        self._kept: dict[str, list[_First]] = {}
        self._measuring = asyncio.Lock()

    async def of(self, assets: Sequence[Asset], sizes: Collection[int]) -> Mapping[tuple[int, str], AssetLag]:
        """By size and asset, the lag of whoever has the first so many entries. Raises StoreUnavailable."""
        async with self._measuring:
            head = (await self._entries.head()).size
            wanted = {min(size, head) for size in sizes}
            await self._count({size for size in wanted if head - size <= self._counted_entries_max} | {head}, assets)
            found: dict[tuple[int, str], AssetLag] = {}
            now_s, self._kept = self._clock.now().timestamp(), {}
            for size in sorted(wanted, reverse=True):
                for asset in assets:
                    found[size, asset.name] = await self._lag(asset, size, head, now_s)
            self._firsts, self._kept = self._kept, {}
            return {(size, asset.name): found[min(size, head), asset.name] for size in sizes for asset in assets}

    async def _lag(self, asset: Asset, size: int, head: int, now_s: float) -> AssetLag:
        entries = weight = None
        if size in self._points:
            before, all_ = (self._points[at].get(asset.name, (0, 0)) for at in (size, head))
            entries, weight = all_[0] - before[0], all_[1] - before[1]
        if entries == 0:
            return NONE
        firsts = [await self._first(source, size, head) for source in asset.sources]
        times_us = [one.recorded_us for one in firsts if one.recorded_us is not None]
        if not times_us:
            return NONE
        return AssetLag(entries, weight, max(0.0, now_s - min(times_us) / 1_000_000))

    # -- how many, and how large --

    async def _count(self, sizes: set[int], assets: Sequence[Asset]) -> None:
        """Have a point for each of these sizes, and for no other."""
        owners = {source: asset.name for asset in assets for source in asset.sources}
        if owners != self._owners or not self._points or min(sizes) < min(self._points):
            # What lies before is not known by these assets: it is counted anew, from the smallest size on.
            self._owners, self._points = owners, {min(sizes): {}}
        for size in sorted(sizes - self._points.keys()):
            known = max(at for at in self._points if at < size)
            self._points[size] = await self._counted(self._points[known], known, size)
        self._points = {size: self._points[size] for size in sizes}

    async def _counted(self, before: _Counts, start: int, stop: int) -> _Counts:
        counts = dict(before)
        while start < stop:
            page = await self._entries.rows(start, min(PAGE_ENTRIES, stop - start))
            for row in page:
                name = self._owners.get(row.source)
                if name is not None:
                    entries, weight = counts.get(name, (0, 0))
                    counts[name] = entries + 1, weight + len(row.entry)
            start += len(page)
            if not page:  # another copy of the store was put in its place
                break
        return counts

    # -- how old --

    async def _first(self, source: str, size: int, head: int) -> _First:
        """The first entry of a source from `size` on."""
        start = size
        for known in self._firsts.get(source, ()):
            if known.asked <= size <= known.index:
                if known.recorded_us is not None:
                    return self._keep(source, _First(size, known.index, known.recorded_us))
                start = max(start, known.index)
        for stored in await self._entries.select(Selection(source=source, start=start, stop=head), limit=1):
            recorded_us = event_time_us(decode_entry(stored.entry).recordedtime)
            return self._keep(source, _First(size, stored.index, recorded_us))
        return self._keep(source, _First(size, head, None))

    def _keep(self, source: str, first: _First) -> _First:
        self._kept.setdefault(source, []).append(first)
        return first
