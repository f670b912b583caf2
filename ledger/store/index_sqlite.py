"""The record index in a SQLite file of its own. It is a projection: a commit in it need not survive a loss of power."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from ledger.core.merkle import HASH_SIZE, CompactRange
from ledger.store.base import Row, Selection, bounded
from ledger.store.positions import Attributes, IndexDamaged, IndexUnusable
from ledger.store.sqlite_common import NO_SPACE, is_empty, name_of, remove_database, transaction, translating

T = TypeVar("T")

APPLICATION_ID = 0x4A494E49  # "JINI"
SCHEMA_VERSION = 1
BUSY_TIMEOUT_S = 2.0
CACHE_KIB = 32 * 1024
NAMES_CACHED_MAX = 10_000
SELECTIVE_MAX = 10_000
"""A range of times with more entries than this is not looked up but read through: in the log's order, page by page."""

_DAMAGED = ("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_CONSTRAINT", "SQLITE_MISMATCH")
_SOURCE, _TYPE, _ACTOR = 1, 2, 3

# Every secondary index of SQLite ends with the row's key: the position. So the entries of one actor lie in log order.
_SCHEMA = """
CREATE TABLE name (
    number INTEGER PRIMARY KEY, kind INTEGER NOT NULL, text TEXT NOT NULL, entries INTEGER NOT NULL,
    UNIQUE (kind, text)
) STRICT;
CREATE TABLE record (
    position INTEGER PRIMARY KEY, subject TEXT NOT NULL, source INTEGER NOT NULL, type INTEGER NOT NULL,
    actor INTEGER NOT NULL, time_us INTEGER NOT NULL
) STRICT;
CREATE INDEX by_subject ON record (subject);
CREATE INDEX by_source ON record (source);
CREATE INDEX by_type ON record (type);
CREATE INDEX by_actor ON record (actor);
CREATE INDEX by_time ON record (time_us);
CREATE TABLE built (only INTEGER PRIMARY KEY CHECK (only = 1), size INTEGER NOT NULL, frontier BLOB NOT NULL) STRICT;
INSERT INTO built VALUES (1, 0, x'')
"""
_IDENTITY = (f"PRAGMA application_id = {APPLICATION_ID}", f"PRAGMA user_version = {SCHEMA_VERSION}")

_ATTRIBUTES = """
SELECT source.text, record.subject, type.text, actor.text, record.time_us FROM record
JOIN name AS source ON source.number = record.source
JOIN name AS type ON type.number = record.type
JOIN name AS actor ON actor.number = record.actor
WHERE position >= ? AND position < ? ORDER BY position
"""


