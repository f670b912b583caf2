"""Officers appointed, changed and dismissed, policies amended, acts confirmed: what security administrators do."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ledger.errors import Conflict, InvalidRequest
from pki.access.base import Access, Caller, Permit, Resource, Value
from pki.access.officers import POLICY
from pki.access.policy import Policies
from pki.aggregates.act import Act
from pki.aggregates.officer import ACTIVE, Credential, Identity, Officer, appoint, claim
from pki.aggregates.policy import Policy
from pki.core.roles import ADMINISTRATORS, SECURITY_ADMINISTRATOR, check_roles
from pki.journal import Journal
from pki.views.catalogue import TrustIndex

ATTRIBUTES: Final[Mapping[str, type]] = {"organisation": str, "authorities": list, "profiles": list}
"""What policies may look at in an officer (`schema.cedarschema`)."""


@dataclass(frozen=True, slots=True)
class Administration:
    """Each act asks `access` first; those on administrators and policies wait for a second one's confirmation."""

    journal: Journal
    index: TrustIndex
    access: Access

    async def appoint(
        self,
        caller: Caller,
        name: str,
        roles: Sequence[str],
        identities: Sequence[Identity],
        attributes: Mapping[str, Value] | None = None,
    ) -> None:
        """A new officer.

        Raises:
            InvalidRequest: a name, role, identity or attribute is none.
            Conflict: the name or an identity is taken, or the roles do not go together.
            NotPermitted, ConfirmationNeeded: as `Access.permit`.
        """
        await self.index.catch_up()
        if self.index.book.find(Officer, Officer.create_id(name)) is not None:
            raise Conflict(f"there is an officer {name} already", hint="give another name: names are for ever")
        for one in identities:
            self._must_be_free(one)
        made = appoint(name, roles, identities, _attributes(attributes or {}), timestamp=self.journal.clock.now())
        self._must_leave_a_second(name, roles)
        credentials = sorted(one.credential for one in identities)
        asked: dict[str, Value] = {"roles": sorted(roles), "identities": credentials, **(attributes or {})}
        permit = await self._permit(caller, "officer.appoint", name, roles, asked)
        await self.journal.save(*made, permit=permit)

    async def grant(self, caller: Caller, name: str, role: str) -> None:
        """One more role. Raises as `appoint`."""
        officer = await self._officer(name)
        check_roles(name, [*officer.roles, role])
        self._must_leave_a_second(name, [role])
        permit = await self._permit(caller, "officer.grant", name, [role], {"roles": [role]})
        await self._save(officer, permit, lambda: officer.grant(role, timestamp=self.journal.clock.now()))

    async def withdraw(self, caller: Caller, name: str, role: str) -> None:
        """One role less. Raises as `appoint`."""
        officer = await self._officer(name)
        if role == SECURITY_ADMINISTRATOR:
            self._must_leave_one(officer)
        permit = await self._permit(caller, "officer.withdraw", name, [role], {"roles": [role]})
        await self._save(officer, permit, lambda: officer.withdraw(role, timestamp=self.journal.clock.now()))

    async def add_identity(self, caller: Caller, name: str, identity: Identity) -> None:
        """One more certificate or local user. Raises as `appoint`."""
        officer = await self._officer(name)
        credential = identity.credential
        mine = self.index.book.find(Credential, Credential.create_id(credential))
        if mine is None or mine.officer != name:
            self._must_be_free(identity)
        permit = await self._permit(caller, "officer.certificate", name, officer.roles, {"identities": [credential]})
        claims = [claim(identity, name, timestamp=self.journal.clock.now())] if mine is None else []
        officer.add_identity(identity, timestamp=self.journal.clock.now())
        await self.journal.save(officer, *claims, permit=permit)

    async def remove_identity(self, caller: Caller, name: str, credential: str) -> None:
        """One certificate or local user less. Raises as `appoint`."""
        officer = await self._officer(name)
        asked: dict[str, Value] = {"identities": [credential], "removed": True}
        permit = await self._permit(caller, "officer.certificate", name, officer.roles, asked)
        now = self.journal.clock.now()
        await self._save(officer, permit, lambda: officer.remove_identity(credential, timestamp=now))

    async def suspend(self, caller: Caller, name: str, reason: str) -> None:
        """May do nothing until reinstated; at once, without a second one. Raises as `appoint`."""
        officer = await self._officer(name)
        self._must_leave_one(officer)
        permit = await self._permit(caller, "officer.suspend", name, officer.roles, {"reason": reason})
        await self._save(officer, permit, lambda: officer.suspend(reason, timestamp=self.journal.clock.now()))

    async def reinstate(self, caller: Caller, name: str) -> None:
        """The end of a suspension. Raises as `appoint`."""
        officer = await self._officer(name)
        permit = await self._permit(caller, "officer.reinstate", name, officer.roles, {})
        await self._save(officer, permit, lambda: officer.reinstate(timestamp=self.journal.clock.now()))

    async def dismiss(self, caller: Caller, name: str, reason: str) -> None:
        """For good. Raises as `appoint`."""
        officer = await self._officer(name)
        self._must_leave_one(officer)
        permit = await self._permit(caller, "officer.dismiss", name, officer.roles, {"reason": reason})
        await self._save(officer, permit, lambda: officer.dismiss(reason, timestamp=self.journal.clock.now()))

    # -- policies --

    async def amend_policies(self, caller: Caller, text: str, because: str) -> int:
        """Other policies in the place of those shipped or amended before; returns their version.

        Raises:
            MalformedPolicy: they are not Cedar, or not of the schema.
            InvalidRequest: they would lock every security administrator out.
            NotPermitted, ConfirmationNeeded: as `Access.permit`.
        """
        Policies(text).check_usable()
        digest = hashlib.sha256(text.encode()).hexdigest()
        asked = Resource("policy", "trust", {"digest": digest, "reason": because})
        permit = await self.access.permit(caller, "policy.amend", asked)
        policy = await self.journal.find(Policy, POLICY)
        now = self.journal.clock.now()
        if policy is None:
            policy = Policy("trust", text, because, timestamp=now)
        else:
            policy.amend(text, because, timestamp=now)
        await self.journal.save(policy, permit=permit)
        return policy.number

    # -- acts under dual control --

    async def confirm(self, caller: Caller, number: str) -> Act:
        """Agree to another officer's act, who may then do it. Raises Conflict, InvalidRequest, NotPermitted."""
        act = await self.journal.load(Act, Act.create_id(number))
        permit = await self.access.permit(caller, "act.approve", _asked_of(act))
        act.confirm(permit.officer or caller.actor, timestamp=self.journal.clock.now())
        await self.journal.save(act, permit=permit)
        return act

    async def reject(self, caller: Caller, number: str) -> Act:
        """Object to another officer's act, or take one's own back. Raises as `confirm`."""
        act = await self.journal.load(Act, Act.create_id(number))
        permit = await self.access.permit(caller, "act.reject", _asked_of(act))
        act.reject(permit.officer or caller.actor, timestamp=self.journal.clock.now())
        await self.journal.save(act, permit=permit)
        return act

    # -- common --

    async def _officer(self, name: str) -> Officer:
        await self.index.catch_up()
        return await self.journal.load(Officer, Officer.create_id(name))

    async def _permit(
        self, caller: Caller, action: str, name: str, roles: Sequence[str], asked: Mapping[str, Value]
    ) -> Permit:
        attributes: dict[str, Value] = {**asked, "administrative": not ADMINISTRATORS.isdisjoint(roles)}
        return await self.access.permit(caller, action, Resource("officer", name, attributes))

    async def _save(self, officer: Officer, permit: Permit, change: Callable[[], None]) -> None:
        change()
        await self.journal.save(officer, permit=permit)

    def _must_be_free(self, identity: Identity) -> None:
        taken = self.index.book.find(Credential, Credential.create_id(identity.credential))
        if taken is not None:
            raise Conflict(
                f"{identity.credential} is officer {taken.officer}'s, for good",
                hint="one person is one officer; use another certificate for another person",
            )

    def _administrators(self, role: str | None = None) -> set[str]:
        return {
            one.name
            for one in self.index.book.all(Officer)
            if one.state == ACTIVE and ((role in one.roles) if role else not ADMINISTRATORS.isdisjoint(one.roles))
        }

    def _must_leave_a_second(self, name: str, roles: Sequence[str]) -> None:
        """The founder's time ends with the first security administrator, who then needs another to confirm."""
        if SECURITY_ADMINISTRATOR in roles and not self._administrators() - {name}:
            raise Conflict(
                "the first security administrator could do nothing alone: a second administrator has to confirm it",
                hint="appoint the system-administrator and the audit-administrator first",
            )

    def _must_leave_one(self, officer: Officer) -> None:
        if self._administrators(SECURITY_ADMINISTRATOR) == {officer.name}:
            raise Conflict(
                f"{officer.name} is the last security administrator",
                hint="appoint another security administrator first",
            )


def _asked_of(act: Act) -> Resource:
    asked: dict[str, Value] = {"requester": act.proposer, "approvers": act.confirmed_by, "action": act.action}
    return Resource("act", act.number, asked)


def _attributes(said: Mapping[str, Value]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in said.items():
        kind = ATTRIBUTES.get(name)
        if kind is None or isinstance(value, int) or (kind is str) != isinstance(value, str):
            raise InvalidRequest(f"{name} = {value!r} is nothing of an officer", hint=f"one of {', '.join(ATTRIBUTES)}")
        found[name] = value if isinstance(value, str) else list(value)
    return found
