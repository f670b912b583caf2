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
from ledger.capture.postgres.messages import TOLD_BY, Actor, Change, Decoder
from ledger.capture.postgres.pgoutput import (
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
    Update,
)
from ledger.capture.postgres.reading import changes_of
from ledger.capture.postgres.settings import Settings
from ledger.capture.postgres.source import PsycopgSource
from ledger.capture.postgres.state import Progress, Tally
from ledger.capture.postgres.stream import Assembler, Open
from ledger.capture.postgres.transactions import Committed, transaction_event, transaction_of
from ledger.errors import InvalidRequest, Malformed
from ledger.store.place import PostgresPlace
from tests.support.postgres_parsers import RELATION, TABLE, TIME_US, encode_message, joined

BEGIN = Begin(100, TIME_US, 7)
COMMIT = Commit(100, 108, TIME_US)


ACTOR = Told(
    True,
    100,
    TOLD_BY,
    b'{"session_user":"zhang","current_user":"clerk","application_name":"psql","client":"10.0.0.7"}',
)


def assembled(*messages: Message) -> tuple[Open, Commit]:
    assembler = Assembler()
    *before, last = [assembler.feed(encode_message(message)) for message in messages]
    assert not any(before)
    assert last is not None
    return last


async def said(opened: Open) -> list[tuple[str, Change, Actor | None]]:
    """What an entry of it says: of each change the columns of its relation, and who made it."""
    assert opened.spool is None
    committed = Committed("7/s_1/0/7", 100, 108, 7, opened.origin, opened.count, b"".join(opened.parts))
    event = transaction_event("urn:s", "postgres", committed, time_us=TIME_US)
    assert len(event.data or b"") < INLINE_SIZE_MAX
    found = changes_of(transaction_of(event.data or b""), None)
    return [
        (
            " ".join(column.name for column in relations[change[1] if isinstance(change[1], int) else 0].columns),
            change,
            actor,
        )
        async for relations, change, actor in found
    ]


async def test_a_transaction_is_put_together() -> None:
    opened, commit = assembled(
        RELATION,
        BEGIN,
        Origin("elsewhere"),
        Insert(RELATION.oid, ["1", "a"]),
        Told(True, 100, "somebody's own", b"not for us"),
        Update(RELATION.oid, None, None, ["1", False]),
        ACTOR,
        Update(RELATION.oid, ["1", None], None, ["2", "b"]),
        Told(True, 100, TOLD_BY, b"nonsense, as anybody can say it"),
        Delete(RELATION.oid, ["2", None], None),
        Truncate((RELATION.oid,), True, True),
        COMMIT,
    )
    assert (opened.origin, commit, opened.count) == ("elsewhere", COMMIT, 5)
    who = Actor("zhang", "clerk", "psql", "10.0.0.7")
    assert [found[1:] for found in await said(opened)] == [
        (["insert", 0, None, None, ["1", "a"]], None),
        (["update", 0, ["1"], None, ["1", False]], None),  # its key did not change: it is in the new row
        (["update", 0, ["1"], None, ["2", "b"]], who),
        (["delete", 0, ["2"], None, None], who),
        (["truncate", [0], True, True], who),
    ]
    assert (opened.tally.added, opened.tally.emptied) == ({RELATION.oid: 0}, {RELATION.oid})


async def test_a_table_altered_within_a_transaction_has_two_descriptions() -> None:
    wider = Relation(*RELATION[:4], (*RELATION.columns, Column("c", False, 25, -1)))
    insert, wide = Insert(RELATION.oid, ["1", "a"]), Insert(RELATION.oid, ["2", "b", "c"])
    opened, _ = assembled(RELATION, BEGIN, insert, RELATION, insert, wider, wide, COMMIT)
    assert [(names, change[1]) for names, change, _ in await said(opened)] == [
        ('编号 a"b', 0),
        ('编号 a"b', 0),
        ('编号 a"b c', 1),
    ]


@pytest.mark.parametrize(
    "messages",
    [
        (BEGIN, BEGIN),
        (COMMIT,),
        (RELATION, Insert(RELATION.oid, ["1", "a"])),
        (BEGIN, Insert(RELATION.oid, ["1", "a"])),
    ],
)
def test_what_cannot_come_is_refused(messages: tuple[Message, ...]) -> None:
    assembler = Assembler()
    *before, last = messages
    for message in before:
        assembler.feed(encode_message(message))
    with pytest.raises(Malformed):
        assembler.feed(encode_message(last))


def test_a_row_that_does_not_fit_its_table_is_found_out_when_it_is_read() -> None:
    decoder = Decoder()
    assert decoder.take(encode_message(RELATION)) is None
    with pytest.raises(Malformed, match="1 values for 2 columns"):
        decoder.take(encode_message(Update(RELATION.oid, None, None, ["1"])))


def test_what_is_too_much_for_an_entry_is_spooled_in_order() -> None:
    rows = [Insert(RELATION.oid, [str(n), "x" * 1_000]) for n in range(100)]
    opened, _ = assembled(RELATION, BEGIN, *rows, COMMIT)
    assert opened.spool is not None
    with opened.begin_spool() as spool:
        spool.seek(0)
        assert spool.read() == joined([RELATION, *rows])
    assert (opened.count, opened.size) == (100, len(joined([RELATION, *rows])))


async def test_what_was_recorded_in_format_1_can_be_read() -> None:
    """As it was written until format 2; logs have it for ever."""
    data = (
        b'{"changes":[["update",0,["1"],null,["1","\xe5\xbc\xa0\xe4\xb8\x89"]],["truncate",[0],false,false]],'
        b'"commit":"0/64","count":2,"end":"0/6C","format":1,"generation":"7/s_1/0/7","origin":null,"relations":[{'
        b'"columns":["\xe7\xbc\x96\xe5\x8f\xb7","a\\"b"],"identity":"d","key":[0],"oid":16385,'
        b'"schema":"\xe6\x88\xb7\xe7\xb1\x8d","table":"\xe5\xb1\x85\xe6\xb0\x91","types":"20:-1 25:-1"}],"xid":7}'
    )
    transaction = transaction_of(data)
    assert (transaction.lsn, transaction.end, transaction.xid, transaction.count) == (100, 108, 7, 2)
    assert [(*relations, change) async for relations, change, _ in changes_of(transaction, None)] == [
        (RELATION, ["update", 0, ["1"], None, ["1", "张三"]]),
        (RELATION, ["truncate", [0], False, False]),
    ]


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
