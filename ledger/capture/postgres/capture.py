"""Captures databases of one PostgreSQL server: a first copy, then every transaction, sealed at consistent points."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Final

from ledger.capture.base import Captured, Sealed, Subject
from ledger.capture.postgres import catalog
from ledger.capture.postgres.base import Replication, Session, Slot, Source
from ledger.capture.postgres.catalog import Found, Publications
from ledger.capture.postgres.events import SEALED, Seal, Sequence_, Table, encode_seal
from ledger.capture.postgres.pgoutput import format_lsn
from ledger.capture.postgres.schema import read_schema, record_schema
from ledger.capture.postgres.settings import Settings
from ledger.capture.postgres.slots import Lost, check_slot, slot_problems
from ledger.capture.postgres.snapshot import copy_tables, digest_tables, gone, lock_tables, record_body, unchanged
from ledger.capture.postgres.state import Progress, newest_seal, newest_seals, read_progress
from ledger.capture.postgres.stream import Stream
from ledger.core.event import event_time_us, format_time
from ledger.errors import CaptureFailed
from ledger.tasks import Report, run_bounded

STEADY_TRIES: Final = 10
"""How often definitions may change while a consistent point is looked for, before that is said."""
STILL_S: Final = 1.0
RECONNECT_S: Final = 120.0


@dataclass(slots=True)
class _Sealing:
    """What the databases of one asset share: the newest seal of each, and one of them sealed at a time."""

    seals: dict[str, int] = field(default_factory=dict)
    known: bool = False
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class PostgresCapture:
    """Implements `Capture` for the databases of one server."""

    def __init__(self, subject: Subject, source: Source) -> None:
        """Raises InvalidRequest: an option of the asset makes no sense."""
        self._settings = Settings.of(subject, source)
        sealing = _Sealing()
        self._databases = [
            DatabaseCapture(subject, source, name, self._settings, sealing) for name in self._settings.databases
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

    def __init__(self, subject: Subject, source: Source, name: str, settings: Settings, sealing: _Sealing) -> None:
        self._subject = subject
        self._source = source
        self._settings = settings
        self._sealing = sealing
        self._known: Progress | None = None
        self._stream: Stream | None = None
        self.name = name
        digest = hashlib.sha256(f"{subject.source}\0{name}".encode()).hexdigest()[:16]
        self._base = settings.slot or f"jinshi_{digest}"
        if settings.publication is None:
            self._publications = Publications(f"jinshi_{digest}", f"jinshi_{digest}_keyed")
        else:
            self._publications = Publications(settings.publication, "", ours=False)

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
                captured = await self._seal(session, stream)
            if not captured.repeated:
                sealed(captured)

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[tuple[Session, Replication]]:
        async with self._source.session(self.name) as session, self._source.replication(self.name) as replication:
            yield session, replication

    async def _once(self, session: Session, replication: Replication, report: Report | None) -> Captured:
        await catalog.check_server(session, self._source.where)
        if not self._sealing.known:
            self._sealing.seals.update(await newest_seals(self._subject.view, self._subject.source))
            self._sealing.known = True
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
        await replication.start(self._known.slot, self._known.lsn, self._publications.names)
        async with self._stream.resting():
            then = await self._seal(session, self._stream)
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
        name = f"{self._base}_{number}"
        system, timeline = await replication.identify()
        found, _ = await self._publish(session)
        await catalog.drop_slot(session, name)  # a first copy that was interrupted has left it
        slot = await replication.create_slot(name, temporary=False)
        try:
            known = await self._copy_all(slot, system, timeline, report)
        except BaseException:  # also when it is cancelled
            with suppress(CaptureFailed):  # it would keep the server's log for nobody
                await catalog.drop_slot(session, name)
            raise
        captured = await self._append_seal(known, slot.lsn, await catalog.read_sequences(session), found.problems)
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
            reading = read_schema(self._source, seeing, self.name, self._publication_names(), slot.snapshot)
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

    def _publication_names(self) -> tuple[str, ...]:
        return self._publications.names if self._publications.ours else ()

    async def _publish(self, session: Session) -> tuple[Found, set[int]]:
        """What can be captured, and the tables (oid) whose changes are published only from now on."""
        found = await catalog.read_tables(session)
        if self._publications.ours:
            return found, await catalog.publish(session, self._publications, found.tables)
        return await catalog.check_publication(session, self._publications.inserts, found), set()

    # -- consistent points --

    async def _seal(self, session: Session, stream: Stream) -> Captured:
        """Record everything up to now, and seal it. Raises as `Capture.once`."""
        since_us = self._now_us() - event_time_us(stream.known.digested)
        due = since_us >= self._settings.digest_every_s * 1_000_000
        for _ in range(STEADY_TRIES):
            steady = await self._steady(session, stream)
            if due:
                captured = await self._seal_with_digests(session, stream, steady)
            else:
                captured = await self._seal_at(session, stream, steady, await catalog.current_lsn(session))
            if captured is not None:
                return captured
        raise CaptureFailed(
            f"{self._source.where}: definitions in database {self.name!r} change faster than they can be read",
            hint="run it again when it is quiet",
        )

    async def _steady(self, session: Session, stream: Stream) -> _Steady:
        """Definitions as they are now, recorded; tables that changed in a way no transaction tells, copied again."""
        known = stream.known
        fingerprint = await catalog.read_fingerprint(session)
        found, added = await self._publish(session)
        again = [one for one in found.tables if one.oid in added or self._changed(known, one)]
        if again:
            await self._copy_again(session, stream, again)
        for table in found.tables:  # a new name, or another key, changes no row
            if table.oid in known.tables:  # or it was dropped since it was listed
                known.tables[table.oid] = replace(known.tables[table.oid], table=table)
        for oid in known.tables.keys() - {one.oid for one in found.tables}:
            del known.tables[oid]
        if fingerprint != known.fingerprint:
            schema = await read_schema(self._source, session, self.name, self._publication_names())
            index = await record_schema(self._subject, self.name, known.generation, schema)
            known.changed = known.changed or index != known.schema
            known.schema, known.fingerprint = index, fingerprint
        return _Steady(fingerprint, (*found.problems, *await slot_problems(session, known)))

    def _changed(self, known: Progress, table: Table) -> bool:
        """Whether its rows cannot be told from what was captured of it."""
        before = known.tables.get(table.oid)
        if before is None:
            return True
        old = before.table
        if old.shape != table.shape or old.identity != table.identity or old.key != table.key:
            return True
        # Rewritten, and its columns touched: ALTER TABLE … USING. Only rewritten: VACUUM FULL, CLUSTER, TRUNCATE.
        (old_file, _, old_columns), (file, _, columns) = old.stored.partition(":"), table.stored.partition(":")
        return old_file != file and old_columns != columns

    async def _copy_again(self, session: Session, stream: Stream, tables: Sequence[Table]) -> None:
        known = stream.known
        async with self._snapshot() as slot, self._source.session(self.name, slot.snapshot) as seeing:
            seen = {one.oid: one for one in (await catalog.read_tables(seeing)).tables}
            wanted = [seen[one.oid] for one in tables if one.oid in seen]
            await lock_tables(seeing, wanted)
            if not await unchanged(session, wanted):
                raise gone(self._source.where, tables[0])
            copied = await copy_tables(
                self._subject,
                self._source,
                self.name,
                wanted,
                generation=known.generation,
                lsn=slot.lsn,
                snapshot=slot.snapshot,
            )
        for index, one in copied.values():
            known.copied(index, one)
        await self._stream_to(session, stream, slot.lsn)

    @asynccontextmanager
    async def _snapshot(self) -> AsyncIterator[Slot]:
        """A point of the log that is going on, with a snapshot of what was committed before it."""
        async with self._source.replication(self.name) as other:
            slot = await other.create_slot(f"{self._base}_seeing", temporary=True)
            try:
                yield slot
            finally:
                with suppress(CaptureFailed):
                    await other.drop_slot(slot.name)  # the next one has the same name

    async def _seal_at(self, session: Session, stream: Stream, steady: _Steady, lsn: int) -> Captured | None:
        """None: definitions have changed before that point."""
        if await catalog.read_fingerprint(session) != steady.fingerprint:
            return None
        sequences = await catalog.read_sequences(session)
        await self._stream_to(session, stream, lsn)
        known = stream.known
        if not known.changed and sequences == known.sequences:
            counts = {"databases": 1, "tables": len(known.tables), "transactions": 0}
            return Captured(known.sealed, counts, steady.problems, repeated=True)
        return await self._append_seal(known, lsn, sequences, steady.problems)

    async def _seal_with_digests(self, session: Session, stream: Stream, steady: _Steady) -> Captured | None:
        known = stream.known
        async with self._snapshot() as slot, self._source.session(self.name, slot.snapshot) as seeing:
            tables = [one.table for one in known.tables.values()]
            await lock_tables(seeing, tables)
            if await catalog.read_fingerprint(session) != steady.fingerprint:
                return None
            sequences = await catalog.read_sequences(session)
            digests = await digest_tables(self._source, self.name, tables, snapshot=slot.snapshot)
        await self._stream_to(session, stream, slot.lsn)
        differing = [
            one.table
            for oid, one in known.tables.items()
            if one.table.identity != "none" and one.rows != digests[oid].rows
        ]
        known.digested = self._now()
        for oid, digest in digests.items():
            known.tables[oid] = replace(known.tables[oid], digest=digest.hex)
        problems = steady.problems
        if differing:
            # Somebody else has used the slot, or rows were written past the log. It must not stay unnoticed.
            names = ", ".join(one.label for one in differing[:5])
            problems = (*problems, f"rows of {names} are not what the transactions captured come to: copied again")
            await self._copy_again(session, stream, differing)
            lsn = max(one.copied_lsn for one in known.tables.values())
            captured = await self._seal_at(session, stream, replace(steady, problems=problems), lsn)
        else:
            captured = await self._append_seal(known, slot.lsn, sequences, problems)
        return captured

    async def _stream_to(self, session: Session, stream: Stream, lsn: int) -> None:
        while not await stream.run(lsn, idle_s=STILL_S):
            # Nothing has come, and the server has not read so far: it waits for the end of a page, or of a record.
            await catalog.nudge(session)

    async def _append_seal(
        self, known: Progress, lsn: int, sequences: tuple[Sequence_, ...], problems: Iterable[str]
    ) -> Captured:
        async with self._sealing.lock:
            seals = {name: index for name, index in self._sealing.seals.items() if name != self.name}
            seal = Seal(
                self.name,
                known.generation,
                known.slot,
                known.system,
                known.timeline,
                lsn,
                known.schema,
                known.fingerprint,
                known.digested,
                tuple(known.tables[oid] for oid in sorted(known.tables)),
                sequences,
                seals,
            )
            body = encode_seal(seal)
            id_ = f"{seal.generation}/{format_lsn(lsn)}/seal/{hashlib.sha256(body).hexdigest()[:16]}"
            # Commit point: with this entry everything before it counts.
            index = await record_body(self._subject, self.name, SEALED, id_, body)
            self._sealing.seals[self.name] = index
        counts = {
            "databases": 1,
            "tables": len(known.tables),
            "rows": sum(one.rows for one in known.tables.values()),
            "transactions": known.transactions,
        }
        known.sealed, known.sequences, known.changed, known.transactions = index, sequences, False, 0
        return Captured(index, counts, tuple(problems))

    def _now(self) -> str:
        return format_time(self._now_us())

    def _now_us(self) -> int:
        return round(self._subject.clock.now().timestamp() * 1_000_000)


@dataclass(frozen=True, slots=True)
class _Steady:
    """Definitions that were recorded, by their fingerprint, and what cannot be captured."""

    fingerprint: str
    problems: tuple[str, ...]
