"""Both protocols in memory: for simulations and tests, and the plainest statement of what the others must do."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import AsyncIterator, Mapping, Sequence

from ledger.errors import CompareFailed, DuplicateKeys, Fenced, ImmutableConflict, ObjectMissing
from ledger.store.base import (
    Head,
    Row,
    Selection,
    SignedCheckpoint,
    Stored,
    StoredEntry,
    StreamId,
    Tag,
    Version,
    VersionId,
    validate_key,
    validate_prefix,
)


class MemoryObjectStore:
    """An `ObjectStore` in a dictionary; durable as long as the object lives.

    `versioned`: it keeps every version, as a bucket with versioning does: deleting only hides.
    """

    def __init__(self, name: str = "memory", *, versioned: bool = False) -> None:
        self._name = name
        self._versioned = versioned
        self._objects: dict[str, bytes] = {}
        self._versions: dict[str, list[tuple[VersionId, bytes | None]]] = {}  # of each key, the oldest first
        self._written = 0

    @property
    def where(self) -> str:
        return self._name

    async def get(self, key: str) -> Stored:
        try:
            data = self._objects[validate_key(key)]
        except KeyError as error:
            raise ObjectMissing(key, where=self._name) from error
        return Stored(data, _tag(data))

    async def put_immutable(self, key: str, data: bytes) -> None:
        found = self._objects.get(validate_key(key))
        if found is None:
            self._write(key, data)
        elif found != data:
            raise ImmutableConflict(
                f"{self._name}/{key} is there already with other bytes",
                hint="run jinshi verify: one of the two is not genuine",
            )

    async def replace(self, key: str, data: bytes, *, expected: Tag | None) -> Tag:
        stored = self._objects.get(validate_key(key))
        if (None if stored is None else _tag(stored)) != expected:
            raise CompareFailed(
                f"{self._name}/{key} is not what it was", hint="somebody else has written it; try again"
            )
        self._write(key, data)
        return _tag(data)

    async def delete(self, key: str) -> None:
        if validate_key(key) in self._objects:
            del self._objects[key]
            self._keep(key, None)

    async def purge(self, key: str) -> None:
        self._objects.pop(validate_key(key), None)
        self._versions.pop(key, None)

    async def list_keys(self, prefix: str) -> AsyncIterator[str]:
        validate_prefix(prefix)
        for key in sorted(key for key in self._objects if key.startswith(prefix)):
            if key in self._objects:
                yield key

    async def list_versions(self, prefix: str) -> AsyncIterator[Version]:
        validate_prefix(prefix)
        for key in sorted(key for key in self._versions if key.startswith(prefix)):
            versions = self._versions.get(key, [])[::-1]
            for number, (version, data) in enumerate(versions):
                yield Version(key, version, current=number == 0, removed=data is None, size=len(data or b""))

    async def get_version(self, key: str, version: VersionId) -> bytes:
        data = dict(self._versions.get(validate_key(key), [])).get(version)
        if data is None:
            raise ObjectMissing(key, where=self._name)
        return data

    async def extend_lock(self, key: str, version: VersionId | None = None) -> None:
        validate_key(key)  # nothing is locked here

    def _write(self, key: str, data: bytes) -> None:
        self._objects[key] = data
        self._keep(key, data)

    def _keep(self, key: str, data: bytes | None) -> None:
        """`data` is the newest version from now on, or the only one; None: that it was deleted is."""
        self._written += 1
        new = [(VersionId(str(self._written)), data)]
        if self._versioned:
            self._versions.setdefault(key, []).extend(new)
        elif data is not None:
            self._versions[key] = new
        else:
            self._versions.pop(key, None)


def _tag(data: bytes) -> Tag:
    return Tag(hashlib.sha256(data).hexdigest())


class MemoryEntryStore:
    """An `EntryStore` in lists and dictionaries; durable as long as the object lives."""

    def __init__(self) -> None:
        self._rows: list[Row] = []
        self._ids: dict[tuple[str, str], int] = {}
        self._versions: dict[StreamId, int] = {}  # the last of each stream
        self._taken: set[tuple[StreamId, int]] = set()
        self._frontier: tuple[bytes, ...] = ()
        self._recorded_us: list[int] = []
        self._epoch = 0
        self._checkpoints: dict[str, SignedCheckpoint] = {}

    @property
    def where(self) -> str:
        return "memory"

    async def head(self) -> Head:
        return Head(len(self._rows), self._frontier, self._recorded_us[-1] if self._recorded_us else 0, self._epoch)

    async def claim(self) -> int:
        self._epoch += 1
        return self._epoch

    async def commit(self, rows: Sequence[Row], *, expected_size: int, frontier: tuple[bytes, ...], epoch: int) -> None:
        self._check_epoch(epoch)
        if len(self._rows) != expected_size:
            raise CompareFailed(f"{self.where} holds {len(self._rows)} entries, not {expected_size}")
        ids = {(row.source, row.id): index for index, row in enumerate(rows, expected_size)}
        taken = {(StreamId(row.source, row.subject), row.streamversion) for row in rows}
        if min(len(ids), len(taken)) < len(rows) or ids.keys() & self._ids.keys() or taken & self._taken:
            raise DuplicateKeys(f"{self.where}: an id or a stream version is there already")
        self._ids |= ids
        self._taken |= taken
        for stream, version in taken:
            self._versions[stream] = max(version, self._versions.get(stream, 0))
        self._rows.extend(rows)
        self._recorded_us.extend(row.recordedtime_us for row in rows)
        self._frontier = frontier

    def _check_epoch(self, epoch: int) -> None:
        if epoch != self._epoch:
            raise Fenced(f"epoch {self._epoch} writes {self.where} now; this writer's is {epoch}")

    async def find_ids(self, keys: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], StoredEntry]:
        return {key: self._stored(self._ids[key]) for key in keys if key in self._ids}

    def _stored(self, index: int) -> StoredEntry:
        return StoredEntry(index, self._rows[index].entry)

    async def stream_versions(self, streams: Sequence[StreamId]) -> Mapping[StreamId, int]:
        return {stream: self._versions.get(stream, 0) for stream in streams}

    async def read(self, start: int, limit: int) -> Sequence[StoredEntry]:
        return [self._stored(index) for index in range(start, min(start + limit, len(self._rows)))]

    async def read_many(self, indexes: Sequence[int]) -> Sequence[StoredEntry]:
        return [self._stored(index) for index in indexes if 0 <= index < len(self._rows)]

    async def rows(self, start: int, limit: int) -> Sequence[Row]:
        return self._rows[start : start + limit]

    async def select(self, what: Selection, *, limit: int) -> Sequence[StoredEntry]:
        stop = len(self._rows) if what.stop is None else min(what.stop, len(self._rows))
        indexes: Sequence[int] = range(what.start, stop)
        if what.newest_first:
            indexes = indexes[::-1]
        found: list[StoredEntry] = []
        for index in indexes:
            if len(found) == limit:
                break
            if _matches(self._rows[index], what):
                found.append(self._stored(index))
        return found

    async def size_at(self, recordedtime_us: int) -> int:
        return bisect_right(self._recorded_us, recordedtime_us)

    async def last_checkpoint(self, origin: str) -> SignedCheckpoint | None:
        return self._checkpoints.get(origin)

    async def record_checkpoint(self, checkpoint: SignedCheckpoint, *, expected_size: int | None, epoch: int) -> None:
        self._check_epoch(epoch)
        last = self._checkpoints.get(checkpoint.origin)
        if (None if last is None else last.size) != expected_size:
            raise CompareFailed(f"the last checkpoint of {checkpoint.origin} in {self.where} is another one")
        self._checkpoints[checkpoint.origin] = checkpoint

    async def close(self) -> None:
        return None


def _matches(row: Row, what: Selection) -> bool:
    return (
        what.source in (None, row.source)
        and what.subject in (None, row.subject)
        and what.actor in (None, row.actor)
        and what.type in (None, row.type)
        and (what.version_from is None or what.version_from <= row.streamversion)
        and (what.version_until is None or row.streamversion < what.version_until)
        and (what.time_from_us is None or what.time_from_us <= row.time_us)
        and (what.time_until_us is None or row.time_us < what.time_until_us)
        and (what.recorded_until_us is None or row.recordedtime_us < what.recorded_until_us)
    )
