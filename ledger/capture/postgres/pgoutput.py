"""What a PostgreSQL server says of committed transactions: plugin pgoutput, protocol version 1, values as text. Pure.

PostgreSQL documentation, "Logical Replication Message Formats" (chapter 54.9 in version 18).
"""

from __future__ import annotations

import re
import struct
from typing import Final, NamedTuple, TypeAlias

from ledger.errors import Malformed

Value: TypeAlias = "str | bool | None"
"""A column's text; None: NULL; False: a stored-out-of-line (TOAST) value that the change has left as it was."""
Row: TypeAlias = "list[Value]"

UNCHANGED: Final = False
LSN_MAX: Final = 2**64 - 1
EPOCH_US: Final = 946_684_800_000_000
"""Microseconds from 1970 to 2000, where PostgreSQL's own times begin."""

_LSN = re.compile(r"(0|[1-9A-F][0-9A-F]{0,7})/(0|[1-9A-F][0-9A-F]{0,7})")
_BEGIN = struct.Struct(">QqI")
_COMMIT = struct.Struct(">BQQq")
_OID = struct.Struct(">I")
_COUNT = struct.Struct(">H")
_COLUMN = struct.Struct(">Ii")
_TOLD = struct.Struct(">BQ")


class Column(NamedTuple):
    """A column of a relation; `key`: it is part of the replica identity."""

    name: str
    key: bool
    type_oid: int
    modifier: int


class Relation(NamedTuple):
    """A table as it was when its next changes were made. `identity`: as `pg_class.relreplident` (d, n, f, i)."""

    oid: int
    schema: str
    name: str
    identity: str
    columns: tuple[Column, ...]


class Begin(NamedTuple):
    """The next messages are one transaction, committed at `lsn`."""

    lsn: int
    time_us: int
    xid: int


class Commit(NamedTuple):
    """It is complete; its commit record lies from `lsn` to `end`."""

    lsn: int
    end: int
    time_us: int


class Origin(NamedTuple):
    """The transaction was replicated from elsewhere."""

    name: str


class TypeName(NamedTuple):
    """The name of a type that is not built in."""

    oid: int
    schema: str
    name: str


class Insert(NamedTuple):
    """A row came to be."""

    relation: int
    new: Row


class Update(NamedTuple):
    """A row was changed. `key`: its identity before, where that changed; `old`: all of it, with REPLICA IDENTITY FULL.

    Both have a value for each column of the relation; in `key` only those of the identity mean anything.
    """

    relation: int
    key: Row | None
    old: Row | None
    new: Row


class Delete(NamedTuple):
    """A row is gone: `key` or, with REPLICA IDENTITY FULL, `old` says which."""

    relation: int
    key: Row | None
    old: Row | None


class Truncate(NamedTuple):
    """All rows of these tables are gone at once."""

    relations: tuple[int, ...]
    cascade: bool
    restart: bool


class Told(NamedTuple):
    """What somebody said by `pg_logical_emit_message`; `transactional`: as a part of the transaction it came in."""

    transactional: bool
    lsn: int
    prefix: str
    content: bytes


Message: TypeAlias = "Begin | Commit | Origin | Relation | TypeName | Insert | Update | Delete | Truncate | Told"


def parse_lsn(text: str) -> int:
    """A position in the write-ahead log, as PostgreSQL writes it (`16/B374D848`). Raises Malformed."""
    match = _LSN.fullmatch(text)
    if match is None:
        raise Malformed(f"{text[:40]!r} is no position in a write-ahead log", hint="write 16/B374D848")
    return int(match[1], 16) << 32 | int(match[2], 16)


