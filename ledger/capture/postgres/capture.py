"""Captures databases of one PostgreSQL server: a first copy, then every transaction, sealed at consistent points."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Final

from ledger.capture.base import Captured, Sealed, Subject
from ledger.capture.postgres import catalog
from ledger.capture.postgres.base import Replication, Session, Slot, Source
from ledger.capture.postgres.events import Table
from ledger.capture.postgres.pgoutput import format_lsn
from ledger.capture.postgres.schema import read_schema, record_schema
from ledger.capture.postgres.sealing import Points, Seals
from ledger.capture.postgres.settings import Settings
from ledger.capture.postgres.slots import Lost, check_slot
from ledger.capture.postgres.snapshot import copy_tables, gone, lock_tables, unchanged
from ledger.capture.postgres.state import Progress, newest_seal, newest_seals, read_progress
from ledger.capture.postgres.stream import Stream
from ledger.core.event import format_moment
from ledger.errors import CaptureFailed
from ledger.tasks import Report, run_bounded

RECONNECT_S: Final = 120.0


class PostgresCapture:
    """Implements `Capture` for the databases of one server."""

    def __init__(self, subject: Subject, source: Source) -> None:
        """Raises InvalidRequest: an option of the asset makes no sense."""
        self._settings = Settings.of(subject, source)
        seals = Seals()
        self._databases = [
            DatabaseCapture(subject, source, name, self._settings, seals) for name in self._settings.databases
        ]

    async def once(self, report: Report | None = None) -> Captured:
        """As `Capture.once`: each database at a consistent point of its own."""
        return _together([await one.once(report) for one in self._databases])

    async def watch(self, sealed: Sealed) -> None:
        """As `Capture.watch`. A server that restarts is connected to again."""
        await run_bounded((one.watch(sealed) for one in self._databases), parallel=len(self._databases) + 1)


def _together(parts: Sequence[Captured]) -> Captured:
    counts: dict[str, int] = {}
    for part in parts:
        for kind, count in part.counts.items():
            counts[kind] = counts.get(kind, 0) + count
    return Captured(
        max(part.index for part in parts),
        counts,
        tuple(problem for part in parts for problem in part.problems),
        all(part.repeated for part in parts),
    )


class DatabaseCapture:
    """One database, one slot."""

    def __init__(self, subject: Subject, source: Source, name: str, settings: Settings, seals: Seals) -> None:
        self._subject = subject
        self._source = source
        self._settings = settings
        self._seals = seals
        self._known: Progress | None = None
        self._stream: Stream | None = None
        self.name = name
        self._points = Points(subject, source, name, settings, seals)

    async def once(self, report: Report | None = None) -> Captured:
        """As `Capture.once`."""
        async with self._connected() as (session, replication):
            return await self._once(session, replication, report)

    async def watch(self, sealed: Sealed) -> None:
        """As `Capture.watch`."""
        failing_since: float | None = None
        loop = asyncio.get_running_loop()
        while True:
            try:
                async with self._connected() as (session, replication):
                    captured = await self._once(session, replication, None)
                    failing_since = None
                    if not captured.repeated:
                        sealed(captured)
                    await self._follow(session, replication, sealed)
            except Lost:
                raise
            except CaptureFailed:
                failing_since = failing_since or loop.time()
                if loop.time() - failing_since > RECONNECT_S:
                    raise
                await asyncio.sleep(1.0)

    async def _follow(self, session: Session, replication: Replication, sealed: Sealed) -> None:
        loop = asyncio.get_running_loop()
        stream = self._stream
        assert stream is not None, "once() has opened it"
        while True:
            await stream.run(until=loop.time() + self._settings.every_s)
            async with stream.resting():
                captured = await self._points.seal(session, stream)
            if not captured.repeated:
                sealed(captured)

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[tuple[Session, Replication]]:
        async with self._source.session(self.name) as session, self._source.replication(self.name) as replication:
            yield session, replication

    async def _once(self, session: Session, replication: Replication, report: Report | None) -> Captured:
        await catalog.check_server(session, self._source.where)
        if not self._seals.known:
            self._seals.seals.update(await newest_seals(self._subject.view, self._subject.source))
            self._seals.known = True
        await self._recall()
        first: Captured | None = None
        problems: tuple[str, ...] = ()
        try:
            if self._known is not None:
                await check_slot(session, replication, self._source.where, self.name, self._known)
        except Lost as lost:
            if not self._settings.copy_when_lost:
                raise
            problems = (f"{lost.what}: what happened from there to the new first copy is not recorded one by one",)
            assert self._known is not None
            await catalog.drop_slot(session, self._known.slot)  # it keeps the server's log for nobody any more
            first = await self._first_copy(session, replication, report)
        if self._known is None:
            first = await self._first_copy(session, replication, report)
        assert self._known is not None
        self._stream = Stream(self._subject, self.name, replication, self._known)
        await replication.start(
            self._known.slot, self._known.lsn, self._points.publications.names, told=self._settings.record_roles
        )
        async with self._stream.resting():
            then = await self._points.seal(session, self._stream)
        if first is not None and then.repeated:
            then = first
        return replace(then, problems=(*problems, *then.problems))

    async def _recall(self) -> None:
        """How far the log says that this database is, unless that is known already."""
        view, source = self._subject.view, self._subject.source
        newest = await newest_seal(view, source, self.name)
        if newest is not None and (self._known is None or newest[0] > self._known.sealed):
            self._known = await read_progress(view, source, self.name)  # another process may have gone on with it

    # -- the first copy --

    async def _first_copy(self, session: Session, replication: Replication, report: Report | None) -> Captured:
        old = self._known
        number = 1 + (int(old.slot.rpartition("_")[2]) if old is not None else 0)
        name = f"{self._points.base}_{number}"
        system, timeline = await replication.identify()
        found, _ = await self._points.publish(session)
        await catalog.drop_slot(session, name)  # a first copy that was interrupted has left it
        slot = await replication.create_slot(name, temporary=False)
        try:
            known = await self._copy_all(slot, system, timeline, report)
        except BaseException:  # also when it is cancelled
            with suppress(CaptureFailed):  # it would keep the server's log for nobody
                await catalog.drop_slot(session, name)
            raise
        captured = await self._points.append_seal(
            known, slot.lsn, await catalog.read_sequences(session), found.problems
        )
        self._known = known
        return captured

    async def _copy_all(self, slot: Slot, system: str, timeline: int, report: Report | None) -> Progress:
        generation = f"{system}/{slot.name}/{format_lsn(slot.lsn)}"
        async with self._source.session(self.name, slot.snapshot) as seeing:
            tables = (await catalog.read_tables(seeing)).tables
            await lock_tables(seeing, tables)
            if not await self._still(tables):
                raise gone(self._source.where, tables[0])
            fingerprint = await catalog.read_fingerprint(seeing)
            reading = read_schema(self._source, seeing, self.name, self._points.publication_names, slot.snapshot)
            schema = asyncio.create_task(reading, name="read schema")
            try:
                copied = await copy_tables(
                    self._subject,
                    self._source,
                    self.name,
                    tables,
                    generation=generation,
                    lsn=slot.lsn,
                    snapshot=slot.snapshot,
                    report=report,
                )
                index = await record_schema(self._subject, self.name, generation, await schema)
            finally:
                schema.cancel()
                await asyncio.gather(schema, return_exceptions=True)
        known = Progress(generation, slot.name, system, timeline, slot.lsn, index, fingerprint, self._now(), {}, -1)
        for at, one in copied.values():
            known.copied(at, one)
            known.tables[one.table.oid] = replace(known.tables[one.table.oid], digest=one.digest)
        return known

    async def _still(self, tables: Sequence[Table]) -> bool:
        """Whether tables are now, when they have been locked, what a snapshot showed."""
        async with self._source.session(self.name) as session:
            return await unchanged(session, tables)

    def _now(self) -> str:
        return format_moment(self._subject.clock.now())
