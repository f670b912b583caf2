"""Rebuilds a database as it was at a seal: made under a name of its own, compared, and renamed at the end."""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Final

from ledger.capture.base import Rebuild, Restored, Restoring, View
from ledger.capture.opened import read_data
from ledger.capture.postgres import roles
from ledger.capture.postgres.base import Session, Source
from ledger.capture.postgres.catalog import copied_as, literal, quoted, table_name
from ledger.capture.postgres.events import (
    COPIED,
    SCHEMA,
    Counted,
    Schema,
    Seal,
    copied_of,
    parse_schema,
)
from ledger.capture.postgres.messages import Decoder, whole_messages
from ledger.capture.postgres.reading import changes_of, messages_of
from ledger.capture.postgres.state import read_body
from ledger.capture.postgres.transactions import TRANSACTION, transaction_of
from ledger.content import ContentReader
from ledger.errors import CaptureFailed, InvalidRequest, Malformed, RestoreFailed, Tampered
from ledger.sealing import Opened
from ledger.tasks import Report, run_bounded
from restore.rebuild.postgres_compare import check_restored
from restore.rebuild.postgres_fold import Fold, index_name
from restore.rebuild.postgres_folding import Folding
from restore.rebuild.postgres_point import choose_point

PARALLEL: Final = 2
LISTED_MAX: Final = 5
PREFIX: Final = "jinshi_restoring_"

_PIECE: Final = re.compile(r"^--\n-- (?=Name: )", re.MULTILINE)
_BUILT_APART: Final = re.compile(r"Name: [^\n]*; Type: (?:INDEX|CONSTRAINT);")
_NEWER: Final = re.compile(r"^SET transaction_timeout = .*\n", re.MULTILINE)
"""What pg_dump 17 writes, and servers before 17 do not know."""
_REFERENCE: Final = re.compile(r"Name: [^\n]*; Type: FK CONSTRAINT;")
_LOADING: Final = "SET synchronous_commit = off; SET maintenance_work_mem = '256MB'; SET row_security = off"


Phase = Callable[[str], AbstractContextManager[None]]
"""What goes around a phase of a restore, which it is told: of those that are within another, the inner one counts."""


def _unwatched(_name: str) -> AbstractContextManager[None]:
    return nullcontext()


def rebuild_postgres(open_place: Callable[[str], Source], phase: Phase = _unwatched) -> Rebuild:
    """The `Rebuild` of databases. `open_place` gives the driver of the server and database that a place names.

    `phase` is for who wants to know where its time goes.

    Its options: `database`, which of the asset's (needed where there are several); `lsn`, at the last consistent point
    that has nothing committed at or after that position.
    """

    async def rebuild(view: View, what: Restoring, report: Report | None = None) -> Restored:
        index, seal = await choose_point(view, what)
        target = open_place(what.place)
        try:
            return await _Rebuilding(view, what, target, index, seal, report, phase).run()
        except CaptureFailed as error:
            raise RestoreFailed(error.what, hint="nothing was put in place; mend it, then restore again") from error

    return rebuild


