"""Authorities and their certificates: roots, subordinates, new keys, cross certificates, what comes from outside.

An authority's certificate is a `Certificate` of whoever issues it, so that it is in the log before it exists. The key
is made first; a crash leaves a key and an intent at most: `recover` abandons the intent, and running it again goes on
with the key.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from ledger.core.encoding import decode_base64, encode_base64
from ledger.errors import Conflict, InvalidRequest, IssuanceRefused
from pki.access.base import Permit
from pki.aggregates.authority import Authority, Generation
from pki.aggregates.base import TrustAggregate
from pki.aggregates.certificate import INTENDED, ISSUED, Certificate
from pki.certifying import Certifier, Draft, Issuing, Prepared, certificate_text, issuing_with, must_be_fresh, prepare
from pki.chains import chain_of, issuing_certificate
from pki.core.algorithms import ALGORITHMS, Algorithm, algorithm_named, generate
from pki.core.authority_profile import (
    AUTHORITY_PROFILES,
    LINK,
    ROOT,
    SUBORDINATE,
    AuthorityProfile,
    key_id_in,
    key_id_of,
    profile_of,
    public_of,
)
from pki.core.settings import DAY_S, AuthoritySettings
from pki.core.subjects import subject_line
from pki.custody import Custody
from pki.journal import Journal
from pki.keystore.base import SigningKey, signed
from pki.keystore.signing_files import held_key
from pki.views.catalogue import TrustIndex

NAME_SIZE_MAX: Final = 40
DAYS_MAX: Final = 36_525
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")


@dataclass(frozen=True, slots=True)
class Wish:
    """What is wished of a new certificate. `days` 0: as long as its issuer's certificate holds."""

    profile: AuthorityProfile
    algorithm: Algorithm
    days: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.days <= DAYS_MAX:
            raise InvalidRequest(f"a certificate of {self.days} days", hint=f"1 to {DAYS_MAX}")


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """The acts. Every one takes the permit it is allowed by, and returns when its outcome is recorded."""

    journal: Journal
    index: TrustIndex
    custody: Custody

    # -- creating --

    async def create_root(
        self, name: str, wish: Wish, settings: AuthoritySettings, *, permit: Permit, keeper: str = ""
    ) -> x509.Certificate:
        """A new root: its key, and its certificate, signed by itself.

        Raises:
            Conflict: the name is taken.
            InvalidRequest, IssuanceRefused: no such authority may be.
            Unavailable: the key's keeper is gone or sealed.
        """
        self.try_root(name, wish, settings)  # before a key is made
        made = await self._with_key(name, "", wish.algorithm, settings, keeper)
        prepared = prepare(self._self_signed(made, wish))
        certifier = Certifier(self.journal, self.custody.keys)
        (certificate,) = await certifier.certify([prepared], made.beside, made.certified, permit=permit)
        return certificate

    def try_root(self, name: str, wish: Wish, settings: AuthoritySettings) -> Prepared:
        """A new root as it would be, but for its key: linted, and never signed. Raises as `create_root`."""
        check_name(name)
        issuing = Issuing(name, 1, "", wish.algorithm, settings, None)
        public = trial_public(wish.algorithm)
        return prepare(self.draft(issuing, ROOT, wish, public, key_id_of(public), name))

    async def certificate(self, authority: str, serial: str) -> x509.Certificate:
        """One that was issued. Raises InvalidRequest: it was not."""
        found = await self.journal.load(Certificate, Certificate.create_id(authority, serial))
        if not found.der:
            raise InvalidRequest(f"certificate {serial} of {authority} was never issued")
        return x509.load_der_x509_certificate(decode_base64(found.der))

    async def create(
        self, name: str, parent: str, wish: Wish, settings: AuthoritySettings, *, permit: Permit, keeper: str = ""
    ) -> x509.Certificate:
        """A new authority under one whose key is at hand. Raises as `create_root`."""
        above = await self._issuing_at_hand(parent)
        prepare(
            self.draft(above, SUBORDINATE, wish, trial_public(wish.algorithm), b"\0" * 20, name)
        )  # before a key is made
        made = await self._with_key(name, parent, wish.algorithm, settings, keeper)
        proof = await self._proof(made, wish.profile.subject)
        draft = self.draft(above, SUBORDINATE, wish, made.public, key_id_of(made.public), name, proof)
        certifier = Certifier(self.journal, self.custody.keys)
        (certificate,) = await certifier.certify([prepare(draft)], made.beside, made.certified, permit=permit)
        return certificate

    async def request(
        self, name: str, parent: str, wish: Wish, settings: AuthoritySettings, *, permit: Permit, keeper: str = ""
    ) -> bytes:
        """A new authority that somebody else certifies (an offline root, another house): its key, and a request
        (PKCS#10, DER). Asked again before it is certified, it is the same key's. Raises as `create_root`."""
        if parent:
            await self.journal.load(Authority, Authority.create_id(parent))
        made = await self._with_key(name, parent, wish.algorithm, settings, keeper)
        request = await self._request(made.signing, wish.profile.subject)
        await self.journal.save(*made.beside, permit=permit)
        return request.public_bytes(Encoding.DER)

    # -- new keys --

    async def rollover(
        self, name: str, *, permit: Permit, algorithm: Algorithm | None = None, days: int = 0, keeper: str = ""
    ) -> list[x509.Certificate]:
        """A new key for an authority, which issues from then on. The first of what is returned is its certificate.

        A root's old and new key certify each other, too (RFC 4210 §4.4), so that whoever trusts one can follow to the
        other. Raises as `create_root`.
        """
        authority = await self.journal.load(Authority, Authority.create_id(name))
        old = authority.current
        before = issuing_certificate(authority)
        kind = algorithm or algorithm_named(old.algorithm)
        wish = Wish(profile_of(before), kind, days)
        is_root = before.subject == before.issuer
        if not is_root and not authority.parent:
            raise InvalidRequest(
                f"{name} is certified elsewhere", hint=f"ask there: jinshi ca rollover {name} --request FILE"
            )
        above = None if is_root else await self._issuing_at_hand(authority.parent)
        if is_root:
            await self.issuing(name)  # a key that does not hold any more vouches for no other, and none for it
        made = await self._next_key(authority, kind, keeper)
        certifier = Certifier(self.journal, self.custody.keys)
        if above is not None:
            proof = await self._proof(made, wish.profile.subject)
            draft = self.draft(above, SUBORDINATE, wish, made.public, key_id_of(made.public), name, proof)
            return await certifier.certify([prepare(draft)], made.beside, made.certified, permit=permit)
        if not days:
            wish = replace(wish, days=_days_of(before))
        prepared = prepare(self._self_signed(made, wish))
        links = self._links(authority, old, before, made, prepared, wish)

        def outcome(certificates: list[x509.Certificate]) -> Sequence[TrustAggregate]:
            now = self.journal.clock.now()
            for number, certificate in zip((made.number, made.number, old.number), certificates, strict=True):
                made.authority.certify(number, certificate_text(certificate), timestamp=now)
            return [made.authority]

        return await certifier.certify([prepared, *links], made.beside, outcome, permit=permit)

    async def request_next(
        self, name: str, *, permit: Permit, algorithm: Algorithm | None = None, keeper: str = ""
    ) -> bytes:
        """A new key for an authority that is certified elsewhere, and a request for it (PKCS#10, DER).

        It issues once its certificate is taken in. Raises as `create_root`.
        """
        authority = await self.journal.load(Authority, Authority.create_id(name))
        kind = algorithm or algorithm_named(authority.current.algorithm)
        made = await self._next_key(authority, kind, keeper)
        request = await self._request(made.signing, issuing_certificate(authority).subject)
        await self.journal.save(*made.beside, permit=permit)
        return request.public_bytes(Encoding.DER)

    def _links(
        self,
        authority: Authority,
        old: Generation,
        before: x509.Certificate,
        made: _Made,
        prepared: Prepared,
        wish: Wish,
    ) -> list[Prepared]:
        """newWithOld and oldWithNew; each holds as long as both keys' certificates do."""
        begin = prepared.draft.not_before
        end = min(prepared.draft.not_after, int(before.not_valid_after_utc.timestamp()))
        new = made.generation
        by_old = issuing_with(authority, old, before)
        by_new = issuing_with(authority, new, prepared.template)
        begin = max(begin, int(before.not_valid_before_utc.timestamp()))
        holder = _holder(authority.name)
        profile = wish.profile
        return [
            prepare(Draft(by_old, LINK, profile, made.public, key_id_of(made.public), begin, end, holder)),
            prepare(Draft(by_new, LINK, profile, public_of(before), key_id_in(before), begin, end, holder)),
        ]

    # -- ending, and what a crash left --

    async def retire(self, name: str, *, permit: Permit) -> None:
        """Issue nothing more; what was issued can still be revoked. Raises Conflict: it is retired already."""
        authority = await self.journal.load(Authority, Authority.create_id(name))
        authority.retire(timestamp=self.journal.clock.now())
        await self.journal.save(authority, permit=permit)

    async def recover(self, *, permit: Permit, older_than_s: float = 0.0) -> int:
        """Abandon what was intended and never signed, as far as anybody was told; returns how many.

        `older_than_s`: while others are at work, leave alone what may still be under way.
        """
        await self.index.catch_up()
        count = 0
        for row in self.index.certificates.unfinished(self.index.database):
            if row.profile not in AUTHORITY_PROFILES:
                continue
            certificate = await self.journal.load(Certificate, Certificate.create_id(row.authority, row.serial))
            now = self.journal.clock.now()
            if certificate.state != INTENDED or (now - certificate.created_on).total_seconds() < older_than_s:
                continue
            certificate.abandon("whoever meant to sign it stopped", timestamp=now)
            try:
                await self.journal.save(certificate, permit=permit)
            except Conflict:
                continue  # somebody else has finished it
            count += 1
        return count

    # -- what the acts share --

    async def issuing(self, name: str) -> Issuing:
        """An authority as an issuer, with its current key.

        Raises:
            InvalidRequest: there is none.
            Conflict: it is retired or not certified yet, or its certificate, or one above, is revoked or on hold.
        """
        authority = await self.journal.load(Authority, Authority.create_id(name))
        certificate = issuing_certificate(authority)
        await self.index.catch_up()
        for one in chain_of(self.index.book, authority, authority.current.number):
            if state := self.revocation_of(one):
                which = "its certificate" if one == certificate else f"the certificate of {subject_line(one.subject)}"
                raise Conflict(
                    f"authority {name} certifies nobody: {which} is {state}", hint=f"see: jinshi ca show {name}"
                )
        return issuing_with(authority, authority.current, certificate)

    def revocation_of(self, certificate: x509.Certificate) -> str:
        """Whether a certificate of ours is revoked or on hold; "" for all others (`pki.core.path.Revoked`)."""
        fingerprint = certificate.fingerprint(hashes.SHA256()).hex()
        row = self.index.certificates.by_fingerprint(self.index.database, fingerprint)
        return "" if row is None or row.state == ISSUED else row.state

    async def _issuing_at_hand(self, name: str) -> Issuing:
        """The same, and its key can be used: before anything is made that it is to sign."""
        issuing = await self.issuing(name)
        if not issuing.reference:
            raise InvalidRequest(
                f"the key of {name} is kept elsewhere", hint="ask there: jinshi ca request, or ca rollover --request"
            )
        await self.custody.keys.open(issuing.reference)
        return issuing

    async def _with_key(
        self, name: str, parent: str, algorithm: Algorithm, settings: AuthoritySettings, keeper: str
    ) -> _Made:
        """A new authority with its first key, or one that has been waiting for its certificate."""
        check_name(name)
        authority = await self.journal.find(Authority, Authority.create_id(name))
        must_be_fresh(authority, name, parent)
        if authority is None:
            authority = Authority(name, parent, settings.recorded(), timestamp=self.journal.clock.now())
        elif authority.settings != settings.recorded():
            authority.amend(settings.recorded(), timestamp=self.journal.clock.now())
        return await self._next_key(authority, algorithm, keeper)

    async def _next_key(self, authority: Authority, algorithm: Algorithm, keeper: str) -> _Made:
        waiting = authority.generations[-1:]
        if waiting and not waiting[0].certificates and waiting[0].algorithm == algorithm.name:
            signing = await self.custody.keys.open(waiting[0].reference)
            if signing.public != decode_base64(waiting[0].public):
                raise InvalidRequest(f"{waiting[0].reference} is another key than its record says")
            return _Made(self.journal, authority, waiting[0], signing, (authority,))
        key, signing = await self.custody.make(f"{authority.name}-{len(authority.generations) + 1}", algorithm, keeper)
        public = encode_base64(signing.public)
        authority.add_key(key.reference, algorithm.name, public, timestamp=self.journal.clock.now())
        return _Made(self.journal, authority, authority.generations[-1], signing, (key, authority))

    def _self_signed(self, made: _Made, wish: Wish) -> Draft:
        issuing = issuing_with(made.authority, made.generation, None)
        return self.draft(issuing, ROOT, wish, made.public, key_id_of(made.public), made.authority.name)

    def draft(
        self, issuing: Issuing, kind: str, wish: Wish, public: bytes, key_id: bytes, name: str, request: str = ""
    ) -> Draft:
        """A certificate that begins now. Raises InvalidRequest: a root that is told no end."""
        now = int(self.journal.clock.now().timestamp())
        above = issuing.certificate
        begin = now - issuing.settings.backdate_s
        if above is None and not wish.days:
            raise InvalidRequest("a root has to be told how long it holds", hint="give --days")
        if above is not None:
            begin = max(begin, int(above.not_valid_before_utc.timestamp()))
        # RFC 5280 §4.1.2.5: both ends belong to it, so that a day ends a second early.
        end = begin + wish.days * DAY_S - 1
        if above is not None and not wish.days:
            end = int(above.not_valid_after_utc.timestamp())
        return Draft(issuing, kind, wish.profile, public, key_id, begin, end, _holder(name), request)

    async def _proof(self, made: _Made, subject: x509.Name) -> str:
        """That the new key signs, and that what it signs verifies: a request of its own."""
        return proof_of(await self._request(made.signing, subject))

    @staticmethod
    async def _request(key: SigningKey, subject: x509.Name) -> x509.CertificateSigningRequest:
        builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
        request = await signed(key, lambda private: builder.sign(private, key.algorithm.hash))  # type: ignore[arg-type]
        if not request.is_signature_valid or public_of(request) != key.public:
            raise IssuanceRefused("the new key does not prove itself", hint="check its keeper; nothing was recorded")
        return request


