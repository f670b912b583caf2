"""The embedded entry store: one SQLite file, WAL, synchronous=FULL. One connection writes, another reads."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TypeVar

from ledger.core.merkle import HASH_SIZE
from ledger.errors import CompareFailed, DiskFull, DuplicateKeys, Fenced, InvalidRequest, StoreUnavailable
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
from ledger.store.sqlite_common import NO_SPACE, name_of, only_row, transaction, translating
from ledger.store.sqlite_schema import connect, prepare, use_write_ahead_log

T = TypeVar("T")

NAMES_CACHED_MAX = 10_000
_PARAMETERS_MAX = 30_000  # SQLite allows 32,766 in a statement

_FIND_IDS = """
WITH wanted (source, id) AS (VALUES {})
SELECT wanted.source, wanted.id, entry.position, entry.data FROM wanted
CROSS JOIN name ON name.text = wanted.source
CROSS JOIN record ON record.id = wanted.id AND record.source = name.number
CROSS JOIN entry USING (position)
"""
_STREAM_VERSIONS = """
WITH wanted (source, subject) AS (VALUES {})
SELECT source, subject, (
    SELECT max(version) FROM record
    WHERE record.subject = wanted.subject
    AND record.source = (SELECT number FROM name WHERE text = wanted.source)
) FROM wanted
"""
_ROWS = """
SELECT entry.data, entry.leaf, source.text, record.id, record.subject, record.version, type.text, actor.text,
record.time_us, record.recorded_us
FROM entry JOIN record USING (position)
JOIN name AS source ON source.number = record.source
JOIN name AS type ON type.number = record.type
JOIN name AS actor ON actor.number = record.actor
WHERE entry.position >= ? AND entry.position < ? ORDER BY entry.position
"""
_NUMBERED = "(SELECT number FROM name WHERE text = ?)"


def _values(pairs: Sequence[tuple[str, str]]) -> str:
    return ", ".join(["(?, ?)"] * len(pairs))


def _parts(pairs: Sequence[tuple[str, str]]) -> Iterator[Sequence[tuple[str, str]]]:
    for first in range(0, len(pairs), _PARAMETERS_MAX // 2):
        yield pairs[first : first + _PARAMETERS_MAX // 2]


class SqliteEntryStore:
    """An `EntryStore` in one file; other processes may read it at the same time."""

    def __init__(self, path: Path, writer: sqlite3.Connection, reader: sqlite3.Connection) -> None:
        self._path = path
        self._writer = writer
        self._reader = reader
        self._names: dict[str, int] = {}
        self._closed = False
        # A connection belongs to one thread at a time; reading goes on while a commit waits for the disk.
        self._writing = ThreadPoolExecutor(1, thread_name_prefix="sqlite-write")
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="sqlite-read")

    @classmethod
    async def open(cls, path: Path, *, create: bool = False) -> SqliteEntryStore:
        """Open the store at `path`, or make an empty one when there is none and `create` is set.

        Raises:
            InvalidRequest: there is none, or it is not one of ours.
            StoreUnavailable, DiskFull: it cannot be opened or made, or it is damaged.
        """
        return await asyncio.to_thread(cls._open, path, create)

    @classmethod
    def _open(cls, path: Path, create: bool) -> SqliteEntryStore:
        with _errors(path), ExitStack() as opened:
            if not create and not path.is_file():
                raise InvalidRequest(
                    f"{path} is not there", hint="name a ledger's directory, or restore it from a site"
                )
            writer = connect(path)
            opened.callback(writer.close)
            prepare(path, writer, create)
            reader = connect(path)
            opened.callback(reader.close)
            use_write_ahead_log(path, reader)
            store = cls(path, writer, reader)
            opened.pop_all()
            return store

    @property
    def where(self) -> str:
        return str(self._path)

    async def head(self) -> Head:
        return await self._write(self._head)

    async def claim(self) -> int:
        return await self._write(self._claim)

    async def commit(self, rows: Sequence[Row], *, expected_size: int, frontier: tuple[bytes, ...], epoch: int) -> None:
        await self._write(partial(self._commit, rows, expected_size, frontier, epoch))

    async def find_ids(self, keys: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], StoredEntry]:
        return await self._write(partial(self._find_ids, keys))

    async def stream_versions(self, streams: Sequence[StreamId]) -> Mapping[StreamId, int]:
        return await self._write(partial(self._stream_versions, streams))

    async def read(self, start: int, limit: int) -> Sequence[StoredEntry]:
        sql = "SELECT position, data FROM entry WHERE position >= ? AND position < ? ORDER BY position"
        rows = await self._read(lambda db: db.execute(sql, (bounded(start), bounded(start + limit))).fetchall())
        return [StoredEntry(position, data) for position, data in rows]

    async def read_many(self, indexes: Sequence[int]) -> Sequence[StoredEntry]:
        return in_order(indexes, await self._read(partial(_read_many, recordable(indexes))))

    async def rows(self, start: int, limit: int) -> Sequence[Row]:
        rows = await self._read(lambda db: db.execute(_ROWS, (bounded(start), bounded(start + limit))).fetchall())
        return [Row(*row) for row in rows]

    async def select(self, what: Selection, *, limit: int) -> Sequence[StoredEntry]:
        return await self._read(partial(_select, what, limit))

    async def size_at(self, recordedtime_us: int) -> int:
        return await self._read(partial(_size_at, recordedtime_us))

    async def last_checkpoint(self, origin: str) -> SignedCheckpoint | None:
        sql = "SELECT origin, size, root, note FROM checkpoint WHERE origin = ?"
        row = await self._read(lambda db: db.execute(sql, (origin,)).fetchone())
        return None if row is None else SignedCheckpoint(*row)

    async def record_checkpoint(self, checkpoint: SignedCheckpoint, *, expected_size: int | None, epoch: int) -> None:
        await self._write(partial(self._record_checkpoint, checkpoint, expected_size, epoch))

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            await self._read(lambda db: db.close())
        finally:
            await self._write(self._writer.close)
            self._writing.shutdown()
            self._reading.shutdown()

    # -- on the writing connection --

    async def _write(self, act: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._writing, self._guarded, act)

    async def _read(self, act: Callable[[sqlite3.Connection], T]) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._reading, self._guarded, partial(act, self._reader))

    def _guarded(self, act: Callable[[], T]) -> T:
        with _errors(self._path):
            return act()

    def _head(self) -> Head:
        size, frontier, recorded_us, epoch = only_row(
            self._writer.execute("SELECT size, frontier, recorded_us, epoch FROM head")
        )
        if len(frontier) != size.bit_count() * HASH_SIZE:
            raise _damaged(self._path, f"its head does not belong to a tree of {size} entries")
        hashes = tuple(frontier[i : i + HASH_SIZE] for i in range(0, len(frontier), HASH_SIZE))
        return Head(size, hashes, recorded_us, epoch)

    def _claim(self) -> int:
        with transaction(self._writer) as db:
            db.execute("UPDATE head SET epoch = epoch + 1")
            (epoch,) = only_row(db.execute("SELECT epoch FROM head"))
        return int(epoch)

    def _head_of(self, epoch: int) -> Head:
        """The head, while nobody has taken over. Raises Fenced."""
        head = self._head()
        if head.epoch != epoch:
            raise Fenced(
                f"{self._path} has been taken over by another writer (epoch {head.epoch}, this one is {epoch})",
                hint="let only one process write",
            )
        return head

    def _commit(self, rows: Sequence[Row], expected_size: int, frontier: tuple[bytes, ...], epoch: int) -> None:
        try:
            with transaction(self._writer) as db:
                head = self._head_of(epoch)
                if head.size != expected_size:
                    raise CompareFailed(f"{self._path} holds {head.size} entries, not {expected_size}")
                numbers = self._intern(chain.from_iterable((row.source, row.type, row.actor) for row in rows))
                db.executemany(
                    "INSERT INTO record VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        (
                            position,
                            numbers[row.source],
                            row.id,
                            row.subject,
                            row.streamversion,
                            numbers[row.type],
                            numbers[row.actor],
                            row.time_us,
                            row.recordedtime_us,
                        )
                        for position, row in enumerate(rows, expected_size)
                    ),
                )
                db.executemany(
                    "INSERT INTO entry VALUES (?, ?, ?)",
                    ((position, row.entry, row.leaf_hash) for position, row in enumerate(rows, expected_size)),
                )
                recorded_us = rows[-1].recordedtime_us if rows else head.recordedtime_us
                db.execute(
                    "UPDATE head SET size = ?, frontier = ?, recorded_us = ?",
                    (expected_size + len(rows), b"".join(frontier), recorded_us),
                )
                # Commit point: COMMIT returns when the log of this transaction is on the disk (synchronous=FULL).
        except BaseException as error:
            self._names.clear()  # what was interned may have been rolled back
            if getattr(error, "sqlite_errorname", "") == "SQLITE_CONSTRAINT_UNIQUE":
                raise DuplicateKeys(f"{self._path}: an id or a stream version is there already") from error
            raise

    def _intern(self, texts: Iterable[str]) -> Mapping[str, int]:
        if len(self._names) > NAMES_CACHED_MAX:
            self._names.clear()
        for text in [text for text in set(texts) if text not in self._names]:
            self._writer.execute("INSERT OR IGNORE INTO name (text) VALUES (?)", (text,))
            (number,) = only_row(self._writer.execute("SELECT number FROM name WHERE text = ?", (text,)))
            self._names[text] = number
        return self._names

    def _find_ids(self, keys: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], StoredEntry]:
        found: dict[tuple[str, str], StoredEntry] = {}
        for wanted in _parts(keys):
            rows = self._writer.execute(_FIND_IDS.format(_values(wanted)), list(chain.from_iterable(wanted)))
            found.update({(source, id_): StoredEntry(position, data) for source, id_, position, data in rows})
        return found

    def _stream_versions(self, streams: Sequence[StreamId]) -> Mapping[StreamId, int]:
        versions: dict[StreamId, int] = {}
        for wanted in _parts([(one.source, one.subject) for one in streams]):
            rows = self._writer.execute(_STREAM_VERSIONS.format(_values(wanted)), list(chain.from_iterable(wanted)))
            versions.update({StreamId(source, subject): version or 0 for source, subject, version in rows})
        return versions

    def _record_checkpoint(self, checkpoint: SignedCheckpoint, expected_size: int | None, epoch: int) -> None:
        with transaction(self._writer) as db:
            self._head_of(epoch)
            row = db.execute("SELECT size FROM checkpoint WHERE origin = ?", (checkpoint.origin,)).fetchone()
            if (None if row is None else row[0]) != expected_size:
                raise CompareFailed(f"{self._path}: the last checkpoint of {checkpoint.origin} is another one")
            db.execute(
                "INSERT OR REPLACE INTO checkpoint VALUES (?, ?, ?, ?)",
                (checkpoint.origin, checkpoint.size, checkpoint.root, checkpoint.note),
            )


# -- on the reading connection --


def _read_many(indexes: Sequence[int], db: sqlite3.Connection) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    for first in range(0, len(indexes), _PARAMETERS_MAX):
        part = indexes[first : first + _PARAMETERS_MAX]
        marks = ", ".join("?" * len(part))
        found.update(db.execute(f"SELECT position, data FROM entry WHERE position IN ({marks})", part))  # noqa: S608
    return found


def _select(what: Selection, limit: int, db: sqlite3.Connection) -> Sequence[StoredEntry]:
    stop = what.stop
    if what.recorded_until_us is not None:
        recorded = _size_at(what.recorded_until_us - 1, db)
        stop = recorded if stop is None else min(stop, recorded)
    wanted: dict[str, str | int | None] = {
        "record.position >= ?": what.start,
        "record.position < ?": stop,
        "record.subject = ?": what.subject,
        f"record.source = {_NUMBERED}": what.source,
        f"record.type = {_NUMBERED}": what.type,
        f"record.actor = {_NUMBERED}": what.actor,
        "record.version >= ?": what.version_from,
        "record.version < ?": what.version_until,
        "record.time_us >= ?": what.time_from_us,
        "record.time_us < ?": what.time_until_us,
    }
    conditions = {
        text: bounded(value) if isinstance(value, int) else value for text, value in wanted.items() if value is not None
    }
    # Within one stream both orders are the same, and the index has its entries in this one.
    by = "position" if what.source is None or what.subject is None else "record.version"
    sql = " ".join(
        (
            "SELECT position, data FROM record JOIN entry USING (position) WHERE",
            " AND ".join(conditions),
            f"ORDER BY {by} DESC LIMIT ?" if what.newest_first else f"ORDER BY {by} LIMIT ?",
        )
    )
    parameters = (*conditions.values(), bounded(limit))
    return [StoredEntry(position, data) for position, data in db.execute(sql, parameters)]


def _size_at(recorded_us: int, db: sqlite3.Connection) -> int:
    # Recorded time never goes back with the position, so bisection needs no index of its own.
    (count,) = only_row(db.execute("SELECT size FROM head"))
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        (found,) = only_row(db.execute("SELECT recorded_us FROM record WHERE position = ?", (middle,)))
        if found <= recorded_us:
            low = middle + 1
        else:
            high = middle
    return low


# -- opening, and what can go wrong --


def _damaged(path: Path, what: object) -> StoreUnavailable:
    return StoreUnavailable(f"{path} is damaged ({what})", hint="restore the ledger from a site")


def _errors(path: Path) -> AbstractContextManager[None]:
    """Raises DiskFull, StoreUnavailable, InvalidRequest."""

    def refused(error: OSError) -> StoreUnavailable:
        return StoreUnavailable(
            f"{path} cannot be used ({error.strerror})", hint="check permissions and mounts, then run it again"
        )

    return translating(partial(_translated, path), refused)


def _translated(path: Path, error: sqlite3.Error) -> StoreUnavailable:
    name = name_of(error)
    if name.startswith(NO_SPACE):
        return DiskFull(f"{path}: no space is left", hint="free space, then run it again")
    if name.startswith("SQLITE_NOTADB"):
        return StoreUnavailable(
            f"{path} is no ledger's store, or its beginning is damaged",
            hint="name a ledger's directory, or restore the ledger from a site",
        )
    if name.startswith("SQLITE_CORRUPT") or type(error) is sqlite3.DatabaseError:
        return _damaged(path, error)
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return StoreUnavailable(f"{path} is being written by another process", hint="wait until it has finished")
    return StoreUnavailable(
        f"{path} cannot be used ({error})", hint="check permissions and the disk, then run it again"
    )
