"""A trust service with officers: three administrators and whoever else a test wants, each with a certificate."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from pki.access.administration import Administration
from pki.access.base import Caller, ConfirmationNeeded
from pki.access.officers import OfficersAccess
from pki.aggregates.officer import Identity
from tests.support.trust import TrustBench, trust_bench

OWNER = Caller("local:owner")
ADMINISTRATORS = {
    "wang": "system-administrator",
    "zhao": "audit-administrator",
    "qian": "security-administrator",
    "sun": "security-administrator",
}


def fingerprint_of(name: str) -> str:
    """Of the certificate a test's officer is said to have."""
    return hashlib.sha256(name.encode()).hexdigest()


def identity_of(name: str, *, not_before: int = 0, not_after: int = 2**40) -> Identity:
    """What `caller(name)` is known by."""
    return Identity(f"x509:{fingerprint_of(name)}", f"x509:{fingerprint_of(name)} CN={name}", not_before, not_after)


def caller(name: str) -> Caller:
    """An officer with a certificate of their own."""
    return Caller(f"x509:{fingerprint_of(name)} CN={name}", fingerprint_of(name))


@dataclass(frozen=True)
class Offices:
    """The bench, and what decides and administers over it."""

    bench: TrustBench
    access: OfficersAccess
    administration: Administration

    async def appoint(self, name: str, *roles: str, **attributes: list[str]) -> None:
        """By a security administrator, alone: for roles that nobody else has to confirm."""
        await self.administration.appoint(caller("qian"), name, roles, [identity_of(name)], attributes)


@asynccontextmanager
async def offices(*, founded: bool = True, bench: TrustBench | None = None) -> AsyncIterator[Offices]:
    """With the administrators appointed, or before anybody is."""
    if bench is None:
        async with trust_bench() as made, offices(founded=founded, bench=made) as one:
            yield one
        return
    access = OfficersAccess(bench.journal, bench.index, OWNER.actor)
    one = Offices(bench, access, Administration(bench.journal, bench.index, access))
    if founded:
        for name in ("wang", "zhao"):
            await one.administration.appoint(OWNER, name, [ADMINISTRATORS[name]], [identity_of(name)])
        both = [(name, ADMINISTRATORS[name]) for name in ("sun", "qian")]
        (first, role), (second, _) = both
        await one.administration.appoint(OWNER, first, [role], [identity_of(first)])
        await appointed_by_two(one, caller(first), caller("zhao"), second, role)
    yield one


async def appointed_by_two(one: Offices, who: Caller, other: Caller, name: str, role: str) -> None:
    """An administrator, proposed by one and confirmed by another."""
    try:
        await one.administration.appoint(who, name, [role], [identity_of(name)])
    except ConfirmationNeeded as needed:
        await one.administration.confirm(other, needed.act)
    await one.administration.appoint(who, name, [role], [identity_of(name)])
