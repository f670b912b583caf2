"""Fills files from several threads; each is read back and held against its record as soon as all of it is written."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from ledger.capture.files.names import shown
from ledger.capture.files.places import Directories
from ledger.capture.files.record import Record
from ledger.errors import Fenced, RestoreFailed
from restore.rebuild.files.attributes import is_as_recorded, set_attributes
from restore.rebuild.files.comparing import content_stamp, holds, place_of, reading_buffer, whole_stamp

TOLD_TOGETHER: Final = 256


@dataclass(slots=True)
class Made:
    """A file that is made under a number in the working directory, or where it belongs.

    `record`: what is recorded of it, but for where its content is. `came`: once it is as recorded, what the place did
    not take of it, and its stamp.
    """

    number: int
    path: bytes
    record: Record
    came: tuple[list[str], bytes] | None = None
    back: _Back | None = field(default=None, repr=False)


class _Back:
    """How far a file was read back: what is written in order at once, what comes early when it is its turn."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self.at = 0
        self.written: dict[int, int] = {}
        self.reading = False


class _Thread(NamedTuple):
    """What one thread uses at a time."""

    root: Directories
    buffer: memoryview


class Filling:
    """The files of a window. Each thread has its own way to the directories."""

    def __init__(self, root: Directories, work: int, *, fresh: bool, advance: Callable[[int], None]) -> None:
        """`fresh`: files are made where they belong; else under their numbers in `work`.

        `advance`, which is called in threads, is told how many more are as recorded.
        """
        self._root = root
        self._work = work
        self._fresh = fresh
        self._advance = advance
        self._changed = threading.Condition()
        self._idle: list[_Thread] = []
        self._busy = 0
        self._ended = 0
        self._closed = False

    def write(self, made: Made, offset: int, data: bytes) -> None:
        """Bytes of a file's stored content; the first of them make the file, the last make it as recorded.

        Raises OSError; RestoreFailed: what was written is not what was captured.
        """
        with self._thread() as thread:
            with self._changed:  # who comes with more of a file finds it made
                create = made.back is None
                if create:
                    made.back = _Back()
                    descriptor = self._create(made, thread.root)
            if not create:
                descriptor = self._open(made, thread.root)
            try:
                _scatter(descriptor, made.record, offset, data)
                if self._is_read_back(made, descriptor, offset, len(data), thread.buffer):
                    self._finish(made, descriptor, thread.buffer)
            finally:
                os.close(descriptor)

    def write_inline(self, window: Sequence[Made]) -> None:
        """Files whose content is in their records. Raises as `write`."""
        for made in window:
            self.write(made, 0, made.record.inline or b"")

    # -- made --

    def _create(self, made: Made, root: Directories) -> int:
        descriptor = self._open(made, root, os.O_CREAT | os.O_EXCL)
        if made.record.extents is not None:
            os.ftruncate(descriptor, made.record.size)  # there may be a hole at its end
        return descriptor

    def _open(self, made: Made, root: Directories, more: int = 0) -> int:
        directory, name = place_of(root, made.path) if self._fresh else (self._work, b"%d" % made.number)
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | more
        return os.open(name, flags, 0o600, dir_fd=directory)

    # -- read back --

    def _is_read_back(self, made: Made, descriptor: int, offset: int, length: int, buffer: memoryview) -> bool:
        """Read back what was written, as far as it follows on what was; whether that is all of it by now."""
        back, sparse = made.back, made.record.extents is not None
        assert back is not None
        with self._changed:
            back.written[offset] = length
            if back.reading:
                return False  # whoever reads goes on with it
            back.reading = True
        while True:
            with self._changed:
                count = back.written.pop(back.at, None)
                if not count:  # an empty file has one part, which is empty
                    back.reading = False
                    return back.at == made.record.stored
            if not sparse:  # else it is read in the end, with its holes
                _read(descriptor, back, count, buffer)
            back.at += count

    def _finish(self, made: Made, descriptor: int, buffer: memoryview) -> None:
        record, back = made.record, made.back
        assert back is not None
        found = os.fstat(descriptor)
        if record.extents is not None:
            is_held = holds(descriptor, record, buffer)
        else:
            is_held = found.st_size == record.size and back.digest.digest() == record.digest
        if not is_held:
            raise RestoreFailed(
                f"what was written of {shown(made.path)} is not what was captured",
                hint="check the disk it was written to, then restore again",
            )
        missing = set_attributes(descriptor, record, found)
        found = os.fstat(descriptor)
        whole = not missing and not record.xattrs and is_as_recorded(record, found)
        made.came = missing, (whole_stamp if whole else content_stamp)(found)
        with self._changed:
            self._ended += 1
            told = self._ended % TOLD_TOGETHER == 0
        if told:
            self._advance(TOLD_TOGETHER)

    # -- threads --

    @contextmanager
    def _thread(self) -> Iterator[_Thread]:
        """For one thread. Raises Fenced: it is closed."""
        with self._changed:
            if self._closed:
                raise Fenced("this restore was stopped", hint="start it again: it goes on")
            self._busy += 1
            thread = self._idle.pop() if self._idle else None
        try:
            thread = thread or _Thread(self._root.again(), reading_buffer())
            yield thread
        finally:
            with self._changed:
                self._busy -= 1
                if thread is not None:
                    self._idle.append(thread)
                self._changed.notify_all()

    def close(self) -> None:
        """Nothing is being written on return, or ever will be."""
        with self._changed:
            self._closed = True
            while self._busy:
                self._changed.wait()
        for thread in self._idle:
            thread.root.close()
        if self._ended % TOLD_TOGETHER:
            self._advance(self._ended % TOLD_TOGETHER)


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


def _read(descriptor: int, back: _Back, count: int, buffer: memoryview) -> None:
    """So many bytes more. Where there are not so many, the digest will not be the one that is recorded."""
    at, end = back.at, back.at + count
    while at < end and (read := os.preadv(descriptor, [buffer[: end - at]], at)):
        back.digest.update(buffer[:read])
        at += read
