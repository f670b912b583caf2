"""The registration authority: who may ask, who has to agree, what is refused, and what goes on after a crash."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from inspect import signature

import pytest
from cryptography import x509

from ledger.errors import Conflict, InvalidRequest, IssuanceRefused, NotPermitted
from pki.aggregates.certificate import Certificate
from pki.aggregates.request import CertificateRequest
from pki.views.catalogue import TrustIndex
from tests.support.trust import TrustBench, trust_bench
from tests.support.trust_authorities import city_authority
from tests.support.trust_registration import FIRST, HOLDER, MAKER, SECOND, VETTER, Desk, csr, desk

DAY_S = 86_400


async def opened(bench: TrustBench) -> Desk:
    await city_authority(bench)
    made = desk(bench)
    await made.vetted()
    return made


async def events(bench: TrustBench) -> list[str]:
    return [one.name async for one in bench.journal.occurred()]


async def test_without_approvals_it_is_issued_at_once_and_nothing_is_recorded_twice() -> None:
    async with trust_bench() as bench:
        made = await opened(bench)
        before = len(await events(bench))
        standing = await made.registration.submit(MAKER, made.wish(client_id="order-1"))
        assert standing.state == "issued"
        assert standing.issued is not None
        certificate = x509.load_der_x509_certificate(standing.issued.certificate)
        assert f"{certificate.serial_number:040x}" == standing.serial
        # The intent with the request in one append, then the outcome: no entry more.
        assert (await events(bench))[before:] == [
            "certificate.intended.v1",
            "request.submitted.v1",
            "certificate.issued.v1",
        ]
        again = await made.registration.submit(MAKER, made.wish(client_id="order-1"))
        assert (again.state, again.serial, again.duplicate) == ("issued", standing.serial, True)
        assert len(await events(bench)) == before + 3
        with pytest.raises(Conflict, match="other content"):
            await made.registration.submit(MAKER, made.wish("dns:other.parks.example", client_id="order-1"))
        # Somebody else's order of that name is another request.
        other = await made.registration.submit(FIRST, made.wish(key="two", client_id="order-1"))
        assert other.serial != standing.serial


async def test_without_an_id_the_request_stands_in_the_intent_and_goes_on_under_its_name() -> None:
    async with trust_bench() as bench:
        made = await opened(bench)
        before = len(await events(bench))
        issued = await made.registration.submit(MAKER, made.wish())
        assert (await events(bench))[before:] == ["certificate.intended.v1", "certificate.issued.v1"]
        row = await made.registration.find(issued.name)
        assert (row.state, row.serial, row.requester, row.holder) == ("issued", issued.serial, MAKER.actor, HOLDER)
        with pytest.raises(Conflict, match="issuing, not submitted"):
            await made.registration.reject(FIRST, issued.name, "too late")
        # The same once more, of which the process was killed between the intent and the signature.
        done = await bench.journal.load(Certificate, Certificate.create_id(issued.authority, issued.serial))
        left = {name: value for name, value in vars(done).items() if name in signature(Certificate.__init__).parameters}
        left |= {"serial": "0" * 38 + "2a", "request": "left-behind", "timestamp": bench.clock.now()}
        certificate = Certificate(**left)
        await bench.journal.save(certificate, permit=bench.permit())
        assert (await made.registration.find("left-behind")).state == "issuing"
        certificate.abandon("left behind by a crash", timestamp=bench.clock.now())
        await bench.journal.save(certificate, permit=bench.permit())
        assert await made.registration.recover() == 2, "approved again, and issued"
        assert (await events(bench))[-5:] == [
            "request.submitted.v1",
            "request.failed.v1",
            "certificate.intended.v1",
            "request.begun.v1",
            "certificate.issued.v1",
        ]
        again = await made.registration.find("left-behind")
        assert (again.state, again.requester) == ("issued", MAKER.actor)
        assert again.serial not in (issued.serial, left["serial"])
        # A third time; and before the request was looked at, somebody revoked what was never signed.
        left |= {"serial": "0" * 38 + "2b", "request": "revoked", "timestamp": bench.clock.now()}
        revoked = Certificate(**left)
        revoked.abandon("left behind by a crash", timestamp=bench.clock.now())
        revoked.revoke("superseded", timestamp=bench.clock.now())
        await bench.journal.save(revoked, permit=bench.permit())
        assert await made.registration.recover() == 1, "nobody waits for it for ever"
        assert (await made.registration.find("revoked")).state == "failed"
        folded = TrustIndex(bench.journal, None)
        await folded.catch_up()
        for name in (issued.name, "left-behind", "revoked"):
            assert folded.requests.find(folded.database, name) == bench.index.requests.find(bench.index.database, name)
        folded.close()


async def test_two_who_submit_the_same_at_the_same_time_get_one_certificate() -> None:
    async with trust_bench() as bench:
        made = await opened(bench)
        both = await asyncio.gather(
            *(made.registration.submit(MAKER, made.wish(client_id="order-1")) for _ in range(2))
        )
        await bench.index.catch_up()
        rows = list(bench.index.certificates.by_holder(bench.index.database, HOLDER))
        assert [row.state for row in rows] == ["issued"]
        assert {one.name for one in both} == {rows[0].request}


async def test_others_than_the_one_who_asks_have_to_approve() -> None:
    async with trust_bench() as bench:
        made = await opened(bench)
        made.profiles["tls-server"] = replace(made.profiles["tls-server"], approvals=2)
        waiting = await made.registration.submit(MAKER, made.wish())
        assert (waiting.state, waiting.missing) == ("submitted", 2)
        made.access.roles = dict.fromkeys([one.actor for one in (MAKER, VETTER, FIRST, SECOND)], "approver")
        for who in (MAKER, VETTER):
            with pytest.raises(NotPermitted):
                await made.registration.approve(who, waiting.name)
        assert (await made.registration.approve(FIRST, waiting.name)).missing == 1
        with pytest.raises(NotPermitted, match="already"):
            await made.registration.approve(FIRST, waiting.name)
        made.access.roles = {SECOND.actor: "auditor"}
        with pytest.raises(NotPermitted, match="acts as auditor"):
            await made.registration.approve(SECOND, waiting.name)
        made.access.roles = {SECOND.actor: "approver"}
        done = await made.registration.approve(SECOND, waiting.name)
        assert done.state == "issued"
        with pytest.raises(Conflict):
            await made.registration.approve(SECOND, waiting.name)


async def test_a_request_is_rejected_withdrawn_or_expires_once() -> None:
    async with trust_bench() as bench:
        made = await opened(bench)
        made.profiles["tls-server"] = replace(made.profiles["tls-server"], approvals=1)
        names = [
            (await made.registration.submit(MAKER, made.wish(f"dns:{n}.parks.example", key=str(n)))).name
            for n in range(3)
        ]
        await made.registration.reject(FIRST, names[0], "not theirs")
        with pytest.raises(NotPermitted):
            await made.registration.withdraw(FIRST, names[1])
        await made.registration.withdraw(MAKER, names[1])
        bench.clock.pass_s(15 * DAY_S)
        with pytest.raises(Conflict, match="expired"):
            await made.registration.approve(FIRST, names[2])
        assert await made.registration.recover() == 1
        states = [(await made.registration.find(name)).state for name in names]
        assert states == ["rejected", "withdrawn", "expired"]
        assert await made.registration.recover() == 0


async def test_who_is_not_vetted_active_or_entitled_to_a_name_gets_nothing() -> None:
    async with trust_bench() as bench:
        await city_authority(bench)
        made = desk(bench)
        with pytest.raises(IssuanceRefused, match="there is no organisation parks"):
            await made.registration.submit(MAKER, made.wish())
        await made.vetted(days=10)
        with pytest.raises(IssuanceRefused, match="was not vetted"):
            await made.registration.submit(MAKER, made.wish("dns:www.elsewhere.example"))
        await made.holders.suspend(MAKER, HOLDER, "a court said so")
        with pytest.raises(IssuanceRefused, match="suspended"):
            await made.registration.submit(MAKER, made.wish())
        await made.holders.resume(MAKER, HOLDER)
        bench.clock.pass_s(11 * DAY_S)
        with pytest.raises(IssuanceRefused, match="not any more"):
            await made.registration.submit(MAKER, made.wish())
        await made.vetted("system:gate", days=10)
        with pytest.raises(IssuanceRefused, match="is not for"):
            await made.registration.submit(
                MAKER,
                replace(made.wish(profile="person"), holder="system:gate", csr=csr("email:a@parks.example")),
            )
        assert not [one for one in await events(bench) if one.startswith("request.")]


async def test_a_holder_has_as_many_as_its_quota_and_a_renewal_is_none_more() -> None:
    async with trust_bench() as bench:
        made = await opened(bench)
        made.profiles["tls-server"] = replace(made.profiles["tls-server"], quota=2)
        asked = [made.registration.submit(MAKER, made.wish(key=str(number))) for number in range(4)]
        results = await asyncio.gather(*asked, return_exceptions=True)
        issued = [one for one in results if not isinstance(one, BaseException)]
        assert len(issued) == 2
        assert all(isinstance(one, IssuanceRefused) for one in results if isinstance(one, BaseException))
        with pytest.raises(IssuanceRefused, match="not to be renewed before"):
            await made.registration.renew(MAKER, made.authority, issued[0].serial, None)
        bench.clock.pass_s(61 * DAY_S)
        renewed = await made.registration.renew(MAKER, made.authority, issued[0].serial, None, client_id="r")
        assert renewed.state == "issued"
        again = await made.registration.renew(MAKER, made.authority, issued[0].serial, None, client_id="r")
        assert (again.serial, again.duplicate) == (renewed.serial, True)
        old = await bench.journal.load(Certificate, Certificate.create_id(made.authority, issued[0].serial))
        new = await bench.journal.load(Certificate, Certificate.create_id(made.authority, renewed.serial))
        assert (old.names, old.subject, old.key, old.holder) == (new.names, new.subject, new.key, new.holder)


async def test_suspending_a_holder_puts_its_certificates_on_hold() -> None:
    async with trust_bench() as bench:
        made = await opened(bench)
        serials = [(await made.registration.submit(MAKER, made.wish(key=str(n)))).serial for n in range(2)]
        assert await made.holders.suspend(MAKER, HOLDER, "under investigation") == 2
        assert await made.holders.suspend(MAKER, HOLDER, "again, after a crash") == 0
        await bench.index.catch_up()
        found = [bench.index.certificates.find(bench.index.database, made.authority, serial) for serial in serials]
        assert [row.state for row in found if row] == ["held", "held"]
        assert await made.holders.resume(MAKER, HOLDER) == 2
        assert await made.holders.withdraw(MAKER, HOLDER, "dissolved") == 2


async def test_what_is_approved_and_was_not_issued_is_carried_on() -> None:
    async with trust_bench() as bench:
        made = await opened(bench)
        made.profiles["tls-server"] = replace(made.profiles["tls-server"], approvals=1)
        name = (await made.registration.submit(MAKER, made.wish())).name
        # The last approval was recorded, and the process was killed before it was issued.
        request = await bench.journal.load(CertificateRequest, CertificateRequest.create_id(name))
        request.approve(FIRST.actor, "approver", timestamp=bench.clock.now())
        await bench.journal.save(request, permit=bench.permit())
        again = desk(bench)
        again.profiles.update(made.profiles)
        assert await again.registration.recover() == 1
        assert (await again.registration.find(name)).state == "issued"
        assert await again.registration.recover() == 0


async def test_a_holder_that_was_suspended_meanwhile_gets_nothing_at_the_last_approval() -> None:
    async with trust_bench() as bench:
        made = await opened(bench)
        made.profiles["tls-server"] = replace(made.profiles["tls-server"], approvals=1)
        name = (await made.registration.submit(MAKER, made.wish())).name
        await made.holders.suspend(MAKER, HOLDER, "under investigation")
        with pytest.raises(IssuanceRefused, match="suspended"):
            await made.registration.approve(FIRST, name)
        assert (await made.registration.find(name)).state == "failed"


async def test_a_person_is_registered_in_an_organisation_that_is_there() -> None:
    async with trust_bench() as bench:
        made = await opened(bench)
        with pytest.raises(InvalidRequest, match="not registered"):
            await made.holders.register(MAKER, "person", "li.hua", "李华", "nobody")
        await made.holders.register(MAKER, "person", "li.hua", "李华", "parks")
        bench.clock.pass_s(1)
        with pytest.raises(Conflict, match="already"):
            await made.holders.register(MAKER, "person", "li.hua", "李华", "parks")
        row = await made.holders.find("person:li.hua")
        assert row is not None
        assert row.organisation == "organisation:parks"
