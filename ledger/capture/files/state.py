"""What a capture of a tree remembers from one scan to the next: the tree as recorded, and what each file looked like.

It may be deleted: then the tree is folded from the log again, everything is read again, and nothing is recorded twice.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from ledger.capture.files.names import ROOT, parent_of
from ledger.capture.files.record import Record, parse_record
from ledger.capture.files.tree import Tree, note, put, retire
from ledger.content import Content
from ledger.core.event import Event
from ledger.errors import StoreUnavailable
from ledger.store.sqlite_common import is_useless, remove_database

NAME: Final = "files.sqlite"
COARSE_NS: Final = 2_000_000_000

_PENDING = """
CREATE TEMP TABLE pending (number INTEGER PRIMARY KEY, path BLOB NOT NULL UNIQUE, listed INTEGER NOT NULL DEFAULT 0);
CREATE INDEX temp.waiting ON pending (number) WHERE listed = 0;
"""
_STAMP = struct.Struct(">QQQqq")
_INODE = struct.Struct(">QQ")


def stamp_of(found: os.stat_result) -> bytes:
    """What tells whether a file was changed: device, inode, size, and both times."""
    return _STAMP.pack(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def inode_of(found: os.stat_result) -> bytes | None:
    """What several names of one file share; None: it has one name only."""
    return _INODE.pack(found.st_dev, found.st_ino) if found.st_nlink > 1 else None


def same_inode(stamp: bytes | None, found: os.stat_result) -> bool:
    """Whether a stamp is of this very file or directory."""
    return stamp is not None and stamp[: _INODE.size] == stamp_of(found)[: _INODE.size]


def is_settled(found: os.stat_result, began_ns: int) -> bool:
    """Whether a change from now on would change its stamp: not if it was changed within the same tick of the clock.

    `began_ns`: the clock of files (`State.now_ns`) before anything was looked at. File systems with whole seconds only
    are given two.
    """
    coarse = found.st_ctime_ns % 1_000_000_000 == 0
    return max(found.st_ctime_ns, found.st_mtime_ns) < began_ns - (COARSE_NS if coarse else 0)


class Row(NamedTuple):
    """What is remembered of a path. `kind` None: it is not in the tree; `line` b"": what is recorded is in doubt."""

    place: int
    kind: str | None
    line: bytes | None
    stamp: bytes | None


@dataclass(frozen=True, slots=True)
class Change:
    """What a scan found of one path. `record` None: it is gone. `event` None: all that is new is its stamp.

    `content`: where the event's content is; it has no dataref before that is flushed.
    """

    path: bytes
    record: Record | None
    event: Event | None
    stamp: bytes | None = None
    inode: bytes | None = None
    content: Content | None = None


class State(Tree):
    """The tree of one asset, and stamps. Used by one capture at a time."""

    def __init__(self, directory: Path) -> None:
        """Raises StoreUnavailable. A damaged file is thrown away."""
        self._directory = directory
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._probe = directory / "clock"
            self._probe.touch(mode=0o600)
        except OSError as error:
            raise StoreUnavailable(f"{directory} cannot be written ({error.strerror})", hint="check it") from error
        try:
            super().__init__(directory / NAME)
            self._begin()
        except StoreUnavailable as error:
            if not is_useless(error.__cause__):
                raise
            self.forget()

    def forget(self) -> None:
        """Begin with nothing."""
        with suppress(AttributeError):
            self.close()
        remove_database(self._directory / NAME)
        super().__init__(self._directory / NAME)
        self._begin()

    def _begin(self) -> None:
        with self.reading() as database:
            database.executescript(_PENDING)
            database.execute("INSERT OR IGNORE INTO known VALUES ('salt', ?)", (secrets.token_bytes(16),))
            (self._salt,) = database.execute("SELECT value FROM known WHERE name = 'salt'").fetchone()

    def id_of(self, path: bytes, place: int, data: bytes) -> str:
        """The id of the entry that follows the one at `place`: the same again for the same data.

        It stands in the clear, so it is salted: nobody can test what the data may be.
        """
        head = b"%b%d:%d:" % (self._salt, place, len(path))
        return hashlib.sha256(head + path + data).hexdigest()[:40]

    def now_ns(self) -> int:
        """The time as a file system tells it, which is what times of files are compared with."""
        os.utime(self._probe)
        return self._probe.stat().st_mtime_ns

    def row(self, path: bytes) -> Row | None:
        """What is remembered of a path."""
        with self.reading() as database:
            found = database.execute("SELECT place, kind, line, stamp FROM tree WHERE path = ?", (path,)).fetchone()
        return None if found is None else Row(*found)

    def twin(self, inode: bytes, stamp: bytes) -> tuple[Record, str | None] | None:
        """What was recorded of another name of the same file, when it looked the same; and its dataref."""
        with self.reading() as database:
            found = database.execute(
                "SELECT data, dataref FROM tree WHERE inode = ? AND stamp = ? AND data IS NOT NULL LIMIT 1",
                (inode, stamp),
            ).fetchone()
        return None if found is None else (parse_record(found[0]), found[1])

    def count(self, directory: bytes) -> int:
        """How many paths are remembered right in a directory."""
        with self.reading() as database:
            (count,) = database.execute("SELECT count(*) FROM tree WHERE parent = ?", (directory,)).fetchone()
        return int(count)

    def names(self, directory: bytes) -> Iterator[bytes]:
        """Their paths, ascending."""
        yield from self._paths("parent = ?", directory)

    def below(self, path: bytes) -> Iterator[bytes]:
        """Every path below one, ascending."""
        if path == ROOT:
            yield from self._paths("parent IS NOT NULL")
        else:
            yield from self._paths("parent IS NOT NULL AND path < ?", path + b"0", start=path + b"/")

    def _paths(self, condition: str, *values: bytes, start: bytes = b"") -> Iterator[bytes]:
        yield from (path for (path,) in self.listed("path", condition, *values, start=start))

    def begin(self) -> None:
        """A new scan: no directory is listed yet."""
        with self.reading() as database:
            database.execute("DELETE FROM temp.pending")

    def push(self, path: bytes) -> None:
        """One more directory to be listed, once in a scan; forgotten with this process."""
        with self.reading() as database:
            database.execute("INSERT OR IGNORE INTO temp.pending (path) VALUES (?)", (path,))

    def pop(self) -> bytes | None:
        """The one pushed last, so that what waits is what lies beside the way down; None: there is none."""
        with self.reading() as database:
            row = database.execute(
                "SELECT number, path FROM temp.pending WHERE listed = 0 ORDER BY number DESC LIMIT 1"
            ).fetchone()
            if row is None:
                return None
            database.execute("UPDATE temp.pending SET listed = 1 WHERE number = ?", (row[0],))
        return bytes(row[1])

    def apply(self, changes: Iterable[tuple[Change, int]]) -> None:
        """What is recorded now, with the index of its entry; or new stamps only."""
        with self.writing() as database:
            for change, index in changes:
                event = change.event
                if event is None:
                    database.execute(
                        "UPDATE tree SET stamp = ?, inode = ? WHERE path = ?", (change.stamp, change.inode, change.path)
                    )
                elif change.record is None:
                    retire(database, change.path, index)
                else:
                    put(
                        database,
                        change.path,
                        index,
                        event.data if change.inode is not None else None,  # `twin` asks for it, and nobody else
                        change.record,
                        dataref=event.dataref,
                        stamp=change.stamp,
                        inode=change.inode,
                    )

    def doubt(self, changes: Iterable[Change]) -> None:
        """It is not known whether these were recorded: the next scan records them again, or what is there by then."""
        with self.writing() as database:
            for change in changes:
                if change.event is None:
                    continue
                database.execute(
                    "INSERT INTO tree (path, parent, place, kind, size, line, data) "
                    "VALUES (?, ?, -1, NULL, 0, x'', NULL) "
                    "ON CONFLICT (path) DO UPDATE SET line = x'', stamp = NULL, inode = NULL, parent = excluded.parent",
                    (change.path, None if change.path == ROOT else parent_of(change.path)),
                )
            note(database, doubts=1)

    @property
    def doubts(self) -> bool:
        """Whether anything is in doubt."""
        return self.known("doubts") is not None

    def settle(self) -> bytes | None:
        """After a whole scan, which recorded what was in doubt. A path that is still in doubt; None: there is none."""
        with self.writing() as database:
            row: tuple[bytes] | None = database.execute("SELECT path FROM tree WHERE line = x'' LIMIT 1").fetchone()
            if row is None:
                database.execute("DELETE FROM known WHERE name = 'doubts'")
        return None if row is None else row[0]

    def note(self, **values: int | str | bytes) -> None:
        """Keep values under names."""
        with self.writing() as database:
            note(database, **values)

    def reached(self, index: int, id_: str) -> None:
        """The entry taken in last, where it is later than what was."""
        folded = self.folded
        if folded is None or index > folded[0]:
            self.note(folded=index, folded_id=id_)
