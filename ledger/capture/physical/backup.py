"""A base backup on its way into the content store: read once, and held against its own manifest as it goes by."""

from __future__ import annotations

import hashlib
import re
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, Final

from ledger.capture.physical.tar import Member, TarStream
from ledger.capture.postgres.pgoutput import parse_lsn
from ledger.core.canonical import JsonValue, parse_json
from ledger.errors import CaptureFailed, Malformed

MANIFEST: Final = b"backup_manifest"
LINE_SIZE_MAX: Final = 2**16
"""PostgreSQL has names of up to 1,024 bytes, and writes the manifest a file a line."""

_CHECKSUM = re.compile(rb'"Manifest-Checksum": "([0-9a-f]{64})"\}\n?')
_RANGE = re.compile(
    r'\{ "Timeline": ([0-9]{1,10}), "Start-LSN": "([0-9A-F/]{3,17})", "End-LSN": "([0-9A-F/]{3,17})" \}'
)
_FILES, _RANGES = b'"Files": [', b'"WAL-Ranges": ['


@dataclass(frozen=True, slots=True)
class Range:
    """Log that a backup needs, on one timeline."""

    timeline: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Listed:
    """A file as a backup's manifest lists it."""

    path: bytes
    size: int
    sha256: str


def read_manifest(file: BinaryIO, each: Callable[[Listed], None]) -> tuple[Range, ...]:
    """The ranges of a `backup_manifest`; `each` is told its files. Memory: a line.

    Raises Malformed: it is none, its files have other checksums than SHA-256, or its own checksum does not hold.
    """
    digest = hashlib.sha256()
    ranges: list[Range] = []
    for line in iter(lambda: file.readline(LINE_SIZE_MAX), b""):
        if (found := _CHECKSUM.fullmatch(line)) is not None:
            if found[1].decode() != digest.hexdigest():
                raise Malformed("the manifest of a backup does not have the checksum that it says it has")
            if not ranges:
                raise Malformed("the manifest of a backup does not say which log it needs")
            return tuple(ranges)
        digest.update(line)
        bare = line.removeprefix(_FILES).removeprefix(_RANGES).strip().removesuffix(b"],").removesuffix(b",")
        if b'"Start-LSN"' in line:
            ranges.append(_range(bare))
        elif b'"Size"' in line:
            each(_listed(parse_json(bare)))
    raise Malformed("the manifest of a backup is cut short")


def _range(line: bytes) -> Range:
    found = _RANGE.fullmatch(line.decode("ascii", "replace").strip())
    if not found:
        raise Malformed(f"the manifest of a backup has a range that cannot be read, {line[:120]!r}")
    return Range(int(found[1]), parse_lsn(found[2]), parse_lsn(found[3]))


def _listed(value: JsonValue) -> Listed:
    match value:
        case {"Path": str(path), "Size": int(size), "Checksum-Algorithm": "SHA256", "Checksum": str(sha256)}:
            return Listed(path.encode(), size, sha256)
        case {"Encoded-Path": str(path), "Size": int(size), "Checksum-Algorithm": "SHA256", "Checksum": str(sha256)}:
            try:
                return Listed(bytes.fromhex(path), size, sha256)
            except ValueError:
                pass
    raise Malformed("the manifest of a backup has a file that cannot be read", hint="use a newer jinshi")


class CheckedBackup:
    """The stream of a base backup, for whoever stores it: what goes by is digested file by file.

    The digests wait in a file of their own under `directory` for the manifest, which is the last member.
    """

    def __init__(self, stream: IO[bytes], directory: Path, told: Callable[[int], None]) -> None:
        self._stream = stream
        self._told = told
        self._tar = TarStream(self)
        self._digest = hashlib.sha256()
        self._member: Member | None = None
        self._manifest: BinaryIO | None = None
        self._seen = sqlite3.connect(directory / "files.sqlite", check_same_thread=False, isolation_level=None)
        self._seen.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;"
            "CREATE TABLE seen (path BLOB PRIMARY KEY, size INTEGER, sha256 TEXT) WITHOUT ROWID; BEGIN"
        )
        self.manifest = directory / "backup_manifest"
        self.ended = False
        self.files = 0
        self.size = 0

    def readinto(self, buffer: memoryview, /) -> int | None:
        """As of a file. Raises Malformed: it is no backup."""
        size = int(self._stream.readinto(buffer) or 0)  # type: ignore[attr-defined]  # a pipe is unbuffered
        if size:
            self._tar.feed(buffer[:size])
            self.size += size
            self._told(self.size)
        else:
            self.ended = True
            self._tar.finish()
        return size

    def begin(self, member: Member) -> None:
        """As `Sink`."""
        self._member = member
        if member.name == MANIFEST:
            self._manifest = self.manifest.open("wb")
        self._digest = hashlib.sha256()

    def data(self, part: memoryview) -> None:
        """As `Sink`."""
        if self._manifest is not None:
            self._manifest.write(part)
        else:
            self._digest.update(part)

    def end(self) -> None:
        """As `Sink`."""
        member = self._member
        assert member is not None
        if self._manifest is not None:
            self._manifest.close()
            self._manifest = None
        elif not member.is_directory:
            row = (member.name, member.size, self._digest.hexdigest())
            self._seen.execute("INSERT OR REPLACE INTO seen VALUES (?, ?, ?)", row)
            self.files += 1

    def check(self) -> tuple[Range, ...]:
        """The ranges of the manifest, once all that it lists has gone by as it says, and nothing else.

        Raises CaptureFailed, Malformed.
        """
        if not self.manifest.exists():
            raise CaptureFailed("a base backup came without a manifest", hint="PostgreSQL has them since release 13")
        with self.manifest.open("rb") as file:
            ranges = read_manifest(file, self._hold)
        left = self._seen.execute("SELECT path FROM seen LIMIT 1").fetchone()
        if left is not None:
            raise CaptureFailed(f"a base backup holds {_shown(left[0])}, which its manifest does not list")
        return ranges

    def _hold(self, listed: Listed) -> None:
        row: Any = (listed.path, listed.size, listed.sha256)
        if not self._seen.execute("DELETE FROM seen WHERE (path, size, sha256) = (?, ?, ?)", row).rowcount:
            raise CaptureFailed(
                f"{_shown(listed.path)} in a base backup is not as its manifest says",
                hint="run it again; look at its disk",
            )

    def close(self) -> None:
        """Let go of its files."""
        self._seen.close()
        if self._manifest is not None:
            self._manifest.close()


def _shown(path: bytes) -> str:
    return ascii(path.decode("utf-8", "replace"))
