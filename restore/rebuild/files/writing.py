"""Puts what is wanted in place: made and verified in a directory of its own, then renamed; nothing is seen half."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from ledger.capture.files.names import ROOT, shown
from ledger.capture.files.places import Directories, by_descriptor
from ledger.capture.files.record import Kind, Record
from ledger.capture.files.tree import Item
from ledger.content import ContentReader
from ledger.errors import Fenced, RestoreFailed
from restore.rebuild.files.attributes import ABSENT, is_whole, set_attributes
from restore.rebuild.files.comparing import content_stamp, holds, link_key, place_of, reading_buffer, whole_stamp
from restore.rebuild.files.plan import Action, Plan

WINDOW_FILES: Final = 1_024
WINDOW_CHUNKS: Final = 16_384
"""How many files, or chunks of content, are written together: their packs are read once."""
CHECKERS: Final = 2

_TYPES: Final = {
    Kind.FIFO: stat.S_IFIFO,
    Kind.SOCKET: stat.S_IFSOCK,
    Kind.BLOCK: stat.S_IFBLK,
    Kind.CHARACTER: stat.S_IFCHR,
}


@dataclass(frozen=True, slots=True)
class _Made:
    """A file that was made under a number in the working directory."""

    number: int
    item: Item


class Writing:
    """Writes into `root`, by way of `work`, a directory on the same file system that nobody else may enter."""

    def __init__(
        self, root: Directories, work: int, plan: Plan, *, fresh: bool, advance: Callable[[int], None]
    ) -> None:
        self._root = root
        self._work = work
        self._plan = plan
        self._fresh = fresh  # nobody sees `root` yet: files are made where they belong
        self._advance = advance
        self._number = 0

    # -- directories, and what has no content --

    def make_directories(self) -> None:
        """Every directory that is wanted, its attributes still to come. Raises OSError."""
        for path in self._plan.directories():
            if path == ROOT:
                continue
            directory, name = place_of(self._root, path)
            if self._plan.step(path).action is Action.WRITE:
                if not self._fresh:
                    self._clear(directory, name)
                    self._root.forget()
                    directory, name = place_of(self._root, path)
                os.mkdir(name, 0o700, dir_fd=directory)
            else:
                self._open_up(directory, name)

    def _open_up(self, directory: int, name: bytes) -> None:
        """Something may have to be written into it; its own mode is set in the end."""
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if stat.S_IMODE(found.st_mode) & 0o700 != 0o700 and os.geteuid() != 0:
            os.chmod(name, stat.S_IMODE(found.st_mode) | 0o700, dir_fd=directory)  # noqa: PTH101 (by descriptor)

    def make_others(self) -> None:
        """Links, and what has no content. Raises OSError."""
        for item in self._plan.todo(Action.WRITE, *_TYPES, Kind.SYMLINK):
            self._make(item)
        for item in self._plan.todo(Action.ATTRIBUTES, Kind.FILE):
            self._mend(item)
        for item in self._plan.todo(Action.LINK, Kind.FILE, *_TYPES, Kind.SYMLINK):
            self._link(item)  # the first of its names is as it should be by now

    def _make(self, item: Item) -> None:
        made, record = self._next(item), item.record
        name = b"%d" % made.number
        try:
            if record.kind is Kind.SYMLINK:
                os.symlink(record.target, name, dir_fd=self._work)
            else:
                device = os.makedev(*record.device) if record.device is not None else 0
                os.mknod(name, 0o600 | _TYPES[record.kind], device, dir_fd=self._work)
        except PermissionError:
            self._done(item.path, None, [ABSENT])
            return
        missing = set_attributes(by_descriptor(self._work, name), record)
        self._put(made, missing, None)

    def _link(self, item: Item) -> None:
        leader = self._plan.leader(link_key(item))
        assert leader is not None, "the first of its names was written before it"
        step = self._plan.step(leader[0])
        if ABSENT in step.missing:
            self._done(item.path, None, step.missing)
            return
        made = self._next(item)
        directory, name = place_of(self._root, leader[0])
        os.link(name, b"%d" % made.number, src_dir_fd=directory, dst_dir_fd=self._work, follow_symlinks=False)
        self._put(made, step.missing, step.stamp)

    def _mend(self, item: Item) -> None:
        """A file whose content is right already."""
        directory, name = place_of(self._root, item.path)
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
        try:
            missing = set_attributes(descriptor, item.record)
            stamp = content_stamp(os.fstat(descriptor))
        finally:
            os.close(descriptor)
        self._done(item.path, stamp, missing)

    def finish_directories(self) -> None:
        """Their attributes, from the deepest on: writing into one changes its time. Raises OSError."""
        for path in self._plan.directories(deepest_first=True):
            if self._plan.step(path).action is Action.KEEP and self._plan.leads_to(path):
                continue
            missing = set_attributes(self._root.open(path), self._plan.item(path).record)
            self._done(path, None, missing)

    # -- files --

    async def write_files(self, reader: ContentReader | None) -> None:
        """Every file whose content is not there. Raises OSError, Tampered, RestoreFailed, StoreUnavailable."""
        with ThreadPoolExecutor(CHECKERS, thread_name_prefix="check") as checkers:
            placing: asyncio.Task[None] | None = None
            windows = self._windows()
            looking = asyncio.ensure_future(asyncio.to_thread(next, windows, None))
            try:
                while (window := await looking) is not None:
                    looking = asyncio.ensure_future(asyncio.to_thread(next, windows, None))
                    await self._fill(window, reader)
                    if placing is not None:
                        await placing
                    placing = asyncio.create_task(self._place(window, checkers))
                if placing is not None:
                    await placing
            finally:
                await asyncio.gather(looking, *([] if placing is None else [placing]), return_exceptions=True)

    def _windows(self) -> Iterator[list[_Made]]:
        window: list[_Made] = []
        chunks = 0
        for item in self._plan.todo(Action.WRITE, Kind.FILE):
            window.append(self._next(item))
            manifest = item.record.manifest
            chunks += 0 if manifest is None else len(manifest.chunks)
            if len(window) == WINDOW_FILES or chunks >= WINDOW_CHUNKS:
                yield window
                window, chunks = [], 0
        if window:
            yield window

    async def _fill(self, window: Sequence[_Made], reader: ContentReader | None) -> None:
        with_content = [made for made in window if made.item.record.manifest is not None]
        inline = [made for made in window if made.item.record.manifest is None]
        filling = _Filling(self._root, self._create, self._open)
        try:
            await asyncio.to_thread(filling.write_inline, inline)
            if with_content:
                assert reader is not None, "there is content, so there is a reader"
                manifests = (made.item.record.manifest for made in with_content)
                await reader.scatter(
                    (manifest for manifest in manifests if manifest is not None),
                    lambda piece: filling.write(with_content[piece.content], piece.offset, piece.data),
                )
        finally:
            await asyncio.to_thread(filling.close)

    def _create(self, made: _Made, root: Directories) -> int:
        descriptor = self._open(made, root, os.O_CREAT | os.O_EXCL)
        if made.item.record.extents is not None:
            os.ftruncate(descriptor, made.item.record.size)  # there may be a hole at its end
        return descriptor

    def _open(self, made: _Made, root: Directories, more: int = 0) -> int:
        directory, name = self._made(made, root)
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | more
        return os.open(name, flags, 0o600, dir_fd=directory)

    def _made(self, made: _Made, root: Directories) -> tuple[int, bytes]:
        """Where a file is made."""
        return place_of(root, made.item.path) if self._fresh else (self._work, b"%d" % made.number)

    async def _place(self, window: Sequence[_Made], checkers: ThreadPoolExecutor) -> None:
        """Verify what was written, then put it in place."""
        loop = asyncio.get_running_loop()
        parts = [window[first : first + 64] for first in range(0, len(window), 64)]
        checking = [loop.run_in_executor(checkers, self._check_all, part) for part in parts]
        for part, checked in zip(parts, await asyncio.gather(*checking), strict=True):
            for made, (missing, stamp) in zip(part, checked, strict=True):
                if self._fresh:
                    self._done(made.item.path, stamp, missing)
                else:
                    self._put(made, missing, stamp)
        self._advance(len(window))

    def _check_all(self, part: Sequence[_Made]) -> list[tuple[list[str], bytes]]:
        with self._root.again() as root:  # a thread has its own
            buffer = reading_buffer()
            return [self._check(made, root, buffer) for made in part]

    def _check(self, made: _Made, root: Directories, buffer: memoryview) -> tuple[list[str], bytes]:
        record = made.item.record
        descriptor = self._open(made, root)
        try:
            if not holds(descriptor, record, buffer):
                raise RestoreFailed(
                    f"what was written of {shown(made.item.path)} is not what was captured",
                    hint="check the disk it was written to, then restore again",
                )
            missing = set_attributes(descriptor, record)
            found = os.fstat(descriptor)
            return missing, (whole_stamp if is_whole(record, found, descriptor) else content_stamp)(found)
        finally:
            os.close(descriptor)

    # -- in place --

    def _next(self, item: Item) -> _Made:
        self._number += 1
        return _Made(self._number, item)

    def _put(self, made: _Made, missing: Sequence[str], stamp: bytes | None) -> None:
        """Commit point of one path: it is there as it was captured, or as it was before."""
        directory, name = place_of(self._root, made.item.path)
        made_name = b"%d" % made.number
        if not self._fresh and _is_directory(directory, name):
            self._clear(directory, name)
            self._root.forget()
            directory, name = place_of(self._root, made.item.path)
        os.rename(made_name, name, src_dir_fd=self._work, dst_dir_fd=directory)
        if not self._fresh:
            with suppress(FileNotFoundError):  # two names of one file are not renamed over each other
                os.unlink(made_name, dir_fd=self._work)
        self._done(made.item.path, stamp, missing)

    def _done(self, path: bytes, stamp: bytes | None, missing: Sequence[str]) -> None:
        self._plan.done(path, stamp, missing)
        for one in missing:
            what = "absent" if one == ABSENT else f"other {one}"
            self._plan.differences.add(what, path, ": this place, or this user, does not allow it")

    def _clear(self, directory: int, name: bytes) -> None:
        if _is_directory(directory, name):
            shutil.rmtree(name, dir_fd=directory)
        else:
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=directory)

    def remove(self, path: bytes) -> None:
        """What does not belong. Raises OSError."""
        directory, name = place_of(self._root, path)
        self._clear(directory, name)
        self._root.forget()


def _is_directory(directory: int, name: bytes) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


class _Filling:
    """Writes the files of a window, from several threads: each has its own way to the directories."""

    def __init__(
        self,
        root: Directories,
        create: Callable[[_Made, Directories], int],
        reopen: Callable[[_Made, Directories], int],
    ) -> None:
        self._root = root
        self._create = create
        self._reopen = reopen
        self._changed = threading.Condition()
        self._created: set[int] = set()
        self._idle: list[Directories] = []
        self._writing = 0
        self._closed = False

    def write(self, made: _Made, offset: int, data: bytes) -> None:
        """Bytes of a file's stored content; the first of them make the file. Raises OSError."""
        with self._directories() as root:
            with self._changed:  # who comes with more of a file finds it made
                create = made.number not in self._created
                self._created.add(made.number)
                descriptor = self._create(made, root) if create else -1
            if not create:
                descriptor = self._reopen(made, root)
            try:
                _scatter(descriptor, made.item.record, offset, data)
            finally:
                os.close(descriptor)

    def write_inline(self, window: Sequence[_Made]) -> None:
        """Files whose content is in their records. Raises OSError."""
        for made in window:
            self.write(made, 0, made.item.record.inline or b"")

    @contextmanager
    def _directories(self) -> Iterator[Directories]:
        """For one thread. Raises Fenced: it is closed."""
        with self._changed:
            if self._closed:
                raise Fenced("this restore was stopped", hint="start it again: it goes on")
            self._writing += 1
            root = self._idle.pop() if self._idle else None
        try:
            root = root or self._root.again()
            yield root
        finally:
            with self._changed:
                self._writing -= 1
                if root is not None:
                    self._idle.append(root)
                self._changed.notify_all()

    def close(self) -> None:
        """Nothing is being written on return, or ever will be."""
        with self._changed:
            self._closed = True
            while self._writing:
                self._changed.wait()
        for root in self._idle:
            root.close()


def _scatter(descriptor: int, record: Record, offset: int, data: bytes) -> None:
    """Write bytes of the stored content where they belong in the file."""
    if record.extents is None:
        _write(descriptor, memoryview(data), offset)
        return
    rest, before = memoryview(data), 0
    for part in record.extents:
        start = offset - before
        if rest and start < part.length:
            count = min(len(rest), part.length - start)
            _write(descriptor, rest[:count], part.offset + start)
            rest, offset = rest[count:], offset + count
        before += part.length


def _write(descriptor: int, data: memoryview, at: int) -> None:
    while data:
        count = os.pwrite(descriptor, data, at)
        data, at = data[count:], at + count
