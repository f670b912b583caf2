"""What must hold after a life has ended, in whatever way: checked from the files alone, by somebody who remembers."""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from cli.system import SystemClock
from ledger.core.checkpoint import CHECKPOINT, Checkpoint, parse_checkpoint
from ledger.core.entry import decode_entry
from ledger.core.merkle import CompactRange
from ledger.core.note import verify_signature
from ledger.errors import ObjectMissing
from ledger.store.base import ObjectStore
from ledger.verify import verify_copy, verify_growth
from replication.memory import COSIGNED
from restore.fetch import open_site
from tests.fault import worker

SENT_COMPARED = 10_000

_RECORDS = """
SELECT position, id, source.text, subject, version, type.text, actor.text, time_us, recorded_us FROM record
JOIN name AS source ON source.number = record.source
JOIN name AS type ON type.number = record.type
JOIN name AS actor ON actor.number = record.actor
ORDER BY position
"""


@dataclass(slots=True)
class StoreFile:
    """An entry store's file, read with nothing but sqlite3 and hashlib, and remembered."""

    path: Path
    ids: list[str] = field(default_factory=list)
    leaves: list[bytes] = field(default_factory=list)
    trees: list[CompactRange] = field(default_factory=lambda: [CompactRange.empty()])  # as seen, ascending
    note: bytes | None = None

    @property
    def size(self) -> int:
        return len(self.leaves)

    def read(self, *, whole: bool) -> None:
        """Take in what was added; `whole`: read again what was there before, too.

        Raises AssertionError: there is a gap or a duplicate, an entry has changed or gone, or the head is wrong.
        """
        if not self.path.exists():
            assert self.size == 0, f"{self.path.name} is gone"
            return
        with closing(sqlite3.connect(self.path)) as db:
            assert whole is False or db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            if db.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,):
                return  # killed before its tables were made
            ids, leaves = self._entries(db, 0 if whole else self.size)
            if whole:
                assert (ids[: self.size], leaves[: self.size]) == (self.ids, self.leaves), "what was recorded changed"
                self.ids, self.leaves = ids, leaves
            else:
                self.ids += ids
                self.leaves += leaves
            count = db.execute("SELECT count(*), count(DISTINCT id), max(position) + 1 FROM record").fetchone()
            assert count in {(self.size, self.size, self.size), (0, 0, None)}, "entries are lost, or recorded twice"
            size, frontier = db.execute("SELECT size, frontier FROM head").fetchone()
            assert size == self.size, f"the head is at {size}, not at {self.size}"
            assert b"".join(self.tree_at(size).frontier) == frontier, "the head's tree is not that of the entries"
            note = db.execute("SELECT note FROM checkpoint WHERE origin = ?", (worker.ORIGIN,)).fetchone()
            self.note = note[0] if note else None

    def _entries(self, db: sqlite3.Connection, start: int) -> tuple[list[str], list[bytes]]:
        ids: list[str] = []
        leaves: list[bytes] = []
        sql = "SELECT position, id, data, leaf FROM entry LEFT JOIN record USING (position) WHERE position >= ?"
        for position, id_, data, leaf in db.execute(f"{sql} ORDER BY position", (start,)):
            assert position == start + len(leaves), f"a gap: entry {start + len(leaves)} is missing in {self.path.name}"
            assert id_ is not None
            assert hashlib.sha256(b"\0" + data).digest() == leaf
            ids.append(id_)
            leaves.append(leaf)
        return ids, leaves

    def tree_at(self, size: int) -> CompactRange:
        """The tree over the first `size` entries."""
        assert size <= self.size, f"a tree of {size} entries is signed for, {self.size} are there"
        before = max((tree for tree in self.trees if tree.size <= size), key=lambda tree: tree.size)
        if before.size == size:
            return before
        tree = before.extend(self.leaves[before.size : size])
        self.trees.append(tree)
        return tree


