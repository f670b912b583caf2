"""One path of a tree as a record: its attributes, and its content, read without holes, twice where it changes."""

from __future__ import annotations

import errno
import grp
import hashlib
import heapq
import os
import pwd
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain
from typing import Final

from ledger.capture.files.record import (
    EMPTY_DIGEST,
    EXTENTS_MAX,
    INLINE_SIZE_MAX,
    XATTRS_SIZE_MAX,
    Extent,
    Kind,
    Record,
)
from ledger.capture.files.state import stamp_of
from ledger.content import Content, ContentWriter

ATTEMPTS: Final = 3
BLOCK: Final = 512
HOLE_SIZE_MIN: Final = 2**16
"""A hole of fewer bytes is read as the zeros it is."""

_KINDS: Final = {
    stat.S_IFREG: Kind.FILE,
    stat.S_IFDIR: Kind.DIRECTORY,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFIFO: Kind.FIFO,
    stat.S_IFSOCK: Kind.SOCKET,
    stat.S_IFBLK: Kind.BLOCK,
    stat.S_IFCHR: Kind.CHARACTER,
}
_NO_XATTRS: Final = (errno.ENOTSUP, errno.ENODATA, errno.EPERM, errno.ENOENT)


@dataclass(frozen=True, slots=True)
class Read:
    """A file's content as it was read: where it lies, and how the file looked. `torn`: it kept changing."""

    looked: os.stat_result
    size: int
    digest: bytes
    inline: bytes | None = None
    content: Content | None = None
    extents: tuple[Extent, ...] | None = None
    torn: bool = False


class Vanished(Exception):
    """It is another kind of thing by now, or gone: the next scan sees what."""


def kind_of(found: os.stat_result) -> Kind:
    """What a path is."""
    return _KINDS[stat.S_IFMT(found.st_mode)]


def record_of(found: os.stat_result, xattrs: tuple[tuple[bytes, bytes], ...], *, target: bytes = b"") -> Record:
    """The record of what is no regular file; of one, all but its content."""
    kind = kind_of(found)
    return Record(
        kind,
        stat.S_IMODE(found.st_mode),
        found.st_uid,
        found.st_gid,
        found.st_mtime_ns,
        user_name(found.st_uid),
        group_name(found.st_gid),
        target=target,
        link="" if kind is Kind.DIRECTORY else link_of(found),
        device=(os.major(found.st_rdev), os.minor(found.st_rdev)) if kind in (Kind.BLOCK, Kind.CHARACTER) else None,
        xattrs=xattrs,
    )


def file_record(read: Read, xattrs: tuple[tuple[bytes, bytes], ...]) -> Record:
    """The record of a regular file that was read."""
    return replace(
        record_of(read.looked, xattrs),
        size=read.size,
        digest=read.digest,
        inline=read.inline,
        manifest=None if read.content is None else read.content.manifest,
        extents=read.extents,
        torn=read.torn,
    )


def link_of(found: os.stat_result) -> str:
    """What the names of one file have in common; '' when it has one name."""
    return f"{found.st_dev:x}:{found.st_ino:x}" if found.st_nlink > 1 else ""


def read_file(descriptor: int, writer: ContentWriter) -> Read:
    """A regular file's content, up to the size it has when reading begins.

    It is read again while it changes meanwhile, `ATTEMPTS` times in all; what is read last is kept, as torn.

    Raises:
        OSError: it cannot be read.
        Vanished: it is no regular file.
        whatever `ContentWriter.take` raises.
    """
    read = _read_once(descriptor, writer)
    for _ in range(ATTEMPTS - 1):
        if not read.torn:
            break
        read = _read_once(descriptor, writer)
    return read


