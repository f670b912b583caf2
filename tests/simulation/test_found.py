"""What the simulation has found, each in its smallest form."""

from __future__ import annotations

import asyncio

import pytest

from ledger.core.event import Event
from ledger.errors import Fenced
from ledger.publisher import Publisher
from ledger.sequencer import Sequencer
from ledger.store.base import SignedCheckpoint
from ledger.store.faulty import FaultyEntryStore, FaultyObjectStore, Outcome
from ledger.store.memory import MemoryEntryStore
from replication.site import Site
from tests.support.ledgers import ACTOR, FixedClock
from tests.support.replicas import NEAR, Replicas


async def test_a_repetition_in_the_same_commit_does_not_spoil_an_expected_version() -> None:
    """It was staged as new at first, and so the next event seemed to come too late (seed 1026)."""
    first, second = (Event(id=name, source="urn:s", type="t.v1", data=b"1") for name in ("a", "b"))
    async with Sequencer(MemoryEntryStore(), FixedClock()) as sequencer:
        await sequencer.append([first], actor=ACTOR)
        (again,), (new,) = await asyncio.gather(
            sequencer.append([first], actor=ACTOR), sequencer.append([second], actor=ACTOR, expected_version=1)
        )
    assert again.duplicate
    assert (new.index, new.streamversion) == (1, 2)


async def test_a_follower_that_was_overtaken_ships_the_rest_and_raises_no_alarm() -> None:
    """Another one had shipped what was published meanwhile: the site seemed to be ahead of its primary (seed 1111)."""
    replicas = await Replicas(sites=[NEAR]).begin()
    await replicas.advance_to(300)
    await replicas.grow(310)
    await replicas.publish()
    place = replicas.places[NEAR]

    class Overtaken(FaultyObjectStore):
        overtaken = False

        async def put_immutable(self, key: str, data: bytes) -> None:
            await super().put_immutable(key, data)
            if not self.overtaken:
                self.overtaken = True
                epoch = replicas.epoch
                await replicas.grow(600)
                await replicas.publish()
                replicas.epoch = epoch
                await replicas.follower(NEAR).run_once()

    site = Site(NEAR, Overtaken(place.objects, lambda operation, key: Outcome.PASS), place.site.mirror)
    assert await replicas.follower(NEAR, site=site).run_once() == 600


async def test_a_publisher_that_was_taken_over_from_is_fenced_and_sees_no_tampering() -> None:
    """Between its two looks the new writer recorded and showed a checkpoint (seeds 1120 and 5039)."""
    replicas = await Replicas(sites=[]).begin()

    class TakenOver(FaultyEntryStore):
        async def last_checkpoint(self, origin: str) -> SignedCheckpoint | None:
            last = await super().last_checkpoint(origin)
            await replicas.grow(5)
            await replicas.publish()
            return last

    store = TakenOver(replicas.store, lambda operation, key: Outcome.PASS)
    old = Publisher(store, replicas.published, replicas.signer, replicas.origin, epoch=replicas.epoch)
    with pytest.raises(Fenced):
        await old.publish()
