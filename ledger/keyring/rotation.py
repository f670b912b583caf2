"""Rotation of the key-encryption key: every data key is wrapped under the new one, then the pointer moves, then the old
wraps go. Killed anywhere, it is carried on by running it again; the log is not touched.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress

from ledger.errors import ImmutableConflict, ObjectMissing, Tampered
from ledger.keyring.data import (
    BATCH_KEYS_MAX,
    KEYRING,
    OBJECTS_PARALLEL,
    data_keyids,
    recover_data_key,
    split_wrap,
    wrap_context,
)
from ledger.protocols import KeyEncryptionKey
from ledger.store.base import ObjectStore
from ledger.tasks import Report, run_bounded

Unwrap = Callable[[list[str]], Awaitable[list[bytes]]]
"""The data keys of these ids, in the same order."""


async def rewrap(
    objects: ObjectStore, old: KeyEncryptionKey, new: KeyEncryptionKey, *, report: Report | None = None
) -> int:
    """Give every data key a wrap under `new` beside that under `old`, and check it by opening it; how many there are.

    Raises:
        Tampered: a data key has no wrap under `old`, or one that is not its own; nothing was taken away.
        Unavailable: a keeper of the keys cannot be reached; running it again carries on.
    """

    async def unwrap(keyids: list[str]) -> list[bytes]:
        wraps = [(await _wrap_of(objects, keyid, old), wrap_context(keyid)) for keyid in keyids]
        return await old.unwrap_many(wraps)

    return await _wrap_all(objects, unwrap, new, report)


async def recover(
    objects: ObjectStore, recovery_private: bytes, new: KeyEncryptionKey, *, report: Report | None = None
) -> int:
    """Give every data key a wrap under `new`, out of its recovery wrap: with the custodians' key and nothing else.

    Raises:
        Tampered: a keyring object was edited, or is wrapped to another recovery key.
    """

    async def unwrap(keyids: list[str]) -> list[bytes]:
        return [
            recover_data_key(keyid, (await objects.get(KEYRING + keyid)).data, recovery_private) for keyid in keyids
        ]

    return await _wrap_all(objects, unwrap, new, report)


async def _wrap_all(objects: ObjectStore, unwrap: Unwrap, new: KeyEncryptionKey, report: Report | None) -> int:
    count = 0
    batch: list[str] = []
    async for keyid in data_keyids(objects):
        batch.append(keyid)
        count += 1
        if len(batch) == BATCH_KEYS_MAX:
            await _wrap_batch(objects, batch, unwrap, new)
            batch = []
            if report is not None:
                report(count, count)
    await _wrap_batch(objects, batch, unwrap, new)
    return count


async def _wrap_batch(objects: ObjectStore, keyids: list[str], unwrap: Unwrap, new: KeyEncryptionKey) -> None:
    if not keyids:
        return
    keys = await unwrap(keyids)
    lacking = [pair for pair in zip(keyids, keys, strict=True) if not await _has(objects, pair[0], new)]
    if lacking:
        wrapped = await new.wrap_many([(key, wrap_context(keyid)) for keyid, key in lacking])
        await run_bounded(
            (_put(objects, keyid, new, data) for (keyid, _), data in zip(lacking, wrapped, strict=True)),
            parallel=OBJECTS_PARALLEL,
        )
    stored = [(await _wrap_of(objects, keyid, new), wrap_context(keyid)) for keyid in keyids]
    if await new.unwrap_many(stored) != keys:
        raise Tampered(
            f"a data key wrapped under {new.name} does not come out as it went in", hint="nothing was taken away"
        )


async def drop_wraps(objects: ObjectStore, *, keep: Iterable[str]) -> int:
    """Delete the operating wraps under every key-encryption key but those in `keep`; how many there were."""
    kept = set(keep)
    dropped = 0
    async for key in objects.list_keys(KEYRING):
        wrap = split_wrap(key.removeprefix(KEYRING))
        if wrap is not None and wrap[1] not in kept:
            await objects.purge(key)
            dropped += 1
    return dropped


async def _put(objects: ObjectStore, keyid: str, kek: KeyEncryptionKey, data: bytes) -> None:
    # A write that was given up may still have landed. Wrapping is never the same twice: whichever is there is as good,
    # and is opened before anything is taken away.
    with suppress(ImmutableConflict):
        await objects.put_immutable(f"{KEYRING}{keyid}.{kek.name}", data)


async def _has(objects: ObjectStore, keyid: str, kek: KeyEncryptionKey) -> bool:
    try:
        await objects.get(f"{KEYRING}{keyid}.{kek.name}")
    except ObjectMissing:
        return False
    return True


async def _wrap_of(objects: ObjectStore, keyid: str, kek: KeyEncryptionKey) -> bytes:
    try:
        return (await objects.get(f"{KEYRING}{keyid}.{kek.name}")).data
    except ObjectMissing as error:
        raise Tampered(
            f"{objects.where}/{KEYRING}{keyid} has no wrap under {kek.name}",
            key=KEYRING + keyid,
            hint="open it with: jinshi keys recover --recovery-key FILE",
        ) from error
