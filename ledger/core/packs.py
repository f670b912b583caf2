"""Packs of sealed chunks, and the index segments that repeat their tables (docs/formats.md section 11). Pure."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV

from ledger.core.chunks import CHUNK_SIZE_MAX, ID_SIZE, NONCE_SIZE, ContentKeys
from ledger.errors import Malformed, Tampered

PACK_HEADER: Final = b"jinshi pack 1\n"
SEGMENT_HEADER: Final = b"jinshi index 1\n"
PACK_SIZE_MAX: Final = 2**26
"""The largest pack a reader takes; a writer closes one much earlier."""
DIGEST_SIZE: Final = 32

_FOOTER = struct.Struct(">I4s")
_END = b"JPK1"
_RECORD = struct.Struct(">32sII")
_TABLED = struct.Struct(">32sI")
_SUITE = b"\1"
_SEALING = len(_SUITE) + NONCE_SIZE + 16


class Blob(NamedTuple):
    """Where a chunk's blob lies in its pack, `size` bytes from `offset`; its plaintext has `length` bytes."""

    id: bytes
    offset: int
    size: int
    length: int


@dataclass(frozen=True, slots=True)
class PackTable:
    """The blobs of one pack, named by the SHA-256 of its bytes."""

    pack: bytes
    blobs: tuple[Blob, ...]


def encode_trailer(keys: ContentKeys, nonce: bytes, blobs: Sequence[Blob]) -> bytes:
    """What comes after the last blob: the sealed table, then its size and the end mark."""
    end = blobs[-1].offset + blobs[-1].size if blobs else len(PACK_HEADER)
    sealed = _seal(keys, nonce, encode_table(blobs), _bound(end))
    return sealed + _FOOTER.pack(len(sealed), _END)


def open_table(keys: ContentKeys, pack: bytes) -> tuple[Blob, ...]:
    """The blobs of a whole pack.

    Raises:
        Tampered: it is no pack of this ledger, or is damaged.
    """
    if len(pack) > PACK_SIZE_MAX or len(pack) < len(PACK_HEADER) + _SEALING + _FOOTER.size:
        raise Tampered(f"a pack of {len(pack)} bytes", hint="use another copy")
    size, mark = _FOOTER.unpack_from(pack, len(pack) - _FOOTER.size)
    end = len(pack) - _FOOTER.size - size
    if mark != _END or not pack.startswith(PACK_HEADER) or end < len(PACK_HEADER):
        raise Tampered("what should be a pack is none, or is cut short", hint="use another copy")
    try:
        blobs = decode_table(_open(keys, pack[end : end + size], _bound(end)))
    except Malformed as error:
        raise Tampered(f"the table of a pack cannot be read ({error.what})", hint="use another copy") from error
    if (blobs[-1].offset + blobs[-1].size if blobs else len(PACK_HEADER)) != end:
        raise Tampered("the table of a pack is not that of its blobs", hint="use another copy")
    return blobs


def encode_table(blobs: Iterable[Blob]) -> bytes:
    """Of each blob in turn: id, size, length of its plaintext. They follow each other without a gap."""
    return b"".join(_RECORD.pack(blob.id, blob.size, blob.length) for blob in blobs)


def decode_table(data: bytes) -> tuple[Blob, ...]:
    """The inverse of `encode_table`. Raises Malformed."""
    if len(data) % _RECORD.size or len(data) > PACK_SIZE_MAX:
        raise Malformed(f"a table of {len(data)} bytes")
    blobs: list[Blob] = []
    offset = len(PACK_HEADER)
    for id_, size, length in _RECORD.iter_unpack(data):
        if not 0 < length <= CHUNK_SIZE_MAX or size <= NONCE_SIZE or offset + size > PACK_SIZE_MAX:
            raise Malformed("a table with a chunk that cannot be")
        blobs.append(Blob(id_, offset, size, length))
        offset += size
    return tuple(blobs)


def encode_segment(keys: ContentKeys, nonce: bytes, tables: Sequence[PackTable]) -> bytes:
    """An index segment: the tables of some packs once more, sealed."""
    parts: list[bytes] = []
    for table in tables:
        parts += [_TABLED.pack(table.pack, len(table.blobs)), encode_table(table.blobs)]
    return SEGMENT_HEADER + _seal(keys, nonce, b"".join(parts), SEGMENT_HEADER)


def open_segment(keys: ContentKeys, data: bytes) -> tuple[PackTable, ...]:
    """The inverse of `encode_segment`.

    Raises:
        Tampered: it is no index segment of this ledger, or is damaged.
    """
    if not data.startswith(SEGMENT_HEADER):
        raise Tampered("what should be an index segment is none", hint="it can be deleted: packs tell the same")
    try:
        return decode_tables(_open(keys, data[len(SEGMENT_HEADER) :], SEGMENT_HEADER))
    except Malformed as error:
        raise Tampered(f"an index segment cannot be read ({error.what})", hint="it can be deleted") from error


def decode_tables(data: bytes) -> tuple[PackTable, ...]:
    """The tables in an index segment. Raises Malformed."""
    tables: list[PackTable] = []
    position = 0
    while position < len(data):
        if len(data) - position < _TABLED.size:
            raise Malformed("it is cut short")
        pack, count = _TABLED.unpack_from(data, position)
        position += _TABLED.size
        size = count * _RECORD.size
        if len(data) - position < size:
            raise Malformed("it is cut short")
        tables.append(PackTable(pack, decode_table(data[position : position + size])))
        position += size
    return tuple(tables)


def _bound(end: int) -> bytes:
    return PACK_HEADER + end.to_bytes(8, "big")


def _seal(keys: ContentKeys, nonce: bytes, plain: bytes, bound: bytes) -> bytes:
    """As in sealed entries, AES-256-GCM-SIV: one key seals many tables."""
    assert len(nonce) == NONCE_SIZE
    return _SUITE + nonce + AESGCMSIV(keys.tables).encrypt(nonce, plain, bound)


def _open(keys: ContentKeys, sealed: bytes, bound: bytes) -> bytes:
    if len(sealed) < _SEALING or not sealed.startswith(_SUITE):
        raise Tampered("a table has a suite this jinshi does not know, or is cut short", hint="use a newer jinshi")
    try:
        return AESGCMSIV(keys.tables).decrypt(sealed[1 : 1 + NONCE_SIZE], sealed[1 + NONCE_SIZE :], bound)
    except InvalidTag as error:
        raise Tampered(
            "a table of chunks does not open: it was changed, or is another ledger's", hint="use another copy"
        ) from error


assert _RECORD.size == ID_SIZE + 8
