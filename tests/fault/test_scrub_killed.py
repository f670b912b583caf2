"""A scrub that is killed at any write, or runs out of room, or has a ledger growing under it: nothing is ever lost."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ledger.errors import DiskFull
from ledger.keyring import KEYRING
from ledger.store.base import ObjectStore, Stored
from ledger.store.directory import DirectoryStore
from ledger.store.faulty import FaultyObjectStore, Hook, Outcome
from ledger.store.memory import MemoryObjectStore
from replication.scrub import Pace
from restore.fetch import verify_site
from tests.support.disks import Disk, small_disk
from tests.support.ledgers import FixedClock, contents
from tests.support.scrubbing import SITES, Rot, flipped, put, run
from tests.support.tampering import fill


class Killed(BaseException):
    """Nothing in the code catches it, as nothing catches SIGKILL."""


def die(_operation: str) -> None:
    raise Killed


def at(stop: int, outcome: Outcome) -> Hook:
    """The write of this number has that outcome, and no other is made after it."""
    writes = itertools.count()

    def hook(operation: str, key: str) -> Outcome:
        number = next(writes)
        if number > stop:
            return Outcome.FAIL_NOT_PERSISTED
        return outcome if number == stop else Outcome.PASS

    return hook


async def rotten() -> tuple[Rot, dict[str, bytes], dict[str, bytes | None]]:
    """A ledger with damage of each kind at one site: what the site held, and what became of it."""
    rot, chance = await Rot().begin(700), random.Random(7)
    pristine = await contents(rot.objects("one"))
    bundle, tile = pristine["tile/entries/001"], pristine["tile/0/000"]
    broken = {
        "tile/entries/001": flipped(bundle, b"", chance),
        "tile/0/000": tile[:-1],
        "tile/0/002.p/188": None,
        KEYRING + rot.replicas.keyid: b"",
    }
    return rot, pristine, broken


@pytest.mark.parametrize("outcome", [Outcome.FAIL_NOT_PERSISTED, Outcome.FAIL_PERSISTED])
async def test_a_scrub_killed_at_any_write_loses_nothing_and_is_carried_on(outcome: Outcome) -> None:
    rot, pristine, broken = await rotten()
    for stop in itertools.count():
        hook = at(stop, outcome)
        rot.evidence, rot.states["one"] = MemoryObjectStore("evidence"), MemoryObjectStore("state")
        for key, data in broken.items():
            await put(rot.objects("one"), key, data)
        stores = [
            FaultyObjectStore(one, hook, fail=die) for one in (rot.objects("one"), rot.states["one"], rot.evidence)
        ]
        killed = False
        try:
            await run(rot.scrubber("one", objects=stores[0], state=stores[1], evidence=stores[2]))
        except Killed:
            killed = True
        there = await contents(rot.objects("one"))
        for key, data in broken.items():
            assert there.get(key) in (data, pristine[key]), f"{key} is one or the other, at write {stop}"
            assert there.get(key) == data or data is None or data in await rot.kept(), f"{key} lost, at write {stop}"
        if not killed:
            break
        if b'"phase":""' not in (await contents(rot.states["one"])).get("progress", b""):
            done = await rot.scrub("one")
            assert {one.key for one in done.findings} == set(broken), f"at write {stop}: the report names them all"
        assert (await rot.scrub("one")).found == 0
        assert await contents(rot.objects("one")) == pristine
    assert stop > 20, "progress, evidence, heals, each counted"


@pytest.mark.parametrize("place", ["site", "evidence"])
async def test_without_room_nothing_is_half_done_and_the_next_run_carries_on(place: str, disk: Disk) -> None:
    rot = Rot({name: DirectoryStore(disk.root) if name == "one" else MemoryObjectStore(name) for name in SITES})
    if place == "evidence":
        rot = Rot()
        rot.evidence = DirectoryStore(disk.root / "evidence", create=True)
        (disk.root / "evidence").mkdir()
    await rot.begin(700)
    pristine = await contents(rot.objects("one"))
    broken = {"tile/entries/001": b"rotten" * 1_000, "tile/entries/000": None}
    for key, data in broken.items():
        await put(rot.objects("one"), key, data)
    disk.fill(2_048)
    with pytest.raises(DiskFull):
        await run(rot.scrubber("one"))
    there = await contents(rot.objects("one"))
    assert {key: there.get(key) for key in broken} in (
        broken,
        {**broken, "tile/entries/000": pristine["tile/entries/000"]},
    )
    disk.free()
    assert (await rot.scrub("one")).whole
    assert await contents(rot.objects("one")) == pristine
    assert await rot.kept() == {b"rotten" * 1_000}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with small_disk(tmp_path / "disk") as disk:
        yield disk


class Meanwhile:
    """A site at which something happens right before its `nth` object is read."""

    def __init__(self, inner: ObjectStore, nth: int, happens: Any) -> None:
        self._inner, self._left, self._happens = inner, nth, happens

    async def get(self, key: str) -> Stored:
        self._left -= 1
        if self._left == 0:
            await self._happens()
        return await self._inner.get(key)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    @property
    def happened(self) -> bool:
        return self._left <= 0


@pytest.mark.slow
async def test_a_ledger_that_grows_under_a_scrub_is_no_damage_whenever_it_grows() -> None:
    for nth in itertools.count(1):
        rot = await Rot(sites=("one", "two")).begin(500, 700)

        async def grow(rot: Rot = rot) -> None:
            await fill(rot.replicas, 800)  # completes a bundle and a tile: partial ones are cleared away
            await rot.replicas.publish()
            await rot.replicas.replicate()

        site = Meanwhile(rot.objects("one"), nth, grow)
        done = await run(rot.scrubber("one", objects=site))
        assert list(done.findings) == [], f"grown before read {nth}"
        if not site.happened:
            break
        assert "tile/entries/002.p/188" not in await contents(rot.objects("one"))
        await verify_site(await rot.replicas.open("one"))
    assert nth > 15


async def test_a_cycle_is_spread_over_its_time_and_carried_on_within_it() -> None:
    rot, slept = await Rot(sites=("one", "two")).begin(70 * 256), []
    clock = rot.clock

    class Enough(Exception):
        pass

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock.advance(seconds)
        if sum(slept) > 5_000:
            raise Enough

    begun = clock.now()
    with pytest.raises(Enough):
        await run(rot.scrubber("one", pace=Pace(clock, cycle_s=7_000, sleep=sleep)))
    slept.clear()

    async def patient(seconds: float) -> None:
        slept.append(seconds)
        clock.advance(seconds)

    done = await run(rot.scrubber("one", pace=Pace(clock, cycle_s=7_000, sleep=patient)))
    assert done.resumed
    assert 6_990 < (clock.now() - begun).total_seconds() < 7_010
    assert max(slept) < 1_000, "evenly"


async def test_no_more_bytes_are_read_than_the_rate_allows() -> None:
    rot = await Rot(sites=("one", "two")).begin(700)
    clock = FixedClock()

    async def sleep(seconds: float) -> None:
        clock.advance(seconds)

    begun = clock.now()
    done = await run(rot.scrubber("one", pace=Pace(clock, bytes_per_s=1_000, sleep=sleep)))
    assert (clock.now() - begun).total_seconds() >= done.bytes / 1_000 * 0.99
