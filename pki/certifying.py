"""Signing an authority's certificate: prepared and linted, its intent recorded, signed, its outcome recorded.

What is signed is only ever what `prepare` returned.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ledger.core.encoding import decode_base64, encode_base64
from ledger.errors import Conflict, IssuanceRefused, JinshiError, Tampered
from pki.access.base import Permit
from pki.aggregates.authority import Authority, Generation
from pki.aggregates.base import TrustAggregate
from pki.aggregates.certificate import Certificate
from pki.core.algorithms import Algorithm, IssuerKey, algorithm_named
from pki.core.authority_lint import lint_authority
from pki.core.authority_profile import AuthorityProfile, Signing, builder_for, refusals, signing_of
from pki.core.delegated import unsigned
from pki.core.locations import certificate_url, crl_url, ocsp_url, shard_of
from pki.core.path_signatures import signature_holds
from pki.core.request import key_id
from pki.core.settings import AuthoritySettings, read_authority_settings
from pki.core.subjects import subject_line
from pki.journal import Journal
from pki.keystore.base import KeyStore, signed

SERIAL_BYTES = 20


@dataclass(frozen=True, slots=True)
class Issuing:
    """One key of an authority as an issuer. `certificate` None: it certifies itself."""

    authority: str
    generation: int
    reference: str
    algorithm: Algorithm
    settings: AuthoritySettings
    certificate: x509.Certificate | None


@dataclass(frozen=True, slots=True)
class Draft:
    """A certificate that an authority is to sign for an authority. Times are POSIX seconds.

    `kind` is one of `authority_profile.AUTHORITY_PROFILES`; `public` a SubjectPublicKeyInfo and `key_id` its
    identifier; `holder` and `request` are recorded.
    """

    issuing: Issuing
    kind: str
    profile: AuthorityProfile
    public: bytes
    key_id: bytes
    not_before: int
    not_after: int
    holder: str
    request: str = ""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A certificate that may be signed: linted, and known to the last byte. Only `prepare` makes one."""

    draft: Draft
    serial: str
    shard: int
    builder: x509.CertificateBuilder
    template: x509.Certificate
    """As it will be, with a signature that holds for nobody."""

    @property
    def digest(self) -> str:
        """The SHA-256 of what is to be signed, in hexadecimal."""
        return hashlib.sha256(self.template.tbs_certificate_bytes).hexdigest()


def issuing_with(authority: Authority, generation: Generation, certificate: x509.Certificate | None) -> Issuing:
    """One key of an authority as an issuer."""
    settings = read_authority_settings(authority.settings)
    algorithm = algorithm_named(generation.algorithm)
    return Issuing(authority.name, generation.number, generation.reference, algorithm, settings, certificate)


def prepare(draft: Draft) -> Prepared:
    """Build and lint it, with a serial number of its own; nothing is recorded.

    Raises:
        IssuanceRefused: its issuer may not certify that, or a rule forbids it; every reason is named.
    """
    serial = secrets.token_bytes(SERIAL_BYTES)
    number = int.from_bytes(serial) & (1 << (8 * SERIAL_BYTES - 1)) - 1
    digits = f"{number:040x}"
    issuing = draft.issuing
    shard = shard_of(digits, issuing.settings.shards)
    signing = _signing(draft, shard)
    builder = builder_for(
        *(draft.profile, draft.public, draft.key_id, signing, number, draft.not_before, draft.not_after)
    )
    template = _sign(builder, unsigned(signing.public), issuing.algorithm)
    found = lint_authority(template, signing.key_id, issuing.algorithm)
    if issuing.certificate is not None:
        same = issuing.certificate.subject == draft.profile.subject
        found += refusals(draft.profile, issuing.certificate, draft.not_before, draft.not_after, self_issued=same)
    if found:
        subject = subject_line(draft.profile.subject)
        raise IssuanceRefused(
            f"a certificate for {subject} is refused: {'; '.join(found)}", hint="nothing was signed; ask for less"
        )
    return Prepared(draft, digits, shard, builder, template)


def _signing(draft: Draft, shard: int) -> Signing:
    issuing = draft.issuing
    if issuing.certificate is None:
        return Signing(draft.profile.subject, draft.public, draft.key_id)
    settings, name, number = issuing.settings, issuing.authority, issuing.generation
    return signing_of(
        issuing.certificate,
        crl=crl_url(settings, name, number, shard),
        ocsp=ocsp_url(settings),
        issuer=certificate_url(settings, name, number),
    )


