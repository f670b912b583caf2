"""Which issuer signs for which authority."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ledger.errors import Unavailable
from pki.issuers.base import Issuer


@dataclass(frozen=True, slots=True)
class Issuers:
    """Our own authorities are all `own`'s; others are named, each with what reaches it."""

    own: Issuer
    others: Mapping[str, Issuer] = field(default_factory=dict)

    def of(self, authority: str) -> Issuer:
        """Whoever issues in the name of an authority."""
        return self.others.get(authority, self.own)

    async def recover(self) -> int:
        """Have each finish what a crash left; returns how many were settled. Raises Unavailable: one is away.

        The others are recovered all the same.
        """
        settled, failed = 0, None
        for issuer in (self.own, *self.others.values()):
            try:
                settled += await issuer.recover()
            except Unavailable as error:
                failed = error
        if failed is not None:
            raise failed
        return settled
