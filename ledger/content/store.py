"""The content store of one ledger as one thing: what a capture writes into, and what a restore reads out of."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ledger.content.index import ChunkIndex, synchronise
from ledger.content.leases import Lease, Leases
from ledger.content.reader import ContentReader, ReaderLimits
from ledger.content.writer import ContentLimits, ContentWriter
from ledger.core.chunks import ContentKeys
from ledger.store.base import ObjectStore


class ContentStore:
    """`objects` is prefixed to the origin; `leases` are those of the process that appends; None: it only reads."""

    def __init__(
        self, objects: ObjectStore, keys: ContentKeys, index: ChunkIndex, leases: Leases | None = None
    ) -> None:
        self.objects = objects
        self._keys = keys
        self._index = index
        self._leases = leases

    @asynccontextmanager
    async def writing(self, limits: ContentLimits | None = None) -> AsyncIterator[tuple[ContentWriter, Lease]]:
        """A writer under a lease of its own: the lease ends with it, so entries are appended inside.

        Raises:
            StoreUnavailable: the packs or their index cannot be read.
        """
        assert self._leases is not None, "this process does not append"
        lease = await self._leases.begin()
        try:
            async with await ContentWriter.open(self.objects, self._keys, self._index, lease, limits) as writer:
                yield writer, lease
        finally:
            self._leases.end(lease)

    async def reading(self, limits: ReaderLimits | None = None) -> ContentReader:
        """A reader that knows every pack there is now. Raises StoreUnavailable."""
        await synchronise(self._index, self.objects, self._keys)
        return ContentReader(self.objects, self._keys, self._index, limits)
