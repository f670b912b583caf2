"""Reads whole tables at one point of the server's log: into the content store, or only to compare."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Collection, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Final

from ledger.capture.base import Subject
from ledger.capture.postgres.base import Copier, Session, Source
from ledger.capture.postgres.catalog import copy_out, read_tables, table_name
from ledger.capture.postgres.copytext import ORDERED, OrderedDigest, RowsDigest
from ledger.capture.postgres.events import INLINE_SIZE_MAX, Copied, Table, copied_event, encode_reference
from ledger.content import Content, ContentWriter
from ledger.content.chunker import Readable
from ledger.core.event import Event
from ledger.errors import CaptureFailed
from ledger.tasks import Report, run_bounded

PARALLEL: Final = 2
TABLES_FLUSHED: Final = 256
"""So many tables are made durable, and appended, at a time."""
LOCKED_AT_ONCE: Final = 100
LARGE_SIZE_MIN: Final = 4 * 2**20


class _Counted:
    """The rows of a table on their way, counted: COPY's text has a line feed after each, and nowhere else."""

    def __init__(self, rows: Readable) -> None:
        self._rows = rows
        self.count = 0

    def readinto(self, buffer: memoryview, /) -> int:
        """As the rows."""
        read = self._rows.readinto(buffer) or 0
        self.count += bytes(buffer[:read]).count(b"\n")
        return read


async def lock_tables(session: Session, tables: Sequence[Table]) -> None:
    """Keep the definitions of these as they are until the session ends: what a snapshot shows would not survive some
    changes of them. Rows can be written all the while, as during pg_dump."""
    for first in range(0, len(tables), LOCKED_AT_ONCE):
        names = ", ".join("ONLY " + table_name(one) for one in tables[first : first + LOCKED_AT_ONCE])
        await session.script(f"LOCK TABLE {names} IN ACCESS SHARE MODE")


async def unchanged(session: Session, tables: Sequence[Table]) -> bool:
    """Whether these tables are what they were when they were read from the catalog, after they have been locked."""
    now = {one.oid: one for one in (await read_tables(session)).tables}
    return all(now.get(one.oid) == one for one in tables)


async def copy_tables(
    subject: Subject,
    source: Source,
    database: str,
    tables: Sequence[Table],
    *,
    generation: str,
    lsn: int,
    snapshot: str,
    report: Report | None = None,
) -> dict[int, tuple[int, Copied]]:
    """Record these tables as the snapshot shows them; by their oid, the index of each entry.

    Raises:
        CaptureFailed: a table cannot be read.
        Unavailable, Fenced: as the sequencer and the content store.
    """
    found: dict[int, tuple[int, Copied]] = {}
    large = await large_tables(source, database)
    async with AsyncExitStack() as stack:
        writer, lease = await stack.enter_async_context(subject.content.writing())
        copiers = [await stack.enter_async_context(source.copier(database, snapshot)) for _ in range(PARALLEL)]
        for first in range(0, len(tables), TABLES_FLUSHED):
            part = tables[first : first + TABLES_FLUSHED]
            contents: dict[int, tuple[Table, Content, int]] = {}
            free = list(copiers)
            jobs = (_copy_one(writer, free, one, one.oid in large, contents) for one in part)
            await run_bounded(jobs, parallel=PARALLEL)
            await writer.flush()
            for oid, (table, content, rows) in sorted(contents.items()):
                digest = ORDERED + content.manifest.digest.hex()
                copied = Copied(generation, lsn, table, rows, digest, content.manifest)
                event = copied_event(subject.source, database, copied, dataref=await writer.dataref(content))
                lease.check()
                (place,) = await subject.appender.append([event], actor=subject.actor)
                found[oid] = place.index, copied
            if report is not None:
                report(len(found), len(tables))
    return found


async def _copy_one(
    writer: ContentWriter,
    free: list[Copier],
    table: Table,
    large: bool,
    contents: dict[int, tuple[Table, Content, int]],
) -> None:
    copier = free.pop()

    def take() -> tuple[Content, int]:
        with copier.copy(copy_out(table), large=large) as stream:
            rows = _Counted(stream)
            return writer.take(rows), rows.count

    try:
        contents[table.oid] = table, *await asyncio.to_thread(take)
    finally:
        free.append(copier)


async def large_tables(source: Source, database: str) -> set[int]:
    """Those (oid) that are worth a program of their own when they are read. Raises CaptureFailed."""
    async with source.session(database) as session:
        rows = await session.fetch(
            "SELECT oid::bigint FROM pg_class WHERE relkind = 'r' AND pg_table_size(oid) >= %s", LARGE_SIZE_MIN
        )
    return {oid for (oid,) in rows}


async def digest_tables(
    source: Source, database: str, tables: Sequence[Table], *, snapshot: str = "", ordered: Collection[int] = ()
) -> dict[int, RowsDigest | OrderedDigest]:
    """Read every row of these tables, by their oid; `ordered`: those whose order counts. Raises CaptureFailed."""
    found: dict[int, RowsDigest | OrderedDigest] = {}
    large = await large_tables(source, database)

    def read(copier: Copier, table: Table) -> RowsDigest | OrderedDigest:
        digest = OrderedDigest() if table.oid in ordered else RowsDigest()
        with copier.copy(copy_out(table), large=table.oid in large) as stream:
            digest.add_stream(stream)
        return digest

    async with AsyncExitStack() as stack:
        copiers = [await stack.enter_async_context(source.copier(database, snapshot)) for _ in range(PARALLEL)]

        async def one(table: Table) -> None:
            copier = copiers.pop()
            try:
                found[table.oid] = await asyncio.to_thread(read, copier, table)
            finally:
                copiers.append(copier)

        await run_bounded((one(table) for table in tables), parallel=PARALLEL)
    return found


async def record_body(subject: Subject, database: str, kind: str, id_: str, body: bytes) -> int:
    """The index of an entry with that body: its data or, where that is too much, content.

    Raises as the sequencer and the content store.
    """
    event = Event(id=id_, source=subject.source, type=kind, subject=database, data=body)
    if len(body) <= INLINE_SIZE_MAX:
        (place,) = await subject.appender.append([event], actor=subject.actor)
        return place.index
    async with subject.content.writing() as (writer, lease):
        content = await writer.add(io.BytesIO(body))
        await writer.flush()
        event = replace(event, data=encode_reference(content.manifest), dataref=await writer.dataref(content))
        lease.check()
        (place,) = await subject.appender.append([event], actor=subject.actor)
    return place.index


def gone(where: str, table: Table) -> CaptureFailed:
    """A table that changed while it was to be read."""
    return CaptureFailed(
        f"{where}: the definition of table {table.label} changes while it is read", hint="run it again when it is quiet"
    )
