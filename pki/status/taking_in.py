"""Lists that were issued elsewhere, where an authority's key is (an offline root), taken in to be published here.

Such a list is recorded with its bytes: this log knows only part of what it names. What it names of authorities here is
revoked here, too, so that they issue nothing more; the list itself comes last, and may be taken in again after a crash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ledger.core.canonical import INTEGER_MAX
from ledger.core.encoding import decode_base64, encode_base64
from ledger.errors import Conflict, InvalidRequest
from pki.access.base import Permit
from pki.aggregates.authority import Authority
from pki.aggregates.certificate import HELD, REASONS, REVOKED
from pki.aggregates.crl import Crl
from pki.core.crl import applied
from pki.core.lint_crl import must_be_listed_so, must_be_of_all_points, parse_list
from pki.core.path_signatures import list_signature_holds, signature_holds
from pki.journal import Journal
from pki.revocation import Revocation
from pki.status.issuers import StatusIssuer, issuers_in
from pki.status.named import ON_HOLD
from pki.views.catalogue import TrustIndex
from pki.views.certificates import CertificateRow, RevokedRow

SIZE_MAX: Final = 40_000
"""Of a list, so that it fits its entry (65,535 bytes): some 900 certificates."""
NUMBER_MAX: Final = INTEGER_MAX
"""What an event can say (RFC 8785)."""


@dataclass(frozen=True, slots=True)
class TakenIn:
    """What became of a list. `revoked` are the serials that were revoked here because it names them; `missing` those
    that are revoked here and not named by it.
    """

    series: str
    number: int
    next_update: int
    revoked: tuple[str, ...]
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ForeignLists:
    """Takes lists in."""

    journal: Journal
    index: TrustIndex
    revocation: Revocation

    async def take_in(self, authority: str, data: bytes, *, permit: Permit) -> TakenIn:
        """Record a full list (DER or PEM) of an authority whose key is kept elsewhere; it is published from then on.

        Raises:
            MalformedRequest: it is no list.
            InvalidRequest: no key of the authority has signed it, its key is here, it breaks a rule, is past its time,
                is too large, or has a number that is.
            Conflict: it, or a newer one, is there already.
        """
        crl = parse_list(data)
        der = crl.public_bytes(Encoding.DER)
        if len(der) > SIZE_MAX:
            raise InvalidRequest(f"the list has {len(der):,} bytes; the most is {SIZE_MAX:,}")
        await self.index.catch_up()
        self.index.book.get(Authority, Authority.create_id(authority))
        issuer = self._issuer(authority, crl)
        begins, ends = self._times(crl, issuer)
        number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        if number > NUMBER_MAX:
            raise InvalidRequest(f"the list has the number {number:,}; the largest here is {NUMBER_MAX:,}")
        last = self.index.crls.last(self.index.database, authority, issuer.generation, 0)
        if last is not None and (number <= last.number or begins < last.this_update):
            raise Conflict(
                f"list {last.number} of {last.series} is there already, and {number} is not newer"
                + (", by its time" if number > last.number else ""),
                hint=f"see: jinshi crl list {authority}",
            )
        revoked = await self._revoke(issuer, crl, permit)
        at = await self.index.catch_up()
        missing = self._missing(issuer, crl, at, begins)
        now, sha256 = self.journal.clock.now(), hashlib.sha256(der).hexdigest()
        taken = Crl(
            authority=authority,
            generation=issuer.generation,
            shard=0,
            ordinal=1 if last is None else last.ordinal + 1,
            number=number,
            this_update=begins,
            next_update=ends,
            at=min([at, *(one.since for one in missing)]),  # what it does not name, still waits to be listed
            base=0,
            base_at=0,
            ends_after=0,
            points=[],
            freshest=[],
            timestamp=now,
        )
        taken.take_in(encode_base64(der), sha256, timestamp=now)
        # Commit point: from here on it is what is published.
        await self.journal.save(taken, permit=permit)
        series = f"{issuer.name}-0"
        return TakenIn(series, number, ends, tuple(revoked), tuple(one.serial for one in missing))

    def _issuer(self, authority: str, crl: x509.CertificateRevocationList) -> StatusIssuer:
        for issuer in issuers_in(self.index.book):
            certificate = x509.load_der_x509_certificate(issuer.certificate)
            if issuer.authority == authority and list_signature_holds(crl, certificate.public_key()):
                if issuer.reference:
                    raise InvalidRequest(f"the key of {issuer.name} is kept here", hint="its lists are issued here")
                return issuer
        raise InvalidRequest(f"no key of authority {authority} has signed that list")

    def _times(self, crl: x509.CertificateRevocationList, issuer: StatusIssuer) -> tuple[int, int]:
        must_be_listed_so(crl, issuer.issuer, issuer.not_after)
        must_be_of_all_points(crl)
        assert crl.next_update_utc is not None, "a list without is refused"
        begins, ends = int(crl.last_update_utc.timestamp()), int(crl.next_update_utc.timestamp())
        now = int(self.journal.clock.now().timestamp())
        if not begins <= now < ends:
            raise InvalidRequest(
                "the list is past its time, or not yet in it", hint="check the clocks; issue a new one"
            )
        return begins, ends

    async def _revoke(self, issuer: StatusIssuer, crl: x509.CertificateRevocationList, permit: Permit) -> list[str]:
        """What the list names of authorities here, and of all else that this log knows."""
        named = applied(crl, None)
        for certificate in list(self._of_authorities(issuer)):
            if certificate.serial_number in named and self._row(issuer, certificate.serial_number) is None:
                await self.revocation.take_in(issuer.authority, certificate.public_bytes(Encoding.DER), permit=permit)
        await self.index.catch_up()
        revoked: list[str] = []
        for number, reason in named.items():
            row, serial = self._row(issuer, number), f"{number:040x}"
            if row is None or row.state in (REVOKED, HELD if reason == ON_HOLD else REVOKED):
                continue
            if reason == ON_HOLD:
                await self.revocation.hold(issuer.authority, serial, permit=permit)
            else:
                known = reason if reason in REASONS else "unspecified"
                await self.revocation.revoke(issuer.authority, serial, known, permit=permit)
            revoked.append(serial)
        return revoked

    def _row(self, issuer: StatusIssuer, number: int) -> CertificateRow | None:
        """What this log has of a certificate of that key, by its serial."""
        row = self.index.certificates.find(self.index.database, issuer.authority, f"{number:040x}")
        return row if row is not None and row.generation == issuer.generation else None

    def _of_authorities(self, issuer: StatusIssuer) -> Iterator[x509.Certificate]:
        """The certificates of authorities here that the issuer has signed."""
        above = x509.load_der_x509_certificate(issuer.certificate)
        for authority in self.index.book.all(Authority):
            for der in (der for generation in authority.generations for der in generation.certificates):
                certificate = x509.load_der_x509_certificate(decode_base64(der))
                if certificate.issuer == above.subject and signature_holds(certificate, above.public_key()):
                    yield certificate

    def _missing(
        self, issuer: StatusIssuer, crl: x509.CertificateRevocationList, at: int, begins: int
    ) -> list[RevokedRow]:
        named = applied(crl, None)
        known = self.index.certificates.revoked(self.index.database, issuer.authority, 0, at, ends_after=begins)
        return [one for one in known if int(one.serial, 16) not in named]
