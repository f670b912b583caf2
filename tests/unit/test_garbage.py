"""Garbage in the place of a site's `checkpoint` or `pending`: kept, alarmed, replaced by its owner; never a way in."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from ledger.core.checkpoint import CHECKPOINT, origin_prefix, parse_checkpoint
from ledger.errors import CompareFailed, Fenced, Forked, JinshiError, RolledBack, StoreUnavailable, Tampered
from ledger.store.base import ObjectStore, Prefixed
from ledger.store.directory import DirectoryStore
from ledger.store.faulty import FaultyObjectStore, Outcome
from ledger.store.memory import MemoryObjectStore
from replication import heal
from replication.memory import EPOCH, FORKS, GARBAGE
from replication.site import PENDING, Pending, Site, format_pending, read_pending
from restore.fetch import verify_site
from tests.support.garbling import NOISE, assert_mended, garble, kept_aside
from tests.support.ledgers import contents
from tests.support.replicas import NEAR, ORIGIN, Replicas, entries_of, signed

Make = Callable[[], ObjectStore]


@pytest.fixture(params=["memory", "directory"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    if request.param == "memory":
        return lambda: MemoryObjectStore(NEAR)
    (tmp_path / "site").mkdir()
    return lambda: Prefixed(DirectoryStore(tmp_path / "site"), origin_prefix(ORIGIN))


async def begun(objects: ObjectStore | None = None, size: int = 300) -> Replicas:
    replicas = Replicas(sites=[])
    replicas.places[NEAR] = replicas.place(NEAR, objects)
    await replicas.begin()
    await replicas.advance_to(size)
    return replicas


async def test_both_are_put_back_by_their_owners_with_evidence_and_alarms(make: Make) -> None:
    replicas = await begun(make())
    place = replicas.places[NEAR]
    shown = (await place.objects.get(CHECKPOINT)).data
    for key in (CHECKPOINT, PENDING):
        await garble(place.objects, key)
    await assert_mended(replicas, NEAR, place, shown=shown, size=300)
    await replicas.advance_to(700)
    await verify_site(await replicas.open(NEAR))


@pytest.mark.parametrize(
    "data", [b"", b"jinshi/pending/v1\nepoch 1\n", b"\n\n", b"\xff" * 70_000], ids=["empty", "cut", "blank", "long"]
)
async def test_whatever_the_bytes_are(data: bytes) -> None:
    replicas = await begun()
    objects = replicas.places[NEAR].objects
    for key in (CHECKPOINT, PENDING):
        await garble(objects, key, data)
    await replicas.advance_to(310)
    await verify_site(await replicas.open(NEAR))
    assert await kept_aside(replicas.evidence) == {(NEAR, PENDING): data}


async def test_what_another_log_has_signed_is_garbage_too() -> None:
    replicas, other = await begun(), await begun(size=100)
    objects = replicas.places[NEAR].objects
    stranger = Replicas("example.test/other", sites=[])
    note = signed(await entries_of(other.store), stranger.signer)
    await garble(objects, CHECKPOINT, note)
    await garble(objects, PENDING, format_pending(Pending(10**9, "0" * 32, note)))
    await replicas.advance_to(310)
    await verify_site(await replicas.open(NEAR))


async def test_a_mirror_by_itself_puts_its_checkpoint_back_and_waits_for_pending() -> None:
    replicas = await begun()
    place = replicas.places[NEAR]
    shown = (await place.objects.get(CHECKPOINT)).data
    for key in (CHECKPOINT, PENDING):
        await garble(place.objects, key)
    mirror = replicas.mirror(NEAR)
    for _ in range(2):
        with pytest.raises(Tampered) as caught:
            await mirror.advance()
        assert caught.value.key == PENDING
        assert "replicate" in caught.value.hint
        assert (await place.objects.get(CHECKPOINT)).data == shown
        assert (await place.objects.get(PENDING)).data == NOISE, "it is not the mirror's"
    await replicas.replicate(NEAR)


async def test_a_writer_by_itself_goes_on_and_leaves_the_checkpoint_to_its_mirror() -> None:
    replicas = await begun()
    objects = replicas.places[NEAR].objects
    await garble(objects, CHECKPOINT)
    await replicas.grow(310)
    await replicas.publish()
    assert await replicas.follower(NEAR).run_once() == 310
    assert (await objects.get(CHECKPOINT)).data == NOISE
    await replicas.mirror(NEAR).advance()
    await verify_site(await replicas.open(NEAR))


async def test_garbage_at_a_site_that_nothing_was_cosigned_at_yet_is_replaced_too() -> None:
    replicas = Replicas(sites=[NEAR])
    place = replicas.places[NEAR]
    await replicas.begin()
    for key in (CHECKPOINT, PENDING):
        await garble(place.objects, key)
    await replicas.advance_to(300)
    await verify_site(await replicas.open(NEAR))
    assert await kept_aside(place.memory, GARBAGE) == {(NEAR, CHECKPOINT): NOISE}


@pytest.mark.parametrize("outcome", [Outcome.FAIL_NOT_PERSISTED, Outcome.FAIL_PERSISTED])
async def test_killed_at_any_write_the_next_round_finishes_it(outcome: Outcome) -> None:
    for step in range(1, 30):
        replicas = await begun()
        place, writes = replicas.places[NEAR], 0
        shown = (await place.objects.get(CHECKPOINT)).data
        for key in (CHECKPOINT, PENDING):
            await garble(place.objects, key)

        def hook(operation: str, key: str, step: int = step) -> Outcome:
            nonlocal writes
            writes += 1
            return outcome if writes == step else Outcome.PASS

        objects, memory = FaultyObjectStore(place.objects, hook), FaultyObjectStore(place.memory, hook)
        evidence, replicas.evidence = replicas.evidence, FaultyObjectStore(replicas.evidence, hook)
        with suppress(StoreUnavailable, CompareFailed):
            await replicas.follower(NEAR, site=Site(NEAR, objects, place.site.mirror)).run_once()
            await replicas.mirror(NEAR, objects=objects, memory=memory).advance()
        if (await place.objects.get(CHECKPOINT)).data == shown:
            assert await kept_aside(place.memory, GARBAGE) == {(NEAR, CHECKPOINT): NOISE}, "kept before it was replaced"
        if (await place.objects.get(PENDING)).data != NOISE:
            assert await kept_aside(evidence) == {(NEAR, PENDING): NOISE}
        replicas.evidence = evidence
        await replicas.replicate(NEAR)
        assert (await place.objects.get(CHECKPOINT)).data == shown
        await verify_site(await replicas.open(NEAR))
        if writes < step:
            return
    raise AssertionError("putting both back takes fewer writes than that")


async def test_it_is_kept_once_and_a_bounded_number_of_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heal, "SOME_OBJECTS_MAX", 3)
    monkeypatch.setattr(heal, "SOME_BYTES_MAX", 100)
    replicas = await begun()
    place = replicas.places[NEAR]
    for number in (1, 1, 2, 3, 4, 5):
        await garble(place.objects, CHECKPOINT, b"%d" % number * 1_000)
        await garble(place.objects, PENDING, b"%d" % number * 1_000)
        await replicas.replicate(NEAR)
    for kept in (place.memory, replicas.evidence):
        names = [name for name in await contents(kept) if name.endswith(".object")]
        assert len(names) == 3
        assert [len((await kept.get(name)).data) for name in names] == [100] * 3
    await verify_site(await replicas.open(NEAR))


# -- what the log has signed is no garbage -------------------------------------------------------------------------


async def test_the_published_checkpoint_copied_over_is_of_this_history_and_is_replaced() -> None:
    """Signed by the log, cosigned by nobody: an older one, and one that is newer than what the mirror knows."""
    replicas = await begun()
    objects = replicas.places[NEAR].objects
    older = (await replicas.published.get(CHECKPOINT)).data
    await replicas.advance_to(700)
    shown = (await objects.get(CHECKPOINT)).data
    await garble(objects, CHECKPOINT, older)
    await replicas.replicate(NEAR)
    assert (await objects.get(CHECKPOINT)).data == shown
    await replicas.grow(710)
    await replicas.publish()
    await garble(objects, CHECKPOINT, (await replicas.published.get(CHECKPOINT)).data)
    with pytest.raises(Tampered, match="is missing"):  # it has no way to tell it from a fork: nothing of it is there
        await replicas.mirror(NEAR).advance()
    await replicas.replicate(NEAR)
    await verify_site(await replicas.open(NEAR))


@pytest.mark.parametrize("size", [200, 300])
async def test_one_of_another_history_is_a_fork_and_stays_there(size: int) -> None:
    replicas, other = await begun(), await begun(size=size)
    place = replicas.places[NEAR]
    forged = signed([*(await entries_of(other.store))[:-1], b"another last one"], replicas.signer)
    await garble(place.objects, CHECKPOINT, forged)
    with pytest.raises(Forked):
        await replicas.follower(NEAR).run_once()
    for _ in range(2):
        with pytest.raises(Forked):
            await replicas.mirror(NEAR).advance()
    assert (await place.objects.get(CHECKPOINT)).data == forged
    kept = {name: data for name, data in (await contents(place.memory)).items() if name.startswith(FORKS)}
    assert forged in kept.values()
    assert len(kept) == 2


async def test_one_that_is_beyond_what_the_primary_knows_stops_it() -> None:
    replicas = await begun()
    larger = signed([*await entries_of(replicas.store), b"one more"], replicas.signer)
    await garble(replicas.places[NEAR].objects, CHECKPOINT, larger)
    with pytest.raises(RolledBack):
        await replicas.follower(NEAR).run_once()
    with pytest.raises(JinshiError):
        await replicas.mirror(NEAR).advance()
    assert (await replicas.places[NEAR].objects.get(CHECKPOINT)).data == larger


# -- fencing -------------------------------------------------------------------------------------------------------


async def test_an_older_writer_does_not_come_in_again_through_garbage(make: Make) -> None:
    """The newer writer's `pending` was seen by the mirror, and garbled before anything of it was cosigned."""
    replicas = await begun(make())
    place, older = replicas.places[NEAR], replicas.epoch
    newer = older + 5
    await replicas.follower(NEAR, epoch=newer).run_once()
    await replicas.mirror(NEAR).advance()
    assert int((await place.memory.get(EPOCH)).data) == newer
    before = (await place.objects.get(CHECKPOINT)).data
    await garble(place.objects, PENDING)
    await replicas.follower(NEAR, epoch=older).run_once()  # a place without versions has forgotten
    for _ in range(2):
        with pytest.raises(Fenced, match=f"a writer of {newer} was there"):
            await replicas.mirror(NEAR).advance()
    assert (await place.objects.get(CHECKPOINT)).data == before
    await replicas.follower(NEAR, epoch=newer).run_once()  # which fences the older one as ever
    await replicas.mirror(NEAR).advance()
    with pytest.raises(Fenced):
        await replicas.follower(NEAR, epoch=older).run_once()


