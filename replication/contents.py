"""Brings the content that entries refer to from one copy to another: packs, lists of packs, index segments."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import suppress
from typing import Final

from ledger.content.index import digests_under, read_digest
from ledger.content.references import SEEN_MAX, Gone, Referring, packs_of, present, referring, refers_to_content
from ledger.core.manifest import INDEX, list_key, pack_key
from ledger.core.tiles import TILE_WIDTH, Tile, decode_bundle
from ledger.errors import JinshiError, ObjectMissing, Tampered
from ledger.store.base import ObjectStore
from ledger.tasks import run_bounded
from ledger.verify import read_tile

BUNDLES_PARALLEL: Final = 4
PACKS_PARALLEL: Final = 3
"""How many packs are on their way to one site: each is in memory as a whole."""

Put = Callable[[str, bytes], Awaitable[None]]
"""Stores an object that never changes. Raises Tampered: other bytes are there."""

Arrived = Callable[[bytes], Awaitable[None]]
"""Told that a pack was just stored at the site (`Mirror.read_ahead`). What it raises is left to the mirror's round."""

Sent = Callable[[Collection[bytes]], Awaitable[set[bytes]]]
"""Those of these packs that were just shipped ahead (`Ahead.sent`); returns once none of them is on its way."""


def referring_in(bundle: Tile, data: bytes, *, start: int = 0) -> Iterator[Referring]:
    """Those entries of a bundle that refer to content, from index `start` on. Raises as `referring`."""
    if refers_to_content(data):
        first = bundle.index * TILE_WIDTH
        skipped = max(0, start - first)
        yield from referring(first + skipped, decode_bundle(data, bundle.width)[skipped:])


class ContentShipper:
    """For one run of a follower, or of a restore. What is listed at the other end is not sent again.

    Nothing is remembered but within the run: a mirror that misses something has it sent again by the next one.
    """

    def __init__(
        self,
        source: ObjectStore,
        site: ObjectStore,
        put: Put,
        gone: Gone,
        sent: Sent | None = None,
        arrived: Arrived | None = None,
    ) -> None:
        self._source = source
        self._site = site
        self._put = put
        self._gone = gone
        self._sent = sent
        self._arrived = arrived
        self._there: set[bytes] = set()
        self._sending = asyncio.Semaphore(PACKS_PARALLEL)
        self._segments = False

    async def ship(self, bundles: Sequence[Tile], start: int) -> None:
        """What the entries in these bundles refer to, from index `start` on. Raises as `ship_one`."""
        await run_bounded((self._ship(bundle, start) for bundle in bundles), parallel=BUNDLES_PARALLEL)

    async def _ship(self, bundle: Tile, start: int) -> None:
        await self.ship_one(bundle, await read_tile(self._source, bundle), start)

    async def ship_one(self, bundle: Tile, data: bytes, start: int) -> None:
        """What the entries in a bundle that was read refer to, from index `start` on.

        Raises:
            Tampered: the source has lost a pack that the site lacks, too, or holds it damaged; names the entry.
            StoreUnavailable, DiskFull: the next run carries on.
        """
        wanted: dict[bytes, int] = {}
        lists: dict[bytes, int] = {}
        for one in referring_in(bundle, data, start=start):
            if one in self._gone:
                continue  # nobody needs it any more, and it may have been collected
            try:
                packs = await packs_of(self._source, one.dataref)
            except (ObjectMissing, Tampered) as error:
                raise self._lost(one.index, error) from error
            if one.dataref.listed is not None:
                lists.setdefault(one.dataref.listed, one.index)
            wanted.update((pack, one.index) for pack in packs if pack not in self._there)
        if not wanted and not lists:
            return
        self._note(wanted)
        lacking = set(wanted) if self._sent is None else wanted.keys() - await self._sent(wanted)
        lacking -= await present(self._site, lacking)
        await run_bounded(
            (self._copy(pack_key(pack), pack, wanted[pack], self._arrived) for pack in sorted(lacking)),
            parallel=PACKS_PARALLEL,
        )
        for name, index in lists.items():
            if not [key async for key in self._site.list_keys(list_key(name))]:
                await self._copy(list_key(name), name, index)

    def _note(self, wanted: Collection[bytes]) -> None:
        """They are at the site, or on their way: whoever ships them fails with the run, when they do not arrive."""
        self._segments = True
        if len(self._there) + len(wanted) > SEEN_MAX:
            self._there.clear()
        self._there.update(wanted)

    async def _copy(self, key: str, digest: bytes, index: int, arrived: Arrived | None = None) -> None:
        async with self._sending:
            try:
                data = await read_digest(self._source, key, digest)
            except (ObjectMissing, Tampered) as error:
                raise self._lost(index, error) from error
            await self._put(key, data)
            del data  # it is about to be read back
            if arrived is not None:
                with suppress(JinshiError):
                    await arrived(digest)

    async def finish(self) -> None:
        """The index segments that the site lacks, where any content was shipped."""
        if not self._segments:
            return
        lacking = await digests_under(self._source, INDEX) - await digests_under(self._site, INDEX)
        await run_bounded((self._copy_segment(name) for name in sorted(lacking)), parallel=PACKS_PARALLEL)
        self._segments = False

    async def _copy_segment(self, name: bytes) -> None:
        try:
            data = await read_digest(self._source, INDEX + name.hex(), name)
        except (ObjectMissing, Tampered):
            return  # no more than a repetition of what packs say
        await self._put(INDEX + name.hex(), data)

    def _lost(self, index: int, error: ObjectMissing | Tampered) -> Tampered:
        what = "it is not there any more" if isinstance(error, ObjectMissing) else error.what
        return Tampered(
            f"entry {index} refers to {error.key} in {self._source.where}, which cannot be copied: {what}",
            key=error.key,
            hint="take it from another copy, where it lies under the same name",
        )
