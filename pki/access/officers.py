"""Who is asking, and whether they may: officers by their credentials, policies, and acts that others confirm.

Some rules stand in the code as well as in the policies, so that no amendment lifts them: whoever requested something
never approves it, nobody approves twice, and who shows a certificate that does not hold any more is nobody.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Final

from ledger.errors import MalformedPolicy, NotPermitted
from pki.access.base import Caller, ConfirmationNeeded, Permit, Resource
from pki.access.dual import CONFIRMATIONS_MAX, DualControl
from pki.access.policy import Policies, Principal, Verdict
from pki.access.refusals import RefusalLog
from pki.aggregates.act import Act
from pki.aggregates.certificate import ISSUED
from pki.aggregates.officer import ACTIVE, Credential, Officer, credential_of
from pki.aggregates.policy import Policy
from pki.core.roles import FOUNDER, OWNER, SECURITY_ADMINISTRATOR, SUBSCRIBER
from pki.journal import Journal
from pki.views.catalogue import TrustIndex

POLICY: Final = "policy:trust"
SUBSCRIBERS: Final = ("acme:",)
"""How actors begin whom a protocol knows by an account of its own."""
PRINCIPALS_MAX: Final = 4_096
NEVER: Final = float("-inf")


@dataclass(frozen=True, slots=True)
class Known:
    """A caller and who it is: an officer, the founder, or a subscriber (`officer` None)."""

    caller: Caller
    principal: Principal
    officer: Officer | None

    @property
    def name(self) -> str:
        """How acts name the person: the officer's name, or the actor."""
        return self.principal.name

    def is_(self, whom: object) -> bool:
        """Whether an actor or an officer's name is the same person."""
        if not isinstance(whom, str) or not whom:
            return False
        credential = credential_of(whom)
        if credential == credential_of(self.caller.actor):
            return True
        if self.officer is None:
            return False
        return whom.removeprefix("officer:") == self.officer.name or any(
            one.credential == credential for one in self.officer.everything_known_by
        )


