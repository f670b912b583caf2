"""What a server may send: messages and rows come out as they went in, and a fold is what its changes come to."""

from __future__ import annotations

import random
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.capture.postgres.copytext import copy_line, parse_copy_line
from ledger.capture.postgres.events import Counted, Table
from ledger.capture.postgres.messages import DELETE, INSERT, TRUNCATE, UPDATE, Decoder
from ledger.capture.postgres.pgoutput import (
    UNCHANGED,
    Begin,
    Column,
    Commit,
    Delete,
    Insert,
    Message,
    Origin,
    Relation,
    Told,
    Truncate,
    TypeName,
    Update,
    Value,
    decode_message,
)
from ledger.capture.postgres.transactions import Committed, Transaction, transaction_event, transaction_of
from ledger.errors import Malformed
from restore.rebuild.postgres_fold import CountedFold, Fold, KeyedFold
from restore.rebuild.postgres_folding import Folding
from restore.rebuild.postgres_rows import Messages
from tests.support.postgres_parsers import encode_message

OIDS = st.integers(0, 2**32 - 1)
LSNS = st.integers(0, 2**64 - 1)
TIMES = st.integers(-(2**62), 2**62)
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
NAMES = TEXTS.filter(bool)
ROWS = st.lists(st.none() | st.just(UNCHANGED) | TEXTS, max_size=6)
COLUMNS = st.builds(Column, NAMES, st.booleans(), OIDS, st.integers(-(2**31), 2**31 - 1))
MESSAGES = st.one_of(
    st.builds(Begin, LSNS, TIMES, OIDS),
    st.builds(Commit, LSNS, LSNS, TIMES),
    st.builds(Origin, TEXTS),
    st.builds(TypeName, OIDS, TEXTS, TEXTS),
    st.builds(Relation, OIDS, NAMES, NAMES, st.sampled_from("dnfi"), st.lists(COLUMNS, max_size=4).map(tuple)),
    st.builds(Insert, OIDS, ROWS),
    st.builds(Update, OIDS, st.none(), ROWS, ROWS) | st.builds(Update, OIDS, ROWS, st.none(), ROWS),
    st.builds(Update, OIDS, st.none(), st.none(), ROWS),
    st.builds(Delete, OIDS, ROWS.filter(bool), st.none()) | st.builds(Delete, OIDS, st.none(), ROWS),
    st.builds(Told, st.booleans(), LSNS, TEXTS, st.binary(max_size=20)),
    st.builds(Truncate, st.lists(OIDS, min_size=1, max_size=4).map(tuple), st.booleans(), st.booleans()),
)


@given(MESSAGES)
def test_a_message_comes_out_as_it_went_in(message: Any) -> None:
    assert decode_message(encode_message(message)) == message


@given(st.lists(st.none() | TEXTS, min_size=1))
def test_a_row_comes_out_as_it_went_in(row: list[str | None]) -> None:
    line = copy_line(row)
    assert line.count(b"\n") == 1
    assert parse_copy_line(line) == row


@given(st.lists(st.none() | TEXTS | st.text("\\\t\nu居0", max_size=14), min_size=1, max_size=6), st.randoms())
def test_a_message_becomes_the_line_that_its_row_is(row: list[str | None], dice: random.Random) -> None:
    """Without being decoded, and whatever the row holds; what is cut short is never taken for something else."""
    places = sorted(dice.sample(range(len(row)), dice.randint(1, len(row))))
    messages = Messages(places, len(row))
    key = [row[place] for place in places]
    known = None if None in key else copy_line(key)[:-1]
    for message in (Insert(7, [*row]), Update(7, None, None, [*row])):
        data = encode_message(message)
        assert (messages.key(data), messages.line(data)) == (known, copy_line(row))
        with pytest.raises(Malformed):
            messages.line(data[: dice.randrange(8, len(data))])
    gone = Delete(7, [value if place in places else None for place, value in enumerate(row)], None)
    assert messages.key(encode_message(gone)) == known
    row_in_part = [*row[:-1], UNCHANGED]
    assert messages.key(encode_message(Update(7, None, None, row_in_part))) is None
    assert messages.key(encode_message(Update(7, [*row], None, [*row]))) is None


