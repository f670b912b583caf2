"""The entry store on PostgreSQL 15 to 18, through asyncpg: one connection writes, a small pool reads.

A commit is one transaction for a whole pool of callers: the head row is moved (which locks it, checks the epoch and
the size, and so orders every writer), the entries follow, and the end of the transaction makes both durable. For a few
entries that is one statement and one round trip; many follow by COPY.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import chain
from types import TracebackType
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

import asyncpg

from ledger.core.merkle import HASH_SIZE
from ledger.errors import CompareFailed, DuplicateKeys, Fenced, StoreUnavailable
from ledger.store.base import (
    Head,
    Row,
    Selection,
    SignedCheckpoint,
    StoredEntry,
    StreamId,
    bounded,
    in_order,
    recordable,
)
from ledger.store.place import PostgresPlace as PostgresPlace
from ledger.store.postgres_claim import discard, is_claimed, settle
from ledger.store.postgres_schema import COLUMNS, migrate
from ledger.store.postgres_server import CONNECT_TIMEOUT_S, FAILURES, check_server, connect, errors, make_tls

if TYPE_CHECKING:
    from ledger.store.postgres_server import Connection

    Pool: TypeAlias = asyncpg.Pool[asyncpg.Record]
    PoolConnectionProxy: TypeAlias = asyncpg.pool.PoolConnectionProxy[asyncpg.Record]
    PreparedStatement: TypeAlias = asyncpg.prepared_stmt.PreparedStatement[asyncpg.Record]

T = TypeVar("T")

READERS_MAX: Final = 4
FEW_MAX: Final = 16
"""Up to so many rows, each number of them has a prepared statement with their values in it."""
ONE_STATEMENT_MAX: Final = 64
"""Up to so many rows go in one statement, more by COPY."""

_ROW = "data, leaf, source, id, subject, version, type, actor, time_us, recorded_us"
_FIND_IDS = """
SELECT wanted.source, wanted.id, entry.position, entry.data
FROM unnest($1::text[], $2::text[]) AS wanted (source, id)
JOIN entry ON entry.id = wanted.id COLLATE "C" AND entry.source = wanted.source COLLATE "C"
"""
_MOVE = """
UPDATE head SET size = $1, frontier = $2, recorded_us = coalesce($3::bigint, recorded_us)
WHERE size = $4 AND epoch = $5
"""
_MOVE_AND_INSERT = f"""
WITH moved AS ({_MOVE} RETURNING true)
INSERT INTO entry
SELECT $4 + number - 1, data, leaf, source, id, subject, version, type, actor, time_us, new.recorded_us
FROM moved, unnest(
    $6::bytea[], $7::bytea[], $8::text[], $9::text[], $10::text[], $11::bigint[], $12::text[], $13::text[],
    $14::bigint[], $15::bigint[]
) WITH ORDINALITY AS new (data, leaf, source, id, subject, version, type, actor, time_us, recorded_us, number)
"""  # noqa: S608
_RECORD_CHECKPOINT = """
WITH held AS (SELECT epoch FROM head FOR NO KEY UPDATE)
INSERT INTO checkpoint (origin, size, root, note)
SELECT $1::text, $2::bigint, $3::bytea, $4::bytea FROM held
WHERE epoch = $6::bigint AND ($5::bigint IS NULL OR EXISTS (SELECT FROM checkpoint WHERE origin = $1::text))
ON CONFLICT (origin) DO UPDATE SET size = excluded.size, root = excluded.root, note = excluded.note
WHERE checkpoint.size = $5::bigint
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


def _move_and_insert_few(count: int) -> str:
    """As `_MOVE_AND_INSERT`, for exactly so many rows: half of the time of as many arrays."""
    first, types = 6, ("bytea", "bytea", "text", "text", "text", "bigint", "text", "text", "bigint", "bigint")
    rows = []
    for number in range(count):
        values = ", ".join(f"${first + place}::{type_}" for place, type_ in enumerate(types, number * len(types)))
        rows.append(f"($4::bigint + {number}, {values})")
    return f"WITH moved AS ({_MOVE} RETURNING true) INSERT INTO entry SELECT new.* FROM moved, (VALUES {', '.join(rows)}) AS new"  # noqa: E501, S608


_FEW: Final = {count: _move_and_insert_few(count) for count in range(1, FEW_MAX + 1)}


