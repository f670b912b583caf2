"""The tree as a source's entries make it, in SQLite: a projection, in a file or a spool of its own, disposable.

Memory is bounded however many paths there are. `state.py` keeps beside it what a scan wants to know again.
"""

from __future__ import annotations

import hashlib
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ledger.capture.files.names import ROOT, is_long, parent_of, parse_subject
from ledger.capture.files.record import RECORDED, RETIRED, Kind, Record, parse_long, parse_record, tree_line
from ledger.capture.files.sealed import SEALED, Seal, parse_seal
from ledger.capture.opened import read_data
from ledger.core.event import Event
from ledger.errors import DiskFull, Malformed, StoreUnavailable, Tampered
from ledger.sealing import Closed, Opened
from ledger.store.sqlite_common import NO_SPACE, name_of, transaction

PAGE: Final = 1_024

_ITEM = "path, place, kind, line, data"
_LINK = b'"link":'

_SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = OFF;
PRAGMA cache_size = -16384;
CREATE TABLE IF NOT EXISTS tree (
    path BLOB PRIMARY KEY, parent BLOB, place INTEGER NOT NULL, kind TEXT, size INTEGER, line BLOB, data BLOB,
    stamp BLOB, inode BLOB, dataref TEXT
);
CREATE INDEX IF NOT EXISTS children ON tree (parent) WHERE parent IS NOT NULL;
CREATE INDEX IF NOT EXISTS inodes ON tree (inode) WHERE inode IS NOT NULL;
CREATE TABLE IF NOT EXISTS known (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
"""


@dataclass(slots=True)
class Item:
    """One path of a tree. `place`: the index of its last entry; `line`: what stands for it in the tree's digest."""

    path: bytes
    place: int
    kind: Kind
    line: bytes
    data: bytes = field(repr=False)
    _record: Record | None = field(default=None, repr=False, compare=False)

    @property
    def record(self) -> Record:
        """What its data says; parsed when it is asked for, as many pass over it. Raises Malformed."""
        record = self._record
        if record is None:
            record = self._record = parse_record(self.data)
        return record

    @property
    def link(self) -> str:
        """What the names of one file share; '' where it has one name."""
        return self.record.link if _LINK in self.data else ""


class Tree:
    """Paths and what is recorded of them. Rows of retired paths stay, without a `kind`. Safe to use from threads."""

    def __init__(self, path: Path | None = None) -> None:
        """In a file; None: in a spool that goes with it. Raises StoreUnavailable."""
        self._where = str(path or "the spool of a tree")
        self._lock = threading.RLock()
        self._database = _connect(path, self._where)

    # -- folding --

    def fold(self, page: Iterable[Opened]) -> None:
        """Take in a source's next entries, in order. What is erased is gone from the tree, and counted.

        Raises:
            Tampered: an entry of a tree's type cannot be read as one.
            InvalidRequest: one is sealed, and its key is not at hand.
        """
        last: Opened | None = None
        with self.writing() as database:
            for one in page:
                self._fold(database, one)
                last = one
            if last is not None:
                note(database, folded=last.index, folded_id=last.entry.event.id)

    def _fold(self, database: sqlite3.Connection, one: Opened) -> None:
        event = one.entry.event
        if event.type not in RECORDED and event.type != SEALED:
            return
        if one.closed is Closed.ERASED:
            note(database, erased=int(self._known(database, "erased") or 0) + 1)
            with suppress(Malformed):  # a pseudonym is no path
                retire(database, parse_subject(event.subject or ""), one.index)
            return
        read_data(one, lambda data: _take(database, one.index, event, data))

    # -- asking --

    @property
    def folded(self) -> tuple[int, str] | None:
        """Index and id of the last entry taken in."""
        index, id_ = self.known("folded"), self.known("folded_id")
        return None if index is None else (int(str(index)), str(id_))

    @property
    def sealed(self) -> tuple[int, Seal] | None:
        """The last sealing entry taken in, and its index. Raises StoreUnavailable."""
        index, data = self.known("sealed"), self.known("seal")
        if index is None or not isinstance(data, bytes):
            return None
        return int(str(index)), parse_seal(data)

    @property
    def erased(self) -> int:
        """How many of its entries were erased."""
        return int(str(self.known("erased") or 0))

    def known(self, name: str) -> object:
        """What is kept under a name; None: nothing."""
        with self.reading() as database:
            return self._known(database, name)

    @staticmethod
    def _known(database: sqlite3.Connection, name: str) -> int | str | bytes | None:
        row = database.execute("SELECT value FROM known WHERE name = ?", (name,)).fetchone()
        return None if row is None else row[0]

    def find(self, path: bytes) -> Item | None:
        """What is recorded of a path; None: it is not in the tree."""
        with self.reading() as database:
            row = database.execute(
                f"SELECT {_ITEM} FROM tree WHERE path = ? AND kind IS NOT NULL",  # noqa: S608 (all ours)
                (path,),
            ).fetchone()
        return None if row is None else _item(row)

    def find_many(self, paths: Sequence[bytes]) -> list[Item]:
        """What is recorded of these paths, as far as they are in the tree, ascending; up to `PAGE` at a time."""
        marks = ",".join("?" * len(paths))
        with self.reading() as database:
            rows = database.execute(
                f"SELECT {_ITEM} FROM tree WHERE path IN ({marks}) AND kind IS NOT NULL ORDER BY path",  # noqa: S608 (all ours)
                paths,
            ).fetchall()
        return list(map(_item, rows))

    def has(self, path: bytes) -> bool:
        """Whether a path is in the tree."""
        with self.reading() as database:
            row = database.execute("SELECT 1 FROM tree WHERE path = ? AND kind IS NOT NULL", (path,)).fetchone()
        return row is not None

    def items(self, *, under: bytes = ROOT) -> Iterator[Item]:
        """The paths from one on downwards, ascending by their bytes: a directory comes before what is in it."""
        if under == ROOT:
            yield from self._items("kind IS NOT NULL")
            return
        item = self.find(under)
        if item is not None:
            yield item
        yield from self._items("path < ? AND kind IS NOT NULL", under + b"0", start=under + b"/")

    def children(self, directory: bytes) -> Iterator[Item]:
        """What is right in a directory, ascending."""
        yield from self._items("parent = ?", directory)

    def _items(self, condition: str, *values: bytes, start: bytes = b"") -> Iterator[Item]:
        yield from map(_item, self.listed(_ITEM, condition, *values, start=start))

    def summary(self) -> tuple[dict[str, int], int, bytes]:
        """How many paths of each kind, the bytes of its files, and the digest over all of it."""
        digest = hashlib.sha256()
        counts: dict[str, int] = {}
        size = 0
        for path, kind, one, line in self.listed("path, kind, size, line", "kind IS NOT NULL"):
            digest.update(tree_line(path, line))
            counts[kind] = counts.get(kind, 0) + 1
            size += one
        return counts, size, digest.digest()

    def check_parents(self) -> None:
        """Everything lies in a directory that is in the tree, unless that was erased. Raises Tampered."""
        with self.reading() as database:
            row = database.execute(
                "SELECT child.path FROM tree AS child LEFT JOIN tree AS parent ON parent.path = child.parent "
                "AND parent.kind = 'directory' WHERE child.kind IS NOT NULL AND child.path != x'' "
                "AND parent.path IS NULL LIMIT 1"
            ).fetchone()
        if row is not None and not self.erased:
            raise Tampered(
                f"{row[0]!r} is recorded, but the directory it is in is not", hint="its capture had not ended by then"
            )

    def listed(self, columns: str, condition: str, *values: bytes, start: bytes = b"") -> Iterator[tuple[Any, ...]]:
        """Columns, the path first, of the rows from a path on, ascending.

        Page by page, so that nothing is held open, and what is read may be changed meanwhile.
        """
        beyond, last = ">=", start
        while True:
            with self.reading() as database:
                page = database.execute(
                    f"SELECT {columns} FROM tree WHERE {condition} AND path {beyond} ? ORDER BY path LIMIT ?",  # noqa: S608 (all ours)
                    (*values, last, PAGE),
                ).fetchall()
            yield from page
            if len(page) < PAGE:
                return
            beyond, last = ">", page[-1][0]

    # -- the database --

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The database, for one thread at a time. Raises StoreUnavailable."""
        with self._lock, _translated(self._where):
            yield self._database

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """The same, as one transaction; undone when anything is raised. Raises StoreUnavailable, DiskFull."""
        with self.reading() as database, transaction(database):
            yield database

    def close(self) -> None:
        """Release the file."""
        with self._lock:
            self._database.close()


def _item(row: tuple[Any, ...]) -> Item:
    path, place, kind, line, data = row
    return Item(path, place, Kind(kind), line, data)


def _take(database: sqlite3.Connection, index: int, event: Event, data: bytes) -> None:
    """One more entry of a tree. Raises Malformed."""
    if event.type == SEALED:
        parse_seal(data)
        note(database, sealed=index, seal=data)
        return
    subject = event.subject or ""
    path = parse_subject(subject, parse_long(data) if is_long(subject) else None)
    if event.type == RETIRED:
        retire(database, path, index)
    else:
        put(database, path, index, data, parse_record(data), dataref=event.dataref)


def note(database: sqlite3.Connection, **values: int | str | bytes) -> None:
    """Keep values under names."""
    database.executemany("INSERT OR REPLACE INTO known VALUES (?, ?)", values.items())


def put(
    database: sqlite3.Connection,
    path: bytes,
    place: int,
    data: bytes | None,
    record: Record,
    *,
    dataref: str | None,
    stamp: bytes | None = None,
    inode: bytes | None = None,
) -> None:
    """A path as it is recorded now."""
    row = (
        path,
        None if path == ROOT else parent_of(path),
        place,
        record.kind.value,
        record.size if record.kind is Kind.FILE else 0,
        record.line(),
        data,
        stamp,
        inode,
        dataref,
    )
    database.execute("INSERT OR REPLACE INTO tree VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)


def retire(database: sqlite3.Connection, path: bytes, place: int) -> None:
    """Nothing is there any more: only where that is recorded stays."""
    database.execute("INSERT OR REPLACE INTO tree (path, place) VALUES (?, ?)", (path, place))


def _connect(path: Path | None, where: str) -> sqlite3.Connection:
    with _translated(where):
        # An empty name: SQLite keeps it in a temporary file that it removes itself, in memory while it is small.
        database = sqlite3.connect(path or "", check_same_thread=False, isolation_level=None)
        try:
            database.executescript(_SCHEMA)
        except BaseException:  # whatever it is, nobody else closes it
            database.close()
            raise
    return database


@contextmanager
def _translated(where: str) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        full = name_of(error).startswith(NO_SPACE)
        raise (DiskFull if full else StoreUnavailable)(
            f"{where} cannot be used ({error})",
            hint="free space, then run it again" if full else "delete it: it is made again from the log",
        ) from error
