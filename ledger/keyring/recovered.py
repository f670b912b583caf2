"""Data keys out of their recovery wraps, as they are needed: for custodians who read a copy. Nothing is written."""

from __future__ import annotations

from collections.abc import Sequence

from ledger.errors import InvalidRequest, ObjectMissing
from ledger.keyring.data import KEYRING, DataKeys, recover_data_key
from ledger.protocols import Clock
from ledger.store.base import ObjectStore


class RecoveredKeys(DataKeys):
    """The data keys in `objects` (prefixed to the origin), opened with the private recovery key; none can be made."""

    def __init__(self, objects: ObjectStore, private: bytes, clock: Clock) -> None:
        super().__init__(objects, _NoKek(), recovery_public=b"", clock=clock)
        self._private = private

    async def _unwrap(self, keyids: Sequence[str]) -> list[tuple[str, bytes]]:
        found: list[tuple[str, bytes]] = []
        for keyid in keyids:
            try:
                data = (await self._objects.get(KEYRING + keyid)).data
            except ObjectMissing:
                continue
            found.append((keyid, recover_data_key(keyid, data, self._private)))
        return found


class _NoKek:
    """Stands where the operating key-encryption key is not at hand."""

    name = "recovery"

    async def wrap_many(self, keys: Sequence[tuple[bytes, bytes]]) -> list[bytes]:
        raise InvalidRequest("the recovery key opens data keys and makes none", hint="work on the ledger itself")

    async def unwrap_many(self, wrapped: Sequence[tuple[bytes, bytes]]) -> list[bytes]:
        raise InvalidRequest("the operating key-encryption key is not at hand", hint="give the recovery key")
