"""Brings a ledger's keyring from one copy to a site: all that it lacks, or what some entries are sealed with."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from typing import Final

from ledger.core.entry import decode_entry
from ledger.core.tiles import ENTRIES, TILE_WIDTH, decode_bundle, growth
from ledger.keyring import KEYRING
from ledger.keyring.data import is_data_keyid
from ledger.keyring.logkey import ANNOUNCING
from ledger.store.base import ObjectStore
from ledger.tasks import run_bounded
from ledger.verify import read_tile
from replication.contents import Put

KEYS_BATCH: Final = 1_000
NAMED_ENTRIES_MAX: Final = 8_192
"""For more entries than this, the two keyrings are compared instead."""
NAMED_KEPT: Final = 65_536
_KEYID_MARK: Final = b'"keyid":"'
_ANNOUNCING_MARKS: Final = tuple(f'"type":"{type_}"'.encode() for type_ in ANNOUNCING)


class KeyShipper:
    """For one follower, and its site. What is in `erased` (ids of data keys) is never sent."""

    def __init__(
        self, source: ObjectStore, site: ObjectStore, put: Put, erased: Collection[str], *, parallel: int
    ) -> None:
        self._source = source
        self._site = site
        self._put = put
        self._erased = erased
        self._parallel = parallel
        self._named: OrderedDict[str, None] = OrderedDict()  # data keys that were shipped because an entry names them

    async def ship_all(self) -> None:
        """What the site lacks of the keyring. Raises Tampered, StoreUnavailable, DiskFull."""
        # Both list in ascending order, so that a keyring of any size is compared in little memory.
        there = aiter(self._site.list_keys(KEYRING))
        at_site = await anext(there, None)
        lacking: list[str] = []
        async for key in self._source.list_keys(KEYRING):
            while at_site is not None and at_site < key:
                at_site = await anext(there, None)
            if at_site != key and key.removeprefix(KEYRING).partition(".")[0] not in self._erased:
                lacking.append(key)
            if len(lacking) == KEYS_BATCH:
                await self._copy_all(lacking)
                lacking = []
        await self._copy_all(lacking)

    async def ship_named(self, start: int, size: int) -> None:
        """The keys that entries `start` to `size` name; all of the keyring where one of them announces keys.

        Raises as `ship_all`.
        """
        named: dict[str, None] = {}
        for tile in growth(start, size):
            if tile.level != ENTRIES:
                break
            entries = decode_bundle(await read_tile(self._source, tile), tile.width)
            for entry in entries[max(0, start - tile.index * TILE_WIDTH) :]:
                if any(mark in entry for mark in _ANNOUNCING_MARKS):
                    await self.ship_all()
                    return
                if _KEYID_MARK in entry and (keyid := decode_entry(entry).event.keyid) is not None:
                    named[keyid] = None
        lacking = [keyid for keyid in named if keyid not in self._named and keyid not in self._erased]
        await self._copy_all([KEYRING + keyid for keyid in lacking if is_data_keyid(keyid)])
        self._named.update(dict.fromkeys(lacking))
        while len(self._named) > NAMED_KEPT:
            self._named.popitem(last=False)

    async def _copy_all(self, keys: list[str]) -> None:
        await run_bounded((self._copy(key) for key in keys), parallel=self._parallel)

    async def _copy(self, key: str) -> None:
        await self._put(key, (await self._source.get(key)).data)