@given(st.binary(max_size=40), LSNS, LSNS, OIDS, st.none() | NAMES, NAMES)
def test_a_transaction_is_read_alike_by_its_bytes_and_as_json(
    content: bytes, lsn: int, end: int, xid: int, origin: str | None, generation: str
) -> None:
    committed = Committed(generation, lsn, end, xid, origin, 1, content)
    data = transaction_event("urn:s", "db", committed, time_us=0).data or b""
    assert transaction_of(data) == transaction_of(b" " + data)
    assert transaction_of(data) == Transaction(generation, lsn, end, xid, origin, 1, messages=content)


# -- folds ------------------------------------------------------------------------------------------------------------


class Rows:
    """A session that keeps a table's rows, and understands what folds say; `key`: the first column, or none."""

    def __init__(self) -> None:
        self.rows: list[list[Value]] = []
        self.staged: list[list[Value]] = []

    async def fetch(self, sql: str, *arguments: object) -> list[tuple[Any, ...]]:
        raise AssertionError(sql)

    async def copy_in(self, sql: str, blocks: AsyncIterator[bytes]) -> None:
        rows = [parse_copy_line(line) for line in b"".join([block async for block in blocks]).splitlines(True)]
        if "staged" in sql:
            self.staged = rows
        else:
            self.rows += rows

    async def script(self, sql: str) -> None:
        if sql.startswith("TRUNCATE"):
            self.rows.clear()
        elif "DELETE" in sql and "ctid" in sql:
            for *row, count in self.staged:
                for _ in range(int(str(count))):
                    self.rows.remove(row)
        elif "DELETE" in sql:
            gone = [row[0] for row in self.staged]
            self.rows = [row for row in self.rows if row[0] not in gone]
        elif "UPDATE" in sql and "staged" in sql:
            for key, small in self.staged:
                next(row for row in self.rows if row[0] == key)[1] = small
        elif sql.startswith("UPDATE"):
            self.moved = sql


TABLE = Table(1, "public", "t", ("k", "small", "big"), ("k",), "key")
WHOLE = Table(1, "public", "t", ("k", "small", "big"), (), "full")
COLUMNS_OF_IT = tuple(Column(name, name == "k", 25, -1) for name in TABLE.columns)
RELATION = Relation(1, "public", "t", "d", COLUMNS_OF_IT)


@given(st.integers(0, 2**32), st.integers(1, 60), st.integers(1, 20))
async def test_a_fold_is_what_the_changes_come_to(seed: int, steps: int, window: int) -> None:
    """Flushed every so often, with `big` left out of updates as a server leaves out what is stored out of line."""
    dice = random.Random(seed)
    truth: dict[str, list[Value]] = {str(n): [str(n), "s", f"big{n}"] for n in range(4)}
    keyed, counted = Rows(), Rows()
    keyed.rows = [list(row) for row in truth.values()]
    counted.rows = [list(row) for row in truth.values()]
    folds = (KeyedFold(TABLE), keyed), (CountedFold(WHOLE), counted)
    for step in range(steps):
        for plain, full in changes(dice, truth, step):
            for (fold, session), change in zip(folds, (plain, full), strict=True):
                if not fold.take(change, RELATION):
                    await fold.flush(session)
                    move(session, change)
        if step % window == 0:
            for fold, session in folds:
                await fold.flush(session)
    for fold, session in folds:
        await fold.flush(session)
        assert sorted(session.rows, key=str) == sorted(truth.values(), key=str), f"seed={seed}"


