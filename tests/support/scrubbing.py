"""Sites that rot, and what scrubs them: for tests."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ledger.core.checkpoint import parse_checkpoint
from ledger.core.tiles import tiles_of
from ledger.errors import ObjectMissing
from ledger.protocols import KeyEncryptionKey
from ledger.store.base import ObjectStore
from ledger.store.directory import DirectoryStore
from ledger.store.memory import MemoryObjectStore
from replication.heal import Evidence
from replication.memory import COSIGNED
from replication.scrub import Pace, Scrubber, ScrubReport, Surroundings
from replication.scrub.keyring import KnownErased
from replication.site import Site
from tests.support.ledgers import FixedClock, contents
from tests.support.replicas import ORIGIN, Place, Replicas
from tests.support.tampering import fill

SITES = ("one", "two", "three")
NOTES = ("site.json", "checkpoint", "pending")
SIZE = 66_110
"""Tiles of three levels, full ones and partial ones, current and outdated."""


class Rot:
    """A replicated ledger with some sites, and one place for the state and the evidence of whoever scrubs them."""

    def __init__(self, places: Mapping[str, ObjectStore] | None = None, *, sites: Sequence[str] = SITES) -> None:
        self.replicas = Replicas(sites=() if places else sites)
        for name, objects in (places or {}).items():
            self.replicas.places[name] = self.replicas.place(name, objects)
        self.clock = FixedClock()
        self.evidence: ObjectStore = MemoryObjectStore("evidence")
        self.states: dict[str, ObjectStore] = {name: MemoryObjectStore("state") for name in self.replicas.places}

    async def begin(self, *sizes: int) -> Rot:
        await self.replicas.begin()
        for size in sizes:
            await fill(self.replicas, size)
            await self.replicas.publish()
            await self.replicas.replicate()
        return self

    def objects(self, name: str) -> ObjectStore:
        return self.replicas.places[name].objects

    async def all(self) -> dict[str, dict[str, bytes]]:
        return {name: await contents(self.objects(name)) for name in self.replicas.places}

    def scrubber(
        self,
        name: str,
        *,
        healing: bool = True,
        objects: ObjectStore | None = None,
        state: ObjectStore | None = None,
        evidence: ObjectStore | None = None,
        copies: Sequence[ObjectStore] | None = None,
        published: bool = False,
        erased: KnownErased | None = None,
        kek: KeyEncryptionKey | None = None,
        pace: Pace | None = None,
    ) -> Scrubber:
        place: Place = self.replicas.places[name]
        others = [one.objects for other, one in self.replicas.places.items() if other != name]
        memory = place.memory._objects.get(COSIGNED)
        around = Surroundings(
            policy=self.replicas.policy,
            copies=([*others, self.replicas.published] if published else others) if copies is None else copies,
            state=state or self.states[name],
            evidence=Evidence(evidence or self.evidence, ORIGIN, self.clock),
            clock=self.clock,
            memory=None if memory is None else parse_checkpoint(memory),
            erased=erased,
            kek=kek,
        )
        site = Site(name, objects or place.objects, place.site.mirror)
        return Scrubber(site, ORIGIN, around, pace or Pace(self.clock), healing=healing)

    async def scrub(self, name: str, *, healing: bool = True) -> ScrubReport:
        return await run(self.scrubber(name, healing=healing))

    async def kept(self) -> set[bytes]:
        """The bytes that were kept aside."""
        return {data for key, data in (await contents(self.evidence)).items() if key.endswith(".object")}


def directories(root: Path, *names: str) -> dict[str, ObjectStore]:
    """A directory site for each name."""
    stores: dict[str, ObjectStore] = {}
    for name in names:
        (root / name).mkdir(parents=True)
        stores[name] = DirectoryStore(root / name)
    return stores


async def run(scrubber: Scrubber) -> ScrubReport:
    """One cycle, or the rest of one, and its end."""
    report = await scrubber.run()
    await scrubber.close()
    return report


Damaged = Callable[[bytes, bytes, random.Random], "bytes | None"]


def flipped(data: bytes, neighbour: bytes, chance: random.Random) -> bytes:
    position = chance.randrange(len(data))
    return data[:position] + bytes([data[position] ^ (1 << chance.randrange(8))]) + data[position + 1 :]


KINDS: dict[str, Damaged] = {
    "a flipped bit": flipped,
    "truncated": lambda data, neighbour, chance: data[: chance.randrange(len(data))],
    "emptied": lambda data, neighbour, chance: b"",
    "deleted": lambda data, neighbour, chance: None,
    "swapped with a neighbour": lambda data, neighbour, chance: neighbour,
}


async def put(objects: ObjectStore, key: str, data: bytes | None) -> None:
    """What rot, or somebody with write access, does."""
    try:
        tag = (await objects.get(key)).tag
    except ObjectMissing:
        tag = None
    if data is None:
        await objects.delete(key)
    else:
        await objects.replace(key, data, expected=tag)


async def damage(rot: Rot, share: float, seed: int) -> dict[str, dict[str, str]]:
    """Damage so large a share of the objects at each site, no object at two of them; key to kind, for each site.

    A partial tile that nobody needs any more may go without that being damage, so none is deleted.
    """
    chance = random.Random(seed)
    pristine = await rot.all()
    keys = sorted({key for there in pristine.values() for key in there if key not in NOTES})
    chance.shuffle(keys)
    count = round(len(keys) * share)
    needed = {tile.path for tile in tiles_of((await rot.replicas.store.head()).size)}
    done: dict[str, dict[str, str]] = {}
    for number, name in enumerate(pristine):
        there = pristine[name]
        done[name] = {}
        for key in keys[number * count : (number + 1) * count]:
            outdated = key.startswith("tile/") and key not in needed
            kind = chance.choice([kind for kind in KINDS if kind != "deleted" or not outdated])
            neighbour = next(
                data
                for other, data in sorted(there.items(), key=lambda one: (one[0] <= key, one[0]))
                if data != there[key]
            )
            await put(rot.objects(name), key, KINDS[kind](there[key], neighbour, chance))
            done[name][key] = kind
    return done
