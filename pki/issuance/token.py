"""One-use tokens: what passed policy and lint, and may be signed once, soon, by the authority that made the token.

Signing takes a token and nothing else, so what was not linted cannot be signed.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final

from ledger.errors import IssuanceRefused, Pushback
from pki.access.base import Permit
from pki.core.issuing import Issuing
from pki.core.template import Template
from pki.issuance.order import Order
from pki.issuance.underway import Reservation

VALID_S: Final = 300
TOKENS_MAX: Final = 5_000


class IssuanceToken:
    """Leave to sign one certificate. Made by `CertificateAuthority.prepare` alone, redeemed by it once.

    What it was made of can be read: the template is what will be signed, byte for byte.
    """

    __slots__ = ("expires_at", "issuing", "order", "permit", "reservation", "template")

    def __init__(
        self,
        by: Tokens,
        order: Order,
        template: Template,
        issuing: Issuing,
        permit: Permit,
        reservation: Reservation,
        expires_at: datetime,
    ) -> None:
        by.must_be_making()
        self.order = order
        self.template = template
        self.issuing = issuing
        self.permit = permit
        self.reservation = reservation
        self.expires_at = expires_at

    @property
    def serial(self) -> str:
        """The serial number it will have, 40 hexadecimal digits."""
        return self.template.serial


class Tokens:
    """Those that are out. One for each authority service; a token of another one, or used before, is none."""

    def __init__(self) -> None:
        self._out: dict[int, IssuanceToken] = {}
        self._making = False

    def make(
        self,
        order: Order,
        template: Template,
        issuing: Issuing,
        permit: Permit,
        reservation: Reservation,
        *,
        now: datetime,
    ) -> IssuanceToken:
        """A new one. Raises Pushback: too many are out."""
        if len(self._out) >= TOKENS_MAX:
            raise Pushback("too many certificates are prepared and not issued", retry_after_s=1.0)
        self._making = True
        try:
            token = IssuanceToken(self, order, template, issuing, permit, reservation, now + timedelta(seconds=VALID_S))
        finally:
            self._making = False
        self._out[id(token)] = token
        return token

    def must_be_making(self) -> None:
        """Raises TypeError: a token was to be made elsewhere."""
        if not self._making:
            raise TypeError("tokens are made by CertificateAuthority.prepare")

    def redeem(self, tokens: Iterable[IssuanceToken], *, now: datetime) -> None:
        """Take them out of the world, all or none. Raises IssuanceRefused: one is not out, was used, or has expired."""
        given = list(tokens)
        for token in given:
            if self._out.get(id(token)) is not token:
                raise IssuanceRefused("the leave to issue was used before, or is of another authority")
            if now >= token.expires_at:
                raise IssuanceRefused("the leave to issue has expired", hint="prepare the certificate again")
        if len({id(token) for token in given}) != len(given):
            raise IssuanceRefused("the leave to issue was given twice")
        for token in given:
            del self._out[id(token)]

    def expire(self, *, now: datetime) -> list[IssuanceToken]:
        """Take out those that nobody redeemed in time; the oldest come first, so this looks at few."""
        gone = []
        for token in self._out.values():
            if now < token.expires_at:
                break
            gone.append(token)
        for token in gone:
            del self._out[id(token)]
        return gone
