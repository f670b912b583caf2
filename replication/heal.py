"""Heals one object: the damaged one is kept aside first, then replaced by bytes that were proven, and read back.

Nothing is taken from a copy here, and nothing judged: `genuine` was verified by whoever calls, and these very bytes are
the ones that are written.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from typing import Final

from ledger.core.canonical import JsonValue, canonicalize
from ledger.core.event import format_moment
from ledger.errors import CompareFailed, ImmutableConflict, ObjectMissing, StoreUnavailable
from ledger.protocols import Clock
from ledger.store.base import ObjectStore, Stored

SOME_OBJECTS_MAX: Final = 1_000
SOME_BYTES_MAX: Final = 1_048_576


class Evidence:
    """Damaged objects kept aside: `<site>/<digest>.object` the bytes as found, `<site>/<digest>.json` what they are.

    The digest is over the key and the bytes, so that the same damage, found again, is kept once.
    """

    def __init__(self, objects: ObjectStore, origin: str, clock: Clock) -> None:
        self._objects = objects
        self._origin = origin
        self._clock = clock

    @property
    def where(self) -> str:
        """Where it is, for people."""
        return self._objects.where

    async def keep(self, site: str, key: str, data: bytes, what: str) -> str:
        """Keep an object aside, durably; returns the name of its bytes. Raises StoreUnavailable, DiskFull."""
        digest = hashlib.sha256(key.encode() + b"\n" + data).hexdigest()
        name = f"site-{site}/{digest[:32]}"
        await self._objects.put_immutable(f"{name}.object", data)
        try:
            await self._objects.get(f"{name}.json")
        except ObjectMissing:
            about: dict[str, JsonValue] = {
                "format": 1,
                "origin": self._origin,
                "site": site,
                "key": key,
                "time": format_moment(self._clock.now()),
                "size": len(data),
                "sha256": hashlib.sha256(data).hexdigest(),
                "what": what,
            }
            with suppress(ImmutableConflict):  # another process keeps the same object, and has described it first
                await self._objects.put_immutable(f"{name}.json", canonicalize(about) + b"\n")
        return f"{name}.object"

    async def keep_some(self, site: str, key: str, data: bytes, what: str) -> str:
        """As `keep`, of bytes that anybody can put there as often as he likes: the first MiB of each, 1,000 of a site.

        '': there are so many already. Raises StoreUnavailable, DiskFull.
        """
        kept = 0
        async for _ in self._objects.list_keys(f"site-{site}/"):
            kept += 1
        if kept >= 2 * SOME_OBJECTS_MAX:
            return ""
        return await self.keep(site, key, data[:SOME_BYTES_MAX], what)


async def put_genuine(objects: ObjectStore, key: str, genuine: bytes, damaged: Stored | None) -> None:
    """Put proven bytes in the place of a damaged object, or (None) where one is missing.

    The one way in which an immutable object is ever replaced. Only what was looked at is: whoever else has written it
    meanwhile wins. Durable on return, and read back. Killed in between, either object is there whole; a store that
    keeps versions (S3 Object Lock) keeps the damaged one below.

    Raises:
        CompareFailed: it is not what it was; nothing was changed.
        StoreUnavailable, DiskFull: it may or may not have been written; repeating it is safe.
    """
    if damaged is None:
        try:
            await objects.put_immutable(key, genuine)
        except ImmutableConflict as error:
            raise CompareFailed(f"{objects.where}/{key} is there again, with other bytes") from error
    else:
        await objects.replace(key, genuine, expected=damaged.tag)
    if (await objects.get(key)).data != genuine:
        raise StoreUnavailable(
            f"{objects.where}/{key} does not hold what was just written", hint="look at the disk, and who writes there"
        )
