"""Walks a tree and tells what is not as it was recorded: directory by directory, in bounded memory, in one thread.

A path whose stamp is the remembered one is not looked into. What cannot be read is a problem, and stays as recorded.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from ledger.capture.files.exclusions import Exclusions
from ledger.capture.files.names import PATH_SIZE_MAX, ROOT, join, parent_of, shown
from ledger.capture.files.places import Directories, by_descriptor
from ledger.capture.files.reading import kind_of, record_of, xattrs_of
from ledger.capture.files.record import Kind, Record
from ledger.capture.files.sealed import PROBLEMS_MAX
from ledger.capture.files.state import Row, State, inode_of, same_inode, stamp_of
from ledger.errors import CaptureFailed

PROBLEM_NAME_MAX: Final = 100

Xattrs = tuple[tuple[bytes, bytes], ...]
Watch = Callable[[bytes, int], None]
"""Told each directory, by path and descriptor, before it is listed."""


@dataclass(slots=True)
class Problems:
    """What could not be captured: the first hundred in words."""

    lines: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, path: bytes, what: str) -> None:
        """One more."""
        self.count += 1
        if len(self.lines) < PROBLEMS_MAX:
            name = shown(path)
            if len(name) > PROBLEM_NAME_MAX:  # a hundred of them have to fit the entry that seals the point
                name = f"{name[: PROBLEM_NAME_MAX // 2]}…{name[-PROBLEM_NAME_MAX // 2 :]}"
            self.lines.append(f"{name}: {what}")


@dataclass(slots=True)
class Found:
    """A path that does not look as remembered. `record` None: it is a regular file, open at `descriptor`."""

    path: bytes
    looked: os.stat_result
    row: Row | None
    record: Record | None = None
    dataref: str | None = None
    xattrs: Xattrs = ()
    descriptor: int = -1

    def close(self) -> None:
        """Close what is open of it."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


@dataclass(frozen=True, slots=True)
class Gone:
    """A path that was recorded and is not there."""

    path: bytes
    place: int


