"""The contract of `ObjectStore` (ledger/store/base.py), over every implementation, as it is and under a prefix."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from ledger.errors import CompareFailed, ImmutableConflict, InvalidRequest, JinshiError, ObjectMissing, StoreUnavailable
from ledger.store.base import ObjectStore, Prefixed, Stored, Tag, Version, VersionId
from ledger.store.directory import DirectoryStore
from ledger.store.faulty import FaultyObjectStore, Outcome
from ledger.store.memory import MemoryObjectStore

IMPLEMENTATIONS = ("memory", "directory", "s3")
RACERS = 32
PAGE_KEYS = 7
"""A page of a listing from S3 in these tests, so that few keys are many pages."""

NO_KEYS = ("", "/", "/a", "a/", "a//b", "../a", "a/../b", ".a", "a/.b", "-a", "a b", "a\n", "é", "a\0", "a\\b",
           "x" * 201, "/".join(["y" * 100] * 6))  # fmt: skip
NO_PREFIXES = ("/", "/a", "a//", "../", "a/../", ".", "a/.", "-", "a b", "*", "é", "x" * 201)


@pytest.fixture(params=[f"{name}{under}" for name in IMPLEMENTATIONS for under in ("", " under a prefix")])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    """An empty object store of each kind."""
    name, _, prefixed = request.param.partition(" ")
    store: ObjectStore
    if name == "memory":
        store = MemoryObjectStore()
    elif name == "directory":
        root = tmp_path / "objects"
        root.mkdir()
        store = DirectoryStore(root)
    else:
        store = request.getfixturevalue("s3_store")(page_keys=PAGE_KEYS)
    return Prefixed(store, "under/here/") if prefixed else store


@pytest.fixture(params=[f"{name}{under}" for name in ("memory", "s3") for under in ("", " under a prefix")])
def versioned(request: pytest.FixtureRequest) -> ObjectStore:
    """An empty object store of each kind that keeps versions."""
    name, _, prefixed = request.param.partition(" ")
    store: ObjectStore
    if name == "memory":
        store = MemoryObjectStore(versioned=True)
    else:
        store = request.getfixturevalue("s3_store")(page_keys=PAGE_KEYS, versioned=True)
    return Prefixed(store, "under/here/") if prefixed else store


async def keys_of(objects: ObjectStore, prefix: str = "") -> list[str]:
    return [key async for key in objects.list_keys(prefix)]


async def versions_of(objects: ObjectStore, prefix: str = "") -> list[Version]:
    return [version async for version in objects.list_versions(prefix)]


async def put_all(objects: ObjectStore, keys: list[str]) -> None:
    await asyncio.gather(*(objects.put_immutable(key, key.encode()) for key in keys))


def assert_one_line(error: JinshiError) -> None:
    assert str(error).isprintable(), str(error)


async def test_what_is_not_there_is_missing_by_its_own_key(objects: ObjectStore) -> None:
    with pytest.raises(ObjectMissing, match="tile/0/000 is not there") as missing:
        await objects.get("tile/0/000")
    assert missing.value.key == "tile/0/000"
    assert objects.where in str(missing.value)
    assert_one_line(missing.value)
    await objects.put_immutable("tile/0/000/x", b"1")
    with pytest.raises(ObjectMissing):  # a folder is no object
        await objects.get("tile/0/000")
    with pytest.raises(ObjectMissing):
        await objects.get("tile/0/000/x/y")


@pytest.mark.parametrize("data", [b"", b"\0", bytes(range(256)) * 4096], ids=["empty", "one byte", "1 MiB"])
async def test_any_bytes_come_back_as_they_were_stored(objects: ObjectStore, data: bytes) -> None:
    await objects.put_immutable("a/object", data)
    assert (await objects.get("a/object")).data == data
    await objects.put_immutable("a/object", data)
    tag = await objects.replace("b/object", b"something else", expected=None)
    tag = await objects.replace("b/object", data, expected=tag)
    assert await objects.get("b/object") == Stored(data, tag)


async def test_an_immutable_object_is_stored_once(objects: ObjectStore) -> None:
    await objects.put_immutable("a", b"first")
    before = await objects.get("a")
    await objects.put_immutable("a", b"first")
    for other in (b"", b"First", b"first "):
        with pytest.raises(ImmutableConflict) as conflict:
            await objects.put_immutable("a", other)
        assert_one_line(conflict.value)
    assert await objects.get("a") == before


async def test_compare_and_swap_writes_only_over_what_was_read(objects: ObjectStore) -> None:
    with pytest.raises(CompareFailed):
        await objects.replace("head", b"0", expected=Tag('"d41d8cd98f00b204e9800998ecf8427e"'))
    assert await keys_of(objects) == []
    first = await objects.replace("head", b"1", expected=None)
    with pytest.raises(CompareFailed) as lost:
        await objects.replace("head", b"2", expected=None)
    assert_one_line(lost.value)
    second = await objects.replace("head", b"3", expected=(await objects.get("head")).tag)
    with pytest.raises(CompareFailed):
        await objects.replace("head", b"4", expected=first)
    assert await objects.get("head") == Stored(b"3", second)
    await objects.delete("head")
    with pytest.raises(CompareFailed):
        await objects.replace("head", b"5", expected=second)
    assert await keys_of(objects) == []


@pytest.mark.parametrize("there", [False, True], ids=["on nothing", "on an object"])
async def test_one_of_many_racing_swaps_wins(objects: ObjectStore, there: bool) -> None:
    tag = await objects.replace("lease", b"old", expected=None) if there else None
    results = await asyncio.gather(
        *(objects.replace("lease", b"writer %d" % n, expected=tag) for n in range(RACERS)), return_exceptions=True
    )
    won = [n for n, result in enumerate(results) if isinstance(result, str)]
    assert len(won) == 1, results
    assert [type(result) for n, result in enumerate(results) if n not in won] == [CompareFailed] * (RACERS - 1)
    assert await objects.get("lease") == Stored(b"writer %d" % won[0], Tag(str(results[won[0]])))


async def test_of_racing_immutable_writes_one_set_of_bytes_wins(objects: ObjectStore) -> None:
    results = await asyncio.gather(
        *(objects.put_immutable("tile", b"half %d" % (n % 2)) for n in range(RACERS)), return_exceptions=True
    )
    stored = (await objects.get("tile")).data
    assert stored in (b"half 0", b"half 1")
    for n, result in enumerate(results):
        assert (result is None) == (stored == b"half %d" % (n % 2)), results
        assert result is None or isinstance(result, ImmutableConflict), results


async def test_deleting_is_idempotent_and_frees_the_key(objects: ObjectStore) -> None:
    await objects.delete("a/b/c")
    await put_all(objects, ["a/b/c", "a/b/d", "top"])
    for _ in range(2):
        await objects.delete("a/b/c")
        await objects.delete("top")
    await objects.delete("a/b")  # a folder is no object
    with pytest.raises(ObjectMissing):
        await objects.get("a/b/c")
    assert await keys_of(objects) == ["a/b/d"]
    await objects.put_immutable("a/b/c", b"other bytes")
    assert (await objects.get("a/b/c")).data == b"other bytes"


async def test_purging_removes_one_object_for_good_and_nothing_beside_it(objects: ObjectStore) -> None:
    await objects.purge("keyring/a")
    await put_all(objects, ["keyring/a", "keyring/a-b", "keyring/a.b", "keyring/a0", "keyring/b"])
    for _ in range(2):
        await objects.purge("keyring/a")
    with pytest.raises(ObjectMissing):
        await objects.get("keyring/a")
    assert await keys_of(objects) == ["keyring/a-b", "keyring/a.b", "keyring/a0", "keyring/b"]
    await objects.purge("keyring")  # a folder is no object
    assert await keys_of(objects) == ["keyring/a-b", "keyring/a.b", "keyring/a0", "keyring/b"]


async def test_what_was_written_deleted_and_written_again_is_purged_and_its_key_is_free(objects: ObjectStore) -> None:
    """Every version of it, and the marks of deletions between them; what is recorded afterwards is a first version."""
    for data in (b"first", b"second", b"second"):
        await objects.put_immutable("keyring/k", data)
        await objects.delete("keyring/k")
    tag = await objects.replace("keyring/k", b"third", expected=None)
    await objects.replace("keyring/k", b"fourth", expected=tag)
    await objects.purge("keyring/k")
    with pytest.raises(ObjectMissing):
        await objects.get("keyring/k")
    assert await keys_of(objects) == []
    with pytest.raises(CompareFailed):
        await objects.replace("keyring/k", b"fifth", expected=tag)
    await objects.put_immutable("keyring/k", b"other bytes")
    assert (await objects.get("keyring/k")).data == b"other bytes"
    await objects.put_immutable("keyring/deleted", b"1")
    await objects.delete("keyring/deleted")
    await objects.purge("keyring/deleted")  # there, but not seen any more
    assert await keys_of(objects) == ["keyring/k"]


async def test_many_objects_are_purged_at_once_by_several(objects: ObjectStore) -> None:
    keys = [f"keyring/{n:02d}" for n in range(20)]
    await put_all(objects, [*keys, "keyring/kept"])
    await asyncio.gather(*(objects.purge(key) for key in keys * 2))
    assert await keys_of(objects) == ["keyring/kept"]


async def test_the_store_is_still_there_when_its_last_object_is_gone(objects: ObjectStore) -> None:
    await objects.put_immutable("checkpoint", b"1")
    await objects.delete("checkpoint")
    assert await keys_of(objects) == []
    with pytest.raises(ObjectMissing):
        await objects.get("checkpoint")
    await objects.put_immutable("checkpoint", b"2")
    assert await keys_of(objects) == ["checkpoint"]


async def test_keys_are_listed_in_the_order_of_their_bytes(objects: ObjectStore) -> None:
    """`-` and `.` sort before the slash, everything else after it; servers that think in folders get this wrong."""
    names = ["a-b", "a.b", "a/x", "a/y/z", "a/y-z", "a0", "a_b", "A", "001", "001.p/5", "001.p/17", "001-", "0010"]
    keys = [f"{folder}{name}" for folder in ("", "deep/er/", "deep/er-/") for name in names]
    await put_all(objects, keys)
    assert await keys_of(objects) == sorted(keys)
    for prefix in ("a", "a/", "a/y", "a-", "001", "001.p/", "deep", "deep/er", "deep/er/a", "deep/er/001.p/1", "a/x"):
        assert await keys_of(objects, prefix) == sorted(key for key in keys if key.startswith(prefix)), prefix
    for prefix in ("b", "a/x/", "nothing/there/", "001.p/5/"):
        assert await keys_of(objects, prefix) == []


async def test_a_listing_of_many_pages_is_complete(objects: ObjectStore) -> None:
    keys = [f"tile/{folder}/{n:03d}" for folder in ("0/x000", "0", "entries") for n in range(4 * PAGE_KEYS)]
    await put_all(objects, keys)
    assert await keys_of(objects) == sorted(keys)
    assert await keys_of(objects, "tile/0/0") == [f"tile/0/{n:03d}" for n in range(4 * PAGE_KEYS)]
    async for key in objects.list_keys("tile/entries/"):  # as partial tiles are cleared away
        await objects.delete(key)
    assert await keys_of(objects) == sorted(key for key in keys if "entries" not in key)


async def test_only_keys_are_keys(objects: ObjectStore) -> None:
    async def list_all(prefix: str) -> None:
        await keys_of(objects, prefix)

    acts: list[Callable[[str], Awaitable[object]]] = [
        objects.get,
        objects.delete,
        objects.purge,
        lambda key: objects.put_immutable(key, b""),
        lambda key: objects.replace(key, b"", expected=None),
    ]
    for key in NO_KEYS:
        for act in acts:
            with pytest.raises(InvalidRequest) as refused:
                await act(key)
            assert_one_line(refused.value)
    for prefix in NO_PREFIXES:
        with pytest.raises(InvalidRequest):
            await list_all(prefix)
    assert await keys_of(objects) == []
    long = "l" * 200 + "/" + "m" * 200
    await objects.put_immutable(long, b"1")
    await objects.replace("n/" + long, b"1", expected=None)
    assert await keys_of(objects) == [long, "n/" + long]


async def test_many_tasks_use_it_at_once(objects: ObjectStore) -> None:
    async def use(n: int) -> None:
        key = f"keys/{n % 5}/{n}"
        await objects.put_immutable(key, b"%d" % n * n)
        assert (await objects.get(key)).data == b"%d" % n * n
        if n % 3 == 0:
            await objects.delete(key)

    await asyncio.gather(*(use(n) for n in range(60)))
    assert await keys_of(objects) == sorted(f"keys/{n % 5}/{n}" for n in range(60) if n % 3)


async def test_a_reader_sees_one_whole_version_or_the_other(objects: ObjectStore) -> None:
    versions = [bytes([n]) * (n * 20_011) for n in range(1, 12)]
    tag = await objects.replace("checkpoint", versions[0], expected=None)
    written = 0

    async def read() -> None:
        while written < len(versions) - 1:
            before = written
            data = (await objects.get("checkpoint")).data
            assert data in versions
            assert versions.index(data) >= before, "a read begun after a write does not go back behind it"

    readers = [asyncio.create_task(read()) for _ in range(4)]
    for number, data in enumerate(versions[1:], 1):
        tag = await objects.replace("checkpoint", data, expected=tag)
        written = number
    await asyncio.gather(*readers)


@pytest.mark.parametrize("outcome", [Outcome.FAIL_NOT_PERSISTED, Outcome.FAIL_PERSISTED])
async def test_a_write_that_failed_can_be_repeated(objects: ObjectStore, outcome: Outcome) -> None:
    failures = {"put_immutable", "replace", "delete", "purge"}

    def hook(operation: str, key: str) -> Outcome:
        if operation not in failures:
            return Outcome.PASS
        failures.remove(operation)
        return outcome

    persisted = outcome is Outcome.FAIL_PERSISTED
    tag = await objects.replace("head", b"1", expected=None)
    await objects.put_immutable("old", b"1")
    faulty = FaultyObjectStore(objects, hook)

    with pytest.raises(StoreUnavailable):
        await faulty.put_immutable("tile", b"2")
    assert ("tile" in await keys_of(objects)) == persisted
    await faulty.put_immutable("tile", b"2")
    assert (await objects.get("tile")).data == b"2"

    with pytest.raises(StoreUnavailable):
        await faulty.replace("head", b"2", expected=tag)
    assert (await objects.get("head")).data == (b"2" if persisted else b"1")
    try:
        await faulty.replace("head", b"2", expected=tag)
    except CompareFailed:  # a store may say so of its own first attempt; never in the other case
        assert persisted
    assert (await objects.get("head")).data == b"2"

    with pytest.raises(StoreUnavailable):
        await faulty.delete("old")
    assert ("old" in await keys_of(objects)) != persisted
    await faulty.delete("old")
    assert await keys_of(objects) == ["head", "tile"]

    with pytest.raises(StoreUnavailable):
        await faulty.purge("tile")
    assert ("tile" in await keys_of(objects)) != persisted
    await faulty.purge("tile")
    assert await keys_of(objects) == ["head"]
    assert not failures


async def test_stores_under_different_prefixes_do_not_see_each_other(objects: ObjectStore) -> None:
    one, two, outer = Prefixed(objects, "p/one/"), Prefixed(objects, "p/one-more/"), Prefixed(objects, "p/")
    await one.put_immutable("a/b", b"1")
    await two.put_immutable("a/b", b"2")
    assert [(await store.get("a/b")).data for store in (one, two)] == [b"1", b"2"]
    assert await keys_of(one) == await keys_of(two, "a") == ["a/b"]
    assert await keys_of(outer, "one") == ["one-more/a/b", "one/a/b"]
    with pytest.raises(ImmutableConflict):
        await outer.put_immutable("one/a/b", b"2")
    await one.delete("a/b")
    assert await keys_of(objects) == ["p/one-more/a/b"]


async def test_what_is_there_is_a_version_and_what_is_gone_is_none_that_can_be_read(objects: ObjectStore) -> None:
    await put_all(objects, ["a/x", "a/y", "b"])
    listed = await versions_of(objects, "a/")
    assert [(version.key, version.current, version.removed) for version in listed] == [
        ("a/x", True, False), ("a/y", True, False)]  # fmt: skip
    for version in await versions_of(objects):
        assert await objects.get_version(version.key, version.id) == version.key.encode()
    assert await versions_of(objects, "c") == []
    for key, version_id in (("b", VersionId("no-such-version")), ("c", listed[0].id)):
        with pytest.raises(ObjectMissing) as missing:
            await objects.get_version(key, version_id)
        assert missing.value.key == key
    await objects.purge("b")
    assert await versions_of(objects, "b") == []
    for prefix in NO_PREFIXES:
        with pytest.raises(InvalidRequest):
            await versions_of(objects, prefix)


async def test_what_is_overwritten_or_deleted_stays_as_a_version_newest_first(versioned: ObjectStore) -> None:
    await versioned.put_immutable("tile/0/001", b"genuine")
    await versioned.delete("tile/0/001")
    await versioned.put_immutable("tile/0/001", b"other")
    await versioned.put_immutable("tile/0/001.p/7", b"a neighbour")
    await versioned.put_immutable("tile/0/002", b"genuine")
    await versioned.delete("tile/0/002")
    found = [one for one in await versions_of(versioned, "tile/0/001") if one.key == "tile/0/001"]
    assert found[0].current
    assert not any(one.current for one in found[1:])
    kept = [await versioned.get_version(one.key, one.id) for one in found if not one.removed]
    assert kept == [b"other", b"genuine"]
    hidden = await versions_of(versioned, "tile/0/002")
    assert [(one.current, one.removed) for one in hidden] == [(True, True), (False, False)]
    assert await versioned.get_version("tile/0/002", hidden[1].id) == b"genuine"
    with pytest.raises(ObjectMissing):
        await versioned.get_version("tile/0/002", hidden[0].id)
    with pytest.raises(ObjectMissing):
        await versioned.get("tile/0/002")
    assert await keys_of(versioned) == ["tile/0/001", "tile/0/001.p/7"]
    await versioned.purge("tile/0/002")
    assert await versions_of(versioned, "tile/0/002") == []


async def test_versions_of_many_pages_are_listed_completely_and_together(versioned: ObjectStore) -> None:
    keys = [f"keyring/{n:02d}" for n in range(6)]
    for key in keys:
        tag = await versioned.replace(key, b"0", expected=None)
        for n in range(1, 5):
            tag = await versioned.replace(key, b"%d" % n, expected=tag)
    listed = await versions_of(versioned, "keyring/")
    assert [one.key for one in listed] == [key for key in keys for _ in range(5)]
    assert [one.current for one in listed] == [True, False, False, False, False] * 6
    for place, one in enumerate(listed):
        assert await versioned.get_version(one.key, one.id) == b"%d" % (4 - place % 5)


async def test_versions_are_listed_with_their_sizes(objects: ObjectStore) -> None:
    await objects.put_immutable("tile/0/000", b"x" * 100)
    await objects.replace("pending", b"four", expected=None)
    sizes = {version.key: version.size for version in await versions_of(objects)}
    assert sizes == {"pending": 4, "tile/0/000": 100}
