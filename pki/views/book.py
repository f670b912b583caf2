"""The small aggregates, whole and in memory: authorities, profiles, officers and the like, looked up at every request.

Their events are kept in the index as well, so that a start reads these few instead of the whole log.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any, Final, TypeVar

from ledger.errors import InvalidRequest
from pki.aggregates.base import TrustAggregate
from pki.journal import Occurred, recalled, remembered

A = TypeVar("A", bound=TrustAggregate)


class Book:
    """Every aggregate of some kinds as it stands. A kind belongs here if there are thousands of it at most."""

    version: Final = 1
    schema: Final = (
        "CREATE TABLE book (place INTEGER NOT NULL, part INTEGER PRIMARY KEY AUTOINCREMENT, event BLOB NOT NULL)",
    )

    def __init__(self, kinds: Sequence[type[TrustAggregate]]) -> None:
        self.kinds: Final = frozenset(one.create_id_prefix() for one in kinds)
        self._aggregates: dict[str, TrustAggregate] = {}
        self._read = 0

    def apply(self, database: sqlite3.Connection, occurred: Occurred) -> None:
        """Keep an event of these kinds (`Table`)."""
        database.execute("INSERT INTO book (place, event) VALUES (?, ?)", (occurred.place, remembered(occurred.event)))

    def catch_up(self, database: sqlite3.Connection) -> None:
        """Take into memory what the index has got since."""
        for part, event in database.execute("SELECT part, event FROM book WHERE part > ? ORDER BY part", (self._read,)):
            decided = recalled(event)
            aggregate: Any = decided.mutate(self._aggregates.get(decided.originator_id))
            self._aggregates[decided.originator_id] = aggregate
            self._read = part

    def forget(self) -> None:
        """Before the index is made anew."""
        self._aggregates.clear()
        self._read = 0

    def find(self, kind: type[A], id_: str) -> A | None:
        """An aggregate by its id, or None. It is shared: never call its commands; `Journal.load` gives one for that."""
        found = self._aggregates.get(id_)
        if found is not None and not isinstance(found, kind):
            raise InvalidRequest(f"{id_} is no {kind.__name__.lower()}")
        return found

    def get(self, kind: type[A], id_: str) -> A:
        """The same. Raises InvalidRequest: there is none."""
        found = self.find(kind, id_)
        if found is None:
            raise InvalidRequest(f"there is no {id_.replace(':', ' ')}", hint=kind.where())
        return found

    def all(self, kind: type[A]) -> Iterator[A]:
        """Every one of a kind, in the order they were made."""
        return (one for one in list(self._aggregates.values()) if isinstance(one, kind))
