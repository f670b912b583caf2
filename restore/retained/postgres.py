"""Databases: a point needs the copies of its tables, and all that is recorded of its database since the oldest one."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field

from ledger.capture.postgres.events import COPIED, SCHEMA, SEALED, Seal
from ledger.capture.postgres.state import seal_of
from ledger.capture.postgres.transactions import TRANSACTION
from ledger.core.indexes import Indexes
from ledger.errors import Tampered
from ledger.sealing import Opened
from restore.retained.base import History, Keeping

_KNOWN = frozenset({COPIED, SCHEMA, SEALED, TRANSACTION})


@dataclass(slots=True)
class _Database:
    """What the kept points of one database need: all from `start` on; of marks, what lies within `spans`, ascending.

    `schemas`: entries that hold definitions. Those of the `generation` in use stay, as later points come back to them.
    """

    start: int
    generation: str
    spans: list[tuple[int, int]] = field(default_factory=list)
    schemas: set[int] = field(default_factory=set)

    def needs(self, one: Opened) -> bool:
        event = one.entry.event
        if one.index >= self.start or one.index in self.schemas:
            return True
        if event.type == SCHEMA and event.id.partition("/")[0] == self.generation:
            return True
        span = bisect_right(self.spans, one.index, key=lambda span: span[0]) - 1
        return span >= 0 and one.index <= self.spans[span][1]


async def releasable_databases(history: History, keeping: Keeping) -> Indexes:
    """A `Releasable`. Of a database that has no point before the horizon, nothing is released."""
    found = Indexes()
    needed = await _needed(history, keeping)
    stop = max((one.start for one in needed.values()), default=0)
    async for page in history.referring(stop):
        for one in await history.open(page):
            event = one.entry.event
            database = needed.get(event.subject or "")
            if event.type in _KNOWN and database is not None and not database.needs(one):
                found.add(one.index)
    return found


async def _needed(history: History, keeping: Keeping) -> Mapping[str, _Database]:
    needed: dict[str, _Database] = {}
    for name, (index, seal) in (await _points(history, keeping.horizon)).items():
        needed[name] = _Database(_start(index, seal), seal.generation, schemas={seal.schema})
    spans: dict[str, set[tuple[int, int]]] = {name: set() for name in needed}
    for size in sorted(set(keeping.marks)):
        for name, (index, seal) in (await _points(history, size)).items():
            if name in needed and (start := _start(index, seal)) < needed[name].start:
                spans[name].add((start, index))
                needed[name].schemas.add(seal.schema)
    for name, database in needed.items():
        database.spans = _merged(sorted(spans[name]))
    return needed


def _start(index: int, seal: Seal) -> int:
    """From where on the entries of its database are needed for a point: the oldest copy of any of its tables."""
    return min((one.copied for one in seal.tables), default=index)


def _merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for first, last in spans:
        if merged and first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return merged


async def _points(history: History, size: int) -> Mapping[str, tuple[int, Seal]]:
    """The last point of every database of the asset among the first `size` entries, as a restore finds it."""
    newest = await history.opened_at(SEALED, size)
    if newest is None:
        return {}
    seal = await seal_of(newest, history.view)
    found = {seal.database: (newest.index, seal)}
    for name, index in seal.seals.items():
        if name != seal.database:
            found[name] = index, await _seal_at(history, name, index)
    return found


async def _seal_at(history: History, database: str, index: int) -> Seal:
    async for one in history.view.entries(history.source, start=index, event_type=SEALED):
        seal = await seal_of(one, history.view)
        if (one.index, seal.database) == (index, database):
            return seal
        break
    raise Tampered(f"entry {index} of {history.source} is not the seal of {database!r} that another one says it is")
