"""Trees of files: what is captured comes back as it was; what has not changed is neither read nor recorded again."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import threading
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from ledger.capture.base import Captured
from ledger.capture.files.point import tree_at
from ledger.capture.leased import LeasingAppender
from ledger.content import Lease
from ledger.core.event import Event
from ledger.errors import CaptureFailed, StoreUnavailable
from ledger.sequencer import Recorded
from ledger.store.directory import DirectoryStore
from tests.support.content import noise
from tests.support.disks import small_disk
from tests.support.files import SOURCE, Captures, capturing, looks, odd_tree


async def test_a_tree_with_everything_comes_back_as_it_was(tmp_path: Path) -> None:
    async with capturing(tmp_path) as captures:
        odd_tree(captures.root)
        before = looks(captures.root)
        captured = await captures.once()
        assert captured.problems == ()
        assert captured.counts["file"] == 8
        restored = await captures.restore(tmp_path / "back")
        assert looks(tmp_path / "back") == before
        assert restored.sealed == captured.index
        assert restored.checks["trees"] == 1
        assert (tmp_path / "back" / "sparse").stat().st_blocks * 512 < 1_000_000
        assert sorted(one.name for one in tmp_path.iterdir()) == ["back", "objects", "state", "tree"]


async def test_what_has_not_changed_is_not_recorded_again_and_not_read(tmp_path: Path) -> None:
    async with capturing(tmp_path) as captures:
        odd_tree(captures.root)
        first = await captures.once()
        await captures.once()  # what was made in the same tick as the first scan began is looked at once more
        size = await captures.size()
        for one in captures.root.rglob("*"):
            if one.is_file() and not one.is_symlink():
                os.utime(one, ns=(5, one.stat().st_mtime_ns))  # the time of access tells whether it is read
        again = await captures.once()
        assert (again.index, again.repeated, await captures.size()) == (first.index, True, size)


async def test_without_its_state_everything_is_read_again_and_nothing_recorded_twice(tmp_path: Path) -> None:
    async with capturing(tmp_path) as captures:
        odd_tree(captures.root)
        first = await captures.once()
        size = await captures.size()
        shutil.rmtree(tmp_path / "state")
        again = await captures.once()
        assert (again.index, again.repeated, await captures.size()) == (first.index, True, size)


async def test_a_state_that_is_damaged_or_another_version_s_is_made_anew(tmp_path: Path) -> None:
    async with capturing(tmp_path) as captures:
        (captures.root / "file").write_bytes(b"x")
        first = await captures.once()
        state = tmp_path / "state" / "files.sqlite"
        state.write_bytes(b"no database at all")
        assert ((again := await captures.once()).index, again.repeated) == (first.index, True)
        state.unlink()
        with closing(sqlite3.connect(state)) as database:
            database.execute("CREATE TABLE tree (path BLOB PRIMARY KEY, other BLOB)")
        assert ((again := await captures.once()).index, again.repeated) == (first.index, True)


async def test_each_point_comes_back_as_it_was(tmp_path: Path) -> None:
    async with capturing(tmp_path) as captures:
        odd_tree(captures.root)
        points = [((await captures.once()).index, looks(captures.root))]
        (captures.root / "small").write_bytes(b"other")
        (captures.root / "deep" / "er" / "large").unlink()
        (captures.root / "empty").rmdir()
        (captures.root / "empty").write_bytes(b"a file by now")
        points.append(((await captures.once()).index, looks(captures.root)))
        shutil.rmtree(captures.root / "deep")
        (captures.root / "deep").symlink_to("/etc")
        (captures.root / "nothing").chmod(0o600)
        points.append(((await captures.once()).index, looks(captures.root)))
        for index, before in points:
            await captures.restore(tmp_path / f"at-{index}", at=index)
            assert looks(tmp_path / f"at-{index}") == before
        for index, before in [*points, *reversed(points)]:  # each over another one
            await captures.restore(tmp_path / "over", at=index, replace=True)
            assert looks(tmp_path / "over") == before


# -- what goes wrong while a tree is captured -----------------------------------------------------------------------


async def test_what_cannot_be_read_is_told_and_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with capturing(tmp_path) as captures:
        for name in ("secret", "new", "other"):
            (captures.root / name).write_bytes(b"before")
        (captures.root / "new").unlink()
        await captures.once()
        before = looks(captures.root)
        for name in ("secret", "new", "other"):
            (captures.root / name).write_bytes(b"after")
        refuse(monkeypatch, b"secret", b"new")
        captured = await captures.once()
        assert sorted(captured.problems) == [
            "new: Permission denied",
            "secret: Permission denied; what was captured before stays",
        ]
        assert (await captures.once()).repeated
        monkeypatch.undo()
        await captures.restore(tmp_path / "back")
        assert looks(tmp_path / "back")[b"secret"] == before[b"secret"]
        assert (tmp_path / "back" / "other").read_bytes() == b"after"
        assert (await captures.once()).problems == ()


def refuse(monkeypatch: pytest.MonkeyPatch, *names: bytes) -> None:
    """Files of these names cannot be opened; root may read everything else."""
    opened = os.open

    def refusing(path: bytes, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if path in names:
            raise PermissionError(13, "Permission denied", path)
        return opened(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", refusing)


async def test_many_problems_with_long_names_fit_the_seal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with capturing(tmp_path) as captures:
        below = captures.root / "/".join(["深" * 60] * 10)
        below.mkdir(parents=True)
        names = [f"{number:03}" + "文" * 80 for number in range(300)]
        for name in names:
            (below / name).touch()
        refuse(monkeypatch, *(name.encode() for name in names))
        captured = await captures.once()
        assert len(captured.problems) == 101
        assert captured.problems[-1] == "and 200 more"


async def test_a_file_that_never_stands_still_is_captured_as_torn_and_told(tmp_path: Path) -> None:
    async with capturing(tmp_path) as captures:
        path = captures.root / "log"
        path.write_bytes(os.urandom(48_000_000))  # so that reading takes long enough for the writer to have its turn
        begun, stop = threading.Event(), threading.Event()

        def write() -> None:
            with path.open("r+b", buffering=0) as file:
                while not stop.is_set():
                    file.seek(0)
                    file.write(os.urandom(8))
                    begun.set()

        writer = threading.Thread(target=write)
        writer.start()
        begun.wait()
        try:
            captured = await captures.once()
        finally:
            stop.set()
            writer.join()
        assert captured.problems == ("log: it changed each time it was read; what was read last is kept, as torn",)
        async with tree_at(captures.view(), SOURCE) as point:
            item = point.tree.find(b"log")
            assert item is not None
            assert item.record.torn
        assert (await captures.once()).problems == ()
        await captures.restore(tmp_path / "back")
        assert looks(tmp_path / "back") == looks(captures.root)


async def test_a_tree_that_is_not_mounted_removes_nothing(tmp_path: Path) -> None:
    async with capturing(tmp_path) as captures:
        (captures.root / "file").write_bytes(b"precious")
        await captures.once()
        (captures.root / "file").unlink()
        with pytest.raises(CaptureFailed, match="is empty, and was not before"):
            await captures.once()
        captures.root.rmdir()
        with pytest.raises(CaptureFailed, match="cannot be read"):
            await captures.once()
        captures.root.mkdir()
        captures.options["allow_empty"] = True
        assert (await captures.once()).counts == {"directory": 1, "bytes": 0}


async def test_a_directory_swapped_for_a_link_leads_nowhere(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "shadow").write_bytes(b"not ours")
    async with capturing(tmp_path) as captures:
        for name in ("one", "two"):
            (captures.root / name).mkdir()
            (captures.root / name / "shadow").write_bytes(b"ours")
        swapped = []

        def swap(path: bytes, _: int) -> None:
            other = {b"one": "two", b"two": "one"}.get(path)
            if other is not None and not swapped:
                swapped.append(other)
                (captures.root / other).rename(tmp_path / "aside")
                (captures.root / other).symlink_to(outside)

        capture = captures.capture()
        await capture.pass_over(watch=swap)
        capture.close()
        async with tree_at(captures.view(), SOURCE) as point:
            assert point.tree.find(f"{swapped[0]}/shadow".encode()) is None
        await captures.once()
        await captures.restore(tmp_path / "back")
        assert looks(tmp_path / "back") == looks(captures.root)


async def test_an_append_of_unknown_outcome_is_made_good_by_the_next_scan(tmp_path: Path) -> None:
    """Recorded or not, what the log has afterwards is the tree."""
    async with capturing(tmp_path) as captures:
        for persisted in (True, False):
            (captures.root / "stays").write_bytes(b"1" * 2_000)
            (captures.root / "goes").write_bytes(b"2" * 2_000)
            capture = captures.capture(appender=(failing := FailsOnce(captures.appender, persisted=persisted)))
            with pytest.raises(StoreUnavailable):
                await capture.once()
            assert failing.failed
            (captures.root / "goes").unlink()
            (captures.root / "stays").write_bytes(b"other")
            await capture.once()
            capture.close()
            await captures.restore(tmp_path / f"back-{persisted}")
            assert looks(tmp_path / f"back-{persisted}") == looks(captures.root)
            assert (await captures.once()).repeated


async def test_a_store_that_fails_ends_a_capture_and_leaves_no_file_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with capturing(tmp_path) as captures:
        for number in range(400):
            (captures.root / f"{number}").write_bytes(noise(number, 60_000))

        async def full(self: DirectoryStore, key: str, data: bytes) -> None:
            raise StoreUnavailable(f"{key}: no room")

        with monkeypatch.context() as patched:
            patched.setattr(DirectoryStore, "put_immutable", full)
            with pytest.raises(StoreUnavailable, match="no room"):
                await captures.once()
        opened = [one.readlink() for one in Path("/proc/self/fd").iterdir() if one.is_symlink()]
        assert [one for one in opened if one.is_relative_to(captures.root)] == []
        await captures.once()
        await captures.restore(tmp_path / "back")
        assert looks(tmp_path / "back") == looks(captures.root)


class FailsOnce:
    """An appender whose first answer is lost, with the events or without."""

    def __init__(self, appender: LeasingAppender, *, persisted: bool) -> None:
        self._appender = appender
        self._persisted = persisted
        self.failed = False

    async def append(
        self, events: Sequence[Event], *, actor: str, expected_version: int | None = None, lease: Lease | None = None
    ) -> list[Recorded]:
        if not self.failed:
            self.failed = True
            if self._persisted:
                await self._appender.append(events, actor=actor, expected_version=expected_version, lease=lease)
            raise StoreUnavailable("the store went away")
        return await self._appender.append(events, actor=actor, expected_version=expected_version, lease=lease)


async def test_patterns_leave_out_and_what_is_left_out_later_is_retired(tmp_path: Path) -> None:
    async with capturing(tmp_path) as captures:
        for name in ("keep.txt", "cache/a", "cache/deep/b", "deep/x.tmp", "deep/kept.tmp", ".jinshi-restoring/work"):
            path = captures.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
        await captures.once()
        captures.options["exclude"] = ["cache/", "*.tmp", "!kept.tmp"]
        await captures.once()
        await captures.restore(tmp_path / "back")
        assert sorted(looks(tmp_path / "back")) == [b"", b"deep", b"deep/kept.tmp", b"keep.txt"]


async def test_what_is_mounted_below_is_left_out_where_that_is_asked_for(tmp_path: Path) -> None:
    async with capturing(tmp_path) as captures:
        (captures.root / "file").write_bytes(b"x")
        with small_disk(captures.root / "mounted"):
            (captures.root / "mounted" / "other").write_bytes(b"x")
            await captures.once()
            async with tree_at(captures.view(), SOURCE) as point:
                assert point.tree.has(b"mounted/other")
            captures.options["one_file_system"] = True
            await captures.once()
            async with tree_at(captures.view(), SOURCE) as point:
                assert point.tree.has(b"mounted")
                assert not point.tree.has(b"mounted/other")


async def test_files_replaced_and_written_to_meanwhile_are_whole_or_told(tmp_path: Path) -> None:
    """Each file is one block again and again: a mixture of two versions shows."""
    async with capturing(tmp_path) as captures:
        names = [f"{number:02}" for number in range(40)]
        for name in names:
            (captures.root / name).write_bytes(bytes(16) * 20_000)
        stop = threading.Event()

        def write() -> None:
            while not stop.is_set():
                for number, name in enumerate(names):
                    data = os.urandom(16) * 20_000
                    if number % 2:
                        (tmp_path / "new").write_bytes(data)
                        (tmp_path / "new").replace(captures.root / name)
                    else:
                        (captures.root / name).write_bytes(data)

        writer = threading.Thread(target=write)
        writer.start()
        try:
            points = [await captures.once() for _ in range(4)]
        finally:
            stop.set()
            writer.join()
        for point in points:
            back = tmp_path / f"back-{point.index}"
            await captures.restore(back, at=point.index)
            for name in names:
                data = (back / name).read_bytes()
                told = any(line.startswith(f"{name}: it changed") for line in point.problems)
                assert told or data == data[:16] * (len(data) // 16), name


async def test_holes_of_a_huge_file_are_neither_read_nor_written(tmp_path: Path) -> None:
    async with capturing(tmp_path) as captures:
        with (captures.root / "disk.img").open("wb") as file:
            file.truncate(20 * 2**30)
            for number in range(400):
                file.seek(number * 2**25 + 5)
                file.write(b"here")
            for number in range(400):  # together more parts than an entry names
                file.seek(2**34 + number * 2**17)
                file.write(b"there")
        captured = await captures.once()
        assert captured.counts["bytes"] == 20 * 2**30
        await captures.restore(tmp_path / "back")
        assert (tmp_path / "back" / "disk.img").stat().st_blocks * 512 < 2**30
        with (tmp_path / "back" / "disk.img").open("rb") as file:
            for number in (0, 1, 350, 399):
                file.seek(number * 2**25)
                assert file.read(16) == b"\0" * 5 + b"here" + b"\0" * 7


# -- watching -------------------------------------------------------------------------------------------------------


async def test_a_watched_tree_is_captured_as_it_changes(tmp_path: Path) -> None:
    async with capturing(tmp_path) as captures:
        (captures.root / "dir").mkdir()
        capture = captures.capture()
        points: asyncio.Queue[Captured] = asyncio.Queue()
        watching = asyncio.create_task(capture.watch(points.put_nowait))
        try:
            await points.get()
            (captures.root / "dir" / "file").write_bytes(b"new")
            await until_same(captures, points)
            (captures.root / "dir" / "new" / "deep").mkdir(parents=True)
            (captures.root / "dir" / "new" / "deep" / "file").write_bytes(b"new")
            await until_same(captures, points)
            (captures.root / "dir" / "new").rename(captures.root / "moved")
            await until_same(captures, points)
            (captures.root / "moved" / "deep" / "file").write_bytes(b"changed where it is now")
            await until_same(captures, points)
            for number in range(12_000):  # more than inotify's queue holds, while nobody reads it
                path = captures.root / "dir" / str(number % 100)
                path.unlink() if path.exists() else path.touch()
            (captures.root / "moved" / "deep" / "file").unlink()
            await until_same(captures, points)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            capture.close()


async def until_same(captures: Captures, points: asyncio.Queue[Captured]) -> None:
    """Wait for a point at which the log has what the tree is."""
    wanted = set(looks(captures.root))
    async with asyncio.timeout(60):
        while True:
            point = await points.get()
            async with tree_at(captures.view(point.index + 1), SOURCE) as at:
                if {item.path for item in at.tree.items()} == wanted:
                    break
    await captures.restore(captures.scratch / "watched", replace=True)
    assert looks(captures.scratch / "watched") == looks(captures.root)
