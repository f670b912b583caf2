"""Reads whole tables at one point of the server's log: into the content store, or only to compare."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Final

from ledger.capture.base import Subject
from ledger.capture.postgres.base import Copier, Session, Source
from ledger.capture.postgres.catalog import copy_out, read_tables, table_name
from ledger.capture.postgres.copytext import RowsDigest
from ledger.capture.postgres.events import INLINE_SIZE_MAX, Copied, Table, copied_event, encode_reference
from ledger.content import Content, ContentWriter
from ledger.core.event import Event
from ledger.errors import CaptureFailed
from ledger.tasks import Report, run_bounded

PARALLEL: Final = 2
TABLES_FLUSHED: Final = 256
"""So many tables are made durable, and appended, at a time."""
LOCKED_AT_ONCE: Final = 100


class _Rows(io.RawIOBase):
    """The rows of a table as a stream of bytes, counted and hashed on their way."""

    def __init__(self, rows: Iterator[memoryview]) -> None:
        self.digest = RowsDigest()
        self._rows = rows
        self._left = b""

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # io hands it nothing else
        """As many rows as fit."""
        filled, size = self._put(buffer, 0, self._left), len(buffer)
        read: list[memoryview] = []
        for row in self._rows if filled < size else ():
            read.append(row)
            end = filled + len(row)
            if end >= size:
                filled += self._put(buffer, filled, bytes(row))
                break
            buffer[filled:end] = row
            filled = end
        self.digest.add(read)
        return filled

    def _put(self, buffer: memoryview, at: int, data: bytes) -> int:
        count = min(len(buffer) - at, len(data))
        buffer[at : at + count] = data[:count]
        self._left = data[count:]
        return count


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
    async with AsyncExitStack() as stack:
        writer, lease = await stack.enter_async_context(subject.content.writing())
        copiers = [await stack.enter_async_context(source.copier(database, snapshot)) for _ in range(PARALLEL)]
        for first in range(0, len(tables), TABLES_FLUSHED):
            part = tables[first : first + TABLES_FLUSHED]
            contents: dict[int, tuple[Table, Content, RowsDigest]] = {}
            free = list(copiers)
            jobs = (_copy_one(writer, free, one, contents) for one in part)
            await run_bounded(jobs, parallel=PARALLEL)
            await writer.flush()
            for oid, (table, content, digest) in sorted(contents.items()):
                copied = Copied(generation, lsn, table, digest.rows, digest.hex, content.manifest)
                event = copied_event(subject.source, database, copied, dataref=await writer.dataref(content))
                lease.check()
                (place,) = await subject.appender.append([event], actor=subject.actor)
                found[oid] = place.index, copied
            if report is not None:
                report(len(found), len(tables))
    return found


async def _copy_one(
    writer: ContentWriter, free: list[Copier], table: Table, contents: dict[int, tuple[Table, Content, RowsDigest]]
) -> None:
    copier = free.pop()
    try:
        rows = _Rows(copier.rows(copy_out(table)))
        contents[table.oid] = table, await writer.add(rows), rows.digest
    finally:
        free.append(copier)


async def digest_tables(
    source: Source, database: str, tables: Sequence[Table], *, snapshot: str = ""
) -> dict[int, RowsDigest]:
    """Read every row of these tables, by their oid. Raises CaptureFailed."""
    found: dict[int, RowsDigest] = {}

    def read(copier: Copier, table: Table) -> RowsDigest:
        digest = RowsDigest()
        digest.add(copier.rows(copy_out(table)))
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
