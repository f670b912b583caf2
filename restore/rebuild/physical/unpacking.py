"""Base backups and segments out of the content store, as files of the user whom the server will run as."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ledger.capture.physical.events import Base, Segment
from ledger.capture.physical.tar import Member, TarStream
from ledger.content import ContentReader
from ledger.core.manifest import Manifest
from ledger.errors import Malformed, RestoreFailed, Tampered
from restore.rebuild.places import writing_errors

Told = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose the files are; None: the user's who restores."""

    uid: int
    gid: int


async def unpack(base: Base, reader: ContentReader, directory: Path, owner: Owner | None, told: Told) -> None:
    """The files of a base backup below a new directory. Raises Tampered, DiskFull, StoreUnavailable."""
    with writing_errors(directory):
        directory.mkdir(mode=0o700)
        own(directory, owner)
    files = _Files(directory, owner)
    tar = TarStream(files)
    try:
        async for part in _read(base.tar, reader, "a base backup"):
            with writing_errors(directory):
                await asyncio.to_thread(tar.feed, part)
            told(len(part))
        tar.finish()
    except Malformed as error:
        raise Tampered(f"a base backup cannot be unpacked ({error.what})", hint=error.hint or "use another") from error
    finally:
        files.close()
    if files.count != base.files + 1:  # and its manifest
        raise RestoreFailed(
            f"a base backup of {base.files} files came out as {files.count - 1}", hint="restore from another copy"
        )


async def put_segment(
    segment: Segment, until: int, reader: ContentReader, directory: Path, owner: Owner | None, told: Told
) -> None:
    """A segment as a file of its full size, with zeros from `until` on. Raises as `unpack`."""
    path = directory / segment.name
    left = min(segment.segment_size, until - segment.start)
    if segment.content.length < left:
        raise RestoreFailed(
            f"segment {segment.name} of the log has {segment.content.length:,} bytes, and {left:,} of it are needed",
            hint="restore an earlier point with --at, or from another copy",
        )
    with writing_errors(path):
        file = await asyncio.to_thread(path.open, "xb")
    with file:
        async for part in _read(segment.content, reader, f"segment {segment.name} of the log"):
            with writing_errors(path):
                left -= await asyncio.to_thread(file.write, part[:left])
            told(len(part))
        with writing_errors(path):
            await asyncio.to_thread(file.truncate, segment.segment_size)
            own(path, owner)


async def prove(manifest: Manifest, reader: ContentReader, what: str, told: Told) -> None:
    """Read content, and write nothing. Raises Tampered, StoreUnavailable."""
    async for part in _read(manifest, reader, what):
        told(len(part))


def own(path: Path, owner: Owner | None) -> None:
    """Hand a file over. Raises OSError."""
    if owner is not None:
        os.chown(path, owner.uid, owner.gid)


async def _read(manifest: Manifest, reader: ContentReader, what: str) -> AsyncIterator[bytes]:
    try:
        async for part in reader.read(manifest):
            yield part
    except Tampered as error:
        raise Tampered(f"{what}: {error.what}", key=error.key, hint=error.hint) from error


class _Files:
    """A `Sink` that writes what goes by."""

    def __init__(self, directory: Path, owner: Owner | None) -> None:
        self._directory = directory
        self._owner = owner
        self._file: BinaryIO | None = None
        self.count = 0

    def begin(self, member: Member) -> None:
        path = self._directory / os.fsdecode(member.name)
        if member.is_directory:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.chmod(member.mode | 0o700)
        else:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = path.open("xb")
            os.fchmod(self._file.fileno(), member.mode)
            self.count += 1
        own(path, self._owner)

    def data(self, part: memoryview) -> None:
        assert self._file is not None
        self._file.write(part)

    def end(self) -> None:
        self.close()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
