"""Which packs of its site a mirror has read and found whole: each is read once, however often entries refer to it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from typing import Final

from ledger.errors import CompareFailed, ObjectMissing, Tampered
from ledger.store.base import ObjectStore, Tag

PACKS: Final = "packs/"
"""In the mirror's memory: `packs/<first byte of the names, in hexadecimal>` holds names of packs, 32 bytes each."""
NAME_SIZE: Final = 32


class VerifiedPacks:
    """In `state`, in 256 objects, so that a lookup reads, and a step writes, a small part of them."""

    def __init__(self, state: ObjectStore) -> None:
        self._state = state

    async def known(self, packs: Collection[bytes]) -> set[bytes]:
        """Those of these that were read before. Raises Tampered: the memory is damaged."""
        found: set[bytes] = set()
        for key, wanted in _sharded(packs).items():
            found |= wanted & (await self._read(key))[0]
        return found

    async def add(self, packs: Collection[bytes]) -> None:
        """These were, now; durable on return. Raises Tampered."""
        for key, new in _sharded(packs).items():
            while True:
                there, tag = await self._read(key)
                if new <= there:
                    break
                try:
                    await self._state.replace(key, b"".join(sorted(there | new)), expected=tag)
                except CompareFailed:  # another round of the same mirror
                    continue
                break

    async def forget(self, packs: Collection[bytes]) -> None:
        """These were removed: should one be sent again, it is read again. Durable on return. Raises Tampered."""
        for key, gone in _sharded(packs).items():
            while True:
                there, tag = await self._read(key)
                if not gone & there:
                    break
                try:
                    await self._state.replace(key, b"".join(sorted(there - gone)), expected=tag)
                except CompareFailed:  # another round of the same mirror
                    continue
                break

    async def _read(self, key: str) -> tuple[set[bytes], Tag | None]:
        try:
            stored = await self._state.get(key)
        except ObjectMissing:
            return set(), None
        if len(stored.data) % NAME_SIZE:
            raise Tampered(f"{self._state.where}/{key} is damaged", hint="delete it: the packs are read once more")
        return {stored.data[start : start + NAME_SIZE] for start in range(0, len(stored.data), NAME_SIZE)}, stored.tag


def _sharded(packs: Collection[bytes]) -> dict[str, set[bytes]]:
    shards: dict[str, set[bytes]] = defaultdict(set)
    for pack in packs:
        shards[PACKS + pack[:1].hex()].add(pack)
    return shards