@dataclass(slots=True)
class Witness:
    """Remembers what it saw after earlier lives: nothing of it may ever change or go back."""

    root: Path
    primary: StoreFile = field(init=False)
    restored: StoreFile = field(init=False)
    _books_read: int = 0
    _sizes: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.primary = StoreFile(self.root / "ledger.sqlite")
        self.restored = StoreFile(self.root / "restored.sqlite")

    async def check(self, *, whole: bool) -> None:
        """Raises AssertionError or JinshiError. `whole`: every entry of every copy again, not only what was added."""
        self.primary.read(whole=whole)
        self._check_books(whole=whole)
        if self.primary.note is not None:
            self._check_note("the last signed checkpoint", self.primary.note)
        await self._check_published(whole=whole)
        for name in worker.SITES:
            await self._check_site(name, whole=whole)
        self.restored.read(whole=whole)
        size = self.restored.size
        assert self.restored.tree_at(size) == self.primary.tree_at(size), "what was restored is not the primary's"

    def drop_restored(self) -> None:
        """Throw the restored store away, so that the next restore begins anew."""
        for file in self.root.glob("restored.sqlite*"):
            file.unlink()
        self.restored = StoreFile(self.restored.path)

    def check_caught_up(self) -> None:
        """After a life that came through: everything that was recorded is published, and at every site."""
        size = self.primary.size
        assert self._sizes == {"published": size, **{f"site {name}": size for name in worker.SITES}}
        assert self.restored.size == size

    def check_equal(self) -> None:
        """The restored store is the primary's, byte for byte, and holds what the callers sent."""
        with closing(sqlite3.connect(self.primary.path)) as db:
            entries = db.execute("SELECT * FROM entry ORDER BY position").fetchall()
            records = db.execute(_RECORDS).fetchall()
        with closing(sqlite3.connect(self.restored.path)) as db:
            assert db.execute("SELECT * FROM entry ORDER BY position").fetchall() == entries
            assert db.execute(_RECORDS).fetchall() == records
        # Bytes, not only hashes: exactly what the callers sent. Of a large ledger, some thousands will do.
        for position, data, _ in entries[:: 1 + len(entries) // SENT_COMPARED]:
            recorded, sent = decode_entry(data).event, worker.event(position)
            assert (recorded.id, recorded.subject, recorded.data) == (sent.id, sent.subject, sent.data)

    def _check_books(self, *, whole: bool) -> None:
        """Everything that callers hold receipts for is where the receipts say."""
        file = self.root / "acknowledged"
        data = file.read_bytes() if file.exists() else b""
        lines = data.splitlines(keepends=True)
        if lines and not lines[-1].endswith(b"\n"):
            lines.pop()  # the caller was killed while it wrote this down
        for line in lines[0 if whole else self._books_read :]:
            id_, index_text, leaf = line.decode().split()
            index = int(index_text)
            assert index < self.primary.size, f"{id_}, acknowledged at {index}, is lost"
            assert (self.primary.ids[index], self.primary.leaves[index].hex()) == (id_, leaf), f"{id_} has moved"
        self._books_read = len(lines)

    async def _check_published(self, *, whole: bool) -> None:
        objects = worker.prefixed(worker.published_in(self.root))
        try:
            note = (await objects.get(CHECKPOINT)).data
        except ObjectMissing:
            assert "published" not in self._sizes, "the published checkpoint is gone"
            return
        assert self.primary.note is not None, "a checkpoint is shown that was never recorded"
        checkpoint = self._check_note("the published checkpoint", note)
        assert checkpoint.size <= parse_checkpoint(self.primary.note).checkpoint.size
        await self._check_copy("published", objects, checkpoint, whole=whole)

    async def _check_site(self, name: str, *, whole: bool) -> None:
        place = f"site {name}"
        objects = worker.prefixed(worker.site_objects(self.root, name))
        try:
            shown = (await objects.get(CHECKPOINT)).data
        except ObjectMissing:
            assert place not in self._sizes, f"the checkpoint of {place} is gone"
            return
        copy = await open_site(objects, worker.POLICY, worker.ORIGIN, now=SystemClock().now())
        self._check_note(place, shown)
        remembered = (await worker.prefixed(worker.mirror_state(self.root, name)).get(COSIGNED)).data
        assert copy.checkpoint.size <= self._check_note(f"the mirror of {place}", remembered).size
        await self._check_copy(place, objects, copy.checkpoint, whole=whole)

    def _check_note(self, what: str, note: bytes) -> Checkpoint:
        """Signed by the log, of a beginning of what the primary has."""
        opened = parse_checkpoint(note)
        assert verify_signature(opened.note, worker.SIGNER.key), f"{what} is not signed by the log"
        assert opened.checkpoint.root == self.primary.tree_at(opened.checkpoint.size).root(), f"{what} is of another"
        return opened.checkpoint

    async def _check_copy(self, place: str, objects: ObjectStore, checkpoint: Checkpoint, *, whole: bool) -> None:
        known = self._sizes.get(place, 0)
        assert checkpoint.size >= known, f"{place} has gone back from {known} to {checkpoint.size} entries"
        if whole:
            await verify_copy(objects, checkpoint)
        else:
            await verify_growth(objects, (known, self.primary.tree_at(known).root()), checkpoint)
        self._sizes[place] = checkpoint.size
