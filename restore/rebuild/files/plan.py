"""What a restore has to do, path by path: a spool of its own, in bounded memory."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from enum import StrEnum
from itertools import islice
from typing import Any, NamedTuple

from ledger.capture.files.names import PATH_SIZE_MAX, ROOT, parent_of, path_of, shown
from ledger.capture.files.record import Kind
from ledger.capture.files.tree import PAGE, Item, Tree
from ledger.errors import InvalidRequest
from ledger.store.sqlite_common import transaction

DIFFERENCES_MAX = 10_000
_BEYOND = b"\xff" * (PATH_SIZE_MAX + 1)
"""What comes after every path."""

_SCHEMA = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE plan (
    path BLOB PRIMARY KEY, kind TEXT NOT NULL, action TEXT NOT NULL, stamp BLOB, missing TEXT NOT NULL DEFAULT ''
) WITHOUT ROWID;
CREATE TABLE files (inode BLOB PRIMARY KEY, link TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE leaders (link TEXT PRIMARY KEY, path BLOB NOT NULL, inode BLOB) WITHOUT ROWID;
"""
_SET = "INSERT INTO plan (path, kind, action, stamp) VALUES (?, ?, ?, ?)"
_DONE = "UPDATE plan SET action = 'keep', stamp = ?, missing = ? WHERE path = ?"


class Action(StrEnum):
    """What is to be done with a path."""

    KEEP = "keep"
    ATTRIBUTES = "attributes"
    LINK = "link"
    WRITE = "write"


class Step(NamedTuple):
    """One path. `stamp`: what its content was verified with; `missing`: attributes the place did not take."""

    action: Action
    stamp: bytes | None
    missing: tuple[str, ...]


