"""What is recorded of one path of a tree, as the data of an entry (docs/formats.md). Pure."""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from ledger.capture.files.names import parse_text, text_of
from ledger.core.canonical import INTEGER_MAX, JsonValue, canonical_of_parsed, canonicalize, parse_canonical
from ledger.core.encoding import decode_base64
from ledger.core.manifest import Manifest, encode_manifest, parse_manifest
from ledger.errors import Malformed

ADDED: Final = "file.added.v1"
AMENDED: Final = "file.amended.v1"
RETIRED: Final = "file.retired.v1"
RECORDED: Final = frozenset({ADDED, AMENDED, RETIRED})

INLINE_SIZE_MAX: Final = 1_024
"""Content of at most so many bytes lies in the entry: a chunk, its place in the index and a dataref take as much."""
EXTENTS_MAX: Final = 512
XATTRS_SIZE_MAX: Final = 8_192

EMPTY_DIGEST: Final = hashlib.sha256().digest()
_LINE = struct.Struct(">I")


class Kind(StrEnum):
    """What is at a path."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    FIFO = "fifo"
    SOCKET = "socket"
    BLOCK = "block"
    CHARACTER = "character"


_KINDS: Final = {kind.value: kind for kind in Kind}


class Extent(NamedTuple):
    """Bytes of a sparse file that are stored: where they begin, and how many there are."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Record:
    """One path: what it is, its attributes, and where its content is.

    `digest` is that of what is stored: the whole file, or, where `extents` say which parts are no holes, those parts
    one after the other. `link`: paths with the same one are one file with several names. `torn`: it changed while it
    was read.
    """

    kind: Kind
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    owner: str = ""
    group: str = ""
    size: int = 0
    digest: bytes = b""
    inline: bytes | None = None
    manifest: Manifest | None = None
    extents: tuple[Extent, ...] | None = None
    target: bytes = b""
    link: str = ""
    device: tuple[int, int] | None = None
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    torn: bool = False

    @property
    def stored(self) -> int:
        """How many bytes of content there are."""
        return self.size if self.extents is None else sum(one.length for one in self.extents)

    def attributes(self) -> dict[str, JsonValue]:
        """What the digest of a tree is over: all but names of owners, and where the content is."""
        found: dict[str, JsonValue] = {
            "gid": self.gid,
            "kind": self.kind.value,
            "mode": self.mode,
            "mtime_ns": str(self.mtime_ns),
            "uid": self.uid,
        }
        if self.kind is Kind.FILE:
            found |= {"digest": self.digest.hex(), "size": self.size}
        if self.extents is not None:
            found["extents"] = [[one.offset, one.length] for one in self.extents]
        if self.kind is Kind.SYMLINK:
            found["target"] = text_of(self.target)
        if self.link:
            found["link"] = self.link
        if self.device is not None:
            found["device"] = list(self.device)
        if self.xattrs:
            found["xattrs"] = {text_of(name): base64.b64encode(value).decode() for name, value in self.xattrs}
        if self.torn:
            found["torn"] = True
        return found

    def line(self) -> bytes:
        """What stands for it in the digest of a tree: SHA-256 of the canonical JSON of its attributes."""
        return hashlib.sha256(canonical_of_parsed(self.attributes())).digest()

    def without_manifest(self) -> Record:
        """The same, but for where its content is (written out: `dataclasses.replace` takes twice as long)."""
        return Record(
            self.kind,
            self.mode,
            self.uid,
            self.gid,
            self.mtime_ns,
            self.owner,
            self.group,
            self.size,
            self.digest,
            self.inline,
            None,
            self.extents,
            self.target,
            self.link,
            self.device,
            self.xattrs,
            self.torn,
        )


def encode_record(record: Record, long: bytes | None = None) -> bytes:
    """The data of an entry; `long`: the path, where the subject is its digest."""
    data = record.attributes()
    if record.owner:
        data["owner"] = record.owner
    if record.group:
        data["group"] = record.group
    if record.inline is not None:
        data["inline"] = base64.b64encode(record.inline).decode()
    if record.manifest is not None:
        data["manifest"] = base64.b64encode(encode_manifest(record.manifest)).decode()
    if long is not None:
        data["path"] = base64.b64encode(long).decode()
    return canonicalize(data)


def encode_retired(long: bytes | None = None) -> bytes:
    """The data of the entry that says that nothing is there any more."""
    return canonicalize({} if long is None else {"path": base64.b64encode(long).decode()})


