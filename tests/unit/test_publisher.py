"""The publisher: what it shows is what is committed, it signs extensions only, and every crash is carried on from."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from ledger.core.checkpoint import CHECKPOINT, parse_checkpoint
from ledger.core.event import Event
from ledger.core.merkle import CompactRange, leaf_hash, root_hash, verify_consistency, verify_inclusion
from ledger.core.note import parse_vkey, verify_signature
from ledger.core.tiles import decode_bundle, decode_tile, tiles_of
from ledger.errors import Fenced, Forked, RolledBack, StoreUnavailable, Tampered
from ledger.publisher import Publisher
from ledger.reader import Reader
from ledger.sequencer import Sequencer
from ledger.store.base import ObjectStore, SignedCheckpoint
from ledger.store.faulty import FaultyEntryStore, FaultyObjectStore, Outcome
from ledger.store.memory import MemoryEntryStore, MemoryObjectStore
from pki.keystore.file import LogSigner
from tests.support.ledgers import FixedClock, log_signer
from tests.support.weather import Database, Remote, Weather

ORIGIN = "example.test/log"


@pytest.fixture(scope="module")
def signer() -> LogSigner:
    return log_signer(ORIGIN)


async def grow(store: MemoryEntryStore, count: int) -> int:
    """Append `count` more events; returns the writer's epoch."""
    async with Sequencer(store, FixedClock()) as sequencer:
        start = (await store.head()).size
        for first in range(start, start + count, 4000):
            await sequencer.append(
                [
                    Event(id=f"e{n}", source="urn:t", type="t.v1", subject=f"s{n % 100}", data=b"%d" % n)
                    for n in range(first, min(first + 4000, start + count))
                ],
                actor="local:test",
            )
        return sequencer.epoch


async def assert_published(store: MemoryEntryStore, objects: ObjectStore, signer: LogSigner) -> None:
    """Every tile and bundle of the tree is there and right, computed from the entries alone."""
    entries = [stored.entry for stored in await store.read(0, 1_000_000)]
    opened = parse_checkpoint((await objects.get(CHECKPOINT)).data)
    assert verify_signature(opened.note, parse_vkey(signer.vkey))
    size = opened.checkpoint.size
    hashes = [leaf_hash(entry) for entry in entries[:size]]
    assert opened.checkpoint.root == root_hash(hashes)
    for tile in tiles_of(size):
        data = (await objects.get(tile.path)).data
        if tile.level < 0:
            assert decode_bundle(data, tile.width) == entries[tile.index * 256 : tile.index * 256 + tile.width]
            continue
        span = 256**tile.level
        first = tile.index * 256
        expected = [root_hash(hashes[(first + i) * span : (first + i + 1) * span]) for i in range(tile.width)]
        assert decode_tile(data, tile.width) == expected, tile.path


async def test_growth_in_any_steps_publishes_the_same_tree(signer: LogSigner) -> None:
    store, objects = MemoryEntryStore(), MemoryObjectStore()
    total = 0
    for step in (1, 254, 1, 1, 255, 256, 700, 1, 0):
        total += step
        epoch = await grow(store, step)
        signed = await Publisher(store, objects, signer, ORIGIN, epoch=epoch).publish()
        assert signed.size == total
        await assert_published(store, objects, signer)
    keys = [key async for key in objects.list_keys("tile/")]
    # Only the right edge is partial: completed partials are gone.
    assert {key.rsplit(".p", 1)[0] for key in keys if ".p/" in key} == {
        tile.path.rsplit(".p", 1)[0] for tile in tiles_of(total) if tile.partial
    }


async def test_three_levels(signer: LogSigner) -> None:
    store, objects = MemoryEntryStore(), MemoryObjectStore()
    epoch = await grow(store, 65_530)
    publisher = Publisher(store, objects, signer, ORIGIN, epoch=epoch)
    await publisher.publish()
    epoch = await grow(store, 300)
    await Publisher(store, objects, signer, ORIGIN, epoch=epoch).publish()
    await assert_published(store, objects, signer)


