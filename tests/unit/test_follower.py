"""The follower: resumable at every write, fenced, never ships to a site with another history, `pending` last."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace

import pytest

from ledger.core.checkpoint import CHECKPOINT, origin_prefix, parse_checkpoint
from ledger.core.note import parse_note
from ledger.errors import Fenced, Forked, InvalidRequest, RolledBack, StoreUnavailable, Tampered
from ledger.keyring import KEYRING
from ledger.keyring.data import asset_key_name, data_key_object
from ledger.store.base import ObjectStore, Prefixed, Stored, Tag
from ledger.store.faulty import FaultyObjectStore, Outcome
from ledger.store.memory import MemoryObjectStore
from replication.site import PENDING, SITE, Site, read_pending
from restore.fetch import verify_site
from tests.support.ledgers import append, contents, event
from tests.support.replicas import NEAR, ORIGIN, Replicas, cosigned, entries_of, overwrite, signed


async def assert_shipped(replicas: Replicas, objects: ObjectStore) -> None:
    """The site holds what is published, and asks for it."""
    there, published = await contents(objects), await contents(replicas.published)
    del published[CHECKPOINT]
    assert {key: there[key] for key in published} == published
    found = await read_pending(Site(NEAR, objects, replicas.places[NEAR].site.mirror), replicas.log)
    assert found is not None
    assert found[0].checkpoint == (await replicas.published.get(CHECKPOINT)).data


async def test_everything_published_is_shipped_and_running_again_changes_nothing() -> None:
    replicas = await Replicas(sites=[NEAR]).begin()
    await replicas.grow(700)
    await replicas.publish()
    objects, progress = replicas.places[NEAR].objects, list[tuple[int, int]]()
    assert await replicas.follower(NEAR).run_once(lambda done, of: progress.append((done, of))) == 700
    await assert_shipped(replicas, objects)
    assert progress[-1] == (700, 700)
    before = await contents(objects)
    await replicas.follower(NEAR).run_once()
    assert await contents(objects) == before, "the same checkpoint under the same epoch is not sent again"


@pytest.mark.parametrize("outcome", [Outcome.FAIL_NOT_PERSISTED, Outcome.FAIL_PERSISTED])
async def test_a_crash_at_any_write_is_carried_on_from(outcome: Outcome) -> None:
    """Fail the k-th write, for every k there is; at no time does the site ask for what it does not hold."""
    for step in range(1, 60):
        replicas = await Replicas(sites=[NEAR]).begin()
        await replicas.advance_to(300)
        await replicas.grow(900)
        await replicas.publish()
        place, writes = replicas.places[NEAR], 0

        def hook(operation: str, key: str, step: int = step) -> Outcome:
            nonlocal writes
            writes += 1
            return outcome if writes == step else Outcome.PASS

        failing = Site(NEAR, FaultyObjectStore(place.objects, hook), place.site.mirror)
        with suppress(StoreUnavailable):
            await replicas.follower(NEAR, site=failing, parallel=1).run_once()
        await replicas.mirror(NEAR).advance()  # whatever is pending now is there to be verified
        await verify_site(await replicas.open(NEAR))
        assert await replicas.follower(NEAR, parallel=1).run_once() == 900
        await assert_shipped(replicas, place.objects)
        if writes < step:
            return
    raise AssertionError("shipping 600 entries makes fewer writes than that")


async def test_pending_is_written_after_everything_it_covers() -> None:
    replicas = await Replicas(sites=[NEAR]).begin()
    await replicas.grow(700)
    await replicas.publish()
    place, written = replicas.places[NEAR], list[str]()

    def hook(operation: str, key: str) -> Outcome:
        written.append(key)
        return Outcome.PASS

    site = Site(NEAR, FaultyObjectStore(place.objects, hook), place.site.mirror)
    await replicas.follower(NEAR, site=site).run_once()
    assert written[0].startswith(KEYRING)
    assert written[-1] == PENDING
    levels = [key.split("/")[1] for key in written[1:-1]]
    assert levels == sorted(levels, key=["entries", "0", "1"].index), "bundles before the tiles above them"


async def test_an_older_epoch_is_fenced_before_it_sends_anything() -> None:
    replicas = await Replicas(sites=[NEAR]).begin()
    await replicas.advance_to(300)
    old = replicas.follower(NEAR)
    await replicas.advance_to(400)
    before = await contents(replicas.places[NEAR].objects)
    with pytest.raises(Fenced, match="another primary has taken over"):
        await old.run_once()
    assert await contents(replicas.places[NEAR].objects) == before


async def test_a_writer_that_takes_over_between_the_tiles_and_pending_fences() -> None:
    replicas = await Replicas(sites=[NEAR]).begin()
    await replicas.advance_to(300)
    await replicas.grow(310)
    await replicas.publish()
    place = replicas.places[NEAR]
    note = (await replicas.published.get(CHECKPOINT)).data

    class TakenOver(FaultyObjectStore):
        async def replace(self, key: str, data: bytes, *, expected: Tag | None) -> Tag:
            await replicas.put_pending(NEAR, note, epoch=99)
            return await super().replace(key, data, expected=expected)

    site = Site(NEAR, TakenOver(place.objects, lambda operation, key: Outcome.PASS), place.site.mirror)
    with pytest.raises(Fenced, match="epoch 99"):
        await replicas.follower(NEAR, site=site).run_once()


async def test_somebody_who_swaps_pending_without_end_is_not_fought_without_end() -> None:
    replicas = await Replicas(sites=[NEAR]).begin()
    await replicas.grow(5)
    await replicas.publish()
    place, swaps = replicas.places[NEAR], 0
    note = (await replicas.published.get(CHECKPOINT)).data

    class Contended(FaultyObjectStore):
        async def replace(self, key: str, data: bytes, *, expected: Tag | None) -> Tag:
            nonlocal swaps
            swaps += 1
            await replicas.put_pending(NEAR, note, epoch=0)
            return await super().replace(key, data, expected=expected)

    site = Site(NEAR, Contended(place.objects, lambda operation, key: Outcome.PASS), place.site.mirror)
    with pytest.raises(Fenced, match="at the same time"):
        await replicas.follower(NEAR, site=site).run_once()
    assert swaps == 5


async def test_the_epoch_at_the_site_is_put_right_by_the_next_run() -> None:
    replicas = await Replicas(sites=[NEAR]).begin()
    await replicas.advance_to(300)
    await replicas.put_pending(NEAR, (await replicas.published.get(CHECKPOINT)).data, epoch=0)
    await replicas.follower(NEAR).run_once()
    found = await read_pending(replicas.places[NEAR].site, replicas.log)
    assert found is not None
    assert found[0].epoch == replicas.epoch


@pytest.mark.parametrize("what", [CHECKPOINT, PENDING])
async def test_nothing_is_sent_to_a_site_that_holds_more_or_something_else(what: str) -> None:
    """Whatever the site shows, cosigned or pending: this primary must know of it."""
    replicas = await Replicas(sites=[NEAR]).begin()
    await replicas.advance_to(300)
    entries = await entries_of(replicas.store)
    longer, forked = [*entries, b"more"], [*entries[:200], b"other", *entries[201:250]]
    place = replicas.places[NEAR]
    for note, error in ((signed(longer, replicas.signer), RolledBack), (signed(forked, replicas.signer), Forked)):
        if what == PENDING:
            await replicas.put_pending(NEAR, note)
        else:
            await overwrite(place.objects, CHECKPOINT, cosigned(parse_note(note), place, 1_000))
        before = await contents(place.objects)
        with pytest.raises(error):
            await replicas.follower(NEAR).run_once()
        assert await contents(place.objects) == before


async def test_it_ships_only_what_the_log_has_signed() -> None:
    replicas = await Replicas(sites=[NEAR]).begin()
    with pytest.raises(InvalidRequest, match="not published"):
        await replicas.follower(NEAR).run_once()
    await replicas.grow(5)
    await replicas.publish()
    genuine = (await replicas.published.get(CHECKPOINT)).data
    for data in (genuine.replace(b"\n5\n", b"\n4\n"), b"nonsense\n"):
        await overwrite(replicas.published, CHECKPOINT, data)
        with pytest.raises(Tampered) as caught:
            await replicas.follower(NEAR).run_once()
        assert caught.value.key == CHECKPOINT
    assert set(await contents(replicas.places[NEAR].objects)) == {SITE}


async def test_a_place_that_is_no_site_is_not_written_to() -> None:
    replicas = await Replicas(sites=[NEAR]).begin()
    await replicas.grow(5)
    await replicas.publish()
    empty = Site(NEAR, MemoryObjectStore(), replicas.places[NEAR].site.mirror)
    with pytest.raises(InvalidRequest):
        await replicas.follower(NEAR, site=empty).run_once()
    assert await contents(empty.objects) == {}


async def test_a_primary_that_publishes_meanwhile_does_not_disturb_it() -> None:
    """Partial tiles that disappear while they are shipped are cut out of the full ones that replaced them."""
    replicas = await Replicas(sites=[NEAR]).begin()
    await replicas.grow(300)
    await replicas.publish()

    class Growing(FaultyObjectStore):
        """Reads the checkpoint of 300 entries; then the primary goes on."""

        async def get(self, key: str) -> Stored:
            stored = await super().get(key)
            if key == CHECKPOINT and (await replicas.store.head()).size == 300:
                await replicas.grow(600)
                await replicas.publish()
            return stored

    published = replicas.published
    replicas.published = Growing(published, lambda operation, key: Outcome.PASS)
    follower = replicas.follower(NEAR)
    replicas.published = published
    assert await follower.run_once() == 300
    await replicas.mirror(NEAR).advance()
    await verify_site(await replicas.open(NEAR))


async def test_what_a_site_lost_is_shipped_anew_when_the_whole_is_asked_for() -> None:
    replicas = await Replicas(sites=[NEAR]).begin()
    await replicas.advance_to(10_000)
    objects = replicas.places[NEAR].objects
    lost = "tile/entries/007"
    await objects.delete(lost)
    await replicas.advance_to(10_010)
    with pytest.raises(Tampered, match=f"{lost} is missing"):  # nobody reads everything at every run
        await verify_site(await replicas.open(NEAR))
    await replicas.follower(NEAR).run_once(whole=True)
    await verify_site(await replicas.open(NEAR))


async def test_a_site_whose_checkpoint_was_deleted_is_filled_and_shown_again() -> None:
    replicas = await Replicas(sites=[NEAR]).begin()
    await replicas.advance_to(700)
    objects = replicas.places[NEAR].objects
    shown = (await objects.get(CHECKPOINT)).data
    await objects.delete(CHECKPOINT)
    await objects.delete("tile/entries/001")
    with pytest.raises(Tampered, match="tile/entries/001 is missing"):  # the mirror shows nothing it cannot verify
        await replicas.mirror(NEAR).advance()
    await replicas.replicate(NEAR)
    assert (await objects.get(CHECKPOINT)).data == shown
    await verify_site(await replicas.open(NEAR))


@pytest.mark.parametrize("key", ["tile/entries/002.p/188", "tile/0/002.p/188"])
async def test_other_bytes_under_an_immutable_key_are_named_and_not_replaced(key: str) -> None:
    replicas = await Replicas(sites=[NEAR]).begin()
    await replicas.grow(700)
    await replicas.publish()
    objects = replicas.places[NEAR].objects
    await objects.put_immutable(key, b"forged in advance")
    with pytest.raises(Tampered, match="other bytes") as caught:
        await replicas.follower(NEAR).run_once()
    assert caught.value.key == key
    assert (await objects.get(key)).data == b"forged in advance"


async def test_the_work_in_flight_is_bounded() -> None:
    replicas = await Replicas(sites=[NEAR]).begin()
    await replicas.grow(10_000)
    await replicas.publish()
    running = most = 0

    class Counting(FaultyObjectStore):
        async def put_immutable(self, key: str, data: bytes) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0)
            await super().put_immutable(key, data)
            running -= 1

    place = replicas.places[NEAR]
    site = Site(NEAR, Counting(place.objects, lambda operation, key: Outcome.PASS), place.site.mirror)
    await replicas.follower(NEAR, site=site, parallel=3).run_once()
    assert most == 3


async def test_two_ledgers_share_a_bucket_without_meeting() -> None:
    bucket, ledgers = MemoryObjectStore("bucket"), []
    for origin in (ORIGIN, "example.test/other"):
        replicas = Replicas(origin, sites=[])
        replicas.places[NEAR] = replicas.place(NEAR, Prefixed(bucket, origin_prefix(origin)))
        await replicas.begin()
        ledgers.append(replicas)
    for replicas in ledgers:
        await replicas.advance_to(300)
    for replicas in ledgers:
        await verify_site(await replicas.open(NEAR))
    assert len({key.partition("/")[0] for key in await contents(bucket)}) == 2


async def test_without_comparing_keyrings_the_keys_that_new_entries_name_are_shipped() -> None:
    replicas = await Replicas(sites=[NEAR]).begin()
    await replicas.advance_to(300)
    follower, objects = replicas.follower(NEAR), replicas.places[NEAR].objects
    await follower.run_once()
    named, wrapped = data_key_object(bytes(32), asset_key_name("urn:test"), replicas.recovery.public)
    other, others = data_key_object(bytes(32), asset_key_name("urn:other"), replicas.recovery.public)
    await replicas.published.put_immutable(KEYRING + named, wrapped)
    await replicas.published.put_immutable(KEYRING + other, others)
    sealed = replace(event(1_000), data=b"sealed", datacontenttype="application/octet-stream", keyid=named)
    _, replicas.epoch = await append(replicas.store, [event(1_001), sealed, event(1_002)])
    await replicas.publish()
    follower = replicas.follower(NEAR)
    await follower.run_once(keyring=False)
    await replicas.mirror(NEAR).advance()  # cosigns nothing whose key is not there
    assert {KEYRING + named, KEYRING + other} & set(await contents(objects)) == {KEYRING + named}
    await follower.run_once()
    assert KEYRING + other in await contents(objects)


async def test_an_earlier_checkpoint_is_shipped_while_a_newer_one_is_published() -> None:
    replicas = await Replicas(sites=[NEAR]).begin()
    await replicas.grow(200)
    old = parse_checkpoint((await replicas.publish()).note)
    await replicas.grow(700)
    await replicas.publish()
    assert await replicas.follower(NEAR).run_once(upto=old) == 200
    cosigned = await replicas.mirror(NEAR).advance()
    assert cosigned is not None
    assert cosigned.checkpoint == old.checkpoint
    assert await replicas.follower(NEAR).run_once() == 700
    # Asked for what the site is beyond already, it ships the newest instead of going back.
    assert await replicas.follower(NEAR).run_once(upto=old) == 700
