"""What the registration authority asks of whoever issues."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

from pki.access.base import Permit
from pki.aggregates.request import CertificateRequest
from pki.ca import Issued, Order

Begun: TypeAlias = Callable[[str], CertificateRequest]
"""Makes the request say that it is being issued under a reference; what it gives is saved before anything is signed."""


class Issuer(Protocol):
    """Signs what was vetted and approved, and revokes it. Safe under concurrency.

    Whatever it issues is in the journal as a certificate, intended and issued, when it is answered. Our own authority
    knows the serial before it signs, so the certificate's intent is recorded first; of another one it is known
    afterwards, and what is recorded first is that the request is being issued.
    """

    async def issue(self, order: Order, begun: Begun, *, permit: Permit) -> Issued:
        """Have it signed; the intent, with what `begun` gives, is recorded before, the outcome before it is answered.

        Raises:
            IssuanceRefused: it may not be certified so; nothing was signed.
            Conflict: somebody else issues this request.
            Unavailable: whoever signs cannot be reached. The request goes on by itself (`recover`), or stays approved.
        """
        ...

    async def revoke(self, authority: str, serial: str, reason: str, *, permit: Permit, invalid_since: int = 0) -> None:
        """Revoke for good; recorded, and told to whoever publishes it. Raises Conflict, InvalidRequest, Unavailable."""
        ...

    async def hold(self, authority: str, serial: str, *, permit: Permit) -> None:
        """Suspend. Raises as `revoke`; InvalidRequest, too: the issuer knows no holds."""
        ...

    async def release(self, authority: str, serial: str, *, permit: Permit) -> None:
        """End a hold. Raises as `hold`."""
        ...

    async def chain(self, authority: str) -> tuple[bytes, ...]:
        """The certificates above what it issues, the issuing one first, DER."""
        ...

    async def recover(self) -> int:
        """Finish what a crash left, so that every request in doubt is issued, approved again, or failed.

        Returns how many were settled. It is the same code at start and by the clock.
        """
        ...