def _read_once(descriptor: int, writer: ContentWriter) -> Read:
    before = os.fstat(descriptor)
    if not stat.S_ISREG(before.st_mode):
        raise Vanished
    extents = data_extents(descriptor, before)
    wanted = before.st_size if extents is None else sum(one.length for one in extents)
    parts = (Extent(0, before.st_size),) if extents is None else extents
    inline, content, count = None, None, 0
    if wanted == 0:
        digest = EMPTY_DIGEST
    elif wanted <= INLINE_SIZE_MAX:
        inline = _all(descriptor, parts)
        count, digest = len(inline), hashlib.sha256(inline).digest()
    else:
        content = writer.take(_Stream(descriptor, parts))
        count, digest = content.manifest.length, content.manifest.digest
    if count != wanted:  # it was cut short: what there was
        return Read(before, count, digest, inline or None, content if count else None, torn=True)
    torn = stamp_of(os.fstat(descriptor)) != stamp_of(before)
    return Read(before, before.st_size, digest, inline, content, extents, torn)


def _all(descriptor: int, parts: Sequence[Extent]) -> bytes:
    return b"".join(os.pread(descriptor, part.length, part.offset) for part in parts)


class _Stream:
    """Parts of a file, one after the other."""

    def __init__(self, descriptor: int, parts: Sequence[Extent]) -> None:
        self._descriptor = descriptor
        self._parts = iter(parts)
        self._at = self._end = 0

    def readinto(self, buffer: memoryview, /) -> int:
        while self._at >= self._end:
            part = next(self._parts, None)
            if part is None:
                return 0
            self._at, self._end = part.offset, part.offset + part.length
        count = os.preadv(self._descriptor, [buffer[: self._end - self._at]], self._at)
        if count == 0:
            self._parts, self._end = iter(()), self._at
        self._at += count
        return count


def data_extents(descriptor: int, found: os.stat_result) -> tuple[Extent, ...] | None:
    """The parts of a sparse file that are no holes, at most `EXTENTS_MAX`; None: it is not sparse. Raises OSError."""
    if found.st_blocks * BLOCK >= found.st_size or found.st_size <= HOLE_SIZE_MIN:
        return None
    holes: list[tuple[int, int]] = []  # the largest ones, by length; smaller ones are read
    end = 0
    for one in chain(parts_with_data(descriptor, 0, found.st_size), [Extent(found.st_size, 0)]):
        if one.offset - end >= HOLE_SIZE_MIN:
            (heapq.heappush if len(holes) < EXTENTS_MAX - 1 else heapq.heappushpop)(holes, (one.offset - end, end))
        end = one.offset + one.length
    extents: list[Extent] = []
    end = 0
    for length, start in sorted(holes, key=lambda hole: hole[1]):
        if start > end:
            extents.append(Extent(end, start - end))
        end = start + length
    if end < found.st_size:
        extents.append(Extent(end, found.st_size - end))
    return tuple(extents) if holes else None


def parts_with_data(descriptor: int, start: int, end: int) -> Iterator[Extent]:
    """What of a part of a file is no hole, in order. Raises OSError."""
    while start < end:
        try:
            start = os.lseek(descriptor, start, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole is left
                return
            raise
        stop = min(os.lseek(descriptor, start, os.SEEK_HOLE), end)
        if start >= stop:
            return
        yield Extent(start, stop - start)
        start = stop


def xattrs_of(place: int | bytes) -> tuple[tuple[bytes, bytes], ...]:
    """Extended attributes, POSIX ACLs among them, of a descriptor or a path that is not followed.

    Raises:
        OSError: they cannot be read; EFBIG: they are larger than an entry holds.
    """
    follow = isinstance(place, int)
    try:
        names = os.listxattr(place, follow_symlinks=follow)
        if not names:
            return ()
        found = sorted((os.fsencode(name), os.getxattr(place, name, follow_symlinks=follow)) for name in names)
    except OSError as error:
        if error.errno in _NO_XATTRS:
            return ()
        raise
    if sum(len(name) + len(value) for name, value in found) > XATTRS_SIZE_MAX:
        raise OSError(errno.EFBIG, "its extended attributes have more than 8 KiB")
    return tuple(found)


@lru_cache(maxsize=4_096)
def user_name(uid: int) -> str:
    """The name of a user here; '' where there is none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""


@lru_cache(maxsize=4_096)
def group_name(gid: int) -> str:
    """The name of a group here; '' where there is none."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return ""
