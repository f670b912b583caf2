"""The index of the trust service: tables folded from the journal in one SQLite file, which may be deleted at any time.

Several processes may have it open; each event is folded once, with the position, in one transaction.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from ledger.errors import Malformed, StoreUnavailable
from pki.journal import Journal, Occurred
from pki.views.base import BatchTable, Table
from pki.views.book import Book

FORMAT: Final = 1
BATCH_EVENTS: Final = 512
BUSY_TIMEOUT_S: Final = 30.0
CACHE_KIB: Final = 65_536
"""Serials, keys and fingerprints are random, and so are the pages of the file that one certificate touches."""
CHECKPOINT_PAGES: Final = 8_192
"""Of 4 KiB: pages that are written again and again are copied into the file once in a while only."""
MODE: Final = 0o600
"""What is sealed in the log (names, who asked) is in the clear here. SQLite gives its other files the same mode."""


class Index:
    """The tables and the book, caught up with the journal on demand.

    `file` None: in memory. Everything here runs on one loop; a batch keeps it for some milliseconds.
    """

    def __init__(self, journal: Journal, file: Path | None, book: Book, tables: Sequence[Table]) -> None:
        self.book = book
        self._journal = journal
        self._file = file
        self._tables: tuple[Table, ...] = (book, *tables)
        self._database: sqlite3.Connection | None = None
        self._catching_up = asyncio.Lock()
        self._begun = 0
        self._caught_up: tuple[int, int] = (0, 0)

    @property
    def database(self) -> sqlite3.Connection:
        """To ask the tables on; nothing is written through it. Open after the first `catch_up`."""
        assert self._database is not None, "catch_up comes first"
        return self._database

    @property
    def reached(self) -> int:
        """How many entries of the log have been taken in, by whichever process."""
        return self._position(self.database)

    async def catch_up(self) -> int:
        """Fold what was recorded since; returns how many entries of the log have been looked at.

        Of many who ask at once, those that wait for a run to end share the next one.

        Raises:
            StoreUnavailable: the file cannot be used.
            Tampered, Unavailable, MalformedEntry: as `Journal.occurred`.
        """
        asked = self._begun
        async with self._catching_up:
            of_run, reached = self._caught_up
            if of_run > asked:  # it began after this call, and has ended
                return reached
            self._begun += 1
            reached = await self._catch_up()
            self._caught_up = self._begun, reached
            return reached

    async def _catch_up(self) -> int:
        size = (await self._journal.reader.head()).size  # before reading: what comes after is for the next time
        database = self._opened()
        start = self._position(database)
        batch: list[Occurred] = []
        if start < size:
            async for occurred in self._journal.occurred(start, size):
                batch.append(occurred)
                if len(batch) == BATCH_EVENTS:
                    self._fold(database, batch, batch[-1].place + 1)
                    batch = []
                    await asyncio.sleep(0)  # whoever waits for the loop gets it now
            self._fold(database, batch, size)
        self.book.catch_up(database)
        return max(start, size)

    def close(self) -> None:
        """Close the file."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def _opened(self) -> sqlite3.Connection:
        if self._database is None:
            try:
                self._database = self._open()
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError) or self._file is None:
                    raise StoreUnavailable(
                        f"the trust service's index {self._file} cannot be used ({error})",
                        hint="check the directory, then run it again; the index itself may be deleted",
                    ) from error
                for name in (self._file, *(self._file.with_name(self._file.name + end) for end in ("-wal", "-shm"))):
                    with suppress(FileNotFoundError):
                        name.unlink()  # no database any more: it is folded again
                self._database = self._open()
        return self._database

    def _open(self) -> sqlite3.Connection:
        if self._file is not None:
            with suppress(OSError):  # SQLite says what is wrong, should anything be
                os.close(os.open(self._file, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, MODE))
        database = sqlite3.connect(self._file or ":memory:", timeout=BUSY_TIMEOUT_S, isolation_level=None)
        try:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")  # what a crash of the machine loses is folded again
            database.execute(f"PRAGMA cache_size = {-CACHE_KIB}")
            database.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
            if database.execute("PRAGMA user_version").fetchone()[0] != self._version:
                self._make(database)
        except BaseException:
            database.close()
            raise
        return database

    @property
    def _version(self) -> int:
        """All versions in one number: SQLite keeps 31 bits."""
        version = FORMAT
        for table in self._tables:
            version = (version * 31 + table.version) % (2**31 - 1)
        return version * 8 + len(self._tables) % 8 & (2**31 - 1)

    def _make(self, database: sqlite3.Connection) -> None:
        self.book.forget()
        database.execute("BEGIN IMMEDIATE")
        for (name,) in database.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        ).fetchall():
            database.execute(f'DROP TABLE "{name}"')
        database.execute("CREATE TABLE reached (size INTEGER NOT NULL)")
        database.execute("INSERT INTO reached VALUES (0)")
        for table in self._tables:
            for statement in table.schema:
                database.execute(statement)
        database.execute(f"PRAGMA user_version = {self._version}")
        database.execute("COMMIT")

    @staticmethod
    def _position(database: sqlite3.Connection) -> int:
        return int(database.execute("SELECT size FROM reached").fetchone()[0])

    def _fold(self, database: sqlite3.Connection, batch: Sequence[Occurred], reached: int) -> None:
        database.execute("BEGIN IMMEDIATE")
        try:
            start = self._position(database)  # another process may have folded some of them
            new = [occurred for occurred in batch if occurred.place >= start]
            kinds = [_kind_of(occurred) for occurred in new]
            there = set(kinds)
            for table in self._tables:  # none looks at another one's rows
                if there.isdisjoint(table.kinds):
                    continue
                its = [one for one, kind in zip(new, kinds, strict=True) if kind in table.kinds]
                if isinstance(table, BatchTable):
                    table.fold(database, its)
                else:
                    for occurred in its:
                        table.apply(database, occurred)
            if reached > start:
                database.execute("UPDATE reached SET size = ?", (reached,))
            database.execute("COMMIT")
        except BaseException:
            database.execute("ROLLBACK")
            raise


def _kind_of(occurred: Occurred) -> str:
    """What the id of its aggregate begins with. Raises Malformed."""
    id_ = occurred.event.originator_id
    kind, separator, _ = id_.partition(":")
    if not separator:
        raise Malformed(f"{id_!r} is no id of the trust service")
    return kind
