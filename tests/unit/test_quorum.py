"""Cosignatures gathered until the policy accepts, receipts out of shared tiles, and which checkpoint sites work on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from cli.serving.following import Target
from ledger.core.checkpoint import CHECKPOINT, OpenedCheckpoint, parse_checkpoint
from ledger.core.note import parse_note
from ledger.core.policy import make_policy
from ledger.core.proof import parse_receipt, verify_receipt
from ledger.errors import ObjectMissing, Tampered
from ledger.http.problems import ReceiptPending
from ledger.http.quorum import GATHERED_MAX, Quorum
from ledger.http.receipts import Receipts
from ledger.http.service import Service
from ledger.sequencer import Recorded
from ledger.store.base import ObjectStore, Stored
from tests.support.http_api import QUICK, Served, served, structured
from tests.support.replicas import FAR, NEAR, Replicas, cosigned

SOON_S = 0.05


async def published(replicas: Replicas, size: int) -> OpenedCheckpoint:
    """The checkpoint of that size, with the log's signature alone."""
    await replicas.grow(size)
    return parse_checkpoint((await replicas.publish()).note)


def by(replicas: Replicas, name: str, opened: OpenedCheckpoint, timestamp_s: int = 1) -> OpenedCheckpoint:
    """The same, cosigned by one site's mirror."""
    return parse_checkpoint(cosigned(opened.note, replicas.places[name], timestamp_s))


def of_all(replicas: Replicas) -> Quorum:
    mirrors = {name: place.site.mirror for name, place in replicas.places.items()}
    return Quorum(make_policy(replicas.log, mirrors, threshold="all"))


async def test_cosignatures_of_one_checkpoint_add_up_and_those_of_two_do_not() -> None:
    replicas = await Replicas().begin()
    quorum = of_all(replicas)
    ten, twenty = await published(replicas, 10), await published(replicas, 20)
    quorum.offer(by(replicas, NEAR, ten))
    quorum.offer(by(replicas, FAR, twenty))
    assert await quorum.newest() is None
    quorum.offer(by(replicas, FAR, ten))
    newest = await quorum.newest()
    assert newest is not None
    assert (newest.checkpoint.size, quorum.covered.value) == (10, 10)
    assert len(newest.note.signatures) == 3
    quorum.offer(by(replicas, NEAR, twenty))
    assert quorum.covered.value == 20


async def test_a_cosignature_that_is_none_does_not_count() -> None:
    replicas = await Replicas().begin()
    quorum = of_all(replicas)
    ten, eleven = await published(replicas, 10), await published(replicas, 11)
    quorum.offer(by(replicas, NEAR, ten))
    forged = by(replicas, FAR, eleven).note.signatures[-1]
    quorum.offer(OpenedCheckpoint(ten.checkpoint, ten.note.with_signature(forged)))
    assert await quorum.newest() is None
    quorum.offer(by(replicas, FAR, ten))
    assert quorum.covered.value == 10, "the wrong one has not spoilt the right one"


async def test_who_waits_is_woken_and_who_waits_in_vain_is_told_of_every_site() -> None:
    replicas = await Replicas().begin()
    quorum = of_all(replicas)
    ten = await published(replicas, 10)
    waiting = asyncio.create_task(quorum.until_covered(9, 30))
    quorum.offer(by(replicas, NEAR, ten))
    await asyncio.sleep(0)
    assert not waiting.done()
    quorum.offer(by(replicas, FAR, ten))
    assert (await waiting).checkpoint.size == 10
    quorum.standings.update({NEAR: "has 10 entries", FAR: "it is not there"})
    with pytest.raises(ReceiptPending, match="far: it is not there; near: has 10 entries") as failed:
        await quorum.until_covered(10, SOON_S)
    assert failed.value.sites == quorum.standings


async def test_what_a_slow_site_cannot_reach_any_more_is_forgotten() -> None:
    replicas = await Replicas().begin()
    quorum = of_all(replicas)
    first = await published(replicas, 2)
    quorum.offer(by(replicas, NEAR, first))
    for size in range(3, 4 + GATHERED_MAX):
        quorum.offer(by(replicas, NEAR, await published(replicas, size)))
    quorum.offer(by(replicas, FAR, first))
    assert await quorum.newest() is None, "memory is bounded"


async def test_without_sites_the_logs_own_word_is_a_quorum() -> None:
    replicas = await Replicas(sites=[]).begin()
    quorum = Quorum(replicas.policy)
    assert not quorum.needs_sites
    quorum.offer(await published(replicas, 10))
    assert (await quorum.until_covered(9, SOON_S)).checkpoint.size == 10


async def test_sites_whose_mirrors_run_elsewhere_are_looked_at() -> None:
    replicas = await Replicas().begin()
    ten = await published(replicas, 10)

    async def look() -> list[OpenedCheckpoint]:
        return [by(replicas, NEAR, ten)]

    assert (await Quorum(replicas.policy, look).until_covered(9, SOON_S)).checkpoint.size == 10


# -- receipts ---------------------------------------------------------------------------------------------------


