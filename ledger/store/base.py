"""The two storage protocols and their guarantees. Every driver passes the contract suite of its protocol.

Storage drivers translate their own failures: no space left -> `DiskFull`; anything else that could not be read or
written -> `StoreUnavailable`. No other exception leaves a driver, but the ones each method names.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, NewType, Protocol, runtime_checkable

from ledger.errors import InvalidRequest, ObjectMissing

Tag = NewType("Tag", str)
"""Opaque version of an object's content, for compare-and-swap (an HTTP ETag, or a digest)."""

VersionId = NewType("VersionId", str)
"""Opaque name of one version of an object, unique among the versions of its key."""

KEY_LENGTH_MAX = 512
SEGMENT_LENGTH_MAX = 200
"""A file's name has at most 255 bytes, and a store may need some for its own ends."""

_SEGMENT = rf"[A-Za-z0-9_][A-Za-z0-9_.\-]{{0,{SEGMENT_LENGTH_MAX - 1}}}"
_KEY = re.compile(rf"{_SEGMENT}(/{_SEGMENT})*")
_PREFIX = re.compile(rf"({_SEGMENT}/)*({_SEGMENT})?")


def is_key(text: str) -> bool:
    """Whether `text` is an object key; all key rules live here.

    Relative, `/`-separated, ASCII letters, digits, `_ . -`; no segment starts with a dot or a dash, or is longer than
    200 characters; at most 512 characters.
    """
    return len(text) <= KEY_LENGTH_MAX and _KEY.fullmatch(text) is not None


def validate_key(key: str) -> str:
    """The key itself, when it is one (see `is_key`). Raises InvalidRequest."""
    if not is_key(key):
        raise InvalidRequest(f"{key!r} is not an object key", hint="letters, digits and _ . - between slashes")
    return key


def validate_prefix(prefix: str) -> str:
    """The prefix itself, when a key can begin with it: nothing reaches out of a store. Raises InvalidRequest."""
    if len(prefix) > KEY_LENGTH_MAX or not _PREFIX.fullmatch(prefix):
        raise InvalidRequest(f"no object key begins with {prefix!r}", hint="letters, digits and _ . - between slashes")
    return prefix


@dataclass(frozen=True, slots=True)
class Stored:
    """An object as read: its bytes and the tag to swap against."""

    data: bytes
    tag: Tag


class Version(NamedTuple):
    """One version of an object, as listed. `current`: it is what `get` answers with, or fails for.

    `removed`: it has no bytes, it is the mark that the object was deleted, and hides the versions before it. `size`: of
    its bytes; 0 where it has none.
    """

    key: str
    id: VersionId
    current: bool
    removed: bool
    size: int = 0


class ObjectStore(Protocol):
    """Whole objects under keys: a directory, a bucket, memory.

    Safe under concurrency, from several tasks and several processes. Durable on return: what a successful write
    stored survives kill -9 and loss of power. A write that raised may or may not have been persisted; repeating it
    is always safe. Reads see every completed write; `list_keys` may be late. No key may be a folder of another one
    (`a` and `a/b`): a store may refuse the second with StoreUnavailable.
    """

    @property
    def where(self) -> str:
        """Where this is, for people: a path or an URL, never with credentials in it."""
        ...

    async def get(self, key: str) -> Stored:
        """Raises ObjectMissing."""
        ...

    async def put_immutable(self, key: str, data: bytes) -> None:
        """Store once. The same bytes again are fine.

        Raises:
            ImmutableConflict: other bytes are stored under `key`.
        """
        ...

    async def replace(self, key: str, data: bytes, *, expected: Tag | None) -> Tag:
        """Compare-and-swap: write only while the object still has the tag `expected` (None: is not there).

        Of any number of racing callers with the same `expected` and different data, at most one wins.

        Raises:
            CompareFailed: it is no longer (or not) what was expected.
        """
        ...

    async def delete(self, key: str) -> None:
        """Remove; removing what is not there is fine."""
        ...

    async def purge(self, key: str) -> None:
        """Remove with every version a store may keep; what is not there is fine. Nothing brings it back afterwards.

        Raises:
            StoreUnavailable: a version cannot be removed (a lock on it, a permission).
        """
        ...

    def list_keys(self, prefix: str) -> AsyncIterator[str]:
        """Every key that starts with `prefix`, in ascending order of bytes. Memory: the names of a folder or two.

        What lies there under a name that is no key is passed over.

        Raises:
            InvalidRequest: no key can begin with `prefix`.
        """
        ...

    def list_versions(self, prefix: str) -> AsyncIterator[Version]:
        """Every version of every key that starts with `prefix`, those that are deleted or overwritten too.

        The versions of one key follow each other, newest first; keys ascend within a folder. Exactly one version of a
        key is `current`. A store that keeps no versions answers with the one there is. Memory: a page of them.

        Raises:
            InvalidRequest: no key can begin with `prefix`.
            StoreUnavailable: they cannot be listed (a permission of its own in S3: s3:ListBucketVersions).
        """
        ...

    async def get_version(self, key: str, version: VersionId) -> bytes:
        """The bytes of one version, current or not.

        Raises:
            ObjectMissing: there is no such version, or none with bytes.
        """
        ...

    async def extend_lock(self, key: str, version: VersionId | None = None) -> None:
        """Let the lock on an object (or on one version) run anew, for as long as the store locks such keys.

        It is never shortened, and a lock that has hardly begun stays as it is. A store that locks nothing does nothing.

        Raises:
            ObjectMissing: it is not there, and the store locks such keys.
            StoreUnavailable: it cannot be extended (a permission of its own in S3: s3:PutObjectRetention).
        """
        ...


