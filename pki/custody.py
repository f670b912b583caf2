"""Private keys of the trust service, made and recorded, and brought back from their recovery wraps."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from ledger.core.canonical import canonicalize
from ledger.core.encoding import decode_base64, encode_base64
from ledger.errors import Conflict, InvalidRequest, Tampered
from ledger.keyring import open_from_recovery, seal_to_recovery
from pki.access.base import Permit
from pki.aggregates.authority import ACTIVE, Authority
from pki.aggregates.key import IN_USE, Key
from pki.core.algorithms import Algorithm
from pki.journal import Journal
from pki.keystore.base import FILE, LABEL_SIZE_MAX, Keeper, KeyMissing, SigningKey
from pki.views.catalogue import TrustIndex

FORMAT = 1
_PURPOSE = "trust signing"
_SUFFIX_BYTES = 4


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a recovery did: labels brought back, those that were there, and those whose keepers never let them go."""

    back: list[str]
    present: list[str]
    elsewhere: list[str]


@dataclass(frozen=True, slots=True)
class Custody:
    """`recovery` is the public part of the ledger's offline recovery key; empty: keys are wrapped to nobody."""

    journal: Journal
    index: TrustIndex
    keys: Keeper
    recovery: bytes
    also: Callable[[Key], None] | None = None
    """What else is recorded of a new key, with it."""

    async def make(self, name: str, algorithm: Algorithm, keeper: str = "") -> tuple[Key, SigningKey]:
        """A new key, durable at its keeper; its record is for the caller to save, with what it is for.

        Raises as `KeyStore.generate`.
        """
        label = new_label(name)
        return await self._recorded(label, await self.keys.generate(label, algorithm, keeper))

    async def take(self, name: str, private: bytes, keeper: str = "") -> tuple[Key, SigningKey]:
        """The same for an existing private key (PKCS #8, DER). Raises as `Keeper.take`."""
        label = new_label(name)
        return await self._recorded(label, await self.keys.take(label, private, keeper))

    async def adopt(self, name: str, reference: str) -> tuple[Key, SigningKey]:
        """The same for one that is at its keeper already. Raises as `KeyStore.open`."""
        return await self._recorded(new_label(name), reference)

    async def _recorded(self, label: str, reference: str) -> tuple[Key, SigningKey]:
        signing = await self.keys.open(reference)
        now = self.journal.clock.now()
        key = Key(label, reference, signing.algorithm.name, encode_base64(signing.public), timestamp=now)
        private = await self.keys.export(reference) if self.recovery else None
        if private is not None:
            wrapped = seal_to_recovery(self.recovery, private, context=_context(label, signing.public))
            key.wrap(hashlib.sha256(self.recovery).hexdigest(), encode_base64(wrapped), timestamp=now)
        if self.also is not None:
            self.also(key)
        return key, signing

    async def recover(self, recovery_private: bytes, *, permit: Permit) -> Recovered:
        """Bring back every wrapped key whose file is not here, with the custodians' recovery key.

        That they are opened is recorded first. Killed anywhere, it is finished by running it again.

        Raises:
            Tampered: a wrap does not open with that key, or holds another private key than its record says.
            InvalidRequest, DiskFull, StoreUnavailable: as `Keeper.take`.
        """
        await self.index.catch_up()
        done = Recovered([], [], [])
        missing: list[Key] = []
        for key in self.index.book.all(Key):
            if key.state != IN_USE or not key.reference.startswith(f"{FILE}:"):
                done.elsewhere.append(key.label)
            elif await self._is_present(key):
                done.present.append(key.label)
            elif not key.wrapped:
                raise InvalidRequest(
                    f"the key {key.label} is not there, and is wrapped to nobody", hint="restore its file from a copy"
                )
            else:
                missing.append(key)
        opened = [(key, self._opened(key, recovery_private)) for key in missing]
        for key, private in opened:
            record = await self.journal.load(Key, key.id)
            record.recover(timestamp=self.journal.clock.now())
            await self.journal.save(record, permit=permit)
            await self.keys.take(key.reference.removeprefix(f"{FILE}:"), private)
            if (await self.keys.open(key.reference)).public != decode_base64(key.public):
                raise Tampered(f"the wrap of {key.label} holds another key than its record says")
            done.back.append(key.label)
        return done

    async def retire(self, label: str, *, permit: Permit) -> str:
        """A key is not needed any more, for issuing, for CRLs or for anything; returns its reference.

        Nothing is destroyed here: its keeper's own tools do that.

        Raises:
            InvalidRequest: there is no such key.
            Conflict: it is retired already, or an authority issues with it.
        """
        key = await self.journal.load(Key, Key.create_id(label))
        await self.index.catch_up()
        for authority in self.index.book.all(Authority):
            if key.reference in _needed(authority):
                raise Conflict(
                    f"authority {authority.name} uses the key {label}", hint="retire it, or give it a new key"
                )
        key.retire(timestamp=self.journal.clock.now())
        await self.journal.save(key, permit=permit)
        return key.reference

    async def _is_present(self, key: Key) -> bool:
        try:
            found = await self.keys.open(key.reference)
        except KeyMissing:
            return False
        if found.public != decode_base64(key.public):
            raise Tampered(
                f"{key.reference} is another key than its record says", hint="put the ledger's own file back"
            )
        return True

    @staticmethod
    def _opened(key: Key, recovery_private: bytes) -> bytes:
        context = _context(key.label, decode_base64(key.public))
        return open_from_recovery(recovery_private, decode_base64(key.wrapped), context=context)


@dataclass(frozen=True, slots=True)
class RecordedKeys:
    """A `KeyStore` whose new keys are recorded, and wrapped to the recovery key, before anybody hears of them.

    For what makes keys beside authorities: responders, time stamps, tokens. `permit` is what its records stand under.
    """

    custody: Custody
    permit: Permit

    async def generate(self, label: str, algorithm: Algorithm) -> str:
        key, _ = await self.custody.make(label, algorithm)
        await self.custody.journal.save(key, permit=self.permit)
        return key.reference

    async def open(self, reference: str) -> SigningKey:
        return await self.custody.keys.open(reference)

    async def close(self) -> None:
        await self.custody.keys.close()


def _needed(authority: Authority) -> list[str]:
    """The keys an authority issues with, or will."""
    if authority.state != ACTIVE:
        return []
    issuing = [one.number for one in authority.generations if one.certificates][-1:] or [1]
    return [one.reference for one in authority.generations if one.number >= issuing[0]]


def new_label(name: str) -> str:
    """A label that nobody can have guessed, so that what a crash left behind, or somebody planted, is never taken."""
    suffix = f"-{secrets.token_hex(_SUFFIX_BYTES)}"
    return f"ca-{name}"[: LABEL_SIZE_MAX - len(suffix)] + suffix


def _context(label: str, public: bytes) -> bytes:
    return canonicalize({"format": FORMAT, "label": label, "purpose": _PURPOSE, "public": encode_base64(public)})