class SqlitePositionIndex:
    """A `PositionIndex` in one file, opened when it is first needed; `create` makes it where there is none."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        self._path = path
        self._create = create
        self._db: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._names: dict[tuple[int, str], int] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sqlite-index")

    @property
    def where(self) -> str:
        return str(self._path)

    async def built(self) -> CompactRange:
        return await self._run(_built)

    async def add(self, rows: Sequence[Row], before: CompactRange, after: CompactRange) -> bool:
        return await self._run(partial(self._add, rows, before, after))

    async def find(self, what: Selection, limit: int, *, size: int) -> Sequence[int] | None:
        return await self._run(lambda db: _find(what, limit, db) if _built(db).size >= size else None)

    async def attributes(self, start: int, limit: int) -> Sequence[Attributes]:
        between = (bounded(start), bounded(start + limit))
        return await self._run(lambda db: [Attributes(*row) for row in db.execute(_ATTRIBUTES, between)])

    async def check(self) -> None:
        (said,) = await self._run(lambda db: db.execute("PRAGMA integrity_check(1)").fetchone())
        if said != "ok":
            raise _damaged(self._path, said)

    async def discard(self) -> None:
        await self._in_thread(self._discard)

    async def close(self) -> None:
        await self._in_thread(self._disconnect)
        self._thread.shutdown()

    # -- in the index's own thread --

    async def _in_thread(self, act: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._guarded, act)

    async def _run(self, act: Callable[[sqlite3.Connection], T]) -> T:
        return await self._in_thread(lambda: act(self._connected()))

    def _guarded(self, act: Callable[[], T]) -> T:
        with _errors(self._path):
            return act()

    def _connected(self) -> sqlite3.Connection:
        if self._db is not None and self._file != _identity(self._path):
            self._disconnect()  # another process has thrown it away, and perhaps begun anew
        if self._db is None:
            if not self._create and not self._path.exists():
                raise IndexUnusable(f"{self._path} is not there", hint="build it with: jinshi index build")
            db = sqlite3.connect(self._path, isolation_level=None, timeout=BUSY_TIMEOUT_S, check_same_thread=False)
            try:
                _prepare(self._path, db)
            except BaseException:
                db.close()
                raise
            self._db, self._file = db, _identity(self._path)
        return self._db

    def _disconnect(self) -> None:
        self._names.clear()
        if self._db is not None:
            self._db.close()
        self._db = self._file = None

    def _discard(self) -> None:
        found = self._file or _identity(self._path)
        with suppress(sqlite3.Error):
            self._disconnect()
        self._db = self._file = None
        if found != _identity(self._path):
            return  # another process has done it
        remove_database(self._path)
        self._create = True

    def _add(self, rows: Sequence[Row], before: CompactRange, after: CompactRange, db: sqlite3.Connection) -> bool:
        assert after.size == before.size + len(rows)
        try:
            with transaction(db):
                if _built(db) != before:
                    return False
                counts = Counter[tuple[int, str]]()
                for row in rows:
                    counts.update(_names_of(row))
                numbers = self._intern(counts, db)
                db.executemany("INSERT INTO record VALUES (?, ?, ?, ?, ?, ?)", _records(rows, before.size, numbers))
                # With the counts and the size, or not at all: what is found is exactly what `built` says.
                db.execute("UPDATE built SET size = ?, frontier = ?", (after.size, b"".join(after.frontier)))
        except BaseException:
            self._names.clear()  # what was interned may have been rolled back
            raise
        return True

    def _intern(self, counts: Mapping[tuple[int, str], int], db: sqlite3.Connection) -> Mapping[tuple[int, str], int]:
        if len(self._names) > NAMES_CACHED_MAX:
            self._names.clear()
        for name in [name for name in counts if name not in self._names]:
            db.execute("INSERT OR IGNORE INTO name (kind, text, entries) VALUES (?, ?, 0)", name)
            self._names[name] = _number(name, db)[0]
        added = [(count, self._names[name]) for name, count in counts.items()]
        db.executemany("UPDATE name SET entries = entries + ? WHERE number = ?", added)
        return self._names


def _names_of(row: Row) -> tuple[tuple[int, str], ...]:
    return (_SOURCE, row.source), (_TYPE, row.type), (_ACTOR, row.actor)


def _records(
    rows: Sequence[Row], first: int, numbers: Mapping[tuple[int, str], int]
) -> Iterable[tuple[int, str, int, int, int, int]]:
    for position, row in enumerate(rows, first):
        source, type_, actor = (numbers[name] for name in _names_of(row))
        yield position, row.subject, source, type_, actor, row.time_us


def _number(name: tuple[int, str], db: sqlite3.Connection) -> tuple[int, int]:
    """A name's number and how many entries have it; (0, 0) where none has."""
    row = db.execute("SELECT number, entries FROM name WHERE kind = ? AND text = ?", name).fetchone()
    return (0, 0) if row is None else (row[0], row[1])


def _built(db: sqlite3.Connection) -> CompactRange:
    row = db.execute("SELECT size, frontier FROM built").fetchone()
    if row is None or row[0] < 0 or len(row[1]) != row[0].bit_count() * HASH_SIZE:
        raise sqlite3.DatabaseError("it does not say how far it was built")
    size, frontier = row
    return CompactRange(size, tuple(frontier[i : i + HASH_SIZE] for i in range(0, len(frontier), HASH_SIZE)))


# -- finding --


