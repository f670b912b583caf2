"""The directory store between processes, under kill -9, and where the file system does not do what it is told."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from random import Random

import pytest

from ledger.errors import DiskFull, JinshiError, ObjectMissing, StoreUnavailable
from ledger.store.base import Prefixed, read_part_of
from ledger.store.directory import DirectoryStore
from ledger.store.memory import MemoryObjectStore
from tests.support.directory_writer import COUNTER, HEAD, is_whole
from tests.support.places import reachable_directory, small_disk, unwritable

ROOT = Path(__file__).parents[2]
KILLS = 8
WRITERS = 4
ROUNDS = 40


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "objects"
    path.mkdir()
    return path


@asynccontextmanager
async def writer(act: str, root: Path, argument: int) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.support.directory_writer", act, str(root), str(argument)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def keys_of(objects: DirectoryStore, prefix: str = "") -> list[str]:
    return [key async for key in objects.list_keys(prefix)]


async def refusal(act: Awaitable[object], kind: type[JinshiError] = StoreUnavailable) -> str:
    with pytest.raises(JinshiError) as refused:
        await act
    assert type(refused.value) is kind
    assert refused.value.hint
    assert str(refused.value).isprintable()
    return str(refused.value)


def every_act(objects: DirectoryStore, key: str = "a/b") -> list[Callable[[], Awaitable[object]]]:
    return [
        lambda: objects.get(key),
        lambda: objects.put_immutable(key, b"1"),
        lambda: objects.replace(key, b"1", expected=None),
        lambda: objects.delete(key),
        lambda: keys_of(objects),
    ]


# -- processes --------------------------------------------------------------------------------------------------


async def test_a_writer_killed_at_any_moment_leaves_whole_objects_and_all_it_acknowledged(root: Path) -> None:
    objects, random = DirectoryStore(root), Random(20_261_124)
    acknowledged: dict[str, str] = {}
    for life in range(KILLS):
        async with writer("fill", root, life) as process:
            assert process.stdout is not None
            lines = [await process.stdout.readline() for _ in range(random.randrange(1, 40))]
            async for key in objects.list_keys(""):  # a reader beside it
                assert is_whole((await objects.get(key)).data), f"{life=} {key}"
            process.kill()
            rest, _ = await process.communicate()
        for line in [*lines, *rest.splitlines(keepends=True)]:
            if line.endswith(b"\n"):  # the last one may be cut short by the kill
                key, digest = line.decode().split()
                acknowledged[key] = digest
        keys = await keys_of(objects)
        assert set(acknowledged) <= set(keys)
        for key in keys:
            data = (await objects.get(key)).data
            assert is_whole(data), f"{life=} {key}"
            assert key == HEAD or acknowledged.get(key, data[:32].hex()) == data[:32].hex()
    # What the dead left unfinished is in nobody's way.
    for partial in root.rglob(".*.partial"):
        key = str(partial.relative_to(root).with_name(partial.name[1:].removesuffix(".partial")))
        tag = await objects.replace(key, b"next", expected=(await objects.get(key)).tag if key == HEAD else None)
        assert (await objects.get(key)).tag == tag
    assert list(root.rglob(".*")) == []


async def test_processes_racing_for_one_key_lose_no_update_and_share_no_win(root: Path) -> None:
    objects = DirectoryStore(root)
    await objects.put_immutable(COUNTER, b"0")
    processes = [writer("count", root, ROUNDS) for _ in range(WRITERS)]

    async def run(process: AbstractAsyncContextManager[asyncio.subprocess.Process]) -> int:
        async with process as running:
            output, _ = await running.communicate()
            assert running.returncode == 0
            return int(output)

    won = await asyncio.gather(*map(run, processes))
    assert (await objects.get(COUNTER)).data == b"%d" % (WRITERS * ROUNDS)
    assert sum(won) == ROUNDS
    assert len(await keys_of(objects, "only/")) == ROUNDS
    assert list(root.rglob(".*")) == []


async def test_writing_goes_on_while_others_empty_the_folder(root: Path) -> None:
    objects = DirectoryStore(root)

    async def churn(number: int) -> None:
        for turn in range(60):
            key = f"tile/{'deeper/' * (turn % 4)}{number}"
            await objects.put_immutable(key, b"%d" % number)
            await objects.delete(key)

    await asyncio.gather(*map(churn, range(8)))
    assert await keys_of(objects) == []


# -- places that are not what they should be ----------------------------------------------------------------------


async def test_a_root_that_is_not_there_is_not_taken_for_an_empty_store(tmp_path: Path) -> None:
    objects = DirectoryStore(tmp_path / "not-mounted")
    for act in every_act(objects):
        assert "not-mounted is not there; mount it" in await refusal(act())
    assert list(tmp_path.iterdir()) == []


async def test_a_store_that_may_be_made_is_made_by_the_first_write(tmp_path: Path) -> None:
    objects = DirectoryStore(tmp_path / "new" / "store", create=True)
    with pytest.raises(ObjectMissing):
        await objects.get("a")
    assert await keys_of(objects) == []
    await objects.delete("a")
    assert list(tmp_path.iterdir()) == []
    await objects.put_immutable("a/b", b"1")
    assert await keys_of(objects) == ["a/b"]


async def test_what_is_no_object_is_passed_over(root: Path) -> None:
    objects = DirectoryStore(root)
    await objects.put_immutable("a/b", b"1")
    (root / "lost+found").mkdir(mode=0)  # as on every disk of its own
    for name in ("with space", ".hidden", ".b.partial", "~backup", "é"):
        (root / "a" / name).write_bytes(b"?")
    assert await keys_of(objects) == ["a/b"]


async def test_a_key_that_is_a_folder_of_another_is_refused_and_harms_nothing(root: Path) -> None:
    objects = DirectoryStore(root)
    await objects.put_immutable("a/b", b"1")
    for act in every_act(objects, "a/b/c")[1:3] + every_act(objects, "a")[1:3]:
        assert str(root) in await refusal(act())
    for key in ("a", "a/b/c"):
        await objects.delete(key)
        with pytest.raises(ObjectMissing):
            await objects.get(key)
    assert await keys_of(objects) == ["a/b"]
    assert [path.name for path in sorted(root.rglob("*"))] == ["a", "b"]


async def test_a_directory_that_cannot_be_written_is_read_all_the_same() -> None:
    with reachable_directory() as root:
        objects = DirectoryStore(root)
        await objects.put_immutable("a/b", b"1")
        with unwritable(root):
            assert (await objects.get("a/b")).data == b"1"
            assert await keys_of(objects) == ["a/b"]
            await objects.put_immutable("a/b", b"1")  # it is there already
            for act in every_act(objects, "a/c")[1:3] + every_act(objects, "d/e")[1:3] + every_act(objects)[3:4]:
                assert "check permissions and mounts" in await refusal(act())
        assert await keys_of(objects) == ["a/b"]
        assert list(root.rglob(".*")) == []


async def test_what_cannot_be_read_is_not_taken_for_missing() -> None:
    with reachable_directory() as root:
        objects = DirectoryStore(root)
        await objects.put_immutable("a/b", b"1")
        for path, act in (
            (root / "a" / "b", lambda: objects.get("a/b")),
            (root / "a", lambda: objects.get("a/b")),
            (root / "a", lambda: keys_of(objects)),
            (root / "a", lambda: objects.put_immutable("a/b", b"1")),
        ):
            mode = path.stat().st_mode
            path.chmod(0)
            with unwritable(root):
                assert "check permissions and mounts" in await refusal(act())
            path.chmod(mode)
        assert (await objects.get("a/b")).data == b"1"


async def test_a_full_disk_leaves_nothing_half_written_and_the_same_write_works_once_there_is_room(
    tmp_path: Path,
) -> None:
    with small_disk(tmp_path / "disk", 256) as disk:
        objects = DirectoryStore(disk.path)
        tag = await objects.replace("head", b"old", expected=None)
        await objects.put_immutable("tile/0/000", b"x" * 100_000)
        big = b"y" * 200_000
        for act in (
            lambda: objects.put_immutable("tile/0/001", big),
            lambda: objects.replace("head", big, expected=tag),
            lambda: objects.put_immutable("tile/0/001", big),
        ):
            assert "free space, then run it again" in await refusal(act(), DiskFull)
        assert await keys_of(objects) == ["head", "tile/0/000"]
        assert (await objects.get("head")).data == b"old"
        assert list(disk.path.rglob(".*")) == [], "what was begun takes up no room"
        disk.resize(2_048)
        await objects.put_immutable("tile/0/001", big)
        await objects.replace("head", big, expected=tag)
        assert (await objects.get("head")).data == (await objects.get("tile/0/001")).data == big


@pytest.mark.parametrize("prefixed", [True, False])
async def test_parts_of_objects_are_read_into_a_buffer(root: Path, prefixed: bool) -> None:
    store = DirectoryStore(root)
    objects = Prefixed(store, "under/") if prefixed else store
    data = bytes(range(256)) * 1_000
    await objects.put_immutable("a/object", data)
    read_part = read_part_of(objects)
    assert read_part is not None
    buffer = bytearray(1_000)
    assert read_part("a/object", 70_001, memoryview(buffer)) == 1_000
    assert buffer == data[70_001:71_001]
    assert read_part("a/object", len(data) - 10, memoryview(buffer)) == 10
    assert buffer[:10] == data[-10:]
    assert read_part("a/object", len(data), memoryview(buffer)) == 0
    with pytest.raises(ObjectMissing):
        read_part("a/other", 0, memoryview(buffer))
    assert read_part_of(Prefixed(MemoryObjectStore(), "under/")) is None
