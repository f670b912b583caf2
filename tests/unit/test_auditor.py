"""The audit of a primary: entries, what they are found by, the tree, the published copy, the checkpoint."""

from __future__ import annotations

import pytest

from ledger.auditor import Audited, audit_ledger
from ledger.core.checkpoint import CHECKPOINT
from ledger.core.entry import decode_entry
from ledger.core.event import Event
from ledger.core.merkle import CompactRange
from ledger.errors import Tampered
from ledger.keyring import KEYRING
from ledger.sequencer import row_of
from ledger.store.base import Head, Row
from ledger.store.memory import MemoryEntryStore
from tests.support.ledgers import append, log_signer
from tests.support.replicas import ORIGIN, Replicas, entries_of, overwrite, signed

SIZE = 700


async def audit(replicas: Replicas) -> Audited:
    return await audit_ledger(replicas.store, replicas.published, replicas.log)


async def published() -> Replicas:
    """700 entries published, 20 more committed."""
    replicas = await Replicas(sites=[]).begin()
    await replicas.grow(SIZE)
    await replicas.publish()
    await replicas.grow(SIZE + 20)
    return replicas


def edit(replicas: Replicas, index: int, row: Row) -> None:
    """What somebody with write access to the database can do."""
    assert isinstance(replicas.store, MemoryEntryStore)
    replicas.store._rows[index] = row


async def row_at(replicas: Replicas, index: int) -> Row:
    (row,) = await replicas.store.rows(index, 1)
    return row


async def forged() -> Row:
    """A well-formed row of another entry."""
    store = MemoryEntryStore()
    await append(store, [Event(id="forged", source="urn:test", type="thing.happened.v1", subject="s1")])
    (row,) = await store.rows(0, 1)
    return row


async def test_a_whole_ledger_is_found_whole_with_what_is_not_published_yet() -> None:
    replicas = await published()
    root = (await replicas.store.last_checkpoint(ORIGIN)).root  # type: ignore[union-attr]
    assert await audit(replicas) == Audited(SIZE + 20, SIZE, root)
    await replicas.publish()
    assert (await audit(replicas)).published == SIZE + 20


@pytest.mark.parametrize("index", [0, 255, 256, SIZE - 1, SIZE, SIZE + 19])
async def test_an_entry_that_was_replaced_is_named(index: int) -> None:
    replicas = await published()
    edit(replicas, index, await forged())
    with pytest.raises(Tampered) as caught:
        await audit(replicas)
    assert f"entry {index}" in str(caught.value) or index >= SIZE, "what is signed is told entry by entry"


@pytest.mark.parametrize("index", [3, SIZE + 3])
@pytest.mark.parametrize(
    "change",
    [
        {"source": "urn:other"}, {"id": "other"}, {"subject": "other"}, {"streamversion": 77}, {"type": "other.v1"},
        {"actor": "local:mallory"}, {"time_us": 1}, {"recordedtime_us": 1}, {"leaf_hash": b"\0" * 32},
    ],
)  # fmt: skip
async def test_an_index_that_says_otherwise_than_the_entry_is_named(index: int, change: dict[str, object]) -> None:
    replicas = await published()
    edit(replicas, index, (await row_at(replicas, index))._replace(**change))  # type: ignore[arg-type]
    with pytest.raises(Tampered, match=f"entry {index} was changed"):
        await audit(replicas)


async def test_bytes_that_are_no_entry_are_named() -> None:
    replicas = await published()
    edit(replicas, SIZE + 5, (await row_at(replicas, SIZE + 5))._replace(entry=b"{}"))
    with pytest.raises(Tampered, match=f"entry {SIZE + 5} was changed: it is no entry"):
        await audit(replicas)


@pytest.mark.parametrize("left", [0, 100, SIZE - 1, SIZE, SIZE + 19])
async def test_entries_that_are_gone_are_missed(left: int) -> None:
    replicas = await published()
    assert isinstance(replicas.store, MemoryEntryStore)
    head = await replicas.store.head()

    class Cut(MemoryEntryStore):
        async def head(self) -> Head:
            return head

    cut = Cut()
    cut._rows = replicas.store._rows[:left]
    cut._checkpoints = replicas.store._checkpoints
    replicas.store = cut
    with pytest.raises(Tampered, match=f"entry {left}"):
        await audit(replicas)


@pytest.mark.parametrize(
    "key", ["tile/entries/001", "tile/entries/002.p/188", "tile/0/000", "tile/0/002.p/188", "tile/1/000.p/2", KEYRING]
)
async def test_a_published_object_that_was_changed_or_removed_is_named(key: str) -> None:
    replicas = await published()
    if key == KEYRING:
        key += replicas.keyid
    data = bytearray((await replicas.published.get(key)).data)
    data[5] ^= 1
    await overwrite(replicas.published, key, bytes(data))
    for _ in range(2):
        with pytest.raises(Tampered) as caught:
            await audit(replicas)
        assert caught.value.key == key
        await replicas.published.delete(key)


async def test_the_checkpoint_must_be_the_last_one_the_store_recorded() -> None:
    replicas = await published()
    older = (await replicas.published.get(CHECKPOINT)).data
    await replicas.publish()
    newest = (await replicas.published.get(CHECKPOINT)).data
    entries = await entries_of(replicas.store)
    wrong = {
        "older": older,
        "edited": newest.replace(b"\n720\n", b"\n719\n"),
        "nonsense": b"nonsense\n",
        "by another key": signed(entries, log_signer("example.test/mallory")),
        "another history": signed([*entries[:-1], b"x"], replicas.signer),
    }
    for what, data in wrong.items():
        await overwrite(replicas.published, CHECKPOINT, data)
        with pytest.raises(Tampered, match=CHECKPOINT) as caught:
            await audit(replicas)
        assert caught.value.key == CHECKPOINT, what
    await replicas.published.delete(CHECKPOINT)
    with pytest.raises(Tampered, match="checkpoint is missing"):
        await audit(replicas)
    await replicas.published.put_immutable(CHECKPOINT, newest)
    await audit(replicas)


async def test_a_store_that_is_whole_in_itself_but_another_one_is_not_the_ledger() -> None:
    """Every row, index and hash is consistent; only what was published and signed gives it away."""
    replicas = await published()
    store = MemoryEntryStore()
    rows = list(await replicas.store.rows(0, SIZE + 20))
    await append(store, [Event(id="x", source="urn:forged", type="t.v1")])
    rows[400] = (await store.rows(0, 1))[0]
    again = MemoryEntryStore()
    rows = [row_of(decode_entry(row.entry), row.entry) for row in rows]
    tree = CompactRange.empty().extend([row.leaf_hash for row in rows])
    again._rows, again._frontier = rows, tree.frontier
    again._checkpoints = replicas.store._checkpoints  # type: ignore[attr-defined]
    replicas.store = again
    with pytest.raises(Tampered, match="entry 400 was changed: it is not the entry that was published"):
        await audit(replicas)
