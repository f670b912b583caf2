"""Data keys: made, kept wrapped twice, found again, taken out. They live in the keyring, outside the log.

`keyring/<keyid>` holds a key wrapped to the offline recovery key, and is never replaced: a keyid ends in the digest of
that object, so that whoever holds an entry can tell its key from any other. `keyring/<keyid>.<kek>` holds the same key
wrapped under the operating key-encryption key of that name.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ledger.core.canonical import JsonValue, canonicalize, parse_json
from ledger.core.encoding import decode_base64, encode_base64
from ledger.core.sealing import KEY_SIZE
from ledger.errors import InvalidRequest, Malformed, ObjectMissing, Tampered
from ledger.keyring.erasures import subject_key_prefix
from ledger.keyring.recovery import FORMAT, open_from_recovery, seal_to_recovery
from ledger.protocols import Clock, KeyEncryptionKey
from ledger.store.base import ObjectStore
from ledger.store.versions import read_checked
from ledger.tasks import run_bounded

KEYRING = "keyring/"
BATCH_KEYS_MAX: Final = 256
"""How many keys are wrapped or unwrapped in one request: well below what OpenBao takes (about 490)."""
OBJECTS_PARALLEL: Final = 16

_DATA: Final = "data"
_DIGEST_SIZE = 16
_KEYID = re.compile(r"(?P<name>(?:asset-[0-9a-f]{32}|subject-[a-z2-7]{32}|content))-(?P<digest>[0-9a-f]{32})")
_KEK = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")


@dataclass(frozen=True, slots=True)
class KeyName:
    """What a data key is for: `name` is a keyid without its digest, `source` the asset it belongs to."""

    name: str
    source: str


def asset_key_name(source: str) -> KeyName:
    """The name of an asset's own key."""
    return KeyName(f"asset-{hashlib.sha256(source.encode()).hexdigest()[:32]}", source)


def subject_key_name(source: str, pseudonym: str) -> KeyName:
    """The name of the key of one subject of a personal source, by its pseudonym."""
    return KeyName(subject_key_prefix(pseudonym)[:-1], source)


def is_data_keyid(text: str) -> bool:
    """Whether a keyring object of that name holds a data key, wrapped to the recovery key."""
    return _KEYID.fullmatch(text) is not None


def is_content_keyid(text: str) -> bool:
    """Whether a keyring object of that name holds a content secret (keyring/content.py): no erasure takes it away."""
    return text.startswith("content-") and is_data_keyid(text)


def split_wrap(name: str) -> tuple[str, str] | None:
    """(keyid, name of the key-encryption key) of an operating wrap's object name; None: it is none."""
    keyid, dot, kek = name.partition(".")
    return (keyid, kek) if dot and is_data_keyid(keyid) and _KEK.fullmatch(kek) else None


def wrap_context(keyid: str) -> bytes:
    """What an operating wrap is bound to."""
    return canonicalize({"keyid": keyid, "purpose": _DATA})


def _clear(name: KeyName) -> dict[str, JsonValue]:
    return {"format": FORMAT, "name": name.name, "purpose": _DATA, "source": name.source}


def data_key_object(key: bytes, name: KeyName, recovery_public: bytes) -> tuple[str, bytes]:
    """(keyid, bytes) of the keyring object that keeps a data key for the custodians."""
    clear = _clear(name)
    wrapped = seal_to_recovery(recovery_public, key, context=canonicalize(clear))
    data = canonicalize({**clear, "recovery": encode_base64(wrapped)})
    return f"{name.name}-{_digest(data)}", data


def parse_data_key(keyid: str, data: bytes) -> tuple[KeyName, bytes]:
    """What a keyring object says: which key it is, and the wrap. Raises Tampered: it is not the object of `keyid`."""
    match = _KEYID.fullmatch(keyid)
    if match is None or _digest(data) != match["digest"]:
        raise _not_genuine(keyid)
    try:
        value = parse_json(data)
        match value:
            case {"format": 1, "name": str(name), "purpose": "data", "source": str(source), "recovery": str(wrapped)}:
                return KeyName(name, source), decode_base64(wrapped)
    except (Malformed, ValueError):
        pass
    raise _not_genuine(keyid)


