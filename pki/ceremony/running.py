"""A ceremony, planned and run: everything is linted before anything is signed, and every step is in the log.

Interrupted, it goes on where it stopped when it is run again with the same file and the shares.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ledger.core.encoding import encode_base64
from ledger.errors import Conflict, InvalidRequest
from pki.access.base import Permit
from pki.aggregates.authority import Authority
from pki.aggregates.ceremony import Ceremony
from pki.aggregates.certificate import ISSUED
from pki.aggregates.key import Key
from pki.ceremony.keys import CeremonyKeys
from pki.ceremony.script import Script, Signature
from pki.ceremony.shares import KeyShare, Sharing, open_shared, present, split
from pki.ceremony.status import CeremonyStatus, PlannedList, PlannedResponder, PlannedRevocation, SignedList
from pki.certifying import Issuing, Prepared
from pki.chains import issuing_certificate
from pki.core.authority_profile import SUBORDINATE, parse_foreign, public_of
from pki.core.subjects import subject_line
from pki.hierarchy import Hierarchy, proof_of
from pki.keystore.base import SHARES
from pki.other_houses import OtherHouses

Give = Callable[[KeyShare, Sharing], None]
"""Hands a share to its custodian; durable on return."""


@dataclass(frozen=True, slots=True)
class Planned:
    """One certificate that a ceremony would sign."""

    what: str
    certificate: x509.Certificate
    """As it would be, but for the key (of a new root), the serial number and the signature."""
    request: str = ""
    """The SHA-256 of the request; "" for a root."""


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a ceremony would do, in that order."""

    certificates: list[Planned]
    revocations: list[PlannedRevocation]
    responder: PlannedResponder | None
    lists: list[PlannedList]


@dataclass(frozen=True, slots=True)
class Done:
    """A ceremony that has ended, and what it signed: a new root first, then the requests in their order, the
    responder, and the lists.
    """

    ceremony: Ceremony
    certificates: list[x509.Certificate]
    lists: list[SignedList]