class Scan:
    """One pass over a tree, or over some of its directories."""

    def __init__(
        self,
        root: str,
        state: State,
        exclusions: Exclusions,
        *,
        one_file_system: bool = False,
        only: Sequence[bytes] | None = None,
        watch: Watch | None = None,
    ) -> None:
        """Raises CaptureFailed: the root cannot be read."""
        self._state = state
        self._exclusions = exclusions
        self._watch = watch
        try:
            self._directories = Directories(root)
            self._device = os.fstat(self._directories.open(ROOT)).st_dev if one_file_system else None
        except OSError as error:
            raise CaptureFailed(
                f"{root} cannot be read ({error.strerror})", hint="is it mounted, and may this user read it?"
            ) from error
        self._only = None if only is None else frozenset(only)
        self.began_ns = state.now_ns()
        self.problems = Problems()
        self.seen = 0

    def close(self) -> None:
        """Release the directories."""
        self._directories.close()

    # -- walking --

    def found(self) -> Generator[Found | Gone, None, None]:
        """What is not as it was. Of a regular file the descriptor is open: the caller reads and closes it."""
        self._state.begin()
        for path in [ROOT] if self._only is None else self._only:
            if self._only is None or path == ROOT or parent_of(path) not in self._only:
                yield from self._itself(path)
            self._state.push(path)
        while (pending := self._state.pop()) is not None:
            yield from self._directory(pending)

    def _itself(self, path: bytes) -> Iterator[Found | Gone]:
        """A directory that no other one is listed for."""
        with suppress(OSError):  # it is missing in the one above it, or cannot be listed either
            descriptor = self._directories.open(path)
            yield from self._look(path, os.fstat(descriptor), descriptor, b".")

    def _directory(self, path: bytes) -> Iterator[Found | Gone]:
        try:
            descriptor = self._directories.open(path)
            if self._watch is not None:
                self._watch(path, descriptor)
            listing = os.scandir(descriptor)
        except OSError as error:
            if path == ROOT or not isinstance(error, FileNotFoundError | NotADirectoryError):
                self.problem(path, error)
            return
        before, known = self._state.count(path), 0
        with listing:
            for entry in listing:
                name = os.fsencode(entry.name)
                below = join(path, name)
                if len(below) > PATH_SIZE_MAX:
                    self.problems.add(path, "a name in it makes a path of more than 16 KiB; it is left out")
                    continue
                try:
                    looked = entry.stat(follow_symlinks=False)
                except OSError as error:
                    if not isinstance(error, FileNotFoundError):
                        known += 1
                        self.problem(below, error)
                    continue
                kind = kind_of(looked)
                if self._exclusions.match(below, directory=kind is Kind.DIRECTORY):
                    continue
                self.seen += 1
                row = self._state.row(below)
                known += row is not None and (row.kind is not None or row.line == b"")
                yield from self._look(below, looked, descriptor, name, row)
                if kind is Kind.DIRECTORY:
                    yield from self._enter(below, row, looked)
        if before != known:
            yield from self._missing(path)

    def _enter(self, path: bytes, row: Row | None, looked: os.stat_result) -> Iterator[Gone]:
        if self._device is not None and looked.st_dev != self._device:
            yield from self._gone(path, itself=False)  # another file system was mounted there
        elif self._only is None or row is None or row.kind != Kind.DIRECTORY or not same_inode(row.stamp, looked):
            self._state.push(path)

    def _missing(self, path: bytes) -> Iterator[Gone]:
        """What was recorded right in a directory, and is not there, or is left out by now."""
        for below in self._state.names(path):
            name = below.rpartition(b"/")[2]
            try:
                looked = os.stat(name, dir_fd=self._directories.open(path), follow_symlinks=False)
            except FileNotFoundError:
                yield from self._gone(below)
            except OSError as error:
                self.problem(below, error)
            else:
                if self._exclusions.match(below, directory=kind_of(looked) is Kind.DIRECTORY):
                    yield from self._gone(below)

    def _gone(self, path: bytes, *, itself: bool = True) -> Iterator[Gone]:
        """A path, and whatever was recorded below it."""
        for below in self._state.below(path):
            row = self._state.row(below)
            if row is not None:
                yield Gone(below, row.place)
        row = self._state.row(path)
        if itself and row is not None:
            yield Gone(path, row.place)

    def _look(
        self, path: bytes, looked: os.stat_result, directory: int, name: bytes, row: Row | None = None
    ) -> Iterator[Found | Gone]:
        row = row or self._state.row(path)
        if row is not None and row.kind is not None and row.line and row.stamp == stamp_of(looked):
            return
        kind = kind_of(looked)
        if row is not None and row.kind == Kind.DIRECTORY and kind is not Kind.DIRECTORY:
            yield from self._gone(path, itself=False)
        try:
            yield self._found(path, looked, row, directory, name)
        except FileNotFoundError:
            return  # it went away since the directory was listed: it is missing below, or at the next scan
        except OSError as error:
            self.problem(path, error)

    def _found(self, path: bytes, looked: os.stat_result, row: Row | None, directory: int, name: bytes) -> Found:
        found = Found(path, looked, row)
        kind = kind_of(looked)
        if kind is Kind.FILE:
            inode = inode_of(looked)
            twin = None if inode is None else self._state.twin(inode, stamp_of(looked))
            if twin is not None:
                found.record, found.dataref = twin
                return found
            # Never waits: what was swapped for a FIFO meanwhile is opened at once, and found to be no file.
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            found.descriptor = os.open(name, flags, dir_fd=directory)
            try:
                found.xattrs = xattrs_of(found.descriptor)
            except BaseException:  # whatever it is, nobody else closes it
                os.close(found.descriptor)
                raise
            return found
        target = os.readlink(name, dir_fd=directory) if kind is Kind.SYMLINK else b""
        found.xattrs = xattrs_of(by_descriptor(directory, name))
        found.record = record_of(looked, found.xattrs, target=target)
        return found

    def problem(self, path: bytes, error: OSError) -> None:
        row = self._state.row(path)
        kept = "; what was captured before stays" if row is not None and row.kind is not None else ""
        self.problems.add(path, f"{error.strerror or error}{kept}")
