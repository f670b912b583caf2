"""Content that rots at its sites: every pack is held against its name, healed from a proven copy, or named as lost."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from ledger.content import Lease
from ledger.core.event import Event
from ledger.core.manifest import INDEX, LISTS, PACKS, list_key, pack_key
from ledger.errors import Tampered
from replication.scrub import Damage
from restore.fetch import verify_site
from tests.support.content import SMALL, keys_under, noise, refer
from tests.support.ledgers import append
from tests.support.scrubbing import KINDS, SITES, Rot, directories, put

SHARE = 0.05


async def captured(rot: Rot, *, size: int = 80) -> Rot:
    await rot.begin(300)
    await refer(rot.replicas, noise(1, 3 * SMALL.pack_size))
    await refer(rot.replicas, noise(2, size * SMALL.pack_size))
    await rot.replicas.replicate()
    return rot


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_twentieth_of_the_packs_damaged_at_each_of_three_sites_is_found_and_healed(
    seed: int, tmp_path: Path
) -> None:
    rot, chance = await captured(Rot(directories(tmp_path, *SITES))), random.Random(seed)
    pristine = await rot.all()
    keys = [*await keys_under(rot.objects("one"), PACKS), *await keys_under(rot.objects("one"), LISTS)]
    chance.shuffle(keys)
    count = round(len(keys) * SHARE)
    assert count > 2
    damaged: dict[str, set[str]] = {}
    for number, name in enumerate(SITES):
        damaged[name] = set(keys[number * count : (number + 1) * count])
        for key in damaged[name]:
            kind = chance.choice(sorted(KINDS))
            await put(rot.objects(name), key, KINDS[kind](pristine[name][key], b"neighbour", chance))
        with pytest.raises(Tampered):
            await verify_site(await rot.replicas.open(name))
    for name in SITES:
        done = await rot.scrub(name)
        assert {one.key for one in done.findings} == damaged[name], f"seed={seed}"
        assert (done.whole, done.healed) == (True, count)
    assert await rot.all() == pristine, f"seed={seed}: healed to the byte, and nothing else changed"
    for name in SITES:
        await verify_site(await rot.replicas.open(name))


async def test_a_pack_that_no_copy_has_is_reported_and_healed_from_the_primary_when_it_is_at_hand() -> None:
    rot = await captured(Rot(), size=3)
    (key, *_) = await keys_under(rot.objects("one"), PACKS)
    for name in SITES:
        await put(rot.objects(name), key, None if name == "one" else b"?")
    (found,) = (await rot.scrub("one")).open
    assert (found.key, found.damage) == (key, Damage.MISSING)
    assert f"no copy at hand has {key}" in found.detail
    scrubber = rot.scrubber("one", published=True)
    done = await scrubber.run()
    await scrubber.close()
    assert (done.whole, done.healed) == (True, 1)
    assert (await rot.scrub("two")).whole, "the first one has it again"


async def test_a_damaged_index_segment_is_healed_and_a_missing_one_is_nothing() -> None:
    rot = await captured(Rot(), size=3)
    (key, other) = await keys_under(rot.objects("one"), INDEX)
    await put(rot.objects("one"), key, b"?")
    await put(rot.objects("one"), other, None)
    assert {one.key for one in (await rot.scrub("one")).findings} == {key}


async def test_what_is_no_content_is_noted_and_left() -> None:
    rot = await captured(Rot(), size=3)
    await put(rot.objects("one"), "content/condemned", b"{}")
    await put(rot.objects("one"), "content/packs/x", b"{}")
    found = (await rot.scrub("one")).open
    assert {(one.key, one.damage) for one in found} == {
        ("content/condemned", Damage.UNEXPECTED),
        ("content/packs/x", Damage.UNEXPECTED),
    }
    assert (await rot.objects("one").get("content/packs/x")).data == b"{}"


async def test_an_entry_that_a_later_jinshi_wrote_is_passed_over() -> None:
    rot = await captured(Rot(), size=3)
    event = Event(id="x", source="urn:files", type="t.v1", data=b"{}", dataref="jinshi-content:1/later")
    _, rot.replicas.epoch = await append(rot.replicas.store, [event], rot.replicas.clock, lease=Lease())
    (key, *_) = await keys_under(rot.objects("one"), PACKS)
    await put(rot.objects("one"), key, None)
    assert [one.key for one in (await rot.scrub("one")).findings] == [key]


async def test_a_missing_list_is_put_back_before_what_it_names_is_looked_for() -> None:
    rot = await captured(Rot(), size=70)
    (key,) = await keys_under(rot.objects("one"), LISTS)
    packs = await keys_under(rot.objects("one"), PACKS)
    await put(rot.objects("one"), key, None)
    await put(rot.objects("one"), packs[0], None)
    done = await rot.scrub("one")
    assert ({one.key for one in done.findings}, done.whole) == ({key, packs[0]}, True)
    assert (list_key(bytes.fromhex(key[-64:])), pack_key(bytes.fromhex(packs[0][-64:]))) == (key, packs[0])
