"""The messages of a transaction as the server sent them: kept one after another, and read when somebody asks. Pure.

What is captured is not taken apart: that costs more than all the rest, and only restores and auditors need it. Each
message stands behind its length (docs/formats.md, section "Databases"); a relation comes before its first change.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Any, Final, NamedTuple

from ledger.capture.postgres.pgoutput import Delete, Insert, Relation, Row, Told, Truncate, Update, decode_message
from ledger.core.canonical import parse_json
from ledger.errors import Malformed

INSERT: Final = "insert"
UPDATE: Final = "update"
DELETE: Final = "delete"
TRUNCATE: Final = "truncate"

Change = list[Any]
"""`[op, relation, key, old, new]`, or `["truncate", [relation, …], cascade, restart]`; a relation by its place in the
list of them. Values as `pgoutput.Row`."""

TOLD_BY: Final = "jinshi.actor"
"""The prefix of what a source says of who is at work (roles.py)."""

LENGTH: Final = struct.Struct(">I")
MESSAGE_SIZE_MAX: Final = 2**31
"""PostgreSQL bounds a row to 1 GiB, and an update has two of them."""


class Actor(NamedTuple):
    """Who was at work, as the source says: who logged in, as whom it acted, its program and its address."""

    session_user: str
    current_user: str
    application: str
    client: str


class Decoder:
    """What the messages of one transaction say, in order.

    `relations`: those described so far; `actor`: who makes what comes next, None: nobody has said.
    """

    def __init__(self) -> None:
        self.relations: list[Relation] = []
        self.actor: Actor | None = None
        self._places: dict[int, int] = {}
        self._keys: list[tuple[int, ...]] = []

    def take(self, data: bytes) -> Change | None:
        """The change that a message is; None: it described a relation, or who is at work. Raises Malformed."""
        if data[:1] == b"R":
            relation, key = _described(data)
            self._places[relation.oid] = len(self.relations)
            self.relations.append(relation)
            self._keys.append(key)
            return None
        message = decode_message(data)
        kind = type(message)
        if kind is Update:
            assert isinstance(message, Update)
            number = self._number(message.relation)
            before = None if message.old is not None else self._key(number, message.key or message.new)
            return [UPDATE, number, before, message.old, message.new]
        if kind is Insert:
            assert isinstance(message, Insert)
            return [INSERT, self._number(message.relation), None, None, message.new]
        if kind is Delete:
            assert isinstance(message, Delete)
            number = self._number(message.relation)
            before = None if message.key is None else self._key(number, message.key)
            return [DELETE, number, before, message.old, None]
        if kind is Truncate:
            assert isinstance(message, Truncate)
            return [TRUNCATE, [self._number(oid) for oid in message.relations], message.cascade, message.restart]
        if kind is Told:
            assert isinstance(message, Told)
            self.actor = actor_of(message) or self.actor
            return None
        raise Malformed("a message of a transaction is no change")

    def _number(self, oid: int) -> int:
        number = self._places.get(oid)
        if number is None:
            raise Malformed(f"a change of relation {oid}, which was not described")
        return number

    def _key(self, number: int, row: Row) -> Row:
        """The values of the replica identity."""
        relation = self.relations[number]
        if len(row) != len(relation.columns):
            raise Malformed(f"a row of {relation.name!r} has {len(row)} values for {len(relation.columns)} columns")
        return [row[place] for place in self._keys[number]]


@lru_cache(maxsize=4_096)
def _described(data: bytes) -> tuple[Relation, tuple[int, ...]]:
    """A relation, and the places of its identity's columns: what many transactions have in common."""
    relation = decode_message(data)
    assert isinstance(relation, Relation)
    return relation, tuple(place for place, one in enumerate(relation.columns) if one.key)


def actor_of(told: Told) -> Actor | None:
    """Who says to be at work; None: something else is said. Anybody may say anything, so it is never an error."""
    if told.prefix != TOLD_BY:
        return None
    try:
        value = parse_json(told.content)
    except Malformed:
        return None
    match value:
        case {
            "session_user": str(session_user),
            "current_user": str(current_user),
            "application_name": str(application),
            "client": str(client),
        }:
            return Actor(session_user, current_user, application, client)
    return None


def whole_messages(data: bytes) -> list[bytes]:
    """The messages of a transaction that is not too much for an entry. Raises Malformed."""
    messages, rest = parse_messages(data)
    if rest:
        raise Malformed("a transaction ends within a message")
    return messages


def parse_messages(data: bytes) -> tuple[list[bytes], bytes]:
    """The whole messages at the beginning, and what follows them. Raises Malformed: one is too long."""
    found: list[bytes] = []
    at, size, length_at = 0, len(data), LENGTH.unpack_from
    while at + 4 <= size:
        (length,) = length_at(data, at)
        end = at + 4 + length
        if end > size:
            if length > MESSAGE_SIZE_MAX:
                raise Malformed(f"a message of {length} bytes")
            break
        found.append(data[at + 4 : end])
        at = end
    return found, data[at:]
