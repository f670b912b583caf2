"""What is asked of a record index's file: positions by attribute, and how much of the log they cover.

Nothing in it counts: it can be thrown away at any time and is built again from the log (`ledger/index.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ledger.core.merkle import CompactRange
from ledger.errors import StoreUnavailable
from ledger.store.base import Row, Selection


class IndexUnusable(StoreUnavailable):
    """The index is not there, or cannot be read or written now (busy, a permission, no space left)."""


class IndexDamaged(IndexUnusable):
    """The index cannot be used any more: throw it away and build it again."""


@dataclass(frozen=True, slots=True)
class Attributes:
    """What an entry is found by."""

    source: str
    subject: str
    type: str
    actor: str
    time_us: int

    @classmethod
    def of(cls, row: Row) -> Attributes:
        """Those of an entry as stored."""
        return cls(row.source, row.subject, row.type, row.actor, row.time_us)


class PositionIndex(Protocol):
    """Positions of the log's first entries, by subject, source, type, actor and time.

    `built` and what can be found move together: a process that is killed leaves a shorter index, never a wrong one.
    Safe beside other processes that read, add or discard. Every method raises IndexUnusable when it cannot be used
    now, and IndexDamaged when it never will be.
    """

    @property
    def where(self) -> str:
        """Where this is, for people."""
        ...

    async def built(self) -> CompactRange:
        """The tree of the entries it covers."""
        ...

    async def add(self, rows: Sequence[Row], before: CompactRange, after: CompactRange) -> bool:
        """Take in the next entries, all or none; False: it does not cover exactly `before` (another process added)."""
        ...

    async def find(self, what: Selection, limit: int, *, size: int) -> Sequence[int] | None:
        """Up to `limit` positions that match, in the selection's order; versions and recorded times are not looked at.

        None: no condition narrows the search, or it does not cover `size` entries (any more).
        """
        ...

    async def attributes(self, start: int, limit: int) -> Sequence[Attributes]:
        """What it holds of entries `start`, `start` + 1, ...: for those who compare."""
        ...

    async def check(self) -> None:
        """Look through the whole file. Raises IndexDamaged: what one part of it says, another does not."""
        ...

    async def discard(self) -> None:
        """Throw everything away, damaged or not; whoever has done so may go on with an empty one."""
        ...

    async def close(self) -> None:
        """Release what is held."""
        ...
