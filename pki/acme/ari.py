"""When a certificate should be renewed, as it is told to clients, and which order renews which (RFC 9773)."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from cryptography import x509

from ledger.core.encoding import decode_base64
from ledger.errors import InvalidRequest
from pki.acme.base import Acme
from pki.acme.ids import CertificateId, parse_certificate_id
from pki.acme.messages import OrderMessage
from pki.acme.problems import Problem, absent, malformed
from pki.aggregates.acme import Account
from pki.aggregates.acme_order import Order
from pki.aggregates.authority import Authority
from pki.aggregates.certificate import REVOKED
from pki.views.certificates import CertificateRow

WINDOW_PARTS: Final = 24
"""The window is this part of the certificate's life, and begins when two thirds of it are over."""
PAST_S: Final = 3_600

_Generation = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Renewals:
    """What is known of certificates that may be renewed. Whoever asks need not be anybody."""

    acme: Acme
    _identifiers: dict[_Generation, bytes] = field(default_factory=dict)

    async def information(self, certificate: str) -> dict[str, Any]:
        """The renewalInfo resource (RFC 9773 §4.2). Raises Problem: malformed, or nothing is known of it (404)."""
        await self.acme.index.catch_up()
        row = self._find(parse_certificate_id(certificate))
        if row is None or not row.fingerprint:
            raise absent("no such certificate was issued here")
        if row.state == REVOKED:
            start, end = row.revoked_at - PAST_S, row.revoked_at  # past: renew at once
        else:
            life = row.not_after - row.not_before
            start = row.not_before + life * 2 // 3
            end = start + max(life // WINDOW_PARTS, 1)
        shown: dict[str, Any] = {"suggestedWindow": {"start": time_of(start), "end": time_of(end)}}
        if self.acme.settings.renewal_explanation:
            shown["explanationURL"] = self.acme.settings.renewal_explanation
        return shown

    async def check_replaceable(self, account: Account, message: OrderMessage) -> None:
        """RFC 9773 §5; the index has caught up.

        Raises:
            Problem: alreadyReplaced, unauthorized (another account's), malformed (unknown, or of other names).
        """
        index = self.acme.index
        row = self._find(parse_certificate_id(message.replaces))
        if row is None:
            raise malformed("what the order replaces was not issued here")
        replaced = await self._order_of(row)
        if replaced is None or replaced.account != account.name:
            raise Problem("unauthorized", "what the order replaces was not issued to this account")
        if not set(replaced.names) & set(message.names):
            raise malformed("what the order replaces has none of its names")
        if index.acme.is_replaced(index.database, message.replaces, self.acme.now_s()):
            raise Problem("alreadyReplaced", "another order replaces that certificate")

    def _find(self, certificate: CertificateId) -> CertificateRow | None:
        index = self.acme.index
        for row in index.certificates.by_serial(index.database, certificate.serial):
            if self._key_identifier(row) == certificate.key_identifier:
                return row
        return None

    def _key_identifier(self, row: CertificateRow) -> bytes:
        """That of the key which signed it, as its authority's certificate says it; one for each key there ever was."""
        which = row.authority, row.generation
        if which not in self._identifiers:
            authority = self.acme.index.book.get(Authority, Authority.create_id(row.authority))
            certificate = x509.load_der_x509_certificate(
                decode_base64(authority.generation(row.generation).certificates[0])
            )
            extension = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
            self._identifiers[which] = extension.value.digest
        return self._identifiers[which]

    async def _order_of(self, row: CertificateRow) -> Order | None:
        if not row.request.startswith(f"{Order.create_id_prefix()}:"):
            return None
        try:
            return await self.acme.journal.find(Order, row.request)
        except InvalidRequest:
            return None


def time_of(seconds: int) -> str:
    """RFC 3339, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
