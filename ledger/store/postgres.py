"""The entry store on PostgreSQL 15 to 18, through asyncpg: one connection writes, a small pool reads.

A commit is one transaction for a whole pool of callers: the head row is moved (which locks it, checks the epoch and
the size, and so orders every writer), the entries follow by COPY, and COMMIT makes both durable.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

import asyncpg

from ledger.core.merkle import HASH_SIZE
from ledger.errors import CompareFailed, DiskFull, DuplicateKeys, Fenced, InvalidRequest, StoreUnavailable
from ledger.store.base import Head, Row, Selection, SignedCheckpoint, StoredEntry, StreamId, bounded

if TYPE_CHECKING:
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record]
    Pool: TypeAlias = asyncpg.Pool[asyncpg.Record]
    PoolConnectionProxy: TypeAlias = asyncpg.pool.PoolConnectionProxy[asyncpg.Record]

SCHEMA_VERSION: Final = 1
SERVER_VERSION_MIN: Final = 15
CONNECT_TIMEOUT_S: Final = 10.0
STATEMENT_TIMEOUT_S: Final = 60.0
LOCK_TIMEOUT_S: Final = 10.0
READERS_MAX: Final = 4

_FAILURES: Final = (
    OSError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # how asyncpg may find out that a connection was lost in the middle of something
)

MIGRATIONS: Final[Mapping[int, str]] = {
    1: """
CREATE TABLE entry (
    position bigint PRIMARY KEY,
    data bytea NOT NULL,
    leaf bytea NOT NULL,
    source text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    subject text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    type text COLLATE "C" NOT NULL,
    actor text COLLATE "C" NOT NULL,
    time_us bigint NOT NULL,
    recorded_us bigint NOT NULL
);
-- Entries are hashed, signed and not compressible twice: what is too long for a page is kept beside it as it is.
ALTER TABLE entry ALTER COLUMN data SET STORAGE EXTERNAL;
CREATE UNIQUE INDEX entry_id ON entry (id, source);
CREATE UNIQUE INDEX entry_stream ON entry (subject, source, version);
CREATE TABLE head (
    only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    size bigint NOT NULL, frontier bytea NOT NULL, recorded_us bigint NOT NULL, epoch bigint NOT NULL
);
INSERT INTO head (size, frontier, recorded_us, epoch) VALUES (0, '', 0, 0);
CREATE TABLE checkpoint (
    origin text COLLATE "C" PRIMARY KEY, size bigint NOT NULL, root bytea NOT NULL, note bytea NOT NULL
);
""",
}
"""What brings a schema from the version before to this one; each runs in one transaction with its number."""

COLUMNS: Final = (
    "position",
    "data",
    "leaf",
    "source",
    "id",
    "subject",
    "version",
    "type",
    "actor",
    "time_us",
    "recorded_us",
)
_ROW = "data, leaf, source, id, subject, version, type, actor, time_us, recorded_us"
_FIND_IDS = """
SELECT wanted.source, wanted.id, entry.position, entry.data
FROM unnest($1::text[], $2::text[]) AS wanted (source, id)
JOIN entry ON entry.id = wanted.id COLLATE "C" AND entry.source = wanted.source COLLATE "C"
"""
_STREAM_VERSIONS = """
SELECT wanted.source, wanted.subject, coalesce(last.version, 0)
FROM unnest($1::text[], $2::text[]) AS wanted (source, subject)
LEFT JOIN LATERAL (
    SELECT version FROM entry
    WHERE entry.subject = wanted.subject COLLATE "C" AND entry.source = wanted.source COLLATE "C"
    ORDER BY version DESC LIMIT 1
) AS last ON true
"""


@dataclass(frozen=True, slots=True)
class PostgresPlace:
    """Where a ledger's database is. `schema` lets several ledgers share one database."""

    host: str
    port: int
    database: str
    user: str
    password: str | None = None
    schema: str = "jinshi"
    tls: bool = False

    @property
    def where(self) -> str:
        """For people; without the password."""
        return f"postgresql://{self.user}@{self.host}:{self.port}/{self.database}#{self.schema}"


