"""A copy whose newest versions are not genuine: an older one counts, is restored from, and it is said so."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from ledger.auditor import Outcome, ReplaySettings, replay
from ledger.core.checkpoint import CHECKPOINT
from ledger.core.merkle import leaf_hash
from ledger.core.tiles import ENTRIES, Tile, encode_bundle, encode_tile
from ledger.errors import StoreUnavailable, Tampered
from ledger.keyring import KEYRING
from ledger.store.base import ObjectStore, Version
from ledger.store.memory import MemoryEntryStore, MemoryObjectStore
from ledger.store.versions import ALARMS_MAX, EveryVersion
from replication.site import PENDING, SITE
from restore.fetch import SiteCopy, verify_site
from restore.rebuild.ledger import rebuild
from tests.support.ledgers import contents
from tests.support.replicas import NEAR, Replicas, overwrite

SIZE = 700
Attack = Callable[[ObjectStore, str], Awaitable[None]]


async def versioned_site() -> Replicas:
    """A ledger whose one site keeps versions; its partial tiles have come and gone."""
    replicas = Replicas(sites=[])
    replicas.places[NEAR] = replicas.place(NEAR, MemoryObjectStore(NEAR, versioned=True))
    await replicas.begin()
    for size in (1, 250, 300, SIZE):
        await replicas.advance_to(size)
    return replicas


async def assert_restored(replicas: Replicas) -> SiteCopy:
    copy = await replicas.open(NEAR)
    await verify_site(copy)
    store = MemoryEntryStore()
    assert await rebuild(copy, store) == SIZE
    assert list(await store.rows(0, SIZE + 1)) == list(await replicas.store.rows(0, SIZE + 1))
    return copy


async def delete(objects: ObjectStore, key: str) -> None:
    await objects.delete(key)


async def garbage(objects: ObjectStore, key: str) -> None:
    await overwrite(objects, key, b"somebody else's bytes")


async def flip(objects: ObjectStore, key: str) -> None:
    data = (await objects.get(key)).data
    await overwrite(objects, key, data[:-1] + bytes([data[-1] ^ 1]))


async def bury(objects: ObjectStore, key: str) -> None:
    for number in range(30):
        await overwrite(objects, key, b"layer %d" % number)
    await objects.delete(key)


async def test_a_site_that_was_left_alone_raises_no_alarm() -> None:
    """Partial tiles are deleted in the course of things, and `checkpoint` and `pending` are replaced."""
    copy = await assert_restored(await versioned_site())
    assert not copy.alarms


@pytest.mark.parametrize("attack", [delete, garbage, flip, bury])
async def test_everything_is_restored_with_every_newest_version_deleted_or_overwritten(attack: Attack) -> None:
    replicas = await versioned_site()
    objects = replicas.places[NEAR].objects
    keys = list(await contents(objects))
    for key in keys:
        await attack(objects, key)
    copy = await assert_restored(replicas)
    not_needed = {"tile/1/000.p/1"}  # a partial tile of a smaller tree: that it was deleted is nothing
    assert {alarm.key for alarm in copy.alarms.found} | not_needed == set(keys)
    assert (await copy.objects.get(KEYRING + replicas.keyid)).data == (
        await replicas.published.get(KEYRING + replicas.keyid)
    ).data
    assert KEYRING + replicas.keyid in [key async for key in copy.objects.list_keys(KEYRING)]
    for alarm in copy.alarms.found:
        assert f"{alarm.key}: {alarm.what}".isprintable()


async def test_a_consistent_forgery_of_bundle_tile_and_edge_is_seen_through() -> None:
    """Another history, every hash of it right, put over the genuine objects: it does not lead to the signed root."""
    replicas = await versioned_site()
    objects = replicas.places[NEAR].objects
    forged = [b"forged %d" % n for n in range(256)]
    hashes = [leaf_hash(entry) for entry in forged]
    await overwrite(objects, Tile(ENTRIES, 0).path, encode_bundle(forged))
    await overwrite(objects, Tile(0, 0).path, encode_tile(hashes))
    width = SIZE % 256
    await overwrite(objects, Tile(ENTRIES, 2, width).path, encode_bundle(forged[:width]))
    await overwrite(objects, Tile(0, 2, width).path, encode_tile(hashes[:width]))
    copy = await assert_restored(replicas)
    assert {alarm.key for alarm in copy.alarms.found} == {
        "tile/entries/000", "tile/0/000", "tile/entries/002.p/188", "tile/0/002.p/188"}  # fmt: skip


async def test_an_older_genuine_checkpoint_put_over_the_newest_is_found_out() -> None:
    replicas = await versioned_site()
    objects = replicas.places[NEAR].objects
    older = [await objects.get_version(version.key, version.id) async for version in objects.list_versions(CHECKPOINT)][
        1
    ]
    for _ in range(3):
        await overwrite(objects, CHECKPOINT, older)
    copy = await assert_restored(replicas)
    (alarm,) = copy.alarms.found
    assert alarm.key == CHECKPOINT
    assert "of 300 entries was put over the one of 700" in alarm.what


@pytest.mark.parametrize("key", ["tile/entries/001", "tile/0/002.p/188", "tile/1/000.p/2", CHECKPOINT, SITE, PENDING])
async def test_an_object_no_version_of_which_is_genuine_is_named_as_before(key: str) -> None:
    replicas = await versioned_site()
    objects = replicas.places[NEAR].objects
    await objects.purge(key)
    await objects.put_immutable(key, b"nothing genuine")
    await overwrite(objects, key, b"and nothing again")
    with pytest.raises(Tampered) as caught:
        await verify_site(await replicas.open(NEAR))
    assert caught.value.key == key


async def test_a_listing_that_is_refused_does_not_hide_what_was_found() -> None:
    class Refusing(MemoryObjectStore):
        def list_versions(self, prefix: str) -> object:  # type: ignore[override]
            raise StoreUnavailable("the store refused (AccessDenied)")

    objects = Refusing(versioned=True)
    await objects.put_immutable("tile/0/000", b"1")

    def check(data: bytes) -> None:
        raise Tampered("tile/0/000 is damaged", key="tile/0/000")

    with pytest.raises(Tampered, match=r"is damaged \(and its older versions cannot be looked at: .*AccessDenied"):
        await EveryVersion(objects).find("tile/0/000", check, Tampered("tile/0/000 is damaged", key="tile/0/000"))


async def test_the_mirror_verifies_through_what_was_put_over_it_and_cosigns() -> None:
    replicas = await versioned_site()
    objects = replicas.places[NEAR].objects
    await garbage(objects, Tile(0, 1).path)
    await delete(objects, Tile(0, 2, 188).path)
    replicas.places[NEAR].memory._objects.clear()  # it starts anew, and so has everything to verify
    await objects.purge(CHECKPOINT)
    mirror = replicas.mirror(NEAR)
    cosigned = await mirror.advance()
    assert cosigned is not None
    assert cosigned.checkpoint.size == SIZE
    assert {alarm.key for alarm in mirror.alarms.found} == {"tile/0/001", "tile/0/002.p/188"}


async def test_alarms_are_bounded_and_the_rest_is_counted() -> None:
    objects = MemoryObjectStore(versioned=True)
    copy = EveryVersion(objects)
    for number in range(ALARMS_MAX + 5):
        key = f"keyring/{number}"
        await objects.put_immutable(key, b"1")
        await objects.delete(key)
    for number in range(ALARMS_MAX + 5):
        assert (await copy.get(f"keyring/{number}")).data == b"1"
    assert len(copy.alarms.found) == ALARMS_MAX
    assert copy.alarms.more == 5


async def test_reading_a_genuine_object_asks_for_no_versions() -> None:
    asked: list[str] = []

    class Counting(MemoryObjectStore):
        async def list_versions(self, prefix: str):  # type: ignore[no-untyped-def]
            asked.append(prefix)
            async for version in super().list_versions(prefix):
                yield Version(*version)

    replicas = Replicas(sites=[])
    replicas.places[NEAR] = replicas.place(NEAR, Counting(NEAR, versioned=True))
    await replicas.begin()
    await replicas.advance_to(SIZE)
    assert not asked, "replicating asks for none at all"
    await assert_restored(replicas)
    assert sorted(asked) == [CHECKPOINT, KEYRING], "one listing each, of two names"


@pytest.mark.parametrize("attack", [delete, garbage])
async def test_an_audit_recomputes_the_signed_root_from_older_versions(attack: Attack, tmp_path: Path) -> None:
    replicas = await versioned_site()
    objects = replicas.places[NEAR].objects
    keys = [key for key in await contents(objects) if key.startswith(("tile/", KEYRING))]
    for key in keys:
        await attack(objects, key)
    copy = await replicas.open(NEAR)
    done = await replay(copy.objects, copy.checkpoint, ReplaySettings(tmp_path))
    assert done.root == copy.checkpoint.root
    assert [check for check in done.checks if check.outcome is Outcome.FAILED] == []
    assert {alarm.key for alarm in copy.alarms.found} | {"tile/1/000.p/1"} == set(keys)


async def test_an_audit_still_names_what_no_version_gives(tmp_path: Path) -> None:
    replicas = await versioned_site()
    objects = replicas.places[NEAR].objects
    for key in ("tile/entries/000", "tile/0/001"):
        await objects.purge(key)
        await objects.put_immutable(key, b"nothing genuine")
    copy = await replicas.open(NEAR)
    done = await replay(copy.objects, copy.checkpoint, ReplaySettings(tmp_path))
    found = {finding.key for check in done.checks for finding in check.findings}
    assert {"tile/entries/000", "tile/0/001"} <= found
