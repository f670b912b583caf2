"""The driver of a protected PostgreSQL server, over psycopg: the only module here that imports it.

asyncpg, which the ledger's own store uses, does not speak the replication protocol, without which no slot can export
the snapshot that a first copy begins from (docs/adr/0020).
"""

from __future__ import annotations

import asyncio
import struct
import threading
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg import pq
from psycopg.conninfo import make_conninfo

from ledger.capture.postgres.base import Copier, Replication, ServerProgress, Session, Slot
from ledger.capture.postgres.catalog import literal, quoted
from ledger.capture.postgres.pgoutput import format_lsn, parse_lsn
from ledger.capture.postgres.tools import CONNECT_TIMEOUT_S, PipedCopy, Tools, first_line
from ledger.content.chunker import Readable
from ledger.errors import CaptureFailed, DiskFull, RestoreFailed
from ledger.store.place import PostgresPlace

LOCK_TIMEOUT_S: Final = 60
RECEIVED_SIZE_MAX: Final = 2**20

# What a value looks like as text may not depend on how a server is set up: it is compared with what was captured.
_SETTINGS: Final = {
    "DateStyle": "ISO,MDY",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "bytea_output": "hex",
    "extra_float_digits": "3",
    "lc_monetary": "C",
    "search_path": "pg_catalog",
    "xmloption": "content",
    "statement_timeout": "0",
    "lock_timeout": f"{LOCK_TIMEOUT_S}s",
    "idle_in_transaction_session_timeout": "0",
    "synchronize_seqscans": "off",
}
_XLOG: Final = struct.Struct(">cQQq")
_KEEPALIVE: Final = struct.Struct(">cQqB")
_STATUS: Final = struct.Struct(">cQQQqB")


class PsycopgSource:
    """A server at a place. `tools`: the directory of `pg_dump` and `pg_amcheck`; None: those on the path."""

    def __init__(self, place: PostgresPlace, *, tools: Path | None = None) -> None:
        self._place = place
        self._tools = Tools(place, self.where, tools)

    @property
    def where(self) -> str:
        """For people; without the password."""
        return self._place.where.partition("#")[0]

    @property
    def database(self) -> str:
        """The database that its place names."""
        return self._place.database

    @asynccontextmanager
    async def session(self, database: str, snapshot: str = "") -> AsyncIterator[Session]:
        """As `Source.session`."""
        with self._errors(database):
            connection = await psycopg.AsyncConnection.connect(self._conninfo(database), autocommit=True)
        session = _Session(self, database, connection)
        try:
            if snapshot:
                await session.script(_reading(snapshot))
            yield session
        finally:
            await connection.close()

    @asynccontextmanager
    async def copier(self, database: str, snapshot: str = "") -> AsyncIterator[Copier]:
        """As `Source.copier`."""
        with self._errors(database):
            connection = await asyncio.to_thread(self._connect, database)
        copier = _Copier(self, database, connection, snapshot)
        try:
            if snapshot:
                with self._errors(database):
                    await asyncio.to_thread(connection.execute, _reading(snapshot).encode())
            yield copier
        finally:
            await asyncio.shield(asyncio.to_thread(copier.close))

    @asynccontextmanager
    async def replication(self, database: str) -> AsyncIterator[Replication]:
        """As `Source.replication`."""
        with self._errors(database):
            conninfo = self._conninfo(database, replication="database")
            connection = await psycopg.AsyncConnection.connect(conninfo, autocommit=True)
        try:
            yield _Replication(self, database, connection)
        finally:
            await connection.close()

    async def dump_schema(self, database: str, section: str, snapshot: str = "") -> str | None:
        """As `Source.dump_schema`. Raises CaptureFailed: pg_dump is older than the server, or may not read."""
        options = ["--schema-only", "--no-subscriptions", "--no-tablespaces", f"--section={section}", "--encoding=UTF8"]
        options.append(f"--lock-wait-timeout={LOCK_TIMEOUT_S}s")
        if snapshot:
            options.append(f"--snapshot={snapshot}")
        found = await self._tools.run("pg_dump", *options, database=database)
        if found is None:
            return None
        code, output, said = found
        if code:
            raise CaptureFailed(
                f"{self.where}: pg_dump cannot read the schema of {database!r} ({first_line(said)})",
                hint="it has to be as new as the server, and its user has to own or may read every table",
            )
        return output

    async def check(self, database: str) -> bool | None:
        """As `Source.check`."""
        found = await self._tools.run("pg_amcheck", "--install-missing", "--jobs=2", database=database)
        if found is None:
            return None
        code, output, said = found
        if code:
            raise RestoreFailed(
                f"{self.where}: pg_amcheck finds {database!r} damaged ({first_line(output or said)})",
                hint="check the target's disk, then restore again",
            )
        return True

    def _connect(self, database: str) -> psycopg.Connection[Any]:
        return psycopg.connect(self._conninfo(database), autocommit=True)

    def _conninfo(self, database: str, **more: str) -> str:
        place = self._place
        return make_conninfo(
            **{**place.libpq, "dbname": database},
            password=place.password or None,
            connect_timeout=CONNECT_TIMEOUT_S,
            application_name="jinshi",
            client_encoding="UTF8",
            keepalives_idle=30,
            options=" ".join(f"-c {name}={value}" for name, value in _SETTINGS.items()),
            **more,
        )

    @contextmanager
    def _errors(self, database: str) -> Iterator[None]:
        """Translate what psycopg reports. Raises CaptureFailed, DiskFull."""
        try:
            yield
        except psycopg.errors.DiskFull as error:
            raise DiskFull(f"{self.where}: no space is left on the server", hint="free space there first") from error
        except psycopg.errors.ObjectInUse as error:
            raise CaptureFailed(
                f"{self.where}: {first_line(str(error))}", hint="another process captures it; stop one of them"
            ) from error
        except psycopg.errors.InsufficientPrivilege as error:
            raise CaptureFailed(
                f"{self.where}: {first_line(str(error))}",
                hint="docs/capture-postgresql.md lists what the user that captures has to be granted",
            ) from error
        except (psycopg.Error, OSError) as error:
            said = first_line(str(error)) or type(error).__name__
            raise CaptureFailed(
                f"{self.where}: database {database!r} cannot be used ({said})",
                hint="check the server and the network, then run it again",
            ) from error


