"""Authorities of other houses, and our own that others certify: cross certificates, and what is taken in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from cryptography import x509

from ledger.core.encoding import decode_base64, encode_base64
from ledger.errors import InvalidRequest, MalformedRequest
from pki.access.base import Permit
from pki.aggregates.authority import Authority
from pki.aggregates.certificate import Certificate
from pki.aggregates.key import Key
from pki.certifying import Certifier, Issuing, Prepared, certificate_text, must_be_fresh, prepare
from pki.chains import is_self_signed, known_above
from pki.core.algorithms import algorithm_of
from pki.core.authority_profile import CROSS, AuthorityProfile, key_id_in, key_id_of, profile_of, public_of
from pki.core.path import Anchors, validate
from pki.core.path_signatures import signature_holds
from pki.core.settings import AuthoritySettings
from pki.core.subjects import subject_line
from pki.hierarchy import Hierarchy, Wish, check_name, proof_of
from pki.keystore.signing_files import held_key, load_private
from pki.revocation import found_certificate
from pki.status.issuers import issuers_in
from pki.status.named import reason_named


@dataclass(frozen=True, slots=True)
class OtherHouses:
    """The acts. Every one takes the permit it is allowed by, and returns when its outcome is recorded."""

    hierarchy: Hierarchy

    async def take_in(self, name: str, chain: Sequence[x509.Certificate], *, permit: Permit) -> int:
        """A certificate of one of an authority's keys that was made elsewhere: its first, or a cross certificate.

        `chain` begins with it; those above follow, as far as they are not known here. Returns the key's number.

        Raises:
            InvalidRequest: it is of none of its keys.
            PathRefused: no valid path leads from it to a root in `chain` or one that is known here.
            Conflict: it is there already.
        """
        authority = await self.hierarchy.journal.load(Authority, Authority.create_id(name))
        certificate = chain[0]
        public = encode_base64(public_of(certificate))
        generation = next((one for one in authority.generations if one.public == public), None)
        if generation is None:
            raise InvalidRequest(f"the certificate is of no key of {name}", hint=f"see: jinshi ca show {name}")
        self._must_have_subject(authority, certificate)
        await self._must_be_valid(chain)
        if authority.parent and not generation.certificates and self._parent_of(certificate, name) != authority.parent:
            raise InvalidRequest(f"the certificate was not issued by {authority.parent}", hint="take in that one's")
        now = self.hierarchy.journal.clock.now()
        authority.certify(generation.number, certificate_text(certificate), timestamp=now)
        if above := [one for one in map(certificate_text, chain[1:]) if one not in authority.superiors]:
            authority.chain([*authority.superiors, *above], timestamp=now)
        await self.hierarchy.journal.save(authority, *await self._found(certificate, now), permit=permit)
        return generation.number

    async def _found(self, certificate: x509.Certificate, now: datetime) -> list[Certificate]:
        """What an authority here has signed elsewhere, where its key is: so that its status can be told, and changed
        when a list comes from there (`pki.status.taking_in`)."""
        for issuer in issuers_in(self.hierarchy.index.book):
            above = x509.load_der_x509_certificate(issuer.certificate)
            if issuer.reference or above.subject != certificate.issuer:
                continue
            id_ = Certificate.create_id(issuer.authority, f"{certificate.serial_number:040x}")
            known = await self.hierarchy.journal.find(Certificate, id_) is not None
            if not known and signature_holds(certificate, above.public_key()):
                journal, index = self.hierarchy.journal, self.hierarchy.index
                listed = await reason_named(journal, index, issuer, certificate.serial_number)
                name, number = issuer.authority, issuer.generation
                return [found_certificate(name, number, certificate, listed=listed, timestamp=now)]
        return []

    async def cross_certify(
        self,
        issuer: str,
        foreign: x509.Certificate | x509.CertificateSigningRequest,
        profile: AuthorityProfile,
        days: int,
        *,
        permit: Permit,
    ) -> x509.Certificate:
        """A certificate of ours for another house's authority: its key, under its own subject.

        `foreign` proves that it has the key: it is a request, or its certificate for itself. `profile` says how far it
        is trusted; its subject is not looked at.

        Raises:
            MalformedRequest: nothing proves that it has the key.
            IssuanceRefused, Unavailable, Conflict: as `create`.
        """
        prepared = self.prepare_foreign(await self.hierarchy.issuing(issuer), foreign, profile, days)
        return await self.certify_foreign(prepared, permit=permit)

    def prepare_foreign(
        self,
        issuing: Issuing,
        foreign: x509.Certificate | x509.CertificateSigningRequest,
        profile: AuthorityProfile,
        days: int,
        *,
        kind: str = CROSS,
    ) -> Prepared:
        """The same, linted and not signed. Raises MalformedRequest, IssuanceRefused."""
        if isinstance(foreign, x509.CertificateSigningRequest):
            proven, key_id = foreign.is_signature_valid, b""
        else:
            proven, key_id = signature_holds(foreign, foreign.public_key()), key_id_in(foreign)
        if not proven:
            raise MalformedRequest(
                f"nothing proves that {subject_line(foreign.subject)} has its key",
                hint="give its own request (PKCS#10), or its certificate for itself",
            )
        public = public_of(foreign)
        wish = Wish(replace(profile, subject=foreign.subject), algorithm_of(foreign.public_key()), days)
        draft = self.hierarchy.draft(issuing, kind, wish, public, key_id or key_id_of(public), "", proof_of(foreign))
        return prepare(replace(draft, holder=f"foreign:{subject_line(foreign.subject)}"))

    async def certify_foreign(self, prepared: Prepared, *, permit: Permit) -> x509.Certificate:
        """Sign what `prepare_foreign` returned. Raises as `Certifier.certify`."""
        certifier = Certifier(self.hierarchy.journal, self.hierarchy.custody.keys)
        (certificate,) = await certifier.certify([prepared], [], lambda _: [], permit=permit)
        return certificate

    async def import_authority(
        self,
        name: str,
        chain: Sequence[x509.Certificate],
        settings: AuthoritySettings,
        *,
        permit: Permit,
        private: bytes | None = None,
        reference: str = "",
        keeper: str = "",
    ) -> None:
        """An authority that exists already. `chain` is its certificate and those above it.

        Its key: `private` (PKCS #8, DER) is brought into a key store, `reference` names one that is in one; neither: it
        is kept elsewhere, and only what it signed is taken in here.

        Raises:
            InvalidRequest: the key is not that of the certificate.
            PathRefused: its certificate is not valid.
            Conflict: the name is taken.
        """
        profile_of(chain[0])
        check_name(name)
        must_be_fresh(await self.hierarchy.journal.find(Authority, Authority.create_id(name)), name, "\0")
        await self._must_be_valid(chain)
        public = public_of(chain[0])
        now = self.hierarchy.journal.clock.now()
        key: Key | None = None
        algorithm = algorithm_of(chain[0].public_key())
        if private is not None:
            _must_be_of(public, held_key(load_private(private)).public)
            key, _ = await self.hierarchy.custody.take(name, private, keeper)
        elif reference:
            key, signing = await self.hierarchy.custody.adopt(name, reference)
            _must_be_of(public, signing.public)
        authority = Authority(name, self._parent_of(chain[0], name), settings.recorded(), timestamp=now)
        authority.add_key(key.reference if key else "", algorithm.name, encode_base64(public), timestamp=now)
        authority.certify(1, certificate_text(chain[0]), timestamp=now)
        if chain[1:]:
            authority.chain([certificate_text(one) for one in chain[1:]], timestamp=now)
        await self.hierarchy.journal.save(*([key] if key else []), authority, permit=permit)

    async def _must_be_valid(self, chain: Sequence[x509.Certificate]) -> None:
        await self.hierarchy.index.catch_up()
        known = known_above(self.hierarchy.index.book, chain)
        roots = tuple(one for one in (*chain, *known) if is_self_signed(one))
        at, revoked = self.hierarchy.journal.clock.now(), self.hierarchy.revocation_of
        validate(chain[0], [*chain[1:], *known], Anchors(roots), at=at, authority=True, revoked=revoked)

    def _parent_of(self, certificate: x509.Certificate, name: str) -> str:
        for authority in self.hierarchy.index.book.all(Authority):
            for generation in authority.generations:
                for der in generation.certificates[:1]:
                    above = x509.load_der_x509_certificate(decode_base64(der))
                    if above.subject == certificate.issuer and signature_holds(certificate, above.public_key()):
                        return authority.name if authority.name != name else ""
        return ""

    @staticmethod
    def _must_have_subject(authority: Authority, certificate: x509.Certificate) -> None:
        for generation in authority.generations:
            for der in generation.certificates[:1]:
                subject = x509.load_der_x509_certificate(decode_base64(der)).subject
                if subject.public_bytes() != certificate.subject.public_bytes():
                    raise InvalidRequest(
                        f"the certificate names {subject_line(certificate.subject)}, which is not {authority.name}"
                    )


def _must_be_of(certified: bytes, public: bytes) -> None:
    if certified != public:
        raise InvalidRequest("the key is not the one that the certificate is of", hint="give the right key")
