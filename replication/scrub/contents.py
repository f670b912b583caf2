"""The content of a site: every object held against the digest it is named by, and what entries refer to is there."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from contextlib import suppress

from ledger.content.references import Referring, packs_of, present, referring
from ledger.content.released import Released, may_release
from ledger.core.checkpoint import Checkpoint
from ledger.core.manifest import INDEX, LISTS, PACKS, list_key, pack_key
from ledger.core.tiles import ENTRIES, TILE_WIDTH, Tile, decode_bundle
from ledger.errors import ObjectMissing, Tampered
from ledger.store.base import ObjectStore
from replication.scrub.cycle import Cycle, Wanted
from replication.scrub.keyring import ErasedKeys
from replication.scrub.tree import TrustedTree, read_fitting

_KEY = re.compile(f"(?:{PACKS}|{LISTS}|{INDEX})([0-9a-f]{{64}})")


class ReleasedEntries:
    """Which entries the trusted tree releases. Its bundles are gone through once, when something is missing at all."""

    def __init__(self, copies: Sequence[ObjectStore], checkpoint: Checkpoint) -> None:
        """`copies` are asked from the last on: the site itself, which is read anyway, comes first there."""
        self._copies = copies
        self._checkpoint = checkpoint
        self._known: Released | None = None

    async def now(self) -> Released:
        """All of them, but for what entries say that are lost in every copy."""
        if self._known is None:
            found, size = Released(), self._checkpoint.size
            tree = await TrustedTree.open([*reversed(self._copies)], self._checkpoint)
            for first in range(0, size, TILE_WIDTH):
                bundle = Tile(ENTRIES, first // TILE_WIDTH, min(TILE_WIDTH, size - first))
                with suppress(Tampered):
                    data = await tree.genuine(bundle)
                    if may_release(data):
                        for index, entry in enumerate(decode_bundle(data, bundle.width), first):
                            found.take(index, entry)
            self._known = found
        return self._known


class ContentScrub:
    """The content's part of a cycle: packs that are missing show by the entries, damaged ones when all is listed."""

    def __init__(self, cycle: Cycle, erased: ErasedKeys, released: ReleasedEntries) -> None:
        self._cycle = cycle
        self._erased = erased
        self._released = released
        self._missed: dict[str, set[str | None]] = {}
        """What was missing, and the ids of the keys that the entries which refer to it are sealed with."""

    async def take(self, start: int, entries: Sequence[bytes]) -> None:
        """Look at verified entries from index `start` on: what they refer to must be there, unless they are gone."""
        wanted: dict[bytes, list[Referring]] = {}
        for index, entry in enumerate(entries, start):
            try:
                for one in referring(index, [entry]):
                    for pack in await self._packs(one):
                        wanted.setdefault(pack, []).append(one)
            except Tampered:
                self._cycle.progress.unchecked += 1  # written by a later jinshi
        if not wanted:
            return
        for pack in wanted.keys() - await present(self._cycle.site.objects, wanted):
            await self._miss(pack_key(pack), wanted[pack])

    async def _packs(self, one: Referring) -> Sequence[bytes]:
        """What an entry refers to, itself or in a list, which is healed first where it has to be."""
        objects = self._cycle.site.objects
        if one.dataref.listed is not None:
            key = list_key(one.dataref.listed)
            stored = await self._cycle.read(key)
            if stored is None:
                await self._miss(key, [one])
            else:
                await self._cycle.check(self.wanted(key), stored)
        try:
            return await packs_of(objects, one.dataref)
        except (ObjectMissing, Tampered):
            return ()  # the list is lost, which is noted

    async def _miss(self, key: str, referring: Sequence[Referring]) -> None:
        released = await self._released.now()
        keyids = {one.keyid for one in referring if (one.source, one.index) not in released}
        if not keyids <= set(await self._erased.now()):
            self._missed.setdefault(key, set()).update(keyids)
            await self._cycle.check(self.wanted(key), None)

    async def look_at(self, key: str) -> None:
        """Check an object that lies there by its name."""
        if _KEY.fullmatch(key) is None:
            await self._cycle.unexpected(key, "it is no content of a site", "find out who put it there")
        elif (stored := await self._cycle.read(key)) is not None:
            await self._cycle.check(self.wanted(key), stored)

    async def wanted_again(self, key: str) -> Wanted | None:
        """For a second look at what was found; what turned out erased meanwhile need not be there."""
        if _KEY.fullmatch(key) is None:
            return None
        keyids = self._missed.get(key)
        gone = keyids is not None and keyids <= set(await self._erased.now())
        return self.wanted(key, optional=gone)

    def wanted(self, key: str, *, optional: bool = False) -> Wanted:
        """What an object must be: bytes with the digest it is named by."""
        digest = bytes.fromhex(key.rpartition("/")[2])

        def fits(data: bytes) -> bool:
            return hashlib.sha256(data).digest() == digest

        return Wanted(key, fits, lambda: read_fitting(self._cycle.copies, key, fits), optional=optional)
