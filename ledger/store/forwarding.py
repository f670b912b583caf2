"""A store in front of another one: passes everything on, for those that change one answer or two."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence

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


class ForwardingEntryStore:
    """An `EntryStore` whose every answer is that of `store`."""

    def __init__(self, store: EntryStore) -> None:
        self._store = store

    @property
    def where(self) -> str:
        return self._store.where

    async def head(self) -> Head:
        return await self._store.head()

    async def claim(self) -> int:
        return await self._store.claim()

    async def commit(self, rows: Sequence[Row], *, expected_size: int, frontier: tuple[bytes, ...], epoch: int) -> None:
        await self._store.commit(rows, expected_size=expected_size, frontier=frontier, epoch=epoch)

    async def find_ids(self, keys: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], StoredEntry]:
        return await self._store.find_ids(keys)

    async def stream_versions(self, streams: Sequence[StreamId]) -> Mapping[StreamId, int]:
        return await self._store.stream_versions(streams)

    async def read(self, start: int, limit: int) -> Sequence[StoredEntry]:
        return await self._store.read(start, limit)

    async def read_many(self, indexes: Sequence[int]) -> Sequence[StoredEntry]:
        return await self._store.read_many(indexes)

    async def rows(self, start: int, limit: int) -> Sequence[Row]:
        return await self._store.rows(start, limit)

    async def select(self, what: Selection, *, limit: int) -> Sequence[StoredEntry]:
        return await self._store.select(what, limit=limit)

    async def size_at(self, recordedtime_us: int) -> int:
        return await self._store.size_at(recordedtime_us)

    async def last_checkpoint(self, origin: str) -> SignedCheckpoint | None:
        return await self._store.last_checkpoint(origin)

    async def record_checkpoint(self, checkpoint: SignedCheckpoint, *, expected_size: int | None, epoch: int) -> None:
        await self._store.record_checkpoint(checkpoint, expected_size=expected_size, epoch=epoch)

    async def close(self) -> None:
        await self._store.close()


class ForwardingObjectStore:
    """An `ObjectStore` whose every answer is that of `inner`."""

    def __init__(self, inner: ObjectStore) -> None:
        self._inner = inner

    @property
    def where(self) -> str:
        return self._inner.where

    async def get(self, key: str) -> Stored:
        return await self._inner.get(key)

    async def put_immutable(self, key: str, data: bytes) -> None:
        await self._inner.put_immutable(key, data)

    async def replace(self, key: str, data: bytes, *, expected: Tag | None) -> Tag:
        return await self._inner.replace(key, data, expected=expected)

    async def delete(self, key: str) -> None:
        await self._inner.delete(key)

    async def purge(self, key: str) -> None:
        await self._inner.purge(key)

    def list_keys(self, prefix: str) -> AsyncIterator[str]:
        return self._inner.list_keys(prefix)

    def list_versions(self, prefix: str) -> AsyncIterator[Version]:
        return self._inner.list_versions(prefix)

    async def get_version(self, key: str, version: VersionId) -> bytes:
        return await self._inner.get_version(key, version)

    async def extend_lock(self, key: str, version: VersionId | None = None) -> None:
        await self._inner.extend_lock(key, version)