def recover_data_key(keyid: str, data: bytes, recovery_private: bytes) -> bytes:
    """A data key out of its keyring object, with the custodians' recovery key. Raises Tampered."""
    name, wrapped = parse_data_key(keyid, data)
    return open_from_recovery(recovery_private, wrapped, context=canonicalize(_clear(name)))


async def check_data_key(objects: ObjectStore, keyid: str) -> bytes:
    """The keyring object of a keyid, checked against it. Raises ObjectMissing; Tampered: it is another one."""
    if not is_data_keyid(keyid):
        raise ObjectMissing(KEYRING + keyid[:200], where=objects.where)

    def check(data: bytes) -> bytes:
        if _digest(data) != keyid[-2 * _DIGEST_SIZE :]:
            raise Tampered(
                f"{objects.where}/{KEYRING}{keyid} is damaged: it is not the key that entries were sealed with",
                key=KEYRING + keyid,
                hint="use another copy",
            )
        return data

    return (await read_checked(objects, KEYRING + keyid, check))[0]


async def data_keyids(objects: ObjectStore, prefix: str = "") -> AsyncIterator[str]:
    """The ids of every data key in a keyring."""
    async for key in objects.list_keys(KEYRING + prefix):
        if is_data_keyid(keyid := key.removeprefix(KEYRING)):
            yield keyid


async def delete_data_key(objects: ObjectStore, keyid: str) -> None:
    """Delete every version of a data key and of all its wraps; done before is fine."""
    assert is_data_keyid(keyid)
    assert not is_content_keyid(keyid), "without it no content of the ledger can be read"
    # The operating wraps first: while `keyring/<keyid>` is there, the key is not gone.
    found = [key async for key in objects.list_keys(KEYRING + keyid)]
    for key in reversed([KEYRING + keyid, *(key for key in found if key != KEYRING + keyid)]):
        await objects.purge(key)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).digest()[:_DIGEST_SIZE].hex()


def _not_genuine(keyid: str) -> Tampered:
    return Tampered(
        f"the keyring object {keyid[:120]} is not the key that entries were sealed with",
        key=KEYRING + keyid,
        hint="use another copy",
    )


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """How many unwrapped data keys are kept, and for how long."""

    cached_keys_max: int = 16_384
    cached_s: float = 3_600.0


