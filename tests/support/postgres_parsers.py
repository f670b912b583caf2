"""Every parser of captured databases with its invariant, for tests/property/test_fuzz.py; and messages, as a server
writes them, for all tests of pgoutput."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable

from ledger.capture.postgres.copytext import copy_line, parse_copy_line
from ledger.capture.postgres.events import (
    Copied,
    Counted,
    Schema,
    Seal,
    Sequence_,
    Table,
    encode_schema,
    encode_seal,
    parse_schema,
    parse_seal,
)
from ledger.capture.postgres.messages import LENGTH, parse_messages
from ledger.capture.postgres.pgoutput import (
    EPOCH_US,
    UNCHANGED,
    Begin,
    Column,
    Commit,
    Delete,
    Insert,
    Message,
    Origin,
    Relation,
    Row,
    Told,
    Truncate,
    TypeName,
    Update,
    decode_message,
    format_lsn,
    parse_lsn,
)
from ledger.capture.postgres.transactions import parse_change_line
from ledger.core.canonical import JsonValue, canonicalize
from ledger.core.manifest import Manifest
from ledger.errors import Malformed, MalformedEvent
from tests.support.content_parsers import REFS

TIME_US = 1_764_464_400_000_000
COLUMNS = (Column("编号", True, 20, -1), Column('a"b', False, 25, -1))
RELATION = Relation(16_385, "户籍", "居民", "d", COLUMNS)
MESSAGES: list[Message] = [
    Begin(1 << 32 | 7, TIME_US, 770),
    Commit(7, 8, TIME_US),
    Origin("elsewhere"),
    RELATION,
    TypeName(20_000, "public", "mood"),
    Insert(16_385, ["1", None]),
    Update(16_385, None, None, ["1", UNCHANGED]),
    Update(16_385, ["1", None], None, ["2", "张三"]),
    Update(16_385, None, ["1", "x"], ["1", ""]),
    Delete(16_385, ["1", None], None),
    Delete(16_385, None, ["1", "x"]),
    Truncate((16_385, 16_390), True, False),
    Told(True, 1 << 32 | 7, "jinshi.actor", b"{}"),
]
TABLE = Table(16_385, "户籍", "居民", ("编号", 'a"b'), ("编号",), "key", "shape", "1:2")
SCHEMA = Schema("CREATE TABLE t ();\n", "", ("jinshi",), ("jinshi_1",), {"LC_COLLATE": "C"}, ("work_mem=4MB",))
SEAL = Seal(
    "postgres",
    "7/slot_1/0/7",
    "slot_1",
    "7",
    1,
    900,
    3,
    "ab",
    "2026-11-30T01:00:00.000000Z",
    (Counted(TABLE, 4, 7, 12, "0" * 32), Counted(TABLE, 5, 9, 0)),
    (Sequence_("public", "s", "9", True),),
    {"other": 2},
)
COPIED = Copied("7/slot_1/0/7", 7, TABLE, 12, "0" * 32, Manifest(120, b"d" * 32, REFS[:1]))


def encode_message(message: Message) -> bytes:
    """As pgoutput writes it (PostgreSQL documentation, "Logical Replication Message Formats")."""
    match message:
        case Begin(lsn, time_us, xid):
            return b"B" + struct.pack(">QqI", lsn, time_us - EPOCH_US, xid)
        case Commit(lsn, end, time_us):
            return b"C\0" + struct.pack(">QQq", lsn, end, time_us - EPOCH_US)
        case Origin(name):
            return b"O" + bytes(8) + _text(name)
        case TypeName(oid, schema, name):
            return b"Y" + struct.pack(">I", oid) + _text(schema) + _text(name)
        case Relation(oid, schema, name, identity, columns):
            head = b"R" + struct.pack(">I", oid) + _text(schema) + _text(name) + identity.encode()
            return head + struct.pack(">H", len(columns)) + b"".join(map(_column, columns))
        case Insert(relation, new):
            return b"I" + struct.pack(">I", relation) + b"N" + _row(new)
        case Update(relation, key, old, new):
            before = b"" if key is None else b"K" + _row(key)
            before = before if old is None else b"O" + _row(old)
            return b"U" + struct.pack(">I", relation) + before + b"N" + _row(new)
        case Delete(relation, key, old):
            return b"D" + struct.pack(">I", relation) + (b"O" if key is None else b"K") + _row(key or old or [])
        case Truncate(relations, cascade, restart):
            flags = cascade | restart << 1
            return b"T" + struct.pack(f">IB{len(relations)}I", len(relations), flags, *relations)

        case Told(transactional, lsn, prefix, content):
            head = b"M" + struct.pack(">BQ", transactional, lsn) + _text(prefix)
            return head + struct.pack(">I", len(content)) + content


def joined(messages: Iterable[Message]) -> bytes:
    """As an entry has the messages of a transaction."""
    encoded = map(encode_message, messages)
    return b"".join([part for one in encoded for part in (LENGTH.pack(len(one)), one)])


# -- format 1 of transactions, which is only read any more ------------------------------------------------------------


def relation_to_json(relation: Relation) -> JsonValue:
    return {
        "oid": relation.oid,
        "schema": relation.schema,
        "table": relation.name,
        "identity": relation.identity,
        "columns": [one.name for one in relation.columns],
        "key": [place for place, one in enumerate(relation.columns) if one.key],
        "types": " ".join([f"{one.type_oid}:{one.modifier}" for one in relation.columns]),
    }


def change_line(change: JsonValue) -> bytes:
    """A line of a large transaction's content."""
    return canonicalize(change) + b"\n"


