"""The reader: live without a gap, page by page without a repeat, and no proof out of a damaged copy."""

from __future__ import annotations

import asyncio
import sys
from contextlib import aclosing
from pathlib import Path

import pytest

from ledger.core.checkpoint import CHECKPOINT, Checkpoint, OpenedCheckpoint, parse_checkpoint
from ledger.core.entry import decode_entry
from ledger.core.merkle import leaf_hash, root_hash, verify_consistency, verify_inclusion
from ledger.core.note import format_note
from ledger.core.proof import Receipt
from ledger.core.tiles import tiles_of
from ledger.errors import Forked, InvalidRequest, Tampered
from ledger.publisher import Publisher, sign_checkpoint
from ledger.reader import PAGE_ENTRIES, Reader
from ledger.sequencer import CommitSignal, Sequencer
from ledger.store.base import EntryStore, ObjectStore, Selection, StoredEntry
from ledger.store.memory import MemoryEntryStore, MemoryObjectStore
from ledger.store.sqlite import SqliteEntryStore
from tests.contract.writer import batch_of
from tests.support.ledgers import ACTOR, FixedClock, append, event, log_signer

ORIGIN = "example.test/reader"
ROOT = Path(__file__).parents[2]
FOR_EVER_S = 3_600.0
"""A poll interval that no test waits for: what arrives has been signalled."""


async def published(size: int) -> tuple[MemoryEntryStore, MemoryObjectStore]:
    store, objects = MemoryEntryStore(), MemoryObjectStore()
    await grow(store, objects, size)
    return store, objects


async def grow(store: EntryStore, objects: ObjectStore, count: int) -> None:
    first = (await store.head()).size
    _, epoch = await append(store, [event(n) for n in range(first, first + count)])
    await Publisher(store, objects, log_signer(ORIGIN), ORIGIN, epoch=epoch).publish()


async def follow(reader: Reader, start: int, count: int, *, poll_s: float = FOR_EVER_S) -> list[StoredEntry]:
    """The next `count` entries from `start` on, live."""
    found: list[StoredEntry] = []
    async with aclosing(reader.tail(start, poll_s=poll_s)) as entries:  # type: ignore[type-var]
        async for stored in entries:
            found.append(stored)
            if len(found) == count:
                break
    return found


# -- live ---------------------------------------------------------------------------------------------------------


async def test_a_live_reader_sees_every_entry_once_and_in_order_while_many_append() -> None:
    store = MemoryEntryStore()
    await append(store, [event(n) for n in range(PAGE_ENTRIES + 10)])  # more than a page to catch up with
    async with Sequencer(store, FixedClock()) as sequencer:
        reader = Reader(store, MemoryObjectStore(), committed=sequencer.committed)
        total = PAGE_ENTRIES + 10 + 300
        readers = [asyncio.create_task(follow(reader, start, total - start)) for start in (0, 7, total - 1)]
        for first in range(PAGE_ENTRIES + 10, total, 30):
            calls = (sequencer.append([event(n)], actor=ACTOR) for n in range(first, first + 30))
            await asyncio.gather(*calls)
        for start, task in zip((0, 7, total - 1), readers, strict=True):
            assert [stored.index for stored in await task] == list(range(start, total))


async def test_a_commit_between_looking_and_waiting_is_not_slept_through() -> None:
    """The page was read empty, then something is committed, then the reader begins to wait."""
    inner, committed = MemoryEntryStore(), CommitSignal()

    class LateStore(MemoryEntryStore):
        async def read(self, start: int, limit: int) -> list[StoredEntry]:  # type: ignore[override]
            page = list(await inner.read(start, limit))
            if not page:
                await append(inner, [event(start)])
                committed.set()
            return page

    found = await asyncio.wait_for(follow(Reader(LateStore(), MemoryObjectStore(), committed=committed), 0, 5), 30)
    assert [stored.index for stored in found] == [0, 1, 2, 3, 4]


async def test_commits_of_another_process_arrive_live_and_in_order(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    store = await SqliteEntryStore.open(path, create=True)
    try:
        batches = 120
        following = asyncio.create_task(
            follow(Reader(store, MemoryObjectStore()), 0, batch_of(batches)[0], poll_s=0.005)
        )
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.contract.writer", f"sqlite:{path}", str(batches)),
            cwd=ROOT,
            stdout=asyncio.subprocess.DEVNULL,
        )
        assert await process.wait() == 0
        found = await asyncio.wait_for(following, 30)
        assert [stored.index for stored in found] == list(range(batch_of(batches)[0]))
        assert [stored.entry.split()[1] for stored in found] == [b"%d" % n for n in range(batch_of(batches)[0])]
    finally:
        await store.close()


