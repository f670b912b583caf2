"""The tamper campaign: every kind of change to every kind of object at a site is caught, and what was changed is named.

By whoever verifies the whole site, and by the restore, where it reads the object at all.
"""

from __future__ import annotations

import asyncio

import pytest

from ledger.core.checkpoint import parse_checkpoint
from ledger.errors import Forked, RolledBack, Tampered
from ledger.keyring import check_keyring
from ledger.reader import Reader
from ledger.store.base import ObjectStore
from ledger.store.memory import MemoryEntryStore
from replication.memory import COSIGNED
from restore.fetch import Newer, SiteCopy, open_site, verify_site
from restore.rebuild.ledger import rebuild
from tests.support.replicas import FAR, NEAR, Replicas
from tests.support.tampering import (
    ATTACKS,
    KINDS,
    NOT_APPLICABLE,
    STATES,
    Overlay,
    World,
    another,
    attacks_on,
    build_world,
    kind_of,
)

CASES_MIN = 250


@pytest.fixture(scope="module")
def world() -> World:
    return asyncio.run(build_world())


async def opened(world: World, objects: ObjectStore) -> SiteCopy:
    """As `verify --site` and a careful restore do: held against what the site's mirror remembers."""
    memory = await world.replicas.places[NEAR].memory.get(COSIGNED)
    return await world.replicas.open(NEAR, objects, Newer(parse_checkpoint(memory.data), "the mirror"))


async def verify(world: World, kind: str, objects: ObjectStore) -> None:
    await verify_site(await opened(world, objects))


async def restore(world: World, kind: str, objects: ObjectStore) -> None:
    copy = await opened(world, objects)
    store = another(world.begun) if KINDS[kind].edge else MemoryEntryStore()
    await rebuild(copy, store)
    await check_keyring(objects, store, world.replicas.origin)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
async def test_every_change_to_every_kind_of_object_is_caught(world: World, kind: str) -> None:
    key, missed = world.key(kind), list[str]()
    cases = attacks_on(world, kind)
    for name, changes in cases:
        assert any(world.site.get(key) != data for key, data in changes.items()), f"{name}: nothing was changed"
        for way in (verify, restore) if KINDS[kind].restored else (verify,):
            try:
                await way(world, kind, Overlay(world.pristine, changes))
            except Tampered as error:
                named = error.key in changes or any(f"/{key}" in str(error) for key in changes)
                if not named and not isinstance(error, RolledBack | Forked):
                    missed.append(f"{name}: {way.__name__} names something else: {error}")
            else:
                missed.append(f"{name}: {way.__name__} found nothing")
    print(f"{kind} ({key}): {len(cases)} changes, {len(cases) - len(missed)} caught")
    assert missed == []


@pytest.mark.slow
async def test_what_was_not_touched_is_found_whole(world: World) -> None:
    """The campaign proves nothing about a verifier that refuses everything."""
    for kind in ("partial bundle", "pending"):
        await verify(world, kind, Overlay(world.pristine, {}))
        await restore(world, kind, Overlay(world.pristine, {}))


def test_no_kind_of_object_and_no_kind_of_change_is_forgotten(world: World) -> None:
    assert {kind_of(key, STATES[-1]) for key in world.site} == set(KINDS)
    for kind in KINDS:
        assert kind_of(world.key(kind), STATES[-1]) == kind
    for kind in KINDS:
        for attack, variants in ATTACKS.items():
            reason = NOT_APPLICABLE.get((kind, attack))
            assert reason or list(variants(world, kind)), f"{attack} {kind}: no case, and no reason why"
    names = [name for kind in KINDS for name, _ in attacks_on(world, kind)]
    assert len(names) == len(set(names)) >= CASES_MIN
    print(f"{len(names)} changes to {len(KINDS)} kinds of objects")


# -- a whole site, rolled back to an older genuine state --


