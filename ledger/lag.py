"""How far a site is behind: in entries, bytes and seconds, each exact. Reads the log, and nothing at the sites."""

from __future__ import annotations

import asyncio
from array import array
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from ledger.core.entry import decode_entry
from ledger.core.event import event_time_us
from ledger.protocols import Clock
from ledger.store.base import EntryStore

STEP_ENTRIES: Final = 256
PAGE_ENTRIES: Final = 1_000
COUNTED_ENTRIES_MAX: Final = 1_000_000
TIMES_KEPT: Final = 64


@dataclass(frozen=True, slots=True)
class Lag:
    """What a site that has cosigned so much lacks.

    `bytes`: of canonical entries; None: more than COUNTED_ENTRIES_MAX entries are missing, too many to add up.
    `seconds`: the age of the oldest entry it lacks, by its recordedtime; 0 when it lacks none.
    """

    entries: int
    bytes: int | None
    seconds: float


NONE: Final = Lag(0, 0, 0.0)


class LagMeter:
    """Measures against what is committed. Keep it: it reads every entry once, and few of them again."""

    def __init__(self, entries: EntryStore, clock: Clock) -> None:
        self._entries = entries
        self._clock = clock
        self._weights = _Weights(entries)
        self._times_us: OrderedDict[int, int] = OrderedDict()
        self._measuring = asyncio.Lock()

    async def of(self, size: int) -> Lag:
        """The lag of whoever has the first `size` entries. Raises StoreUnavailable."""
        async with self._measuring:
            head = (await self._entries.head()).size
            if size >= head:
                return NONE
            age_s = self._clock.now().timestamp() - await self._recordedtime_us(size) / 1_000_000
            missing = head - size
            weight = await self._weights.between(size, head) if missing <= COUNTED_ENTRIES_MAX else None
            return Lag(missing, weight, max(0.0, age_s))

    async def _recordedtime_us(self, index: int) -> int:
        if index not in self._times_us:
            (stored,) = await self._entries.read(index, 1)
            self._times_us[index] = event_time_us(decode_entry(stored.entry).recordedtime)
            while len(self._times_us) > TIMES_KEPT:
                self._times_us.popitem(last=False)
        return self._times_us[index]


class _Weights:
    """Sums of the sizes of entries, kept for every STEP_ENTRIES entries from `_start` to `_end`."""

    def __init__(self, entries: EntryStore) -> None:
        self._entries = entries
        self._restart(0)

    def _restart(self, start: int) -> None:
        self._start = self._end = start
        self._total = 0
        self._sums = array("Q", [0])

    async def between(self, start: int, end: int) -> int:
        step = start // STEP_ENTRIES * STEP_ENTRIES
        if step < self._start or step > self._end:
            self._restart(step)
        await self._extend(end)
        before = self._sums[(step - self._start) // STEP_ENTRIES]
        if start > step:
            before += sum(len(one.entry) for one in await self._entries.read(step, start - step))
        return self._total - before

    async def _extend(self, end: int) -> None:
        while self._end < end:
            page = await self._entries.read(self._end, min(PAGE_ENTRIES, end - self._end))
            if not page:
                return
            for stored in page:
                self._total += len(stored.entry)
                self._end += 1
                if (self._end - self._start) % STEP_ENTRIES == 0:
                    self._sums.append(self._total)
