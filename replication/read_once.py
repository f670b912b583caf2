"""Each published object is read once for all sites: followers that run together share one read."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from ledger.core.manifest import CONTENT
from ledger.store.base import ObjectStore, Stored, Tag
from ledger.store.forwarding import ForwardingObjectStore

KEPT_BYTES_MAX: Final = 32 * 2**20
"""How far the sites may be apart and still share a read: some 300 bundles of ordinary entries."""

SHARED: Final = ("tile/", CONTENT)
"""What never changes. A data key is not kept in memory, because it may be erased; and `checkpoint` changes."""


class ReadOnce(ForwardingObjectStore):
    """The published objects, as an `ObjectStore` to ship from.

    Whoever asks for an object that is being read waits for that read; what was read is kept for the others, up to
    `kept_bytes_max` in all, and what was not used for longest goes first. A site that lags further behind than that
    holds no memory: it reads again. Nobody waits for another site. For one event loop.
    """

    def __init__(self, inner: ObjectStore, *, kept_bytes_max: int = KEPT_BYTES_MAX) -> None:
        super().__init__(inner)
        self._kept_bytes_max = kept_bytes_max
        self._kept: OrderedDict[str, Stored] = OrderedDict()
        self._kept_bytes = 0
        self._reading: dict[str, _Reading] = {}

    @property
    def kept_bytes(self) -> int:
        """How much is kept now."""
        return self._kept_bytes

    async def get(self, key: str) -> Stored:
        if not key.startswith(SHARED):
            return await self._inner.get(key)
        if (kept := self._kept.get(key)) is not None:
            self._kept.move_to_end(key)
            return kept
        reading = self._reading.get(key)
        if reading is None:
            reading = self._reading[key] = _Reading(asyncio.ensure_future(self._inner.get(key)))
            reading.task.add_done_callback(lambda task: self._read(key, task))
        reading.waiting += 1
        try:
            return await asyncio.shield(reading.task)
        finally:
            reading.waiting -= 1
            if not reading.waiting and not reading.task.done():  # whoever wanted it has been cancelled
                reading.task.cancel()
                self._reading.pop(key, None)

    def _read(self, key: str, task: asyncio.Future[Stored]) -> None:
        """A read has ended. What failed is raised to whoever waited for it, and the next one tries again."""
        if (reading := self._reading.get(key)) is not None and reading.task is task:
            del self._reading[key]
        if not task.cancelled() and task.exception() is None:
            self._keep(key, task.result())

    def _keep(self, key: str, stored: Stored) -> None:
        self._forget(key)
        if len(stored.data) > self._kept_bytes_max:
            return
        self._kept[key] = stored
        self._kept_bytes += len(stored.data)
        while self._kept_bytes > self._kept_bytes_max:
            self._kept_bytes -= len(self._kept.popitem(last=False)[1].data)

    def _forget(self, key: str) -> None:
        if (kept := self._kept.pop(key, None)) is not None:
            self._kept_bytes -= len(kept.data)

    async def replace(self, key: str, data: bytes, *, expected: Tag | None) -> Tag:
        self._forget(key)
        return await super().replace(key, data, expected=expected)

    async def delete(self, key: str) -> None:
        self._forget(key)
        await super().delete(key)

    async def purge(self, key: str) -> None:
        self._forget(key)
        await super().purge(key)


@dataclass(slots=True, eq=False)
class _Reading:
    """A read under way, and how many wait for it."""

    task: asyncio.Future[Stored]
    waiting: int = 0
