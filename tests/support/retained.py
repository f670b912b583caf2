"""Histories of assets made up entry by entry, without a server: what was recorded, and which points there were."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from ledger.core.entry import Entry, encode_entry
from ledger.core.event import Event, format_time
from ledger.core.indexes import Indexes
from ledger.core.manifest import Dataref, Manifest
from ledger.sealing import Opener
from ledger.sequencer import row_of
from ledger.store.memory import MemoryEntryStore
from restore.retained.base import History, Keeping
from tests.support.captured_postgres import PlainView
from tests.support.content import KEYS
from tests.support.ledgers import ACTOR

SOURCE = "urn:jinshi:asset:made-up"
BEGAN_US = 1_700_000_000_000_000
SECOND_US = 1_000_000


@dataclass
class MadeUp:
    """A log in memory that seals nothing. A minute passes between two entries."""

    events: list[Event] = field(default_factory=list)
    ids: dict[str, int] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return len(self.events)

    @property
    def now_us(self) -> int:
        return BEGAN_US + self.size * 60 * SECOND_US

    def append(self, event: Event) -> int:
        """Its index; that of the first one of its id, where there is one."""
        if event.id in self.ids:
            return self.ids[event.id]
        self.ids[event.id] = self.size
        self.events.append(replace(event, time=event.time or format_time(self.now_us)))
        return self.ids[event.id]

    async def store(self, size: int | None = None) -> MemoryEntryStore:
        """The first `size` entries."""
        store = MemoryEntryStore()
        rows = []
        for number, event in enumerate(self.events[:size]):
            entry = Entry(event, number + 1, format_time(BEGAN_US + number * 60 * SECOND_US), ACTOR)
            rows.append(row_of(entry, encode_entry(entry)))
        await store.commit(rows, expected_size=0, frontier=(), epoch=await store.claim())
        return store

    async def history(self, size: int | None = None) -> tuple[History, PlainView]:
        """What can be looked back at when the log has `size` entries; and a view of it."""
        store = await self.store(size)
        view = view_of(store)
        return History(store, await Opener.of(store, None), view, SOURCE), view

    def referring(self) -> set[int]:
        return {index for index, event in enumerate(self.events) if event.dataref is not None}


def view_of(store: MemoryEntryStore, size: int | None = None) -> PlainView:
    """Of what is recorded; there is no content."""
    return PlainView(store, None, size)  # type: ignore[arg-type]


def made_dataref(number: int) -> str:
    """One that no other entry has."""
    return str(Dataref((hashlib.sha256(b"%d" % number).digest(),)))


def made_manifest(size: int = 8) -> Manifest:
    """Of content that is nowhere."""
    data = bytes(size)
    return Manifest(size, hashlib.sha256(data).digest(), (KEYS.identify(data),))


def some_keeping(chance: random.Random, size: int, points: Iterable[int]) -> Keeping:
    """A horizon somewhere in a log of `size` entries, and marks that stand for some of its points."""
    known = [point for point in points if point < size]
    marks = chance.sample(known, min(len(known), chance.choice((0, 0, 1, 3))))
    return Keeping(chance.randint(0, size), tuple(point + 1 for point in sorted(marks)))


def kept_sizes(points: Iterable[int], keeping: Keeping, size: int) -> list[int]:
    """With how many entries an asset is seen at each point that is kept; `points` are the indexes of its seals."""
    known = sorted(points)
    oldest = max((point for point in known if point < min(keeping.horizon, size)), default=-1)
    return sorted({point + 1 for point in known if point >= oldest} | {*keeping.marks})


def check_kept(needed: Iterable[int], released: Indexes, what: str) -> None:
    """Nothing that is needed was released."""
    lost = [index for index in needed if index in released]
    assert not lost, f"{what} needs entries {lost}, which were released"
