"""The mirror: cosigns only what it verified and what extends its past; a crash at any write is finished later."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from ledger.core.checkpoint import CHECKPOINT, parse_checkpoint
from ledger.core.cosignature import verify_cosignature
from ledger.errors import CompareFailed, Forked, ObjectMissing, RolledBack, StoreUnavailable, Tampered
from ledger.keyring import KEYRING, keyring_object
from ledger.store.base import ObjectStore
from ledger.store.faulty import FaultyObjectStore, Outcome
from ledger.store.memory import MemoryObjectStore
from replication.memory import COSIGNED, EPOCH, FORKS, LABEL
from replication.site import PENDING
from restore.fetch import verify_site
from tests.support.ledgers import append, contents, event
from tests.support.replicas import FAR, NEAR, Replicas, entries_of, overwrite, signed


async def shown_size(objects: ObjectStore) -> int:
    try:
        return parse_checkpoint((await objects.get(CHECKPOINT)).data).checkpoint.size
    except ObjectMissing:
        return 0


async def copy_of(objects: ObjectStore, name: str = "copy") -> MemoryObjectStore:
    copy = MemoryObjectStore(name)
    for key, data in (await contents(objects)).items():
        await copy.put_immutable(key, data)
    return copy


async def restore_objects(objects: ObjectStore, wanted: dict[str, bytes]) -> None:
    """Make a store what it was before."""
    for key in await contents(objects):
        await objects.delete(key)
    for key, data in wanted.items():
        await objects.put_immutable(key, data)


async def test_it_cosigns_what_is_pending_with_the_time_of_its_clock() -> None:
    replicas = await Replicas(sites=[NEAR]).begin()
    assert await replicas.mirror(NEAR).advance() is None, "nothing was ever sent"
    await replicas.grow(300)
    await replicas.publish()
    await replicas.follower(NEAR).run_once()
    opened = await replicas.mirror(NEAR).advance()
    assert opened is not None
    cosignature = verify_cosignature(opened, replicas.places[NEAR].site.mirror)
    assert cosignature is not None
    assert cosignature.timestamp_s == replicas.clock.now().timestamp()
    shown = (await replicas.places[NEAR].objects.get(CHECKPOINT)).data
    replicas.clock.advance(60)
    await replicas.mirror(NEAR).advance()
    assert (await replicas.places[NEAR].objects.get(CHECKPOINT)).data == shown, "nothing new, nothing said again"


@pytest.mark.parametrize("outcome", [Outcome.FAIL_NOT_PERSISTED, Outcome.FAIL_PERSISTED])
async def test_a_crash_at_any_write_is_finished_by_the_next_run(outcome: Outcome) -> None:
    for step in range(1, 30):
        replicas = await Replicas(sites=[NEAR]).begin()
        await replicas.advance_to(300)
        await replicas.grow(700)
        await replicas.publish()
        await replicas.follower(NEAR).run_once()
        place, writes = replicas.places[NEAR], 0

        def hook(operation: str, key: str, step: int = step) -> Outcome:
            nonlocal writes
            writes += 1
            return outcome if writes == step else Outcome.PASS

        objects, memory = FaultyObjectStore(place.objects, hook), FaultyObjectStore(place.memory, hook)
        with suppress(StoreUnavailable):
            await replicas.mirror(NEAR, objects=objects, memory=memory).advance()
        remembered = parse_checkpoint((await place.memory.get(COSIGNED)).data).checkpoint.size
        assert await shown_size(place.objects) <= remembered, "it remembers before it speaks"
        opened = await replicas.mirror(NEAR).advance()
        assert opened is not None
        assert opened.checkpoint.size == await shown_size(place.objects) == 700
        await verify_site(await replicas.open(NEAR))
        if writes < step:
            return
    raise AssertionError("cosigning makes fewer writes than that")


async def test_completed_partials_are_cleared_away_and_the_others_kept() -> None:
    replicas = await Replicas(sites=[NEAR]).begin()
    for size in (100, 300, 310, 700):
        await replicas.advance_to(size)
    partials = {key for key in await contents(replicas.places[NEAR].objects) if ".p/" in key}
    assert partials == {"tile/entries/002.p/188", "tile/0/002.p/188", "tile/1/000.p/1", "tile/1/000.p/2"}


@pytest.mark.parametrize(
    "key", ["tile/entries/001", "tile/entries/002.p/188", "tile/0/001", "tile/1/000.p/2", "keyring"]
)
@pytest.mark.parametrize("damage", ["delete", "flip"])
async def test_it_never_cosigns_what_is_not_there_as_signed(key: str, damage: str) -> None:
    replicas = await Replicas(sites=[NEAR]).begin()
    await replicas.grow(700)
    await replicas.publish()
    await replicas.follower(NEAR).run_once()
    place = replicas.places[NEAR]
    if key == "keyring":
        key = KEYRING + replicas.keyid
    data = bytearray((await place.objects.get(key)).data)
    data[-1] ^= 1
    await overwrite(place.objects, key, bytes(data))
    if damage == "delete":
        await place.objects.delete(key)
    with pytest.raises(Tampered) as caught:
        await replicas.mirror(NEAR).advance()
    assert caught.value.key == key
    assert set(await contents(place.memory)) == {EPOCH}, "nothing was said, not even to itself"
    assert await shown_size(place.objects) == 0


async def test_a_keyring_object_that_opens_but_is_another_is_not_cosigned() -> None:
    replicas = await Replicas(sites=[NEAR]).begin()
    _, other = keyring_object(replicas.signer.export(), replicas.signer.vkey, replicas.origin, replicas.recovery.public)
    await replicas.places[NEAR].objects.put_immutable(KEYRING + replicas.keyid, other)
    await replicas.publish()
    await replicas.follower(NEAR).run_once()
    with pytest.raises(Tampered, match=r"keyring/log-\w+ is damaged"):
        await replicas.mirror(NEAR).advance()


async def test_a_log_that_announces_no_keys_is_cosigned_as_ever() -> None:
    replicas = await Replicas(sites=[NEAR]).begin(announced=False)
    await replicas.advance_to(10)
    await replicas.places[NEAR].objects.delete(KEYRING + replicas.keyid)
    await replicas.advance_to(20)
    await verify_site(await replicas.open(NEAR))


async def test_it_shows_again_what_it_cosigned() -> None:
    """The checkpoint was deleted, or an older one put back: the site still holds everything, so it says so again."""
    replicas = await Replicas(sites=[NEAR]).begin()
    await replicas.advance_to(300)
    objects = replicas.places[NEAR].objects
    older = (await objects.get(CHECKPOINT)).data
    await replicas.advance_to(310)
    newest = (await objects.get(CHECKPOINT)).data
    await objects.delete(CHECKPOINT)
    await replicas.mirror(NEAR).advance()
    assert (await objects.get(CHECKPOINT)).data == newest
    await overwrite(objects, CHECKPOINT, older)
    await replicas.mirror(NEAR).advance()
    assert (await objects.get(CHECKPOINT)).data == newest


async def test_it_adopts_its_own_newer_signature_when_its_memory_is_older() -> None:
    replicas = await Replicas(sites=[NEAR]).begin()
    await replicas.advance_to(300)
    place = replicas.places[NEAR]
    backup = await copy_of(place.memory)
    await replicas.advance_to(700)
    for memory in (backup, MemoryObjectStore("lost")):
        opened = await replicas.mirror(NEAR, memory=memory).advance()
        assert opened is not None
        assert opened.checkpoint.size == 700
        kept = await contents(memory)
        assert kept.pop(LABEL).endswith(b" internal\n")
        assert int(kept.pop(EPOCH)) == replicas.epoch
        assert kept == {COSIGNED: (await place.objects.get(CHECKPOINT)).data}


async def test_it_adopts_nothing_it_cannot_verify() -> None:
    replicas = await Replicas(sites=[NEAR]).begin()
    await replicas.advance_to(700)
    place, memory = replicas.places[NEAR], MemoryObjectStore("lost")
    await place.objects.delete("tile/entries/000")
    with pytest.raises(Tampered, match="tile/entries/000"):
        await replicas.mirror(NEAR, memory=memory).advance()
    assert await contents(memory) == {}


async def test_a_site_rolled_back_as_a_whole_is_refused() -> None:
    replicas = await Replicas(sites=[NEAR]).begin()
    await replicas.advance_to(300)
    place = replicas.places[NEAR]
    older = await contents(place.objects)
    await replicas.advance_to(700)
    await restore_objects(place.objects, older)
    memory = await contents(place.memory)
    for _ in range(2):
        with pytest.raises(RolledBack, match="has lost what was verified there"):
            await replicas.mirror(NEAR).advance()
    assert await contents(place.memory) == memory
    await replicas.replicate(NEAR)  # shipping what is lost is what brings it back
    assert (await place.objects.get(CHECKPOINT)).data == memory[COSIGNED]
    await verify_site(await replicas.open(NEAR))


async def test_pending_that_was_rolled_back_is_refused() -> None:
    replicas = await Replicas(sites=[NEAR]).begin()
    await replicas.advance_to(300)
    older = (await replicas.published.get(CHECKPOINT)).data
    await replicas.advance_to(700)
    await replicas.put_pending(NEAR, older)
    with pytest.raises(RolledBack, match="asks for 300 entries, 700 are cosigned already"):
        await replicas.mirror(NEAR).advance()


async def fork(replicas: Replicas, size: int) -> MemoryObjectStore:
    """A whole site of another history of the same log, signed with the log's own key: its key is in two hands."""
    other = Replicas(replicas.origin, sites=[NEAR])
    await other.begin()
    _, other.epoch = await append(other.store, [event(n, source="urn:forged") for n in range(1, size)])
    await other.publish()
    await other.follower(NEAR).run_once()
    store = other.places[NEAR].objects
    assert isinstance(store, MemoryObjectStore)
    return store


