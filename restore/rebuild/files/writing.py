"""Puts what is wanted in place: made and verified in a directory of its own, then renamed; nothing is seen half."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import Final

from ledger.capture.files.names import ROOT
from ledger.capture.files.places import Directories, by_descriptor
from ledger.capture.files.record import Kind
from ledger.capture.files.tree import Item
from ledger.content import ContentReader
from ledger.content.reader import PLANNED_MAX
from ledger.core.manifest import Manifest
from ledger.tasks import run_bounded
from restore.rebuild.files.attributes import ABSENT, set_attributes
from restore.rebuild.files.comparing import content_stamp, link_key, place_of
from restore.rebuild.files.filling import Filling, Made
from restore.rebuild.files.plan import Action, Plan

WINDOW_FILES: Final = 16_384
WINDOW_CHUNKS: Final = PLANNED_MAX
"""How many files, or chunks of content, are written together: their packs are read once."""
INLINE_TOGETHER: Final = 64
INLINE_PARALLEL: Final = 2

_TYPES: Final = {
    Kind.FIFO: stat.S_IFIFO,
    Kind.SOCKET: stat.S_IFSOCK,
    Kind.BLOCK: stat.S_IFBLK,
    Kind.CHARACTER: stat.S_IFCHR,
}


@dataclass(slots=True)
class _Window:
    """Files that are written together: with content in their records, and with manifests."""

    inline: list[Made]
    files: list[Made]
    manifests: list[Manifest]


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
        number, record = self._next(), item.record
        name = b"%d" % number
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
        self._put(number, item.path, missing, None)

    def _link(self, item: Item) -> None:
        leader = self._plan.leader(link_key(item))
        assert leader is not None, "the first of its names was written before it"
        step = self._plan.step(leader[0])
        if ABSENT in step.missing:
            self._done(item.path, None, step.missing)
            return
        number = self._next()
        directory, name = place_of(self._root, leader[0])
        os.link(name, b"%d" % number, src_dir_fd=directory, dst_dir_fd=self._work, follow_symlinks=False)
        self._put(number, item.path, step.missing, step.stamp)

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
        windows = self._windows()
        while (window := await asyncio.to_thread(next, windows, None)) is not None:
            await self._fill(window, reader)
            await asyncio.to_thread(self._place, window)

    def _windows(self) -> Iterator[_Window]:
        window = _Window([], [], [])
        chunks = 0
        for item in self._plan.todo(Action.WRITE, Kind.FILE):
            manifest = item.record.manifest
            made = Made(self._next(), item.path, item.record.without_manifest())
            if manifest is None:
                window.inline.append(made)
            else:
                window.files.append(made)
                window.manifests.append(manifest)
                chunks += len(manifest.chunks)
            if len(window.inline) + len(window.files) == WINDOW_FILES or chunks >= WINDOW_CHUNKS:
                yield window
                window, chunks = _Window([], [], []), 0
        if window.inline or window.files:
            yield window

    async def _fill(self, window: _Window, reader: ContentReader | None) -> None:
        loop = asyncio.get_running_loop()

        def advance(count: int) -> None:
            loop.call_soon_threadsafe(self._advance, count)

        files, inline = window.files, window.inline
        filling = Filling(self._root, self._work, fresh=self._fresh, advance=advance)
        try:
            groups = (inline[first : first + INLINE_TOGETHER] for first in range(0, len(inline), INLINE_TOGETHER))
            writing = (asyncio.to_thread(filling.write_inline, group) for group in groups)
            await run_bounded(writing, parallel=INLINE_PARALLEL)
            if files:
                assert reader is not None, "there is content, so there is a reader"
                manifests = iter(window.manifests)
                await reader.scatter(
                    manifests, lambda piece: filling.write(files[piece.content], piece.offset, piece.data)
                )
        finally:
            await asyncio.to_thread(filling.close)

    def _place(self, window: _Window) -> None:
        for made in chain(window.inline, window.files):
            assert made.came is not None, "all of it was written"
            missing, stamp = made.came
            if self._fresh:
                self._done(made.path, stamp, missing)
            else:
                self._put(made.number, made.path, missing, stamp)

    # -- in place --

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _put(self, number: int, path: bytes, missing: Sequence[str], stamp: bytes | None) -> None:
        """Commit point of one path: it is there as it was captured, or as it was before."""
        directory, name = place_of(self._root, path)
        made_name = b"%d" % number
        if not self._fresh and _is_directory(directory, name):
            self._clear(directory, name)
            self._root.forget()
            directory, name = place_of(self._root, path)
        os.rename(made_name, name, src_dir_fd=self._work, dst_dir_fd=directory)
        if not self._fresh:
            with suppress(FileNotFoundError):  # two names of one file are not renamed over each other
                os.unlink(made_name, dir_fd=self._work)
        self._done(path, stamp, missing)

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