class OfficersAccess:
    """`Access` over the officers and policies in the log. One for each process; safe under concurrency.

    `actor`: whoever runs the process, who answers for its summaries of refusals. `look_every_s`: how soon what another
    process recorded counts here (an officer suspended, a certificate revoked); 0: at once.
    """

    def __init__(self, journal: Journal, index: TrustIndex, actor: str, *, look_every_s: float = 0.0) -> None:
        self._journal = journal
        self._index = index
        self._dual = DualControl(journal, index)
        self._policies: tuple[int, Policies] = (0, Policies())
        self._principals: dict[str, tuple[int, Principal]] = {}
        self._look_every_s = look_every_s
        self._looked_at = NEVER
        self.refusals = RefusalLog(journal, actor)

    async def permit(self, caller: Caller, action: str, resource: Resource) -> Permit:
        """As `Access.permit`; also raises what `Index.catch_up` and `Journal.save` do."""
        await self.look()
        try:
            known = self.known(caller)
            return await self._permit(known, action, resource)
        except ConfirmationNeeded:
            raise  # recorded as a proposal
        except NotPermitted as error:
            self.refusals.note(caller, action, resource, error.reason if isinstance(error, Refused) else error.what)
            raise

    async def look(self) -> None:
        """Let the index take in what is new, unless it did just now. Raises as `Index.catch_up`."""
        time = asyncio.get_running_loop().time()
        if time - self._looked_at >= self._look_every_s:
            if self._looked_at != NEVER:
                self._looked_at = time  # one looks; the others go on with what was known a moment ago
            try:
                await self._index.catch_up()
            except BaseException:
                self._looked_at = NEVER
                raise
            self._looked_at = time

    async def close(self) -> None:
        """Record what was refused and is not yet recorded. Raises as `Journal.save`."""
        await self.refusals.flush()

    # -- who --

    def known(self, caller: Caller) -> Known:
        """Who a caller is, as of the last `Index.catch_up`.

        Raises:
            NotPermitted: nobody known here, or somebody who may do nothing now.
        """
        credential = credential_of(caller.actor)
        if caller.certificate is not None and credential != f"x509:{caller.certificate}":
            raise NotPermitted("the caller is not who the certificate says", hint="connect anew")
        claimed = self._index.book.find(Credential, Credential.create_id(credential))
        if claimed is not None:
            officer = self._index.book.get(Officer, Officer.create_id(claimed.officer))
            self._check_officer(officer, credential)
            return Known(caller, self._principal(officer), officer)
        if credential.startswith(SUBSCRIBERS):
            return Known(caller, Principal(credential, (SUBSCRIBER,), {}, appointed=False), None)
        if credential.startswith("local:"):
            role = OWNER if self.is_founded else FOUNDER
            return Known(caller, Principal(credential, (role,), {}, appointed=False), None)
        raise NotPermitted(
            f"{caller.actor} is no officer", hint="a security administrator appoints officers: jinshi officer appoint"
        )

    @property
    def is_founded(self) -> bool:
        """Whether there was ever a security administrator; before, the ledger's owner acts as founder."""
        return any(SECURITY_ADMINISTRATOR in one.roles_ever for one in self._index.book.all(Officer))

    def _check_officer(self, officer: Officer, credential: str) -> None:
        if officer.state != ACTIVE:
            raise NotPermitted(f"officer {officer.name} is {officer.state}")
        identity = officer.identity(credential)
        if identity is None:
            raise NotPermitted(f"{credential} is not officer {officer.name}'s any more")
        kind, _, fingerprint = credential.partition(":")
        if kind != "x509":
            return
        now, begins, ends = self._journal.clock.now().timestamp(), identity.not_before, identity.not_after
        row = self._index.certificates.by_fingerprint(self._index.database, fingerprint)
        if row is not None:
            begins, ends = row.not_before, row.not_after
            if row.state != ISSUED:
                raise NotPermitted(
                    f"the certificate of officer {officer.name} is {row.state}", hint="use a certificate that holds"
                )
        if not begins <= now < ends:
            raise NotPermitted(
                f"the certificate of officer {officer.name} {'has expired' if now >= ends else 'does not hold yet'}",
                hint=f"give the officer a new one: jinshi officer certificate {officer.name} FILE",
            )

    def _principal(self, officer: Officer) -> Principal:
        version, found = self._principals.get(officer.name, (0, None))
        if found is None or version != officer.version:
            found = Principal(officer.name, officer.roles, officer.attributes, appointed=True)
            if len(self._principals) >= PRINCIPALS_MAX:
                self._principals.clear()
            self._principals[officer.name] = (officer.version, found)
        return found

    # -- whether --

    @property
    def policies(self) -> Policies:
        """Those in force, as of the last `Index.catch_up`."""
        amended = self._index.book.find(Policy, POLICY)
        number = 0 if amended is None else amended.number
        if self._policies[0] != number:
            assert amended is not None, "a number above 0 is an amended one's"
            try:
                self._policies = (number, Policies(amended.text))
            except MalformedPolicy as error:  # checked when it was amended; a later schema may be narrower
                raise NotPermitted(f"the policies in force cannot be used: {error.what}", hint=error.hint) from error
        return self._policies[1]

    def decide(self, known: Known, action: str, resource: Resource, *, confirmations: int = 0) -> Verdict:
        """What the policies say to it, with what does not depend on them."""
        attributes = resource.attributes
        approvers = attributes.get("approvers", ())
        act = self._index.book.find(Act, Act.create_id(resource.id)) if resource.kind == "act" else None
        asking: dict[str, str | int | bool] = {
            "actor": known.caller.actor,
            "time": int(self._journal.clock.now().timestamp()),
            "local": known.caller.actor.startswith("local:"),
            "confirmations": confirmations,
            "is_requester": known.is_(attributes.get("requester")),
            "is_holder": known.is_(attributes.get("holder")),
            "is_self": resource.kind == "officer" and known.is_(f"officer:{resource.id}"),
            "has_approved": not isinstance(approvers, str | int) and any(known.is_(one) for one in approvers),
            "could_act": act is not None and self._could(known, act),
        }
        if action.endswith(".approve"):
            if asking["is_requester"]:
                return Verdict(False, ("requester-never-approves",))
            if asking["has_approved"]:
                return Verdict(False, ("nobody-approves-twice",))
        return self.policies.decide(known.principal, action, resource, asking)

    def _could(self, known: Known, act: Act) -> bool:
        asked = Resource(act.kind, act.resource, act.attributes)
        return self.decide(known, act.action, asked, confirmations=act.needed).allowed

    async def _permit(self, known: Known, action: str, resource: Resource) -> Permit:
        verdict = self.decide(known, action, resource)
        if verdict.allowed:
            return self._permitted(known, action, verdict)
        for confirmations in range(1, CONFIRMATIONS_MAX + 1):
            confirmed = self.decide(known, action, resource, confirmations=confirmations)
            if confirmed.allowed:
                permit = self._permitted(known, action, confirmed)
                act = await self._dual.spend_or_propose(known.name, permit, resource, confirmations)
                return replace(permit, policies=(*permit.policies, act))
        raise Refused(known, action, resource, verdict)

    @staticmethod
    def _permitted(known: Known, action: str, verdict: Verdict) -> Permit:
        officer = "" if known.officer is None else known.officer.name
        return Permit(known.caller, action, ",".join(known.principal.roles), verdict.policies, officer)


class Refused(NotPermitted):
    """What the policies refused; `reason` is why, without who and what."""

    def __init__(self, known: Known, action: str, resource: Resource, verdict: Verdict) -> None:
        forbidden = bool(verdict.policies) and not verdict.wrong
        self.reason = verdict.wrong or "no policy allows it"
        if forbidden:
            self.reason = f"forbidden by {', '.join(verdict.policies)}"
        roles = ", ".join(known.principal.roles) or "without a role"
        hint = f"{known.name} is {roles}; see: jinshi officer policy show"
        super().__init__(
            f"{known.name} may not {action} {resource.kind} {resource.id}: {self.reason}",
            hint="somebody else has to do it" if forbidden else hint,
        )
