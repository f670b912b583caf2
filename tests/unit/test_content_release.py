"""Released content: removed at the primary and at the sites, missed by nobody, and released by nothing but an act."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from ledger.auditor import Check, Outcome, ReplaySettings, audit_ledger, replay
from ledger.content import Collected
from ledger.content.references import ContentAudit, Gone
from ledger.content.released import Released, read_released, released_events
from ledger.core.checkpoint import CHECKPOINT, STEP_ENTRIES, OpenedCheckpoint, origin_prefix, parse_checkpoint
from ledger.core.entry import decode_entry
from ledger.core.manifest import LISTS, PACKS, Dataref, pack_key, parse_dataref
from ledger.core.tiles import ENTRIES, TILE_WIDTH, Tile
from ledger.errors import Tampered, Unavailable
from ledger.store.base import ObjectStore, Prefixed, Stored, VersionId
from ledger.store.directory import DirectoryStore
from ledger.store.faulty import FaultyObjectStore
from ledger.store.faulty import Outcome as Fault
from ledger.store.forwarding import ForwardingObjectStore
from ledger.store.memory import MemoryObjectStore
from ledger.verify import released_in, verify_backwards, verify_copy
from replication.collect import GRACE_DAYS, SiteCollected
from replication.heal import Evidence
from replication.locks import extend_all
from replication.media.exporting import Exporter, Increment
from replication.media.importing import Importer
from replication.packs import VerifiedPacks
from replication.site import Site
from restore.fetch import fetch_content, verify_site
from tests.support.content import FILES, SMALL, collect, keys_under, noise, refer, release
from tests.support.ledgers import append, contents
from tests.support.replicas import FAR, NEAR, Replicas, entries_of, overwrite
from tests.support.scrubbing import Rot, run

OLD, NEW, LONG = noise(1, 200_000), noise(2, 100_000), noise(3, 70 * SMALL.pack_size)
THIRD = "third"
CREATED = "2026-11-24T00:00:00.000000Z"
GRACE_S = timedelta(days=GRACE_DAYS).total_seconds()


class Kept:
    """A log with an old content at 1, a long old one at 2 and a new one at 3; the entry 4 releases the first two."""

    def __init__(self, replicas: Replicas) -> None:
        self.replicas = replicas
        self.old: set[str] = set()
        self.new: set[str] = set()

    @classmethod
    async def made(cls, *sites: str) -> Kept:
        """Replicated to these before anything is released, and to no other."""
        kept = cls(await Replicas(sites=[NEAR, FAR, THIRD]).begin())
        replicas = kept.replicas
        await refer(replicas, OLD)
        await refer(replicas, LONG)
        before = await content_of(replicas.published)
        await refer(replicas, NEW)
        kept.old, kept.new = before, await content_of(replicas.published) - before
        for name in sites:
            await replicas.replicate(name)
        await release(replicas, 1, 2)
        return kept


async def content_of(objects: ObjectStore) -> set[str]:
    """Packs and lists of packs."""
    return {*await keys_under(objects, PACKS), *await keys_under(objects, LISTS)}


async def audited(replicas: Replicas, objects: ObjectStore, folder: Path) -> dict[str, Check]:
    checkpoint = parse_checkpoint((await replicas.published.get(CHECKPOINT)).data).checkpoint
    done = await replay(objects, checkpoint, ReplaySettings(folder))
    return {check.name: check for check in done.checks}


async def test_it_goes_everywhere_and_a_new_site_never_asks_for_it(tmp_path: Path) -> None:
    kept = await Kept.made(NEAR)
    replicas = kept.replicas
    assert (await collect(replicas)).removed == len(kept.old)
    assert await content_of(replicas.published) == kept.new
    await replicas.replicate(NEAR)
    near = replicas.places[NEAR].objects
    assert await content_of(near) == kept.old | kept.new, "a copy that still has it is fine"
    await verify_site(await replicas.open(NEAR))
    assert await replicas.mirror(NEAR).collect() == SiteCollected(len(kept.old))
    replicas.clock.advance(GRACE_S)
    assert await replicas.mirror(NEAR).collect() == SiteCollected(len(kept.old), len(kept.old))
    await replicas.replicate(FAR)
    for name in (NEAR, FAR):
        objects = replicas.places[name].objects
        assert await content_of(objects) == kept.new
        copy = await replicas.open(name)
        await verify_site(copy)
        checks = await audited(replicas, objects, tmp_path)
        assert {one.outcome for one in checks.values()} <= {Outcome.PASSED, Outcome.NOT_RUN}
        assert "2 entries" in checks["released content"].detail
        back = MemoryObjectStore("restored")
        await fetch_content(copy, back, Gone((), await read_released(replicas.store)))
        assert await content_of(back) == kept.new
    await verify_copy(replicas.published, (await replicas.open(FAR)).checkpoint)
    await replicas.advance_to(9)


@pytest.mark.parametrize("half", ["lists", "packs", "some"])
async def test_what_is_half_removed_is_missed_by_nobody(half: str, tmp_path: Path) -> None:
    kept = await Kept.made(NEAR, FAR)
    replicas = kept.replicas
    await replicas.replicate()
    gone = {one for one in kept.old if half == "some" or f"/{half}/" in one}
    gone = set(sorted(gone)[::2]) if half == "some" else gone
    for objects in (replicas.published, replicas.places[NEAR].objects):
        for key in gone:
            await objects.purge(key)
    await verify_site(await replicas.open(NEAR))
    await verify_copy(replicas.published, (await replicas.open(NEAR)).checkpoint)
    checks = await audited(replicas, replicas.places[NEAR].objects, tmp_path)
    assert checks["content references"].outcome is Outcome.PASSED
    await replicas.advance_to(9)
    assert (await collect(replicas)).removed == len(kept.old - gone)
    await replicas.mirror(NEAR).collect()
    replicas.clock.advance(GRACE_S)
    assert (await replicas.mirror(NEAR).collect()).removed == len(kept.old - gone)


async def test_a_pack_that_an_entry_shares_which_was_not_released_stays_everywhere() -> None:
    replicas = await Replicas(sites=[NEAR]).begin()
    old = await refer(replicas, OLD)
    again = await refer(replicas, OLD + b"and more", source="urn:other")
    shared = {pack_key(pack) for pack in set(old.packs) & set(again.packs)}
    assert shared
    await replicas.replicate()
    await release(replicas, 1)
    await collect(replicas)
    await replicas.replicate()
    await replicas.mirror(NEAR).collect()
    replicas.clock.advance(GRACE_S)
    await replicas.mirror(NEAR).collect()
    for objects in (replicas.published, replicas.places[NEAR].objects):
        assert shared <= await content_of(objects)
    await replicas.places[NEAR].objects.purge(min(shared))
    with pytest.raises(Tampered, match="entry 2 refers to"):
        await verify_site(await replicas.open(NEAR))


@pytest.mark.parametrize(("indexes", "source"), [({1}, "urn:other"), ({1, 3}, FILES), ({2}, FILES)])
async def test_a_forged_act_releases_nothing_and_is_named(indexes: set[int], source: str, tmp_path: Path) -> None:
    """Of another source; of itself, and so not even of what comes before it; of an entry that refers to nothing."""
    replicas = await Replicas().begin()
    await refer(replicas, OLD)
    await replicas.grow(3)
    events = released_events(replicas.origin, source, indexes, 0, 3)
    _, replicas.epoch = await append(replicas.store, events, replicas.clock)
    await replicas.publish()
    assert await collect(replicas) == Collected(), "the collector keeps it"
    await replicas.replicate()
    pack = min(await content_of(replicas.published))
    copy = await replicas.open(NEAR)
    checks = await audited(replicas, replicas.published, tmp_path)
    if indexes == {2}:  # of whatever source it is, nothing is gone by it
        await verify_copy(copy.objects, copy.checkpoint)
        assert checks["released content"].outcome is Outcome.PASSED
    else:
        with pytest.raises(Tampered, match="entry 3 releases no content, though it says so: it releases entry"):
            await verify_copy(copy.objects, copy.checkpoint)
        assert [one.key for one in checks["released content"].findings] == ["entry 3"]
    await replicas.places[NEAR].objects.purge(pack)
    with pytest.raises(Tampered, match="entry 1 refers to"):
        await verify_copy(copy.objects, copy.checkpoint)
    await replicas.published.purge(pack)
    with pytest.raises(Tampered, match="entry 1 refers to"):
        await replicas.follower(NEAR).run_once(whole=True)


async def test_an_act_counts_in_the_tree_it_is_in_and_in_no_smaller_one() -> None:
    kept = await Kept.made(NEAR)
    replicas = kept.replicas
    copy = await replicas.open(NEAR)
    assert copy.checkpoint.size == 4
    await replicas.places[NEAR].objects.purge(min(kept.old))
    with pytest.raises(Tampered, match=r"entry [12] refers to"):
        await verify_copy(copy.objects, copy.checkpoint)
    await replicas.replicate(NEAR)
    await verify_site(await replicas.open(NEAR))


async def test_a_new_site_is_not_stopped_between_an_entry_and_what_releases_it() -> None:
    replicas = await Replicas(sites=[NEAR]).begin()
    await refer(replicas, OLD)
    await replicas.grow(2 * STEP_ENTRIES + 10)
    await replicas.publish()
    await release(replicas, 1)
    size = (await replicas.store.head()).size
    await replicas.grow(3 * STEP_ENTRIES + 10)
    await replicas.publish()
    assert (await collect(replicas)).removed
    stops: list[int] = []

    async def stop(reached: int, _: int) -> None:
        stops.append(reached)
        await replicas.mirror(NEAR).advance()

    await replicas.follower(NEAR).run_once(on_step=stop)
    assert stops == [3 * STEP_ENTRIES] > [size]
    await replicas.mirror(NEAR).advance()


async def test_a_follower_waits_until_the_site_can_be_told() -> None:
    kept = await Kept.made(FAR)
    replicas = kept.replicas
    at = (await replicas.store.head()).size
    events = released_events(replicas.origin, FILES, {3}, 0, at)
    _, replicas.epoch = await append(replicas.store, events, replicas.clock)
    with pytest.raises(Unavailable, match="released just now"):
        await replicas.follower(NEAR).run_once()
    await replicas.publish()
    await replicas.replicate()
    assert await content_of(replicas.places[NEAR].objects) == set()


async def test_content_that_is_released_and_removed_while_it_is_shipped_is_not_taken_for_lost() -> None:
    kept = await Kept.made()
    replicas = kept.replicas

    class Meanwhile(ForwardingObjectStore):
        happened = False

        async def list_keys(self, prefix: str) -> AsyncIterator[str]:
            if prefix.startswith(PACKS) and not self.happened:
                self.happened = True
                await release(replicas, 3)
                await collect(replicas)
            async for key in super().list_keys(prefix):
                yield key

    place = replicas.places[NEAR].site
    with pytest.raises(Unavailable, match="released just now"):
        await replicas.follower(NEAR, site=Site(NEAR, Meanwhile(place.objects), place.mirror)).run_once()
    await replicas.replicate(NEAR)
    assert await content_of(place.objects) == set()
    await verify_site(await replicas.open(NEAR))


async def test_content_that_is_released_and_removed_while_it_is_verified_is_not_taken_for_lost() -> None:
    kept = await Kept.made()
    replicas = kept.replicas

    class Meanwhile(ForwardingObjectStore):
        happened = False

        async def get(self, key: str) -> Stored:
            if key.startswith(PACKS) and not self.happened:
                self.happened = True
                await release(replicas, 3)
                await collect(replicas)
            return await super().get(key)

    with pytest.raises(Unavailable, match="content was released while"):
        await audit_ledger(replicas.store, Meanwhile(replicas.published), replicas.log)
    await audit_ledger(replicas.store, replicas.published, replicas.log)


async def test_a_scrub_neither_misses_it_nor_brings_it_back() -> None:
    rot = await Rot().begin(2)
    replicas = rot.replicas
    dataref = await refer(replicas, OLD)
    listed = await refer(replicas, LONG)
    needed = await refer(replicas, NEW)
    await replicas.replicate()
    await release(replicas, 2, 3)
    await replicas.replicate()
    site = rot.objects("one")
    gone = {pack_key(pack) for pack in dataref.packs}
    assert listed.listed is not None
    for key in (*gone, f"{LISTS}{listed.listed.hex()}", pack_key(needed.packs[0])):
        await site.purge(key)
    done = await rot.scrub("one")
    assert [one.key for one in done.findings] == [pack_key(needed.packs[0])]
    assert done.whole
    assert not gone & await content_of(site)
    assert gone <= await content_of(rot.objects("two"))
    assert (await run(rot.scrubber("two"))).findings == ()


async def test_media_carry_none_of_it_and_those_that_did_are_still_taken_in() -> None:
    kept = await Kept.made(FAR)
    replicas = kept.replicas
    whole = parse_checkpoint((await replicas.places[FAR].objects.get(CHECKPOINT)).data)
    before = await exported(replicas, 0, whole)
    await collect(replicas)
    after = await exported(replicas, 4)
    everything = await exported(replicas, 0, name=THIRD)
    assert kept.old <= await content_of(carried(replicas, before))
    assert not kept.old & await content_of(carried(replicas, everything))
    await take(replicas, NEAR, before)
    await take(replicas, NEAR, after)
    assert await content_of(replicas.places[NEAR].objects) == kept.old | kept.new
    await take(replicas, THIRD, everything)
    assert await content_of(replicas.places[THIRD].objects) == kept.new
    for name in (NEAR, THIRD):
        await verify_site(await replicas.open(name))


async def exported(
    replicas: Replicas, base: int, opened: OpenedCheckpoint | None = None, *, name: str = NEAR
) -> MemoryObjectStore:
    """A medium for a site, of what is published or of an earlier checkpoint."""
    medium = MemoryObjectStore("medium")
    opened = opened or parse_checkpoint((await replicas.published.get(CHECKPOINT)).data)
    mirror = str(replicas.places[name].site.mirror)
    released = await read_released(replicas.store) if opened.checkpoint.size > 4 else Released()
    increment = Increment(name, mirror, base, opened, replicas.epoch, CREATED, released=released)
    await Exporter(replicas.published, increment, lambda _: (medium, carried(replicas, medium))).run(replicas.signer)
    return medium


def carried(replicas: Replicas, medium: ObjectStore) -> ObjectStore:
    return Prefixed(medium, origin_prefix(replicas.origin))


async def take(replicas: Replicas, name: str, medium: ObjectStore) -> None:
    evidence = Evidence(replicas.evidence, replicas.origin, replicas.clock)
    importer = Importer(replicas.mirror(name), replicas.log, replicas.nonce, evidence)
    await importer.begin()
    await importer.take(medium)


class Locked(ForwardingObjectStore):
    """Notes which locks were let run anew."""

    def __init__(self, inner: ObjectStore) -> None:
        super().__init__(inner)
        self.extended: set[str] = set()

    async def extend_lock(self, key: str, version: VersionId | None = None) -> None:
        self.extended.add(key)
        await super().extend_lock(key, version)


async def test_locks_run_anew_on_what_is_retained_alone() -> None:
    kept = await Kept.made(NEAR)
    replicas = kept.replicas
    site = Locked(replicas.places[NEAR].objects)
    await extend_all(site, (await replicas.open(NEAR)).checkpoint)
    assert kept.old | kept.new <= site.extended, "that tree releases nothing"
    await replicas.replicate(NEAR)
    site.extended.clear()
    await extend_all(site, (await replicas.open(NEAR)).checkpoint)
    assert {key for key in site.extended if key.startswith("content/")} == kept.new


async def test_what_a_lock_keeps_is_needed_by_nobody_and_goes_once_it_has_run_out() -> None:
    kept = await Kept.made(NEAR)
    replicas = kept.replicas
    await replicas.replicate(NEAR)

    def refuse(operation: str, _key: str) -> Fault:
        return Fault.FAIL_NOT_PERSISTED if operation == "purge" else Fault.PASS

    locked = FaultyObjectStore(replicas.places[NEAR].objects, refuse)
    await replicas.mirror(NEAR, objects=locked).collect()
    replicas.clock.advance(GRACE_S)
    count = len(kept.old)
    assert await replicas.mirror(NEAR, objects=locked).collect() == SiteCollected(count, 0, count)
    await verify_site(await replicas.open(NEAR))
    replicas.clock.advance(GRACE_S)
    assert await replicas.mirror(NEAR).collect() == SiteCollected(count, count)


async def test_what_was_removed_and_is_sent_again_is_read_again() -> None:
    kept = await Kept.made(NEAR)
    replicas = kept.replicas
    await replicas.replicate(NEAR)
    await replicas.mirror(NEAR).collect()
    replicas.clock.advance(GRACE_S)
    await replicas.mirror(NEAR).collect()
    memory = VerifiedPacks(replicas.places[NEAR].memory)
    names = {bytes.fromhex(key.removeprefix(PACKS)) for key in kept.old if key.startswith(PACKS)}
    assert await memory.known(names) == set()
    again = await refer(replicas, OLD)  # which its packs at the primary still hold
    pack = next(pack_key(one) for one in again.packs if pack_key(one) in kept.old)
    await replicas.follower(NEAR).run_once()
    await overwrite(replicas.places[NEAR].objects, pack, b"somebody else's bytes")
    with pytest.raises(Tampered, match=pack):
        await replicas.mirror(NEAR).advance()
    await replicas.places[NEAR].objects.purge(pack)
    await replicas.replicate(NEAR)


async def test_a_tree_is_read_from_its_end_and_each_bundle_is_proven() -> None:
    replicas = await Replicas(sites=[NEAR]).begin()
    await replicas.advance_to(2 * TILE_WIDTH + 7)
    copy = await replicas.open(NEAR)
    found: list[tuple[int, list[bytes]]] = []

    async def take(start: int, entries: Sequence[bytes]) -> None:
        found.append((start, list(entries)))

    await verify_backwards(copy.objects, copy.checkpoint, on_bundle=take)
    assert [start for start, _ in found] == [2 * TILE_WIDTH, TILE_WIDTH, 0]
    assert [entry for _, entries in reversed(found) for entry in entries] == await entries_of(replicas.store)
    assert not await released_in(copy.objects, copy.checkpoint)
    key = Tile(ENTRIES, 1).path
    await overwrite(replicas.places[NEAR].objects, key, (await copy.objects.get(key)).data[:-1] + b"?")
    with pytest.raises(Tampered, match=key):
        await verify_backwards(copy.objects, copy.checkpoint, on_bundle=take)


async def test_several_processes_of_an_audit_and_a_copy_that_was_written_over_come_to_the_same(tmp_path: Path) -> None:
    kept = await Kept.made()
    replicas = kept.replicas
    await release(replicas, 1, source="urn:other")
    await replicas.grow(2 * TILE_WIDTH)
    await replicas.publish()
    checkpoint = parse_checkpoint((await replicas.published.get(CHECKPOINT)).data).checkpoint
    copy, scratch = tmp_path / "copy", tmp_path / "scratch"
    for folder in (copy, scratch):
        folder.mkdir()
    for key, data in (await contents(replicas.published)).items():
        if key not in kept.old:
            await DirectoryStore(copy).put_immutable(key, data)
    checks = {}
    for processes in (1, 2):
        settings = ReplaySettings(scratch, processes=processes, open_objects=partial(DirectoryStore, copy))
        done = await replay(DirectoryStore(copy), checkpoint, settings)
        checks[processes] = {check.name: check for check in done.checks}
    assert checks[1] == checks[2]
    assert [one.key for one in checks[1]["released content"].findings] == ["entry 5"]
    assert checks[1]["content references"].outcome is Outcome.PASSED


async def test_what_is_missing_is_told_at_once_and_what_is_released_is_looked_for_once() -> None:
    """A site may lack what was released in years: it is not asked for each of these packs."""
    replicas = await Replicas(sites=[NEAR]).begin()
    for number in range(10, 20):
        await refer(replicas, noise(number, 1_000))
    await release(replicas, *range(1, 9))
    entries = await entries_of(replicas.store)
    checkpoint = parse_checkpoint((await replicas.published.get(CHECKPOINT)).data).checkpoint
    await collect(replicas)
    asked = Asked(replicas.published)
    audit = ContentAudit(asked, learn=partial(released_in, asked, checkpoint))
    for index, entry in enumerate(entries):
        await audit.take(index, [entry])
    audit.check()
    assert asked.packs == 3, "the first that is missing, and the two that are needed"
    await replicas.published.purge(f"{PACKS}{parse_dataref_of(entries[9]).packs[0].hex()}")
    with pytest.raises(Tampered, match="entry 9 refers to"):
        await ContentAudit(asked, learn=partial(released_in, asked, checkpoint)).take(9, entries[9:])


class Asked(ForwardingObjectStore):
    """Counts the packs that are asked for."""

    def __init__(self, inner: ObjectStore) -> None:
        super().__init__(inner)
        self.packs = 0

    async def get(self, key: str) -> Stored:
        self.packs += key.startswith(PACKS)
        return await super().get(key)


def parse_dataref_of(entry: bytes) -> Dataref:
    found = parse_dataref(decode_entry(entry).event.dataref or "")
    assert found is not None
    return found
