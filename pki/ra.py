"""The registration authority: what is asked for, checked, approved by others than the one who asks, and issued.

The fast path is a profile without approvals: one append with the request and the certificate's intent, one with its
outcome, and no aggregate is loaded. Everything that needs officers takes its time.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Final

from cryptography import x509

from ledger.core.encoding import decode_base64
from ledger.errors import Conflict, InvalidRequest, IssuanceRefused, Unavailable
from pki.access.base import Access, Caller, Permit, Resource, service_permit
from pki.aggregates.certificate import ABANDONED, REVOKED, Certificate
from pki.aggregates.identity import ACTIVE
from pki.aggregates.request import APPROVED, ISSUED, ISSUING, SUBMITTED, CertificateRequest, asked_with
from pki.ca import Order
from pki.core.profile import Profile
from pki.core.request import CertificationRequest
from pki.core.subjects import name_for
from pki.issuance.drafts import Drafts
from pki.issuers.registry import Issuers
from pki.journal import Journal
from pki.views.catalogue import TrustIndex
from pki.views.certificates import CertificateRow
from pki.views.identities import IdentityRow
from pki.views.requests import RequestRow
from pki.wishes import (
    DAY_S,
    Standing,
    Wish,
    asked_of,
    check_names,
    day_of,
    fits_intent,
    name_of_request,
    order_again,
    order_of,
    person_of,
    requested,
    standing_of,
    wanted,
)

ATTEMPTS: Final = 4
PAGE_ENTRIES: Final = 500
HOLDERS_KEPT: Final = 4_096
ACTOR: Final = "service:ra"
NEVER_S: Final = float("-inf")


@dataclass(eq=False, slots=True)
class Registration:
    """The acts on requests. One for each process that issues; safe under concurrency.

    `profile_of` finds a profile, as it counts now (None) or as a version. Lookups of holders may be `lag_s` old; what
    quotas are counted from is not.
    """

    journal: Journal
    index: TrustIndex
    access: Access
    issuers: Issuers
    profile_of: Callable[[str, int | None], Profile]
    lag_s: float = 0.0
    drafts: Drafts = field(default_factory=Drafts)
    _looked_s: float = field(default=NEVER_S, init=False)
    _holders: dict[str, IdentityRow] = field(default_factory=dict, init=False)
    """Those looked up since the last look, bounded."""
    _under_way: Counter[tuple[str, str]] = field(default_factory=Counter, init=False)

    # -- asking --

    async def submit(self, caller: Caller, wish: Wish) -> Standing:
        """Ask for a certificate. A profile without approvals is issued at once.

        Raises:
            NotPermitted: the caller may not ask for that.
            MalformedRequest: the CSR is none.
            IssuanceRefused: the holder, the names, the key or the quota do not allow it.
            Conflict: the requester has used that client id for something else.
            Unavailable: as `Issuer.issue`; the same again goes on.
        """
        profile = self.profile_of(wish.profile, None)
        about = {
            "authority": wish.authority,
            "profile": wish.profile,
            "holder": wish.holder,
            "requester": caller.actor,
        }
        permit = await self.access.permit(caller, "request.submit", Resource("request", wish.client_id or "new", about))
        requester = person_of(permit)
        name = name_of_request(requester, wish.client_id)
        order = order_of(wish, profile, await self._read(wish, profile), name)
        try:
            return await self._checked(wish, profile, order, requester, permit)
        except (Conflict, IssuanceRefused):
            # The same once more may be refused for what the first one has used up: its key, its holder's quota.
            known = await self._known(wish, order) if wish.client_id else None
            if known is None:
                raise
            return known

    async def _read(self, wish: Wish, profile: Profile) -> CertificationRequest:
        own = wish.authority not in self.issuers.others and not profile.approvals
        if not own or wish.names is not None or wish.subject is not None:
            return await self.drafts.read(wish.csr)
        return await self.drafts.read(wish.csr, wish.authority, profile, not_after=wish.not_after or None)

    async def _checked(self, wish: Wish, profile: Profile, order: Order, requester: str, permit: Permit) -> Standing:
        counted = bool(profile.quota) and (profile.approvals > 0 or wish.authority in self.issuers.others)
        await self._look(exactly=counted)
        holder = self._holder(wish.holder)
        check_names(holder, profile, order)
        if not counted:  # or our own authority counts, when it prepares
            return await self._submitted(wish, profile, order, requester, holder, permit)
        key = (wish.holder, profile.name)
        self._check_quota(profile, key, wish.renews)
        self._under_way[key] += 1
        try:
            return await self._submitted(wish, profile, order, requester, holder, permit)
        finally:
            self._under_way[key] -= 1
            if not self._under_way[key]:
                del self._under_way[key]

    async def _submitted(
        self, wish: Wish, profile: Profile, order: Order, requester: str, holder: IdentityRow, permit: Permit
    ) -> Standing:
        now = self.journal.clock.now()

        def made(reference: str) -> CertificateRequest:
            return requested(wish, profile, order, requester, holder, reference, now)

        if profile.approvals == 0:
            if fits_intent(wish) and wish.authority not in self.issuers.others:
                order = replace(order, asked=asked_of(wish, order, requester, now))
            issued = await self.issuers.of(wish.authority).issue(order, made, permit=permit)
            return standing_of(order.request_id, issued)
        submitted = made("")
        await self.journal.save(submitted, permit=permit)
        return Standing(submitted.name, SUBMITTED, submitted.missing, authority=wish.authority)

    async def _known(self, wish: Wish, order: Order) -> Standing | None:
        """What became of an earlier submission of the same. Raises Conflict: it was something else."""
        earlier = await self.journal.find(CertificateRequest, CertificateRequest.create_id(order.request_id))
        if earlier is None:
            return None
        before = order_again(earlier, order.profile)
        same = (
            before.request.key_id,
            before.authority,
            earlier.profile,
            before.holder,
            before.renews,
            before.not_after,
        ) == (
            order.request.key_id,
            order.authority,
            order.profile.name,
            order.holder,
            order.renews,
            order.not_after,
        ) and wanted(before) == wanted(order)
        if not same:
            raise Conflict(
                f"the request {wish.client_id!r} was submitted before with other content",
                hint="choose another id, or leave it out",
            )
        return await self.standing(order.request_id, duplicate=True)

    async def renew(
        self, caller: Caller, authority: str, serial: str, csr: bytes | None, *, client_id: str = ""
    ) -> Standing:
        """Ask for a certificate in the place of one that is about to end: the same holder, names and profile.

        `csr` None: with the key it has, where the profile lets keys be used again. Raises as `submit`; IssuanceRefused:
        it is not yet, or no more, to be renewed.
        """
        await self.index.catch_up()
        row = self.index.certificates.find(self.index.database, authority, serial)
        if row is None:
            raise InvalidRequest(f"there is no certificate {serial} of {authority}")
        self._check_window(row, self.profile_of(row.profile, None))
        certificate = await self.journal.load(Certificate, Certificate.create_id(authority, serial))
        subject = x509.load_der_x509_certificate(decode_base64(certificate.der)).subject
        return await self.submit(
            caller,
            Wish(
                authority,
                row.profile,
                row.holder,
                await self._csr_of(certificate) if csr is None else csr,
                client_id,
                tuple((name_for(one), str(one.value)) for one in subject),
                tuple(certificate.names),
                renews=serial,
            ),
        )

    # -- deciding --

    async def approve(self, caller: Caller, name: str, *, comment: str = "") -> Standing:
        """One more approval; with the last one it is issued.

        Raises:
            NotPermitted: the caller may not, has asked for it, has approved it before, or has vetted its holder.
            Conflict: nothing is to be approved any more.
            IssuanceRefused: it may not be certified; the request has failed.
        """
        for attempt in range(ATTEMPTS):
            request = await self.load(name)
            permit = await self.access.permit(caller, "request.approve", _resource(request))
            role = request.role if request.role in permit.role.split(",") else permit.role
            request.approve(person_of(permit), role, comment=comment, timestamp=self.journal.clock.now())
            try:
                await self.journal.save(request, permit=permit)
                break
            except Conflict:
                if attempt + 1 == ATTEMPTS:
                    raise
        if request.state != APPROVED:
            return Standing(name, request.state, request.missing, authority=request.authority)
        return await self._carry_on(request, permit)

    async def reject(self, caller: Caller, name: str, reason: str) -> Standing:
        """Refuse it, for good. Raises NotPermitted, Conflict, InvalidRequest (no reason)."""
        request = await self.load(name)
        permit = await self.access.permit(caller, "request.reject", _resource(request))
        request.reject(person_of(permit), reason, timestamp=self.journal.clock.now())
        await self.journal.save(request, permit=permit)
        return Standing(name, request.state, authority=request.authority)

    async def withdraw(self, caller: Caller, name: str) -> Standing:
        """Its requester does not want it any more. Raises NotPermitted, Conflict."""
        request = await self.load(name)
        permit = await self.access.permit(caller, "request.withdraw", _resource(request))
        request.withdraw(person_of(permit), timestamp=self.journal.clock.now())
        await self.journal.save(request, permit=permit)
        return Standing(name, request.state, authority=request.authority)

    async def standing(self, name: str, *, duplicate: bool = False) -> Standing:
        """How a request stands. Raises InvalidRequest: there is none."""
        row = await self.find(name)
        missing = max(0, row.required - row.approved) if row.state == SUBMITTED else 0
        return Standing(name, row.state, missing, row.serial, row.authority, duplicate=duplicate, waiting=row.reason)

    async def find(self, name: str) -> RequestRow:
        """One request. Raises InvalidRequest: there is none."""
        await self.index.catch_up()
        row = self.index.requests.find(self.index.database, name)
        if row is None:
            raise InvalidRequest(f"there is no request {name[:80]!r}", hint="see: jinshi ra list")
        return row

    # -- what goes on by itself --

    async def recover(self) -> int:
        """Carry on what is approved, or was left by a crash, and end what has expired. At start, and by the clock.

        Returns how many requests have moved. Raises Unavailable: an issuer is away; the others were served.
        """
        away: Unavailable | None = None
        settled = 0
        try:
            settled += await self.issuers.recover()
        except Unavailable as error:
            away = error
        await self.index.catch_up()
        settled += await self._abandoned() + await self._expired()
        await self.index.catch_up()
        permit = service_permit(ACTOR, "request.recover")
        gone: set[str] = set()
        async for name, authority in self._all(APPROVED):
            if authority in gone:
                continue
            try:
                standing = await self._carry_on(await self.load(name), permit)
            except IssuanceRefused:
                settled += 1
                continue
            except Conflict:
                continue  # another process issues it
            if standing.waiting:
                gone.add(authority)
                away = away or Unavailable(standing.waiting, hint="requests wait for it")
            settled += standing.state == ISSUED
        if away is not None:
            raise away
        return settled

    async def _abandoned(self) -> int:
        """Requests whose certificate was intended and never signed are as good as approved again; where somebody has
        revoked it meanwhile, they have failed."""
        done = 0
        async for name, authority in self._all(ISSUING):
            row = self.index.requests.find(self.index.database, name)
            if row is None or row.state != ISSUING:
                continue
            certificate = self.index.certificates.find(self.index.database, authority, row.reference)
            if certificate is not None and certificate.state in (ABANDONED, REVOKED):
                request, again = await self.load(name), certificate.state == ABANDONED
                why = "its certificate was not signed" if again else "its certificate was revoked before it was signed"
                request.fail(why, again=again, timestamp=self.journal.clock.now())
                await self.journal.save(request, permit=service_permit(ACTOR, "request.recover"))
                done += 1
        return done

    async def _expired(self) -> int:
        now, done = self.journal.clock.now(), 0
        async for name, _ in self._all(SUBMITTED):
            row = self.index.requests.find(self.index.database, name)
            if row is not None and row.expires <= int(now.timestamp()):
                request = await self.load(name)
                request.expire(timestamp=now)
                await self.journal.save(request, permit=service_permit(ACTOR, "request.expire"))
                done += 1
        return done

    async def _all(self, state: str) -> AsyncIterator[tuple[str, str]]:
        """Name and authority of each request in an open state, page by page."""
        after = -1
        while rows := self.index.requests.open(self.index.database, state, after=after, limit=PAGE_ENTRIES):
            for row in rows:
                yield row.name, row.authority
            after = rows[-1].place

    async def _carry_on(self, request: CertificateRequest, permit: Permit) -> Standing:
        """Have an approved request issued. Raises IssuanceRefused: it may not be, and has failed; Conflict."""
        order = order_again(request, self.profile_of(request.profile, request.profile_version))

        def begun(reference: str) -> CertificateRequest:
            request.begin(reference, timestamp=self.journal.clock.now())
            return request

        try:
            await self._look(exactly=True)
            holder = self._holder(request.holder)
            check_names(holder, order.profile, order)
            issued = await self.issuers.of(request.authority).issue(order, begun, permit=permit)
        except IssuanceRefused as error:
            again = await self.load(request.name)
            if again.state == APPROVED:
                again.fail(error.what, timestamp=self.journal.clock.now())
                await self.journal.save(again, permit=permit)
            raise
        except Conflict:
            standing = await self.standing(request.name)
            if standing.state == APPROVED:
                raise
            return standing  # another process, or a round of recover(), was quicker
        except Unavailable as error:
            standing = await self.standing(request.name)
            return replace(standing, waiting=error.what)
        return standing_of(request.name, issued)

    # -- what is checked --

    async def _look(self, *, exactly: bool) -> None:
        """Catch up with the journal, where what is known may be too old."""
        now_s = asyncio.get_running_loop().time()
        if exactly or now_s - self._looked_s >= self.lag_s:
            if self._looked_s != NEVER_S:
                self._looked_s = now_s  # one looks; the others go on with what was known a moment ago
            try:
                await self.index.catch_up()
            except BaseException:
                self._looked_s = NEVER_S
                raise
            self._looked_s = now_s
            self._holders.clear()

    def _holder(self, id_: str) -> IdentityRow:
        """Who it is issued to. Raises IssuanceRefused: not registered, not active, or not vetted any more."""
        found = self._holders.get(id_) or self.index.identities.find(self.index.database, id_)
        shown = id_[:80].replace(":", " ")
        if found is None:
            raise IssuanceRefused(f"there is no {shown}", hint="register it: jinshi ra identity add")
        if found.state != ACTIVE:
            raise IssuanceRefused(f"{shown} is {found.state}", hint=f"see: jinshi ra identity show {found.id}")
        if found.vetted_until <= int(self.journal.clock.now().timestamp()):
            raise IssuanceRefused(f"{shown} is not vetted, or not any more", hint="vet it: jinshi ra identity vet")
        if len(self._holders) < HOLDERS_KEPT:
            self._holders[id_] = found
        return found

    def _check_quota(self, profile: Profile, key: tuple[str, str], renews: str) -> None:
        """A certificate that is about to be renewed does not count against its own renewal."""
        if not profile.quota:
            return
        holder, name = key
        now = int(self.journal.clock.now().timestamp())
        count = self.index.certificates.valid_count(self.index.database, holder, name, now)
        count += self.index.requests.open_count(self.index.database, holder, name) + self._under_way[key]
        if count - bool(renews) >= profile.quota:
            raise IssuanceRefused(
                f"{holder.replace(':', ' ')} has {count} certificates of profile {name}, in force or asked for",
                hint=f"its quota is {profile.quota}; revoke one that is not needed",
            )

    def _check_window(self, row: CertificateRow, profile: Profile) -> None:
        now = int(self.journal.clock.now().timestamp())
        if row.state != ISSUED or row.not_after <= now:
            ended = row.state if row.state != ISSUED else "expired"
            raise IssuanceRefused(f"certificate {row.serial} is {ended}", hint="ask for a new one")
        opens = row.not_after - profile.renew_before_days * DAY_S
        if now < opens:
            raise IssuanceRefused(
                f"certificate {row.serial} is not to be renewed before {day_of(opens)}",
                hint=f"profile {profile.name} renews in the last {profile.renew_before_days} days",
            )

    async def _csr_of(self, certificate: Certificate) -> bytes:
        request = asked_with(certificate)
        if request is None:
            request = await self.journal.find(CertificateRequest, CertificateRequest.create_id(certificate.request))
        if request is None:
            raise InvalidRequest(f"the CSR of {certificate.serial} is not here", hint="send one")
        return decode_base64(request.csr)

    async def load(self, name: str) -> CertificateRequest:
        """A request by its own entries, or out of the intent that it was recorded with. Raises InvalidRequest."""
        found = await self.journal.find(CertificateRequest, CertificateRequest.create_id(name))
        if found is not None:
            return found
        row = await self.find(name)
        id_ = Certificate.create_id(row.authority, row.reference)
        request = asked_with(await self.journal.load(Certificate, id_))
        if request is None:
            raise InvalidRequest(f"there is no request {name[:80]!r}", hint="see: jinshi ra list")
        return request


def _resource(request: CertificateRequest) -> Resource:
    about = {
        "authority": request.authority,
        "profile": request.profile,
        "holder": request.holder,
        "requester": request.requester,
        "approvers": [str(one["officer"]) for one in request.approvals],
    }
    return Resource("request", request.name, about)
