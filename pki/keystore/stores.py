"""One key store over all places: which one a key is in, its reference says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ledger.errors import InvalidRequest
from pki.core.algorithms import Algorithm
from pki.keystore.base import FILE, OPENBAO, PKCS11, SHARES, Keeper, SigningKey

FORMS = "file, pkcs11:token=TOKEN, or openbao+https://HOST:PORT/MOUNT"


@dataclass(slots=True)
class KeyStores:
    """A `Keeper` of several places, each made when it is first needed. "" is the file system."""

    make: Callable[[str], Keeper]
    """Makes the keeper of a name: what a reference is without its label."""
    _made: dict[str, Keeper] = field(default_factory=dict)

    async def generate(self, label: str, algorithm: Algorithm, keeper: str = "") -> str:
        return await self._at(keeper).generate(label, algorithm)

    async def take(self, label: str, private: bytes, keeper: str = "") -> str:
        return await self._at(keeper).take(label, private)

    async def open(self, reference: str) -> SigningKey:
        return await self._at(keeper_of(reference)).open(reference)

    async def export(self, reference: str) -> bytes | None:
        return await self._at(keeper_of(reference)).export(reference)

    async def close(self) -> None:
        for one in self._made.values():
            await one.close()
        self._made.clear()

    def _at(self, keeper: str) -> Keeper:
        keeper = keeper or FILE
        if keeper not in self._made:
            self._made[keeper] = self.make(keeper)
        return self._made[keeper]


def keeper_of(reference: str) -> str:
    """Which keeper has the key of a reference. Raises InvalidRequest: it is at none that can be asked."""
    if not reference:
        raise InvalidRequest("that key is kept elsewhere", hint="what it signs is made there, and taken in here")
    scheme = reference.partition(":")[0]
    if scheme == FILE:
        return FILE
    if scheme == PKCS11:
        return reference.partition(";")[0]
    if reference.startswith(OPENBAO):
        return reference.rpartition("/")[0]
    if scheme == SHARES:
        raise InvalidRequest(
            f"the key {reference} is shared among custodians", hint="sign with it in: jinshi ca ceremony run FILE"
        )
    raise InvalidRequest(f"{reference[:200]!r} says not where a key is", hint=FORMS)