def format_lsn(lsn: int) -> str:
    """The inverse of `parse_lsn`."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def decode_message(data: bytes) -> Message:
    """One message of the stream. Raises Malformed: it is none of protocol version 1 with values as text."""
    try:
        message, end = _decode(data)
    except (struct.error, IndexError, ValueError) as error:
        raise Malformed(f"a message of pgoutput cannot be read ({error})") from error
    if end != len(data):
        raise Malformed("a message of pgoutput has something after its end")
    return message


def _decode(data: bytes) -> tuple[Message, int]:
    kind = data[0]
    if kind == 0x49:  # I
        relation = _OID.unpack_from(data, 1)[0]
        _expect(data, 5, b"N")
        new, end = _row(data, 6)
        return Insert(relation, new), end
    if kind == 0x55:  # U
        return _update(data)
    if kind == 0x44:  # D
        relation, mark = _OID.unpack_from(data, 1)[0], data[5:6]
        row, end = _row(data, 6)
        if mark == b"K":
            return Delete(relation, row, None), end
        _expect(data, 5, b"O")
        return Delete(relation, None, row), end
    if kind == 0x42:  # B
        lsn, time_us, xid = _BEGIN.unpack_from(data, 1)
        return Begin(lsn, time_us + EPOCH_US, xid), 1 + _BEGIN.size
    if kind == 0x43:  # C
        flags, lsn, after, time_us = _COMMIT.unpack_from(data, 1)
        if flags:
            raise ValueError(f"a commit has the flags {flags}")
        return Commit(lsn, after, time_us + EPOCH_US), 1 + _COMMIT.size
    return _decode_rare(data, kind)


def _decode_rare(data: bytes, kind: int) -> tuple[Message, int]:
    if kind == 0x52:  # R
        return _relation(data)
    if kind == 0x54:  # T
        count, flags = struct.unpack_from(">IB", data, 1)
        if flags > 3 or not count or len(data) < 6 + 4 * count:
            raise ValueError("a truncation is none")
        oids = struct.unpack_from(f">{count}I", data, 6)
        return Truncate(oids, bool(flags & 1), bool(flags & 2)), 6 + 4 * count
    if kind == 0x59:  # Y
        schema, end = _text(data, 5)
        name, end = _text(data, end)
        return TypeName(_OID.unpack_from(data, 1)[0], schema, name), end
    if kind == 0x4F:  # O
        name, end = _text(data, 9)
        return Origin(name), end
    if kind == 0x4D:  # M
        flags, lsn = _TOLD.unpack_from(data, 1)
        if flags > 1:
            raise ValueError(f"what was told has the flags {flags}")
        prefix, at = _text(data, 1 + _TOLD.size)
        start = at + _OID.size
        end = start + _OID.unpack_from(data, at)[0]
        return Told(bool(flags), lsn, prefix, data[start:end]), end
    raise ValueError(f"its kind is {chr(kind)!r}")


def _update(data: bytes) -> tuple[Update, int]:
    relation, mark = _OID.unpack_from(data, 1)[0], data[5]
    if mark == 0x4E:  # N
        new, end = _row(data, 6)
        return Update(relation, None, None, new), end
    before, at = _row(data, 6)
    _expect(data, at, b"N")
    new, end = _row(data, at + 1)
    if mark == 0x4B:  # K
        return Update(relation, before, None, new), end
    _expect(data, 5, b"O")
    return Update(relation, None, before, new), end


def _row(data: bytes, at: int) -> tuple[Row, int]:
    count = data[at] << 8 | data[at + 1]
    at += 2
    row: Row = []
    add, length_at = row.append, _OID.unpack_from
    for _ in range(count):
        kind = data[at]
        if kind == 0x74:  # t
            start = at + 5
            at = start + length_at(data, at + 1)[0]
            add(data[start:at].decode())  # cut short, it ends beyond the message, which is noticed there
        elif kind == 0x6E:  # n
            add(None)
            at += 1
        elif kind == 0x75:  # u
            add(UNCHANGED)
            at += 1
        else:
            raise ValueError("a value is not text")
    return row, at


def _relation(data: bytes) -> tuple[Relation, int]:
    oid = _OID.unpack_from(data, 1)[0]
    schema, at = _text(data, 5)
    name, at = _text(data, at)
    identity, count = chr(data[at]), _COUNT.unpack_from(data, at + 1)[0]
    at += 3
    columns: list[Column] = []
    for _ in range(count):
        flags = data[at]
        if flags > 1:
            raise ValueError(f"a column has the flags {flags}")
        column, at = _text(data, at + 1)
        columns.append(Column(column, bool(flags), *_COLUMN.unpack_from(data, at)))
        at += _COLUMN.size
    if identity not in "dnfi":
        raise ValueError("a replica identity is none")
    return Relation(oid, schema or "pg_catalog", name, identity, tuple(columns)), at


def _text(data: bytes, at: int) -> tuple[str, int]:
    end = data.index(b"\0", at)
    return data[at:end].decode(), end + 1


def _expect(data: bytes, at: int, mark: bytes) -> None:
    if data[at : at + 1] != mark:
        raise ValueError(f"{mark.decode()} is expected at {at}")
