"""The roles of the trust service, and which of them one person may not hold together (三员分立)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from ledger.errors import Conflict, InvalidRequest

SYSTEM_ADMINISTRATOR: Final = "system-administrator"
SECURITY_ADMINISTRATOR: Final = "security-administrator"
AUDIT_ADMINISTRATOR: Final = "audit-administrator"
RA_OFFICER: Final = "ra-officer"
APPROVER: Final = "approver"
CA_OPERATOR: Final = "ca-operator"
CUSTODIAN: Final = "custodian"
AUDITOR: Final = "auditor"
SYSTEM: Final = "system"

ROLES: Final = {
    SYSTEM_ADMINISTRATOR: "runs the service: authorities' settings, publication, recovery",
    SECURITY_ADMINISTRATOR: "appoints officers, amends policies and profiles",
    AUDIT_ADMINISTRATOR: "reads the audit trail of everybody, and runs audits",
    RA_OFFICER: "registers holders, submits and vets requests",
    APPROVER: "approves requests, and confirms what needs two",
    CA_OPERATOR: "operates authorities: keys, lists, time stamps",
    CUSTODIAN: "holds a share of an offline key",
    AUDITOR: "reads the audit trail of everybody",
    SYSTEM: "a machine: submits requests and asks for status by itself",
}
ADMINISTRATORS: Final = frozenset({SYSTEM_ADMINISTRATOR, SECURITY_ADMINISTRATOR, AUDIT_ADMINISTRATOR})

FOUNDER: Final = "founder"
"""The ledger's owner before there is a security administrator; nobody is appointed to it."""
OWNER: Final = "owner"
"""The ledger's owner from then on: may propose what custodians confirm, when no security administrator can act."""
SUBSCRIBER: Final = "subscriber"
"""Somebody who enrols by a protocol that knows callers of its own (an ACME account); nobody is appointed to it."""
SERVICE: Final = "service"
"""The service itself, in what it does by the clock or to recover; nobody is appointed to it."""

_AUDIT: Final = frozenset({AUDIT_ADMINISTRATOR, AUDITOR})


def check_roles(name: str, roles: Collection[str]) -> None:
    """Whether one officer may hold these together.

    Raises:
        InvalidRequest: one is no role.
        Conflict: two of the three administrators; auditing beside anything else; a machine's role beside a person's.
    """
    held = set(roles)
    for role in roles:
        if role not in ROLES:
            raise InvalidRequest(f"{role!r} is no role", hint=f"one of {', '.join(ROLES)}")
    administrators = sorted(held & ADMINISTRATORS)
    if len(administrators) > 1:
        raise Conflict(
            f"officer {name} cannot be {' and '.join(administrators)}: the three administrators are kept apart",
            hint="appoint another person",
        )
    for alone, why in ((_AUDIT, "who audits does nothing that is audited"), ({SYSTEM}, "a machine is no person")):
        if held & alone and held - alone:
            both = ", ".join(sorted(held))
            raise Conflict(f"officer {name} cannot be {both}: {why}", hint="appoint another person")
