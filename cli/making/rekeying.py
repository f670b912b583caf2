"""Taking a copy's data keys into a restored ledger: what its key-encryption key opens, and what the custodians open."""

from __future__ import annotations

from dataclasses import dataclass

from ledger.errors import InvalidRequest, ObjectMissing
from ledger.keyring.data import KEYRING, check_data_key, data_keyids, split_wrap
from ledger.keyring.erasures import read_erasures
from ledger.keyring.rotation import recover
from ledger.protocols import KeyEncryptionKey
from ledger.store.base import EntryStore, ObjectStore


@dataclass(frozen=True, slots=True)
class Installed:
    """How many data keys a restored ledger has, how many of them it can open, and how many the log says are erased."""

    count: int = 0
    openable: int = 0
    erased: int = 0


async def install_keys(
    copy: ObjectStore, entries: EntryStore, published: ObjectStore, kek: KeyEncryptionKey | None, private: bytes | None
) -> Installed:
    """Copy every data key of a copy that the restored entries do not say is erased; open them where that can be done.

    `kek`: what the restored ledger wraps under; `private`: the offline recovery key, which opens all of them.

    Raises:
        Tampered: a key is not the one that entries were sealed with, or wrapped to another recovery key.
        InvalidRequest: there are data keys, but the ledger never had a recovery key.
    """
    erased = (await read_erasures(entries)).erased
    count = gone = 0
    async for keyid in data_keyids(copy):
        if keyid in erased:
            gone += 1
            continue
        data = await check_data_key(copy, keyid)
        async for key in copy.list_keys(f"{KEYRING}{keyid}."):
            if split_wrap(key.removeprefix(KEYRING)) is not None:
                await published.put_immutable(key, (await copy.get(key)).data)
        await published.put_immutable(KEYRING + keyid, data)
        count += 1
    if count and kek is None:
        raise InvalidRequest("the copy holds data keys, but its ledger has no recovery key", hint="report this copy")
    if kek is None:
        return Installed(count, 0, gone)
    if private is not None:
        return Installed(count, await recover(published, private, kek), gone)
    return Installed(count, await _openable(published, kek.name), gone)


async def _openable(published: ObjectStore, kek: str) -> int:
    openable = 0
    async for keyid in data_keyids(published):
        try:
            await published.get(f"{KEYRING}{keyid}.{kek}")
        except ObjectMissing:
            continue
        openable += 1
    return openable
