"""The registration authority with officers who have roles: who submits, who approves, who does neither."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest

from ledger.errors import NotPermitted
from pki.aggregates.request import ISSUED, SUBMITTED
from pki.holders import Holders
from pki.ra import Registration
from tests.support.trust_authorities import city_authority
from tests.support.trust_officers import Offices, caller, identity_of, offices
from tests.support.trust_registration import HOLDER, NAMES, Desk, desk

STAFF = {"chen": "ra-officer", "lin": "ra-officer", "li": "approver", "zhou": "approver", "wu": "ca-operator"}


@dataclass(frozen=True)
class Bureau:
    """Officers over a registration authority whose profile wants two approvals."""

    offices: Offices
    desk: Desk
    registration: Registration

    async def submitted(self, by: str) -> str:
        wish = self.desk.wish(client_id=f"by-{by}")
        standing = await self.registration.submit(caller(by), wish)
        assert standing.state == SUBMITTED
        return standing.name


@asynccontextmanager
async def bureau() -> AsyncIterator[Bureau]:
    async with offices() as one:
        await city_authority(one.bench)
        table = desk(one.bench)
        table.profiles["tls-server"] = replace(table.profiles["tls-server"], approvals=2)
        parts = (one.bench.journal, one.bench.index, one.access)
        issuers = table.registration.issuers
        registration = Registration(*parts, issuers, table.registration.profile_of)
        holders = Holders(*parts, issuers)
        for name, role in STAFF.items():
            await one.appoint(name, role)
        kind, _, name = HOLDER.partition(":")
        await holders.register(caller("lin"), kind, name, "公园管理处")
        until = int(one.bench.clock.now().timestamp()) + 90 * 86_400
        await holders.vet(caller("lin"), HOLDER, method="in person", names=NAMES, evidence=[], until=until)
        yield Bureau(one, table, registration)


async def test_a_request_is_approved_by_the_right_role_and_never_by_whoever_asked() -> None:
    async with bureau() as here:
        name = await here.submitted("chen")
        for wrong in ("chen", "lin", "wu", "wang", "qian", "zhao"):
            with pytest.raises(NotPermitted):
                await here.registration.approve(caller(wrong), name)
        assert (await here.registration.approve(caller("li"), name)).state == SUBMITTED  # the profile wants two
        with pytest.raises(NotPermitted):
            await here.registration.approve(caller("li"), name)
        assert (await here.registration.approve(caller("zhou"), name)).state == ISSUED


async def test_an_officer_of_both_roles_does_not_approve_under_another_certificate() -> None:
    async with bureau() as here:
        administration = here.offices.administration
        await administration.grant(caller("qian"), "chen", "approver")
        await administration.add_identity(caller("qian"), "chen", identity_of("chen-2"))
        name = await here.submitted("chen")
        with pytest.raises(NotPermitted):
            await here.registration.approve(caller("chen-2"), name)
        await here.registration.approve(caller("li"), name)


async def test_officers_who_are_suspended_or_for_another_authority_issue_nothing() -> None:
    async with bureau() as here:
        name = await here.submitted("chen")
        await here.offices.administration.suspend(caller("qian"), "li", "asked to")
        with pytest.raises(NotPermitted, match="suspended"):
            await here.registration.approve(caller("li"), name)
        await here.offices.appoint("far", "approver", authorities=["province"])
        with pytest.raises(NotPermitted, match="scope-authorities"):
            await here.registration.approve(caller("far"), name)
        await here.offices.bench.index.catch_up()
        rows = here.offices.bench.index.certificates.by_request(here.offices.bench.index.database, name)
        assert not rows
