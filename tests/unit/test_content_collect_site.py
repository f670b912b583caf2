"""Collecting content at a site: only what was unneeded for long, and never under a mirror that counts on it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from itertools import chain

import pytest

from ledger.content import referenced_packs
from ledger.content.index import digests_under
from ledger.core.manifest import LISTS, PACKS
from ledger.errors import CompareFailed, StoreUnavailable, Tampered
from ledger.store.base import ObjectStore, Tag
from ledger.store.faulty import FaultyObjectStore, Outcome
from ledger.store.forwarding import ForwardingObjectStore
from replication import collect
from replication.collect import (
    CANDIDATES,
    GRACE_DAYS,
    REMOVING,
    SiteCollected,
    Unneeded,
    format_unneeded,
    read_unneeded,
)
from restore.fetch import verify_site
from tests.support.content import SMALL, keys_under, noise, refer, stored
from tests.support.replicas import NEAR, Replicas

GRACE_S = timedelta(days=GRACE_DAYS).total_seconds()


@pytest.fixture
async def replicas() -> Replicas:
    """With one content that is referred to, and another, at the primary and at the site, that is not."""
    replicas = await Replicas(sites=[NEAR]).begin()
    await refer(replicas, noise(1, 70 * SMALL.pack_size))
    await replicas.replicate()
    before = await keys_under(replicas.published, PACKS)
    await stored(replicas.published, noise(2, 100_000))
    for key in await keys_under(replicas.published, PACKS):
        if key not in before:
            await replicas.places[NEAR].objects.put_immutable(key, (await replicas.published.get(key)).data)
    return replicas


async def packs(replicas: Replicas) -> set[bytes]:
    objects = replicas.places[NEAR].objects
    return await digests_under(objects, PACKS) | await digests_under(objects, LISTS)


async def referred(replicas: Replicas) -> set[bytes]:
    return await referenced_packs(replicas.store, replicas.published)


async def test_what_is_unneeded_goes_once_it_was_so_for_long_enough_and_nothing_else(replicas: Replicas) -> None:
    free = len(await packs(replicas) - await referred(replicas))
    assert free
    assert await replicas.mirror(NEAR).collect() == SiteCollected(free)
    replicas.clock.advance(GRACE_S - 1)
    assert await replicas.mirror(NEAR).collect() == SiteCollected(free)
    replicas.clock.advance(1)
    assert await replicas.mirror(NEAR).collect() == SiteCollected(free, free)
    assert await packs(replicas) == await referred(replicas)
    assert await replicas.mirror(NEAR).collect() == SiteCollected()
    await replicas.advance_to(4)


async def test_what_is_referred_to_meanwhile_stays(replicas: Replicas) -> None:
    await replicas.mirror(NEAR).collect()
    await refer(replicas, noise(2, 100_000))
    await replicas.replicate()
    replicas.clock.advance(GRACE_S)
    before = await packs(replicas)
    assert await replicas.mirror(NEAR).collect() == SiteCollected()
    assert await packs(replicas) == before == await referred(replicas)


async def test_what_a_lock_keeps_stays_and_is_counted(replicas: Replicas) -> None:
    def refuse(operation: str, _key: str) -> Outcome:
        return Outcome.FAIL_NOT_PERSISTED if operation == "purge" else Outcome.PASS

    objects = FaultyObjectStore(replicas.places[NEAR].objects, refuse)
    first = await replicas.mirror(NEAR, objects=objects).collect()
    replicas.clock.advance(GRACE_S)
    assert await replicas.mirror(NEAR, objects=objects).collect() == SiteCollected(first.unneeded, 0, first.unneeded)
    assert (await replicas.mirror(NEAR).collect()).removed == 0, "it is looked at again a week later"
    replicas.clock.advance(GRACE_S)
    assert (await replicas.mirror(NEAR).collect()).removed == first.unneeded


async def test_more_than_is_removed_at_a_time_goes_in_one_run_until_more_is_cosigned(
    replicas: Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collect, "CANDIDATES_MAX", 1)
    objects = replicas.places[NEAR].objects
    for number in range(6):
        await objects.put_immutable(f"{PACKS}{bytes([number, 1] * 16).hex()}", b"x")
    first = await replicas.mirror(NEAR).collect()
    replicas.clock.advance(GRACE_S)
    assert first.unneeded > 6
    memory = Meanwhile(replicas.places[NEAR].memory, REMOVING, lambda: replicas.advance_to(9))
    assert (await replicas.mirror(NEAR, memory=memory).collect()).removed == 0, "it was called off"
    assert (await replicas.mirror(NEAR).collect()).removed == first.unneeded
    await _is_whole(replicas)


async def test_nothing_goes_while_it_cannot_be_told_what_is_needed(replicas: Replicas) -> None:
    await replicas.mirror(NEAR).collect()
    replicas.clock.advance(GRACE_S)
    (key,) = await keys_under(replicas.places[NEAR].objects, LISTS)
    await replicas.places[NEAR].objects.delete(key)
    before = await packs(replicas)
    with pytest.raises(Tampered, match="scrub first"):
        await replicas.mirror(NEAR).collect()
    assert await packs(replicas) == before


class Meanwhile(ForwardingObjectStore):
    """Something happens once, at the first write to a key."""

    def __init__(self, inner: ObjectStore, key: str, act: Callable[[], Awaitable[object]]) -> None:
        super().__init__(inner)
        self._key, self._act, self._done = key, act, False

    async def replace(self, key: str, data: bytes, *, expected: Tag | None) -> Tag:
        if key == self._key and not self._done:
            self._done = True
            await self._act()
        return await super().replace(key, data, expected=expected)


async def _about_to_go(replicas: Replicas) -> None:
    """Everything is ready for a removal, and an entry that refers to it again waits to be cosigned."""
    await replicas.mirror(NEAR).collect()
    replicas.clock.advance(GRACE_S)
    await refer(replicas, noise(2, 100_000))
    await replicas.follower(NEAR).run_once()


async def _is_whole(replicas: Replicas) -> None:
    await replicas.replicate()
    copy = await replicas.open(NEAR)
    await verify_site(copy)
    assert await referred(replicas) <= await packs(replicas)


async def test_a_mirror_that_cosigns_right_before_a_removal_stops_it(replicas: Replicas) -> None:
    await _about_to_go(replicas)
    memory = Meanwhile(replicas.places[NEAR].memory, REMOVING, lambda: replicas.mirror(NEAR).advance())
    done = await replicas.mirror(NEAR, memory=memory).collect()
    assert (done.removed, done.locked) == (0, 0), "it was called off, and no lock was in the way"
    await _is_whole(replicas)


async def test_a_mirror_that_has_verified_before_a_removal_does_not_cosign_after_it(replicas: Replicas) -> None:
    await _about_to_go(replicas)
    memory = Meanwhile(replicas.places[NEAR].memory, "cosigned", lambda: replicas.mirror(NEAR).collect())
    with pytest.raises(CompareFailed):
        await replicas.mirror(NEAR, memory=memory).advance()
    assert not await referred(replicas) <= await packs(replicas), "it went"
    await _is_whole(replicas)


async def test_a_removal_that_was_killed_before_it_took_effect_is_dropped_when_more_is_cosigned(
    replicas: Replicas,
) -> None:
    await _about_to_go(replicas)
    state = replicas.places[NEAR].memory

    async def killed() -> None:
        raise StoreUnavailable("killed")

    verified = replicas.mirror(NEAR, memory=Meanwhile(state, "cosigned", lambda: _begin_removal(replicas, killed)))
    await verified.advance()
    assert await referred(replicas) <= await packs(replicas)
    await _is_whole(replicas)


async def _begin_removal(replicas: Replicas, killed: Callable[[], Awaitable[None]]) -> None:
    memory = Meanwhile(replicas.places[NEAR].memory, "cosigned", killed)
    with pytest.raises(StoreUnavailable):
        await replicas.mirror(NEAR, memory=memory).collect()


async def test_a_removal_that_was_killed_in_the_middle_is_finished_before_anything_is_cosigned(
    replicas: Replicas,
) -> None:
    await _about_to_go(replicas)
    state = replicas.places[NEAR].memory
    known = await replicas.mirror(NEAR).cosigned()
    found = [(await read_unneeded(state, key))[0].found for key in await keys_under(state, CANDIDATES)]
    assert known is not None
    assert found
    removing = format_unneeded(Unneeded(known.checkpoint.size, dict.fromkeys(chain(*found), 0)))
    await state.replace(REMOVING, removing, expected=None)
    with pytest.raises(Tampered, match="is missing at"):
        await replicas.mirror(NEAR).advance()
    await _is_whole(replicas)
