"""A transaction as an entry, `transaction.committed.v1`, and its changes as lines of content where they are many. Pure.

The event type is frozen (docs/formats.md, section "Databases").
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, cast

import orjson

from ledger.capture.postgres.events import manifest_from_json
from ledger.capture.postgres.pgoutput import Column, Relation, format_lsn, parse_lsn
from ledger.core.canonical import JsonValue, parse_json
from ledger.core.encoding import encode_base64
from ledger.core.event import Event, format_time
from ledger.core.manifest import Manifest, encode_manifest
from ledger.errors import Malformed

TRANSACTION: Final = "transaction.committed.v1"

INSERT: Final = "insert"
UPDATE: Final = "update"
DELETE: Final = "delete"
TRUNCATE: Final = "truncate"

Change = list[Any]
"""`[op, relation, key, old, new]`, or `["truncate", [relation, …], cascade, restart]`; a relation by its place in the
list of them. Values as `pgoutput.Row`."""

_TYPES: Final = re.compile(r"(0|[1-9]\d{0,9}):(0|-?[1-9]\d{0,9})(?: |$)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Transaction:
    """`transaction.committed.v1`. Its changes are in the entry, or in the content of `manifest`, one a line."""

    generation: str
    lsn: int
    end: int
    xid: int
    origin: str | None
    relations: tuple[Relation, ...]
    changes: tuple[Change, ...]
    count: int
    manifest: Manifest | None = None


def transaction_event(
    source: str,
    database: str,
    transaction: Transaction,
    *,
    time_us: int,
    dataref: str | None = None,
) -> Event:
    """The entry of a transaction; its id follows from where it was committed, so that none is recorded twice."""
    data: dict[str, Any] = {
        "format": 1,
        "generation": transaction.generation,
        "commit": format_lsn(transaction.lsn),
        "end": format_lsn(transaction.end),
        "xid": transaction.xid,
        "origin": transaction.origin,
        "count": transaction.count,
    }
    if transaction.manifest is None:
        data["relations"] = list(map(_described, transaction.relations))
        data["changes"] = list(transaction.changes)
    else:
        data["manifest"] = encode_base64(encode_manifest(transaction.manifest))
    return Event(
        id=f"{transaction.generation}/{format_lsn(transaction.end)}",
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
    match value := parse_json(data):
        case {
            "format": 1,
            "generation": str(generation),
            "commit": str(lsn),
            "end": str(end),
            "xid": int(xid),
            "origin": str() | None as origin,
            "count": int(count),
        }:
            relations, changes, manifest = _changes(value)
            return Transaction(
                generation, parse_lsn(lsn), parse_lsn(end), xid, origin, relations, changes, count, manifest
            )
    raise Malformed("what should be a transaction is none")


def _changes(value: JsonValue) -> tuple[tuple[Relation, ...], tuple[Change, ...], Manifest | None]:
    match value:
        case {"relations": list(relations), "changes": list(changes)}:
            found = _relations(orjson.dumps(relations))
            for change in changes:
                check_change(change, len(found))
            return found, cast("tuple[Change, ...]", (*changes,)), None
        case {"manifest": str(manifest)}:
            return (), (), manifest_from_json(manifest)
    raise Malformed("a transaction does not say what it changes")


def relation_to_json(relation: Relation) -> JsonValue:
    """As entries have it. Every transaction says what its rows mean, so this is short: types are one text."""
    return {
        "oid": relation.oid,
        "schema": relation.schema,
        "table": relation.name,
        "identity": relation.identity,
        "columns": [one.name for one in relation.columns],
        "key": [place for place, one in enumerate(relation.columns) if one.key],
        "types": " ".join([f"{one.type_oid}:{one.modifier}" for one in relation.columns]),
    }


@lru_cache(maxsize=4_096)
def _described(relation: Relation) -> orjson.Fragment:
    return orjson.Fragment(orjson.dumps(relation_to_json(relation), option=orjson.OPT_SORT_KEYS))


def relation_from_json(value: JsonValue) -> Relation:
    """The inverse of `relation_to_json`. Raises Malformed."""
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


def change_line(change: Change | JsonValue) -> bytes:
    """A line of a large transaction's content."""
    return orjson.dumps(change, option=orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE)


def relation_line(relation: Relation) -> bytes:
    """The line that comes before the first change of a relation."""
    return change_line(["relation", relation_to_json(relation)])


def parse_change_line(line: bytes, relations: list[Relation]) -> Change | None:
    """A change; None: it was a relation, which is now the last of `relations`. Raises Malformed."""
    value = parse_json(line)
    match value:
        case ["relation", relation]:
            relations.append(relation_from_json(relation))
            return None
    check_change(value, len(relations))
    return cast(Change, value)