@pytest.mark.parametrize("size", [250, 300, 350])
async def test_a_fork_is_refused_for_good_and_both_checkpoints_are_kept(size: int) -> None:
    replicas = await Replicas(sites=[NEAR, FAR]).begin()
    await replicas.advance_to(300)
    place = replicas.places[NEAR]
    genuine = await contents(place.objects)
    forged = await contents(await fork(replicas, size))
    # The forger has the site and the log's key; the mirror's key and memory he has not.
    await restore_objects(place.objects, {**forged, CHECKPOINT: genuine[CHECKPOINT]})
    if size < 300:  # shown to be older, it is refused without having to be read
        with pytest.raises(RolledBack):
            await replicas.mirror(NEAR).advance()
        await place.objects.delete(CHECKPOINT)
        with pytest.raises(Tampered):
            await replicas.mirror(NEAR).advance()
        return
    with pytest.raises(Forked, match="signed two histories"):
        await replicas.mirror(NEAR).advance()
    kept = [
        parse_checkpoint((await place.memory.get(key)).data).checkpoint async for key in place.memory.list_keys(FORKS)
    ]
    assert sorted(one.size for one in kept) == sorted([300, size])
    assert len({one.root for one in kept}) == 2
    await restore_objects(place.objects, genuine)
    with pytest.raises(Forked, match="cosigns it no more"):  # for good: also when the site looks right again
        await replicas.mirror(NEAR).advance()
    await replicas.replicate(FAR)  # another mirror has seen nothing wrong


