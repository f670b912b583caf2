"""A transaction as an entry, `transaction.committed.v1`. Pure.

The event type is frozen (docs/formats.md, section "Databases"). Format 2 is what is written: messages as they came.
Format 1, which is only read any more, has changes as JSON, and as lines of content where they are many.
"""

from __future__ import annotations

import binascii
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final, cast

import orjson

from ledger.capture.postgres.events import manifest_from_json
from ledger.capture.postgres.messages import Change
from ledger.capture.postgres.pgoutput import Column, Relation, format_lsn, parse_lsn
from ledger.core.canonical import JsonValue, parse_json
from ledger.core.encoding import encode_base64
from ledger.core.event import Event, format_time
from ledger.core.manifest import Manifest, encode_manifest
from ledger.errors import Malformed

TRANSACTION: Final = "transaction.committed.v1"
FORMAT: Final = 2

_LSN: Final = rb"(0|[1-9A-F][0-9A-F]{0,7})/(0|[1-9A-F][0-9A-F]{0,7})"
_WRITTEN: Final = re.compile(
    rb'\{"commit":"%b","count":(0|[1-9]\d{0,14}),"end":"%b","format":2,"generation":"([ !#-\[\]-~]*)",'
    rb'"messages":"([^"]*)","origin":null,"xid":(0|[1-9]\d{0,14})\}' % (_LSN, _LSN)
)
"""What `transaction_event` writes of most transactions. A restore reads many: JSON costs more than what is in it."""
_TYPES: Final = re.compile(r"(0|[1-9]\d{0,9}):(0|-?[1-9]\d{0,9})(?: |$)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Transaction:
    """`transaction.committed.v1`. Its changes (`reading.changes_of`) are in the entry, or in the content of `manifest`.

    In format 2 they are `messages`, in format 1 `relations` and `changes`.
    """

    generation: str
    lsn: int
    end: int
    xid: int
    origin: str | None
    count: int
    manifest: Manifest | None = None
    messages: bytes = b""
    relations: tuple[Relation, ...] = ()
    changes: tuple[Change, ...] = ()
    format: int = FORMAT


@dataclass(frozen=True, slots=True)
class Committed:
    """A transaction on its way into the log: `content` are its messages, or where they were stored."""

    generation: str
    lsn: int
    end: int
    xid: int
    origin: str | None
    count: int
    content: bytes | Manifest


def transaction_event(
    source: str,
    database: str,
    committed: Committed,
    *,
    time_us: int,
    dataref: str | None = None,
) -> Event:
    """The entry of a transaction; its id follows from where it was committed, so that none is recorded twice."""
    end = format_lsn(committed.end)
    data: dict[str, Any] = {
        "format": FORMAT,
        "generation": committed.generation,
        "commit": format_lsn(committed.lsn),
        "end": end,
        "xid": committed.xid,
        "origin": committed.origin,
        "count": committed.count,
    }
    if isinstance(committed.content, bytes):
        data["messages"] = encode_base64(committed.content)
    else:
        data["manifest"] = encode_base64(encode_manifest(committed.content))
    return Event(
        id=f"{committed.generation}/{end}",
        source=source,
        type=TRANSACTION,
        subject=database,
        time=format_time(time_us),
        # Canonical: the keys are ASCII, and there are no floats in it.
        data=orjson.dumps(data, option=orjson.OPT_SORT_KEYS),
        dataref=dataref,
    )


def transaction_of(data: bytes) -> Transaction:
    """What such an entry says; its large content is still to be read. Raises Malformed."""
    usual = _WRITTEN.fullmatch(data)
    if usual is not None:
        return _usual(*usual.groups())
    match value := parse_json(data):
        case {
            "format": 1 | 2 as written,
            "generation": str(generation),
            "commit": str(lsn),
            "end": str(end),
            "xid": int(xid),
            "origin": str() | None as origin,
            "count": int(count),
        }:
            known = generation, parse_lsn(lsn), parse_lsn(end), xid, origin, count
            match value:
                case {"manifest": str(manifest)}:
                    return Transaction(*known, manifest_from_json(manifest), format=written)
                case {"messages": str(messages)} if written == FORMAT:
                    return Transaction(*known, messages=_from_base64(messages.encode()))
                case {"relations": list(relations), "changes": list(changes)} if written == 1:
                    return _of_format_1(Transaction(*known, format=1), relations, changes)
    raise Malformed("what should be a transaction is none")


def _usual(
    high: bytes,
    low: bytes,
    count: bytes,
    end_high: bytes,
    end_low: bytes,
    generation: bytes,
    messages: bytes,
    xid: bytes,
) -> Transaction:
    lsn, end = int(high, 16) << 32 | int(low, 16), int(end_high, 16) << 32 | int(end_low, 16)
    return Transaction(generation.decode(), lsn, end, int(xid), None, int(count), messages=_from_base64(messages))


def _of_format_1(transaction: Transaction, relations: list[JsonValue], changes: list[JsonValue]) -> Transaction:
    found = _relations(orjson.dumps(relations))
    for change in changes:
        check_change(change, len(found))
    return replace(transaction, relations=found, changes=cast("tuple[Change, ...]", (*changes,)))


def _from_base64(text: bytes) -> bytes:
    try:
        data = binascii.a2b_base64(text)
    except binascii.Error as error:
        raise Malformed(f"the messages of a transaction are not base64 ({error})") from error
    if binascii.b2a_base64(data, newline=False) != text:
        raise Malformed("the messages of a transaction are not base64 as RFC 4648 §4 writes it")
    return data


def relation_from_json(value: JsonValue) -> Relation:
    """A relation, as entries of format 1 have it. Raises Malformed."""
    match value:
        case {
            "oid": int(oid),
            "schema": str(schema),
            "table": str(name),
            "identity": str(identity),
            "columns": list(columns),
            "key": list(key),
            "types": str(types),
        } if all(isinstance(one, str) for one in columns) and all(isinstance(place, int) for place in key):
            names, places = cast("list[str]", columns), cast("list[int]", key)
            return _relation(oid, schema, name, identity, tuple(names), tuple(places), types)
    raise Malformed("what should be a relation is none")


@lru_cache(maxsize=1_024)
def _relations(listed: bytes) -> tuple[Relation, ...]:
    """What many transactions have in common, from JSON that was parsed before. Raises Malformed."""
    return tuple(map(relation_from_json, orjson.loads(listed)))


@lru_cache(maxsize=4_096)
def _relation(
    oid: int, schema: str, name: str, identity: str, columns: tuple[str, ...], key: tuple[int, ...], types: str
) -> Relation:
    listed = _TYPES.findall(types)
    if len(listed) != len(columns) or " ".join(f"{oid}:{modifier}" for oid, modifier in listed) != types:
        raise Malformed("the types of a relation do not fit its columns")
    if [*key] != sorted(set(key)) or any(not 0 <= place < len(columns) for place in key):
        raise Malformed("the key of a relation is none of its columns")
    return Relation(
        oid,
        schema,
        name,
        identity,
        tuple(
            Column(column, place in key, int(type_oid), int(modifier))
            for place, (column, (type_oid, modifier)) in enumerate(zip(columns, listed, strict=True))
        ),
    )


def check_change(change: JsonValue, relations: int) -> None:
    """Raises Malformed: it is no change of one of so many relations."""
    match change:
        case ["insert", int(number), None, None, list()] if 0 <= number < relations:
            return
        case ["update", int(number), list() | None, list() | None, list()] if 0 <= number < relations:
            return
        case ["delete", int(number), list() | None, list() | None, None] if 0 <= number < relations:
            return
        case ["truncate", list(numbers), bool(), bool()] if all(
            isinstance(one, int) and 0 <= one < relations for one in numbers
        ):
            return
    raise Malformed("what should be a change is none")


def parse_change_line(line: bytes, relations: list[Relation]) -> Change | None:
    """A line of format 1: a change; None: a relation, which is now the last of `relations`. Raises Malformed."""
    value = parse_json(line)
    match value:
        case ["relation", relation]:
            relations.append(relation_from_json(relation))
            return None
    check_change(value, len(relations))
    return cast(Change, value)
