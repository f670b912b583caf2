"""Captures, releases, collections, sites that lag and sites made anew, in any order, from a seed.

At any time every copy is whole under the checkpoint it shows, and whatever was not released can be read from it. A run
that finds otherwise prints its seed.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import timedelta

import pytest

from ledger.content.references import packs_of, referring
from ledger.content.released import Released
from ledger.core.manifest import PACKS, pack_key
from ledger.core.merkle import EMPTY_ROOT
from ledger.verify import verify_growth
from replication.collect import GRACE_DAYS
from replication.site import init_site
from restore.fetch import SiteCopy, verify_site
from tests.support.content import FILES, collect, keys_under, noise, refer, release
from tests.support.replicas import FAR, NEAR, Replicas, entries_of

STEPS = 40
SITES_MAX = 5
OTHER = "urn:other"
POOL = [noise(number, 70_000) for number in range(6)]


class World:
    """A ledger with its sites, and what of it must be kept."""

    def __init__(self, replicas: Replicas, chance: random.Random) -> None:
        self.replicas = replicas
        self.chance = chance
        self.retained: dict[str, set[int]] = {FILES: set(), OTHER: set()}

    async def step(self) -> None:
        dice, chance, replicas = self.chance.random(), self.chance, self.replicas
        if dice < 0.35:
            source = chance.choice([FILES, OTHER])
            self.retained[source].add((await replicas.store.head()).size)
            await refer(replicas, b"".join(chance.sample(POOL, 2)), source=source)
        elif dice < 0.55:
            source = chance.choice([FILES, OTHER])
            known = sorted(self.retained[source])
            going = chance.sample(known, min(len(known), chance.randrange(1, 4)))
            self.retained[source] -= set(going)
            if going:
                await release(replicas, *going, source=source)
        elif dice < 0.65:
            await collect(replicas)
        elif dice < 0.85:
            await replicas.replicate(chance.choice(sorted(replicas.places)))
        elif dice < 0.95:
            name = chance.choice(sorted(replicas.places))
            replicas.clock.advance(timedelta(days=chance.choice([1, GRACE_DAYS])).total_seconds())
            await replicas.mirror(name).collect()
        elif len(replicas.places) < SITES_MAX:
            name = f"site-{len(replicas.places)}"
            replicas.places[name] = replicas.place(name)
            place = replicas.places[name]
            await init_site(place.site, place.cosigner, replicas.origin, now=replicas.clock.now())

    async def check(self) -> None:
        """Every site is whole, and has all that its own tree does not release."""
        for name in self.replicas.places:
            if (await self.replicas.mirror(name).cosigned()) is None:
                continue
            copy = await self.replicas.open(name)
            await verify_site(copy)
            await self.look_for(copy)

    async def look_for(self, copy: SiteCopy) -> None:
        released, entries = Released(), list[bytes]()

        async def take(start: int, found: Sequence[bytes]) -> None:
            for index, entry in enumerate(found, start):
                released.take(index, entry)
            entries.extend(found)

        await verify_growth(copy.objects, (0, EMPTY_ROOT), copy.checkpoint, on_bundle=take)
        for one in referring(0, entries):
            if (one.source, one.index) not in released:
                for pack in await packs_of(copy.objects, one.dataref):
                    await copy.objects.get(pack_key(pack))


@pytest.mark.parametrize("seed", range(1, 7))
async def test_no_copy_lacks_what_was_not_released_and_none_asks_for_what_was(seed: int) -> None:
    print(f"seed={seed}")
    world = World(await Replicas(sites=[NEAR, FAR]).begin(), random.Random(seed))
    await world.replicas.publish()
    for number in range(STEPS):
        await world.step()
        if number % 8 == 0:
            await world.check()
    replicas = world.replicas
    await replicas.replicate()
    await collect(replicas)
    for _ in range(2):
        for name in replicas.places:
            await replicas.mirror(name).collect()
        replicas.clock.advance(timedelta(days=GRACE_DAYS).total_seconds())
    await world.check()
    wanted = {
        pack_key(pack)
        for one in referring(0, await entries_of(replicas.store))
        if one.index in world.retained[one.source]
        for pack in await packs_of(replicas.published, one.dataref)
    }
    for objects in (replicas.published, *(place.objects for place in replicas.places.values())):
        assert set(await keys_under(objects, PACKS)) == wanted, f"seed={seed}"
