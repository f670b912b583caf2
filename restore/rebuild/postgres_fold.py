"""What many changes of a table come to: the fewest statements that bring an earlier copy of it up to date.

Bounded by `Folding` (postgres_folding.py), which flushes when enough has been taken in. Pure, but for `flush` and
`move`, which speak SQL.
`postgres_merge.py` has the other way: changes that are taken in while the copy is loaded.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Final, cast

from ledger.capture.postgres.base import Session
from ledger.capture.postgres.catalog import copied_as, literal, quoted, table_name
from ledger.capture.postgres.events import Table
from ledger.capture.postgres.messages import DELETE, INSERT, TRUNCATE, UPDATE, Change
from ledger.capture.postgres.pgoutput import UNCHANGED, Relation, Row
from ledger.errors import Malformed
from restore.rebuild.postgres_merge import blocks_of, blocks_of_lines, merge_counted, merge_keyed
from restore.rebuild.postgres_rows import DELETED, Messages, line_of, row_of

STAGED: Final = "pg_temp.jinshi_staged"

Key = tuple[str | None, ...]


class KeyedFold:
    """A table whose rows are told apart by their replica identity: the last state of every row that was changed.

    Each by its key as a line of COPY has it. A row is None when it is gone, and has UNCHANGED where it keeps what the
    copy has. One that came as a whole stays the message it came in until it is applied: most are changed again before.
    """

    def __init__(self, table: Table) -> None:
        self._table = table
        self._places = [table.columns.index(name) for name in table.key]
        self._rows: dict[bytes, Row | bytes | None] = {}
        self._emptied = False
        self._flushed = False
        self._messages = Messages(self._places, len(table.columns))

    def take(self, change: Change, relation: Relation) -> bool:
        """One more change. False: flush, then apply it with `move`. Raises Malformed: it is not of this table."""
        kind = change[0]
        if kind == TRUNCATE:
            self._rows.clear()
            self._emptied = True
            return True
        key, new = cast("tuple[Row | None, Row | None]", (change[2], change[4]))
        if kind == INSERT:
            row = self._checked(new, relation)
            self._rows[self._key(row)] = row
            return True
        if key is None:
            raise Malformed(f"a change of {self._table.label} does not say which row it is of")
        before = line_of(key)[:-1]
        if kind == DELETE:
            self._rows[before] = None
            return True
        assert kind == UPDATE
        row = self._checked(new, relation)
        known = self._rows.get(before)
        if known is not None and UNCHANGED in row:
            known = row_of(known) if isinstance(known, bytes) else known
            row = [old if value is UNCHANGED else value for value, old in zip(row, known, strict=True)]
        after = self._key(row)
        if after != before:
            if UNCHANGED in row:
                return False
            self._rows[before] = None
        self._rows[after] = row
        return True

    def take_message(self, data: bytes) -> bool:
        """A change as the server sent it, if it need not be taken apart. False: decode it, then `take` it."""
        key = self._messages.key(data)
        if key is None:
            return False
        self._rows[key] = None if data[0] == DELETED else data
        return True

    def _key(self, row: Row) -> bytes:
        return line_of([row[place] for place in self._places])[:-1]

    def _checked(self, row: Row | None, relation: Relation) -> Row:
        if row is None or len(row) != len(self._table.columns) or len(relation.columns) != len(row):
            raise Malformed(f"a row of {self._table.label} does not have the columns of its copy")
        return row

    async def flush(self, session: Session) -> None:
        """Apply what was taken in. Raises CaptureFailed."""
        name = table_name(self._table)
        if self._emptied:
            await session.script(f"TRUNCATE ONLY {name}")
        elif self._rows:
            await self._replace(session, name)
        await session.copy_in(f"COPY {copied_as(self._table)} FROM STDIN", blocks_of_lines(self._whole()))
        self.forget()
        self._flushed = True

    def merged(self, blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The rows of the copy as they are with what was taken in, in place of `flush`."""
        if not self._rows and not self._emptied:
            return blocks
        partly = {key: row for key, row in self._rows.items() if isinstance(row, list) and UNCHANGED in row}
        gone = self._rows.keys() - partly.keys() if partly else self._rows.keys()
        return merge_keyed(_nothing() if self._emptied else blocks, self._places, gone, partly, self._whole())

    def _whole(self) -> Iterator[bytes]:
        """The rows that are there and came as a whole, as COPY has them. Raises Malformed."""
        line = self._messages.line
        for row in self._rows.values():
            if isinstance(row, bytes):
                yield line(row)
            elif row is not None and UNCHANGED not in row:
                yield line_of(row)

    def forget(self) -> None:
        """What was taken in was applied."""
        self._rows.clear()
        self._emptied = False

    @property
    def held(self) -> int:
        """How many rows are in memory."""
        return len(self._rows)

    async def _replace(self, session: Session, name: str) -> None:
        """Take out the rows that are gone or come as a whole; change those of which only a part came."""
        keys = ", ".join(map(quoted, self._table.key))
        same = " AND ".join(f"t.{quoted(one)} = s.{quoted(one)}" for one in self._table.key)
        if self._flushed:  # a second time: looking for rows by reading the whole table would cost more
            await session.script(f"CREATE INDEX IF NOT EXISTS {quoted(index_name(self._table))} ON {name} ({keys})")
        whole = (key + b"\n" for key, row in self._rows.items() if not (isinstance(row, list) and UNCHANGED in row))
        delete = f"DELETE FROM ONLY {name} t USING {STAGED} s WHERE {same}"  # noqa: S608 (quoted)
        await self._staged(session, keys, blocks_of_lines(whole), delete)
        by_known: dict[tuple[int, ...], list[Row]] = {}
        for row in self._rows.values():
            if isinstance(row, list) and UNCHANGED in row:
                known = tuple(place for place, value in enumerate(row) if value is not UNCHANGED)
                by_known.setdefault(known, []).append([row[place] for place in known])
        for known, rows in by_known.items():
            names = [self._table.columns[place] for place in known]
            changed = ", ".join(f"{quoted(one)} = s.{quoted(one)}" for one in names if one not in self._table.key)
            if changed:
                update = f"UPDATE ONLY {name} t SET {changed} FROM {STAGED} s WHERE {same}"  # noqa: S608 (quoted)
                await self._staged(session, ", ".join(map(quoted, names)), blocks_of(rows), update)

    async def _staged(self, session: Session, columns: str, rows: AsyncIterator[bytes], statement: str) -> None:
        """Run a statement with these rows of some columns at hand."""
        name = table_name(self._table)
        await session.script(f"CREATE TEMP TABLE jinshi_staged AS SELECT {columns} FROM {name} WITH NO DATA")  # noqa: S608 (quoted)
        await session.copy_in(f"COPY {STAGED} FROM STDIN", rows)
        await session.script(f"ANALYZE {STAGED}; {statement}; DROP TABLE {STAGED}")

    async def move(self, session: Session, change: Change) -> None:
        """A row gets another key, and keeps a value that only the copy has. Raises CaptureFailed."""
        key, row = cast("tuple[Row, Row]", (change[2], change[4]))
        values = ", ".join(
            f"{quoted(name)} = {_literal(value)}"
            for name, value in zip(self._table.columns, row, strict=True)
            if value is not UNCHANGED
        )
        where = " AND ".join(
            f"{quoted(name)} = {_literal(value)}" for name, value in zip(self._table.key, key, strict=True)
        )
        await session.script(f"UPDATE ONLY {table_name(self._table)} SET {values} WHERE {where}")  # noqa: S608 (quoted)