async def test_a_reader_that_leaves_is_forgotten() -> None:
    committed = CommitSignal()
    reader = Reader(MemoryEntryStore(), MemoryObjectStore(), committed=committed)
    tasks = [asyncio.create_task(follow(reader, 0, 1)) for _ in range(10)]
    while len(committed._waiters) < 10:
        await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert not committed._waiters


# -- by index and condition ---------------------------------------------------------------------------------------


async def test_every_match_is_found_over_many_pages_in_both_directions(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("ledger.reader", "ledger.store.selecting"):
        monkeypatch.setattr(f"{module}.PAGE_ENTRIES", 10)
    store = MemoryEntryStore()
    await append(store, [event(n, source=f"urn:{'ab'[n % 3 == 0]}") for n in range(200)])
    reader = Reader(store, MemoryObjectStore())
    expected = [n for n in range(200) if n % 3 == 0]
    for limit in (None, 0, 1, 9, 10, 11, 66, 67, 1_000):
        upwards = [one.index async for one in reader.selected(Selection(source="urn:b"), limit=limit)]
        assert upwards == expected[:limit]
        what = Selection(source="urn:b", newest_first=True)
        assert [one.index async for one in reader.selected(what, limit=limit)] == expected[::-1][:limit]
    within = Selection(source="urn:b", start=5, stop=150, newest_first=True)
    assert [one.index async for one in reader.selected(within)] == [n for n in reversed(expected) if 5 <= n < 150]
    for start, stop in ((0, None), (3, 47), (0, 200), (190, 500), (7, 7), (9, 3)):
        assert [one.index async for one in reader.entries(start, stop)] == list(range(200))[start:stop]


@pytest.mark.parametrize("index", [-1, 3, 2**80])
async def test_an_entry_that_is_not_there_is_named_with_what_there_is(tmp_path: Path, index: int) -> None:
    store = await SqliteEntryStore.open(tmp_path / "ledger.sqlite", create=True)
    try:
        reader = Reader(store, MemoryObjectStore())
        with pytest.raises(InvalidRequest, match=f"no entry {index}; the ledger has 0; append something first"):
            await reader.entry(index)
        await append(store, [event(n) for n in range(3)])
        with pytest.raises(InvalidRequest, match=f"no entry {index}; the ledger has 3; ask for 0 to 2"):
            await reader.entry(index)
        assert decode_entry((await reader.entry(2)).entry).event.id == "e2"
    finally:
        await store.close()


# -- proofs -------------------------------------------------------------------------------------------------------


async def test_receipts_against_any_checkpoint_of_the_log_verify() -> None:
    store, objects = MemoryEntryStore(), MemoryObjectStore()
    reader = Reader(store, objects)
    checkpoints = []
    for step in (1, 3, 252, 1, 43, 700):
        await grow(store, objects, step)
        checkpoints.append(await reader.published())
    entries = [stored.entry async for stored in reader.entries()]
    hashes = [leaf_hash(entry) for entry in entries]
    for opened in checkpoints:  # old ones too, although their partial tiles are gone
        size, root = opened.checkpoint.size, opened.checkpoint.root
        for index in {0, size // 2, size - 1, min(size - 1, 255), min(size - 1, 256)}:
            receipt = await reader.prove(index, opened)
            verify_inclusion(hashes[index], index, size, list(receipt.hashes), root)
            assert parse_checkpoint(receipt.checkpoint) == opened
        verify_consistency(size, 1_000, root, root_hash(hashes), await reader.prove_consistency(size, 1_000))
    for old, new in ((2, 256), (256, 257), (300, 999), (999, 999)):
        proof = await reader.prove_consistency(old, new)
        verify_consistency(old, new, root_hash(hashes[:old]), root_hash(hashes[:new]), proof)


async def test_what_is_not_covered_is_refused() -> None:
    store, objects = MemoryEntryStore(), MemoryObjectStore()
    reader = Reader(store, objects)
    with pytest.raises(InvalidRequest, match="not published a checkpoint yet"):
        await reader.prove(0)
    await grow(store, objects, 5)
    old = await reader.published()
    await append(store, [event(n) for n in range(5, 9)])  # committed, not published
    for index in (-1, 5, 2**70):
        with pytest.raises(InvalidRequest, match=f"entry {index} is not covered by the checkpoint of size 5"):
            await reader.prove(index)
    for sizes in ((0, 6), (4, 3), (-1, 3)):
        with pytest.raises(InvalidRequest, match="no proof from size"):
            await reader.prove_consistency(*sizes)
    await grow(store, objects, 1)
    newer = await reader.published()
    await objects.replace(CHECKPOINT, note_of(old), expected=(await objects.get(CHECKPOINT)).tag)
    with pytest.raises(InvalidRequest, match="newer than the published one of size 5"):
        await reader.prove(0, newer)


def note_of(opened: OpenedCheckpoint) -> bytes:
    return format_note(opened.note)


@pytest.mark.parametrize("act", ["missing", "flipped", "cut", "swapped"])
async def test_no_proof_comes_out_of_a_damaged_tile_and_the_tile_is_named(act: str) -> None:
    """Every hash tile there is, one at a time: no proof that does not verify, and whoever fails names the tile."""
    size = 256 * 3 + 40
    store, objects = await published(size)
    reader = Reader(store, objects)
    opened = await reader.published()
    hashes = [row.leaf_hash for row in await store.rows(0, size)]
    blamed: set[str] = set()
    tiles = [tile.path for tile in tiles_of(size) if tile.level >= 0]
    for path in tiles:
        whole = objects._objects[path]
        other = next(data for key, data in objects._objects.items() if key in tiles and key != path)
        bad = {"flipped": whole[:5] + bytes([whole[5] ^ 1]) + whole[6:], "cut": whole[:-1], "swapped": other}
        if act == "missing":
            del objects._objects[path]
        else:
            objects._objects[path] = bad[act]
        for index in range(0, size, 97):
            [answer] = await asyncio.gather(reader.prove(index), return_exceptions=True)
            if isinstance(answer, Receipt):
                verify_inclusion(hashes[index], index, size, list(answer.hashes), opened.checkpoint.root)
                continue
            assert isinstance(answer, Tampered), answer
            assert answer.key == path
            assert path in str(answer)
            assert str(answer).isprintable()
            blamed.add(path)
        objects._objects[path] = whole
    assert blamed == set(tiles)


async def test_an_entry_that_is_not_the_published_one_gets_no_receipt() -> None:
    store, objects = await published(300)
    store._rows[7], store._rows[8] = store._rows[8], store._rows[7]
    with pytest.raises(Tampered, match="entry 7 is not the one that was published"):
        await Reader(store, objects).prove(7)


async def test_a_checkpoint_of_another_history_gets_no_receipt() -> None:
    store, objects = await published(300)
    strange = MemoryEntryStore()
    await append(strange, [event(n, source="urn:forged") for n in range(200)])
    tree = [row.leaf_hash for row in await strange.rows(0, 200)]
    forged = parse_checkpoint(sign_checkpoint(Checkpoint(ORIGIN, 200, root_hash(tree)), log_signer(ORIGIN)))
    with pytest.raises(Forked, match="does not extend the checkpoint of size 200"):
        await Reader(store, objects).prove(0, forged)


async def test_a_damaged_checkpoint_is_named() -> None:
    store, objects = await published(3)
    objects._objects[CHECKPOINT] = objects._objects[CHECKPOINT][:-9]
    with pytest.raises(Tampered, match=r"memory/checkpoint is damaged: .*move it aside") as damaged:
        await Reader(store, objects).published()
    assert damaged.value.key == CHECKPOINT
    epoch = await store.claim()
    publisher = Publisher(store, objects, log_signer(ORIGIN), ORIGIN, epoch=epoch)
    with pytest.raises(Tampered, match="move it aside"):
        await publisher.publish()
    await objects.delete(CHECKPOINT)  # the advice is good
    assert (await publisher.publish()).size == (await Reader(store, objects).published()).checkpoint.size == 3


async def test_proving_goes_on_while_the_log_is_published_further() -> None:
    """The reader has read the checkpoint; then the log grows, and the partial tiles it meant to read are cleared."""
    store, objects = await published(255)
    reader = Reader(store, objects)
    old = await reader.published()

    class Overtaken(MemoryObjectStore):
        async def get(self, key: str) -> object:  # type: ignore[override]
            stored = await objects.get(key)
            if key == CHECKPOINT and stored.data == note_of(old):
                await grow(store, objects, 300)
            return stored

    receipt = await Reader(store, Overtaken()).prove(17)
    leaf = leaf_hash((await reader.entry(17)).entry)
    verify_inclusion(leaf, 17, 255, list(receipt.hashes), old.checkpoint.root)