@given(st.integers(0, 2**32), st.integers(1, 60), st.integers(1, 30))
async def test_a_restore_is_what_the_messages_come_to(seed: int, steps: int, window: int) -> None:
    """From messages, as a server sends them: what fits is taken in while the copy is loaded, the rest afterwards."""
    dice = random.Random(seed)
    truth: dict[str, list[Value]] = {str(n): [str(n), "s\tu", f"big{n}"] for n in range(4)}
    copy = b"".join(copy_line([str(value) for value in row]) for row in truth.values())
    keyed, counted = Rows(), Rows()
    sessions = {TABLE.oid: keyed, OTHER.oid: counted}

    async def load(folds: Mapping[int, Fold]) -> None:
        for oid, session in sessions.items():
            await session.copy_in("", folds[oid].merged(cut(dice, copy)))

    folding = Folding(Both(keyed, counted), [Counted(TABLE, 0, 0, 4), Counted(OTHER, 0, 0, 4)], load)
    for step in range(steps):
        decoder = Decoder()
        relations = [RELATION, RELATION._replace(oid=OTHER.oid, name="other")]
        messages = [encode_message(relation) for relation in relations]
        for plain, full in changes(dice, truth, step):
            messages += [encode_message(message_of(TABLE.oid, plain)), encode_message(message_of(OTHER.oid, full))]
        await folding.take_messages(messages, decoder, lsn=1)
        if not dice.randrange(window):
            await folding.flush()
    await folding.flush()
    for session in sessions.values():
        assert sorted(session.rows, key=str) == sorted(truth.values(), key=str), f"seed={seed}"


OTHER = Table(2, "public", "other", ("k", "small", "big"), (), "full")


class Both:
    """A session with both tables."""

    def __init__(self, keyed: Rows, counted: Rows) -> None:
        self._keyed = keyed
        self._counted = counted
        self._staged = keyed

    async def fetch(self, sql: str, *arguments: object) -> list[tuple[Any, ...]]:
        raise AssertionError(sql)

    async def copy_in(self, sql: str, blocks: AsyncIterator[bytes]) -> None:
        await (self._staged if "staged" in sql else self._of(sql)).copy_in(sql, blocks)

    async def script(self, sql: str) -> None:
        if sql.startswith("CREATE TEMP"):
            self._staged = self._counted if "fewer bigint" in sql else self._keyed
        elif sql.startswith("UPDATE"):
            (*values, (_, key)) = re.findall(r"\"(\w+)\" = '([^']*)'", sql)
            row = next(row for row in self._keyed.rows if row[0] == key)
            row[:] = [dict(values).get(name, old) for name, old in zip(TABLE.columns, row, strict=True)]
        else:
            await self._of(sql).script(sql)

    def _of(self, sql: str) -> Rows:
        return self._counted if '"other"' in sql else self._keyed


async def cut(dice: random.Random, data: bytes) -> AsyncIterator[bytes]:
    """The same bytes in blocks of any length."""
    while data:
        length = dice.randrange(1, 12)
        yield data[:length]
        data = data[length:]


def message_of(oid: int, change: list[Any]) -> Message:
    """As a server says it."""
    if change[0] == TRUNCATE:
        return Truncate((oid,), False, False)
    op, _, key, old, new = change
    if op == INSERT:
        return Insert(oid, new)
    before = None if key is None else [*key, None, None]
    if op == DELETE:
        return Delete(oid, before, old)
    return Update(oid, None if key == new[:1] else before, old, new)


def move(session: Rows, change: list[Any]) -> None:
    """What the statement of `KeyedFold.move` does."""
    row = next(row for row in session.rows if row[0] == change[2][0])
    row[:] = [old if value is UNCHANGED else value for value, old in zip(change[4], row, strict=True)]


def changes(dice: random.Random, truth: dict[str, list[Value]], step: int) -> list[tuple[list[Any], list[Any]]]:
    """The next change, as a server says it of a table with a key, and of one with REPLICA IDENTITY FULL."""
    free = [str(n) for n in range(8) if str(n) not in truth]
    what = dice.random()
    if what < 0.03:
        truth.clear()
        return [([TRUNCATE, [0], False, False],) * 2]
    if free and (what < 0.4 or not truth):
        row: list[Value] = [dice.choice(free), f"s{step}", f"big{step}"]
        truth[str(row[0])] = row
        return [([INSERT, 0, None, None, list(row)],) * 2]
    key = dice.choice(sorted(truth))
    old = truth.pop(key)
    if what < 0.6:
        return [([DELETE, 0, [key], None, None], [DELETE, 0, None, list(old), None])]
    after = dice.choice(free) if free and what > 0.85 else key
    left_out = dice.random() < 0.5
    new: list[Value] = [after, f"s{step}", old[2] if left_out else f"big{step}"]
    truth[after] = new
    sent = [*new[:2], UNCHANGED if left_out else new[2]]
    return [([UPDATE, 0, [key], None, list(sent)], [UPDATE, 0, None, list(old), list(sent)])]
