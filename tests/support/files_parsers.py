"""Every parser of what is recorded of trees with its invariant, for tests/property/test_fuzz.py."""

from __future__ import annotations

import hashlib

from ledger.capture.files.names import ROOT, is_long, is_path, parse_subject, parse_text, subject_of, text_of
from ledger.capture.files.record import (
    Extent,
    Kind,
    Record,
    encode_record,
    encode_retired,
    parse_long,
    parse_record,
)
from ledger.capture.files.sealed import Seal, encode_seal, parse_seal
from ledger.core.chunks import ContentKeys
from ledger.core.manifest import Manifest
from ledger.errors import Malformed
from tests.support.content_parsers import Row

KEYS = ContentKeys.derive(bytes(32))
LONG = b"deep/" * 400 + b"\xff"


def _text(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    assert text_of(parse_text(text)) == text


def _subject(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    path = parse_subject(text, LONG if is_long(text) else None)
    assert subject_of(path) == text
    assert path == ROOT or is_path(path)


def _record(data: bytes) -> None:
    record = parse_record(data)
    assert parse_record(encode_record(record)) == record
    assert record.stored <= record.size


def _long(data: bytes) -> None:
    path = parse_long(data)
    assert parse_long(encode_retired(path)) == path


def _seal(data: bytes) -> None:
    seal = parse_seal(data)
    assert parse_seal(encode_seal(seal)) == seal


def _records() -> list[bytes]:
    content = b"content"
    manifest = Manifest(7, hashlib.sha256(content).digest(), (KEYS.identify(content),))
    file = Record(Kind.FILE, 0o644, 0, 0, 1, "root", "wheel", size=7, digest=manifest.digest, inline=content)
    sparse = Record(
        Kind.FILE, 0o644, 1, 2, -1, size=900_000, digest=manifest.digest, manifest=manifest, extents=(Extent(5, 7),)
    )
    link = Record(Kind.SYMLINK, 0o777, 0, 0, 10**18, target=b"/etc/\xff", link="8:1f")
    device = Record(Kind.BLOCK, 0o600, 0, 6, 0, device=(8, 1), xattrs=((b"user.a", b"\0"),), torn=True)
    return [encode_record(one) for one in (file, sparse, link, device)] + [encode_record(device, LONG)]


FILES_PARSERS: list[Row] = [
    (
        "parse_text",
        "its text is the one parsed",
        _text,
        (Malformed,),
        lambda: ["a%FF%0A文".encode(), b"plain"],
        "ledger.capture.files.names.parse_text",
    ),
    (
        "parse_subject",
        "a path below the root, with this subject",
        _subject,
        (Malformed,),
        lambda: [subject_of(path).encode() for path in (b"", b"a/b", b"\xff/%", LONG)],
        "ledger.capture.files.names.parse_subject",
    ),
    (
        "parse_record",
        "written again, it is the same",
        _record,
        (Malformed,),
        _records,
        "ledger.capture.files.record.parse_record",
    ),
    (
        "parse_long",
        "written again, it is the same",
        _long,
        (Malformed,),
        lambda: [encode_retired(LONG)],
        "ledger.capture.files.record.parse_long",
    ),
    (
        "parse_seal",
        "written again, it is the same",
        _seal,
        (Malformed,),
        lambda: [encode_seal(Seal({"file": 3, "directory": 1}, 99, bytes(32), ("a: no", "b: no"), 7, 12))],
        "ledger.capture.files.sealed.parse_seal",
    ),
]
