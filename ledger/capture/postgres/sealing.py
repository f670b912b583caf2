"""The consistent points of one captured database: definitions that stand still, all rows up to there, and a seal."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Final

from ledger.capture.base import Captured, Subject
from ledger.capture.postgres import catalog
from ledger.capture.postgres.base import Session, Slot, Source
from ledger.capture.postgres.catalog import Found, Publications
from ledger.capture.postgres.events import SEALED, Seal, Sequence_, Table, encode_seal
from ledger.capture.postgres.pgoutput import format_lsn
from ledger.capture.postgres.roles import forget_actors, tell_actors
from ledger.capture.postgres.schema import read_schema, record_schema
from ledger.capture.postgres.settings import Settings
from ledger.capture.postgres.slots import slot_problems
from ledger.capture.postgres.snapshot import copy_tables, digest_tables, gone, lock_tables, record_body, unchanged
from ledger.capture.postgres.state import Progress
from ledger.capture.postgres.stream import Stream
from ledger.core.event import event_time_us, format_time, posix_us
from ledger.errors import CaptureFailed

STEADY_TRIES: Final = 10
"""How often definitions may change while a consistent point is looked for, before that is said."""
STILL_S: Final = 1.0


@dataclass(slots=True)
class Seals:
    """What the databases of one asset share: the newest seal of each, and one of them sealed at a time."""

    seals: dict[str, int] = field(default_factory=dict)
    known: bool = False
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Points:
    """Of one database. `base`: what its slots' names begin with; `publications`: what is received."""

    def __init__(self, subject: Subject, source: Source, name: str, settings: Settings, seals: Seals) -> None:
        self._subject = subject
        self._source = source
        self._name = name
        self._settings = settings
        self._seals = seals
        self.base, self.publications = names_of(subject.source, name, settings)

    @property
    def publication_names(self) -> tuple[str, ...]:
        """Those of our own."""
        return self.publications.names if self.publications.ours else ()

    async def publish(self, session: Session) -> tuple[Found, set[int]]:
        """What can be captured, and the tables (oid) whose changes are published only from now on."""
        found, added = await catalog.read_tables(session), set[int]()
        if self.publications.ours:
            added = await catalog.publish(session, self.publications, found.tables)
        else:
            found = await catalog.check_publication(session, self.publications.inserts, found)
        if self._settings.record_roles:
            found = replace(found, problems=(*found.problems, *await tell_actors(session)))
        else:
            await forget_actors(session)
        return found, added

    async def seal(self, session: Session, stream: Stream) -> Captured:
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
            f"{self._source.where}: definitions in database {self._name!r} change faster than they can be read",
            hint="run it again when it is quiet",
        )

    async def _steady(self, session: Session, stream: Stream) -> _Steady:
        """Definitions as they are now, recorded; tables that changed in a way no transaction tells, copied again."""
        known = stream.known
        fingerprint = await catalog.read_fingerprint(session)
        found, added = await self.publish(session)
        again = [one for one in found.tables if one.oid in added or self._changed(known, one)]
        if again:
            await self._copy_again(session, stream, again)
        for table in found.tables:  # a new name, or another key, changes no row
            if table.oid in known.tables:  # or it was dropped since it was listed
                known.tables[table.oid] = replace(known.tables[table.oid], table=table)
        for oid in known.tables.keys() - {one.oid for one in found.tables}:
            del known.tables[oid]
        if fingerprint != known.fingerprint:
            schema = await read_schema(self._source, session, self._name, self.publication_names)
            index = await record_schema(self._subject, self._name, known.generation, schema)
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
        async with self._snapshot() as slot, self._source.session(self._name, slot.snapshot) as seeing:
            seen = {one.oid: one for one in (await catalog.read_tables(seeing)).tables}
            wanted = [seen[one.oid] for one in tables if one.oid in seen]
            await lock_tables(seeing, wanted)
            if not await unchanged(session, wanted):
                raise gone(self._source.where, tables[0])
            copied = await copy_tables(
                self._subject,
                self._source,
                self._name,
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
        async with self._source.replication(self._name) as other:
            slot = await other.create_slot(f"{self.base}_seeing", temporary=True)
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
        return await self.append_seal(known, lsn, sequences, steady.problems)

    async def _seal_with_digests(self, session: Session, stream: Stream, steady: _Steady) -> Captured | None:
        known = stream.known
        async with self._snapshot() as slot, self._source.session(self._name, slot.snapshot) as seeing:
            tables = [one.table for one in known.tables.values()]
            await lock_tables(seeing, tables)
            if await catalog.read_fingerprint(session) != steady.fingerprint:
                return None
            sequences = await catalog.read_sequences(session)
            digests = await digest_tables(self._source, self._name, tables, snapshot=slot.snapshot)
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
            captured = await self.append_seal(known, slot.lsn, sequences, problems)
        return captured

    async def _stream_to(self, session: Session, stream: Stream, lsn: int) -> None:
        while not await stream.run(lsn, idle_s=STILL_S):
            # Nothing has come, and the server has not read so far: it waits for the end of a page, or of a record.
            await catalog.nudge(session)

    async def append_seal(
        self, known: Progress, lsn: int, sequences: tuple[Sequence_, ...], problems: Iterable[str]
    ) -> Captured:
        """Seal what is recorded up to `lsn`. Raises as the sequencer and the content store."""
        async with self._seals.lock:
            seals = {name: index for name, index in self._seals.seals.items() if name != self._name}
            seal = Seal(
                self._name,
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
            index = await record_body(self._subject, self._name, SEALED, id_, body)
            self._seals.seals[self._name] = index
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
        return posix_us(self._subject.clock.now())


def names_of(source: str, database: str, settings: Settings) -> tuple[str, Publications]:
    """What the slots of a database are called, but for their number, and the publications; by its asset's source."""
    digest = hashlib.sha256(f"{source}\0{database}".encode()).hexdigest()[:16]
    base = settings.slot or f"jinshi_{digest}"
    if settings.publication is None:
        return base, Publications(f"jinshi_{digest}", f"jinshi_{digest}_keyed")
    return base, Publications(settings.publication, "", ours=False)


@dataclass(frozen=True, slots=True)
class _Steady:
    """Definitions that were recorded, by their fingerprint, and what cannot be captured."""

    fingerprint: str
    problems: tuple[str, ...]