class CountedFold:
    """A table whose rows are told apart by all they hold, if at all: how many more, or fewer, of each there are."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._counts: dict[Key, int] = {}
        self._emptied = False

    def take(self, change: Change, relation: Relation) -> bool:
        """As `KeyedFold.take`, always True."""
        kind = change[0]
        if kind == TRUNCATE:
            self._counts.clear()
            self._emptied = True
            return True
        old, new = cast("tuple[Row | None, Row | None]", (change[3], change[4]))
        if kind != INSERT:
            self._add(old, relation, -1)
        if new is not None and old is not None and UNCHANGED in new:
            new = [before if value is UNCHANGED else value for value, before in zip(new, old, strict=True)]
        if kind != DELETE:
            self._add(new, relation, 1)
        return True

    def _add(self, row: Row | None, relation: Relation, count: int) -> None:
        if row is None or len(row) != len(self._table.columns) or len(relation.columns) != len(row) or UNCHANGED in row:
            raise Malformed(f"a row of {self._table.label} does not have the columns of its copy")
        key = cast(Key, tuple(row))
        after = self._counts.get(key, 0) + count
        if after:
            self._counts[key] = after
        else:
            self._counts.pop(key, None)

    async def flush(self, session: Session) -> None:
        """As `KeyedFold.flush`."""
        name = table_name(self._table)
        if self._emptied:
            await session.script(f"TRUNCATE ONLY {name}")
        fewer = [(key, -count) for key, count in self._counts.items() if count < 0]
        if fewer:
            await self._take_out(session, name, fewer)
        await _insert(
            session,
            self._table,
            (cast(Row, [*key]) for key, count in self._counts.items() for _ in range(max(0, count))),
        )
        self.forget()

    def merged(self, blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """As `KeyedFold.merged`."""
        if not self._counts and not self._emptied:
            return blocks
        return merge_counted(_nothing() if self._emptied else blocks, self._counts)

    def forget(self) -> None:
        """As `KeyedFold.forget`."""
        self._counts.clear()
        self._emptied = False

    @property
    def held(self) -> int:
        """As `KeyedFold.held`."""
        return len(self._counts)

    async def _take_out(self, session: Session, name: str, fewer: Iterable[tuple[Key, int]]) -> None:
        """Compared as text: not every type has an equality."""
        texts = ", ".join(f"c{number} text" for number in range(len(self._table.columns)))
        hashed = _hash([_as_text(quoted(column)) for column in self._table.columns])
        staged = _hash([f"c{number}" for number in range(len(self._table.columns))])
        await session.script(f"CREATE TEMP TABLE jinshi_staged ({texts}{', ' if texts else ''}fewer bigint)")
        await session.copy_in(
            f"COPY {STAGED} FROM STDIN", blocks_of(cast(Row, [*key, str(count)]) for key, count in fewer)
        )
        await session.script(
            f"ANALYZE {STAGED}; DELETE FROM ONLY {name} WHERE ctid IN (SELECT place FROM ("  # noqa: S608 (quoted)
            f"SELECT t.ctid AS place, row_number() OVER (PARTITION BY t.hash) AS number, s.fewer FROM "
            f"(SELECT ctid, {hashed} AS hash FROM ONLY {name}) t "
            f"JOIN (SELECT {staged} AS hash, fewer FROM {STAGED}) s USING (hash)) found WHERE number <= fewer); "
            f"DROP TABLE {STAGED}"
        )

    async def move(self, session: Session, change: Change) -> None:
        """Never needed."""
        raise AssertionError("every change of such a table can be counted")


Fold = KeyedFold | CountedFold


async def _nothing() -> AsyncIterator[bytes]:
    """The copy of a table that was truncated since."""
    return
    yield b""


def index_name(table: Table) -> str:
    """The index that a restore makes for itself, and drops."""
    return f"jinshi_restoring_{table.oid}"


def _as_text(column: str) -> str:
    # As the type writes it, which a cast to text does not always do: boolean, character(n).
    return f"CASE WHEN {column} IS NOT NULL THEN format('%s', {column}) END"


def _hash(texts: Sequence[str]) -> str:
    # COPY's own way to keep NULL and '' apart: a row of texts, written out.
    return f"sha256(convert_to(ROW({', '.join(texts)})::text, 'UTF8'))"


def _literal(value: str | bool | None) -> str:
    return "NULL" if value is None else literal(str(value))


async def _insert(session: Session, table: Table, rows: Iterable[Row]) -> None:
    await session.copy_in(f"COPY {copied_as(table)} FROM STDIN", blocks_of(rows))