async def test_a_site_rolled_back_as_a_whole_is_caught_against_anything_newer(world: World) -> None:
    replicas, older = world.replicas, world.older[0]
    changes = {key: older.get(key) for key in {*world.site, *older} if older.get(key) != world.site.get(key)}
    rolled_back = Overlay(world.pristine, changes)
    replicas.clock.advance(3_600)

    # With nothing newer at hand it is a genuine copy: it opens, and says its age.
    copy = await replicas.open(NEAR, rolled_back)
    assert copy.checkpoint.size == STATES[0]
    assert copy.age_s >= 3_600

    reader = Reader(replicas.store, replicas.published)
    receipt = await reader.prove(STATES[-1] - 1)
    remembered = (await replicas.places[NEAR].memory.get(COSIGNED)).data
    for where, note in (
        ("another site", world.other["checkpoint"]),
        ("a receipt", receipt.checkpoint),
        ("the mirror's memory", remembered),
    ):
        with pytest.raises(RolledBack, match=f"{where} shows {STATES[-1]}"):
            await replicas.open(NEAR, rolled_back, Newer(parse_checkpoint(note), where))
    with pytest.raises(RolledBack, match="at least"):
        await open_site(rolled_back, replicas.policy, replicas.origin, now=replicas.clock.now(), at_least=STATES[0] + 1)


async def test_a_mirror_refuses_its_site_rolled_back_as_a_whole(world: World) -> None:
    replicas, older = world.replicas, world.older[0]
    changes = {key: older.get(key) for key in {*world.site, *older} if older.get(key) != world.site.get(key)}
    with pytest.raises(RolledBack, match="has lost what was verified there"):
        await replicas.mirror(NEAR, objects=Overlay(world.pristine, changes)).advance()


async def test_a_site_exchanged_for_another_one_is_caught(world: World) -> None:
    with pytest.raises(Tampered, match=r"site\.json is that of the mirror"):
        await opened(world, world.replicas.places[FAR].objects)


# -- the log's key in two hands: another history, signed as genuinely as the first --


async def test_a_forged_history_is_caught_without_the_mirrors_key_and_with_it() -> None:
    """Who has the log's key can sign anything. He needs a mirror's key, too, and then contradicts everybody else."""
    genuine = await Replicas().begin()
    await genuine.advance_to(300)
    receipt = (await Reader(genuine.store, genuine.published).prove(299)).checkpoint
    for size in (300, 310):
        forger = Replicas(sites=[NEAR])
        await forger.begin()
        await forger.grow(size, size=1)
        await forger.publish()
        await forger.follower(NEAR).run_once()
        forged = forger.places[NEAR].objects
        signed = (await forged.get("pending")).data.partition(b"\n\n")[2]

        # Without the mirror's key: his checkpoint is not cosigned, and a genuine one is not of his tiles.
        genuine_checkpoint = (await genuine.places[NEAR].objects.get("checkpoint")).data
        for checkpoint in (signed, genuine_checkpoint):
            copy = Overlay(forged, {"checkpoint": checkpoint})
            with pytest.raises(Tampered) as caught:
                await verify_site(await genuine.open(NEAR, copy))
            assert "checkpoint" in str(caught.value) or caught.value.key.startswith("tile/")

        # With it: the copy is whole in itself. Anything else that the log signed gives it away.
        await forger.mirror(NEAR).advance()
        await verify_site(await genuine.open(NEAR, forged))
        for where, note in (
            ("another site", (await genuine.places[FAR].objects.get("checkpoint")).data),
            ("a receipt", receipt),
            ("the mirror's memory", (await genuine.places[NEAR].memory.get(COSIGNED)).data),
        ):
            with pytest.raises(Forked, match="two histories"):
                await genuine.open(NEAR, forged, Newer(parse_checkpoint(note), where))
        with pytest.raises(Forked):
            await genuine.mirror(NEAR, objects=forged).advance()
        genuine.places[NEAR] = genuine.place(NEAR, genuine.places[NEAR].objects)  # its memory is spent: it has forked
        await genuine.mirror(NEAR).advance()
