"""Who signs OCSP answers: delegated responders, certified by the authority and renewed in time; else the key itself."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Final, Protocol

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ledger.core.encoding import decode_base64, encode_base64
from ledger.errors import InvalidRequest
from pki.access.base import Permit
from pki.aggregates.authority import RETIRED, Authority
from pki.aggregates.base import TrustAggregate
from pki.aggregates.certificate import HELD, REVOKED
from pki.aggregates.responder import Responder
from pki.chains import chain_of
from pki.core.algorithms import Algorithm, algorithm_named
from pki.core.authority_profile import extension, public_of
from pki.core.ocsp import by_key
from pki.core.path_signatures import signature_holds
from pki.core.subjects import subject_line
from pki.journal import Journal
from pki.keystore.base import KeyStore, SigningKey, signed
from pki.revocation import found_certificate
from pki.status.issuers import StatusIssuer
from pki.status.named import reason_named
from pki.views.catalogue import TrustIndex

RENEW_BEFORE: Final = 3
"""A responder's certificate is renewed when a third of its time is left."""


class Certify(Protocol):
    """Has an authority certify a responder's key (profile `ocsp`); the same `request_id` gives the same again."""

    def __call__(self, authority: str, request: bytes, request_id: str, permit: Permit, /) -> Awaitable[bytes]: ...


@dataclass(frozen=True, slots=True)
class Signer:
    """A key that may speak for an issuer, its certificate (DER), and how answers name it."""

    key: SigningKey
    algorithm: Algorithm
    certificate: bytes
    responder_id: bytes
    not_after: int

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(self.certificate).hexdigest()


def certifies_nobody(index: TrustIndex, issuer: StatusIssuer) -> str:
    """Why an authority certifies nobody any more: it is retired, or its certificate, or one above, does not count; "":
    it does."""
    authority = index.book.get(Authority, Authority.create_id(issuer.authority))
    if authority.state == RETIRED:
        return f"{authority.name} is retired"
    for one in chain_of(index.book, authority, issuer.generation):
        row = index.certificates.by_fingerprint(index.database, one.fingerprint(hashes.SHA256()).hex())
        if row is not None and row.state in (REVOKED, HELD):
            return f"the certificate of {subject_line(one.subject)} is {row.state}"
    return ""