def parse_long(data: bytes) -> bytes:
    """The path in the data of an entry whose subject is a digest. Raises Malformed."""
    match parse_canonical(data):
        case {"path": str(text)}:
            return _base64(text)
    raise Malformed("an entry of a long path does not have it in its data")


def parse_record(data: bytes) -> Record:
    """The inverse of `encode_record`; unknown members are passed over. Raises Malformed."""
    found = parse_canonical(data)
    if isinstance(found, dict):  # every path is read twice by a restore: a pattern would take three times as long
        kind, mtime = found.get("kind"), found.get("mtime_ns")
        mode, uid, gid = found.get("mode"), found.get("uid"), found.get("gid")
        if isinstance(kind, str) and isinstance(mtime, str) and None not in (mode, uid, gid):
            return _record(kind, mode, uid, gid, mtime, found)
    raise Malformed("what should be recorded of a file is not", hint="use a newer jinshi")


def _record(
    kind: str, mode: JsonValue, uid: JsonValue, gid: JsonValue, mtime: str, found: Mapping[str, JsonValue]
) -> Record:
    try:
        record = Record(
            _KINDS.get(kind) or Kind(kind),
            _within(mode, 0o7777),
            _within(uid, 2**32 - 1),
            _within(gid, 2**32 - 1),
            _signed(mtime),
            _text(found, "owner"),
            _text(found, "group"),
            _within(found.get("size", 0), INTEGER_MAX),
            bytes.fromhex(_text(found, "digest")),
            _base64(_text(found, "inline")) if "inline" in found else None,
            parse_manifest(_base64(_text(found, "manifest"))) if "manifest" in found else None,
            _extents(found["extents"]) if "extents" in found else None,
            parse_text(_text(found, "target")) if "target" in found else b"",
            _text(found, "link") if "link" in found else "",
            _pair(found["device"]) if "device" in found else None,
            _xattrs(found["xattrs"]) if "xattrs" in found else (),
            found.get("torn") is True,
        )
    except ValueError as error:
        raise Malformed("what is recorded of a file cannot be", hint="use a newer jinshi") from error
    _check(record)
    return record


def _check(record: Record) -> None:
    """Whether the parts fit each other. Raises Malformed."""
    end = 0
    for one in record.extents or ():
        if one.offset < end or one.length < 1:
            raise Malformed("the extents of a sparse file overlap")
        end = one.offset + one.length
    if record.kind is not Kind.FILE:
        fits = record.manifest is None and record.inline is None and record.extents is None and not record.digest
    elif record.manifest is not None:
        fits = (record.manifest.length, record.manifest.digest) == (record.stored, record.digest)
    else:
        inline = record.inline or b""
        fits = len(inline) == record.stored and hashlib.sha256(inline).digest() == record.digest
    if not fits or end > record.size or (record.kind is Kind.SYMLINK) != bool(record.target):
        raise Malformed("what is recorded of a file contradicts itself", hint="it was not written by jinshi")
    if (record.device is not None) != (record.kind in (Kind.BLOCK, Kind.CHARACTER)):
        raise Malformed("what is recorded of a device is not what it is")


def _within(value: JsonValue, most: int) -> int:
    if type(value) is not int or not 0 <= value <= most:  # True is no number here
        raise ValueError
    return value


def _signed(text: str) -> int:
    """Nanoseconds since 1970, which do not fit an integer of JSON."""
    value = int(text) if len(text) <= 20 else 2**63
    if str(value) != text or not -(2**63) <= value < 2**63:
        raise ValueError
    return value


def _text(found: Mapping[str, JsonValue], name: str) -> str:
    value = found.get(name, "")
    if not isinstance(value, str):
        raise ValueError
    return value


def _base64(text: str) -> bytes:
    try:
        return decode_base64(text)
    except ValueError as error:
        raise Malformed(f"what is recorded of a file is not base64 ({error})") from error


def _extents(value: JsonValue) -> tuple[Extent, ...]:
    if not isinstance(value, list) or len(value) > EXTENTS_MAX:
        raise ValueError
    return tuple(Extent(*_pair(one)) for one in value)


def _pair(value: JsonValue) -> tuple[int, int]:
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError
    return _within(value[0], INTEGER_MAX), _within(value[1], INTEGER_MAX)


def _xattrs(value: JsonValue) -> tuple[tuple[bytes, bytes], ...]:
    if not isinstance(value, dict):
        raise ValueError
    return tuple(sorted((parse_text(name), _base64(_text(value, name))) for name in value))


def tree_line(path: bytes, line: bytes) -> bytes:
    """One path in the digest of a tree: length of the path, 4 bytes; the path; what stands for its attributes."""
    return _LINE.pack(len(path)) + path + line