class PostgresEntryStore:
    """An `EntryStore` in one schema of a PostgreSQL database."""

    def __init__(self, place: PostgresPlace) -> None:
        self._place = place
        self._tls: ssl.SSLContext | None = None
        self._writer: Connection | None = None
        self._writing = asyncio.Lock()
        self._statements: tuple[Connection | None, dict[int, PreparedStatement]] = (None, {})
        self._readers: Pool | None = None
        self._opening = asyncio.Lock()
        self._unsure = False  # a write was cut off: a transaction of ours may still be in flight on the server

    @classmethod
    async def open(cls, place: PostgresPlace, *, create: bool = False, token: str = "") -> PostgresEntryStore:
        """Open the store, or make an empty one when the schema is not there and `create` is set.

        With a `token` (32 hexadecimal digits) nothing but what the same token made is opened, see
        `ledger.store.postgres_claim`.

        Raises:
            InvalidRequest: there is none, its schema is newer than this jinshi, or the server cannot keep a ledger; or
                the schema holds something that `token` did not make.
            StoreUnavailable: the server cannot be reached or refuses.
        """
        store = cls(place)
        try:
            store._tls = await asyncio.to_thread(make_tls, place)
            async with store._on_writer() as db:
                await check_server(db, place)
                await migrate(db, place, create=create, token=token)
        except BaseException:
            await store.close()
            raise
        return store

    async def settle(self, token: str) -> None:
        """The ledger that `token` was making is made: nothing drops it any more. Raises InvalidRequest: it is not."""
        async with self._on_writer() as db:
            await settle(db, self._place, token)

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
        return _head(row, self.where)

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

    async def read_many(self, indexes: Sequence[int]) -> Sequence[StoredEntry]:
        sql = "SELECT position, data FROM entry WHERE position = ANY($1::bigint[])"
        async with self._on_reader() as db:
            rows = await db.fetch(sql, recordable(indexes))
        return in_order(indexes, {row["position"]: row["data"] for row in rows})

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
            low, high = 0, _there(await db.fetchval("SELECT size FROM head"), self.where)
            while low < high:
                middle = (low + high) // 2
                recorded_us = await db.fetchval("SELECT recorded_us FROM entry WHERE position = $1", middle)
                found = _there(recorded_us, self.where)
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
            epoch = await db.fetchval("UPDATE head SET epoch = epoch + 1 RETURNING epoch")
            return int(_there(epoch, self.where))

    async def commit(self, rows: Sequence[Row], *, expected_size: int, frontier: tuple[bytes, ...], epoch: int) -> None:
        head = (expected_size + len(rows), b"".join(frontier), rows[-1].recordedtime_us if rows else None)
        async with self._on_writer() as db:
            try:
                if len(rows) <= ONE_STATEMENT_MAX:
                    moved = await self._insert(db, rows, head, expected_size, epoch)
                else:
                    moved = await self._copy(db, rows, head, expected_size, epoch)
                if not moved:
                    found = _head(await db.fetchrow("SELECT * FROM head"), self.where)
                    raise self._overtaken(found, expected_size, epoch)
            except asyncpg.UniqueViolationError as error:
                raise DuplicateKeys(f"{self.where}: an id or a stream version is there already") from error

    async def _insert(
        self, db: Connection, rows: Sequence[Row], head: tuple[int, bytes, int | None], expected_size: int, epoch: int
    ) -> bool:
        """Everything in one statement, which is a transaction, and one round trip; False: the head is another one."""
        if not rows:
            return await db.execute(_MOVE, *head, expected_size, epoch) == "UPDATE 1"
        # Commit point: the answer comes when the log of this transaction is on the server's disk.
        if len(rows) <= FEW_MAX:
            statement = await self._prepared(db, len(rows))
            await statement.fetch(*head, expected_size, epoch, *chain.from_iterable(rows))
            return statement.get_statusmsg() != "INSERT 0 0"
        return await db.execute(_MOVE_AND_INSERT, *head, expected_size, epoch, *zip(*rows, strict=True)) != "INSERT 0 0"

    async def _prepared(self, db: Connection, count: int) -> PreparedStatement:
        """What moves the head and inserts so many rows, prepared on the writing connection."""
        of, statements = self._statements
        if of is not db:
            statements = {}
            self._statements = db, statements
        if (found := statements.get(count)) is None:
            found = statements[count] = await db.prepare(_FEW[count])
        return found

    async def _copy(
        self, db: Connection, rows: Sequence[Row], head: tuple[int, bytes, int | None], expected_size: int, epoch: int
    ) -> bool:
        """The same by COPY, which takes less of the server's time where there are many rows."""
        # One round trip for two statements: nothing but integers and hexadecimal digits is put into the text.
        size, frontier, recorded_us = head
        move = (
            f"BEGIN; UPDATE head SET size = {size:d}, frontier = '\\x{frontier.hex()}', recorded_us = {recorded_us:d} "  # noqa: S608
            f"WHERE size = {expected_size:d} AND epoch = {epoch:d}"
        )
        if await db.execute(move) != "UPDATE 1":
            return False
        records = [record_of(position, row) for position, row in enumerate(rows, expected_size)]
        await db.copy_records_to_table("entry", records=records, columns=COLUMNS)
        # Commit point: COMMIT returns when the log of this transaction is on the server's disk.
        await db.execute("COMMIT")
        return True

    async def record_checkpoint(self, checkpoint: SignedCheckpoint, *, expected_size: int | None, epoch: int) -> None:
        async with self._on_writer() as db:
            # One round trip; the head row, which is held first, is what writers are ordered by.
            done = await db.execute(
                _RECORD_CHECKPOINT,
                *(checkpoint.origin, checkpoint.size, checkpoint.root, checkpoint.note),
                *(expected_size, epoch),
            )
            if done == "INSERT 0 0":
                found = _there(await db.fetchval("SELECT epoch FROM head"), self.where)
                if found != epoch:
                    raise self._fenced(found, epoch)
                raise CompareFailed(f"{self.where}: the last checkpoint of {checkpoint.origin} is another one")

    async def close(self) -> None:
        writer, self._writer = self._writer, None
        readers, self._readers = self._readers, None
        for one in (writer, readers):
            if one is not None:
                try:
                    await asyncio.wait_for(one.close(), CONNECT_TIMEOUT_S)
                except FAILURES:
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

    def _on_writer(self) -> _Writing:
        """The writing connection, for one caller at a time; opened again after it was lost."""
        return _Writing(self)

    @asynccontextmanager
    async def _on_reader(self) -> AsyncIterator[Connection | PoolConnectionProxy]:
        with errors(self.where):
            if self._readers is None:
                async with self._opening:
                    if self._readers is None:
                        self._readers = await asyncpg.create_pool(
                            min_size=0, max_size=READERS_MAX, connect=self._connect, reset=_reset
                        )
            async with self._readers.acquire(timeout=CONNECT_TIMEOUT_S) as db:
                yield db

    async def _connect(self, *_: object, **__: object) -> Connection:
        return await connect(self._place, self._tls)


