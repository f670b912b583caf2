"""Databases captured in tests: a ledger in a directory, a capture of a real server, and what both come to."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from cli.system import SystemClock
from ledger.capture.base import Subject
from ledger.capture.leased import LeasedAppender
from ledger.capture.postgres import PostgresCapture
from ledger.capture.postgres.source import PsycopgSource
from ledger.content import ChunkIndex, ContentStore, Leases
from ledger.core.canonical import JsonValue
from ledger.core.entry import decode_entry
from ledger.errors import InvalidRequest
from ledger.protocols import Clock
from ledger.sealing import Opened
from ledger.sequencer import Sequencer
from ledger.store.base import EntryStore, Selection
from ledger.store.directory import DirectoryStore
from ledger.store.place import PostgresPlace
from ledger.store.sqlite import SqliteEntryStore
from tests.support.cli import Jinshi, ledger_in
from tests.support.content import KEYS
from tests.support.ledgers import ACTOR
from tests.support.postgres import USER, PostgresServer, private_postgres

ASSET = "urn:jinshi:asset:db"
PAGE = 512
SLOT_TIMEOUT_S = 30.0
_NAMES = """
SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'm') AND n.nspname !~ '^pg_|^information_schema$' ORDER BY 1
"""
_CONTENT = "SELECT count(*) || ':' || coalesce(md5(string_agg(t::text, '|' ORDER BY t::text)), '') FROM {} t"


class PlainView:
    """A `View` of a ledger that seals nothing; `size` None: as it is at each question."""

    def __init__(self, entries: EntryStore, content: ContentStore, size: int | None = None) -> None:
        self._entries = entries
        self._content = content
        self._size = size

    @property
    def size(self) -> int:
        return 2**62 if self._size is None else self._size

    async def entries(
        self, source: str, *, start: int = 0, subject: str | None = None, event_type: str | None = None
    ) -> AsyncIterator[Opened]:
        while True:
            what = Selection(start=start, stop=self.size, source=source, subject=subject, type=event_type)
            found = await self._entries.select(what, limit=PAGE)
            for one in found:
                yield Opened(one.index, decode_entry(one.entry))
            if len(found) < PAGE:
                return
            start = found[-1].index + 1

    async def newest(self, source: str, event_type: str) -> Opened | None:
        what = Selection(stop=self.size, source=source, type=event_type, newest_first=True)
        for one in await self._entries.select(what, limit=1):
            return Opened(one.index, decode_entry(one.entry))
        return None

    async def content(self) -> ContentStore:
        return self._content


@dataclass
class Recording:
    """An open ledger in a directory."""

    root: Path
    store: SqliteEntryStore
    sequencer: Sequencer
    content: ContentStore

    def view(self, size: int | None = None) -> PlainView:
        return PlainView(self.store, self.content, size)

    def subject(self, *, clock: Clock | None = None, **options: JsonValue) -> Subject:
        return Subject(
            "db",
            ASSET,
            options,
            self.view(),
            LeasedAppender(self.sequencer, self.content),
            self.content,
            clock or SystemClock(),
            ACTOR,
            self.root,
        )

    def capture(self, source: PsycopgSource, *, clock: Clock | None = None, **options: JsonValue) -> PostgresCapture:
        return PostgresCapture(self.subject(clock=clock, **options), source)

    async def types(self) -> list[str]:
        """The types of all entries, in order."""
        return [one.entry.event.type async for one in self.view().entries(ASSET)]


@asynccontextmanager
async def recording(root: Path) -> AsyncIterator[Recording]:
    """Open, or make, the ledger there."""
    root.mkdir(exist_ok=True, parents=True)
    store = await SqliteEntryStore.open(root / "entries.sqlite", create=not (root / "entries.sqlite").exists())
    (root / "content").mkdir(exist_ok=True)
    objects = DirectoryStore(root / "content")
    index = ChunkIndex(root / "index.sqlite")
    content = ContentStore(objects, KEYS, index, Leases(objects))
    try:
        async with Sequencer(store, SystemClock()) as sequencer:
            yield Recording(root, store, sequencer, content)
    finally:
        index.close()
        await store.close()


def source_of(server: PostgresServer, database: str = "postgres") -> PsycopgSource:
    """The driver for a database of a test's server, with the tools of its own release."""
    return PsycopgSource(PostgresPlace("127.0.0.1", server.port, database, USER), tools=server.binaries)


def sql(server: PostgresServer, *statements: str, database: str = "postgres") -> list[tuple[object, ...]]:
    """Run statements, each by itself; the rows of the last one."""
    with connect(server, database) as connection:
        for statement in statements:
            cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def drop_slot(server: PostgresServer, slot: object) -> None:
    """Drop a replication slot once the server has let go of whoever read from it, which takes it a moment."""
    deadline = time.monotonic() + SLOT_TIMEOUT_S
    while sql(server, f"SELECT 1 FROM pg_replication_slots WHERE slot_name = '{slot}' AND active"):
        assert time.monotonic() < deadline, f"slot {slot} is still read from"
        time.sleep(0.05)
    sql(server, f"SELECT pg_drop_replication_slot('{slot}')")