class _Session:
    def __init__(self, source: PsycopgSource, database: str, connection: psycopg.AsyncConnection[Any]) -> None:
        self._source = source
        self._database = database
        self._connection = connection

    async def fetch(self, sql: str, *arguments: object) -> list[tuple[Any, ...]]:
        with self._source._errors(self._database):
            cursor = await self._connection.execute(sql.encode(), arguments or None)
            return await cursor.fetchall() if cursor.description else []

    async def script(self, sql: str) -> None:
        with self._source._errors(self._database):
            await self._connection.execute(sql.encode())

    async def copy_in(self, sql: str, blocks: AsyncIterator[bytes]) -> None:
        with self._source._errors(self._database):
            async with self._connection.cursor() as cursor, cursor.copy(sql.encode()) as copy:
                async for block in blocks:
                    await copy.write(block)


class _Copier:
    """Reads small tables with libpq itself, a row at a time, and large ones through psql."""

    def __init__(
        self, source: PsycopgSource, database: str, connection: psycopg.Connection[Any], snapshot: str
    ) -> None:
        self._source = source
        self._database = database
        self._connection = connection
        self._snapshot = snapshot
        self._using = threading.Lock()
        self._closing = False
        self._piped: PipedCopy | None = None

    @contextmanager
    def copy(self, sql: str, *, large: bool) -> Iterator[Readable]:
        tools = self._source._tools
        if not large or tools.find("psql") is None:
            with closing(self._rows(sql)) as rows:
                yield _Joined(rows)
            return
        before = (_reading(self._snapshot),) if self._snapshot else ()
        with self._using, tools.copying(*before, sql, database=self._database, settings=_SETTINGS) as piped:
            self._piped = piped
            if self._closing:
                piped.kill()
            yield piped
            self._piped = None

    def _rows(self, sql: str) -> Generator[memoryview]:
        with self._using, self._source._errors(self._database):
            connection = self._connection.pgconn
            _expect(connection.exec_(sql.encode()), pq.ExecStatus.COPY_OUT)
            while not self._closing:
                size, data = connection.get_copy_data(0)
                if size <= 0:
                    break
                yield data
            if self._closing:
                raise CaptureFailed(f"{self._source.where}: the copy was given up")
            while (result := connection.get_result()) is not None:
                _expect(result, pq.ExecStatus.COMMAND_OK)

    def close(self) -> None:
        """From another thread, too: waits for what is being read."""
        self._closing = True
        if (piped := self._piped) is not None:
            piped.kill()
        self._using.acquire(timeout=CONNECT_TIMEOUT_S)  # or it was left in the middle, by an error of who reads
        self._connection.close()