async def test_a_fork_of_its_own_cosigned_size_is_found_at_the_site() -> None:
    """Whoever has log key and mirror key can show another tree of the same size; its memory contradicts it."""
    replicas = await Replicas(sites=[NEAR]).begin()
    await replicas.advance_to(300)
    place = replicas.places[NEAR]
    forged = await fork(replicas, 300)
    other = Replicas(replicas.origin, sites=[])
    other.places[NEAR] = other.place(NEAR, forged)
    await other.mirror(NEAR).advance()
    pending = (await place.objects.get(PENDING)).data
    await restore_objects(place.objects, {**await contents(forged), PENDING: pending})  # nothing new is asked for
    with pytest.raises(Forked):
        await replicas.mirror(NEAR).advance()


async def test_a_memory_that_was_edited_is_not_trusted() -> None:
    replicas = await Replicas(sites=[NEAR]).begin()
    await replicas.advance_to(300)
    place = replicas.places[NEAR]
    remembered = (await place.memory.get(COSIGNED)).data
    others = signed(await entries_of(replicas.store), replicas.signer)  # genuine, but not cosigned by it
    for data in (remembered.replace(b"\n300\n", b"\n301\n"), others, b"nonsense\n"):
        await overwrite(place.memory, COSIGNED, data)
        with pytest.raises(Tampered, match="memory of near/cosigned"):
            await replicas.mirror(NEAR).advance()


async def test_two_mirrors_at_once_say_one_thing() -> None:
    replicas = await Replicas(sites=[NEAR]).begin()
    await replicas.grow(300)
    await replicas.publish()
    await replicas.follower(NEAR).run_once()
    place = replicas.places[NEAR]
    done = await asyncio.gather(*(replicas.mirror(NEAR).advance() for _ in range(4)), return_exceptions=True)
    assert all(not isinstance(one, BaseException) or isinstance(one, CompareFailed) for one in done)
    assert (await place.objects.get(CHECKPOINT)).data == (await place.memory.get(COSIGNED)).data
