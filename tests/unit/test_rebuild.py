"""Rebuilding an entry store from a copy: verified before it is written, resumable at every commit, bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import pytest

from ledger.core.entry import decode_entry, encode_entry
from ledger.core.event import Event
from ledger.core.merkle import CompactRange, leaf_hash
from ledger.errors import Conflict, StoreUnavailable, Tampered
from ledger.sequencer import row_of
from ledger.store.base import EntryStore, Row, Stored
from ledger.store.faulty import FaultyEntryStore, FaultyObjectStore, Outcome
from ledger.store.memory import MemoryEntryStore
from restore.rebuild import ledger as rebuilding
from restore.rebuild.ledger import rebuild
from restore.succession import succeeded
from tests.support.ledgers import append
from tests.support.replicas import NEAR, ORIGIN, Replicas, overwrite


async def rows_of(store: EntryStore) -> list[Row]:
    return list(await store.rows(0, 1_000_000))


async def test_what_is_rebuilt_is_the_primary_with_everything_it_is_found_by() -> None:
    replicas = await Replicas(sites=[NEAR]).begin()
    await replicas.advance_to(2_000)
    store, progress = MemoryEntryStore(), list[tuple[int, int]]()
    copy = await replicas.open(NEAR)
    assert await rebuild(copy, store, report=lambda done, of: progress.append((done, of))) == 2_000
    assert await rows_of(store) == await rows_of(replicas.store)
    ours, theirs = await store.head(), await replicas.store.head()
    assert (ours.size, ours.frontier, ours.recordedtime_us) == (theirs.size, theirs.frontier, theirs.recordedtime_us)
    assert progress[-1] == (2_000, 2_000)
    assert await rebuild(copy, store) == 2_000, "again, there is nothing to do"


@pytest.mark.parametrize("outcome", [Outcome.FAIL_NOT_PERSISTED, Outcome.FAIL_PERSISTED])
async def test_a_crash_at_any_commit_is_carried_on_from(outcome: Outcome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rebuilding, "COMMIT_ENTRIES", 256)
    replicas = await Replicas(sites=[NEAR]).begin()
    await replicas.advance_to(1_100)
    for step in range(1, 20):
        store, writes = MemoryEntryStore(), 0

        def hook(operation: str, key: str, step: int = step) -> Outcome:
            nonlocal writes
            writes += 1
            return outcome if writes == step else Outcome.PASS

        copy = await replicas.open(NEAR)
        with suppress(StoreUnavailable):
            await rebuild(copy, FaultyEntryStore(store, hook))
        assert await rows_of(store) == (await rows_of(replicas.store))[: (await store.head()).size]
        assert await rebuild(copy, store) == 1_100
        assert await rows_of(store) == await rows_of(replicas.store)
        if writes < step:
            assert writes == 1 + 5, "a claim and five commits"
            return
    raise AssertionError("1,100 entries are fewer commits than that")


async def test_what_was_written_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    replicas = await Replicas(sites=[NEAR]).begin()
    await replicas.advance_to(2_000)
    store, read = MemoryEntryStore(), list[str]()
    await rebuild(await replicas.open(NEAR), store)
    await replicas.advance_to(2_100)

    class Recording(FaultyObjectStore):
        async def get(self, key: str) -> Stored:
            read.append(key)
            return await super().get(key)

    objects = Recording(replicas.places[NEAR].objects, lambda operation, key: Outcome.PASS)
    assert await rebuild(await replicas.open(NEAR, objects), store) == 2_100
    assert [key for key in read if key.startswith("tile/entries/")] == ["tile/entries/007", "tile/entries/008.p/52"]


async def test_nothing_is_written_that_was_not_verified() -> None:
    replicas = await Replicas(sites=[NEAR]).begin()
    await replicas.advance_to(4_500)
    objects, store = replicas.places[NEAR].objects, MemoryEntryStore()
    data = bytearray((await objects.get("tile/entries/016")).data)
    data[1_000] ^= 1
    await overwrite(objects, "tile/entries/016", bytes(data))
    with pytest.raises(Tampered) as caught:
        await rebuild(await replicas.open(NEAR), store)
    assert caught.value.key == "tile/entries/016"
    assert await rows_of(store) == (await rows_of(replicas.store))[: (await store.head()).size]
    assert (await store.head()).size <= 16 * 256


async def test_a_store_that_holds_something_else_is_left_alone() -> None:
    replicas = await Replicas(sites=[NEAR]).begin()
    await replicas.advance_to(100)
    copy = await replicas.open(NEAR)
    for events in (1, 101):
        store = MemoryEntryStore()
        await append(store, [Event(id=f"{n}", source="urn:other", type="t.v1") for n in range(events)])
        before = await rows_of(store)
        with pytest.raises(Conflict, match="not the beginning of this copy"):
            await rebuild(copy, store)
        assert await rows_of(store) == before


async def test_a_restore_that_had_gone_on_under_its_successor_origin_is_not_stuck() -> None:
    """Killed after the event that names the predecessor was recorded: the same restore must get through again."""
    replicas = await Replicas(sites=[NEAR]).begin()
    await replicas.advance_to(300)
    store, copy = MemoryEntryStore(), await replicas.open(NEAR)
    await rebuild(copy, store)
    await append(store, [succeeded(f"{ORIGIN}/2", copy.opened, "fire", {})])
    assert await rebuild(copy, store) == 300
    # A store that is longer for any other reason is still refused.
    other = MemoryEntryStore()
    await rebuild(copy, other)
    await append(other, [Event(id="x", source="urn:other", type="t.v1")])
    with pytest.raises(Conflict):
        await rebuild(copy, other)
    # And so is one that names the predecessor, but holds other entries than it had.
    forged = MemoryEntryStore()
    await append(forged, [Event(id=f"{n}", source="urn:other", type="t.v1") for n in range(300)])
    await append(forged, [succeeded(f"{ORIGIN}/2", copy.opened, "fire", {})])
    with pytest.raises(Conflict):
        await rebuild(copy, forged)


@pytest.mark.parametrize("entry", [b"no entry", b'{"id":"x"}'])
async def test_a_log_that_signed_what_is_no_entry_is_reported_with_its_index(entry: bytes) -> None:
    replicas = await Replicas(sites=[NEAR]).begin()
    await replicas.grow(5)
    await _commit(replicas, [Row(entry, leaf_hash(entry), "urn:x", "x", "", 1, "t", "a", 0, 0)])
    await replicas.publish()
    await replicas.replicate()
    with pytest.raises(Tampered, match=r"entry 5 .* is no entry"):
        await rebuild(await replicas.open(NEAR), MemoryEntryStore())


async def test_a_log_that_repeats_an_id_is_reported() -> None:
    replicas = await Replicas(sites=[NEAR]).begin()
    await replicas.grow(5)
    (first,) = await replicas.store.read(4, 1)
    again = replace(decode_entry(first.entry), recordedtime="2027-01-01T00:00:00.000000Z")
    row = row_of(again, encode_entry(again))
    await _commit(replicas, [row._replace(id="another", subject="another")])  # its writer's store had no constraint
    await replicas.publish()
    await replicas.replicate()
    with pytest.raises(Tampered, match="repeat an id or a version"):
        await rebuild(await replicas.open(NEAR), MemoryEntryStore())


async def test_memory_is_bounded_in_bytes_and_in_objects_read_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit takes what is bounded; no more objects are in flight than what the readers are allowed."""
    replicas = await Replicas(sites=[NEAR]).begin()
    monkeypatch.setattr(rebuilding, "COMMIT_BYTES", 1_000_000)
    await replicas.grow(2_500, size=1_000)
    await replicas.publish()
    await replicas.replicate()
    reading = most = largest = 0

    class Reading(FaultyObjectStore):
        async def get(self, key: str) -> Stored:
            nonlocal reading, most
            reading += 1
            most = max(most, reading)
            await asyncio.sleep(0)
            try:
                return await super().get(key)
            finally:
                reading -= 1

    class Writing(FaultyEntryStore):
        async def commit(
            self, rows: Sequence[Row], *, expected_size: int, frontier: tuple[bytes, ...], epoch: int
        ) -> None:
            nonlocal largest
            largest = max(largest, sum(len(row.entry) for row in rows))
            await super().commit(rows, expected_size=expected_size, frontier=frontier, epoch=epoch)

    objects = Reading(replicas.places[NEAR].objects, lambda operation, key: Outcome.PASS)
    store = Writing(MemoryEntryStore(), lambda operation, key: Outcome.PASS)
    await rebuild(await replicas.open(NEAR, objects), store)
    assert most <= 2 * 8  # PARALLEL bundles, and the tile each is checked against
    assert 1_000_000 <= largest <= 1_000_000 + 256 * 1_500, "the bound, and the bundle that reached it"


async def _commit(replicas: Replicas, rows: list[Row]) -> None:
    """Past the sequencer, as a writer that is not ours would."""
    head = await replicas.store.head()
    tree = CompactRange(head.size, head.frontier).extend([row.leaf_hash for row in rows])
    await replicas.store.commit(rows, expected_size=head.size, frontier=tree.frontier, epoch=replicas.epoch)
