"""Officers: who may act, in which roles, and what each is known by. A credential belongs to one officer, for good."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from eventsourcing.domain import event

from ledger.errors import Conflict, InvalidRequest
from pki.aggregates.base import TrustAggregate
from pki.core.roles import check_roles

ACTIVE, SUSPENDED, DISMISSED = "active", "suspended", "dismissed"
IDENTITIES_MAX: Final = 64
NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,62}[a-z0-9])?")
CREDENTIAL: Final = re.compile(r"x509:[0-9a-f]{64}|local:[^\s:]{1,64}")


@dataclass(frozen=True, slots=True)
class Identity:
    """What an officer is known by: `credential` is `x509:<fingerprint>` or `local:<user>`.

    `actor` is how entries name the officer who shows it. `not_before` and `not_after` (POSIX seconds) are those of the
    certificate, 0 for a local user.
    """

    credential: str
    actor: str
    not_before: int = 0
    not_after: int = 0

    def recorded(self) -> dict[str, Any]:
        """As events record it."""
        return {
            "credential": self.credential,
            "actor": self.actor,
            "not_before": self.not_before,
            "not_after": self.not_after,
        }


def credential_of(actor: str) -> str:
    """What an actor is known by: the subject of a certificate is left out."""
    return actor.partition(" ")[0] if actor.startswith("x509:") else actor


class Officer(TrustAggregate):
    """One person, or one machine. A name stands for one officer, for ever."""

    TOPIC = "pki.officer"

    @event("Created", topic="officer.appointed.v1")
    def __init__(
        self,
        name: str,
        roles: list[str],
        identities: list[dict[str, Any]],
        attributes: dict[str, Any],
        *,
        timestamp: datetime,
    ) -> None:
        """`identities`: as `Identity.recorded`. `attributes`: what policies look at, such as the authorities served."""
        self.name = name
        self.roles = list(roles)
        self.roles_ever = list(roles)
        self.identities = [Identity(**one) for one in identities]
        self.former: list[Identity] = []
        self.attributes = attributes
        self.state = ACTIVE
        self.reason = ""

    @staticmethod
    def create_id(name: str) -> str:
        return f"officer:{name}"

    @property
    def everything_known_by(self) -> list[Identity]:
        """Identities of now and of before."""
        return [*self.identities, *self.former]

    def identity(self, credential: str) -> Identity | None:
        """The one of now with that credential."""
        return next((one for one in self.identities if one.credential == credential), None)

    # -- roles --

    @event("RoleGranted", topic="officer.role-granted.v1")
    def _role_granted(self, role: str, timestamp: datetime) -> None:
        self.roles.append(role)
        if role not in self.roles_ever:
            self.roles_ever.append(role)

    def grant(self, role: str, *, timestamp: datetime) -> None:
        """One more role. Raises Conflict: the officer has it, or may not hold it beside the others."""
        self._must_be(ACTIVE, SUSPENDED)
        if role in self.roles:
            raise Conflict(f"officer {self.name} is {role} already")
        check_roles(self.name, [*self.roles, role])
        self._role_granted(role=role, timestamp=timestamp)

    @event("RoleWithdrawn", topic="officer.role-withdrawn.v1")
    def _role_withdrawn(self, role: str, timestamp: datetime) -> None:
        self.roles.remove(role)

    def withdraw(self, role: str, *, timestamp: datetime) -> None:
        """One role less. Raises Conflict: the officer does not have it."""
        if role not in self.roles:
            raise Conflict(f"officer {self.name} is not {role}", hint=f"see: jinshi officer show {self.name}")
        self._role_withdrawn(role=role, timestamp=timestamp)

    # -- what the officer is known by --

    @event("IdentityAdded", topic="officer.identity-added.v1")
    def _identity_added(
        self, credential: str, actor: str, not_before: int, not_after: int, timestamp: datetime
    ) -> None:
        self.former = [one for one in self.former if one.credential != credential]
        self.identities.append(Identity(credential, actor, not_before, not_after))

    def add_identity(self, identity: Identity, *, timestamp: datetime) -> None:
        """One more certificate or local user. Raises Conflict: it is known already, or there are too many."""
        self._must_be(ACTIVE, SUSPENDED)
        if self.identity(identity.credential):
            raise Conflict(f"officer {self.name} is known by {identity.credential} already")
        if len(self.identities) >= IDENTITIES_MAX:
            raise Conflict(f"officer {self.name} is known by {IDENTITIES_MAX} already", hint="remove old ones first")
        self._identity_added(**identity.recorded(), timestamp=timestamp)

    @event("IdentityRemoved", topic="officer.identity-removed.v1")
    def _identity_removed(self, credential: str, timestamp: datetime) -> None:
        gone = [one for one in self.identities if one.credential == credential]
        self.identities = [one for one in self.identities if one.credential != credential]
        self.former += gone

    def remove_identity(self, credential: str, *, timestamp: datetime) -> None:
        """It is the officer's no more, and nobody else's either. Raises Conflict: it is not the officer's."""
        if not self.identity(credential):
            raise Conflict(f"officer {self.name} is not known by {credential}")
        self._identity_removed(credential=credential, timestamp=timestamp)

    # -- whether the officer may act --

    @event("Suspended", topic="officer.suspended.v1")
    def _suspended(self, reason: str, timestamp: datetime) -> None:
        self.state = SUSPENDED
        self.reason = reason

    def suspend(self, reason: str, *, timestamp: datetime) -> None:
        """May do nothing until reinstated."""
        self._must_be(ACTIVE)
        self._suspended(reason=reason, timestamp=timestamp)

    @event("Reinstated", topic="officer.reinstated.v1")
    def _reinstated(self, timestamp: datetime) -> None:
        self.state = ACTIVE
        self.reason = ""

    def reinstate(self, *, timestamp: datetime) -> None:
        """The end of a suspension."""
        self._must_be(SUSPENDED)
        self._reinstated(timestamp=timestamp)

    @event("Dismissed", topic="officer.dismissed.v1")
    def _dismissed(self, reason: str, timestamp: datetime) -> None:
        self.state = DISMISSED
        self.reason = reason
        self.roles = []

    def dismiss(self, reason: str, *, timestamp: datetime) -> None:
        """For good: no roles any more; what was done under the name stays known."""
        self._must_be(ACTIVE, SUSPENDED)
        self._dismissed(reason=reason, timestamp=timestamp)

    def _must_be(self, *states: str) -> None:
        if self.state not in states:
            raise Conflict(f"officer {self.name} is {self.state}", hint=f"see: jinshi officer show {self.name}")


