"""What a capture of databases makes of messages and options, without a server."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Any, cast

import pytest

from ledger.capture.base import Subject
from ledger.capture.postgres.copytext import RowsDigest
from ledger.capture.postgres.events import INLINE_SIZE_MAX, Counted
from ledger.capture.postgres.pgoutput import (
    Begin,
    Column,
    Commit,
    Delete,
    Insert,
    Message,
    Origin,
    Relation,
    Truncate,
    Update,
)
from ledger.capture.postgres.settings import Settings
from ledger.capture.postgres.source import PsycopgSource
from ledger.capture.postgres.state import Progress, Tally
from ledger.capture.postgres.stream import Assembler, Open
from ledger.capture.postgres.transactions import TRANSACTION, Transaction, transaction_event, transaction_of
from ledger.errors import InvalidRequest, Malformed
from ledger.store.place import PostgresPlace
from tests.support.postgres_parsers import RELATION, TABLE, TIME_US

BEGIN = Begin(100, TIME_US, 7)
COMMIT = Commit(100, 108, TIME_US)


def assembled(*messages: Message) -> tuple[Open, Commit]:
    assembler = Assembler()
    *before, last = [assembler.feed(message, 100) for message in messages]
    assert not any(before)
    assert last is not None
    return last


def test_a_transaction_is_put_together() -> None:
    opened, commit = assembled(
        RELATION,
        BEGIN,
        Origin("elsewhere"),
        Insert(RELATION.oid, ["1", "a"]),
        Update(RELATION.oid, None, None, ["1", False]),
        Update(RELATION.oid, ["1", None], None, ["2", "b"]),
        Delete(RELATION.oid, ["2", None], None),
        Truncate((RELATION.oid,), True, True),
        COMMIT,
    )
    assert (opened.origin, commit) == ("elsewhere", COMMIT)
    assert opened.changes == [
        ["insert", 0, None, None, ["1", "a"]],
        ["update", 0, ["1"], None, ["1", False]],  # its key did not change: it is in the new row
        ["update", 0, ["1"], None, ["2", "b"]],
        ["delete", 0, ["2"], None, None],
        ["truncate", [0], True, True],
    ]


def test_a_table_altered_within_a_transaction_has_two_descriptions() -> None:
    wider = Relation(*RELATION[:4], (*RELATION.columns, Column("c", False, 25, -1)))
    insert, wide = Insert(RELATION.oid, ["1", "a"]), Insert(RELATION.oid, ["2", "b", "c"])
    opened, _ = assembled(RELATION, BEGIN, insert, wider, wide, COMMIT)
    assert opened.listed == [RELATION, wider]
    assert [change[1] for change in opened.changes] == [0, 1]


@pytest.mark.parametrize(
    "messages",
    [
        (BEGIN, BEGIN),
        (COMMIT,),
        (RELATION, Insert(RELATION.oid, ["1", "a"])),
        (BEGIN, Insert(RELATION.oid, ["1", "a"])),
        (RELATION, BEGIN, Update(RELATION.oid, None, None, ["1"])),
    ],
)
def test_what_cannot_come_is_refused(messages: tuple[Message, ...]) -> None:
    assembler = Assembler()
    *before, last = messages
    for message in before:
        assembler.feed(message, 100)
    with pytest.raises(Malformed):
        assembler.feed(last, 100)


def test_what_is_too_much_for_an_entry_is_spooled_in_order() -> None:
    rows = [Insert(RELATION.oid, [str(n), "x" * 1_000]) for n in range(100)]
    assembler = Assembler()
    for message in (RELATION, BEGIN, *rows):
        assembler.feed(message, 1_000)
    done = assembler.feed(COMMIT, 26)
    assert done is not None
    spool = done[0].spool
    assert spool is not None
    with spool:
        spool.seek(0)
        lines = spool.read().splitlines()
    assert lines[0].startswith(b'["relation",')
    assert [int(line.split(b'"')[3]) for line in lines[1:]] == list(range(100))
    assert (done[0].changes, done[0].count) == ([], 100)


def test_an_entry_says_what_was_put_together() -> None:
    change: list[Any] = ["update", 0, ["1"], None, ["1", "张三"]]
    transaction = Transaction("7/s_1/0/7", 100, 108, 7, None, (RELATION,), (change,), 1)
    event = transaction_event("urn:s", "postgres", transaction, time_us=TIME_US)
    assert (event.id, event.type, event.time) == ("7/s_1/0/7/0/6C", TRANSACTION, "2025-11-30T01:00:00.000000Z")
    assert transaction_of(event.data or b"") == transaction
    assert len(event.data or b"") < INLINE_SIZE_MAX


def test_rows_are_counted_from_where_a_copy_was_made() -> None:
    copied = Counted(TABLE, 4, 100, 10, "0" * 32)
    progress = Progress("g", "s_1", "7", 1, 100, 3, "f", "t", {TABLE.oid: copied}, 5)
    added = Tally()
    insert, delete = ["insert", 0, None, None, ["1", "a"]], ["delete", 0, ["1"], None, None]
    for change in (insert, insert, delete):
        added.count(change, [RELATION])
    progress.committed(90, 98, added)  # the copy has it
    assert progress.tables[TABLE.oid] == copied
    progress.committed(100, 108, added)
    assert (progress.tables[TABLE.oid].rows, progress.tables[TABLE.oid].digest) == (11, None)
    emptied = Tally()
    emptied.count(["insert", 0, None, None, ["8", "a"]], [RELATION])
    emptied.count(["truncate", [0], False, False], [RELATION])
    emptied.count(["insert", 0, None, None, ["9", "a"]], [RELATION])
    progress.committed(110, 118, emptied)
    assert (progress.tables[TABLE.oid].rows, progress.lsn, progress.transactions) == (1, 118, 3)


def test_a_digest_is_of_the_rows_and_not_of_their_order() -> None:
    rows = [b"%d\n" % n for n in range(100)]
    digests = []
    for seed in range(3):
        random.Random(seed).shuffle(rows)
        digest = RowsDigest()
        digest.add(rows[:30])
        digest.add(rows[30:])
        digests.append((digest.rows, digest.hex))
    hashes = [int.from_bytes(hashlib.sha256(row).digest()[:16], "big") for row in rows]
    assert set(digests) == {(100, f"{sum(hashes) % 2**128:032x}")}
    digest.add(rows[:1])
    assert digest.hex != digests[0][1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"databases": "one"}, "an option is not what it should be"),
        ({"databases": ["a", "b"], "slot": "mine"}, "cannot share slot 'mine'"),
        ({"when_lost": "shrug"}, "when_lost=shrug"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], said: str) -> None:
    source = PsycopgSource(PostgresPlace("127.0.0.1", 5432, "postgres", "jinshi"))
    subject = Subject("db", "urn:s", options, *[cast(Any, None)] * 4, actor="local:test", state=Path())
    with pytest.raises(InvalidRequest, match=said):
        Settings.of(subject, source)
