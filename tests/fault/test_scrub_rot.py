"""Sites that rot: everything is found, named, kept aside and healed from a proven copy, and nothing else is touched."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ledger.core.entry import decode_entry, encode_entry
from ledger.core.merkle import leaf_hash, root_hash
from ledger.core.tiles import decode_bundle, decode_tile, encode_bundle, encode_tile
from ledger.errors import Forked, StoreUnavailable, Tampered, Untrusted
from ledger.keyring import KEYRING
from ledger.store.base import ObjectStore, Stored
from ledger.store.memory import MemoryObjectStore
from replication.scrub import Damage
from restore.fetch import verify_site
from tests.support.ledgers import contents
from tests.support.scrubbing import KINDS, NOTES, SITES, SIZE, Rot, damage, directories, flipped, put, run
from tests.support.tampering import fill

BUNDLE, TILE = "tile/entries/007", "tile/0/007"


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "size", "share"), [(1, SIZE, 0.05), (2, 3_000, 0.3), (3, 700, 0.3)])
async def test_every_damaged_object_of_three_directories_is_found_and_healed(
    seed: int, size: int, share: float, tmp_path: Path
) -> None:
    rot = await Rot(directories(tmp_path, *SITES)).begin(size - 300, size)
    pristine = await rot.all()
    damaged = await damage(rot, share, seed)
    rotten = await rot.all()
    for name in SITES if size < SIZE else ():
        assert damaged[name]
        seen = await rot.scrub(name, healing=False)
        assert {one.key for one in seen.findings} == set(damaged[name]), f"seed={seed}"
        assert not seen.whole
    assert await rot.all() == rotten, "nothing was asked to be healed"
    for name in SITES:
        done = await rot.scrub(name)
        assert {one.key for one in done.findings} == set(damaged[name]), f"seed={seed}"
        assert (done.whole, done.healed) == (True, len(damaged[name]))
    assert await rot.all() == pristine, f"seed={seed}: healed to the byte, and nothing else changed"
    gone = {key for there in damaged.values() for key, kind in there.items() if kind == "deleted"}
    assert await rot.kept() == {rotten[name][key] for name in SITES for key in damaged[name] if key not in gone}, (
        "what was found damaged is kept"
    )
    for name in SITES:
        await verify_site(await rot.replicas.open(name))


async def small() -> Rot:
    return await Rot().begin(2_500, 2_600)


@pytest.mark.parametrize("key", ["tile/entries/007", "tile/0/007", "tile/1/000.p/10", "tile/0/010.p/40"])
async def test_what_is_damaged_at_all_but_one_site_is_healed_at_all(key: str) -> None:
    rot, chance = await small(), random.Random(key)
    pristine = await rot.all()
    for kind, change in KINDS.items():
        for name in SITES[:2]:
            there = pristine[name]
            await put(rot.objects(name), key, change(there[key], there["tile/entries/008"], chance))
        for name in SITES:
            assert (await rot.scrub(name)).whole, kind
        assert await rot.all() == pristine, kind


async def test_what_no_copy_has_is_reported_everywhere_and_its_bytes_are_kept() -> None:
    rot, chance = await small(), random.Random(3)
    pristine = await rot.all()
    broken = {name: flipped(pristine[name][BUNDLE], b"", chance) for name in SITES}
    for name in SITES:
        await put(rot.objects(name), BUNDLE, broken[name])
    rotten = await rot.all()
    for name in SITES:
        done = await rot.scrub(name)
        (found,) = done.open
        assert (found.key, found.damage, done.whole) == (BUNDLE, Damage.DAMAGED, False)
        assert "no copy at hand has tile/entries/007" in found.detail
    assert await rot.all() == rotten
    assert await rot.kept() == set(broken.values())
    await put(rot.objects("two"), BUNDLE, pristine["two"][BUNDLE])  # it turns up again
    for name in SITES:
        assert (await rot.scrub(name)).whole
    assert await rot.all() == pristine


async def test_a_tile_that_no_copy_has_is_computed_from_what_lies_below_it() -> None:
    rot = await small()
    pristine = await rot.all()
    for key in (TILE, "tile/1/000.p/10", "tile/0/010.p/40"):
        for name in SITES:
            await put(rot.objects(name), key, b"")
        for name in SITES:
            assert [one.key for one in (await rot.scrub(name)).findings] == [key]
        assert await rot.all() == pristine, key


def forged(pristine: Mapping[str, bytes]) -> dict[str, bytes]:
    """A bundle with one entry changed, and every tile above it as this one would make it: each fits the other."""
    entries = decode_bundle(pristine[BUNDLE], 256)
    entry = decode_entry(entries[5])
    entries[5] = encode_entry(replace(entry, actor="local:nobody"))
    hashes = [leaf_hash(one) for one in entries]
    upper = decode_tile(pristine["tile/1/000.p/10"], 10)
    upper[7] = root_hash(hashes)
    return {BUNDLE: encode_bundle(entries), TILE: encode_tile(hashes), "tile/1/000.p/10": encode_tile(upper)}


@pytest.mark.parametrize("upto", [2, 3])
async def test_a_forged_history_that_fits_itself_is_no_source_and_is_healed(upto: int) -> None:
    rot = await small()
    pristine = await rot.all()
    lies = dict(list(forged(pristine["one"]).items())[:upto])
    for name in ("one", "two"):
        for key, data in lies.items():
            await put(rot.objects(name), key, data)
    for key in lies:  # what must come from elsewhere, and the forged copies are asked first
        await put(rot.objects("three"), key, None)
    alone = rot.scrubber("three", copies=[rot.objects("one"), rot.objects("two")])
    if upto == 3:
        with pytest.raises(Tampered, match="no copy at hand has the tree"):
            await run(alone)
    else:
        assert {one.key for one in (await run(alone)).open} == set(lies)
    assert not set(lies) & set(await contents(rot.objects("three")))
    for name in SITES:
        done = await run(rot.scrubber(name, published=True))
        assert {one.key for one in done.findings} == set(lies)
        assert done.whole
    assert await rot.all() == pristine
    assert set(lies.values()) <= await rot.kept()


class Wavering:
    """A copy that shows genuine bytes once, and others ever after."""

    def __init__(self, inner: ObjectStore, key: str, other: bytes) -> None:
        self._inner, self._key, self._other = inner, key, other
        self.where, self.list_keys, self.asked = inner.where, inner.list_keys, 0

    async def get(self, key: str) -> Stored:
        stored = await self._inner.get(key)
        if key == self._key:
            self.asked += 1
            if self.asked > 1:
                return Stored(self._other, stored.tag)
        return stored

    def __getattr__(self, name: str) -> Any:
        raise AssertionError("a copy that is healed from is never written to")


async def test_the_bytes_that_were_proven_are_the_bytes_that_are_written() -> None:
    rot = await small()
    pristine = await rot.all()
    await put(rot.objects("one"), BUNDLE, b"rotten")
    copy = Wavering(rot.objects("two"), BUNDLE, forged(pristine["one"])[BUNDLE])
    done = await run(rot.scrubber("one", copies=[copy]))
    assert copy.asked >= 1
    assert (await rot.objects("one").get(BUNDLE)).data in (pristine["one"][BUNDLE], b"rotten")
    assert done.whole
    assert await rot.all() == pristine


async def test_notes_are_reported_with_what_to_do_and_doing_it_makes_the_site_whole() -> None:
    rot = await Rot().begin(2_500)
    older = await contents(rot.objects("one"))
    await fill(rot.replicas, 2_600)
    await rot.replicas.publish()
    await rot.replicas.replicate()
    pristine = await rot.all()
    for key in NOTES:
        for changed in (pristine["one"][key].replace(b"example", b"exomple"), b"", None):
            await put(rot.objects("one"), key, changed)
            (found,) = (await rot.scrub("one")).findings
            assert (found.key, found.healed) == (key, False), changed
            assert found.damage is (Damage.MISSING if changed is None else Damage.DAMAGED)
            assert changed is None or changed in await rot.kept()
            assert "not healed" in found.detail
            if key == "site.json":
                assert "backup" in found.detail
                await put(rot.objects("one"), key, pristine["one"][key])
            else:
                assert "jinshi replicate --once" in found.detail
                await rot.objects("one").delete(key)
                await rot.replicas.replicate("one")
            assert (await rot.scrub("one")).found == 0
    for key in ("checkpoint", "pending"):  # genuine, and of an earlier day
        await put(rot.objects("one"), key, older[key])
        (found,) = (await rot.scrub("one")).findings
        assert found.key == key, key
        await put(rot.objects("one"), key, pristine["one"][key])


async def test_what_does_not_belong_to_a_site_is_named_and_left() -> None:
    rot = await small()
    strange = {"tile/9/x1": b"x", "tile/entries/007.p/256": b"y", "notes/todo": b"z", "keyring/what.is.this": b"?"}
    for key, data in strange.items():
        await put(rot.objects("one"), key, data)
    done = await rot.scrub("one")
    assert {(one.key, one.damage) for one in done.open} == {(key, Damage.UNEXPECTED) for key in strange}
    assert await rot.kept() == set(strange.values())
    for key in strange:
        await rot.objects("one").delete(key)
    assert (await rot.scrub("one")).found == 0


async def test_an_outdated_partial_tile_and_one_of_a_larger_tree_are_checked_where_they_can_be() -> None:
    rot = await Rot().begin(2_500)
    older = await contents(rot.objects("one"))
    old = next(key for key in older if key.startswith("tile/entries/009.p/"))
    await fill(rot.replicas, 2_700)
    await rot.replicas.publish()
    await rot.replicas.replicate("two", "three")
    ahead = "tile/entries/009"
    await put(rot.objects("one"), ahead, (await rot.objects("two").get(ahead)).data[:-1])  # shipped, not cosigned
    await put(rot.objects("two"), old, older[old][:-1])  # nobody needs it any more
    for name, key in (("one", ahead), ("two", old)):
        assert [one.key for one in (await rot.scrub(name)).findings] == [key]
    assert (await rot.objects("one").get(ahead)).data == (await rot.objects("three").get(ahead)).data
    assert (await rot.objects("two").get(old)).data == older[old]
    await rot.replicas.replicate()
    for name in SITES:
        await verify_site(await rot.replicas.open(name))


async def test_another_history_is_refused_before_anything_is_touched() -> None:
    rot, other = await small(), Rot()
    await other.replicas.begin()
    await other.replicas.advance_to(2_600)
    pristine = await rot.all()
    for key, data in (await contents(other.objects("one"))).items():
        await put(rot.objects("one"), key, data)
    rotten = await contents(rot.objects("one"))
    rot.replicas.places["one"].memory._objects.clear()
    with pytest.raises(Forked, match="two histories"):
        await rot.scrub("one")
    assert await rot.all() == {**pristine, "one": rotten}


async def test_without_a_checkpoint_the_policy_accepts_nothing_is_judged() -> None:
    rot = await small()
    for name in SITES:
        await put(rot.objects(name), "checkpoint", None)
        rot.replicas.places[name].memory._objects.clear()
    with pytest.raises(Untrusted, match="nothing to check"):
        await rot.scrub("one")


class Unreadable:
    """A site where one object cannot be read, as on a disk that fails; `all` of them: the site is down."""

    def __init__(self, inner: ObjectStore, key: str) -> None:
        self._inner, self._key, self.down = inner, key, False

    async def get(self, key: str) -> Stored:
        if self.down or key == self._key:
            raise StoreUnavailable(f"{key} cannot be read (Input/output error)", hint="check the disk")
        return await self._inner.get(key)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


async def test_one_unreadable_object_is_a_finding_and_a_site_that_is_down_is_not() -> None:
    rot = await small()
    site = Unreadable(rot.objects("one"), BUNDLE)
    done = await run(rot.scrubber("one", objects=site))
    assert [(one.key, one.damage, one.healed) for one in done.findings] == [(BUNDLE, Damage.UNREADABLE, False)]
    site.down = True
    with pytest.raises(StoreUnavailable):
        await run(rot.scrubber("one", objects=site))
    assert (await rot.scrub("one")).found == 0


async def test_a_site_that_keeps_versions_is_healed_from_its_own_when_nothing_else_is_at_hand() -> None:
    store = MemoryObjectStore("one", versioned=True)
    rot = await Rot({"one": store, "two": MemoryObjectStore("two")}).begin(2_500, 2_600)
    pristine = await contents(store)
    lies = forged(pristine)
    lost = (BUNDLE, TILE, KEYRING + rot.replicas.keyid, "tile/entries/003")
    for key in lost:
        for data in (b"rotten", lies.get(key, b"more"), *([None] if key.endswith("3") else [])):
            await put(store, key, data)
    done = await run(rot.scrubber("one", copies=[]))
    assert {one.key for one in done.findings} == set(lost)
    assert done.whole
    assert await contents(store) == pristine
