"""Some entries of a copy, kept in a temporary file until a view has been read: what was verified, and nothing else."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, NoReturn, TypeVar

from ledger.core.merkle import CompactRange
from ledger.errors import DiskFull, InvalidRequest, JinshiError, StoreUnavailable
from ledger.files import is_full
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
from ledger.store.sqlite_common import NO_SPACE, name_of, transaction, translating

T = TypeVar("T")

_SCHEMA = """
CREATE TABLE entry (
    position INTEGER PRIMARY KEY, source TEXT NOT NULL, subject TEXT NOT NULL, version INTEGER NOT NULL,
    type TEXT NOT NULL, id TEXT NOT NULL, actor TEXT NOT NULL, time_us INTEGER NOT NULL, recorded_us INTEGER NOT NULL,
    bytes BLOB NOT NULL
) STRICT;
CREATE INDEX by_source ON entry (source);
CREATE INDEX by_subject ON entry (source, subject);
CREATE INDEX by_type ON entry (type, source)
"""
_CONDITIONS = (
    ("start", "position >= ?"),
    ("stop", "position < ?"),
    ("source", "source = ?"),
    ("subject", "subject = ?"),
    ("actor", "actor = ?"),
    ("type", "type = ?"),
    ("version_from", "version >= ?"),
    ("version_until", "version < ?"),
    ("time_from_us", "time_us >= ?"),
    ("time_until_us", "time_us < ?"),
    ("recorded_until_us", "recorded_us < ?"),
)


class Excerpt:
    """An `EntryStore` that holds some of a log's entries at their own indexes, and takes no others once it is read.

    Unlike any other store it has gaps: `read` answers with what it has from an index on. It is never written to as a
    log is, so `claim`, `commit` and `record_checkpoint` are refused.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="excerpt")
        self._db: sqlite3.Connection | None = None
        self._tree = CompactRange.empty()

    @property
    def where(self) -> str:
        return self._where

    async def add(self, rows: Iterable[tuple[int, Row]]) -> None:
        """Take entries, each at its index; one that is there stays. Raises DiskFull, StoreUnavailable."""
        packed = [
            (
                index,
                row.source,
                row.subject,
                row.streamversion,
                row.type,
                row.id,
                row.actor,
                row.time_us,
                row.recordedtime_us,
                row.entry,
            )
            for index, row in rows
        ]
        if packed:
            await self._run(lambda db: _insert(db, packed))

    def ends(self, tree: CompactRange) -> None:
        """The whole log that this is an excerpt of."""
        self._tree = tree

    async def head(self) -> Head:
        return Head(self._tree.size, self._tree.frontier, 0, 0)

    async def select(self, what: Selection, *, limit: int) -> Sequence[StoredEntry]:
        given = [(text, getattr(what, name)) for name, text in _CONDITIONS if getattr(what, name) is not None]
        where = " AND ".join(text for text, _ in given)
        values = [bounded(value) if isinstance(value, int) else value for _, value in given]
        order = "DESC" if what.newest_first else "ASC"
        asked = f"SELECT position, bytes FROM entry WHERE {where} ORDER BY position {order} LIMIT ?"  # noqa: S608 (all ours)
        return await self._run(lambda db: [StoredEntry(*row) for row in db.execute(asked, [*values, limit])])

    async def read(self, start: int, limit: int) -> Sequence[StoredEntry]:
        return await self.select(Selection(start=start), limit=limit)

    async def read_many(self, indexes: Sequence[int]) -> Sequence[StoredEntry]:
        asked = "SELECT bytes FROM entry WHERE position = ?"

        def find(db: sqlite3.Connection) -> dict[int, bytes]:
            found = ((index, db.execute(asked, (index,)).fetchone()) for index in recordable(indexes))
            return {index: row[0] for index, row in found if row is not None}

        return in_order(indexes, await self._run(find))

    async def find_ids(self, keys: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], StoredEntry]:
        asked = "SELECT position, bytes FROM entry WHERE source = ? AND id = ?"

        def find(db: sqlite3.Connection) -> dict[tuple[str, str], StoredEntry]:
            found = ((key, db.execute(asked, key).fetchone()) for key in keys)
            return {key: StoredEntry(*row) for key, row in found if row is not None}

        return await self._run(find)

    async def stream_versions(self, streams: Sequence[StreamId]) -> Mapping[StreamId, int]:
        asked = "SELECT max(version) FROM entry WHERE source = ? AND subject = ?"
        return await self._run(lambda db: {one: db.execute(asked, one).fetchone()[0] or 0 for one in streams})

    async def rows(self, start: int, limit: int) -> Sequence[Row]:
        self._refuse("be copied on")

    async def size_at(self, recordedtime_us: int) -> int:
        self._refuse("tell how long the log was at a time")

    async def claim(self) -> int:
        self._refuse("be written")

    async def commit(self, rows: Sequence[Row], *, expected_size: int, frontier: tuple[bytes, ...], epoch: int) -> None:
        self._refuse("be written")

    async def last_checkpoint(self, origin: str) -> SignedCheckpoint | None:
        return None

    async def record_checkpoint(self, checkpoint: SignedCheckpoint, *, expected_size: int | None, epoch: int) -> None:
        self._refuse("be written")

    async def close(self) -> None:
        def end() -> None:
            if self._db is not None:
                self._db.close()

        await asyncio.get_running_loop().run_in_executor(self._thread, end)
        self._thread.shutdown()

    def _refuse(self, what: str) -> NoReturn:
        raise InvalidRequest(f"an excerpt of {self._where} cannot {what}", hint="use the ledger itself")

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._do, work)

    def _do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with translating(self._reported, self._refused):
            if self._db is None:
                self._db = sqlite3.connect("", isolation_level=None)  # a file without a name, gone with the process
                self._db.executescript(f"PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; {_SCHEMA}")
            return work(self._db)

    def _reported(self, error: sqlite3.Error) -> JinshiError:
        if name_of(error).startswith(NO_SPACE):
            return DiskFull("no room is left for temporary files", hint="free space there, or set TMPDIR")
        return StoreUnavailable(f"a temporary file cannot be used ({error})", hint="check the disk, or set TMPDIR")

    def _refused(self, error: OSError) -> JinshiError:
        kind = DiskFull if is_full(error) else StoreUnavailable
        return kind(f"a temporary file cannot be used ({error.strerror})", hint="set TMPDIR to another place")


def _insert(db: sqlite3.Connection, rows: list[tuple[Any, ...]]) -> None:
    with transaction(db):
        db.executemany("INSERT OR IGNORE INTO entry VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)


@asynccontextmanager
async def temporary_excerpt(where: str) -> AsyncIterator[Excerpt]:
    """An empty excerpt of what is at `where`, gone when the block ends. Using it raises DiskFull, StoreUnavailable."""
    excerpt = Excerpt(where)
    try:
        yield excerpt
    finally:
        await excerpt.close()
