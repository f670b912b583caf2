"""Revocation by whoever may: who ordered it, who has proven its names, its own key (RFC 8555 §7.6)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ledger.errors import Conflict
from pki.access.base import Caller, Permit, Resource
from pki.acme.base import Acme, caller_of
from pki.acme.jws import Jwk
from pki.acme.messages import RevocationMessage
from pki.acme.problems import Problem, absent
from pki.aggregates.acme import Account
from pki.aggregates.acme_order import Order
from pki.aggregates.certificate import REVOKED
from pki.views.certificates import CertificateRow


class Revoking(Protocol):
    """As `pki.revocation.Revocation`."""

    async def revoke(
        self, authority: str, serial: str, reason: str, *, permit: Permit, invalid_since: int = 0
    ) -> object: ...


@dataclass(frozen=True, slots=True)
class Revocations:
    """Who may revoke what."""

    acme: Acme
    revocation: Revoking

    async def by_account(self, account: Account, message: RevocationMessage) -> None:
        """Raises Problem: unauthorized, alreadyRevoked, or nothing is known of it (404)."""
        row = await self._row(message)
        if not await self._is_of(account, row, message):
            raise Problem("unauthorized", "the account neither ordered the certificate nor has proven its names")
        await self._revoke(caller_of(account.name), row, message)

    async def by_key(self, key: Jwk, message: RevocationMessage) -> None:
        """The same, signed by the certificate's own key."""
        row = await self._row(message)
        if _certified(message) != key.spki:
            raise Problem("unauthorized", "the message is not signed by the certificate's key")
        await self._revoke(Caller(f"acme:key:{row.key}"), row, message)

    async def _row(self, message: RevocationMessage) -> CertificateRow:
        await self.acme.index.catch_up()
        fingerprint = hashlib.sha256(message.certificate).hexdigest()
        row = self.acme.index.certificates.by_fingerprint(self.acme.index.database, fingerprint)
        if row is None:
            raise absent("no such certificate was issued here")
        return row

    async def _is_of(self, account: Account, row: CertificateRow, message: RevocationMessage) -> bool:
        if row.request.startswith(f"{Order.create_id_prefix()}:"):
            order = await self.acme.journal.find(Order, row.request)
            if order is not None and order.account == account.name:
                return True
        index, names = self.acme.index, _names(message)
        return bool(names) and index.acme.has_proofs(index.database, account.name, names, self.acme.now_s())

    async def _revoke(self, caller: Caller, row: CertificateRow, message: RevocationMessage) -> None:
        if row.state == REVOKED:
            raise _revoked_already()
        attributes = {"authority": row.authority, "profile": row.profile, "holder": caller.actor}  # it is: see above
        resource = Resource("certificate", row.serial, attributes)
        permit = await self.acme.access.permit(caller, "certificate.revoke", resource)
        try:
            await self.revocation.revoke(row.authority, row.serial, message.reason, permit=permit)
        except Conflict as error:
            raise _revoked_already() from error


def _revoked_already() -> Problem:
    return Problem("alreadyRevoked", "the certificate is revoked already")


def _certified(message: RevocationMessage) -> bytes:
    """The public key of a certificate that was issued here, as SubjectPublicKeyInfo."""
    public = x509.load_der_x509_certificate(message.certificate).public_key()
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _names(message: RevocationMessage) -> set[str]:
    """Its DNS names and addresses; none when it has names of other kinds, which no account can have proven."""
    try:
        extensions = x509.load_der_x509_certificate(message.certificate).extensions
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    found = {str(one.value) for one in names if isinstance(one, x509.DNSName | x509.IPAddress)}
    return found if len(found) == len(names) else set()