class PostgresEntryStore:
    """An `EntryStore` in one schema of a PostgreSQL database."""

    def __init__(self, place: PostgresPlace) -> None:
        self._place = place
        self._writer: Connection | None = None
        self._writing = asyncio.Lock()
        self._readers: Pool | None = None
        self._opening = asyncio.Lock()
        self._unsure = False  # a write was cut off: a transaction of ours may still be in flight on the server

    @classmethod
    async def open(cls, place: PostgresPlace, *, create: bool = False) -> PostgresEntryStore:
        """Open the store, or make an empty one when the schema is not there and `create` is set.

        Raises:
            InvalidRequest: there is none, its schema is newer than this jinshi, or the server cannot keep a ledger.
            StoreUnavailable: the server cannot be reached or refuses.
        """
        if not re.fullmatch(r"[a-z_][a-z0-9_]{0,62}", place.schema):
            raise InvalidRequest(f"{place.schema!r} cannot name a schema", hint="use lower-case letters, digits and _")
        store = cls(place)
        try:
            async with store._on_writer() as db:
                await store._check_server(db)
                await store._migrate(db, create)
        except BaseException:
            await store.close()
            raise
        return store

    @property
    def where(self) -> str:
        return self._place.where

    # -- reading --

    async def head(self) -> Head:
        sql = "SELECT size, frontier, recorded_us, epoch FROM head"
        if self._unsure:
            # A commit whose answer was lost may still be running on the server: its row lock is waited for, so that
            # what is read here is how it ended.
            async with self._on_writer() as db:
                row = await db.fetchrow(sql + " FOR SHARE")
            self._unsure = False
        else:
            async with self._on_reader() as db:
                row = await db.fetchrow(sql)
        return _head(row)

    async def find_ids(self, keys: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], StoredEntry]:
        async with self._on_reader() as db:
            rows = await db.fetch(_FIND_IDS, [source for source, _ in keys], [id_ for _, id_ in keys])
        return {(source, id_): StoredEntry(position, data) for source, id_, position, data in rows}

    async def stream_versions(self, streams: Sequence[StreamId]) -> Mapping[StreamId, int]:
        async with self._on_reader() as db:
            rows = await db.fetch(_STREAM_VERSIONS, [one.source for one in streams], [one.subject for one in streams])
        return {StreamId(source, subject): version for source, subject, version in rows}

    async def read(self, start: int, limit: int) -> Sequence[StoredEntry]:
        sql = "SELECT position, data FROM entry WHERE position >= $1 AND position < $2 ORDER BY position"
        async with self._on_reader() as db:
            rows = await db.fetch(sql, bounded(start), bounded(start + limit))
        return [StoredEntry(position, data) for position, data in rows]

    async def rows(self, start: int, limit: int) -> Sequence[Row]:
        sql = f"SELECT {_ROW} FROM entry WHERE position >= $1 AND position < $2 ORDER BY position"  # noqa: S608
        async with self._on_reader() as db:
            rows = await db.fetch(sql, bounded(start), bounded(start + limit))
        return [Row(*row) for row in rows]

    async def select(self, what: Selection, *, limit: int) -> Sequence[StoredEntry]:
        wanted: dict[str, str | int | None] = {
            "position >= {}": what.start,
            "position < {}": what.stop,
            "subject = {}": what.subject,
            "source = {}": what.source,
            "type = {}": what.type,
            "actor = {}": what.actor,
            "version >= {}": what.version_from,
            "version < {}": what.version_until,
            "time_us >= {}": what.time_from_us,
            "time_us < {}": what.time_until_us,
            "recorded_us < {}": what.recorded_until_us,
        }
        given = {text: value for text, value in wanted.items() if value is not None}
        values = [bounded(value) if isinstance(value, int) else value for value in given.values()]
        conditions = " AND ".join(text.format(f"${number}") for number, text in enumerate(given, 1))
        # Within one stream both orders are the same, and the index has its entries in this one.
        by = "position" if what.source is None or what.subject is None else "version"
        order = "DESC" if what.newest_first else "ASC"
        sql = (
            f"SELECT position, data FROM entry WHERE {conditions} "  # noqa: S608
            f"ORDER BY {by} {order} LIMIT ${len(given) + 1}"
        )
        async with self._on_reader() as db:
            rows = await db.fetch(sql, *values, bounded(limit))
        return [StoredEntry(position, data) for position, data in rows]

    async def size_at(self, recordedtime_us: int) -> int:
        # Recorded time never goes back with the position, so bisection needs no index of its own.
        async with self._on_reader() as db:
            low, high = 0, await db.fetchval("SELECT size FROM head")
            while low < high:
                middle = (low + high) // 2
                found = await db.fetchval("SELECT recorded_us FROM entry WHERE position = $1", middle)
                low, high = (middle + 1, high) if found <= recordedtime_us else (low, middle)
        return int(low)

    async def last_checkpoint(self, origin: str) -> SignedCheckpoint | None:
        sql = "SELECT origin, size, root, note FROM checkpoint WHERE origin = $1"
        async with self._on_reader() as db:
            row = await db.fetchrow(sql, origin)
        return None if row is None else SignedCheckpoint(*row)

    # -- writing --

    async def claim(self) -> int:
        async with self._on_writer() as db:
            return int(await db.fetchval("UPDATE head SET epoch = epoch + 1 RETURNING epoch"))

    async def commit(self, rows: Sequence[Row], *, expected_size: int, frontier: tuple[bytes, ...], epoch: int) -> None:
        size = expected_size + len(rows)
        recorded_us = f", recorded_us = {rows[-1].recordedtime_us}" if rows else ""
        # One round trip for two statements: nothing but integers and hexadecimal digits is put into the text.
        move = (
            f"BEGIN; UPDATE head SET size = {size:d}, frontier = '\\x{b''.join(frontier).hex()}'{recorded_us} "  # noqa: S608
            f"WHERE size = {expected_size:d} AND epoch = {epoch:d}"
        )
        records = [record_of(position, row) for position, row in enumerate(rows, expected_size)]
        async with self._on_writer() as db:
            try:
                if await db.execute(move) != "UPDATE 1":
                    raise self._overtaken(_head(await db.fetchrow("SELECT * FROM head")), expected_size, epoch)
                if records:
                    await db.copy_records_to_table("entry", records=records, columns=COLUMNS)
                # Commit point: COMMIT returns when the log of this transaction is on the server's disk.
                await db.execute("COMMIT")
            except asyncpg.UniqueViolationError as error:
                raise DuplicateKeys(f"{self.where}: an id or a stream version is there already") from error

    async def record_checkpoint(self, checkpoint: SignedCheckpoint, *, expected_size: int | None, epoch: int) -> None:
        async with self._on_writer() as db, db.transaction():
            # The head row is what writers are ordered by.
            found = await db.fetchval("SELECT epoch FROM head FOR NO KEY UPDATE")
            if found != epoch:
                raise self._fenced(found, epoch)
            last = await db.fetchval("SELECT size FROM checkpoint WHERE origin = $1", checkpoint.origin)
            if last != expected_size:
                raise CompareFailed(f"{self.where}: the last checkpoint of {checkpoint.origin} is another one")
            await db.execute(
                "INSERT INTO checkpoint VALUES ($1, $2, $3, $4) ON CONFLICT (origin) "
                "DO UPDATE SET size = excluded.size, root = excluded.root, note = excluded.note",
                checkpoint.origin,
                checkpoint.size,
                checkpoint.root,
                checkpoint.note,
            )

    async def close(self) -> None:
        writer, self._writer = self._writer, None
        readers, self._readers = self._readers, None
        for one in (writer, readers):
            if one is not None:
                try:
                    await asyncio.wait_for(one.close(), CONNECT_TIMEOUT_S)
                except _FAILURES:
                    one.terminate()

    def _overtaken(self, found: Head, expected_size: int, epoch: int) -> Fenced | CompareFailed:
        if found.epoch != epoch:
            return self._fenced(found.epoch, epoch)
        return CompareFailed(f"{self.where} holds {found.size} entries, not {expected_size}")

    def _fenced(self, found: int, epoch: int) -> Fenced:
        return Fenced(
            f"{self.where} has been taken over by another writer (epoch {found}, this one is {epoch})",
            hint="let only one process write",
        )

    # -- connections --

    @asynccontextmanager
    async def _on_writer(self) -> AsyncIterator[Connection]:
        """The writing connection, for one caller at a time; opened again after it was lost."""
        async with self._writing:
            with _errors(self.where):
                if self._writer is None or self._writer.is_closed():
                    self._writer = await self._connect()
                db = self._writer
                try:
                    yield db
                except BaseException as error:
                    if not await _roll_back(db, error):
                        # What was sent may still take effect: the next `head` waits until that is decided.
                        self._writer, self._unsure = None, True
                        db.terminate()
                    raise

    @asynccontextmanager
    async def _on_reader(self) -> AsyncIterator[Connection | PoolConnectionProxy]:
        with _errors(self.where):
            if self._readers is None:
                async with self._opening:
                    if self._readers is None:
                        self._readers = await asyncpg.create_pool(
                            min_size=0, max_size=READERS_MAX, connect=self._connect
                        )
            async with self._readers.acquire(timeout=CONNECT_TIMEOUT_S) as db:
                yield db

    async def _connect(self, *_: object, **__: object) -> Connection:
        place = self._place
        return await asyncpg.connect(
            host=place.host,
            port=place.port,
            database=place.database,
            user=place.user,
            password=place.password,
            ssl="verify-full" if place.tls else False,
            timeout=CONNECT_TIMEOUT_S,
            command_timeout=STATEMENT_TIMEOUT_S,
            server_settings={
                "application_name": "jinshi",
                "search_path": place.schema,
                # Whatever the server's own default is: acknowledged means on its disk.
                "synchronous_commit": "on",
                "lock_timeout": f"{LOCK_TIMEOUT_S * 1000:.0f}",
                # A writer that vanished without a word must not hold the head row for ever.
                "idle_in_transaction_session_timeout": f"{LOCK_TIMEOUT_S * 1000:.0f}",
            },
        )

    # -- opening --

    async def _check_server(self, db: Connection) -> None:
        version = db.get_server_version().major
        if version < SERVER_VERSION_MIN:
            raise InvalidRequest(
                f"{self.where} is PostgreSQL {version}; a ledger needs {SERVER_VERSION_MIN} or newer",
                hint="upgrade the server",
            )
        for setting in ("fsync", "full_page_writes"):
            if await db.fetchval("SELECT current_setting($1)", setting) != "on":
                raise InvalidRequest(
                    f"{self.where} runs with {setting} off: what it acknowledges may be lost",
                    hint=f"set {setting} = on in postgresql.conf",
                )
        if (
            await db.fetchval(
                "SELECT pg_encoding_to_char(encoding) FROM pg_database WHERE datname = $1", self._place.database
            )
            != "UTF8"
        ):
            raise InvalidRequest(f"{self.where} is not a UTF8 database", hint="create one with: createdb -E UTF8")

    async def _migrate(self, db: Connection, create: bool) -> None:
        """Bring the schema to `SCHEMA_VERSION`, one transaction a step; several processes may try at once."""
        schema = self._place.schema
        there = await db.fetchval("SELECT to_regclass($1)", f"{schema}.schema_version") is not None
        if not there and not create:
            raise InvalidRequest(f"{self.where} holds no ledger", hint="check the database, or restore it from a site")
        async with db.transaction():
            await db.execute("SELECT pg_advisory_xact_lock(hashtext($1))", f"jinshi:{schema}")
            await db.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
            await db.execute("CREATE TABLE IF NOT EXISTS schema_version (version integer PRIMARY KEY)")
            version = await db.fetchval("SELECT coalesce(max(version), 0) FROM schema_version")
            if version > SCHEMA_VERSION:
                raise InvalidRequest(
                    f"{self.where} has schema {version}; this jinshi reads {SCHEMA_VERSION}", hint="use a newer one"
                )
            for step in range(version + 1, SCHEMA_VERSION + 1):
                await db.execute(MIGRATIONS[step])
                await db.execute("INSERT INTO schema_version VALUES ($1)", step)


