"""Who signs OCSP answers: delegated responders, certified by the authority and renewed in time; else the key itself."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Final, Protocol

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from ledger.core.encoding import decode_base64, encode_base64
from ledger.errors import InvalidRequest
from pki.access.base import Permit
from pki.aggregates.responder import Responder
from pki.core.algorithms import Algorithm, algorithm_named
from pki.core.ocsp import by_key
from pki.journal import Journal
from pki.keystore.base import KeyStore, SigningKey, signed
from pki.status.issuers import StatusIssuer
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


@dataclass
class Responders:
    """The responders of all authorities. `certify` None: answers are signed with the authorities' own keys."""

    journal: Journal
    index: TrustIndex
    keys: KeyStore
    certify: Certify | None = None
    _delegated: dict[str, tuple[str, Signer]] = field(default_factory=dict, init=False)
    _open: dict[str, Signer] = field(default_factory=dict, init=False)

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
            IssuanceRefused, InvalidRequest, Unavailable: as the authority and its keys say.
        """
        if self.certify is None or not (issuer.current and issuer.is_here):
            return False
        now = self.journal.clock.now()
        id_ = Responder.create_id(issuer.authority, issuer.generation)
        known = self.index.book.find(Responder, id_)
        if known is not None and known.unfinished is None and not self._due(known, int(now.timestamp())):
            return False
        responder = await self.journal.find(Responder, id_) or Responder(
            issuer.authority, issuer.generation, timestamp=now
        )
        if responder.unfinished is None:
            if not self._due(responder, int(now.timestamp())):
                return False
            # A key that a crash leaves here without an entry is certified by nobody.
            label = f"ocsp-{issuer.name}-{responder.next_ordinal}-{int(now.timestamp())}"
            reference = await self.keys.generate(label, issuer.issuer.algorithm)
            responder.add_key(reference, issuer.issuer.algorithm.name, timestamp=now)
            await self.journal.save(responder, permit=permit)
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
