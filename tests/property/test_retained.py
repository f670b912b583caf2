"""What is released is needed by no point that is kept, whatever the history: held against what restores really read."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field

import pytest

from ledger.capture.files.record import ADDED, AMENDED, RETIRED
from ledger.capture.files.sealed import SEALED as TREE_SEALED
from ledger.capture.physical.events import (
    BASE,
    MANIFEST,
    SEALED,
    WAL,
    Base,
    Listing,
    Seal,
    Segment,
    encode_base,
    encode_listing,
    encode_seal,
    encode_segment,
)
from ledger.capture.physical.wal import segment_name
from ledger.capture.postgres.events import SCHEMA, Copied, Counted, Table, copied_event
from ledger.capture.postgres.events import SEALED as DATABASE_SEALED
from ledger.capture.postgres.events import Seal as DatabaseSeal
from ledger.capture.postgres.events import encode_seal as encode_database_seal
from ledger.capture.postgres.pgoutput import format_lsn
from ledger.capture.postgres.state import newest_seal, newest_seals
from ledger.capture.postgres.transactions import TRANSACTION, Committed, transaction_event
from ledger.core.event import Event, format_time
from ledger.core.indexes import Indexes
from ledger.errors import InvalidRequest, RestoreFailed
from restore.rebuild.physical.choosing import Target, choose
from restore.retained.base import Keeping
from restore.retained.files import releasable_files
from restore.retained.physical import releasable_cluster
from restore.retained.points import whole_points
from restore.retained.postgres import releasable_databases
from tests.support.retained import (
    SOURCE,
    MadeUp,
    check_kept,
    kept_sizes,
    made_dataref,
    made_manifest,
    some_keeping,
    view_of,
)

SEEDS = range(25)
DUMPED = "dump.sealed.v1"


# -- dumps ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
def test_of_dumps_what_is_older_than_the_oldest_kept_one_goes(seed: int) -> None:
    chance = random.Random(seed)
    log = MadeUp()
    for number in range(30):
        log.append(Event(f"d{number}", SOURCE, DUMPED, data=b"{}", dataref=made_dataref(number)))
        if chance.random() < 0.3:
            log.append(Event(f"c{number}", SOURCE, "asset.checked.v1", data=b"{}"))
    points = [index for index, event in enumerate(log.events) if event.type == DUMPED]
    keeping = some_keeping(chance, log.size, points)

    async def run() -> Indexes:
        return await whole_points(DUMPED)((await log.history())[0], keeping)

    released = set(asyncio.run(run()))
    kept = {max(point for point in points if point < size) for size in kept_sizes(points, keeping, log.size)}
    assert released == set(points) - kept, f"{seed=}"


# -- trees of files ---------------------------------------------------------------------------------------------------


NAMES = (
    ".",
    "档案/信.txt",
    "a",
    'b"',
    "c\\",
    'd\\"',
    ',"subject":"a',
    'a","time":"1","type":"file.added.v1"}',
    "sha-256:ab",
)


def made_tree(chance: random.Random) -> MadeUp:
    """Paths that come, change and go, with and without content; captures that are killed; long subjects."""
    log, there = MadeUp(), set[str]()
    for number in range(chance.randint(20, 200)):
        if chance.random() < 0.2:
            log.append(Event(f"s{number}", SOURCE, TREE_SEALED, data=b"{}"))
            continue
        path = chance.choice(NAMES)
        retired = path in there and chance.random() < 0.3
        type_ = RETIRED if retired else AMENDED if path in there else ADDED
        dataref = None if retired or chance.random() < 0.3 else made_dataref(number)
        log.append(Event(f"e{number}", SOURCE, type_, path, data=b"{}", dataref=dataref))
        there = there - {path} if retired else there | {path}
    return log


def tree_at(log: MadeUp, size: int) -> set[int]:
    """The entries with content in the tree at the last seal among the first `size`."""
    sealed = max((index for index, event in enumerate(log.events[:size]) if event.type == TREE_SEALED), default=0)
    tree: dict[str, int] = {}
    for index, event in enumerate(log.events[:sealed]):
        if event.type == RETIRED:
            tree.pop(str(event.subject))
        elif event.type != TREE_SEALED:
            tree[str(event.subject)] = index
    return set(tree.values()) & log.referring()


@pytest.mark.parametrize("seed", SEEDS)
def test_of_a_tree_exactly_what_no_kept_point_holds_goes(seed: int) -> None:
    chance = random.Random(seed)
    log = made_tree(chance)
    seals = [index for index, event in enumerate(log.events) if event.type == TREE_SEALED]
    now = chance.randint(log.size // 2, log.size)
    keeping = some_keeping(chance, now, seals)

    async def run() -> Indexes:
        return await releasable_files((await log.history(now))[0], keeping)

    released = set(asyncio.run(run()))
    kept = [tree_at(log, size) for size in kept_sizes(seals, keeping, now)]
    oldest = max((seal for seal in seals if seal < keeping.horizon), default=0)
    before = {index for index in log.referring() if index < oldest}
    assert released == before - set().union(*kept), f"{seed=}"


# -- databases --------------------------------------------------------------------------------------------------------


@dataclass
class MadeDatabase:
    """One database on its way into a made-up log, as its capture records it."""

    log: MadeUp
    name: str
    chance: random.Random
    generation: str = ""
    lsn: int = 1_000
    schema: int = 0
    tables: dict[int, Counted] = field(default_factory=dict)

    def begin(self) -> None:
        """A first copy, or one anew after its slot was lost."""
        self.generation = f"{self.name}-{self.log.size}"
        self.tables = {}
        for oid in range(self.chance.randint(1, 3)):
            self.copy(oid)
        self.change_definitions()

    def copy(self, oid: int) -> None:
        table = Table(oid, "public", f"t{oid}", ("id",), ("id",), "key")
        self.lsn += 10
        copied = Copied(self.generation, self.lsn, table, 1, "00", made_manifest())
        dataref = made_dataref(self.log.size)
        index = self.log.append(copied_event(SOURCE, self.name, copied, dataref=dataref))
        self.tables[oid] = Counted(table, index, self.lsn, 1)

    def change_definitions(self) -> None:
        """To others, or back to what they have been before: then the entry of before is what stands for them."""
        id_ = f"{self.generation}/schema/{self.chance.randint(0, 2)}"
        event = Event(id_, SOURCE, SCHEMA, self.name, data=b"{}", dataref=made_dataref(self.log.size))
        self.schema = self.log.append(event)

    def commit(self) -> None:
        self.lsn += 10
        content = made_manifest() if self.chance.random() < 0.6 else b""
        dataref = made_dataref(self.log.size) if content else None
        one = Committed(self.generation, self.lsn, self.lsn + 5, 7, None, 1, content)
        self.log.append(transaction_event(SOURCE, self.name, one, time_us=self.log.now_us, dataref=dataref))

    def seal(self, seals: dict[str, int]) -> None:
        self.lsn += 10
        others = {name: index for name, index in seals.items() if name != self.name}
        tables = tuple(self.tables.values())
        seal = DatabaseSeal(
            self.name,
            self.generation,
            "slot",
            "1",
            1,
            self.lsn,
            self.schema,
            "f",
            format_time(self.log.now_us),
            tables,
            (),
            others,
        )
        id_ = f"{self.generation}/{format_lsn(self.lsn)}/seal"
        event = Event(id_, SOURCE, DATABASE_SEALED, self.name, data=encode_database_seal(seal))
        seals[self.name] = self.log.append(event)


def made_databases(chance: random.Random) -> MadeUp:
    log, seals = MadeUp(), dict[str, int]()
    databases = [MadeDatabase(log, name, chance) for name in ("甲", "b")[: chance.randint(1, 2)]]
    for _ in range(chance.randint(30, 200)):
        one = chance.choice(databases)
        roll = chance.random()
        if not one.generation or roll < 0.02:
            one.begin()
        elif roll < 0.08:
            one.copy(chance.randint(0, 4))
        elif roll < 0.1 and one.tables:
            del one.tables[chance.choice([*one.tables])]
        elif roll < 0.2:
            one.change_definitions()
        elif roll < 0.6:
            one.commit()
        else:
            one.seal(seals)
    return log


@pytest.mark.parametrize("seed", SEEDS)
def test_of_databases_no_kept_point_of_any_loses_what_it_is_rebuilt_from(seed: int) -> None:
    chance = random.Random(seed)
    log = made_databases(chance)
    seals = [index for index, event in enumerate(log.events) if event.type == DATABASE_SEALED]
    now = chance.randint(log.size // 2, log.size)  # what comes later needs what was there before, too
    keeping = some_keeping(chance, now, seals)

    async def run() -> Indexes:
        released = await releasable_databases((await log.history(now))[0], keeping)
        store = await log.store()
        for size in kept_sizes(seals, keeping, now):
            view = view_of(store, size)
            for name in await newest_seals(view, SOURCE):
                found = await newest_seal(view, SOURCE, name)
                assert found is not None
                index, seal = found
                start = min((one.copied for one in seal.tables), default=index)
                changes = [
                    one.index
                    async for one in view.entries(SOURCE, start=start, subject=name, event_type=TRANSACTION)
                    if one.index < index
                ]
                needed = {index, seal.schema, *(one.copied for one in seal.tables), *changes} & log.referring()
                check_kept(needed, released, f"{seed=}: the point of {name} at entry {index}")
        return released

    assert set(asyncio.run(run())) <= log.referring()


def test_of_a_database_everything_before_the_copies_in_use_goes() -> None:
    log, seals = MadeUp(), dict[str, int]()
    one = MadeDatabase(log, "甲", random.Random(4))
    one.begin()
    for _ in range(20):
        one.commit()
    one.seal(seals)
    for oid in [*one.tables]:
        one.copy(oid)
    start = min(table.copied for table in one.tables.values())
    one.commit()
    one.seal(seals)

    async def run() -> Indexes:
        return await releasable_databases((await log.history())[0], Keeping(log.size))

    expected = {index for index in log.referring() if index < start and log.events[index].type != SCHEMA}
    assert expected
    assert set(asyncio.run(run())) == expected


# -- clusters ---------------------------------------------------------------------------------------------------------

SIZE = 2**20


@dataclass
class MadeCluster:
    """A cluster on its way into a made-up log: base backups, failovers, holes, captures that were killed."""

    log: MadeUp
    chance: random.Random
    timeline: int = 1
    ancestors: tuple[tuple[int, int], ...] = ()
    lsn: int = 10 * SIZE
    since: int = 0
    next: tuple[int, int] | None = None
    base: tuple[int, Base] | None = None
    seals: dict[int, Seal] = field(default_factory=dict)

    def write(self) -> None:
        self.lsn += self.chance.choice((8, SIZE // 3, SIZE, 3 * SIZE))

    def take_base(self, *, full: bool = False) -> None:
        """`start` may lie far back: a standby's does."""
        behind = self.chance.choice((0, 0, SIZE // 2, 3 * SIZE))
        start = max(8 * SIZE, self.since, self.lsn - behind)
        before = None if full or self.chance.random() < 0.5 else self.base
        made = Base(
            "7",
            self.timeline,
            start,
            max(self.lsn, start) + 8,
            SIZE,
            180_000,
            self.log.now_us,
            3,
            self.chance.choice((0, self.log.size)),
            made_manifest(),
            None if before is None else before[0],
            0 if before is None else before[1].depth + 1,
        )
        self.lsn = made.stop
        id_ = f"base:{self.log.size}"
        for kind, event_id, data in (
            (MANIFEST, f"manifest:{id_}", encode_listing(Listing(id_, made_manifest()))),
            (BASE, id_, encode_base(made)),
        ):
            dataref = made_dataref(self.log.size)
            index = self.log.append(Event(event_id, SOURCE, kind, data=data, dataref=dataref))
        self.base = index, made
        if self.next is None:
            self.since, self.next = start, (self.timeline, start // SIZE)

    def follow(self) -> None:
        """What there is of the log."""
        assert self.next is not None
        timeline, number = self.next
        for one in range(number, self.lsn // SIZE):
            self._segment(timeline, one, SIZE)
        self.next = timeline, max(number, self.lsn // SIZE)
        if self.lsn % SIZE:
            self._segment(timeline, self.next[1], self.lsn % SIZE)

    def _segment(self, timeline: int, number: int, length: int) -> None:
        name = segment_name(timeline, number, SIZE)
        manifest = SEGMENTS.setdefault(length, made_manifest(length))
        one = Segment("7", timeline, number, name, SIZE, manifest, partial=length < SIZE)
        id_, dataref = f"wal:{name}:{length}", made_dataref(self.log.size)
        self.log.append(Event(id_, SOURCE, WAL, name, data=encode_segment(one), dataref=dataref))

    def seal(self) -> None:
        if self.base is None or self.next is None:
            self.take_base(full=True)
        base = self.base
        assert base is not None
        left = next((lsn for one, lsn in self.ancestors if one == base[1].timeline), None)
        if base[1].timeline != self.timeline and (left is None or left < base[1].stop) and self.chance.random() < 0.8:
            self.take_base()
        self.follow()
        if self.chance.random() < 0.2:  # killed before the seal
            return
        history = "".join(f"{one}\t{format_lsn(lsn)}\n" for one, lsn in self.ancestors)
        assert self.base is not None
        seal = Seal("7", self.timeline, self.lsn, self.log.now_us, self.base[0], self.since, "postgres", history)
        id_ = f"sealed:{self.log.size}"
        self.seals[self.log.append(Event(id_, SOURCE, SEALED, data=encode_seal(seal)))] = seal

    def fail_over(self) -> None:
        """Some of what was captured may be lost, and what base backups have, too."""
        left = max(8 * SIZE + 8, self.lsn - self.chance.choice((0, 8, SIZE, 4 * SIZE)))
        floor = self.ancestors[-1][1] if self.ancestors else 0
        left = max(left, floor)
        self.ancestors = (*self.ancestors, (self.timeline, left))
        self.timeline += 1
        self.lsn = left
        if self.next is not None:
            self.next = self.timeline, min(self.next[1], left // SIZE)

    def lose(self) -> None:
        """A hole in the log."""
        self.lsn += 3 * SIZE
        self.next = None
        self.take_base(full=True)


SEGMENTS: dict[int, object] = {}


def made_cluster(chance: random.Random) -> MadeCluster:
    cluster = MadeCluster(MadeUp(), chance)
    for _ in range(chance.randint(20, 90)):
        roll = chance.random()
        if roll < 0.3:
            cluster.write()
        elif roll < 0.45:
            cluster.take_base()
        elif roll < 0.5:
            cluster.fail_over()
        elif roll < 0.52:
            cluster.lose()
        else:
            cluster.write()
            cluster.seal()
    return cluster


@pytest.mark.parametrize("seed", [*SEEDS, 10_184])  # in the last one, a failover makes the same numbers come again
def test_of_a_cluster_no_kept_point_loses_a_backup_or_a_segment(seed: int) -> None:
    chance = random.Random(seed)
    cluster = made_cluster(chance)
    log, seals = cluster.log, cluster.seals
    now = chance.randint(log.size // 2, log.size)
    keeping = some_keeping(chance, now, seals)
    oldest = max((index for index in seals if index < min(keeping.horizon, now)), default=None)

    async def run() -> tuple[Indexes, int]:
        released = await releasable_cluster((await log.history(now))[0], keeping)
        store, held = await log.store(), 0
        for size in kept_sizes(seals, keeping, now):
            targets: list[Target | None] = [None]
            if oldest is not None and size > oldest:
                first, last = seals[oldest], seals[size - 1]
                if first.lsn < last.lsn:
                    targets.append(Target(lsn=chance.randint(first.lsn, last.lsn)))
                targets.append(Target(time_us=chance.randint(first.time_us, last.time_us)))
            for target in targets:
                try:
                    chosen = await choose(view_of(store, size), SOURCE, target)
                except (InvalidRequest, RestoreFailed):
                    continue  # nothing led there before anything was released
                needed = {*(index for index, _ in chosen.chain), *chosen.segments.values()}
                check_kept(needed, released, f"{seed=}: {target or 'the point'} seen with {size} entries")
                held += 1
        return released, held

    released, held = asyncio.run(run())
    assert set(released) <= log.referring()
    assert held or not seals or not released
