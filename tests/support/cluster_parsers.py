"""Every parser of the physical capture with its invariant, for tests/property/test_fuzz.py."""

from __future__ import annotations

import hashlib
import io
import struct
import tarfile
from collections.abc import Callable

from ledger.capture.physical.backup import Listed, read_manifest
from ledger.capture.physical.events import (
    Base,
    Listing,
    Seal,
    Segment,
    encode_base,
    encode_listing,
    encode_seal,
    encode_segment,
    parse_base,
    parse_listing,
    parse_seal,
    parse_segment,
)
from ledger.capture.physical.tar import Member, TarStream
from ledger.capture.physical.wal import parse_history, parse_segment_head, segment_name
from ledger.core.manifest import Manifest
from ledger.errors import InvalidRequest, Malformed
from ledger.store.place import parse_dsn
from tests.support.content import KEYS

SIZE = 2**24
HISTORY = b"1\t0/5000098\tno recovery target specified\n\n2\t0/8000000\tbefore 2026-11-30 01:00:00+00\n"
REF = KEYS.identify(b"x" * SIZE)
TAR = Manifest(SIZE, hashlib.sha256(b"x" * SIZE).digest(), (REF,))
PART = Manifest(0, hashlib.sha256().digest(), ())
BASE = Base(
    "7713770178057751003", 1, 0x2000028, 0x2000120, SIZE, 180006, 1_764_000_000_000_000, 982, 0, TAR, None, 0, "?"
)
UPON = Base("7713770178057751003", 2, 0x3000028, 0x3000028, SIZE, 180006, 1_764_000_000_000_001, 983, 8, TAR, 8, 1)
SEGMENT = Segment("7713770178057751003", 1, 6, segment_name(1, 6, SIZE), SIZE, TAR)
REST = Segment("7713770178057751003", 1, 6, segment_name(1, 6, SIZE), SIZE, PART, partial=True)
SEAL = Seal(
    "7713770178057751003", 3, 0x9000000, 1_764_000_000_000_000, 8, 0x2000028, "jinshi", HISTORY.decode(), ("a",)
)
HEAD = struct.pack("<HHIQI4xQII", 0xD118, 0x0002, 1, 6 * SIZE, 0, 7713770178057751003, SIZE, 8192) + bytes(8)


def backup_manifest(*files: tuple[str, int, str]) -> bytes:
    """As pg_basebackup writes it."""
    listed = ",\n".join(
        f'{{ "Path": "{path}", "Size": {size}, "Last-Modified": "2026-11-30 01:00:00 GMT", '
        f'"Checksum-Algorithm": "SHA256", "Checksum": "{sha256}" }}'
        for path, size, sha256 in files
    )
    text = (
        '{ "PostgreSQL-Backup-Manifest-Version": 2,\n"System-Identifier": 7713770178057751003,\n"Files": [\n'
        f'{listed}\n],\n"WAL-Ranges": [\n'
        '{ "Timeline": 1, "Start-LSN": "0/2000028", "End-LSN": "0/2000120" }\n],\n'
    ).encode()
    return text + f'"Manifest-Checksum": "{hashlib.sha256(text).hexdigest()}"}}\n'.encode()


def tar_of(*files: tuple[str, bytes]) -> bytes:
    """As pg_basebackup writes it."""
    with io.BytesIO() as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for name, data in files:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                info.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
                tar.addfile(info, io.BytesIO(data))
        return file.getvalue()


class Collected:
    """A `Sink` that remembers."""

    def __init__(self) -> None:
        self.members: list[tuple[Member, bytes]] = []
        self._parts: list[bytes] = []
        self._member: Member | None = None

    def begin(self, member: Member) -> None:
        self._member, self._parts = member, []

    def data(self, part: memoryview) -> None:
        self._parts.append(bytes(part))

    def end(self) -> None:
        assert self._member is not None
        self.members.append((self._member, b"".join(self._parts)))


