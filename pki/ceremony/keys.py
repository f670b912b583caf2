"""The key store of a ceremony: keys that custodians share are in this process while it lasts, all others elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, field

from ledger.errors import InvalidRequest
from pki.core.algorithms import Algorithm, generate
from pki.keystore.base import SHARES, Keeper, SigningKey, check_label
from pki.keystore.signing_files import HeldKey, held_key


@dataclass(slots=True)
class CeremonyKeys:
    """A `Keeper`: what is made here is shared by whoever made it (`held`), before anything is recorded of it."""

    others: Keeper
    held: dict[str, HeldKey] = field(default_factory=dict, repr=False)

    async def generate(self, label: str, algorithm: Algorithm, keeper: str = "") -> str:
        reference = f"{SHARES}:{check_label(label)}"
        self.held[reference] = held_key(generate(algorithm))
        return reference

    async def open(self, reference: str) -> SigningKey:
        if not reference.startswith(f"{SHARES}:"):
            return await self.others.open(reference)
        if reference not in self.held:
            raise InvalidRequest(
                f"the key {reference} is not opened", hint="bring its custodians' shares: --share FILE"
            )
        return self.held[reference]

    async def export(self, reference: str) -> bytes | None:
        return None  # the recovery key would open it with no quorum

    async def take(self, label: str, private: bytes, keeper: str = "") -> str:
        raise InvalidRequest("a ceremony takes no key from outside")

    async def close(self) -> None:
        self.held.clear()
