"""Time-stamping authorities made, certified by an authority here, given new keys, and retired.

What a crash leaves is finished by doing it again: the key is kept before it is asked to be certified, and a certificate
that was issued for it is found again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ledger.core.canonical import JsonValue, canonicalize
from ledger.core.encoding import decode_base64, encode_base64
from ledger.errors import Conflict, InvalidRequest
from pki.access.base import Access, Caller, Permit, Resource
from pki.aggregates.authority import Authority
from pki.aggregates.certificate import ISSUED, Certificate
from pki.aggregates.officer import NAME
from pki.aggregates.tsa import StampKey, Tsa
from pki.ca import CertificateAuthority, Order
from pki.chains import chain_of
from pki.core.algorithms import Algorithm, IssuerKey, algorithm_named
from pki.core.request import parse_request
from pki.core.stamping import StampSettings, read_stamp_settings
from pki.core.subjects import subject_line
from pki.core.timestamp import check_stamps_with
from pki.journal import Journal
from pki.keystore.base import KeyStore, signed
from pki.views.catalogue import TrustIndex
from pki.views.profiles import find_profile

PROFILE = "time-stamping"


@dataclass(frozen=True, slots=True)
class TsaAdministration:
    """Each act asks `access` first."""

    journal: Journal
    index: TrustIndex
    access: Access
    keys: KeyStore
    authority: CertificateAuthority

    async def create(
        self, caller: Caller, name: str, settings: StampSettings, subject: x509.Name, *, by: str, algorithm: Algorithm
    ) -> Tsa:
        """A new one, or the same again where a crash left it without a certificate; `by` is who certifies it.

        Raises:
            InvalidRequest: the name or the algorithm is none, or there is no such authority.
            Conflict: there is one of that name, with a certificate.
            IssuanceRefused: the profile does not allow it.
            NotPermitted, ConfirmationNeeded: as `Access.permit`.
            Unavailable: a key is away; do it again later.
        """
        if not NAME.fullmatch(name):
            raise InvalidRequest(f"{name!r} is no name", hint="use lower case letters, digits, dots and dashes")
        check_stamps_with(algorithm)
        await self.index.catch_up()
        self.index.book.get(Authority, Authority.create_id(by))
        tsa = await self.journal.find(Tsa, Tsa.create_id(name))
        if tsa is not None and any(one.certificate for one in tsa.keys):
            raise Conflict(f"there is a time-stamping authority {name} already", hint=f"see: jinshi tsa show {name}")
        asked: list[JsonValue] = [settings.recorded(), subject_line(subject), algorithm.name]
        permit = await self._permit(caller, "tsa.create", name, by, _digest_of(asked))
        if tsa is None:
            tsa = Tsa(name, settings.recorded(), timestamp=self.journal.clock.now())
        if not tsa.keys:
            await self._add_key(tsa, algorithm, permit)
        return await self._certify(tsa, tsa.keys[-1], subject, by, permit)

    async def renew(self, caller: Caller, name: str, *, by: str) -> Tsa:
        """A new key with a certificate of its own, which stamps from then on. Raises as `create`."""
        await self.index.catch_up()
        tsa = await self.journal.load(Tsa, Tsa.create_id(name))
        permit = await self._permit(caller, "tsa.amend", name, by)
        current = tsa.current
        if tsa.keys[-1].certificate:
            await self._add_key(tsa, algorithm_named(current.algorithm), permit)
        subject = x509.load_der_x509_certificate(decode_base64(current.certificate)).subject
        return await self._certify(tsa, tsa.keys[-1], subject, by, permit)

    async def amend(self, caller: Caller, name: str, changes: Mapping[str, Any]) -> Tsa:
        """Stamp otherwise from now on: `changes` to its settings. Raises as `create`; Conflict: it is retired."""
        await self.index.catch_up()
        tsa = await self.journal.load(Tsa, Tsa.create_id(name))
        settings = read_stamp_settings({**tsa.settings, **changes})
        by = self._certified_by(tsa)
        permit = await self._permit(caller, "tsa.amend", name, by, _digest_of(settings.recorded()))
        if settings.recorded() == tsa.settings:
            raise Conflict(f"time-stamping authority {name} stamps so already", hint=f"see: jinshi tsa show {name}")
        tsa.amend(settings.recorded(), timestamp=self.journal.clock.now())
        await self.journal.save(tsa, permit=permit)
        return tsa

    def _certified_by(self, tsa: Tsa) -> str:
        """Which authority here has certified the key that stamps; "": none."""
        rows = self.index.certificates.by_request(self.index.database, _request_id(tsa, tsa.keys[-1]))
        return next((row.authority for row in rows if row.state == ISSUED), "")

    async def retire(self, caller: Caller, name: str) -> None:
        """Stamp nothing more; what was stamped stays. Raises as `create`; Conflict: it is retired already."""
        tsa = await self.journal.load(Tsa, Tsa.create_id(name))
        permit = await self.access.permit(caller, "tsa.retire", Resource("tsa", name))
        tsa.retire(timestamp=self.journal.clock.now())
        await self.journal.save(tsa, permit=permit)

    async def _permit(self, caller: Caller, action: str, name: str, by: str, digest: str = "") -> Permit:
        """`digest`: of what is asked, so that others confirm this and nothing else."""
        attributes = {"authority": by, "profile": PROFILE, "digest": digest}
        return await self.access.permit(caller, action, Resource("tsa", name, attributes))

    async def _add_key(self, tsa: Tsa, algorithm: Algorithm, permit: Permit) -> None:
        number = len(tsa.keys) + 1
        reference = await self.keys.generate(f"tsa-{tsa.name.replace('.', '-')}-{number}", algorithm)
        key = await self.keys.open(reference)
        now = self.journal.clock.now()
        tsa.add_key(reference, key.algorithm.name, encode_base64(key.public), timestamp=now)
        await self.journal.save(tsa, permit=permit)

    async def _certify(self, tsa: Tsa, key: StampKey, subject: x509.Name, by: str, permit: Permit) -> Tsa:
        certificate, chain = await self._issued(tsa, key) or await self._issue(tsa, key, subject, by, permit)
        listed = [encode_base64(one) for one in chain]
        tsa.certify(key.number, encode_base64(certificate), listed, timestamp=self.journal.clock.now())
        await self.journal.save(tsa, permit=permit)
        return tsa

    async def _issue(
        self, tsa: Tsa, key: StampKey, subject: x509.Name, by: str, permit: Permit
    ) -> tuple[bytes, Sequence[bytes]]:
        held = await self.keys.open(key.reference)
        builder = x509.CertificateSigningRequestBuilder().subject_name(subject)

        def sign(private: IssuerKey) -> x509.CertificateSigningRequest:
            return builder.sign(private, held.algorithm.hash)  # type: ignore[arg-type]

        request = parse_request((await signed(held, sign)).public_bytes(Encoding.DER))
        profile = find_profile(self.index.book, PROFILE)
        order = Order(by, profile, request, _request_id(tsa, key), tsa.id, subject=subject, names=())
        issued = await self.authority.issue(await self.authority.prepare(order, permit=permit))
        return issued.certificate, issued.chain

    async def _issued(self, tsa: Tsa, key: StampKey) -> tuple[bytes, Sequence[bytes]] | None:
        """What was issued for that key before a crash kept it from being recorded here."""
        await self.index.catch_up()
        for row in self.index.certificates.by_request(self.index.database, _request_id(tsa, key)):
            if row.state == ISSUED:
                found = await self.journal.load(Certificate, Certificate.create_id(row.authority, row.serial))
                issuer = self.index.book.get(Authority, Authority.create_id(row.authority))
                chain = chain_of(self.index.book, issuer, row.generation, root=False)
                return decode_base64(found.der), [one.public_bytes(Encoding.DER) for one in chain]
        return None


def _digest_of(asked: JsonValue) -> str:
    """Of what is asked, so that others confirm this and nothing else."""
    return hashlib.sha256(canonicalize(asked)).hexdigest()


def _request_id(tsa: Tsa, key: StampKey) -> str:
    return f"{tsa.id}:{key.number}"
