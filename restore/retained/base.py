"""What the kinds share: which points are kept, and the entries of one asset.

Kept are the newest point before the horizon, every one after it, and those that marks stand for. Whatever was recorded
at or after the oldest of them stays; before it, what no kept point needs can be released, if its type is known.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from ledger.capture.base import View
from ledger.content.references import refers_to_content
from ledger.core.indexes import Indexes
from ledger.errors import DiskFull, StoreUnavailable
from ledger.sealing import Opened, Opener
from ledger.store.base import EntryStore, Selection, StoredEntry
from ledger.store.selecting import select_pages
from ledger.store.sqlite_common import NO_SPACE, name_of, transaction


@dataclass(frozen=True, slots=True)
class Keeping:
    """Which points of an asset are kept. `horizon`: how many entries the log had when its retention period began.

    `marks`: how many entries the asset is seen with at each mark that stands for a point of it.
    """

    horizon: int
    marks: tuple[int, ...] = ()


class History:
    """What a ledger's own store has of one asset. `view` is of the same store, and has the content beside it."""

    def __init__(self, entries: EntryStore, opener: Opener, view: View, source: str) -> None:
        self._entries = entries
        self._opener = opener
        self.view = view
        self.source = source

    async def newest(self, event_type: str, size: int) -> StoredEntry | None:
        """The last entry of a type among the first `size` of the log. Raises StoreUnavailable."""
        what = Selection(stop=size, source=self.source, type=event_type, newest_first=True)
        found = await self._entries.select(what, limit=1)
        return found[0] if found else None

    async def next(self, event_type: str, start: int) -> StoredEntry | None:
        """The first entry of a type from an index on. Raises StoreUnavailable."""
        found = await self._entries.select(Selection(start=start, source=self.source, type=event_type), limit=1)
        return found[0] if found else None

    async def opened_at(self, event_type: str, size: int) -> Opened | None:
        """As `newest`, opened. Raises Tampered."""
        found = await self.newest(event_type, size)
        return None if found is None else (await self.open([found]))[0]

    async def open(self, stored: Sequence[StoredEntry]) -> list[Opened]:
        """Entries as they were sent. Raises Tampered."""
        return await self._opener.open_many(stored)

    def pages(self, stop: int, event_type: str | None = None) -> AsyncIterator[Sequence[StoredEntry]]:
        """The asset's entries before an index, in order. Raises StoreUnavailable."""
        return select_pages(self._entries, Selection(stop=stop, source=self.source, type=event_type))

    async def referring(self, stop: int, event_type: str | None = None) -> AsyncIterator[Sequence[StoredEntry]]:
        """The same, those alone that refer to content."""
        async for page in self.pages(stop, event_type):
            yield [one for one in page if refers_to_content(one.entry)]


Releasable = Callable[[History, Keeping], Awaitable[Indexes]]
"""Which entries refer to content that no kept point needs, those too that are released already.

Raises:
    InvalidRequest: an entry that says what is needed is sealed, and its key is not at hand; or it was erased.
    Tampered: one cannot be read. StoreUnavailable, DiskFull: the ledger cannot be read, or a temporary file not used.
"""


# -- one thing in the place of another --------------------------------------------------------------------------------


class Place(NamedTuple):
    """An entry of something that has one after the other. `number`: what the caller wants to know of it again."""

    index: int  # type: ignore[assignment]  # in place of tuple's method, which nobody asks of it
    number: int


class Newest:
    """The newest entry of each thing (a path, a segment), in a temporary file that goes with it: bounded memory."""

    def __init__(self) -> None:
        with _translated():
            # An empty name: SQLite keeps it in a temporary file that it removes itself, in memory while it is small.
            self._database = sqlite3.connect("", check_same_thread=False, isolation_level=None)
            self._database.execute("PRAGMA journal_mode = OFF")
            self._database.execute(
                "CREATE TABLE newest (name TEXT PRIMARY KEY, place INTEGER NOT NULL, number INTEGER NOT NULL) "
                "WITHOUT ROWID"
            )

    def replace(self, page: Iterable[tuple[str, Place]]) -> list[tuple[Place, Place]]:
        """Take in entries, in order; those that have been replaced by it, each with the one in its place.

        Raises StoreUnavailable, DiskFull.
        """
        found: list[tuple[Place, Place]] = []
        with _translated(), transaction(self._database) as database:
            for name, place in page:
                row = database.execute("SELECT place, number FROM newest WHERE name = ?", (name,)).fetchone()
                if row is not None:
                    found.append((Place(*row), place))
                database.execute("INSERT OR REPLACE INTO newest VALUES (?, ?, ?)", (name, *place))
        return found

    def left(self) -> Iterator[Place]:
        """The newest of everything, which nothing has replaced. Raises StoreUnavailable."""
        with _translated():
            for row in self._database.execute("SELECT place, number FROM newest"):
                yield Place(*row)

    def close(self) -> None:
        """Remove the file."""
        self._database.close()


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        full = name_of(error).startswith(NO_SPACE)
        raise (DiskFull if full else StoreUnavailable)(
            f"a temporary file cannot be used ({error})", hint="free space there, or set TMPDIR"
        ) from error