async def places_of(replicas: Replicas) -> list[Recorded]:
    rows = await replicas.store.rows(0, 10_000)
    return [Recorded(index, row.streamversion, "", row.leaf_hash) for index, row in enumerate(rows)]


@pytest.mark.parametrize("size", [1, 2, 255, 256, 257, 300, 70_000])
async def test_receipts_verify_for_every_place_of_a_tree(size: int) -> None:
    replicas = await Replicas(sites=[]).begin()
    opened = await published(replicas, size)
    places, receipts = await places_of(replicas), Receipts(replicas.published)
    chosen = places if size < 1000 else places[:3] + places[250:260]
    for place, text in zip(chosen, await receipts.of(chosen, opened), strict=True):
        entry = (await replicas.store.read(place.index, 1))[0].entry
        verify_receipt(parse_receipt(text.encode()), entry, replicas.policy)


async def test_a_receipt_against_an_older_checkpoint_is_made_after_its_partial_tiles_are_gone() -> None:
    replicas = await Replicas(sites=[]).begin()
    old = await published(replicas, 200)
    places = await places_of(replicas)
    await published(replicas, 600)
    (text,) = await Receipts(replicas.published).of(places[150:151], old)
    receipt = parse_receipt(text.encode())
    verify_receipt(receipt, (await replicas.store.read(150, 1))[0].entry, replicas.policy)
    assert parse_note(receipt.checkpoint) == old.note


async def test_no_receipt_is_given_for_what_is_not_in_the_tree() -> None:
    replicas = await Replicas(sites=[]).begin()
    opened = await published(replicas, 10)
    place = (await places_of(replicas))[5]._replace(leaf_hash=bytes(32))
    with pytest.raises(Tampered, match="entry 5"):
        await Receipts(replicas.published).of([place], opened)


class Counting:
    """An object store that counts reads, and can lose everything."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects, self.reads, self.lost = objects, 0, False
        self.where = objects.where

    async def get(self, key: str) -> Stored:
        self.reads += 1
        await asyncio.sleep(0)
        if self.lost:
            raise ObjectMissing(key, where=self.where)
        return await self._objects.get(key)


async def test_many_receipts_cost_few_reads_and_a_failed_read_is_not_remembered() -> None:
    replicas = await Replicas(sites=[]).begin()
    opened = await published(replicas, 300)
    places, objects = await places_of(replicas), Counting(replicas.published)
    receipts = Receipts(objects)  # type: ignore[arg-type]
    objects.lost = True
    with pytest.raises(Tampered):
        await receipts.of(places[:1], opened)
    objects.lost, objects.reads = False, 0
    await asyncio.gather(*(receipts.of([place], opened) for place in places))
    assert objects.reads <= 4, "the edge once, and each full tile once"
    receipts.close()


# -- which checkpoint the sites work on -------------------------------------------------------------------------


@asynccontextmanager
async def with_target(replicas: Replicas, hold_s: float) -> AsyncIterator[tuple[Served, Service, Target]]:
    async with served(limits=QUICK) as ledger:
        ledger.service.quorum = of_all(replicas)
        yield ledger, ledger.service, Target(ledger.service, hold_s=hold_s)


async def grow(ledger: Served, id_: str) -> int:
    """One more entry, published; the size."""
    await ledger.post(structured(id_), prefer="receipt")
    return ledger.service.publishing.newest.checkpoint.size


async def test_a_target_stays_while_a_site_works_on_it_and_moves_on_when_all_have_ended() -> None:
    async with with_target(await Replicas().begin(), hold_s=60) as (ledger, _, target):
        one = await grow(ledger, "1")
        assert (await target.above(-1, 60)).checkpoint.size < one, "what was newest when it began"
        assert (await target.above(one - 1, 60)).checkpoint.size == one
        target.begins(NEAR)
        target.begins(FAR)
        two = await grow(ledger, "2")
        target.ends(NEAR)
        early = asyncio.create_task(target.above(one, 60))
        await asyncio.sleep(SOON_S)
        assert not early.done(), "the slower site's cosignature would meet nobody's"
        target.ends(FAR)
        assert (await early).checkpoint.size == two


async def test_a_slow_site_holds_the_others_back_for_a_bounded_time_only() -> None:
    async with with_target(await Replicas().begin(), hold_s=SOON_S) as (ledger, _, target):
        start = (await target.above(-1, 60)).checkpoint.size
        target.begins(FAR)
        later = await grow(ledger, "1")
        assert (await target.above(start, 60)).checkpoint.size == later


async def test_an_idle_site_gets_the_same_target_again() -> None:
    async with with_target(await Replicas().begin(), hold_s=60) as (_, service, target):
        size = service.publishing.newest.checkpoint.size
        assert (await target.above(size, SOON_S)).checkpoint.size == size


async def test_checkpoints_are_parsed_as_published() -> None:
    async with served() as ledger:
        size = await grow(ledger, "1")
        shown = parse_checkpoint((await ledger.objects.get(CHECKPOINT)).data)
        assert shown == ledger.service.publishing.newest
        assert shown.checkpoint.size == size
