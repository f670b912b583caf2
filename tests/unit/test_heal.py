"""One object is healed: kept aside first, replaced only while it is what was looked at, read back."""

from __future__ import annotations

import json

import pytest

from ledger.errors import CompareFailed, StoreUnavailable
from ledger.store.base import ObjectStore, Stored, Tag
from ledger.store.memory import MemoryObjectStore
from replication.heal import Evidence, put_genuine
from tests.support.ledgers import FixedClock, contents

KEY = "tile/0/000"


@pytest.fixture
def objects() -> MemoryObjectStore:
    return MemoryObjectStore("site")


async def test_a_damaged_object_is_replaced_and_a_missing_one_put_back(objects: MemoryObjectStore) -> None:
    await objects.put_immutable(KEY, b"rotten")
    await put_genuine(objects, KEY, b"genuine", await objects.get(KEY))
    await put_genuine(objects, "tile/0/001", b"lost", None)
    assert await contents(objects) == {KEY: b"genuine", "tile/0/001": b"lost"}


@pytest.mark.parametrize("meanwhile", [b"another", None])
async def test_whoever_has_written_it_meanwhile_wins(objects: MemoryObjectStore, meanwhile: bytes | None) -> None:
    await objects.put_immutable(KEY, b"rotten")
    looked_at = await objects.get(KEY)
    await objects.delete(KEY)
    if meanwhile is not None:
        await objects.put_immutable(KEY, meanwhile)
    with pytest.raises(CompareFailed):
        await put_genuine(objects, KEY, b"genuine", looked_at)
    assert await contents(objects) == ({} if meanwhile is None else {KEY: meanwhile})


async def test_what_is_there_again_is_not_overwritten(objects: MemoryObjectStore) -> None:
    await objects.put_immutable(KEY, b"another")
    with pytest.raises(CompareFailed, match="there again"):
        await put_genuine(objects, KEY, b"genuine", None)
    assert await contents(objects) == {KEY: b"another"}


class Forgetful(MemoryObjectStore):
    """A disk that acknowledges a write and does not make it."""

    async def replace(self, key: str, data: bytes, *, expected: Tag | None) -> Tag:
        return Tag("written")


async def test_a_write_that_was_not_made_is_no_healing() -> None:
    objects: ObjectStore = Forgetful("site")
    await objects.put_immutable(KEY, b"rotten")
    with pytest.raises(StoreUnavailable, match="does not hold what was just written"):
        await put_genuine(objects, KEY, b"genuine", Stored(b"rotten", Tag("any")))


async def test_evidence_says_what_it_is_and_the_same_damage_is_kept_once() -> None:
    kept, clock = MemoryObjectStore("evidence"), FixedClock()
    evidence = Evidence(kept, "example.test/log", clock)
    name = await evidence.keep("one", KEY, b"rotten", "it is rotten")
    first = await contents(kept)
    clock.advance(60)
    assert await evidence.keep("one", KEY, b"rotten", "it is rotten") == name
    assert await contents(kept) == first
    assert first[name] == b"rotten"
    about = json.loads(first[name.removesuffix(".object") + ".json"])
    assert (about["origin"], about["site"], about["key"]) == ("example.test/log", "one", KEY)
    assert (about["time"], about["size"]) == ("2026-11-24T00:00:00.000000Z", 6)
    await evidence.keep("two", KEY, b"rotten", "it is rotten")
    await evidence.keep("one", "tile/0/001", b"rotten", "it is rotten")
    assert len(await contents(kept)) == 6