async def test_proofs_from_the_published_tiles_verify(signer: LogSigner) -> None:
    store, objects = MemoryEntryStore(), MemoryObjectStore()
    epoch = await grow(store, 600)
    await Publisher(store, objects, signer, ORIGIN, epoch=epoch).publish()
    reader = Reader(store, objects)
    root = (await reader.published()).checkpoint.root
    for index in (0, 1, 255, 256, 511, 512, 599):
        receipt = await reader.prove(index)
        verify_inclusion(leaf_hash((await reader.entry(index)).entry), index, 600, list(receipt.hashes), root)
    hashes = [row.leaf_hash for row in await store.rows(0, 600)]
    for old in (1, 255, 256, 257, 599, 600):
        proof = await reader.prove_consistency(old, 600)
        verify_consistency(old, 600, CompactRange.empty().extend(hashes[:old]).root(), root, proof)


@pytest.mark.parametrize("outcome", [Outcome.FAIL_NOT_PERSISTED, Outcome.FAIL_PERSISTED])
async def test_a_crash_at_any_write_is_carried_on_from(signer: LogSigner, outcome: Outcome) -> None:
    """Fail the k-th write, for every k there is; the next publish finishes, and no size is ever signed twice."""
    for step in range(1, 60):
        store, objects = MemoryEntryStore(), MemoryObjectStore()
        epoch = await grow(store, 300)
        await Publisher(store, objects, signer, ORIGIN, epoch=epoch).publish()
        epoch = await grow(store, 300)
        writes = 0

        def hook(operation: str, key: str, step: int = step) -> Outcome:
            nonlocal writes
            writes += 1
            return outcome if writes == step else Outcome.PASS

        failing = Publisher(
            FaultyEntryStore(store, hook), FaultyObjectStore(objects, hook), signer, ORIGIN, epoch=epoch, parallel=1
        )
        with suppress(StoreUnavailable):
            await failing.publish()
        await failing.publish()
        epoch = await grow(store, 10)
        assert (await Publisher(store, objects, signer, ORIGIN, epoch=epoch).publish()).size == 610
        await assert_published(store, objects, signer)
        if writes < step:
            return
    raise AssertionError("a publish of 300 entries makes fewer writes than that")


async def test_it_never_signs_what_does_not_extend_the_last_checkpoint(signer: LogSigner) -> None:
    store, objects = MemoryEntryStore(), MemoryObjectStore()
    epoch = await grow(store, 300)
    await Publisher(store, objects, signer, ORIGIN, epoch=epoch).publish()
    shown = (await objects.get(CHECKPOINT)).data

    other = MemoryEntryStore()  # the store is swapped for one with another history
    async with Sequencer(other, FixedClock()) as sequencer:
        await sequencer.append([Event(id="x", source="urn:t", type="t.v1", data=b"0")], actor="local:mallory")
        epoch = sequencer.epoch
    with pytest.raises(Tampered, match="none recorded"):
        await Publisher(other, objects, signer, ORIGIN, epoch=epoch).publish()
    last = await store.last_checkpoint(ORIGIN)
    assert last is not None
    forged = SignedCheckpoint(ORIGIN, 300, b"\0" * 32, last.note)
    await other.record_checkpoint(forged, expected_size=None, epoch=epoch)
    with pytest.raises(Forked):
        await Publisher(other, objects, signer, ORIGIN, epoch=epoch).publish()
    assert (await objects.get(CHECKPOINT)).data == shown


async def test_a_damaged_tile_on_the_right_edge_stops_signing(signer: LogSigner) -> None:
    store, objects = MemoryEntryStore(), MemoryObjectStore()
    epoch = await grow(store, 300)
    await Publisher(store, objects, signer, ORIGIN, epoch=epoch).publish()
    stored = await objects.get("tile/0/001.p/44")
    await objects.delete("tile/0/001.p/44")
    await objects.put_immutable("tile/0/001.p/44", bytes([stored.data[0] ^ 1]) + stored.data[1:])
    epoch = await grow(store, 1)
    with pytest.raises(Tampered, match="right edge"):
        await Publisher(store, objects, signer, ORIGIN, epoch=epoch).publish()


