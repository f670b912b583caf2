"""What was recorded before comes back for ever: a log as it was written when transactions were in format 1."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

from ledger.capture.base import Restoring
from ledger.capture.postgres.copytext import RowsDigest
from ledger.capture.postgres.events import (
    COPIED,
    SEALED,
    copied_event,
    copied_of,
    encode_reference,
    encode_seal,
    parse_seal,
)
from ledger.capture.postgres.pgoutput import Relation, format_lsn
from ledger.capture.postgres.reading import changes_of
from ledger.capture.postgres.rows import row_history
from ledger.capture.postgres.transactions import TRANSACTION, transaction_of
from ledger.core.canonical import canonicalize, parse_json
from ledger.core.event import Event
from restore.rebuild.postgres import rebuild_postgres
from tests.support.captured_postgres import ASSET, Recording, contents, recording, source_of, sql
from tests.support.ledgers import ACTOR
from tests.support.postgres import private_postgres
from tests.support.postgres_parsers import change_line, relation_line, relation_to_json


async def test_a_log_of_format_1_is_restored_and_told(tmp_path: Path) -> None:
    with private_postgres(wal_level="logical", fsync="off") as server:
        sql(server, "CREATE TABLE t (id int PRIMARY KEY, name text, big text)")
        sql(server, "CREATE TABLE kept (id int PRIMARY KEY)")
        sql(server, "INSERT INTO t SELECT n, 'a', repeat(md5(n::text), 100) FROM generate_series(1, 500) n")
        sql(server, "INSERT INTO kept SELECT generate_series(1, 500)")
        async with recording(tmp_path / "new") as new, recording(tmp_path / "old") as old:
            capture = new.capture(source_of(server))
            await capture.once()
            sql(server, "UPDATE t SET name = 'b' WHERE id = 7", "DELETE FROM t WHERE id = 8")
            sql(server, "UPDATE t SET name = repeat('c', 300) WHERE id > 100", "UPDATE t SET id = 1008 WHERE id = 9")
            await capture.once()
            await _as_in_format_1(new, old)
            types = [one.entry.event.data or b"" async for one in old.view().entries(ASSET, event_type=TRANSACTION)]
            assert all(parse_json(data)["format"] == 1 for data in types)  # type: ignore[index, call-overload]
            assert any(b"manifest" in data for data in types)

            rebuild = rebuild_postgres(lambda place: source_of(server, place))
            for ledger, name in ((old, "from_old"), (new, "from_new")):
                done = await rebuild(ledger.view(), Restoring(ASSET, name))
                assert done.checks["digests"] == 1, "that of the table nobody has touched"
                assert contents(server, name) == contents(server, "postgres")
            told = [await _told(ledger) for ledger in (old, new)]
            assert told[0] == told[1]
            assert [op for op, *_ in told[0]] == ["copied", "update"]


async def _told(ledger: Recording) -> list[tuple[str, object, object]]:
    history = row_history(ledger.view(), ASSET, "postgres", "public.t", ["9"])
    return [(step.op, step.old, step.new) async for step in history]


async def _as_in_format_1(new: Recording, old: Recording) -> None:
    """The same entries at the same indexes, as they were written before."""
    digests: dict[int, str] = {}
    appender = old.subject().appender
    async for one in new.view().entries(ASSET):
        event = one.entry.event
        if event.type == COPIED:
            event = await _copied(new, old, event, digests)
        elif event.type == TRANSACTION:
            event = await _transaction(new, old, event)
        elif event.type == SEALED:
            seal = parse_seal(event.data or b"")
            tables = [replace(table, digest=table.digest and digests[table.table.oid]) for table in seal.tables]
            event = replace(event, data=encode_seal(replace(seal, tables=tuple(tables))))
        async with old.content.writing():  # an entry that refers to content is appended under a lease
            (place,) = await appender.append([event], actor=ACTOR)
        assert place.index == one.index


async def _copied(new: Recording, old: Recording, event: Event, digests: dict[int, str]) -> Event:
    copied = copied_of(event.data or b"")
    reader = await new.content.reading()
    rows = b"".join([block async for block in reader.read(copied.manifest)])
    digest = RowsDigest()
    digest.add_block(rows)
    digests[copied.table.oid] = digest.hex
    async with old.content.writing() as (writer, _):
        content = await writer.add(io.BytesIO(rows))
        await writer.flush()
        before = replace(copied, digest=digest.hex, manifest=content.manifest)
        return copied_event(ASSET, event.subject or "", before, dataref=await writer.dataref(content))


async def _transaction(new: Recording, old: Recording, event: Event) -> Event:
    transaction = transaction_of(event.data or b"")
    relations: list[Relation] = []
    changes: list[Any] = []
    reader = await new.content.reading()
    async for known, change, _ in changes_of(transaction, reader):
        relations = list(known)
        changes.append(change)
    data: dict[str, Any] = {
        "format": 1,
        "generation": transaction.generation,
        "commit": format_lsn(transaction.lsn),
        "end": format_lsn(transaction.end),
        "xid": transaction.xid,
        "origin": transaction.origin,
        "count": transaction.count,
    }
    if transaction.manifest is None:
        data |= {"relations": [relation_to_json(one) for one in relations], "changes": changes}
        return replace(event, data=canonicalize(data))
    lines = b"".join([*map(relation_line, relations), *map(change_line, changes)])
    async with old.content.writing() as (writer, _):
        content = await writer.add(io.BytesIO(lines))
        await writer.flush()
        data["manifest"] = parse_json(encode_reference(content.manifest))["manifest"]  # type: ignore[index, call-overload]
        return replace(event, data=canonicalize(data), dataref=await writer.dataref(content))