@dataclass(frozen=True, slots=True)
class _Made:
    """A key that an authority has got; `beside` is still to be recorded."""

    journal: Journal
    authority: Authority
    generation: Generation
    signing: SigningKey
    beside: tuple[TrustAggregate, ...]

    @property
    def public(self) -> bytes:
        return self.signing.public

    @property
    def number(self) -> int:
        return self.generation.number

    def certified(self, certificates: list[x509.Certificate]) -> Sequence[TrustAggregate]:
        """The outcome: it has a certificate."""
        now = self.journal.clock.now()
        self.authority.certify(self.number, certificate_text(certificates[0]), timestamp=now)
        return [self.authority]


def check_name(name: str) -> str:
    """An authority's name, when it is one. Raises InvalidRequest."""
    if not _NAME.fullmatch(name):
        raise InvalidRequest(
            f"{name[:80]!r} cannot name an authority",
            hint=f"lower case letters, digits and dashes, {NAME_SIZE_MAX} at most",
        )
    return name


@lru_cache(maxsize=len(ALGORITHMS))
def trial_public(algorithm: Algorithm) -> bytes:
    """A public key to try templates with, before there is one; its private key is nowhere."""
    return held_key(generate(algorithm)).public


def _holder(name: str) -> str:
    return f"authority:{name}"


def proof_of(shown: x509.Certificate | x509.CertificateSigningRequest) -> str:
    """What is recorded of the proof that a key is its holder's."""
    return f"proof:{hashlib.sha256(shown.public_bytes(Encoding.DER)).hexdigest()}"


def _days_of(certificate: x509.Certificate) -> int:
    return (certificate.not_valid_after_utc - certificate.not_valid_before_utc).days + 1