def record_of(position: int, row: Row) -> tuple[int | str | bytes, ...]:
    """A row as the table holds it, in the order of `COLUMNS`."""
    return (
        position,
        row.entry,
        row.leaf_hash,
        row.source,
        row.id,
        row.subject,
        row.streamversion,
        row.type,
        row.actor,
        row.time_us,
        row.recordedtime_us,
    )


def _head(row: asyncpg.Record | None) -> Head:
    assert row is not None, "a ledger's schema has its head row"
    frontier = row["frontier"]
    hashes = tuple(frontier[i : i + HASH_SIZE] for i in range(0, len(frontier), HASH_SIZE))
    return Head(row["size"], hashes, row["recorded_us"], row["epoch"])


async def _roll_back(db: Connection, error: BaseException) -> bool:
    """End the transaction after a failure; False when the connection cannot be used, or trusted, any more."""
    if db.is_closed() or not isinstance(error, Exception) or isinstance(error, OSError | TimeoutError):
        return False
    try:
        if db.is_in_transaction():
            await db.execute("ROLLBACK")
    except _FAILURES:
        return False
    return True


@contextmanager
def _errors(where: str) -> Iterator[None]:
    """Translate what asyncpg reports. Raises DiskFull, InvalidRequest, StoreUnavailable."""
    try:
        yield
    except asyncpg.DiskFullError as error:
        raise DiskFull(
            f"{where}: no space is left on the server", hint="free space there, then run it again"
        ) from error
    except asyncpg.InvalidAuthorizationSpecificationError as error:
        raise StoreUnavailable(
            f"{where} refuses the login ({_line(error)})", hint="set PGPASSWORD, and check the user"
        ) from error
    except asyncpg.DataError as error:  # half a surrogate pair, as undecodable arguments of a command have
        raise InvalidRequest(
            f"it is not text that can be recorded ({_line(error)})", hint="give it in UTF-8"
        ) from error
    except asyncpg.InvalidCatalogNameError as error:
        raise InvalidRequest(f"{where}: {_line(error)}", hint="create it with: createdb -E UTF8") from error
    except _FAILURES as error:
        raise StoreUnavailable(
            f"{where} cannot be used ({_line(error)})", hint="check the server and the network, then run it again"
        ) from error


def _line(error: BaseException) -> str:
    """What the server says, without the details on further lines."""
    return str(error).partition("\n")[0] or type(error).__name__