async def test_a_fenced_publisher_shows_nothing(signer: LogSigner) -> None:
    store, objects = MemoryEntryStore(), MemoryObjectStore()
    epoch = await grow(store, 5)
    await grow(store, 5)  # somebody else has become the writer
    with pytest.raises(Fenced):
        await Publisher(store, objects, signer, ORIGIN, epoch=epoch).publish()
    assert [key async for key in objects.list_keys(CHECKPOINT)] == []


async def test_those_who_publish_at_once_do_so_one_after_the_other(signer: LogSigner) -> None:
    weather = Weather(0)
    weather.calm = True
    store, objects = MemoryEntryStore(), MemoryObjectStore()
    slow = Database(store, weather), Remote(objects, weather)
    publisher = Publisher(*slow, signer, ORIGIN, epoch=await grow(store, 300))
    first, *others = await asyncio.gather(*(publisher.publish() for _ in range(4)))
    assert others == [first] * 3
    await assert_published(store, objects, signer)


async def test_an_empty_log_is_published_and_grown_from(signer: LogSigner) -> None:
    store, objects = MemoryEntryStore(), MemoryObjectStore()
    epoch = await grow(store, 0)
    assert (await Publisher(store, objects, signer, ORIGIN, epoch=epoch).publish()).size == 0
    epoch = await grow(store, 300)
    assert (await Publisher(store, objects, signer, ORIGIN, epoch=epoch).publish()).size == 300
    await assert_published(store, objects, signer)


@pytest.mark.parametrize("index", [256, 299])
async def test_an_entry_damaged_after_it_was_signed_for_is_not_published_once_more(
    signer: LogSigner, index: int
) -> None:
    """The right edge's entries go into the next bundle again: they must still be those that were signed for."""
    store, objects = MemoryEntryStore(), MemoryObjectStore()
    epoch = await grow(store, 300)
    await Publisher(store, objects, signer, ORIGIN, epoch=epoch).publish()
    before = dict(objects._objects)
    store._rows[index] = store._rows[index]._replace(entry=store._rows[index].entry.replace(b"thing", b"THING") + b" ")
    epoch = await grow(store, 10)
    with pytest.raises(Tampered, match="entries 256 to 299 are not those that were signed for"):
        await Publisher(store, objects, signer, ORIGIN, epoch=epoch).publish()
    assert objects._objects == before


async def test_a_store_older_than_what_it_published_is_told_from_a_fork(signer: LogSigner) -> None:
    old, objects = MemoryEntryStore(), MemoryObjectStore()
    epoch = await grow(old, 10)
    await Publisher(old, objects, signer, ORIGIN, epoch=epoch).publish()
    last = await old.last_checkpoint(ORIGIN)
    assert last is not None
    await Publisher(old, objects, signer, ORIGIN, epoch=await grow(old, 10)).publish()
    before = dict(objects._objects)
    restored = MemoryEntryStore()  # from yesterday's backup
    epoch = await grow(restored, 10)
    await restored.record_checkpoint(last, expected_size=None, epoch=epoch)
    await grow(restored, 30)
    with pytest.raises(RolledBack, match=r"ends at size 10, but size 20 has been published; the store is an older"):
        await Publisher(restored, objects, signer, ORIGIN, epoch=await restored.claim()).publish()
    assert objects._objects == before


@pytest.mark.parametrize("path", ["tile/0/001.p/44", "tile/1/000.p/1"])
@pytest.mark.parametrize("data", [None, b"", b"short", b"x" * 32 * 45], ids=["missing", "empty", "short", "long"])
async def test_a_tile_of_the_wrong_length_is_named(signer: LogSigner, path: str, data: bytes | None) -> None:
    store, objects = MemoryEntryStore(), MemoryObjectStore()
    epoch = await grow(store, 300)
    await Publisher(store, objects, signer, ORIGIN, epoch=epoch).publish()
    await objects.delete(path)
    if data is not None:
        await objects.put_immutable(path, data)
    epoch = await grow(store, 1)
    with pytest.raises(Tampered, match=path) as named:
        await Publisher(store, objects, signer, ORIGIN, epoch=epoch).publish()
    assert named.value.key == path
    assert named.value.hint
