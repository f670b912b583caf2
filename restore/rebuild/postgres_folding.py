"""Changes of many tables on their way to them, in bounded memory: each to its fold (postgres_fold.py)."""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from ledger.capture.postgres.base import Session
from ledger.capture.postgres.events import Counted, Table
from ledger.capture.postgres.messages import TRUNCATE, Change, Decoder
from ledger.capture.postgres.pgoutput import Relation
from restore.rebuild.postgres_fold import CountedFold, Fold, KeyedFold

FOLDED_SIZE_MAX: Final = 16 * 2**20
"""So many bytes of changes are taken in before they are applied."""

_OID: Final = struct.Struct(">I").unpack_from
_CHANGES: Final = frozenset(b"IUD")
_RELATION: Final = 0x52
_CHANGE_SIZE_MIN: Final = 13

Load = Callable[[Mapping[int, Fold]], Awaitable[None]]
"""Load the copies, each as its fold (by the table's oid) merges it."""


class Folding:
    """Changes on their way to the tables they are of.

    What fits in memory at first is taken in while the copies are loaded: most restores need nothing else. What comes
    after it is applied to tables that are there.
    """

    def __init__(self, session: Session, tables: Sequence[Counted], load: Load) -> None:
        self._session = session
        self._load: Load | None = load
        self._since = {one.table.oid: one.copied_lsn for one in tables}
        self._folds: dict[int, Fold] = {one.table.oid: _fold_of(one.table) for one in tables}
        self._touched: set[int] = set()
        self._held = 0
        self._taken = 0
        self._size = 0
        self.changes = 0

    async def take(self, change: Change, relations: Sequence[Relation], lsn: int) -> None:
        """One more change of a transaction committed at `lsn`. Raises Malformed, CaptureFailed."""
        for number in change[1] if change[0] == TRUNCATE else (change[1],):
            relation = relations[number]
            fold = self._wanting(relation.oid, lsn)
            if fold is None:
                continue
            before = fold.held
            if not fold.take(change, relation):
                await self.flush()
                await fold.move(self._session, change)
                before = 0
            self._held += fold.held - before

    async def take_messages(self, messages: Sequence[bytes], decoder: Decoder | None, lsn: int) -> None:
        """As `take`, of changes as the server sent them.

        `decoder` has those of the transaction before them; None: they are all of it. Then what describes a relation is
        decoded only where a change is that cannot be taken in as it is.
        """
        described: list[bytes] = []
        whole = decoder is None
        decoder = decoder or Decoder()
        for data in messages:
            kind = data[0] if len(data) >= _CHANGE_SIZE_MIN else 0
            if kind in _CHANGES:
                (oid,) = _OID(data, 1)
                fold = self._folds.get(oid)
                if fold is None or lsn < self._since[oid]:
                    continue
                if isinstance(fold, KeyedFold):
                    before = fold.held
                    if fold.take_message(data):
                        self._touched.add(oid)
                        self._held += fold.held - before
                        self.changes += 1
                        continue
            elif kind == _RELATION:
                described.append(data)
                continue
            _describe(decoder, described)
            change = decoder.take(data)
            if change is not None:
                await self.take(change, decoder.relations, lsn)
        if not whole:
            _describe(decoder, described)

    def _wanting(self, oid: int, lsn: int) -> Fold | None:
        """Where a change goes; None: its table is gone or was not asked for, or its copy has it already."""
        since = self._since.get(oid)
        if since is None or lsn < since:
            return None
        self._touched.add(oid)
        self.changes += 1
        return self._folds[oid]

    async def taken(self, count: int, size: int) -> None:
        """So many changes, of so many bytes, were taken in. Raises CaptureFailed."""
        self._taken += count
        self._size += size or 200
        # A row that was changed again and again is held once.
        if self._held * self._size >= FOLDED_SIZE_MAX * self._taken:
            await self.flush()

    async def flush(self) -> None:
        """Apply what was taken in."""
        if self._load is not None:
            load, self._load = self._load, None
            await load(self._folds)
            for fold in self._folds.values():
                fold.forget()
        else:
            for oid in sorted(self._touched):
                await self._folds[oid].flush(self._session)
        self._touched.clear()
        self._held = self._taken = self._size = 0


def _describe(decoder: Decoder, described: list[bytes]) -> None:
    """Raises Malformed."""
    for data in described:
        decoder.take(data)
    described.clear()


def _fold_of(table: Table) -> Fold:
    return KeyedFold(table) if table.identity == "key" else CountedFold(table)
