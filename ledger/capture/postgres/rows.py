"""What became of one row, for auditors: when, by which transaction, from what to what."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from ledger.capture.base import View
from ledger.capture.opened import read_data
from ledger.capture.postgres.copytext import parse_copy_line
from ledger.capture.postgres.events import COPIED, Copied, copied_of
from ledger.capture.postgres.messages import DELETE, INSERT, TRUNCATE, Actor, Change
from ledger.capture.postgres.pgoutput import UNCHANGED, Relation, Row, Value, format_lsn
from ledger.capture.postgres.reading import changes_of, lines_of
from ledger.capture.postgres.transactions import TRANSACTION, Transaction, transaction_of
from ledger.content import ContentReader
from ledger.core.indexes import Indexes
from ledger.errors import InvalidRequest, Malformed, Tampered
from ledger.sealing import Opened

FOUND: Final = "copied"
RELEASED: Final = "released"


@dataclass(frozen=True, slots=True)
class RowChange:
    """One step of a row's history. Columns by name; `old` and `new` are what is known: None, the row was not there.

    `op`: `copied` (as a first copy found it), `insert`, `update`, `delete` or `truncate`; `released`: what became of it
    from that entry to the next step is not known any more. `origin`: where a replicated
    transaction came from. `actor`: who made it, where the asset records that: PostgreSQL's own log has no roles in it.
    """

    index: int
    time: str | None
    op: str
    xid: int | None
    lsn: str
    origin: str | None
    old: dict[str, Value] | None
    new: dict[str, Value] | None
    actor: Actor | None = None


async def row_history(
    view: View, source: str, database: str, table: str, key: Sequence[str], released: Indexes | None = None
) -> AsyncIterator[RowChange]:
    """Every recorded change of the row with that key, oldest first; a row that gets another key is followed.

    `table`: `schema.name`, as it is called at the end of the view or was at the time. Reads the whole history of the
    database, and every copy of the table, but for entries that are `released`.

    Raises:
        InvalidRequest: no table of that name was captured, or its key has another number of columns.
        Erased: an entry that may tell of it was erased. Tampered: an entry or its content cannot be read.
    """
    following = _Following(table, tuple(key))
    reader: ContentReader | None = None
    async for one in view.entries(source, subject=database):
        event = one.entry.event
        if event.type not in (COPIED, TRANSACTION):
            continue
        try:
            copied = read_data(one, copied_of) if event.type == COPIED else None
            if released is not None and one.index in released and (copied is None or copied.table.label == table):
                if (lost := following.released(one)) is not None:
                    yield lost
                continue
            if copied is not None:
                if copied.table.label == table:
                    reader = reader or await (await view.content()).reading()
                    async for found in following.copied(one, copied, reader):
                        yield found
                continue
            transaction = read_data(one, transaction_of)
            if transaction.manifest is not None:
                reader = reader or await (await view.content()).reading()
            async for relations, change, actor in changes_of(transaction, reader):
                for step in following.changed(one, transaction, relations, change):
                    yield replace(step, actor=actor)
        except Malformed as error:
            raise Tampered(f"entry {one.index} cannot be read ({error.what})") from error
    if not following.seen:
        raise InvalidRequest(f"no table {table!r} of {database!r} was captured", hint="name it as schema.table")


class _Following:
    """A row on its way through the log."""

    def __init__(self, table: str, key: tuple[str, ...]) -> None:
        self._table = table
        self._key: tuple[Value, ...] = key
        self._state: dict[str, Value] | None = None
        self._lost = False
        self.seen = False

    def released(self, one: Opened) -> RowChange | None:
        """An entry whose content is not there any more; the first of several in a row is a step."""
        told, self._lost, self._state = self._lost, True, None
        return None if told else RowChange(one.index, one.entry.event.time, RELEASED, None, "", None, None, None)

    async def copied(self, one: Opened, copied: Copied, reader: ContentReader) -> AsyncIterator[RowChange]:
        """The row as a copy has it, where that is news."""
        self.seen = True
        places = [copied.table.columns.index(name) for name in copied.table.key]
        if not places:
            raise InvalidRequest(f"{self._table} has no key that its rows could be told apart by")
        if len(places) != len(self._key):
            raise InvalidRequest(
                f"the key of {self._table} is ({', '.join(copied.table.key)})", hint="give a value for each of them"
            )
        async for line in lines_of(copied.manifest, reader):
            row = parse_copy_line(line)
            if tuple(row[place] for place in places) == self._key:
                new = dict(zip(copied.table.columns, row, strict=True))
                if new != self._state:
                    yield RowChange(
                        one.index, one.entry.event.time, FOUND, None, format_lsn(copied.lsn), None, self._state, new
                    )
                self._state, self._lost = new, False
                return

    def changed(
        self, one: Opened, transaction: Transaction, relations: Sequence[Relation], change: Change
    ) -> list[RowChange]:
        """The step that a change is for the row, if it is one."""
        op = change[0]
        numbers = change[1] if op == TRUNCATE else [change[1]]
        relation = next((r for r in (relations[n] for n in numbers) if f"{r.schema}.{r.name}" == self._table), None)
        if relation is None:
            return []
        self.seen = True
        old, new = self._state, None
        if op == TRUNCATE:
            if old is None:
                return []
        else:
            _, _, key, before, after = change
            names = [column.name for column in relation.columns]
            was = key if key is not None else _key(relation, before if before is not None else after)
            if tuple(was or ()) != self._key:
                return []
            if before is not None:
                old = dict(zip(names, before, strict=True))
            if op != DELETE:
                new = {
                    name: (old or {}).get(name, UNCHANGED) if value is UNCHANGED else value
                    for name, value in zip(names, after, strict=True)
                }
                moved = _key(relation, [new[name] for name in names])
                self._key = self._key if moved is None else tuple(moved)
            if op == INSERT:
                old = None
        self._state, self._lost = new, False
        return [
            RowChange(
                one.index,
                one.entry.event.time,
                op,
                transaction.xid,
                format_lsn(transaction.lsn),
                transaction.origin,
                old,
                new,
            )
        ]


def _key(relation: Relation, row: Row | None) -> Row | None:
    if row is None:
        return None
    return [value for value, column in zip(row, relation.columns, strict=True) if column.key]