class _Joined:
    """Rows as a stream of bytes."""

    def __init__(self, rows: Iterator[memoryview]) -> None:
        self._rows = rows
        self._left = b""

    def readinto(self, buffer: memoryview, /) -> int:
        """As many rows as fit."""
        filled, size = self._put(buffer, 0, self._left), len(buffer)
        for row in self._rows if filled < size else ():
            end = filled + len(row)
            if end >= size:
                return filled + self._put(buffer, filled, bytes(row))
            buffer[filled:end] = row
            filled = end
        return filled

    def _put(self, buffer: memoryview, at: int, data: bytes) -> int:
        count = min(len(buffer) - at, len(data))
        buffer[at : at + count] = data[:count]
        self._left = data[count:]
        return count


class _Replication:
    def __init__(self, source: PsycopgSource, database: str, connection: psycopg.AsyncConnection[Any]) -> None:
        self._source = source
        self._database = database
        self._connection = connection

    async def create_slot(self, name: str, *, temporary: bool) -> Slot:
        kind = "TEMPORARY " if temporary else ""
        with self._source._errors(self._database):
            cursor = await self._connection.execute(
                f"CREATE_REPLICATION_SLOT {quoted(name)} {kind}LOGICAL pgoutput EXPORT_SNAPSHOT".encode()
            )
            (row,) = await cursor.fetchall()
        return Slot(name, parse_lsn(row[1]), row[2])

    async def drop_slot(self, name: str) -> None:
        with self._source._errors(self._database):
            await self._connection.execute(f"DROP_REPLICATION_SLOT {quoted(name)}".encode())

    async def identify(self) -> tuple[str, int]:
        with self._source._errors(self._database):
            cursor = await self._connection.execute(b"IDENTIFY_SYSTEM")
            (row,) = await cursor.fetchall()
        return str(row[0]), int(row[1])

    async def start(self, slot: str, lsn: int, publications: tuple[str, ...], *, told: bool = False) -> None:
        names = literal(",".join(map(quoted, publications)))
        more = ", messages 'true'" if told else ""
        command = (
            f"START_REPLICATION SLOT {quoted(slot)} LOGICAL {format_lsn(lsn)} "
            f"(proto_version '1', publication_names {names}{more})"
        )
        with self._source._errors(self._database):
            result = await asyncio.to_thread(self._connection.pgconn.exec_, command.encode())
            _expect(result, pq.ExecStatus.COPY_BOTH)
            self._connection.pgconn.nonblocking = 1

    async def receive(self, timeout_s: float) -> list[bytes | ServerProgress]:
        with self._source._errors(self._database):
            received = self._take()
            if received:
                return received
            if not await self._readable(timeout_s):
                return []
            self._connection.pgconn.consume_input()
            return self._take()

    def _take(self) -> list[bytes | ServerProgress]:
        connection = self._connection.pgconn
        received: list[bytes | ServerProgress] = []
        size_left = RECEIVED_SIZE_MAX
        while size_left > 0:
            size, data = connection.get_copy_data(1)
            if size == 0:
                break
            if size < 0:
                result = connection.get_result()
                said = result.error_message.decode(errors="replace") if result is not None else "it has ended"
                raise psycopg.OperationalError(said or "the stream has ended")
            size_left -= size
            if data[0] == 0x77:  # w: a piece of the log; its header is no use to us
                received.append(bytes(data[_XLOG.size :]))
            elif data[0] == 0x6B:  # k: keepalive
                received.append(ServerProgress(_KEEPALIVE.unpack(data)[1]))
        return received

    async def _readable(self, timeout_s: float) -> bool:
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()
        number = self._connection.pgconn.socket
        loop.add_reader(number, _settle, ready)
        try:
            async with asyncio.timeout(timeout_s):
                await ready
        except TimeoutError:
            return False
        finally:
            loop.remove_reader(number)
        return True

    async def confirm(self, lsn: int, *, ask: bool = False) -> None:
        # The clock in it is for the server's statistics only.
        status = _STATUS.pack(b"r", lsn, lsn, lsn, 0, ask)
        with self._source._errors(self._database):
            connection = self._connection.pgconn
            connection.put_copy_data(status)
            connection.flush()  # what does not fit now goes with what is received next


def _expect(result: pq.abc.PGresult, status: pq.ExecStatus) -> None:
    """Raises as psycopg does where it reads results itself."""
    if result.status != status:
        state = (result.error_field(pq.DiagnosticField.SQLSTATE) or b"08006").decode()
        raise psycopg.errors.lookup(state)(result.error_message.decode(errors="replace"))


def _settle(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


def _reading(snapshot: str) -> str:
    """One transaction that sees what a snapshot shows."""
    return f"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT '{snapshot}'"
