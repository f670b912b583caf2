"""The content store of one ledger as one thing: what a capture writes into, and what a restore reads out of."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ledger.content.index import ChunkIndex, synchronise
from ledger.content.leases import Lease, Leasing
from ledger.content.reader import ContentReader, ReaderLimits
from ledger.content.writer import ContentLimits, ContentWriter
from ledger.core.chunks import ContentKeys
from ledger.core.event import Event
from ledger.errors import Fenced
from ledger.store.base import ObjectStore


class ContentStore:
    """`objects` is prefixed to the origin; `leases` are those of the process that appends; None: it only reads.

    `announcement` has to be recorded before any entry refers to what is written here (`LeasedAppender` does it).
    """

    def __init__(
        self,
        objects: ObjectStore,
        keys: ContentKeys,
        index: ChunkIndex,
        leases: Leasing | None = None,
        *,
        announcement: Event | None = None,
    ) -> None:
        self.objects = objects
        self.announcement = announcement
        self.keys = keys
        self.index = index
        self._leases = leases
        self._held: list[Lease] = []

    def lease(self) -> Lease:
        """The oldest lease under which something is being written here. Raises Fenced: there is none."""
        if not self._held:
            raise Fenced("no capture is at work that could refer to content", hint="append while its writer is open")
        return self._held[0]

    @asynccontextmanager
    async def writing(self, limits: ContentLimits | None = None) -> AsyncIterator[tuple[ContentWriter, Lease]]:
        """A writer under a lease of its own: the lease ends with it, so entries are appended inside.

        Raises:
            StoreUnavailable: the packs or their index cannot be read.
        """
        assert self._leases is not None, "this process does not append"
        lease = await self._leases.begin()
        self._held.append(lease)
        try:
            async with await ContentWriter.open(self.objects, self.keys, self.index, lease, limits) as writer:
                yield writer, lease
        finally:
            self._held.remove(lease)
            self._leases.end(lease)

    async def reading(self, limits: ReaderLimits | None = None) -> ContentReader:
        """A reader that knows every pack there is now. Raises StoreUnavailable."""
        await synchronise(self.index, self.objects, self.keys)
        return ContentReader(self.objects, self.keys, self.index, limits)

    def close(self) -> None:
        """Release the index."""
        self.index.close()