def connect(server: PostgresServer, database: str = "postgres") -> psycopg.Connection[tuple[object, ...]]:
    """A connection of the test's own."""
    return psycopg.connect(
        host="127.0.0.1", port=server.port, dbname=database, user=USER, autocommit=True, connect_timeout=10
    )


def contents(server: PostgresServer, database: str) -> Mapping[str, str]:
    """What each table holds, in any order, as a digest of its rows in text; the test's own way to count."""
    found: dict[str, str] = {}
    with connect(server, database) as connection:
        for (name,) in connection.execute(_NAMES).fetchall():
            found[str(name)] = str(connection.execute(_CONTENT.format(name).encode()).fetchall()[0][0])
    return found


def schema_of(server: PostgresServer, database: str) -> str:
    """What pg_dump says of how it is made, but for our own publications and what changes with each run."""
    said = tool(server, "pg_dump", "--schema-only", database).stdout
    return "\n".join(
        line
        for line in said.splitlines()
        if "jinshi_" not in line and not line.startswith(("--", "\\")) and line.strip()
    )


def pgbench(server: PostgresServer, *options: str, database: str = "postgres") -> subprocess.CompletedProcess[str]:
    """Run the server's own pgbench."""
    return tool(server, "pgbench", *options, database)


def tool(server: PostgresServer, program: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a tool of the server's own release against it."""
    where = ["-h", "127.0.0.1", "-p", str(server.port), "-U", USER]
    return subprocess.run([server.binaries / program, *where, *options], capture_output=True, check=True, text=True)


# -- at work, and killed ----------------------------------------------------------------------------------------------


@contextmanager
def working(server: PostgresServer) -> Iterator[None]:
    """pgbench at work, started again whenever its server dies under it."""
    done = threading.Event()

    def work() -> None:
        while not done.is_set():
            command = [server.binaries / "pgbench", "-n", "-c", "2", "-T", "600", "-h", "127.0.0.1"]
            run = subprocess.Popen(
                [*command, "-p", str(server.port), "-U", USER, "postgres"],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            while run.poll() is None and not done.wait(0.1):
                pass
            run.kill()
            run.wait()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextmanager
def held(server: PostgresServer) -> Iterator[None]:
    """Nobody may write to pgbench's tables."""
    with connect(server) as holding:
        holding.execute(
            b"BEGIN; LOCK TABLE pgbench_accounts, pgbench_branches, pgbench_history, pgbench_tellers IN SHARE MODE"
        )
        yield


def start_worker(module: str, ledger: Path, server: PostgresServer) -> subprocess.Popen[bytes]:
    """A process that captures a server into a ledger until it is killed."""
    command = [sys.executable, "-m", module, ledger, str(server.port), server.binaries]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


async def begun(root: Path) -> None:
    """Return when there is a ledger: what is killed before that leaves none to go on with."""
    while True:
        try:
            store = await SqliteEntryStore.open(root / "entries.sqlite")
        except InvalidRequest:
            await asyncio.sleep(0.1)
        else:
            await store.close()
            return


async def newest_in(root: Path, event_type: str) -> Opened | None:
    """The last entry of that type in a ledger that another process writes."""
    store = await SqliteEntryStore.open(root / "entries.sqlite")
    content = ContentStore(DirectoryStore(root / "content"), KEYS, ChunkIndex())
    try:
        return await PlainView(store, content).newest(ASSET, event_type)
    finally:
        content.close()
        await store.close()


# -- by the command ---------------------------------------------------------------------------------------------------


@contextmanager
def registered_database(directory: Path, rows: int) -> Iterator[tuple[PostgresServer, Jinshi, str]]:
    """A server whose database `population` is the asset 人口库 of a ledger, and the server's address."""
    with private_postgres(wal_level="logical") as server:
        address = f"postgresql://{USER}@127.0.0.1:{server.port}"
        sql(server, "CREATE DATABASE population")
        some = f"INSERT INTO resident SELECT n, '居民 ' || n FROM generate_series(1, {rows}) n"  # noqa: S608 (a number)
        sql(server, "CREATE TABLE resident (id int PRIMARY KEY, name text)", some, database="population")
        path = f"{server.binaries}:{os.environ['PATH']}"  # its own pg_dump: the machine's may be older
        jinshi = ledger_in(directory).with_environment(POPULATION_DSN=f"{address}/population", PATH=path)
        secret = ("--secret", "dsn=env:POPULATION_DSN")
        jinshi("asset", "add", "人口库", "--kind", "postgres", "--grade", "1", "--owner", "数据局", *secret)
        yield server, jinshi, address
