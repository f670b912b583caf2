"""Who is asking, what for, and what is said to that: the protocol between the services and whoever decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ledger.errors import NotPermitted

Value = str | int | bool | Sequence[str]


class ConfirmationNeeded(NotPermitted):
    """A policy wants others to confirm this act first; `act` is its number, and it waits for them."""

    def __init__(self, what: str, act: str, *, hint: str = "") -> None:
        super().__init__(what, hint=hint)
        self.act = act


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever is asking. `actor` is what is recorded in entries: `x509:<fingerprint> <subject>` or `local:<user>`.

    `certificate` is the hexadecimal SHA-256 of the caller's certificate, where there is one.
    """

    actor: str
    certificate: str | None = None


@dataclass(frozen=True, slots=True)
class Permit:
    """That an act is allowed, and why. Only what decides makes one; it goes with the act into the journal.

    `officer` is the name of the officer whom the caller is, whatever certificate was shown; "" where it is nobody
    appointed.
    """

    caller: Caller
    action: str
    role: str
    policies: tuple[str, ...] = ()
    officer: str = ""

    def extensions(self) -> dict[str, str]:
        """What the entries of the act say of it, as CloudEvents extension attributes."""
        said = {"permittedaction": self.action, "permittedrole": self.role, "permittedby": ",".join(self.policies)}
        return {**said, "permittedofficer": self.officer} if self.officer else said


def service_permit(actor: str, action: str) -> Permit:
    """For what the service does by itself: by the clock, or to finish what a crash left. Never for a caller's wish."""
    return Permit(Caller(actor), action, "service", ("service",))


@dataclass(frozen=True, slots=True)
class Resource:
    """What is to be acted on: its kind, its id, and the attributes that policies look at."""

    kind: str
    id: str
    attributes: Mapping[str, Value] = field(default_factory=dict)


class Access(Protocol):
    """Decides. Actions are `<thing>.<verb>`: request.submit, request.approve, certificate.revoke, crl.issue, …

    Two attributes of a resource mean the same everywhere: `requester` (an actor, or an officer's name) may never do
    what ends in `.approve`; neither may one of `approvers`, who did it before.
    """

    async def permit(self, caller: Caller, action: str, resource: Resource) -> Permit:
        """Allow it.

        Raises:
            NotPermitted: no policy allows it, or one forbids it; the refusal is recorded in summary.
            ConfirmationNeeded: it is allowed once others have confirmed it, and now waits for them.
        """
        ...