async def test_a_mirror_remembers_an_epoch_before_it_can_verify_anything() -> None:
    replicas = await begun()
    place = replicas.places[NEAR]
    note = signed([*await entries_of(replicas.store), b"not there"], replicas.signer)
    await garble(place.objects, PENDING, format_pending(Pending(replicas.epoch + 1, "0" * 32, note)))
    with pytest.raises(Tampered):
        await replicas.mirror(NEAR).advance()
    await garble(place.objects, PENDING)
    await replicas.follower(NEAR).run_once()
    with pytest.raises(Fenced):
        await replicas.mirror(NEAR).advance()
    await place.memory.delete(EPOCH)  # as the message says, where that epoch was forged
    await replicas.mirror(NEAR).advance()


async def test_without_a_place_for_evidence_garbage_stops_a_follower() -> None:
    replicas = await begun()
    objects = replicas.places[NEAR].objects
    await garble(objects, PENDING)
    follower = replicas.follower(NEAR)
    follower._evidence = None
    with pytest.raises(Tampered):
        await follower.run_once()
    assert (await objects.get(PENDING)).data == NOISE


async def test_of_two_followers_that_find_garbage_one_replaces_it() -> None:
    """Both look, then both write: the compare-and-swap lets one through, and the other finds its own wish fulfilled."""
    replicas = await begun()
    place = replicas.places[NEAR]
    await garble(place.objects, PENDING)
    raced = False

    class Racing(FaultyObjectStore):
        async def replace(self, key, data, *, expected):  # type: ignore[no-untyped-def]
            nonlocal raced
            if key == PENDING and not raced:
                raced = True
                await replicas.follower(NEAR).run_once()
            return await super().replace(key, data, expected=expected)

    racing = Racing(place.objects, lambda operation, key: Outcome.PASS)
    await replicas.follower(NEAR, site=Site(NEAR, racing, place.site.mirror)).run_once()
    assert raced
    found = await read_pending(place.site, replicas.log)
    assert found is not None
    assert parse_checkpoint(found[0].checkpoint).checkpoint.size == 300
