"""Who may do what: officers, the three administrators kept apart, policies, dual control, and what is refused."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from functools import partial

import pytest

from ledger.core.encoding import encode_base64
from ledger.errors import Conflict, InvalidRequest, MalformedPolicy, NotPermitted
from ledger.store.base import Selection
from pki.access.base import Caller, ConfirmationNeeded, Resource
from pki.access.officers import OfficersAccess
from pki.access.policy import shipped
from pki.access.refusals import KINDS_MAX
from pki.aggregates.certificate import Certificate
from pki.aggregates.officer import Identity, Officer
from pki.aggregates.refusals import Refusals
from pki.views.catalogue import TrustIndex
from tests.support.trust_officers import OWNER, Offices, caller, fingerprint_of, identity_of, offices

REQUEST = Resource("request", "1", {"requester": "x509:somebody CN=else", "profile": "tls-server", "authority": "city"})


async def test_the_owner_acts_as_founder_until_there_is_a_security_administrator() -> None:
    async with offices(founded=False) as one:
        permit = await one.access.permit(OWNER, "authority.create", Resource("authority", "city"))
        assert (permit.role, permit.policies) == ("founder", ("founder",))
        with pytest.raises(Conflict, match="could do nothing alone"):
            await one.administration.appoint(OWNER, "qian", ["security-administrator"], [identity_of("qian")])
        await one.administration.appoint(OWNER, "wang", ["system-administrator"], [identity_of("wang")])
        await one.administration.appoint(OWNER, "qian", ["security-administrator"], [identity_of("qian")])
        with pytest.raises(NotPermitted, match=r"local:owner may not authority\.create"):
            await one.access.permit(OWNER, "authority.create", Resource("authority", "city"))
        # Neither does that come back when the only one is gone for a while.
        qian = await one.bench.journal.load(Officer, "officer:qian")
        qian.suspend("leave", timestamp=one.bench.clock.now())
        await one.bench.journal.save(qian, permit=one.bench.permit())
        with pytest.raises(NotPermitted):
            await one.access.permit(OWNER, "officer.appoint", Resource("officer", "me"))


async def test_nobody_holds_two_of_the_three() -> None:
    three = ["system-administrator", "security-administrator", "audit-administrator"]
    async with offices() as one:
        for role in three:
            for other in three:
                if role != other:
                    with pytest.raises(Conflict, match="kept apart"):
                        await one.administration.appoint(caller("qian"), "li", [role, other], [identity_of("li")])
        with pytest.raises(Conflict, match="kept apart"):
            await one.administration.grant(caller("qian"), "wang", "audit-administrator")
        with pytest.raises(Conflict, match="who audits"):
            await one.administration.grant(caller("qian"), "zhao", "ra-officer")
        # A second name does not help: a certificate stands for one officer.
        with pytest.raises(Conflict, match="for good"):
            await one.administration.appoint(caller("qian"), "wang2", ["audit-administrator"], [identity_of("wang")])


async def test_what_is_done_to_administrators_needs_a_second_one_and_is_done_once() -> None:
    async with offices() as one:
        appoint = one.administration.appoint(caller("qian"), "li", ["system-administrator"], [identity_of("li")])
        with pytest.raises(ConfirmationNeeded, match="by 1 more") as needed:
            await appoint
        number = needed.value.act
        with pytest.raises(NotPermitted, match="requester-never-approves"):
            await one.administration.confirm(caller("qian"), number)
        await one.appoint("chen", "ra-officer")
        with pytest.raises(NotPermitted):
            await one.administration.confirm(caller("chen"), number)
        await one.administration.confirm(caller("wang"), number)
        # What was confirmed is that, and nothing else.
        with pytest.raises(ConfirmationNeeded):
            await one.administration.appoint(caller("qian"), "li", ["system-administrator"], [identity_of("liu")])
        await one.administration.appoint(caller("qian"), "li", ["system-administrator"], [identity_of("li")])
        await one.bench.index.catch_up()
        assert one.bench.index.book.get(Officer, "officer:li").roles == ["system-administrator"]
        # It is spent: the same act again waits again.
        with pytest.raises(ConfirmationNeeded) as again:
            await one.access.permit(
                caller("qian"),
                "officer.appoint",
                Resource(
                    "officer",
                    "li",
                    {
                        "roles": ["system-administrator"],
                        "identities": [identity_of("li").credential],
                        "administrative": True,
                    },
                ),
            )
        assert again.value.act != number


async def test_the_last_security_administrator_stays() -> None:
    async with offices() as one:
        await one.administration.suspend(caller("qian"), "sun", "left her desk")
        with pytest.raises(Conflict, match="last"):
            await one.administration.suspend(caller("qian"), "qian", "me too")
        with pytest.raises(Conflict, match="last"):
            await one.administration.withdraw(caller("qian"), "qian", "security-administrator")
        with pytest.raises(NotPermitted, match="suspended"):
            await one.access.permit(caller("sun"), "officer.list", Resource("officer", ""))


async def test_when_no_security_administrator_can_act_the_owner_and_two_custodians_can() -> None:
    async with offices() as one:
        for name in ("he", "lu", "mi"):
            await one.appoint(name, "custodian")
        again = identity_of("qian-2028")
        with pytest.raises(ConfirmationNeeded, match="by 2 more") as needed:
            await one.administration.add_identity(OWNER, "qian", again)
        number = needed.value.act
        for somebody in ("wang", "zhao", "sun"):
            with pytest.raises(NotPermitted):
                await one.administration.confirm(caller(somebody), number)
        with pytest.raises(NotPermitted, match="requester-never-approves"):
            await one.administration.confirm(OWNER, number)
        await one.administration.confirm(caller("he"), number)
        with pytest.raises(ConfirmationNeeded, match="by 1 more"):
            await one.administration.add_identity(OWNER, "qian", again)
        await one.administration.confirm(caller("lu"), number)
        await one.administration.add_identity(OWNER, "qian", again)
        await one.access.permit(caller("qian-2028"), "officer.list", Resource("officer", ""))
        # It is for certificates alone.
        for action in ("officer.appoint", "officer.grant", "policy.amend", "certificate.revoke", "act.list"):
            with pytest.raises(NotPermitted, match="may not"):
                await one.access.permit(OWNER, action, Resource("officer", "qian", {"administrative": True}))


async def test_the_largest_summary_fits_an_entry() -> None:
    async with offices() as one:
        await one.access.close()
        for number in range(500):
            odd = f"{number}" + '\U00020000"' * 600
            one.access.refusals.note(Caller("x509:" + odd), odd, Resource(odd, odd), odd)
        await one.access.close()
        size = (await one.bench.journal.reader.head()).size
        [stored] = [entry async for entry in one.bench.journal.reader.selected(Selection(start=size - 1))]
        assert len(stored.entry) * 4 / 3 < 60_000  # sealed, and nothing compressed


async def test_roles_do_what_is_theirs() -> None:
    async with offices() as one:
        await one.appoint("chen", "ra-officer")
        await one.appoint("li", "approver")
        await one.appoint("wu", "ca-operator")
        await one.appoint("box", "system")
        city = Resource("authority", "city", {"authority": "city"})
        allowed = {
            "chen": [("request.submit", REQUEST), ("certificate.revoke", city), ("request.show", REQUEST)],
            "li": [("request.approve", REQUEST), ("request.reject", REQUEST)],
            "wu": [("authority.rollover", city), ("crl.issue", city), ("tsa.retire", city)],
            "box": [("request.submit", REQUEST), ("ledger.append", city)],
            "zhao": [("ledger.open", city), ("trail.read", city)],
        }
        for name, acts in allowed.items():
            for action, resource in acts:
                permit = await one.access.permit(caller(name), action, resource)
                assert permit.officer == name
                assert permit.policies
        refused = {
            "chen": ["request.approve", "officer.appoint", "crl.issue", "ledger.open", "policy.amend"],
            "li": ["request.submit", "officer.grant", "certificate.revoke"],
            "wu": ["request.approve", "ledger.open"],
            "box": ["request.approve", "certificate.revoke", "ledger.open"],
            "zhao": ["request.submit", "officer.appoint", "certificate.revoke", "request.approve"],
            "wang": ["request.approve", "officer.appoint", "ledger.open", "tsa.create"],
            "qian": ["request.approve", "request.submit", "ledger.open", "certificate.revoke"],
        }
        for name, actions in refused.items():
            for action in actions:
                with pytest.raises(NotPermitted):
                    await one.access.permit(caller(name), action, REQUEST)


async def test_the_requester_is_the_same_person_by_every_certificate() -> None:
    async with offices() as one:
        await one.appoint("li", "approver", "ra-officer")
        await one.administration.add_identity(caller("qian"), "li", identity_of("li-2027"))
        await one.administration.remove_identity(caller("qian"), "li", identity_of("li").credential)
        for requester in ("li", "officer:li", caller("li").actor, caller("li-2027").actor):
            with pytest.raises(NotPermitted, match="requester-never-approves"):
                await one.access.permit(
                    caller("li-2027"), "request.approve", Resource("request", "1", {"requester": requester})
                )
        with pytest.raises(NotPermitted, match="nobody-approves-twice"):
            await one.access.permit(
                caller("li-2027"), "request.approve", Resource("request", "1", {"approvers": [caller("li").actor]})
            )
        with pytest.raises(NotPermitted, match="any more"):
            await one.access.permit(caller("li"), "request.submit", REQUEST)


async def test_certificates_that_do_not_hold_are_nobody() -> None:
    async with offices() as one:
        clock = one.bench.clock
        now = int(clock.now().timestamp())
        await one.administration.appoint(
            caller("qian"), "chen", ["ra-officer"], [identity_of("chen", not_before=now, not_after=now + 60)]
        )
        await one.access.permit(caller("chen"), "request.submit", REQUEST)
        clock.pass_s(60)
        with pytest.raises(NotPermitted, match="has expired"):
            await one.access.permit(caller("chen"), "request.submit", REQUEST)
        # One of our own, whose state is known better than its dates say.
        issued, der = await certificate(one), b"der of li"
        fingerprint = hashlib.sha256(der).hexdigest()
        identity = Identity(f"x509:{fingerprint}", f"x509:{fingerprint} CN=li", 0, 2**40)
        await one.administration.appoint(caller("qian"), "li", ["ra-officer"], [identity])
        li = Caller(identity.actor, fingerprint)
        await one.access.permit(li, "request.submit", REQUEST)
        revoke = partial(issued.revoke, "keyCompromise")
        for change, state in ((issued.hold, "held"), (issued.release, ""), (revoke, "revoked")):
            change(timestamp=clock.now())
            await one.bench.journal.save(issued, permit=one.bench.permit())
            if state:
                with pytest.raises(NotPermitted, match=state):
                    await one.access.permit(li, "request.submit", REQUEST)
            else:
                await one.access.permit(li, "request.submit", REQUEST)
        with pytest.raises(NotPermitted, match="not who"):
            await one.access.permit(Caller(caller("qian").actor, fingerprint), "officer.list", REQUEST)


async def certificate(one: Offices) -> Certificate:
    now = one.bench.clock.now()
    meant = Certificate(
        *("city", 1, "1" * 40, "officer", "CN=li", [], "ab" * 32),
        *(int(now.timestamp()), int((now + timedelta(days=1)).timestamp()), "cd" * 32, 0, "request:1", "li"),
        timestamp=now,
    )
    meant.issue(encode_base64(b"der of li"), timestamp=now)
    await one.bench.journal.save(meant, permit=one.bench.permit())
    return meant


async def test_an_officer_serves_the_authorities_that_are_named() -> None:
    async with offices() as one:
        await one.appoint("chen", "ra-officer", authorities=["city"])
        await one.access.permit(caller("chen"), "request.submit", REQUEST)
        with pytest.raises(NotPermitted, match="scope-authorities"):
            await one.access.permit(
                caller("chen"), "request.submit", Resource("request", "2", {"authority": "province"})
            )


HEAD = "permit (principal, action, resource) when { 1 == "
BRACKETS = (("(", ")"), ("[", "]"), ("{a: ", "}"), ("// (\n(", ")"), ('["]" == ', "]"))
LATER = """
@id("nobody-at-night") forbid (principal, action == Action::"certificate.revoke", resource)
when { context.confirmations < 2 && resource has reason && resource.reason == "cACompromise" };
"""


async def test_policies_are_amended_by_two_and_count_at_once_everywhere() -> None:
    async with offices() as one:
        await one.appoint("chen", "ra-officer")
        await one.appoint("li", "ra-officer")
        await one.appoint("he", "ra-officer")
        text = shipped("roles.cedar") + LATER
        with pytest.raises(ConfirmationNeeded) as needed:
            await one.administration.amend_policies(caller("qian"), text, "two for the worst")
        with pytest.raises(NotPermitted):
            await one.administration.confirm(caller("wang"), needed.value.act)
        await one.administration.confirm(caller("sun"), needed.value.act)
        assert await one.administration.amend_policies(caller("qian"), text, "two for the worst") == 1
        worst = Resource("certificate", "1", {"reason": "cACompromise"})
        other = TrustIndex(one.bench.journal, None)
        elsewhere = OfficersAccess(one.bench.journal, other, OWNER.actor)
        with pytest.raises(ConfirmationNeeded, match="by 2 more") as waits:
            await elsewhere.permit(caller("chen"), "certificate.revoke", worst)
        await one.administration.confirm(caller("li"), waits.value.act)
        with pytest.raises(NotPermitted, match="nobody-approves-twice"):
            await one.administration.confirm(caller("li"), waits.value.act)
        with pytest.raises(ConfirmationNeeded, match="by 1 more"):
            await elsewhere.permit(caller("chen"), "certificate.revoke", worst)
        await one.administration.confirm(caller("he"), waits.value.act)
        permit = await elsewhere.permit(caller("chen"), "certificate.revoke", worst)
        assert permit.policies[-1] == f"act:{waits.value.act}"
        other.close()


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("permit (principal", MalformedPolicy),
        ('permit (principal, action == Action::"nothing.known", resource);', MalformedPolicy),
        ("permit (principal, action, resource) when { resource.nix == 1 };", MalformedPolicy),
        ('permit (principal, action, resource) when { resource.profile == "a" };', MalformedPolicy),
        ('@id("all-out") forbid (principal, action, resource);', InvalidRequest),
        ("// " + "x" * 50_000, MalformedPolicy),
        *((HEAD + opened * 4_000 + "1" + closed * 4_000 + " };", MalformedPolicy) for opened, closed in BRACKETS),
        (HEAD + "[" * 4_000 + '")]}"' + "]" * 4_000 + " };", MalformedPolicy),
    ],
)
async def test_policies_that_cannot_be_used_are_not_adopted(text: str, error: type[Exception]) -> None:
    async with offices() as one:
        with pytest.raises(error):
            await one.administration.amend_policies(caller("qian"), text, "no reason")


async def test_what_is_refused_is_recorded_in_summaries_of_bounded_size() -> None:
    async with offices() as one:
        await one.access.close()
        start = (await one.bench.journal.reader.head()).size
        for number in range(2_000):
            stranger = Caller(f"x509:{fingerprint_of(str(number))} CN=" + "long" * 200, fingerprint_of(str(number)))
            with pytest.raises(NotPermitted):
                await one.access.permit(stranger, "request.submit", Resource("request", "9" * 5_000))
        await one.access.close()
        for number in range(300):
            with pytest.raises(NotPermitted):
                await one.access.permit(caller("wang"), "request.submit", Resource("request", str(number)))
        await one.access.close()
        await one.access.close()  # nothing more to say
        recorded = [seen async for seen in one.bench.journal.occurred(start)]
        assert [seen.name for seen in recorded] == ["access.refused.v1"] * 2
        summary, other = [await one.bench.journal.load(Refusals, seen.event.originator_id) for seen in recorded]
        assert len(summary.counts) == KINDS_MAX
        assert sum(row["count"] for row in summary.counts) + summary.others == 2_000
        assert summary.first[0]["action"] == "request.submit"
        [row] = other.counts
        assert (row["count"], row["reason"]) == (300, "no policy allows it")


async def test_an_act_says_in_its_entry_why_it_was_allowed() -> None:
    async with offices() as one:
        await one.appoint("chen", "ra-officer")
        seen = [entry async for entry in one.bench.journal.occurred()][-1]
        assert seen.actor == caller("qian").actor
        [stored] = [entry async for entry in one.bench.journal.reader.selected(Selection(start=seen.place))]
        assert b'"permittedofficer":"qian","permittedrole":"security-administrator"' in stored.entry
        assert b'"permittedby":"security-administration"' in stored.entry