@dataclass(slots=True)
class _Rebuilding:
    view: View
    what: Restoring
    target: Source
    index: int
    seal: Seal
    report: Report | None
    phase: Phase
    differences: list[str] = field(default_factory=list)
    reader: ContentReader | None = None

    async def run(self) -> Restored:
        tables = self._chosen_tables()
        await self.what.check_kept([self.seal.schema, *(one.copied for one in tables)])
        await self._check_changes(tables)
        async with self.target.session(self._maintenance) as server:
            replaced = await self._check_target(server)
            counts = {"tables": len(tables), "rows": sum(one.rows for one in tables)}
            if self.what.dry_run:
                return Restored(self.index, counts, {}, tuple(self.differences))
            schema = await read_body(await self._entry(self.seal.schema, SCHEMA), self.view, parse_schema)
            await server.script(f"DROP DATABASE IF EXISTS {quoted(self._staging)}")  # of a restore that was killed
            try:
                with self.phase("create"):
                    await self._create(server, schema)
                counts |= await self._fill(schema, tables)
                with self.phase("compare, amcheck"):
                    checks = await check_restored(self.target, self._staging, self.seal, tables, self._copy)
                # Commit point: a restore that is killed before this line has put nothing in place.
                with self.phase("put in place"):
                    await self._put_in_place(server, schema, replaced)
            except BaseException:  # also when it is cancelled
                await server.script(f"DROP DATABASE IF EXISTS {quoted(self._staging)} WITH (FORCE)")
                raise
            if replaced:
                with self.phase("drop the old one"):
                    await server.script(f"DROP DATABASE {quoted(self._old)} WITH (FORCE)")
        return Restored(self.index, counts, checks, tuple(self.differences))

    # -- where it goes --

    @property
    def _maintenance(self) -> str:
        """A database to work from: neither can one be renamed from within, nor is this one ever restored into."""
        return "template1" if self.target.database == "postgres" else "postgres"

    @property
    def _staging(self) -> str:
        return PREFIX + hashlib.sha256(self.target.database.encode()).hexdigest()[:16]

    @property
    def _old(self) -> str:
        return f"{self._staging}_old"

    async def _check_target(self, server: Session) -> bool:
        """Whether there is a database of that name, which will be replaced. Raises InvalidRequest: it is not empty."""
        name = self.target.database
        if not await server.fetch("SELECT 1 FROM pg_database WHERE datname = %s", name):
            return False
        async with self.target.session(name) as session:
            there = [
                label
                for (label,) in await session.fetch(
                    "SELECT format('%%I.%%I', n.nspname, c.relname) FROM pg_class c "
                    "JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid >= 16384 AND c.relkind <> 't' "
                    "AND n.nspname !~ '^pg_' AND c.relkind <> 'i' ORDER BY 1 LIMIT %s",
                    LISTED_MAX + 1,
                )
            ]
        if there and not self.what.replace:
            more = " and more" if len(there) > LISTED_MAX else ""
            raise InvalidRequest(
                f"{self.target.where} is not empty: it has {', '.join(there[:LISTED_MAX])}{more}",
                hint="name a database that is empty or not there, or have this one replaced",
            )
        return True

    async def _create(self, server: Session, schema: Schema) -> None:
        there = {name for (name,) in await server.fetch("SELECT rolname::text FROM pg_roles")}
        for role in schema.roles:
            if role not in there:
                await server.script(f"CREATE ROLE {quoted(role)} NOLOGIN")
                self.differences.append(f"role {role} was made without a login and a password: give it what it needs")
        create = f"CREATE DATABASE {quoted(self._staging)} TEMPLATE template0 ENCODING 'UTF8'"
        locale = " ".join(
            f"{name} {value if name == 'LOCALE_PROVIDER' else literal(value)}" for name, value in schema.locale.items()
        )
        try:
            await server.script(f"{create} {locale}")
        except CaptureFailed:
            await server.script(create)
            self.differences.append(f"the server lacks the locale {locale}: the database sorts as the server does")

    async def _put_in_place(self, server: Session, schema: Schema, replaced: bool) -> None:
        name = quoted(self.target.database)
        if replaced:
            await server.script(f"DROP DATABASE IF EXISTS {quoted(self._old)}")
            await server.script(
                f"BEGIN; ALTER DATABASE {name} RENAME TO {quoted(self._old)}; "
                f"ALTER DATABASE {quoted(self._staging)} RENAME TO {name}; COMMIT"
            )
        else:
            await server.script(f"ALTER DATABASE {quoted(self._staging)} RENAME TO {name}")
        for setting in schema.settings:
            option, _, value = setting.partition("=")
            await server.script(f"ALTER DATABASE {name} SET {quoted(option)} = {literal(value)}")

    # -- what goes there --

    def _chosen_tables(self) -> list[Counted]:
        """Raises InvalidRequest: one that was named is not there."""
        by_name = {one.table.label: one for one in self.seal.tables}
        for name in self.what.only:
            if name not in by_name:
                raise InvalidRequest(f"there is no table {name!r} in {self.seal.database!r} at that point")
        chosen = [by_name[name] for name in self.what.only] or list(self.seal.tables)
        for one in chosen:
            if one.table.identity == "none":
                self.differences.append(
                    f"table {one.table.label} was not captured as a whole (it had no primary key, or was not "
                    "published): what was updated or deleted after its copy is not as it was"
                )
        return chosen

    async def _entry(self, index: int, event_type: str) -> Opened:
        entries = self.view.entries(self.what.source, start=index, subject=self.seal.database, event_type=event_type)
        async for one in entries:
            if one.index == index:
                return one
            break
        raise Tampered(f"entry {index} of {self.what.source} is not what entry {self.index} says it is")

    async def _fill(self, schema: Schema, tables: Sequence[Counted]) -> dict[str, int]:
        async with AsyncExitStack() as stack:
            sessions = [await stack.enter_async_context(self._session()) for _ in range(PARALLEL)]
            session = sessions[0]
            with self.phase("create"):
                await session.script(_NEWER.sub("", schema.pre))
                await session.script(_LOADING)
            with self.phase("read changes"):
                changes = await self._rows(sessions, tables)
            for one in tables:
                await session.script(f"DROP INDEX IF EXISTS {quoted(one.table.schema)}.{quoted(index_name(one.table))}")
            with self.phase("indexes, constraints"):
                await self._finish(sessions, schema)
        return {"changes": changes}

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[Session]:
        async with self.target.session(self._staging) as session:
            await session.script(_LOADING)
            yield session

    async def _load(self, sessions: Sequence[Session], tables: Sequence[Counted], folds: Mapping[int, Fold]) -> None:
        """The copies, with what was changed since, the largest first."""
        free, done = list(sessions), 0

        async def load(one: Counted) -> None:
            nonlocal done
            session = free.pop()
            try:
                blocks = folds[one.table.oid].merged(await self._copy(one))
                # Emptied in the same transaction, a table is filled from its beginning to its end, in order.
                await session.script(f"BEGIN; TRUNCATE ONLY {table_name(one.table)}")
                await session.copy_in(f"COPY {copied_as(one.table)} FROM STDIN (FREEZE)", blocks)
                await session.script("COMMIT")
            finally:
                free.append(session)
            done += 1
            if self.report is not None:
                self.report(done, len(tables))

        largest_first = sorted(tables, key=lambda one: -one.rows)
        await run_bounded((load(one) for one in largest_first), parallel=len(sessions))

    async def _copy(self, one: Counted) -> AsyncIterator[bytes]:
        """The rows of a table as they were copied. Raises Tampered."""
        copied = read_data(await self._entry(one.copied, COPIED), copied_of)
        if (copied.table.oid, copied.lsn, copied.generation) != (one.table.oid, one.copied_lsn, self.seal.generation):
            what = f"entry {one.copied} of {self.what.source}"
            raise Tampered(f"{what} is not the copy that entry {self.index} says it is")
        return (await self._reading()).read(copied.manifest)

    async def _check_changes(self, tables: Sequence[Counted]) -> None:
        """Raises ContentReleased: that of a transaction since the copies was."""
        start = min((one.copied for one in tables), default=self.index)
        if not any(first < self.index and first + count > start for first, count in self.what.released.runs()):
            return
        database = self.seal.database
        async for one in self.view.entries(self.what.source, start=start, subject=database, event_type=TRANSACTION):
            if one.index >= self.index:
                break
            if one.index in self.what.released:
                await self.what.check_kept([one.index])

    async def _rows(self, sessions: Sequence[Session], tables: Sequence[Counted]) -> int:
        """The copies, and what was committed since; how many changes there were."""

        async def load(folds: Mapping[int, Fold]) -> None:
            with self.phase("load copies"):
                await self._load(sessions, tables, folds)

        folding = Folding(sessions[0], tables, load)
        start = min((one.copied for one in tables), default=self.index)
        what = f"the transactions of {self.what.source}"
        try:
            async for one in self.view.entries(
                self.what.source, start=start, subject=self.seal.database, event_type=TRANSACTION
            ):
                if one.index >= self.index:
                    break
                what = f"entry {one.index}"
                await self._take(folding, one)
            await folding.flush()
        except Malformed as error:
            raise Tampered(f"{what} cannot be applied ({error.what})") from error
        return folding.changes

    async def _take(self, folding: Folding, one: Opened) -> None:
        transaction = read_data(one, transaction_of)
        if transaction.generation != self.seal.generation:
            return
        manifest, lsn = transaction.manifest, transaction.lsn
        if transaction.format == 1:
            reader = None if manifest is None else await self._reading()
            length = manifest.length if manifest is not None else len(one.entry.event.data or b"")
            async for relations, change, _ in changes_of(transaction, reader):
                await folding.take(change, relations, lsn)
                await folding.taken(1, length // max(1, transaction.count))
        elif manifest is None:
            await folding.take_messages(whole_messages(transaction.messages), None, lsn)
            await folding.taken(transaction.count, len(transaction.messages))
        else:
            decoder = Decoder()
            async for messages in messages_of(manifest, await self._reading()):
                await folding.take_messages(messages, decoder, lsn)
                await folding.taken(len(messages), sum(map(len, messages)))

    async def _reading(self) -> ContentReader:
        if self.reader is None:
            self.reader = await (await self.view.content()).reading()
        return self.reader

    async def _finish(self, sessions: Sequence[Session], schema: Schema) -> None:
        """Indexes and constraints, two at a time; then what rests on them."""
        preamble, *pieces = _PIECE.split(_NEWER.sub("", schema.post))
        for session in sessions:
            await session.script(f"{preamble}\n;{_LOADING}")
        free = list(sessions)

        async def build(piece: str) -> None:
            session = free.pop()
            try:
                await session.script(f"-- {piece}")
            finally:
                free.append(session)

        apart = [piece for piece in pieces if _BUILT_APART.match(piece)]
        await run_bounded(map(build, apart), parallel=len(sessions))
        session = sessions[0]
        for piece in pieces:
            if not _BUILT_APART.match(piece) and not (self.what.only and _REFERENCE.match(piece)):
                await session.script(f"-- {piece}")
        if self.what.only and any(map(_REFERENCE.match, pieces)):
            self.differences.append("foreign keys were left out, as not every table was restored")
        for name in schema.publications:
            await session.script(f"DROP PUBLICATION IF EXISTS {quoted(name)}")
        await session.script(roles.REMOVE)
        for one in self.seal.sequences:
            name = literal(f"{quoted(one.schema)}.{quoted(one.name)}")
            await session.script(f"SELECT setval({name}, {int(one.value)}, {one.called})")
        for (name,) in await session.fetch(
            "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c "
            "JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'm' ORDER BY c.oid"
        ):
            await session.script(f"REFRESH MATERIALIZED VIEW {name}")
