"""Packs on their way to the sites before any entry refers to them: sooner there, and nothing rests on it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from ledger.core.classification import Label
from ledger.core.manifest import PACKS, Dataref, pack_key
from ledger.errors import ObjectMissing, OverQuota, StoreUnavailable, Tampered
from ledger.store.base import ObjectStore, Stored, Tag
from ledger.store.forwarding import ForwardingObjectStore
from replication import ahead as rooms
from replication.ahead import RECENT_MAX, Ahead, Written
from replication.collect import GRACE_DAYS
from replication.follower import Follower
from replication.packs import VerifiedPacks
from replication.quota import Quota
from replication.site import Site, describe_anew, read_description
from restore.fetch import verify_site
from tests.support.content import keys_under, noise, refer
from tests.support.replicas import FAR, NEAR, Replicas

REQUESTS_MAX = 22
"""Of a round that ships a few entries and cosigns them, by follower and mirror together: most are one after the other,
so that each counts where the site is far away."""


class Counting(ForwardingObjectStore):
    """Counts what is asked of a site; what is put waits for `gate`, and fails while it is `away`."""

    def __init__(self, inner: ObjectStore) -> None:
        super().__init__(inner)
        self.asked: Counter[str] = Counter()
        self.gate = asyncio.Event()
        self.gate.set()
        self.away = False

    async def get(self, key: str) -> Stored:
        self.asked["get pack" if key.startswith(PACKS) else "get"] += 1
        return await super().get(key)

    async def put_immutable(self, key: str, data: bytes) -> None:
        self.asked["put pack" if key.startswith(PACKS) else "put"] += 1
        await self.gate.wait()
        if self.away:
            raise StoreUnavailable("it cannot be reached", hint="wait")
        await super().put_immutable(key, data)

    async def replace(self, key: str, data: bytes, *, expected: Tag | None) -> Tag:
        self.asked["put"] += 1
        return await super().replace(key, data, expected=expected)

    def list_keys(self, prefix: str) -> AsyncIterator[str]:
        self.asked["list"] += 1
        return super().list_keys(prefix)


class Sites:
    """A ledger whose captures' packs go ahead to its sites, each behind a counting store."""

    def __init__(self, replicas: Replicas) -> None:
        self.replicas = replicas
        self.written = Written(replicas.published)
        replicas.published = self.written
        self.stores: dict[str, Counting] = {}
        for name, place in replicas.places.items():
            self.stores[name] = Counting(place.objects)
            replicas.places[name] = replace(place, site=Site(name, self.stores[name], place.site.mirror))
        self.label = Label.INTERNAL

    def ahead(self, name: str) -> Ahead:
        async def label() -> Label:
            return self.label

        async def mirror() -> rooms.ReadsBack:
            return self.replicas.mirror(name)

        return Ahead(self.written, self.replicas.places[name].site, self.replicas.origin, label=label, mirror=mirror)

    def follower(self, name: str, ahead: Ahead) -> Follower:
        place, own = self.replicas.places[name], self.replicas
        return Follower(
            self.written, place.site, own.origin, own.log, epoch=own.epoch, nonce=own.nonce, sent=ahead.sent
        )


@asynccontextmanager
async def running(*aheads: Ahead) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(one.run()) for one in aheads]
    await asyncio.sleep(0)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
async def sites() -> Sites:
    return Sites(await Replicas().begin())


async def settled(ahead: Ahead, packs: Dataref) -> None:
    """Wait until none of these is on its way, and leave them to be asked for."""
    async with asyncio.timeout(10):
        while any(ahead.is_underway(pack) for pack in packs.packs):
            await asyncio.sleep(0.001)