class Plan:
    """What is wanted of a tree, and the step for each path of it. Safe to use from threads."""

    def __init__(self, tree: Tree, only: Sequence[str]) -> None:
        """Raises InvalidRequest: a part does not exist."""
        self._tree = tree
        self._parts = _parts(tree, only)
        self._lock = threading.Lock()
        self._database = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        self._database.executescript(_SCHEMA)
        self._statement = ""
        self._waiting: list[Sequence[object]] = []
        self.differences = Differences()

    @property
    def whole(self) -> bool:
        """Whether all of the tree is wanted."""
        return self._parts == [ROOT]

    def wanted(self) -> Iterator[Item]:
        """What is wanted, ascending by path: of parts, the directories that lead to them too."""
        for part in self._parts:
            yield from self._above(part)
            yield from self._tree.items(under=part)

    def _above(self, part: bytes) -> Iterator[Item]:
        """The directories on the way to a part that no other part before it has led to."""
        position = self._parts.index(part)
        led = _ways(self._parts[position - 1]) if position else set()
        for way in sorted(_ways(part) - led):
            item = self._tree.find(way)
            if item is not None:
                yield item

    def directories(self, *, deepest_first: bool = False) -> Iterator[bytes]:
        """The directories among what has a step, ascending; or those in others before these."""
        return self._paths("kind = ?", (Kind.DIRECTORY.value,), reverse=deepest_first)

    def todo(self, action: Action, *kinds: Kind) -> Iterator[Item]:
        """What has that step, by path, kind after kind."""
        for kind in kinds:
            paths = self._paths("action = ? AND kind = ?", (action.value, kind.value))
            while page := list(islice(paths, PAGE)):
                yield from self._tree.find_many(page)

    def item(self, path: bytes) -> Item:
        """What is recorded of a path that has a step."""
        item = self._tree.find(path)
        assert item is not None, "only what is in the tree has a step"
        return item

    def _paths(self, condition: str, values: tuple[str, ...], *, reverse: bool = False) -> Iterator[bytes]:
        """Page by page, so that steps can be set meanwhile."""
        order, beyond, last = ("DESC", "<", _BEYOND) if reverse else ("ASC", ">=", b"")
        while True:
            page = self._rows(
                f"SELECT path FROM plan WHERE {condition} AND path {beyond} ? ORDER BY path {order} LIMIT ?",  # noqa: S608 (all ours)
                (*values, last, PAGE),
            )
            yield from (path for (path,) in page)
            if len(page) < PAGE:
                return
            last, beyond = page[-1][0], "<" if reverse else ">"

    def leads_to(self, path: bytes) -> bool:
        """Whether a directory is only on the way to what is wanted: what it has beside that is left alone."""
        return not any(part in (ROOT, path) or path.startswith(part + b"/") for part in self._parts)

    def set(self, item: Item, action: Action, stamp: bytes | None = None) -> None:
        """The first step for a path."""
        self._later(_SET, (item.path, item.kind.value, action.value, stamp))

    def done(self, path: bytes, stamp: bytes | None, missing: Sequence[str] = ()) -> None:
        """It is there: with what its content was verified, and what the place did not take."""
        self._later(_DONE, (stamp, " ".join(missing), path))

    def step(self, path: bytes) -> Step:
        """The step for a path that is wanted."""
        (row,) = self._rows("SELECT action, stamp, missing FROM plan WHERE path = ?", (path,))
        return Step(Action(row[0]), row[1], tuple(row[2].split()))

    def steps(self) -> Iterator[tuple[Item, Step]]:
        """What is wanted, with its step by now."""
        wanted = self.wanted()
        while page := list(islice(wanted, PAGE)):
            marks = ",".join("?" * len(page))
            rows = self._rows(
                f"SELECT path, action, stamp, missing FROM plan WHERE path IN ({marks})",  # noqa: S608 (all ours)
                [item.path for item in page],
            )
            found = {path: Step(Action(action), stamp, tuple(missing.split())) for path, action, stamp, missing in rows}
            yield from ((item, found[item.path]) for item in page)

    def knows(self, path: bytes) -> bool:
        """Whether a path below what is wanted is in the tree."""
        return self._tree.has(path)

    def leader(self, link: str) -> tuple[bytes, bytes | None] | None:
        """The first name of a file with several, and the inode that stays; None: there was none yet."""
        found: list[tuple[bytes, bytes | None]] = self._rows("SELECT path, inode FROM leaders WHERE link = ?", (link,))
        return found[0] if found else None

    def lead(self, link: str, path: bytes) -> None:
        """This is the first name of a file."""
        self._rows("INSERT INTO leaders (link, path) VALUES (?, ?)", (link, path))

    def stay(self, link: str, inode: bytes) -> None:
        """The file that is there stays, for all its names."""
        self._rows("UPDATE leaders SET inode = ? WHERE link = ?", (inode, link))

    def claim(self, inode: bytes, link: str) -> bool:
        """Whether a file that is there is nobody else's by now: two that were one file are written apart."""
        self._rows("INSERT OR IGNORE INTO files VALUES (?, ?)", (inode, link))
        ((found,),) = self._rows("SELECT link FROM files WHERE inode = ?", (inode,))
        return bool(found == link)

    def _rows(self, statement: str, values: Sequence[object]) -> list[Any]:
        """For one thread at a time."""
        with self._lock:
            self._write()
            return self._database.execute(statement, values).fetchall()

    def _later(self, statement: str, values: Sequence[object]) -> None:
        """To be written together with others, before anything is read."""
        with self._lock:
            if statement != self._statement or len(self._waiting) == PAGE:
                self._write()
            self._statement = statement
            self._waiting.append(values)

    def _write(self) -> None:
        if self._waiting:
            with transaction(self._database):
                self._database.executemany(self._statement, self._waiting)
            self._waiting.clear()

    def close(self) -> None:
        """Remove the spool."""
        self._database.close()


class Differences:
    """Lines about what is, or would be, done: the first ten thousand."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._count = 0
        self.counts: dict[str, int] = {}

    def add(self, what: str, path: bytes, more: str = "") -> None:
        """One more."""
        self.counts[what] = self.counts.get(what, 0) + 1
        self._count += 1
        if len(self._lines) < DIFFERENCES_MAX:
            self._lines.append(f"{what} {shown(path)}{more}")

    def lines(self) -> tuple[str, ...]:
        """All of them, and how many more."""
        more = self._count - len(self._lines)
        return (*self._lines, *([f"and {more} more"] if more else ()))


def _parts(tree: Tree, only: Sequence[str]) -> list[bytes]:
    if not only:
        return [ROOT]
    parts: set[bytes] = set()
    for text in only:
        path = path_of(text)
        if tree.find(path) is None:
            raise InvalidRequest(f"{text!r} is not in the tree at that point", hint="list what is: jinshi browse NAME")
        parts.add(path)
    # A part within another one is restored with it.
    return sorted(part for part in parts if not any(way in parts for way in {*_ways(part)} - {part}))


def _ways(path: bytes) -> set[bytes]:
    """The directories a path is in, the root among them."""
    ways: set[bytes] = set()
    while path:
        path = parent_of(path)
        ways.add(path)
    return ways