@dataclass(frozen=True, slots=True)
class CeremonyRun:
    """`requests` are the files that the script names, by the names it has for them. `hierarchy` is over `keys`."""

    script: Script
    requests: Mapping[str, bytes]
    hierarchy: Hierarchy
    keys: CeremonyKeys

    # -- the dry run --

    async def plan(self) -> Plan:
        """What would be signed, linted; nothing is recorded and no key is kept.

        Raises:
            InvalidRequest: a request is not the one that was reviewed, the authority is not there, or a list would
                break a rule.
            Conflict: a certificate is revoked already for another reason.
            IssuanceRefused: a certificate would break a rule; every reason is named.
        """
        planned: list[Planned] = []
        issuing: Issuing | None = None
        if (root := self.script.root) is not None and not await self._is_made(root.name):
            tried = self.hierarchy.try_root(root.name, root.wish, root.settings)
            issuing = replace(tried.draft.issuing, certificate=tried.template)
            planned.append(Planned(f"root {root.name}", tried.template))
        if self.script.signatures:
            issuing = issuing or await self.hierarchy.issuing(self.script.authority)
        for signature in self.script.signatures:
            assert issuing is not None, "something is to be signed"
            tried = self._prepared(issuing, signature)
            planned.append(Planned(f"request {signature.request}", tried.template, signature.sha256))
        status = self._status
        revocations, responder = await status.plan_revocations(), await status.plan_responder()
        new = issuing if root is not None and not await self._is_made(root.name) else None
        return Plan(planned, revocations, responder, await status.plan_lists(revocations, new))

    @property
    def _status(self) -> CeremonyStatus:
        return CeremonyStatus(self.script, self.hierarchy, self.keys, self._reviewed)

    def _prepared(self, issuing: Issuing, signature: Signature) -> Prepared:
        request = self._request(signature)
        return OtherHouses(self.hierarchy).prepare_foreign(
            issuing, request, signature.profile, signature.days, kind=SUBORDINATE
        )

    def _request(self, signature: Signature) -> x509.CertificateSigningRequest:
        request = parse_foreign(self._reviewed(signature.request, signature.sha256))
        if not isinstance(request, x509.CertificateSigningRequest):
            raise InvalidRequest(f"{signature.request} is no request (PKCS#10)")
        return request

    def _reviewed(self, name: str, sha256: str) -> bytes:
        data = self.requests.get(name, b"")
        if hashlib.sha256(data).hexdigest() != sha256:
            raise InvalidRequest(
                f"{name} is not the request that was reviewed (its SHA-256 is another)",
                hint="review the request, then put its digest into the ceremony's file",
            )
        return data

    # -- the run --

    async def run(self, shares: Sequence[KeyShare], give: Give, *, permit: Permit) -> Done:
        """Do it: `shares` are what custodians have brought, `give` hands them those of a new root.

        Raises:
            InvalidRequest: there are too few shares, or one is of another key; nothing was begun.
            Conflict: a ceremony of that name has ended, or was begun with another file.
            IssuanceRefused, Tampered, Unavailable: as `plan`, `open_shared`, `Certifier.certify`.
        """
        await self.plan()
        root, made = self.script.root, []
        waiting = await self._shared_key()
        names = self._must_be_enough(waiting, shares)
        ceremony = await self._begin(names, permit)
        if waiting is not None and not self._is_open(waiting):
            self.keys.held[waiting.reference] = open_shared(waiting.shared, shares)
            await self._step(ceremony, "key opened", waiting.label, _digest(waiting.public.encode()), permit)
        if root is not None:
            made.append(await self._root(ceremony, give, permit))
        for signature in self.script.signatures:
            made.append(await self._sign(ceremony, signature, permit))
        status = self._status
        await status.revoke(ceremony, permit=permit)
        if (responder := await status.certify_responder(ceremony, permit=permit)) is not None:
            made.append(responder)
        lists = await status.issue_lists(ceremony, permit=permit)
        ceremony.end(timestamp=self._now())
        await self.hierarchy.journal.save(ceremony, permit=permit)
        await self.keys.close()
        return Done(ceremony, made, lists)

    async def _root(self, ceremony: Ceremony, give: Give, permit: Permit) -> x509.Certificate:
        root, sharing = self.script.root, self.script.sharing
        assert root is not None, "it is called for a new root"
        assert sharing is not None, "the script names the custodians of a new root"
        if await self._is_made(root.name):
            return issuing_certificate(await self._authority(root.name))
        labels: list[str] = []

        def share(key: Key) -> None:
            record, shares = split(self.keys.held[key.reference], key.label, sharing)
            for one in shares:
                give(one, sharing)
            key.share(record, timestamp=self._now())
            labels.append(key.label)

        custody = replace(self.hierarchy.custody, keys=self.keys, also=share)
        acts = replace(self.hierarchy, custody=custody)
        certificate = await acts.create_root(root.name, root.wish, root.settings, permit=permit)
        for label in labels:
            digest = _digest(public_of(certificate))
            await self._step(ceremony, f"key made, {sharing.needed} shares of it open it", label, digest, permit)
        await self._signed(ceremony, certificate, permit)
        return certificate

    async def _sign(self, ceremony: Ceremony, signature: Signature, permit: Permit) -> x509.Certificate:
        request = self._request(signature)
        if (earlier := await self._signed_earlier(request)) is not None:
            return earlier
        issuing = await self.hierarchy.issuing(self.script.authority)
        acts = replace(self.hierarchy, custody=replace(self.hierarchy.custody, keys=self.keys))
        certificate = await OtherHouses(acts).certify_foreign(self._prepared(issuing, signature), permit=permit)
        await self._signed(ceremony, certificate, permit)
        await self._take_in(certificate, permit)
        return certificate

    async def _take_in(self, certificate: x509.Certificate, permit: Permit) -> None:
        """Where the certified authority is of this ledger, it has its certificate at once."""
        public = encode_base64(public_of(certificate))
        for authority in self.hierarchy.index.book.all(Authority):
            if any(one.public == public for one in authority.generations):
                await OtherHouses(self.hierarchy).take_in(authority.name, [certificate], permit=permit)

    async def _signed_earlier(self, request: x509.CertificateSigningRequest) -> x509.Certificate | None:
        """What an interrupted run has signed."""
        index = self.hierarchy.index
        await index.catch_up()
        for row in index.certificates.by_request(index.database, proof_of(request)):
            if row.authority == self.script.authority and row.state == ISSUED:
                return await self.hierarchy.certificate(row.authority, row.serial)
        return None

    # -- what is there, and what is recorded --

    async def _shared_key(self) -> Key | None:
        """The key that has to be opened: of the authority that signs, where custodians share it."""
        authority = await self.hierarchy.journal.find(Authority, Authority.create_id(self.script.authority))
        if authority is None or not authority.generations:
            return None
        reference = authority.generations[-1].reference
        if not reference.startswith(f"{SHARES}:"):
            return None
        return await self.hierarchy.journal.load(Key, Key.create_id(reference.partition(":")[2]))

    def _must_be_enough(self, key: Key | None, shares: Sequence[KeyShare]) -> list[str]:
        """Who is here, before anything is begun."""
        if key is None:
            return list(self.script.sharing.custodians) if self.script.sharing is not None else []
        names = present(key.shared, shares)
        if not self._is_open(key) and len(names) < key.shared["needed"]:
            needed = key.shared["needed"]
            raise InvalidRequest(
                f"{len(names)} of {needed} custodians are here; fewer than {needed} open nothing",
                hint=f"bring the shares of {needed} of {', '.join(key.shared['custodians'])}",
            )
        return names

    def _is_open(self, key: Key) -> bool:
        return key.reference in self.keys.held

    async def _is_made(self, name: str) -> bool:
        authority = await self.hierarchy.journal.find(Authority, Authority.create_id(name))
        if authority is None or not any(one.certificates for one in authority.generations):
            return False
        ceremony = await self._find()
        if ceremony is None or ceremony.script != self.script.digest:
            raise Conflict(f"there is an authority {name} already", hint="choose another name; see: jinshi ca list")
        return True

    async def _authority(self, name: str) -> Authority:
        return await self.hierarchy.journal.load(Authority, Authority.create_id(name))

    async def _find(self) -> Ceremony | None:
        return await self.hierarchy.journal.find(Ceremony, Ceremony.create_id(self.script.name))

    async def _begin(self, names: list[str], permit: Permit) -> Ceremony:
        ceremony, script = await self._find(), self.script
        if ceremony is None:
            ceremony = Ceremony(script.name, script.title, script.digest, names, timestamp=self._now())
        else:
            ceremony.resume(script.digest, names, timestamp=self._now())
        await self.hierarchy.journal.save(ceremony, permit=permit)
        return ceremony

    async def _signed(self, ceremony: Ceremony, certificate: x509.Certificate, permit: Permit) -> None:
        digest = _digest(certificate.public_bytes(Encoding.DER))
        await self._step(ceremony, "certificate signed", subject_line(certificate.subject), digest, permit)

    async def _step(self, ceremony: Ceremony, what: str, to: str, digest: str, permit: Permit) -> None:
        ceremony.step(what, to, digest, timestamp=self._now())
        await self.hierarchy.journal.save(ceremony, permit=permit)

    def _now(self) -> datetime:
        return self.hierarchy.journal.clock.now()


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