async def test_what_went_ahead_is_neither_sent_nor_read_again(sites: Sites) -> None:
    near, far = sites.ahead(NEAR), sites.ahead(FAR)
    async with running(near, far):
        packs = await refer(sites.replicas, noise(1, 300_000))
        await settled(near, packs)
        await settled(far, packs)
        assert not sites.written._recent
        for name, ahead in ((NEAR, near), (FAR, far)):
            asked = sites.stores[name].asked
            assert asked["put pack"] == asked["get pack"] == len(packs.packs) > RECENT_MAX
            assert not await keys_under(sites.stores[name], "tile/")
            await sites.replicas.publish()
            asked.clear()
            await sites.follower(name, ahead).run_once()
            await sites.replicas.mirror(name).advance()
            assert asked["put pack"] == asked["get pack"] == 0
            await verify_site(await sites.replicas.open(name))


async def test_a_round_asks_a_site_for_little(sites: Sites) -> None:
    await sites.replicas.grow(300)
    near = sites.ahead(NEAR)
    async with running(near):
        await sites.replicas.publish()
        await sites.replicas.replicate(NEAR)
        packs = await refer(sites.replicas, noise(2, 20_000))
        await settled(near, packs)
        await sites.replicas.publish()
        sites.stores[NEAR].asked.clear()
        await sites.follower(NEAR, near).run_once()
        await sites.replicas.mirror(NEAR).advance()
    assert sites.stores[NEAR].asked.total() <= REQUESTS_MAX, sites.stores[NEAR].asked


async def test_a_site_that_hangs_or_is_away_keeps_no_capture_waiting(sites: Sites) -> None:
    near, far = sites.ahead(NEAR), sites.ahead(FAR)
    sites.stores[FAR].gate.clear()
    async with running(near, far):
        packs = await refer(sites.replicas, noise(3, 300_000))
        await settled(near, packs)
        assert await near.sent(packs.packs) == set(packs.packs)
        assert len(sites.written._recent) <= RECENT_MAX
        assert far.is_underway(packs.packs[0]) or far.is_underway(packs.packs[-1])
        # The follower waits for what is on its way, and finds it has not arrived.
        await sites.replicas.publish()
        sites.stores[FAR].away = True
        waiting = asyncio.create_task(sites.follower(FAR, far).run_once())
        await asyncio.sleep(0.01)
        sites.stores[FAR].gate.set()
        with pytest.raises(StoreUnavailable):
            await waiting
        assert isinstance(far.problem, StoreUnavailable)
        sites.stores[FAR].asked.clear()
        more = await refer(sites.replicas, noise(4, 100_000))
        await settled(near, more)
        assert not sites.stores[FAR].asked["put pack"], "it is left alone for a while"
        assert not sites.written._recent
        sites.stores[FAR].away = False
        await sites.replicas.publish()
        await sites.follower(FAR, far).run_once()
        await sites.replicas.mirror(FAR).advance()
    await verify_site(await sites.replicas.open(FAR))


async def test_nothing_goes_where_the_ledger_may_not_be(sites: Sites) -> None:
    near, far = sites.ahead(NEAR), sites.ahead(FAR)
    place = sites.replicas.places[FAR]
    description = await read_description(place.site, sites.replicas.origin)
    await describe_anew(place.site, place.cosigner, replace(description, classification="public"))
    async with running(near, far):
        packs = await refer(sites.replicas, noise(5, 100_000))
        await settled(near, packs)
        await settled(far, packs)
    assert set(await keys_under(sites.stores[NEAR], PACKS)) == {pack_key(pack) for pack in packs.packs}
    assert not await keys_under(sites.stores[FAR], PACKS)
    assert "may not hold" in str(far.problem)


async def test_a_pack_that_is_lost_at_the_site_is_sent_again(sites: Sites) -> None:
    near = sites.ahead(NEAR)
    async with running(near):
        packs = await refer(sites.replicas, noise(6, 100_000))
        await settled(near, packs)
        await sites.replicas.places[NEAR].objects.delete(pack_key(packs.packs[0]))
        await sites.replicas.publish()
        await sites.follower(NEAR, near).run_once()
        with pytest.raises(Tampered, match="is missing"):
            await sites.replicas.mirror(NEAR).advance()
        await sites.follower(NEAR, near).run_once()
        await sites.replicas.mirror(NEAR).advance()
    await verify_site(await sites.replicas.open(NEAR))