ReadPart = Callable[[str, int, memoryview], int]
"""Reads a part of an object, from that byte on, into a buffer; blocks: for threads. How many bytes there were.

Raises ObjectMissing, StoreUnavailable.
"""


@runtime_checkable
class InParts(Protocol):
    """What an `ObjectStore` is besides where parts of objects cost no more than their bytes: a directory."""

    def in_parts(self) -> ReadPart | None:
        """What reads a part; None: what this stands in front of has whole objects only."""
        ...


def read_part_of(objects: ObjectStore) -> ReadPart | None:
    """What reads parts of objects into buffers that are used again; None: they are read whole, with `get`."""
    return objects.in_parts() if isinstance(objects, InParts) else None


class Prefixed:
    """Everything under a prefix of an object store, as an `ObjectStore` of its own."""

    def __init__(self, inner: ObjectStore, prefix: str) -> None:
        assert prefix.endswith("/")
        self._inner = inner
        self._prefix = validate_key(prefix[:-1]) + "/"

    @property
    def where(self) -> str:
        return f"{self._inner.where}/{self._prefix[:-1]}"

    async def get(self, key: str) -> Stored:
        try:
            return await self._inner.get(self._prefix + validate_key(key))
        except ObjectMissing as error:
            raise ObjectMissing(key, where=self.where) from error

    def in_parts(self) -> ReadPart | None:
        read_part = read_part_of(self._inner)
        if read_part is None:
            return None

        def read(key: str, offset: int, buffer: memoryview) -> int:
            try:
                return read_part(self._prefix + validate_key(key), offset, buffer)
            except ObjectMissing as error:
                raise ObjectMissing(key, where=self.where) from error

        return read

    async def put_immutable(self, key: str, data: bytes) -> None:
        await self._inner.put_immutable(self._prefix + validate_key(key), data)

    async def replace(self, key: str, data: bytes, *, expected: Tag | None) -> Tag:
        return await self._inner.replace(self._prefix + validate_key(key), data, expected=expected)

    async def delete(self, key: str) -> None:
        await self._inner.delete(self._prefix + validate_key(key))

    async def purge(self, key: str) -> None:
        await self._inner.purge(self._prefix + validate_key(key))

    async def list_keys(self, prefix: str) -> AsyncIterator[str]:
        async for key in self._inner.list_keys(self._prefix + validate_prefix(prefix)):
            yield key.removeprefix(self._prefix)

    async def list_versions(self, prefix: str) -> AsyncIterator[Version]:
        async for version in self._inner.list_versions(self._prefix + validate_prefix(prefix)):
            yield version._replace(key=version.key.removeprefix(self._prefix))

    async def get_version(self, key: str, version: VersionId) -> bytes:
        try:
            return await self._inner.get_version(self._prefix + validate_key(key), version)
        except ObjectMissing as error:
            raise ObjectMissing(key, where=self.where) from error

    async def extend_lock(self, key: str, version: VersionId | None = None) -> None:
        try:
            await self._inner.extend_lock(self._prefix + validate_key(key), version)
        except ObjectMissing as error:
            raise ObjectMissing(key, where=self.where) from error


class StreamId(NamedTuple):
    """A stream is (source, subject); an entry without a subject belongs to the stream ''."""

    source: str
    subject: str


class Row(NamedTuple):
    """One entry as stored: its canonical bytes and the attributes the store must find it by.

    The attributes repeat what is inside `entry`; `entry` is what counts, and what is hashed. A tuple, as `StreamId`:
    one is made for every entry there is, and that takes a fifth of the time a frozen dataclass takes.
    """

    entry: bytes
    leaf_hash: bytes
    source: str
    id: str
    subject: str
    streamversion: int
    type: str
    actor: str
    time_us: int
    recordedtime_us: int


@dataclass(frozen=True, slots=True)
class Head:
    """Where the log ends, committed.

    `frontier` is the compact range: the roots of the perfect subtrees that make up the tree, largest first
    (RFC 6962 §2.1; O(log size) hashes).
    """

    size: int
    frontier: tuple[bytes, ...]
    recordedtime_us: int
    epoch: int