class _Writing:
    """`PostgresEntryStore._on_writer`: a class of its own, since every commit goes through it.

    Raises what `errors` does.
    """

    __slots__ = ("_store",)

    def __init__(self, store: PostgresEntryStore) -> None:
        self._store = store

    async def __aenter__(self) -> Connection:
        store = self._store
        await store._writing.acquire()
        db = store._writer
        if db is not None and not db.is_closed():
            return db
        try:
            with errors(store.where):
                db = store._writer = await store._connect()
            return db
        except BaseException:
            store._writing.release()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        store = self._store
        try:
            if error is not None:
                await self._failed(error)
        finally:
            store._writing.release()

    async def _failed(self, error: BaseException) -> None:
        store, db = self._store, self._store._writer
        assert db is not None
        store._statements = None, {}
        if not await _roll_back(db, error):
            # What was sent may still take effect: the next `head` waits until that is decided.
            store._writer, store._unsure = None, True
            db.terminate()
        with errors(store.where):
            raise error


async def _reset(db: Connection) -> None:
    """Readers change nothing of their session: without a question to the server each time one is given back."""
    if db.is_in_transaction():
        await db.reset()


def record_of(position: int, row: Row) -> tuple[int | str | bytes, ...]:
    """A row as the table holds it, in the order of `COLUMNS`."""
    return (position, *row)


def _head(found: asyncpg.Record | None, where: str) -> Head:
    row = _there(found, where)
    frontier = row["frontier"]
    if len(frontier) != row["size"].bit_count() * HASH_SIZE:
        raise _damaged(where, f"its head does not belong to a tree of {row['size']} entries")
    hashes = tuple(frontier[i : i + HASH_SIZE] for i in range(0, len(frontier), HASH_SIZE))
    return Head(row["size"], hashes, row["recorded_us"], row["epoch"])


def _there(value: T | None, where: str) -> T:
    """A row, or a value in one, that every ledger's schema has. Raises StoreUnavailable: somebody has deleted it."""
    if value is None:
        raise _damaged(where, "a row that every ledger's store has is missing")
    return value


def _damaged(where: str, what: str) -> StoreUnavailable:
    return StoreUnavailable(f"{where} is damaged ({what})", hint="restore the ledger from a site")


async def _roll_back(db: Connection, error: BaseException) -> bool:
    """End the transaction after a failure; False when the connection cannot be used, or trusted, any more."""
    if db.is_closed() or not isinstance(error, Exception) or isinstance(error, OSError | TimeoutError):
        return False
    try:
        if db.is_in_transaction():
            await db.execute("ROLLBACK")
    except FAILURES:
        return False
    return True


async def check_unused(place: PostgresPlace) -> None:
    """A ledger can be made there. Raises InvalidRequest (something is there, or none can be), StoreUnavailable."""
    async with _connected(place) as db:
        await check_server(db, place)
        await is_claimed(db, place, "")


async def discard_claimed(place: PostgresPlace, token: str) -> None:
    """Drop what `token` was making in the schema; whatever else is there is left alone. Raises StoreUnavailable."""
    async with _connected(place) as db:
        await discard(db, place, token)


@asynccontextmanager
async def _connected(place: PostgresPlace) -> AsyncIterator[Connection]:
    with errors(place.where):
        db = await connect(place, await asyncio.to_thread(make_tls, place))
        try:
            yield db
        finally:
            await db.close()
