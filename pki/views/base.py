"""What a view is made of: tables that events are folded into, and the index that keeps them with their position."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from typing import Protocol, runtime_checkable

from pki.journal import Occurred


class Table(Protocol):
    """One subject of the index: its SQL tables, and what an event does to them.

    Folding is a function of the events alone, so that an index that is lost is rebuilt the same.
    """

    @property
    def schema(self) -> Sequence[str]:
        """CREATE statements. A change to them goes with a new `version`."""
        ...

    @property
    def version(self) -> int:
        """Of the schema and of what is folded into it; when it changes, the index is rebuilt."""
        ...

    @property
    def kinds(self) -> Collection[str]:
        """What the ids of the aggregates begin with, before the colon, whose events concern it; others it is spared."""
        ...

    def apply(self, database: sqlite3.Connection, occurred: Occurred) -> None:
        """Take in an event; those of no concern are passed over. Within the transaction of the position."""
        ...


@runtime_checkable
class BatchTable(Table, Protocol):
    """One that takes in many events at once sooner than one after the other, with the same result."""

    def fold(self, database: sqlite3.Connection, batch: Sequence[Occurred]) -> None:
        """Take in events, in their order; as `apply` for each."""
        ...