@dataclass(frozen=True, slots=True)
class Certifier:
    """Signs what was prepared."""

    journal: Journal
    keys: KeyStore

    async def certify(
        self,
        prepared: Sequence[Prepared],
        beside: Sequence[TrustAggregate],
        outcome: Callable[[list[x509.Certificate]], Sequence[TrustAggregate]],
        *,
        permit: Permit,
    ) -> list[x509.Certificate]:
        """The certificates. `beside` is recorded with the intents, and what `outcome` returns with the outcomes: all of
        each or nothing.

        Raises:
            Unavailable: the key's keeper is gone or sealed; the intents are abandoned.
            Conflict: somebody else has decided about one of the aggregates meanwhile.
        """
        keys = {one.draft.issuing.reference: await self.keys.open(one.draft.issuing.reference) for one in prepared}
        intents = [self._intent(one) for one in prepared]
        # A crash after this line leaves intents, which `recover` abandons: no certificate was given to anybody.
        await self.journal.save(*beside, *intents, permit=permit)
        made: list[x509.Certificate] = []
        try:
            for one in prepared:
                key = keys[one.draft.issuing.reference]
                certificate = await signed(key, _signing_of(one))
                _check(one, certificate)
                made.append(certificate)
        except JinshiError as error:
            await self._abandon(intents, error.what, permit)
            raise
        now = self.journal.clock.now()
        for intent, certificate in zip(intents, made, strict=True):
            intent.issue(certificate_text(certificate), timestamp=now)
        # Commit point: from here on the certificates exist.
        await self.journal.save(*intents, *outcome(made), permit=permit)
        return made

    def _intent(self, one: Prepared) -> Certificate:
        draft = one.draft
        return Certificate(
            authority=draft.issuing.authority,
            generation=draft.issuing.generation,
            serial=one.serial,
            profile=draft.kind,
            subject=subject_line(draft.profile.subject),
            names=[],
            key=key_id(draft.public),
            not_before=draft.not_before,
            not_after=draft.not_after,
            tbs=one.digest,
            shard=one.shard,
            request=draft.request,
            holder=draft.holder,
            timestamp=self.journal.clock.now(),
        )

    async def _abandon(self, intents: Sequence[Certificate], why: str, permit: Permit) -> None:
        for intent in intents:
            intent.abandon(why[:500], timestamp=self.journal.clock.now())
        await self.journal.save(*intents, permit=permit)


def _signing_of(one: Prepared) -> Callable[[IssuerKey], x509.Certificate]:
    return lambda private: _sign(one.builder, private, one.draft.issuing.algorithm)


def _sign(builder: x509.CertificateBuilder, private: IssuerKey, algorithm: Algorithm) -> x509.Certificate:
    return builder.sign(private, algorithm.hash)  # type: ignore[arg-type]  # all of ours are among those it takes


def _check(one: Prepared, certificate: x509.Certificate) -> None:
    """That it is what was linted, signed by the key that its issuer's certificate names."""
    issuer = one.draft.issuing.certificate
    expected = one.template.public_key() if issuer is None else issuer.public_key()
    if certificate.tbs_certificate_bytes != one.template.tbs_certificate_bytes:
        raise Tampered("what was signed is not what was linted", hint="the certificate was not given out; report this")
    if not signature_holds(certificate, expected):
        raise Tampered(
            f"the key {one.draft.issuing.reference} made a signature that does not hold",
            hint="the certificate was not given out; check which key is kept there",
        )


def certificate_text(certificate: x509.Certificate) -> str:
    """As events have it: base64 of DER."""
    return encode_base64(certificate.public_bytes(Encoding.DER))


def certificates_of(generation: Generation) -> list[x509.Certificate]:
    """What was certified of a key."""
    return [x509.load_der_x509_certificate(decode_base64(der)) for der in generation.certificates]


def must_be_fresh(authority: Authority | None, name: str, parent: str) -> None:
    """That a name is free, or is of an authority that is waiting for its first certificate from the same parent."""
    if authority is None:
        return
    if authority.parent != parent or any(one.certificates for one in authority.generations):
        raise Conflict(f"there is an authority {name} already", hint="choose another name; see: jinshi ca list")