async def test_nobody_waits_for_what_has_ended(sites: Sites) -> None:
    near = sites.ahead(NEAR)
    sites.stores[NEAR].gate.clear()
    async with running(near):
        packs = await refer(sites.replicas, noise(7, 100_000))
        waiting = asyncio.create_task(near.sent(packs.packs))
        await asyncio.sleep(0.01)
        assert not waiting.done()
    assert await waiting == set()
    assert not sites.written.sites
    await refer(sites.replicas, noise(8, 100_000))
    assert not sites.written._recent


async def test_a_capture_of_weeks_whose_packs_the_site_has_collected_still_gets_there(sites: Sites) -> None:
    near, mirror = sites.ahead(NEAR), sites.replicas.mirror(NEAR)
    await sites.replicas.publish()
    await sites.replicas.replicate(NEAR)
    async with running(near):
        packs = await refer(sites.replicas, noise(9, 100_000))
        await settled(near, packs)
        assert (await mirror.collect()).unneeded == len(packs.packs)
        sites.replicas.clock.advance(GRACE_DAYS * 86_400)
        assert (await mirror.collect()).removed == len(packs.packs)
        await sites.follower(NEAR, near).run_once()
        with pytest.raises(Tampered, match="is missing"):
            await mirror.advance()
        sites.stores[NEAR].asked.clear()
        await sites.follower(NEAR, near).run_once()
        await mirror.advance()
    asked = sites.stores[NEAR].asked
    assert asked["put pack"] == asked["get pack"] == len(packs.packs), "they are sent, and read, anew"
    await verify_site(await sites.replicas.open(NEAR))


async def test_what_the_follower_sends_is_read_back_while_it_sends(sites: Sites) -> None:
    """Where nothing went ahead: the mirror's round then finds everything read."""
    near = sites.ahead(NEAR)
    await refer(sites.replicas, noise(10, 200_000))
    asked, mirror = sites.stores[NEAR].asked, sites.replicas.mirror(NEAR)
    await sites.follower(NEAR, near).run_once(on_pack=mirror.read_ahead)
    assert asked["get pack"] == asked["put pack"] > RECENT_MAX - 1
    asked.clear()
    await mirror.advance()
    assert not asked["get pack"]
    await verify_site(await sites.replicas.open(NEAR))


async def test_nothing_goes_where_there_is_no_room(sites: Sites) -> None:
    near, place = sites.ahead(NEAR), sites.replicas.places[NEAR]
    description = replace(await read_description(place.site, sites.replicas.origin), quota_bytes=1)
    await describe_anew(place.site, place.cosigner, description)
    await Quota(place.site, place.cosigner, sites.replicas.clock).look(description)
    async with running(near):
        packs = await refer(sites.replicas, noise(11, 100_000))
        await settled(near, packs)
    assert isinstance(near.problem, OverQuota)
    assert not sites.stores[NEAR].asked["put pack"]


async def test_a_pack_that_is_collected_while_it_is_read_back_is_not_remembered_as_read(sites: Sites) -> None:
    """Sent again, it would be cosigned unread."""
    near, place = sites.ahead(NEAR), sites.replicas.places[NEAR]
    await sites.replicas.publish()
    await sites.replicas.replicate(NEAR)
    async with running(near):
        packs = await refer(sites.replicas, noise(12, 20_000))
        await settled(near, packs)
    mirror = sites.replicas.mirror(NEAR)
    await mirror.collect()
    sites.replicas.clock.advance(GRACE_DAYS * 86_400)
    (pack,) = packs.packs

    class Collecting(ForwardingObjectStore):
        async def get(self, key: str) -> Stored:
            stored = await super().get(key)
            if key == pack_key(pack):
                assert (await mirror.collect()).removed
            return stored

    reading = sites.replicas.mirror(NEAR, objects=Collecting(place.objects))
    with pytest.raises(ObjectMissing):
        await reading.read_ahead(pack)
    assert not await VerifiedPacks(place.memory).known([pack])
