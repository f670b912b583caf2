"""Which chunk lies in which pack: a projection of the packs in SQLite, disposable, in bounded memory.

Nothing rests on it: without it, or with segments lost, the packs' own tables say the same.
"""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
import threading
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from ledger.core.chunks import ContentKeys
from ledger.core.manifest import INDEX, LISTS, PACKS, pack_key
from ledger.core.packs import PackTable, open_segment, open_table
from ledger.errors import ObjectMissing, StoreUnavailable, Tampered
from ledger.store.base import ObjectStore
from ledger.store.sqlite_common import transaction
from ledger.store.versions import read_checked
from ledger.tasks import run_bounded

BUSY_TIMEOUT_S: Final = 60.0
"""How long a write waits for another process's."""
PACKS_PARALLEL: Final = 2
"""How many packs are held at once while their tables are read."""

_SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
PRAGMA cache_size = -8192;
CREATE TABLE IF NOT EXISTS packs (number INTEGER PRIMARY KEY, name BLOB NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS segments (name BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS chunks (
    id BLOB NOT NULL, pack INTEGER NOT NULL, place INTEGER NOT NULL, size INTEGER NOT NULL, length INTEGER NOT NULL,
    PRIMARY KEY (id, pack)
) WITHOUT ROWID;
"""
_LOCATED: Final = "id, name, place, size, length FROM chunks JOIN packs ON number = pack"


class Location(NamedTuple):
    """Where a chunk's blob is."""

    pack: bytes
    offset: int
    size: int
    length: int


class ChunkIndex:
    """In a file of its own, or in a temporary one, which goes by itself. For any threads and processes at once."""

    def __init__(self, path: Path | None = None) -> None:
        """Raises StoreUnavailable: the file cannot be used; it can be deleted at any time."""
        self._where = str(path or "a temporary file")
        self._lock = threading.Lock()
        try:
            self._database = sqlite3.connect(
                path or "", check_same_thread=False, isolation_level=None, timeout=BUSY_TIMEOUT_S
            )
            self._database.executescript(_SCHEMA)
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def find(self, id_: bytes, *, excluded: Collection[bytes] = ()) -> Location | None:
        """Where the chunk is, in a pack that is not among `excluded`; None: nowhere."""
        with self._lock:
            try:
                found = self._database.execute(
                    "SELECT name, place, size, length FROM chunks JOIN packs ON number = pack WHERE id = ?", (id_,)
                ).fetchall()
            except sqlite3.Error as error:
                raise self._unusable(error) from error
        return next((Location(*row) for row in found if row[0] not in excluded), None)

    def find_many(self, ids: Sequence[bytes]) -> dict[bytes, Location]:
        """Where these chunks are, as far as they are anywhere; up to 32,766 at a time."""
        statement = f"SELECT {_LOCATED} WHERE id IN ({','.join('?' * len(ids))})"  # noqa: S608 (all ours)
        with self._lock:
            try:
                found = self._database.execute(statement, ids).fetchall()
            except sqlite3.Error as error:
                raise self._unusable(error) from error
        return {row[0]: Location(*row[1:]) for row in reversed(found)}

    def add(self, tables: Iterable[PackTable], *, segment: bytes | None = None) -> None:
        """Packs that are stored, with their tables; those known already are left as they are."""
        with self._lock:
            try:
                with transaction(self._database):
                    for table in tables:
                        self._add(table)
                    if segment is not None:
                        self._database.execute("INSERT OR IGNORE INTO segments VALUES (?)", (segment,))
            except sqlite3.Error as error:
                raise self._unusable(error) from error

    def _add(self, table: PackTable) -> None:
        added = self._database.execute("INSERT OR IGNORE INTO packs (name) VALUES (?)", (table.pack,))
        if not added.rowcount:
            return
        number = added.lastrowid
        rows = ((blob.id, number, blob.offset, blob.size, blob.length) for blob in table.blobs)
        self._database.executemany("INSERT OR IGNORE INTO chunks VALUES (?, ?, ?, ?, ?)", rows)

    def forget(self, packs: Collection[bytes]) -> None:
        """Packs that are there no longer."""
        with self._lock:
            try:
                with transaction(self._database):
                    for pack in packs:
                        row = self._database.execute("SELECT number FROM packs WHERE name = ?", (pack,)).fetchone()
                        if row is not None:
                            self._database.execute("DELETE FROM packs WHERE number = ?", row)
                    # One pass over all of them: chunks are found by id, not by pack.
                    self._database.execute("DELETE FROM chunks WHERE pack NOT IN (SELECT number FROM packs)")
            except sqlite3.Error as error:
                raise self._unusable(error) from error

    def packs(self) -> set[bytes]:
        """The packs it knows."""
        with self._lock:
            return {row[0] for row in self._database.execute("SELECT name FROM packs")}

    def segments(self) -> set[bytes]:
        """The index segments it has taken in."""
        with self._lock:
            return {row[0] for row in self._database.execute("SELECT name FROM segments")}

    def rows(self) -> set[tuple[bytes, Location]]:
        """Everything it knows, for comparisons; memory: all of it."""
        with self._lock:
            found = self._database.execute(f"SELECT {_LOCATED}")  # noqa: S608 (all ours)
            return {(row[0], Location(*row[1:])) for row in found}

    def close(self) -> None:
        """Release the file."""
        with self._lock:
            self._database.close()

    def _unusable(self, error: sqlite3.Error) -> StoreUnavailable:
        if getattr(self, "_database", None) is not None and self._database.in_transaction:
            self._database.rollback()
        return StoreUnavailable(
            f"the index of chunks in {self._where} cannot be used ({error})",
            hint="delete it: it is made again from the packs",
        )


@dataclass(slots=True)
class Synced:
    """What taking in a store's packs came to. `damaged`: objects that could not be read as what they should be."""

    packs: int = 0
    from_segments: int = 0
    from_packs: int = 0
    damaged: list[Tampered] = field(default_factory=list)


async def synchronise(index: ChunkIndex, objects: ObjectStore, keys: ContentKeys) -> Synced:
    """Take in every pack of a store: from index segments where there are any, else from the pack itself.

    Packs that are gone are forgotten. A damaged pack or segment is left out and named in the answer: nothing new will
    refer to it.

    Raises:
        StoreUnavailable: the store cannot be read.
    """
    synced = Synced()
    listed = await digests_under(objects, PACKS)
    known = index.packs()
    if gone := known - listed:
        await asyncio.to_thread(index.forget, gone)
        known -= gone
    for segment in sorted(await digests_under(objects, INDEX) - index.segments()):
        lacking = listed - known
        try:
            tables = await _read_segment(objects, keys, segment)
        except Tampered as error:
            synced.damaged.append(error)
            continue
        except ObjectMissing:
            continue
        taken = [table for table in tables if table.pack in lacking]
        await asyncio.to_thread(index.add, taken, segment=segment)
        known |= {table.pack for table in taken}
        synced.from_segments += len(taken)

    async def read(pack: bytes) -> None:
        try:
            table = await _read_table(objects, keys, pack)
        except Tampered as error:
            synced.damaged.append(error)
        except ObjectMissing:
            return
        else:
            await asyncio.to_thread(index.add, [table])
            synced.from_packs += 1

    await run_bounded((read(pack) for pack in sorted(listed - known)), parallel=PACKS_PARALLEL)
    synced.packs = len(index.packs())
    return synced


async def digests_under(objects: ObjectStore, prefix: str) -> set[bytes]:
    """The objects of a folder that are named by a digest."""
    found: set[bytes] = set()
    async for key in objects.list_keys(prefix):
        digest = digest_of(key, prefix)
        if digest is not None:
            found.add(digest)
    return found


def digest_of(key: str, prefix: str) -> bytes | None:
    """The digest that an object of a folder is named by; None: it is no object of ours."""
    name = key.removeprefix(prefix)
    return bytes.fromhex(name) if len(name) == 64 and set(name) <= set("0123456789abcdef") else None


def digest_named(key: str) -> bytes | None:
    """The SHA-256 that the bytes of an object of the content store have, by its key; None: it is no such object."""
    found = (digest_of(key, prefix) for prefix in (PACKS, LISTS, INDEX) if key.startswith(prefix))
    return next(found, None)


async def _read_segment(objects: ObjectStore, keys: ContentKeys, name: bytes) -> tuple[PackTable, ...]:
    data = await read_digest(objects, INDEX + name.hex(), name)
    return open_segment(keys, data)


async def _read_table(objects: ObjectStore, keys: ContentKeys, name: bytes) -> PackTable:
    data = await read_digest(objects, pack_key(name), name)
    try:
        return PackTable(name, await asyncio.to_thread(open_table, keys, data))
    except Tampered as error:
        raise Tampered(
            f"{objects.where}/{pack_key(name)}: {error.what}", key=pack_key(name), hint=error.hint
        ) from error


async def read_digest(objects: ObjectStore, key: str, digest: bytes) -> bytes:
    """An object that is named by the SHA-256 of its bytes. Raises ObjectMissing; Tampered: it is another one."""

    def check(data: bytes) -> bytes:
        if hashlib.sha256(data).digest() != digest:
            raise Tampered(
                f"{objects.where}/{key} is damaged: its bytes do not have the digest it is named by",
                key=key,
                hint="heal it from another copy: jinshi scrub",
            )
        return data

    return (await read_checked(objects, key, check))[0]