@dataclass
class Responders:
    """The responders of all authorities. `certify` None: answers are signed with the authorities' own keys."""

    journal: Journal
    index: TrustIndex
    keys: KeyStore
    certify: Certify | None = None
    _delegated: dict[str, tuple[str, Signer]] = field(default_factory=dict, init=False)
    _open: dict[str, Signer] = field(default_factory=dict, init=False)
    _told: dict[str, str] = field(default_factory=dict, init=False)
    """Why authorities certify no responder any more, as far as that was said."""

    async def signer(self, issuer: StatusIssuer) -> Signer:
        """Who speaks for an issuer now.

        The key of an authority that was rolled over certifies nobody any more: it speaks itself, once its last
        responder's time has ended.

        Raises:
            InvalidRequest: nobody here can.
            Unavailable: whoever keeps the key cannot be reached.
        """
        now = int(self.journal.clock.now().timestamp())
        found = self.index.book.find(Responder, Responder.create_id(issuer.authority, issuer.generation))
        if found is not None and found.current is not None and found.current.not_after > now:
            current = found.current
            known = self._delegated.get(issuer.name)
            if known is None or known[0] != current.certificate:
                certificate, algorithm = decode_base64(current.certificate), algorithm_named(current.algorithm)
                known = current.certificate, await self._opened(current.reference, certificate, algorithm)
                self._delegated[issuer.name] = known
            if not issuer.is_here and self._is_revoked(known[1].fingerprint):
                raise InvalidRequest(
                    f"the responder of {issuer.name} is revoked", hint="ask for another one: jinshi crl responder"
                )
            return known[1]
        if not issuer.is_here:
            raise InvalidRequest(f"nobody here can speak for {issuer.name}", hint="its key is kept elsewhere")
        return await self._opened(issuer.reference, issuer.certificate, issuer.issuer.algorithm)

    def can_speak(self, issuer: StatusIssuer) -> bool:
        """Whether anybody here speaks for an issuer."""
        found = self.index.book.find(Responder, Responder.create_id(issuer.authority, issuer.generation))
        return issuer.is_here or (found is not None and found.current is not None)

    async def renew(self, issuer: StatusIssuer, *, permit: Permit) -> bool:
        """See to it that a delegated responder is there and will be; returns whether one was certified.

        Whatever step a crash left it at, the next call goes on from there.

        Raises:
            Conflict: another process does it at the same time.
            InvalidRequest: the authority certifies nobody any more; said once, then it is left alone.
            IssuanceRefused, Unavailable: as the authority and its keys say.
        """
        if self.certify is None or not (issuer.current and issuer.is_here):
            return False
        now = self.journal.clock.now()
        id_ = Responder.create_id(issuer.authority, issuer.generation)
        known = self.index.book.find(Responder, id_)
        if known is not None and known.unfinished is None and not self._due(known, int(now.timestamp())):
            return False
        if why := certifies_nobody(self.index, issuer):
            return self._stopped(issuer, why)
        self._told.pop(issuer.name, None)
        responder = await self.journal.find(Responder, id_) or Responder(
            issuer.authority, issuer.generation, timestamp=now
        )
        if responder.unfinished is None:
            if not self._due(responder, int(now.timestamp())):
                return False
            await self._add_key(responder, issuer, permit)
        waiting = responder.unfinished
        assert waiting is not None
        request = await self._request(issuer, waiting.reference)
        certificate = await self.certify(
            issuer.authority, request, f"responder:{issuer.name}-{waiting.ordinal}", permit
        )
        not_after = int(x509.load_der_x509_certificate(certificate).not_valid_after_utc.timestamp())
        responder.certify(encode_base64(certificate), not_after, timestamp=self.journal.clock.now())
        await self.journal.save(responder, permit=permit)
        return True

    def _stopped(self, issuer: StatusIssuer, why: str) -> bool:
        """Nothing was certified, and will not be; whoever watches is told once."""
        if self._told.get(issuer.name) == why:
            return False
        self._told[issuer.name] = why
        raise InvalidRequest(
            f"the responder of {issuer.name} is not certified anew: {why}",
            hint="its last one answers to its end, then the authority's own key does",
        )

    async def _add_key(self, responder: Responder, issuer: StatusIssuer, permit: Permit) -> None:
        now = self.journal.clock.now()
        # A key that a crash leaves here without an entry is certified by nobody.
        label = f"ocsp-{issuer.name}-{responder.next_ordinal}-{int(now.timestamp())}"
        reference = await self.keys.generate(label, issuer.issuer.algorithm)
        responder.add_key(reference, issuer.issuer.algorithm.name, timestamp=now)
        await self.journal.save(responder, permit=permit)

    # -- for authorities whose key is not here --

    async def request(self, issuer: StatusIssuer, *, permit: Permit) -> bytes:
        """A responder's key, and a request for it (PKCS#10, DER), to be certified where the authority's key is.

        Asked again before it is certified, it is the same key's.

        Raises:
            InvalidRequest: the authority's key is here, so that its responder is certified by itself.
            Conflict, Unavailable: as `renew`.
        """
        if issuer.is_here:
            raise InvalidRequest(f"the key of {issuer.name} is here", hint="jinshi serve has its responder certified")
        id_ = Responder.create_id(issuer.authority, issuer.generation)
        responder = await self.journal.find(Responder, id_) or Responder(
            issuer.authority, issuer.generation, timestamp=self.journal.clock.now()
        )
        if responder.unfinished is None:
            await self._add_key(responder, issuer, permit)
        waiting = responder.unfinished
        assert waiting is not None
        return await self._request(issuer, waiting.reference)

    async def take_in(self, issuer: StatusIssuer, certificate: x509.Certificate, *, permit: Permit) -> int:
        """The certificate of the key that waits for it; returns when it ends (POSIX seconds).

        Raises:
            InvalidRequest: it is of another key, the authority has not signed it, it may not sign answers, or no key
                waits.
        """
        responder = await self.journal.find(Responder, Responder.create_id(issuer.authority, issuer.generation))
        if responder is None or responder.unfinished is None:
            raise InvalidRequest(
                f"no key of {issuer.name} waits for a responder's certificate", hint="ask for one: jinshi crl responder"
            )
        key = await self.keys.open(responder.unfinished.reference)
        above = x509.load_der_x509_certificate(issuer.certificate)
        usage = extension(certificate, x509.ExtendedKeyUsage)
        signed_by_it = certificate.issuer == above.subject and signature_holds(certificate, above.public_key())
        if public_of(certificate) != key.public or not signed_by_it:
            raise InvalidRequest(f"{issuer.name} has not signed that certificate for the responder's key that waits")
        if usage is None or ExtendedKeyUsageOID.OCSP_SIGNING not in usage:
            raise InvalidRequest("the certificate is not for signing OCSP answers", hint="give the responder's")
        await self._must_be_in_force(issuer, certificate)
        not_after = int(certificate.not_valid_after_utc.timestamp())
        der, now = encode_base64(certificate.public_bytes(Encoding.DER)), self.journal.clock.now()
        responder.certify(der, not_after, timestamp=now)
        beside: list[TrustAggregate] = []
        if self.index.certificates.find(self.index.database, issuer.authority, _serial(certificate)) is None:
            # So that a list that names it has an effect here.
            beside.append(found_certificate(issuer.authority, issuer.generation, certificate, timestamp=now))
        await self.journal.save(responder, *beside, permit=permit)
        return not_after

    async def _must_be_in_force(self, issuer: StatusIssuer, certificate: x509.Certificate) -> None:
        now = self.journal.clock.now()
        if certificate.not_valid_after_utc <= now:
            raise InvalidRequest("the responder's certificate has ended", hint="have it certified anew")
        if certificate.not_valid_before_utc > now:
            raise InvalidRequest("the responder's certificate has not begun to hold", hint="check the clocks")
        await self.index.catch_up()
        row = self.index.certificates.find(self.index.database, issuer.authority, _serial(certificate))
        gone = row is not None and row.state in (REVOKED, HELD)
        if gone or await reason_named(self.journal, self.index, issuer, certificate.serial_number) is not None:
            raise InvalidRequest("the responder's certificate is revoked", hint="have it certified anew")

    def _is_revoked(self, fingerprint: str) -> bool:
        row = self.index.certificates.by_fingerprint(self.index.database, fingerprint)
        return row is not None and row.state in (REVOKED, HELD)

    @staticmethod
    def _due(responder: Responder, now: int) -> bool:
        current = responder.current
        if current is None:
            return True
        begun = x509.load_der_x509_certificate(decode_base64(current.certificate)).not_valid_before_utc.timestamp()
        return (current.not_after - now) * RENEW_BEFORE < current.not_after - begun

    async def _request(self, issuer: StatusIssuer, reference: str) -> bytes:
        key = await self.keys.open(reference)
        name = x509.load_der_x509_certificate(issuer.certificate).subject
        kept = [one for one in name if one.oid in (NameOID.COUNTRY_NAME, NameOID.ORGANIZATION_NAME)]
        subject = x509.Name([*kept, x509.NameAttribute(NameOID.COMMON_NAME, f"OCSP {issuer.name}"[:64])])
        builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
        built = await signed(key, lambda private: builder.sign(private, key.algorithm.hash))  # type: ignore[arg-type]
        return built.public_bytes(Encoding.DER)

    async def _opened(self, reference: str, certificate: bytes, algorithm: Algorithm) -> Signer:
        known = self._open.get(reference)
        if known is None or known.certificate != certificate:
            parsed = x509.load_der_x509_certificate(certificate)
            known = Signer(
                *(await self.keys.open(reference), algorithm, certificate, by_key(parsed)),
                int(parsed.not_valid_after_utc.timestamp()),
            )
            self._open[reference] = known
        return known


def _serial(certificate: x509.Certificate) -> str:
    return f"{certificate.serial_number:040x}"