class DataKeys:
    """The data keys of one ledger: `objects` is prefixed to the origin. Unwrapped ones are cached within bounds.

    A new key is durable in `objects`, wrapped both ways, before it is handed out.
    """

    def __init__(
        self,
        objects: ObjectStore,
        kek: KeyEncryptionKey,
        *,
        recovery_public: bytes,
        clock: Clock,
        limits: KeyLimits | None = None,
    ) -> None:
        self._objects = objects
        self._kek = kek
        self._recovery = recovery_public
        self._clock = clock
        self._limits = limits or KeyLimits()
        self._cached: OrderedDict[str, tuple[bytes, float]] = OrderedDict()

    async def find(self, name: KeyName) -> str | None:
        """The id of a key of that name, the first where there are several; None: there is none."""
        return min([keyid async for keyid in data_keyids(self._objects, f"{name.name}-")], default=None)

    async def has(self, keyid: str) -> bool:
        """Whether the keyring holds that key. Raises Tampered: it holds another one in its place."""
        try:
            await check_data_key(self._objects, keyid)
        except ObjectMissing:
            return False
        return True

    async def create_many(self, names: Sequence[KeyName]) -> list[str]:
        """New keys, durable; their ids, in the same order. Raises Unavailable, StoreUnavailable, DiskFull."""
        made: list[str] = []
        for first in range(0, len(names), BATCH_KEYS_MAX):
            part = names[first : first + BATCH_KEYS_MAX]
            keys = [secrets.token_bytes(KEY_SIZE) for _ in part]
            objects = [data_key_object(key, name, self._recovery) for key, name in zip(keys, part, strict=True)]
            await self.add_wraps([(keyid, key) for (keyid, _), key in zip(objects, keys, strict=True)])
            # Commit point of a key: a crash before this line leaves wraps of a key that nobody has ever used.
            await run_bounded(
                (self._objects.put_immutable(KEYRING + keyid, data) for keyid, data in objects),
                parallel=OBJECTS_PARALLEL,
            )
            for (keyid, _), key in zip(objects, keys, strict=True):
                self._keep(keyid, key)
                made.append(keyid)
        return made

    async def add_wraps(self, keys: Sequence[tuple[str, bytes]]) -> None:
        """Wrap (keyid, key) pairs under the operating key-encryption key, durably."""
        for first in range(0, len(keys), BATCH_KEYS_MAX):
            part = keys[first : first + BATCH_KEYS_MAX]
            wrapped = await self._kek.wrap_many([(key, wrap_context(keyid)) for keyid, key in part])
            await run_bounded(
                (
                    self._objects.put_immutable(self._wrap(keyid), data)
                    for (keyid, _), data in zip(part, wrapped, strict=True)
                ),
                parallel=OBJECTS_PARALLEL,
            )

    def at_hand(self, keyid: str) -> bytes | None:
        """A key that `get` would give without asking anybody; None: it would have to ask."""
        kept = self._cached.get(keyid)
        if kept is None or self._clock.now().timestamp() - kept[1] > self._limits.cached_s:
            return None
        self._cached.move_to_end(keyid)
        return kept[0]

    async def get_many(self, keyids: Iterable[str]) -> Mapping[str, bytes]:
        """The keys of these ids; those the keyring does not hold under this key-encryption key are left out.

        Raises:
            Unavailable: the keeper of the key-encryption key cannot be reached, is sealed, or refuses.
            Tampered: a wrap is not the one of that key.
            InvalidRequest: the passphrase is wrong, or none is given.
        """
        now = self._clock.now().timestamp()
        found: dict[str, bytes] = {}
        wanted: dict[str, None] = {}
        for keyid in keyids:
            kept = self._cached.get(keyid)
            if kept is not None and now - kept[1] <= self._limits.cached_s:
                self._cached.move_to_end(keyid)
                found[keyid] = kept[0]
            elif is_data_keyid(keyid):
                wanted[keyid] = None
        lacking = list(wanted)
        for first in range(0, len(lacking), BATCH_KEYS_MAX):
            for keyid, key in await self._unwrap(lacking[first : first + BATCH_KEYS_MAX]):
                self._keep(keyid, key)
                found[keyid] = key
        return found

    async def get(self, keyid: str) -> bytes:
        """One key. Raises InvalidRequest: it is not to be had under this key-encryption key; and as `get_many`."""
        found = await self.get_many([keyid])
        if keyid not in found:
            raise InvalidRequest(
                f"the data key {keyid} cannot be opened with {self._kek.name}",
                hint="after a restore, open the keys with: jinshi keys recover --recovery-key FILE",
            )
        return found[keyid]

    def forget(self, keyids: Iterable[str]) -> None:
        """Drop keys from the cache."""
        for keyid in keyids:
            self._cached.pop(keyid, None)

    async def _unwrap(self, keyids: Sequence[str]) -> list[tuple[str, bytes]]:
        """The keys that the keyring holds among these, opened; raises as `get_many`."""
        wraps = await self._read_wraps(keyids)
        keys = await self._kek.unwrap_many([(data, wrap_context(keyid)) for keyid, data in wraps]) if wraps else []
        return [(keyid, key) for (keyid, _), key in zip(wraps, keys, strict=True)]

    async def _read_wraps(self, keyids: Sequence[str]) -> list[tuple[str, bytes]]:
        wraps: dict[str, bytes] = {}

        async def read(keyid: str) -> None:
            try:
                wraps[keyid] = (await self._objects.get(self._wrap(keyid))).data
            except ObjectMissing:
                return

        await run_bounded((read(keyid) for keyid in keyids), parallel=OBJECTS_PARALLEL)
        return [(keyid, wraps[keyid]) for keyid in keyids if keyid in wraps]

    def _wrap(self, keyid: str) -> str:
        return f"{KEYRING}{keyid}.{self._kek.name}"

    def _keep(self, keyid: str, key: bytes) -> None:
        self._cached[keyid] = (key, self._clock.now().timestamp())
        self._cached.move_to_end(keyid)
        while len(self._cached) > self._limits.cached_keys_max:
            self._cached.popitem(last=False)
