"""Watches a tree: what inotify tells of is looked at at once; all of it is scanned every so often, which is the truth.

inotify tells of no change made through a memory map or on another machine, and forgets when it is told too much.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Final, Protocol

from inotify_simple import INotify, flags  # type: ignore[import-untyped]  # it has no types

from ledger.capture.base import Captured, Sealed
from ledger.capture.files.names import join
from ledger.capture.files.places import by_descriptor
from ledger.capture.files.scan import Watch
from ledger.errors import CaptureFailed

EVERY_S: Final = 3_600
SETTLE_S: Final = 0.5
"""How long changes are collected before they are looked at."""
WATCHES_MAX: Final = 65_536
DIRTY_MAX: Final = 4_096

_MASK: Final = (
    flags.CREATE
    | flags.DELETE
    | flags.MODIFY
    | flags.ATTRIB
    | flags.CLOSE_WRITE
    | flags.MOVED_FROM
    | flags.MOVED_TO
    | flags.ONLYDIR
)
_MOVED: Final = flags.MOVED_FROM | flags.MOVED_TO

Excluded = Callable[[bytes, bool], bool]


class Passes(Protocol):
    """What looks at a tree, or at some of its directories."""

    def __call__(self, *, only: Sequence[bytes] | None, watch: Watch) -> Awaitable[Captured]: ...


async def watch_tree(passes: Passes, excluded: Excluded, every_s: float, sealed: Sealed) -> None:
    """Until it is cancelled. `sealed` is told each point, and at each whole scan that nothing was new.

    Raises CaptureFailed, and as the passes do.
    """
    loop = asyncio.get_running_loop()
    while True:
        with Watcher(excluded) as watcher:  # a new one for each whole scan: nothing of what moved is left in it
            sealed(await passes(only=None, watch=watcher.add))
            until = loop.time() + every_s
            while (dirty := await watcher.changed(until - loop.time())) is not None:
                captured = await passes(only=dirty, watch=watcher.add)
                if not captured.repeated:
                    sealed(captured)


class Watcher:
    """The directories of one tree that inotify watches. `add` is called by one other thread at a time."""

    def __init__(self, excluded: Excluded) -> None:
        """Raises CaptureFailed: the system gives no inotify."""
        self._excluded = excluded
        try:
            self._inotify = INotify()
        except OSError as error:
            raise CaptureFailed(
                f"the tree cannot be watched ({error.strerror})", hint="raise fs.inotify.max_user_instances"
            ) from error
        self._told = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._inotify.fileno(), self._read)
        self._paths: dict[int, bytes] = {}
        self._dirty: set[bytes] = set()
        self._lost = False

    def add(self, path: bytes, descriptor: int) -> None:
        """Watch a directory that is about to be listed; one too many is left to the whole scans."""
        if len(self._paths) >= WATCHES_MAX:
            return
        try:
            watch = self._inotify.add_watch(by_descriptor(descriptor, b"."), _MASK)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.ENOENT, errno.ENOTDIR, errno.EACCES):
                raise
            return
        self._paths[watch] = path

    async def changed(self, timeout_s: float) -> list[bytes] | None:
        """The directories in which something changed; None: all of them have to be looked at."""
        try:
            async with asyncio.timeout(max(timeout_s, 0)):
                await self._told.wait()
        except TimeoutError:
            return None
        await asyncio.sleep(SETTLE_S)
        self._told.clear()
        dirty, self._dirty = self._dirty, set()
        return None if self._lost else sorted(dirty)

    def _read(self) -> None:
        for watch, mask, _, name in self._inotify.read(timeout=0):
            path = self._paths.get(watch)
            if mask & flags.Q_OVERFLOW or (mask & flags.ISDIR and mask & _MOVED):
                self._lost = True  # or: directories have other paths than those that are known
            elif mask & flags.IGNORED:
                self._paths.pop(watch, None)
                continue
            elif path is None or (name and self._excluded(join(path, os.fsencode(name)), bool(mask & flags.ISDIR))):
                continue
            else:
                self._dirty.add(path)
                self._lost = self._lost or len(self._dirty) > DIRTY_MAX
            self._told.set()

    def __enter__(self) -> Watcher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.remove_reader(self._inotify.fileno())
        self._inotify.close()