def relation_line(relation: Relation) -> bytes:
    """The line that comes before the first change of a relation."""
    return change_line(["relation", relation_to_json(relation)])


def _text(text: str) -> bytes:
    return text.encode() + b"\0"


def _column(column: Column) -> bytes:
    return bytes([column.key]) + _text(column.name) + struct.pack(">Ii", column.type_oid, column.modifier)


def _row(row: Row) -> bytes:
    values = b""
    for value in row:
        if value is None:
            values += b"n"
        elif value is UNCHANGED:
            values += b"u"
        else:
            data = str(value).encode()
            values += b"t" + struct.pack(">I", len(data)) + data
    return struct.pack(">H", len(row)) + values


def _message(data: bytes) -> None:
    message = decode_message(data)
    if not isinstance(message, Origin | Relation):  # an origin's position, and an empty schema, are not kept
        assert encode_message(message) == data


def _messages(data: bytes) -> None:
    messages, rest = parse_messages(data)
    assert b"".join([*(LENGTH.pack(len(one)) + one for one in messages), rest]) == data


def _lsn(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    assert format_lsn(parse_lsn(text)) == text


def _change_line(data: bytes) -> None:
    relations = [RELATION, RELATION]
    change = parse_change_line(data, relations)
    line = relation_line(relations[-1]) if change is None else change_line(change)
    again = [RELATION, RELATION]
    assert parse_change_line(line, again) == change
    assert again == relations


def _copy_line(data: bytes) -> None:
    row = parse_copy_line(data)
    texts = [value for value in row if isinstance(value, str)]
    assert len(texts) + row.count(None) == len(row)
    assert parse_copy_line(copy_line([None if value is None else str(value) for value in row])) == row


def _schema(data: bytes) -> None:
    schema = parse_schema(data)
    assert parse_schema(encode_schema(schema)) == schema


def _seal(data: bytes) -> None:
    seal = parse_seal(data)
    assert parse_seal(encode_seal(seal)) == seal


_Row = tuple[str, str, Callable[[bytes], None], tuple[type[Exception], ...], Callable[[], list[bytes]], str]
_ROOM = "ledger.capture.postgres"

POSTGRES_PARSERS: list[_Row] = [
    (
        "postgres.decode_message",
        "what a server's message says gives its bytes again",
        _message,
        (Malformed,),
        lambda: [encode_message(message) for message in MESSAGES],
        f"{_ROOM}.pgoutput.decode_message",
    ),
    (
        "postgres.parse_messages",
        "messages and what follows them give the bytes again",
        _messages,
        (Malformed,),
        lambda: [joined(MESSAGES[3:6])],
        f"{_ROOM}.messages.parse_messages",
    ),
    (
        "postgres.parse_lsn",
        "a position has one spelling",
        _lsn,
        (Malformed,),
        lambda: [b"0/0", b"16/B374D848", b"FFFFFFFF/FFFFFFFF"],
        f"{_ROOM}.pgoutput.parse_lsn",
    ),
    (
        "postgres.parse_change_line",
        "a change or relation, written again, says the same",
        _change_line,
        (Malformed,),
        lambda: [
            relation_line(RELATION),
            change_line(["insert", 0, None, None, ["1", None]]),
            change_line(["update", 1, ["1"], None, ["1", UNCHANGED]]),
            change_line(["delete", 1, None, ["1", "x"], None]),
            change_line(["truncate", [0, 1], True, False]),
        ],
        f"{_ROOM}.transactions.parse_change_line",
    ),
    (
        "postgres.parse_copy_line",
        "a row, written again, is the same row",
        _copy_line,
        (Malformed,),
        lambda: [b"\n", b"1\t\\N\tx\n", b"a\\tb\\\\c\\nd\t\n", "张三\t\\\\N\n".encode()],
        f"{_ROOM}.copytext.parse_copy_line",
    ),
    (
        "postgres.parse_schema",
        "written again, it says the same",
        _schema,
        (Malformed,),
        lambda: [encode_schema(SCHEMA)],
        f"{_ROOM}.events.parse_schema",
    ),
    (
        "postgres.parse_seal",
        "written again, it says the same",
        _seal,
        (Malformed, MalformedEvent),
        lambda: [encode_seal(SEAL)],
        f"{_ROOM}.events.parse_seal",
    ),
]