@dataclass(frozen=True, slots=True)
class SignedCheckpoint:
    """The last checkpoint signed for an origin, as persisted before anybody saw it."""

    origin: str
    size: int
    root: bytes
    note: bytes


@dataclass(frozen=True, slots=True)
class Selection:
    """Which entries to find; every condition that is given must hold. Indexes, versions and times are half-open ranges.

    `version_from` and `version_until` are stream versions. With source and subject given, the store goes through that
    stream alone.

    So `recorded_until_us` is the first moment that is not asked for any more (recorded < it), while
    `EntryStore.size_at` counts what was recorded up to and at a moment (recorded <= it).
    """

    start: int = 0
    stop: int | None = None
    source: str | None = None
    subject: str | None = None
    actor: str | None = None
    type: str | None = None
    version_from: int | None = None
    version_until: int | None = None
    time_from_us: int | None = None
    time_until_us: int | None = None
    recorded_until_us: int | None = None
    newest_first: bool = False


class StoredEntry(NamedTuple):
    """An entry with its place in the log."""

    index: int  # type: ignore[assignment]  # in place of tuple's method, which nobody asks of it
    entry: bytes


_INTEGER_MAX = 2**63 - 1


def bounded(value: int) -> int:
    """What is asked for may be any number; those of a database have 64 bits, and nothing is recorded beyond."""
    return max(-_INTEGER_MAX, min(value, _INTEGER_MAX))


def recordable(indexes: Sequence[int]) -> list[int]:
    """Those of `indexes` that may be in a database, each once, ascending."""
    return sorted({index for index in indexes if 0 <= index <= _INTEGER_MAX})


def in_order(indexes: Sequence[int], found: Mapping[int, bytes]) -> list[StoredEntry]:
    """What was found at these indexes, as `EntryStore.read_many` answers."""
    return [StoredEntry(index, found[index]) for index in indexes if index in found]


class EntryStore(Protocol):
    """The log's entries on the primary, with one writer per epoch.

    A commit is one transaction: all rows or none, durable on return, and the new head with them. No reader ever
    sees index n without every index below n. Reads are safe beside the writer, also from other processes.
    A commit that raised anything but Fenced, CompareFailed or DuplicateKeys may have been persisted: the caller
    reads `head()` again (recovery is the normal path).
    """

    @property
    def where(self) -> str:
        """Where this is, for people."""
        ...

    async def head(self) -> Head:
        """The committed end of the log."""
        ...

    async def claim(self) -> int:
        """Become the writer: raise the epoch by one, durably, and return it. Every older epoch is fenced."""
        ...

    async def commit(self, rows: Sequence[Row], *, expected_size: int, frontier: tuple[bytes, ...], epoch: int) -> None:
        """Append `rows` at indexes `expected_size`, +1, ... and move the head, in one durable transaction.

        Raises:
            Fenced: another epoch has been claimed.
            CompareFailed: the head is not at `expected_size`.
            DuplicateKeys: some (source, id) or (stream, streamversion) exists already; nothing was written.
        """
        ...

    async def find_ids(self, keys: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], StoredEntry]:
        """The entries recorded under these (source, id); unknown ones are left out."""
        ...

    async def stream_versions(self, streams: Sequence[StreamId]) -> Mapping[StreamId, int]:
        """The last streamversion of each stream; 0 where nothing is recorded. Versions count from 1."""
        ...

    async def read(self, start: int, limit: int) -> Sequence[StoredEntry]:
        """Up to `limit` entries from index `start` (not negative) on, in order, without a gap; empty at the end."""
        ...

    async def read_many(self, indexes: Sequence[int]) -> Sequence[StoredEntry]:
        """The entries at these indexes, in the order they are asked for; where nothing is recorded, none.

        An index asked for twice is answered twice. Any integers may be asked for, in any number; memory: what is
        answered.
        """
        ...

    async def rows(self, start: int, limit: int) -> Sequence[Row]:
        """As `read`, with everything the store finds an entry by."""
        ...

    async def select(self, what: Selection, *, limit: int) -> Sequence[StoredEntry]:
        """Up to `limit` entries that match, by ascending index (descending with `newest_first`).

        Page on with `start` = last index + 1 (or `stop` = last index).
        """
        ...

    async def size_at(self, recordedtime_us: int) -> int:
        """How many entries had been recorded at that moment: the tree size to look back at (recorded <= moment)."""
        ...

    async def last_checkpoint(self, origin: str) -> SignedCheckpoint | None:
        """The last checkpoint recorded for `origin`."""
        ...

    async def record_checkpoint(self, checkpoint: SignedCheckpoint, *, expected_size: int | None, epoch: int) -> None:
        """Persist a signed checkpoint before anybody sees it; `expected_size` is the last one's (None: the first).

        Raises:
            Fenced: another epoch has been claimed.
            CompareFailed: the last recorded checkpoint is another one.
        """
        ...

    async def close(self) -> None:
        """Release what is held. Nothing needs to be flushed."""
        ...
