"""Whether a copy still has the content that a restore needs, where some of it was released; and what is said if not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from itertools import islice
from typing import Final

from ledger.content.references import packs_of, present, referring
from ledger.content.released import find_release, read_released
from ledger.core.indexes import Indexes
from ledger.errors import ContentReleased, ObjectMissing
from ledger.store.base import EntryStore, ObjectStore
from restore.retained.acts import Horizons, oldest_point, recorded_at

CHECKED_AT_ONCE: Final = 1_000


class Kept:
    """Of one asset in one copy, all of whose acts are in `entries`. `sealing`: the type of the entries that seal it.

    What was released may still be there, held by a lock: then it is restored like anything else.
    """

    def __init__(
        self, entries: EntryStore, objects: Callable[[], Awaitable[ObjectStore]], name: str, source: str, sealing: str
    ) -> None:
        self._entries = entries
        self._objects = objects
        self._name = name
        self._source = source
        self._sealing = sealing
        self._released: Indexes | None = None

    async def released(self) -> Indexes:
        """Its entries whose content was released. Raises Conflict: an act cannot be read."""
        if self._released is None:
            self._released = (await read_released(self._entries)).of(self._source)
        return self._released

    async def check(self, indexes: Iterable[int]) -> None:
        """Raises ContentReleased: the content of one of these entries was released, and is not there any more."""
        released = await self.released()
        if not released:
            return
        among = (index for index in indexes if index in released)
        while some := await asyncio.to_thread(lambda: list(islice(among, CHECKED_AT_ONCE))):
            await self._check(some)

    async def _check(self, indexes: list[int]) -> None:
        objects = await self._objects()
        packs: dict[bytes, int] = {}
        for stored in await self._entries.read_many(indexes):
            for one in referring(stored.index, [stored.entry]):
                try:
                    packs |= {pack: one.index for pack in await packs_of(objects, one.dataref) if pack not in packs}
                except ObjectMissing as error:
                    raise await self.gone(one.index) from error
        missing = packs.keys() - await present(objects, packs)
        if missing:
            raise await self.gone(min(packs[pack] for pack in missing))

    async def gone(self, index: int) -> ContentReleased:
        """What is said of an entry whose content was released: when, by which entry, and what can be rebuilt still."""
        found = await find_release(self._entries, self._source, index)
        by = "" if found is None else f" on {await recorded_at(self._entries, found[0])} by entry {found[0]}"
        horizon = (await Horizons(self._entries).now()).get(self._source)
        oldest = await oldest_point(self._entries, self._source, self._sealing, horizon)
        hint = "nothing older than that can be rebuilt"
        if oldest is not None:
            hint = f"the oldest point from which on all can be rebuilt is --at {oldest.index}, of {oldest.recorded}"
        return ContentReleased(
            f"the content of entry {index} of {self._name}, beyond its retention, was released{by}", hint=hint
        )
