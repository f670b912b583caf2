"""Either protocol with failures on demand: every write can fail before, or after, it has been persisted.

For the contract suite, simulations and kill loops; never built in production.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from enum import Enum, auto
from typing import TypeVar

from ledger.errors import StoreUnavailable
from ledger.store.base import (
    EntryStore,
    Head,
    ObjectStore,
    Row,
    Selection,
    SignedCheckpoint,
    Stored,
    StoredEntry,
    StreamId,
    Tag,
    Version,
    VersionId,
)

T = TypeVar("T")


class Outcome(Enum):
    """What becomes of one write."""

    PASS = auto()
    FAIL_NOT_PERSISTED = auto()
    FAIL_PERSISTED = auto()


Hook = Callable[[str, str], Outcome]
"""Asked before every write with (operation, key); the key is empty for an entry store."""

Fail = Callable[[str], None]
"""How a write fails; returning is failing to fail. A kill loop ends the process here."""


def raise_unavailable(operation: str) -> None:
    """The failure a driver would report."""
    raise StoreUnavailable(f"{operation} failed on demand")


class _Faults:
    def __init__(self, hook: Hook, fail: Fail) -> None:
        self._hook = hook
        self._fail = fail

    async def write(self, operation: str, key: str, act: Callable[[], Awaitable[T]]) -> T:
        outcome = self._hook(operation, key)
        if outcome is Outcome.FAIL_NOT_PERSISTED:
            self._fail(operation)
        result = await act()
        if outcome is Outcome.FAIL_PERSISTED:
            self._fail(operation)
        return result


class FaultyObjectStore:
    """An `ObjectStore` whose writes fail as `hook` says."""

    def __init__(self, inner: ObjectStore, hook: Hook, *, fail: Fail = raise_unavailable) -> None:
        self._inner = inner
        self._faults = _Faults(hook, fail)

    @property
    def where(self) -> str:
        return self._inner.where

    async def get(self, key: str) -> Stored:
        return await self._inner.get(key)

    async def put_immutable(self, key: str, data: bytes) -> None:
        await self._faults.write("put_immutable", key, lambda: self._inner.put_immutable(key, data))

    async def replace(self, key: str, data: bytes, *, expected: Tag | None) -> Tag:
        return await self._faults.write("replace", key, lambda: self._inner.replace(key, data, expected=expected))

    async def delete(self, key: str) -> None:
        await self._faults.write("delete", key, lambda: self._inner.delete(key))

    async def purge(self, key: str) -> None:
        await self._faults.write("purge", key, lambda: self._inner.purge(key))

    def list_keys(self, prefix: str) -> AsyncIterator[str]:
        return self._inner.list_keys(prefix)

    def list_versions(self, prefix: str) -> AsyncIterator[Version]:
        return self._inner.list_versions(prefix)

    async def get_version(self, key: str, version: VersionId) -> bytes:
        return await self._inner.get_version(key, version)

    async def extend_lock(self, key: str, version: VersionId | None = None) -> None:
        await self._inner.extend_lock(key, version)


class FaultyEntryStore:
    """An `EntryStore` whose writes fail as `hook` says."""

    def __init__(self, inner: EntryStore, hook: Hook, *, fail: Fail = raise_unavailable) -> None:
        self._inner = inner
        self._faults = _Faults(hook, fail)

    @property
    def where(self) -> str:
        return self._inner.where

    async def head(self) -> Head:
        return await self._inner.head()

    async def claim(self) -> int:
        return await self._faults.write("claim", "", self._inner.claim)

    async def commit(self, rows: Sequence[Row], *, expected_size: int, frontier: tuple[bytes, ...], epoch: int) -> None:
        await self._faults.write(
            "commit",
            "",
            lambda: self._inner.commit(rows, expected_size=expected_size, frontier=frontier, epoch=epoch),
        )

    async def find_ids(self, keys: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], StoredEntry]:
        return await self._inner.find_ids(keys)

    async def stream_versions(self, streams: Sequence[StreamId]) -> Mapping[StreamId, int]:
        return await self._inner.stream_versions(streams)

    async def read(self, start: int, limit: int) -> Sequence[StoredEntry]:
        return await self._inner.read(start, limit)

    async def read_many(self, indexes: Sequence[int]) -> Sequence[StoredEntry]:
        return await self._inner.read_many(indexes)

    async def rows(self, start: int, limit: int) -> Sequence[Row]:
        return await self._inner.rows(start, limit)

    async def select(self, what: Selection, *, limit: int) -> Sequence[StoredEntry]:
        return await self._inner.select(what, limit=limit)

    async def size_at(self, recordedtime_us: int) -> int:
        return await self._inner.size_at(recordedtime_us)

    async def last_checkpoint(self, origin: str) -> SignedCheckpoint | None:
        return await self._inner.last_checkpoint(origin)

    async def record_checkpoint(self, checkpoint: SignedCheckpoint, *, expected_size: int | None, epoch: int) -> None:
        await self._faults.write(
            "record_checkpoint",
            "",
            lambda: self._inner.record_checkpoint(checkpoint, expected_size=expected_size, epoch=epoch),
        )

    async def close(self) -> None:
        await self._inner.close()
