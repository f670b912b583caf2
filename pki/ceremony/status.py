"""What a ceremony says about certificates: it revokes them, issues the list that names them, and certifies the OCSP
responder that tells of them until the next ceremony.

A list is linted before it is intended; it and its step in the transcript are one append, before it is signed and after.
Interrupted, the ceremony goes on with the list that it intended, unless that is past its time, or no more the newest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ledger.core.encoding import decode_base64, encode_base64
from ledger.errors import Conflict, InvalidRequest
from pki.access.base import Permit, service_permit
from pki.aggregates.authority import Authority
from pki.aggregates.base import TrustAggregate
from pki.aggregates.ceremony import Ceremony
from pki.aggregates.certificate import INTENDED, ISSUED, REVOKED, Certificate
from pki.aggregates.crl import Crl
from pki.aggregates.responder import Responder
from pki.ca import CertificateAuthority, Order
from pki.ceremony.keys import CeremonyKeys
from pki.ceremony.script import ResponderRequest, Revoking, Script
from pki.certifying import Issuing
from pki.core.authority_profile import public_of
from pki.core.builtin import BUILTIN
from pki.core.crl import Listed, encoded, issuer_of, to_be_signed
from pki.core.lint_crl import must_be_listed_so, parse_list
from pki.core.ocsp import hashes_of
from pki.core.profile import Profile
from pki.core.request import CertificationRequest, parse_request
from pki.core.settings import DAY_S
from pki.core.signatures import assembled
from pki.core.subjects import subject_line
from pki.hierarchy import Hierarchy
from pki.status.issuers import StatusIssuer, issuer_in
from pki.status.lists import Lists
from pki.views.certificates import CertificateRow
from pki.views.status import CrlRow

LISTS_MAX: Final = 64
"""Shards of an authority whose lists are made by hand."""
LIST_INTENDED, LIST_SIGNED = "list intended", "list signed"
_PROFILE: Final = BUILTIN["ocsp-responder"]
_TRYING: Final = service_permit("local:jinshi", "ceremony.prepare")
"""Of what is prepared and not issued."""


@dataclass(frozen=True, slots=True)
class PlannedRevocation:
    """A certificate that would be revoked. `state` is what it is now."""

    asked: Revoking
    subject: str
    not_after: int
    shard: int
    state: str


@dataclass(frozen=True, slots=True)
class PlannedResponder:
    """A responder that would be certified, with the SHA-256 of its request and of its key."""

    subject: str
    days: int
    request: str
    key: str


@dataclass(frozen=True, slots=True)
class PlannedList:
    """A list that would be signed, linted as it would be but for its times: its series, and the entries."""

    series: str
    number: int
    this_update: int
    next_update: int
    entries: list[Listed]


@dataclass(frozen=True, slots=True)
class SignedList:
    """A list that was signed, DER."""

    series: str
    number: int
    next_update: int
    der: bytes


@dataclass(frozen=True, slots=True)
class CeremonyStatus:
    """The steps about status. `hierarchy` is over `keys`; `read` gives a request of the script, as it was reviewed."""

    script: Script
    hierarchy: Hierarchy
    keys: CeremonyKeys
    read: Callable[[str, str], bytes]

    @property
    def lists(self) -> Lists:
        """What makes lists, with the ceremony's keys."""
        return Lists(self.hierarchy.journal, self.hierarchy.index, self.keys)

    def issuer(self) -> StatusIssuer:
        """Who signs lists: the newest certified key, also of an authority that is retired.

        Raises:
            InvalidRequest: there is no such authority, it is not certified, or its key is kept elsewhere.
        """
        book, name = self.hierarchy.index.book, self.script.authority
        numbers = [one.number for one in book.get(Authority, Authority.create_id(name)).generations if one.certificates]
        if not numbers:
            raise InvalidRequest(f"authority {name} is not certified yet", hint="see: jinshi ca list")
        issuer = issuer_in(book, name, numbers[-1])
        if not issuer.reference:
            raise InvalidRequest(f"the key of {name} is kept elsewhere", hint="hold the ceremony where it is")
        return issuer

    # -- the dry run --

    async def plan_revocations(self) -> list[PlannedRevocation]:
        """Raises InvalidRequest, Conflict: one was never issued, or is revoked for another reason."""
        await self.hierarchy.index.catch_up()
        return [self._planned_revocation(one) for one in self.script.revocations]

    def _planned_revocation(self, asked: Revoking) -> PlannedRevocation:
        index, name = self.hierarchy.index, self.script.authority
        row = index.certificates.find(index.database, name, asked.serial)
        if row is None:
            raise InvalidRequest(
                f"authority {name} has issued no certificate {asked.serial}", hint=f"see: jinshi ca show {name}"
            )
        if row.state == INTENDED:
            raise Conflict(f"certificate {asked.serial} is still being issued", hint="wait, or see: jinshi cert show")
        if row.state == REVOKED and row.reason != asked.reason:
            raise Conflict(
                f"certificate {asked.serial} is revoked already, as {row.reason}", hint="leave it out of the file"
            )
        return PlannedRevocation(asked, row.subject, row.not_after, row.shard, row.state)

    async def plan_responder(self) -> PlannedResponder | None:
        """Linted, and not issued. Raises IssuanceRefused, InvalidRequest, MalformedRequest, WeakKey."""
        asked = self.script.responder
        if asked is None:
            return None
        request = self._request(asked)
        if await self._certified(self._request_id(asked)) is None:
            authority = self._authority()
            token = await authority.prepare(self._order(asked, request), permit=_TRYING)
            authority.discard(token)
        return PlannedResponder(subject_line(request.subject), asked.days, asked.sha256, request.key_id)

    async def plan_lists(self, revocations: list[PlannedRevocation], new: Issuing | None = None) -> list[PlannedList]:
        """Linted, and not signed. `new`: a root that is still to be made.

        Raises InvalidRequest: a list would break a rule, or there are too many.
        """
        if not self.script.list_days:
            return []
        issuer = self.issuer() if new is None else _issuer_of_new(new)
        return [await self._planned_list(issuer, shard, revocations) for shard in self._shards(issuer)]

    async def _planned_list(
        self, issuer: StatusIssuer, shard: int, revocations: list[PlannedRevocation]
    ) -> PlannedList:
        crl = await self.lists.draft(issuer, shard, holds_s=self.script.list_days * DAY_S)
        said = crl.intended
        rows = {row[0]: Listed(*row) async for page in self.lists.listed(crl) for row in page}
        for one in revocations:
            if one.shard == shard and one.state != REVOKED and one.not_after > said.ends_after:
                serial, reason, since = one.asked.serial, one.asked.reason, one.asked.since
                rows[serial] = Listed(serial, said.this_update, reason, since)
        entries = [rows[serial] for serial in sorted(rows)]
        _lint(to_be_signed(issuer.issuer, said, encoded(entries)), issuer)
        return PlannedList(f"{issuer.name}-{shard}", said.number, said.this_update, said.next_update, entries)

    def _shards(self, issuer: StatusIssuer) -> list[int]:
        index = self.hierarchy.index
        known = index.crls.shards(index.database, issuer.authority, issuer.generation)
        shards = sorted({*known, *range(issuer.settings.shards)})
        if len(shards) > LISTS_MAX:
            raise InvalidRequest(
                f"{issuer.authority} has {len(shards)} lists; a ceremony signs {LISTS_MAX} at most",
                hint="fewer shards are enough for an authority that certifies authorities",
            )
        return shards

    # -- the run --

    async def revoke(self, ceremony: Ceremony, *, permit: Permit) -> None:
        """Each is in force, and in the transcript, at once. Raises as `Journal.save`."""
        journal = self.hierarchy.journal
        for asked in self.script.revocations:
            certificate = await journal.load(Certificate, Certificate.create_id(self.script.authority, asked.serial))
            if certificate.state == REVOKED:
                continue  # before it was interrupted, or by somebody else for the same reason
            certificate.revoke(asked.reason, timestamp=self._now(), invalid_since=asked.since)
            digest = _digest(decode_base64(certificate.der))
            what = f"certificate revoked, {asked.reason}"
            ceremony.step(what, f"{asked.serial} {certificate.subject}"[:1_000], digest, timestamp=self._now())
            await journal.save(certificate, ceremony, permit=permit)

    async def certify_responder(self, ceremony: Ceremony, *, permit: Permit) -> x509.Certificate | None:
        """A responder's certificate, which its key in this ledger has at once. Raises as `plan_responder`."""
        asked = self.script.responder
        if asked is None:
            return None
        issuer, request = self.issuer(), self._request(asked)
        der = await self._certified(self._request_id(asked))
        if der is None:
            authority = self._authority()
            try:
                token = await authority.prepare(self._order(asked, request), permit=permit)
                der = (await authority.issue(token)).certificate
            finally:
                await authority.close()
        certificate = x509.load_der_x509_certificate(der)
        line, digest = subject_line(certificate.subject), _digest(der)
        beside: list[TrustAggregate] = []
        if not any(one.digest == digest for one in ceremony.steps):
            ceremony.step("responder certified", line, digest, timestamp=self._now())
            beside.append(ceremony)
        if (responder := await self._waiting(issuer, certificate)) is not None:
            beside.append(responder)
        await self.hierarchy.journal.save(*beside, permit=permit)
        return certificate

    async def _waiting(self, issuer: StatusIssuer, certificate: x509.Certificate) -> Responder | None:
        """The responder of this ledger whose key waits for that certificate, which it now has."""
        id_ = Responder.create_id(issuer.authority, issuer.generation)
        responder = await self.hierarchy.journal.find(Responder, id_)
        if responder is None or responder.unfinished is None:
            return None
        key = await self.keys.open(responder.unfinished.reference)
        if key.public != public_of(certificate):
            return None
        not_after = int(certificate.not_valid_after_utc.timestamp())
        responder.certify(encode_base64(_der(certificate)), not_after, timestamp=self._now())
        return responder

    async def issue_lists(self, ceremony: Ceremony, *, permit: Permit) -> list[SignedList]:
        """The lists, each signed once, whatever stopped it before. Raises InvalidRequest, Conflict, Tampered."""
        if not self.script.list_days:
            return []
        await self.hierarchy.index.catch_up()
        issuer = self.issuer()
        return [await self._issue_list(ceremony, issuer, shard, permit) for shard in self._shards(issuer)]

    async def _issue_list(self, ceremony: Ceremony, issuer: StatusIssuer, shard: int, permit: Permit) -> SignedList:
        lists, journal = self.lists, self.hierarchy.journal
        row = self._intended_before(ceremony, issuer, shard)
        if row is not None and row.sha256:
            return _signed(row, await lists.rebuild(row))
        if row is not None and self._is_still_next(row):
            crl = await journal.load(Crl, Crl.create_id(row.authority, row.generation, shard, row.ordinal))
            _lint(await lists.tbs(crl, issuer), issuer)
        else:
            crl = await lists.draft(issuer, shard, holds_s=self.script.list_days * DAY_S)
            tbs = await lists.tbs(crl, issuer)
            _lint(tbs, issuer)
            ceremony.step(LIST_INTENDED, _named(issuer, shard, crl), _digest(tbs), timestamp=self._now())
            # Commit point: a crash after this line leaves an intention that this ceremony carries out.
            await journal.save(crl, ceremony, permit=permit)

        def beside(sha256: str) -> list[TrustAggregate]:
            ceremony.step(LIST_SIGNED, _named(issuer, shard, crl), sha256, timestamp=self._now())
            return [ceremony]

        return _signed(*await lists.sign(crl, issuer, permit=permit, beside=beside))

    def _intended_before(self, ceremony: Ceremony, issuer: StatusIssuer, shard: int) -> CrlRow | None:
        """The newest list of a series that this ceremony has intended."""
        index = self.hierarchy.index
        intended = {one.to for one in ceremony.steps if one.what == LIST_INTENDED}
        rows = index.crls.of_series(index.database, issuer.authority, issuer.generation, shard)
        return next((row for row in rows if f"{row.series} number {row.number}" in intended), None)

    def _is_still_next(self, row: CrlRow) -> bool:
        """Whether a list that was intended is worth its signature: in its time, and none of the series came after."""
        index = self.hierarchy.index
        last = index.crls.last(index.database, row.authority, row.generation, row.shard)
        return last == row and row.next_update > int(self._now().timestamp())

    # -- the responder's request --

    def _request(self, asked: ResponderRequest) -> CertificationRequest:
        return parse_request(self.read(asked.request, asked.sha256))

    def _order(self, asked: ResponderRequest, request: CertificationRequest) -> Order:
        name = self.script.authority
        profile: Profile = replace(
            _PROFILE, validity_days=asked.days, renew_before_days=min(_PROFILE.renew_before_days, asked.days)
        )
        return Order(name, profile, request, self._request_id(asked), f"authority:{name}")

    def _request_id(self, asked: ResponderRequest) -> str:
        return f"ceremony:{self.script.name}:{asked.sha256}"

    def _authority(self) -> CertificateAuthority:
        return CertificateAuthority(self.hierarchy.journal, self.hierarchy.index, self.keys)

    async def _certified(self, request_id: str) -> bytes | None:
        """What an interrupted run has issued."""
        index = self.hierarchy.index
        await index.catch_up()
        rows: list[CertificateRow] = index.certificates.by_request(index.database, request_id)
        issued = [one for one in rows if one.state == ISSUED]
        if not issued:
            return None
        id_ = Certificate.create_id(issued[0].authority, issued[0].serial)
        return decode_base64((await self.hierarchy.journal.load(Certificate, id_)).der)

    def _now(self) -> datetime:
        return self.hierarchy.journal.clock.now()


def _issuer_of_new(new: Issuing) -> StatusIssuer:
    """A root that is tried, with a key that is nobody's."""
    certificate = new.certificate
    assert certificate is not None, "it is a template of the root's own certificate"
    not_after = int(certificate.not_valid_after_utc.timestamp())
    return StatusIssuer(
        *(new.authority, new.generation, new.reference, _der(certificate), issuer_of(certificate, new.algorithm)),
        *(hashes_of(certificate), not_after, True, new.settings),
    )


def _lint(tbs: bytes, issuer: StatusIssuer) -> None:
    """Before it is intended. Raises InvalidRequest."""
    read = parse_list(assembled(tbs, issuer.issuer.algorithm, b""))
    must_be_listed_so(read, issuer.issuer, issuer.not_after)


def _named(issuer: StatusIssuer, shard: int, crl: Crl) -> str:
    return f"{issuer.name}-{shard} number {crl.intended.number}"


def _signed(row: CrlRow, der: bytes) -> SignedList:
    return SignedList(row.series, row.number, row.next_update, der)


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