def _find(what: Selection, limit: int, db: sqlite3.Connection) -> Sequence[int] | None:
    """By the index that leaves the fewest entries to look at; the other conditions are held against each of them."""
    conditions: dict[str, str | int] = {"position >= ?": bounded(what.start)}
    if what.stop is not None:
        conditions["position < ?"] = bounded(what.stop)
    expected: dict[str, int] = {}
    for column, kind, text in (
        ("source", _SOURCE, what.source),
        ("type", _TYPE, what.type),
        ("actor", _ACTOR, what.actor),
    ):
        if text is not None:
            number, entries = _number((kind, text), db)
            conditions[f"{column} = ?"] = number
            expected[f"by_{column}"] = entries
    if what.subject is not None:
        conditions["subject = ?"] = what.subject
        expected["by_subject"] = _count(db, "by_subject", {"subject = ?": what.subject})
    times: dict[str, str | int] = {}
    if what.time_from_us is not None:
        times["time_us >= ?"] = bounded(what.time_from_us)
    if what.time_until_us is not None:
        times["time_us < ?"] = bounded(what.time_until_us)
    if times and (count := _count(db, "by_time", times)) < SELECTIVE_MAX:
        expected["by_time"] = count  # its order is another one: only what may be sorted for each page
    if not expected:
        return None
    best = min(expected, key=expected.__getitem__)
    if expected[best] == 0:
        return []
    conditions |= times
    sql = (
        f"SELECT position FROM record INDEXED BY {best} WHERE {' AND '.join(conditions)} "  # noqa: S608 (all ours)
        f"ORDER BY position {'DESC' if what.newest_first else 'ASC'} LIMIT ?"
    )
    return [position for (position,) in db.execute(sql, (*conditions.values(), bounded(limit)))]


def _count(db: sqlite3.Connection, index: str, conditions: Mapping[str, str | int]) -> int:
    """How many entries meet conditions that one index answers; it does not count beyond SELECTIVE_MAX."""
    where = " AND ".join(conditions)
    inner = f"SELECT 1 FROM record INDEXED BY {index} WHERE {where} LIMIT {SELECTIVE_MAX}"  # noqa: S608 (all ours)
    (count,) = db.execute(f"SELECT count(*) FROM ({inner})", tuple(conditions.values())).fetchone()  # noqa: S608
    return int(count)


# -- the file, and what can go wrong with it --


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _prepare(path: Path, db: sqlite3.Connection) -> None:
    if _application(db) == 0 and is_empty(db):
        with transaction(db):
            if is_empty(db):  # another process may have been quicker
                for statement in (*_SCHEMA.split(";\n"), *_IDENTITY):
                    db.execute(statement)
    if _application(db) != APPLICATION_ID:
        raise _damaged(path, "it is no record index")
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version != SCHEMA_VERSION:
        raise _damaged(path, f"it is of version {version}, not {SCHEMA_VERSION}")
    db.execute("PRAGMA journal_mode = WAL")  # where it cannot be had, the older journal does as well
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute(f"PRAGMA cache_size = -{CACHE_KIB}")


def _application(db: sqlite3.Connection) -> int:
    (application,) = db.execute("PRAGMA application_id").fetchone()
    return int(application)


def _damaged(path: Path, what: object) -> IndexDamaged:
    return IndexDamaged(f"{path} is damaged ({what})", hint="it is built again with: jinshi index build")


def _errors(path: Path) -> AbstractContextManager[None]:
    """Raises IndexDamaged, IndexUnusable, InvalidRequest."""

    def refused(error: OSError) -> IndexUnusable:
        return IndexUnusable(f"{path} cannot be used ({error.strerror})", hint="check permissions")

    return translating(partial(_translated, path), refused)


def _translated(path: Path, error: sqlite3.Error) -> IndexUnusable:
    name = name_of(error)
    if name.startswith(NO_SPACE):
        return IndexUnusable(f"{path}: no space is left", hint="free space, then run it again")
    if name.startswith(_DAMAGED) or type(error) is sqlite3.DatabaseError or _lacks_table(error):
        return _damaged(path, error)
    return IndexUnusable(f"{path} cannot be used ({error})", hint="check permissions and the disk, or drop it")


def _lacks_table(error: sqlite3.Error) -> bool:
    return isinstance(error, sqlite3.OperationalError) and str(error).startswith(("no such table", "no such index"))
