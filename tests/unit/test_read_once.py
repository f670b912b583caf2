"""Each published object is read once for all sites, in bounded memory, and no site waits for another."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress

import pytest

from ledger.errors import ObjectMissing
from ledger.keyring import KEYRING
from ledger.store.base import Stored
from ledger.store.forwarding import ForwardingObjectStore
from ledger.store.memory import MemoryObjectStore
from replication.read_once import ReadOnce
from replication.site import Site
from restore.fetch import verify_site
from tests.support.replicas import Replicas

SITES = ("one", "two", "three")


class Counting(ForwardingObjectStore):
    """Counts what is read; a read waits for `gate`."""

    def __init__(self, inner: MemoryObjectStore) -> None:
        super().__init__(inner)
        self.reads = Counter[str]()
        self.gate = asyncio.Event()
        self.gate.set()

    async def get(self, key: str) -> Stored:
        self.reads[key] += 1
        await self.gate.wait()
        return await super().get(key)


class Slow(ForwardingObjectStore):
    """A site to which nothing gets through before `gate` is opened."""

    def __init__(self, inner: MemoryObjectStore) -> None:
        super().__init__(inner)
        self.gate = asyncio.Event()

    async def put_immutable(self, key: str, data: bytes) -> None:
        await self.gate.wait()
        await super().put_immutable(key, data)


async def grown(size: int, *, entry_size: int = 0) -> tuple[Replicas, Counting]:
    """A ledger that has published so much, with a counting store in front of it."""
    replicas = await Replicas(sites=SITES).begin()
    await replicas.grow(size, size=entry_size)
    await replicas.publish()
    published = replicas.published
    assert isinstance(published, MemoryObjectStore)
    return replicas, Counting(published)


async def test_three_sites_together_read_each_object_once() -> None:
    replicas, counting = await grown(5_000)
    replicas.published = ReadOnce(counting)
    await asyncio.gather(*(replicas.follower(name).run_once() for name in SITES[:2]))
    await replicas.follower(SITES[2]).run_once()  # a little behind the others
    tiles = {key: count for key, count in counting.reads.items() if key.startswith("tile/")}
    assert len(tiles) == sum([1 async for _ in counting.list_keys("tile/")])
    assert set(tiles.values()) == {1}
    for name in SITES:
        await replicas.mirror(name).advance()
        await verify_site(await replicas.open(name))


async def test_a_slow_site_keeps_no_other_waiting_and_no_memory() -> None:
    replicas, counting = await grown(20_000, entry_size=300)
    published = sum([len((await counting._inner.get(key)).data) async for key in counting.list_keys("tile/")])
    once = ReadOnce(counting, kept_bytes_max=500_000)
    assert published > 10 * 500_000
    replicas.published = once
    place, slow = replicas.places["three"], Slow(MemoryObjectStore("slow"))
    await slow._inner.put_immutable("site.json", (await place.objects.get("site.json")).data)
    lagging = asyncio.create_task(replicas.follower("three", site=Site("three", slow, place.site.mirror)).run_once())
    most = 0

    class Watched(ForwardingObjectStore):
        async def put_immutable(self, key: str, data: bytes) -> None:
            nonlocal most
            most = max(most, once.kept_bytes)
            await super().put_immutable(key, data)

    def watched(name: str) -> Site:
        return Site(name, Watched(replicas.places[name].objects), replicas.places[name].site.mirror)

    await asyncio.gather(*(replicas.follower(name, site=watched(name)).run_once() for name in SITES[:2]))
    assert not lagging.done()
    assert 400_000 < most <= 500_000
    slow.gate.set()
    assert await lagging == 20_000
    assert once.kept_bytes <= 500_000
    bundles = [count for key, count in counting.reads.items() if key.startswith("tile/entries/")]
    assert set(bundles) == {2}, "once for those that keep pace, and once for the one that does not"


async def test_what_is_being_read_is_read_for_everybody_who_asks_meanwhile() -> None:
    counting = Counting(MemoryObjectStore())
    await counting.put_immutable("tile/0/000", b"tile")
    once = ReadOnce(counting, kept_bytes_max=0)
    counting.gate.clear()
    first, second = asyncio.create_task(once.get("tile/0/000")), asyncio.create_task(once.get("tile/0/000"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    first.cancel()  # one site's round is broken off; the other's read goes on
    counting.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert (await second).data == b"tile"
    assert counting.reads["tile/0/000"] == 1


async def test_a_read_that_nobody_waits_for_any_more_is_ended() -> None:
    counting = Counting(MemoryObjectStore())
    await counting.put_immutable("tile/0/000", b"tile")
    once = ReadOnce(counting)
    counting.gate.clear()
    only = asyncio.create_task(once.get("tile/0/000"))
    await asyncio.sleep(0)
    only.cancel()
    with suppress(asyncio.CancelledError):
        await only
    counting.gate.set()
    assert (await once.get("tile/0/000")).data == b"tile"
    assert counting.reads["tile/0/000"] == 2


async def test_a_failed_read_is_raised_to_all_and_not_remembered() -> None:
    once = ReadOnce(MemoryObjectStore())
    for error in await asyncio.gather(once.get("tile/0/000"), once.get("tile/0/000"), return_exceptions=True):
        assert isinstance(error, ObjectMissing)
    await once.put_immutable("tile/0/000", b"there now")
    assert (await once.get("tile/0/000")).data == b"there now"


async def test_a_data_key_is_never_kept_in_memory() -> None:
    counting = Counting(MemoryObjectStore())
    once = ReadOnce(counting)
    for key in (KEYRING + "some", "checkpoint"):
        await once.put_immutable(key, b"now")
        await once.get(key)
        await once.purge(key)
        with pytest.raises(ObjectMissing):
            await once.get(key)
    assert once.kept_bytes == 0
