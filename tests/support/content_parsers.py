"""Every parser of the content store with its invariant, for tests/property/test_fuzz.py."""

from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise

import zstandard
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ledger.content.leases import Condemned, format_condemned, parse_condemned
from ledger.content.released import Release, format_release, parse_release
from ledger.core import packs
from ledger.core.canonical import canonicalize, parse_canonical
from ledger.core.chunks import open_chunk, packer, seal_chunk
from ledger.core.indexes import decode_runs, encode_runs
from ledger.core.manifest import (
    Dataref,
    Manifest,
    decode_refs,
    encode_list,
    encode_manifest,
    encode_refs,
    parse_dataref,
    parse_list,
    parse_manifest,
)
from ledger.core.packs import Blob, PackTable, decode_table, decode_tables, encode_table, open_segment, open_table
from ledger.errors import Malformed, Tampered
from replication.collect import Unneeded, format_unneeded, parse_unneeded
from tests.support.content import KEYS

NONCE = bytes(12)
REFS = tuple(KEYS.identify(text) for text in (b"one", b"two and more", b"x" * 70_000))
BLOBS = (Blob(b"1" * 32, 14, 40, 12), Blob(b"2" * 32, 54, 100, 400))


def _manifest(data: bytes) -> None:
    assert encode_manifest(parse_manifest(data)) == data


def _refs(data: bytes) -> None:
    assert encode_refs(decode_refs(data)) == data


def _dataref(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    found = parse_dataref(text)
    assert found is None or str(found) == text


def _list(data: bytes) -> None:
    unique = data[15:31]
    assert encode_list(parse_list(data), unique) == data


def _table(data: bytes) -> None:
    assert encode_table(decode_table(data)) == data


def _tables(data: bytes) -> None:
    parts = [struct.pack(">32sI", one.pack, len(one.blobs)) + encode_table(one.blobs) for one in decode_tables(data)]
    assert b"".join(parts) == data


def _condemned(data: bytes) -> None:
    assert format_condemned(parse_condemned(data)) == data


def _unneeded(data: bytes) -> None:
    assert format_unneeded(parse_unneeded(data)) == data


def _runs(data: bytes) -> None:
    runs = decode_runs(parse_canonical(data))
    assert canonicalize(encode_runs(runs)) == data
    assert all(first + count < after for (first, count), (after, _) in pairwise(runs))


def _release(data: bytes) -> None:
    assert format_release(parse_release(data)) == data


def _pack(data: bytes) -> None:
    """As it is; and as the table of a pack, which whoever has the key may have sealed."""
    end = len(packs.PACK_HEADER) + 140
    sealed = packs._seal(KEYS, NONCE, data, packs._bound(end))
    with suppress(Tampered):
        blobs = open_table(KEYS, packs.PACK_HEADER + bytes(140) + sealed + struct.pack(">I4s", len(sealed), b"JPK1"))
        assert blobs[-1].offset + blobs[-1].size == end
    open_table(KEYS, data)


def _segment(data: bytes) -> None:
    with suppress(Tampered):
        open_segment(KEYS, packs.SEGMENT_HEADER + packs._seal(KEYS, NONCE, data, packs.SEGMENT_HEADER))
    open_segment(KEYS, data)


def _chunk(data: bytes) -> None:
    """As a blob; and as what whoever has the key may have packed into one: only the chunk's own bytes come out."""
    ref = REFS[1]
    for packed in (data, zstandard.compress(data)):
        blob = NONCE + AESGCM(ref.key).encrypt(NONCE, packed, ref.id)
        with suppress(Tampered):
            assert open_chunk(KEYS, ref, blob) == b"two and more"
    assert open_chunk(KEYS, ref, data) == b"two and more"


def _manifests() -> list[bytes]:
    length = sum(ref.length for ref in REFS)
    listed = (KEYS.identify(encode_refs(REFS)),)
    return [
        encode_manifest(Manifest(0, bytes(32), ())),
        encode_manifest(Manifest(length, bytes(range(32)), REFS)),
        encode_manifest(Manifest(length, bytes(range(32)), listed, 1)),
    ]


def _pack_examples() -> list[bytes]:
    return [packs.PACK_HEADER + bytes(140) + packs.encode_trailer(KEYS, NONCE, BLOBS)]


TABLES = (PackTable(b"p" * 32, BLOBS), PackTable(b"q" * 32, ()))

Row = tuple[str, str, Callable[[bytes], None], tuple[type[Exception], ...], Callable[[], list[bytes]], str]

CONTENT_PARSERS: list[Row] = [
    (
        "parse_manifest",
        "its bytes are those parsed",
        _manifest,
        (Malformed,),
        _manifests,
        "ledger.core.manifest.parse_manifest",
    ),
    (
        "decode_refs",
        "its bytes are those parsed",
        _refs,
        (Malformed,),
        lambda: [encode_refs(REFS)],
        "ledger.core.manifest.decode_refs",
    ),
    (
        "parse_dataref",
        "its text is the one parsed, or it leads elsewhere",
        _dataref,
        (Malformed,),
        lambda: [str(one).encode() for one in (Dataref((b"1" * 32, b"2" * 32)), Dataref(listed=b"3" * 32))],
        "ledger.core.manifest.parse_dataref",
    ),
    (
        "parse_list",
        "its bytes are those parsed",
        _list,
        (Malformed,),
        lambda: [encode_list([b"1" * 32, b"2" * 32], bytes(16)), encode_list([], bytes(16))],
        "ledger.core.manifest.parse_list",
    ),
    (
        "decode_table",
        "its bytes are those parsed",
        _table,
        (Malformed,),
        lambda: [encode_table(BLOBS)],
        "ledger.core.packs.decode_table",
    ),
    (
        "decode_tables",
        "its bytes are those parsed",
        _tables,
        (Malformed,),
        lambda: [b"p" * 32 + b"\0\0\0\2" + encode_table(BLOBS), b""],
        "ledger.core.packs.decode_tables",
    ),
    ("open_table", "a table that is exactly that of its blobs", _pack, (Tampered,), _pack_examples, ""),
    (
        "open_segment",
        "tables",
        _segment,
        (Tampered,),
        lambda: [packs.encode_segment(KEYS, NONCE, TABLES)],
        "",
    ),
    (
        "open_chunk",
        "only the chunk that is named comes out",
        _chunk,
        (Tampered,),
        lambda: [seal_chunk(REFS[1], NONCE, b"two and more", packer())],
        "",
    ),
    (
        "parse_condemned",
        "its bytes are those parsed",
        _condemned,
        (Malformed,),
        lambda: [format_condemned(Condemned(7, frozenset([b"1" * 32]), frozenset([b"2" * 32])))],
        "ledger.content.leases.parse_condemned",
    ),
    (
        "parse_unneeded",
        "its bytes are those parsed",
        _unneeded,
        (Malformed,),
        lambda: [format_unneeded(Unneeded(7, {b"1" * 32: 1_800_000_000, b"2" * 32: 0}))],
        "replication.collect.parse_unneeded",
    ),
    (
        "decode_runs",
        "its numbers are those decoded, and no two runs touch",
        _runs,
        (Malformed,),
        lambda: [canonicalize(encode_runs(runs)) for runs in (((0, 1),), ((3, 2), (9, 1)))],
        "ledger.core.indexes.decode_runs",
    ),
    (
        "parse_release",
        "its bytes are those parsed",
        _release,
        (Malformed,),
        lambda: [format_release(Release("urn:files", ((0, 3), (9, 1)), 1_800_000_000, "grade 2"))],
        "ledger.content.released.parse_release",
    ),
]