class Credential(TrustAggregate):
    """That a certificate or a local user is one officer's: made once, so that no two officers are the same person."""

    TOPIC = "pki.credential"

    @event("Created", topic="credential.claimed.v1")
    def __init__(self, credential: str, officer: str, *, timestamp: datetime) -> None:
        self.credential = credential
        self.officer = officer

    @staticmethod
    def create_id(credential: str) -> str:
        return f"credential:{credential}"


def appoint(
    name: str,
    roles: Sequence[str],
    identities: Sequence[Identity],
    attributes: dict[str, Any],
    *,
    timestamp: datetime,
) -> list[TrustAggregate]:
    """A new officer with the claims to what it is known by, to be saved together.

    Raises:
        InvalidRequest: the name, a role or an identity is none.
        Conflict: no one person may hold these roles.
    """
    if not NAME.fullmatch(name):
        raise InvalidRequest(f"{name!r} is no officer's name", hint="use lower case letters, digits, dots and dashes")
    if not roles or not identities:
        raise InvalidRequest(
            f"officer {name} needs a role and an identity", hint="give --role, and --certificate or --local"
        )
    if len(set(roles)) != len(roles) or len({one.credential for one in identities}) != len(identities):
        raise InvalidRequest(f"officer {name} would have a role or an identity twice")
    if len(identities) > IDENTITIES_MAX:
        raise InvalidRequest(f"{len(identities)} identities", hint=f"{IDENTITIES_MAX} at most")
    check_roles(name, roles)
    recorded = [one.recorded() for one in identities]
    officer = Officer(name, list(roles), recorded, attributes, timestamp=timestamp)
    return [officer, *(claim(one, name, timestamp=timestamp) for one in identities)]


def claim(identity: Identity, name: str, *, timestamp: datetime) -> Credential:
    """The claim of an officer to an identity. Raises InvalidRequest: it is none."""
    if not CREDENTIAL.fullmatch(identity.credential):
        raise InvalidRequest(f"{identity.credential!r} is no identity", hint="x509:<fingerprint>, or local:<user>")
    return Credential(identity.credential, name, timestamp=timestamp)
