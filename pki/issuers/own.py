"""Our own certification authority as an issuer."""

from __future__ import annotations

from pki.access.base import Permit
from pki.ca import CertificateAuthority, Issued, Order
from pki.issuance.generations import Generations
from pki.issuers.base import Begun
from pki.revocation import Revocation
from pki.views.catalogue import TrustIndex


class OwnIssuer:
    """`Issuer`: the request is saved in one append with the intent of its certificate, under the serial it will have;
    in that intent, where the order says what was asked.

    What became of it is what became of that certificate; no entry of the request says it once more.
    """

    def __init__(self, ca: CertificateAuthority, revocation: Revocation, index: TrustIndex) -> None:
        self._ca = ca
        self._revocation = revocation
        self._generations = Generations(index.book)

    async def issue(self, order: Order, begun: Begun, *, permit: Permit) -> Issued:
        """As `Issuer`."""
        token = await self._ca.prepare(order, permit=permit)
        return await self._ca.issue(token, also=() if order.asked is not None else (begun(token.serial),))

    async def revoke(self, authority: str, serial: str, reason: str, *, permit: Permit, invalid_since: int = 0) -> None:
        """As `Issuer`."""
        await self._revocation.revoke(authority, serial, reason, permit=permit, invalid_since=invalid_since)

    async def hold(self, authority: str, serial: str, *, permit: Permit) -> None:
        """As `Issuer`."""
        await self._revocation.hold(authority, serial, permit=permit)

    async def release(self, authority: str, serial: str, *, permit: Permit) -> None:
        """As `Issuer`."""
        await self._revocation.release(authority, serial, permit=permit)

    async def chain(self, authority: str) -> tuple[bytes, ...]:
        """As `Issuer`."""
        return self._generations.current(authority)[0].given

    async def recover(self) -> int:
        """As `Issuer`."""
        return await self._ca.recover()