def _base(data: bytes) -> None:
    assert parse_base(encode_base(parse_base(data))) == parse_base(data)


def _listing(data: bytes) -> None:
    assert encode_listing(parse_listing(data)) == data


def _segment(data: bytes) -> None:
    found = parse_segment(data)
    assert parse_segment(encode_segment(found)) == found
    assert found.end - found.start <= found.segment_size


def _seal(data: bytes) -> None:
    assert parse_seal(encode_seal(parse_seal(data))) == parse_seal(data)


def _history(data: bytes) -> None:
    found = parse_history(data)
    again = "".join(f"{timeline}\t{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}\n" for timeline, lsn in found)
    assert parse_history(again.encode()) == found


def _head(data: bytes) -> None:
    assert parse_segment_head(data).segment_size in (2**power for power in range(20, 31))


def _manifest(data: bytes) -> None:
    listed: list[Listed] = []
    assert read_manifest(io.BytesIO(data), listed.append)


def _tar(data: bytes) -> None:
    found = Collected()
    tar = TarStream(found)
    tar.feed(data)
    tar.finish()
    assert all(len(part) == member.size for member, part in found.members)
    assert not any(member.name.startswith(b"/") or b".." in member.name.split(b"/") for member, _ in found.members)


def _dsn(data: bytes) -> None:
    place = parse_dsn(data.decode("utf-8", "surrogateescape"))
    assert place.host
    assert place.libpq["sslmode"] == ("verify-full" if place.tls else "disable")
    assert ("sslrootcert" in place.libpq) is place.tls


Examples = Callable[[], list[bytes]]
CLUSTER_PARSERS: list[tuple[str, str, Callable[[bytes], None], tuple[type[Exception], ...], Examples, str]] = [
    (
        "parse_base",
        "what is written out is the same base backup",
        _base,
        (Malformed,),
        lambda: [encode_base(BASE), encode_base(UPON)],
        "ledger.capture.physical.events.parse_base",
    ),
    (
        "parse_listing",
        "its bytes are those parsed",
        _listing,
        (Malformed,),
        lambda: [encode_listing(Listing("base:1:0/2000028", TAR))],
        "ledger.capture.physical.events.parse_listing",
    ),
    (
        "physical.parse_segment",
        "what is written out is the same segment, and fits one",
        _segment,
        (Malformed,),
        lambda: [encode_segment(SEGMENT), encode_segment(REST)],
        "ledger.capture.physical.events.parse_segment",
    ),
    (
        "physical.parse_seal",
        "what is written out is the same seal",
        _seal,
        (Malformed,),
        lambda: [encode_seal(SEAL)],
        "ledger.capture.physical.events.parse_seal",
    ),
    (
        "parse_history",
        "what it says, written out, says the same",
        _history,
        (Malformed,),
        lambda: [HISTORY, b"", b"# a comment\n1 0/28\n"],
        "ledger.capture.physical.wal.parse_history",
    ),
    (
        "parse_segment_head",
        "a segment has one of eleven sizes",
        _head,
        (Malformed,),
        lambda: [HEAD],
        "ledger.capture.physical.wal.parse_segment_head",
    ),
    (
        "parse_dsn",
        "a host, and TLS that verifies or none",
        _dsn,
        (InvalidRequest,),
        lambda: [b"postgresql://user:s%40crt@db.gov.cn:5433/d", b"postgresql://u@/d?host=/run/postgresql"],
        "ledger.store.place.parse_dsn",
    ),
    (
        "backup_manifest",
        "only a manifest whose checksum holds is read to its end",
        _manifest,
        (Malformed,),
        lambda: [backup_manifest(("PG_VERSION", 3, "0" * 64), ("base/1/112", 8192, "1" * 64))],
        "",
    ),
    (
        "TarStream",
        "members of the size they say, none of which leads elsewhere",
        _tar,
        (Malformed,),
        lambda: [tar_of(("backup_label", b"START"), ("base/", b""), ("base/1/112", bytes(1_000)))],
        "",
    ),
]
