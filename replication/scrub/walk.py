"""The phases of one cycle: entries with the hashes above them, upper tiles, everything that lies there, keys, notes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from ledger.core.event import event_time_us
from ledger.core.manifest import CONTENT
from ledger.core.tiles import ENTRIES, TILE_WIDTH, Tile, decode_bundle, levels, needed, parse_tile_path
from ledger.errors import Malformed, MalformedTile, Tampered
from ledger.keyring import KEYRING
from ledger.store.base import Stored
from ledger.tasks import Report, run_bounded
from replication.erase import ERASED
from replication.scrub.contents import ContentScrub
from replication.scrub.cycle import Cycle, Wanted
from replication.scrub.keyring import ErasedKeys, KeyringScrub
from replication.scrub.notes import NOTES, NotesScrub
from replication.scrub.tree import is_bundle_of
from replication.site import NOTICE, read_cosigned

BUNDLES, TILES, LISTING, KEYS, SETTLING = PHASES = ("entries", "tiles", "listing", "keys", "settling")
DONE: Final = "done"
"""Nothing is left to do but to record it."""
PARALLEL: Final = 8
SAVE_EVERY: Final = 64
"""Bundles, or listed objects, between two saves of the progress."""
_FIND_OUT: Final = "find out who put it there, and delete it"


class Walk:
    """The phases of one cycle, in their order."""

    def __init__(
        self,
        cycle: Cycle,
        keyring: KeyringScrub,
        contents: ContentScrub,
        notes: NotesScrub,
        erased: ErasedKeys,
        report: Report | None,
    ) -> None:
        self._cycle = cycle
        self._keyring = keyring
        self._contents = contents
        self._notes = notes
        self._erased = erased
        self._report = report
        self._size = cycle.progress.size
        self._started_s = event_time_us(cycle.progress.started) / 1_000_000

    async def run(self) -> None:
        progress = self._cycle.progress
        work = {
            BUNDLES: self._entries,
            TILES: self._tiles,
            LISTING: self._listing,
            KEYS: self._keyring.settle,
            SETTLING: self._settle,
        }
        for number in range(PHASES.index(progress.phase), len(PHASES)):
            if progress.phase != PHASES[number]:
                progress.phase, progress.position = PHASES[number], ""
                await self._cycle.save()
            await work[PHASES[number]]()

    # -- entries, and the hashes right above them --

    async def _entries(self) -> None:
        progress, count = self._cycle.progress, -(-self._size // TILE_WIDTH)
        for first in range(int(progress.position or 0), count, PARALLEL):
            indexes = range(first, min(first + PARALLEL, count))
            found: dict[int, list[bytes] | None] = {}

            async def one(index: int, found: dict[int, list[bytes] | None] = found) -> None:
                found[index] = await self._bundle(index)

            await run_bounded((one(index) for index in indexes), parallel=PARALLEL)
            for index in indexes:
                entries = found[index]
                if entries is None:
                    progress.lost = True
                else:
                    await self._keyring.take(index * TILE_WIDTH, entries)
                    await self._contents.take(index * TILE_WIDTH, entries)
            progress.position = str(indexes[-1] + 1)
            if (first // PARALLEL) % (SAVE_EVERY // PARALLEL) == 0:
                await self._cycle.save()
            done = min(self._size, (indexes[-1] + 1) * TILE_WIDTH)
            if self._report is not None:
                self._report(done, self._size)
            await self._cycle.pace.reached(done, self._size, self._started_s)
        if not progress.lost:
            await self._erased.seen(self._size, (await self._cycle.tree.frontier_at(self._size)).root())

    async def _bundle(self, index: int) -> list[bytes] | None:
        """Check a bundle and the tile above it; its entries, proven, or None: no copy has them."""
        width = min(TILE_WIDTH, self._size - index * TILE_WIDTH)
        tile, bundle = Tile(0, index, width), Tile(ENTRIES, index, width)
        await self._tile(tile)
        data = await self._tile(bundle)
        return None if data is None else decode_bundle(data, width)

    async def _tile(self, tile: Tile) -> bytes | None:
        """Check a tile or bundle of the tree; its proven bytes, or None: no copy has them."""
        tree, stored = self._cycle.tree, await self._cycle.read(tile.path)
        if stored is None and tile.partial and (cut := await self._superseded(tile)) is not None:
            return cut
        try:
            wanted = await self._wanted_tile(tile, stored)
        except Tampered as error:  # the tile itself is lost, or one above it
            wanted = Wanted(tile.path, lambda data: False, None, f"not healed: it cannot be checked, {error.what}")
        if stored is not None and wanted.fits(stored.data):
            return stored.data
        await self._cycle.check(wanted, stored)
        try:
            return await tree.genuine(tile)
        except Tampered:
            return None

    async def _wanted_tile(self, tile: Tile, stored: Stored | None = None) -> Wanted:
        """Raises Tampered: what it must be cannot be told from the copies at hand."""
        tree = self._cycle.tree
        offered = stored.data if stored is not None and not tile.partial and tile.level != ENTRIES else None
        hashes = (await tree.hashes(max(tile.level, 0), tile.index, offered=offered))[: tile.width]
        if tile.level == ENTRIES:
            return Wanted(tile.path, lambda data: is_bundle_of(data, hashes), lambda: tree.genuine(tile))
        whole = b"".join(hashes)
        return Wanted(tile.path, lambda data: data == whole, lambda: tree.genuine(tile))

    async def _superseded(self, tile: Tile) -> bytes | None:
        """The bytes of a partial tile that was cleared away because its full tile is stored; None: it is missing.

        A mirror clears it away after it has shown a checkpoint that covers the full one, and never before.
        """
        try:
            shown = await read_cosigned(self._cycle.site, self._cycle.log)
        except Tampered:
            return None
        if shown is None or shown.opened.checkpoint.size >> 8 * max(tile.level, 0) < (tile.index + 1) * TILE_WIDTH:
            return None
        try:
            return await self._cycle.tree.genuine(tile)
        except Tampered:
            return None

    # -- what lies above --

    async def _tiles(self) -> None:
        for number, tile in enumerate(self._upper()):
            if number < int(self._cycle.progress.position or 0):
                continue
            await self._tile(tile)
            self._cycle.progress.position = str(number + 1)

    def _upper(self) -> Iterator[Tile]:
        for level in levels(self._size):
            if level > 0:
                yield from needed(self._size, level)

    # -- everything that lies there --

    async def _listing(self) -> None:
        progress, number = self._cycle.progress, 0
        async for key in self._cycle.site.objects.list_keys(""):
            if key <= progress.position:
                continue
            await self._listed(key)
            number += 1
            if number % SAVE_EVERY == 0:
                await self._keyring.look_at_wraps()
                progress.position = key
                await self._cycle.save()
        await self._keyring.look_at_wraps()

    async def _listed(self, key: str) -> None:
        if key.startswith("tile/"):
            await self._leftover(key)
        elif key.startswith(KEYRING):
            await self._keyring.look_at(key.removeprefix(KEYRING))
        elif key.startswith(CONTENT):
            await self._contents.look_at(key)
        elif key.startswith(ERASED):
            await self._keyring.look_at_statement(key)
        elif key != NOTICE and key not in NOTES:
            await self._cycle.unexpected(key, "nothing of that name belongs to a site", _FIND_OUT)

    async def _leftover(self, key: str) -> None:
        """A tile beyond those of the tree: a partial one of a smaller tree, or one of a tree not cosigned yet."""
        try:
            tile = parse_tile_path(key)
        except Malformed:
            await self._cycle.unexpected(key, "it is no tile", _FIND_OUT)
            return
        count = self._size >> 8 * max(tile.level, 0)
        if tile.width == min(TILE_WIDTH, count - tile.index * TILE_WIDTH):
            return  # of the tree itself: it was checked
        if tile.width > self._cycle.tree.width(tile.level, tile.index):
            self._cycle.progress.unchecked += 1  # of a larger tree, that nobody at hand has cosigned yet
            return
        stored = await self._cycle.read(key)
        if stored is None:
            return  # cleared away meanwhile: its full tile is stored
        try:
            wanted = await self._wanted_tile(tile, stored)
        except Tampered:
            self._cycle.progress.unchecked += 1  # the tile it begins is lost, which is noted
            return
        await self._cycle.check(replace(wanted, optional=True), stored)

    # -- the end --

    async def _settle(self) -> None:
        await self._notes.look_at_all()
        await self._cycle.recheck(self._wanted)

    async def _wanted(self, key: str) -> Wanted | None:
        if key.startswith(KEYRING):
            return await self._keyring.wanted(key)
        if key.startswith(CONTENT):
            return await self._contents.wanted_again(key)
        if key.startswith(ERASED):
            return self._keyring.wanted_statement(key)
        if key in NOTES:
            return await self._notes.wanted(key)
        try:
            tile = parse_tile_path(key)
        except MalformedTile:
            return None
        return replace(
            await self._wanted_tile(tile), optional=tile.partial and await self._superseded(tile) is not None
        )
