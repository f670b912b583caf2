"""Every check of the trust service's health, seen red: by the alarms of a server and by the doctor, who share it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cli.trust.health import DAY_S, Looked, quorum_readings, readings
from ledger.alarms import AlarmKind
from ledger.core.encoding import encode_base64
from pki.aggregates.answers import AnswerBatch
from pki.aggregates.authority import Authority
from pki.aggregates.ceremony import Ceremony
from pki.aggregates.key import Key
from pki.aggregates.officer import Identity, Officer
from pki.aggregates.request import CertificateRequest
from pki.core.algorithms import P256
from pki.core.settings import AuthoritySettings
from pki.status.issuers import StatusIssuer, issuer_in
from tests.support.trust import TrustBench, trust_bench
from tests.support.trust_authorities import CITY, ROOT, STATUS_URL, city_authority, key_of
from tests.support.trust_officers import identity_of, offices
from tests.support.trust_status import issued, meant, status_bench

AlarmKey = tuple[str, str]


async def over(bench: TrustBench, looked: Looked | None = None) -> dict[AlarmKey, str]:
    """What is wrong, with what is said of it; everything else is fine."""
    await bench.index.catch_up()
    found = list(readings(bench.index, looked or Looked(), int(bench.clock.now().timestamp())))
    assert all(one.fine != one.over for one in found)
    assert len({one.key for one in found}) == len(found), "each is raised and cleared under a name of its own"
    return {one.key: one.what for one in found if one.over}


async def offline(bench: TrustBench, reference: str, settings: AuthoritySettings) -> StatusIssuer:
    """A root whose key is not here, with the certificate of the bench's root."""
    now, certificate = bench.clock.now(), issuer_in(bench.index.book, ROOT, 1).certificate
    authority = Authority("offline", "", settings.recorded(), timestamp=now)
    authority.add_key(reference, P256.name, encode_base64(bench.keys.keys["held:root-1"].public), timestamp=now)
    authority.certify(1, encode_base64(certificate), timestamp=now)
    await bench.journal.save(authority, permit=bench.permit())
    await bench.index.catch_up()
    return issuer_in(bench.index.book, "offline", 1)


@pytest.mark.parametrize(
    ("reference", "hint"), [("shares:offline-1", "hold a ceremony"), ("", "jinshi crl take-in offline")]
)
async def test_a_list_whose_key_is_not_here_is_asked_for_in_time(reference: str, hint: str) -> None:
    due = (AlarmKind.CRL_DUE.value, "offline-1-0")
    async with status_bench() as status:
        bench = status.bench
        issuer = await offline(bench, reference, AuthoritySettings(status_url=STATUS_URL))
        assert hint in (await over(bench))[due], "certificates point to a list that is not there"
        bench.keys.keys["shares:offline-1"] = bench.keys.keys["held:root-1"]
        signer = replace(issuer, reference="shares:offline-1")
        crl = await status.lists.draft(signer, 0, holds_s=400 * DAY_S)
        await bench.journal.save(crl, permit=bench.permit())
        await status.lists.sign(crl, signer, permit=bench.permit())
        assert await over(bench) == {}
        bench.clock.pass_s(299 * DAY_S)
        assert due not in await over(bench)
        bench.clock.pass_s(2 * DAY_S)
        assert hint in (await over(bench))[due]
        bench.clock.pass_s(100 * DAY_S)
        assert (AlarmKind.STATUS_LATE.value, "offline-1") in await over(bench)


async def test_a_revocation_waits_for_a_ceremony() -> None:
    async with status_bench() as status:
        bench = status.bench
        issuer = await offline(bench, "shares:offline-1", AuthoritySettings())
        bench.keys.keys["shares:offline-1"] = bench.keys.keys["held:root-1"]
        certificate = meant(bench, 9, authority="offline")
        certificate.issue(encode_base64(await issued(bench, 9)), timestamp=bench.clock.now())
        crl = await status.lists.draft(issuer, 0, holds_s=400 * DAY_S)
        await bench.journal.save(certificate, crl, permit=bench.permit())
        await status.lists.sign(crl, issuer, permit=bench.permit())
        await status.revocation.revoke("offline", "9", "keyCompromise", permit=bench.permit())
        assert await over(bench) == {}
        bench.clock.pass_s(120)
        said = (await over(bench))[AlarmKind.STATUS_LATE.value, "offline-1"]
        assert "is not published for 2 min" in said
        assert "hold a ceremony" in said


async def test_what_was_left_unfinished() -> None:
    async with trust_bench() as bench:
        await city_authority(bench)
        now = bench.clock.now()
        batch = AnswerBatch(CITY, 1, 1, 0, 0, int(now.timestamp()), int(now.timestamp()) + 9, "ab", timestamp=now)
        ceremony = Ceremony("root-2027", "The root", "ab" * 32, ["li"], timestamp=now)
        asked = CertificateRequest(
            *("r1", "local:x", CITY, "tls-server", 0, "organisation:a", "", "ab" * 32, None, None, 0, "", 0, "", [], 0),
            *("ref",),
            timestamp=now,
        )
        await bench.journal.save(meant(bench, 1), batch, ceremony, asked, permit=bench.permit())
        unfinished = AlarmKind.TRUST_UNFINISHED.value
        for passed_s, left in (
            (600, set()),
            (1_300, {"certificates", "requests"}),
            (7_200, {"certificates", "requests", "answers"}),
            (90_000, {"certificates", "requests", "answers", "ceremony root-2027"}),
        ):
            bench.clock.pass_s(passed_s)
            found = await over(bench)
            assert {about for kind, about in found if kind == unfinished} == left
        assert "1 batch of OCSP answers" in found[unfinished, "answers"]
        assert "run it again" in found[unfinished, "ceremony root-2027"]


async def test_a_list_that_was_intended_and_not_signed() -> None:
    async with status_bench() as status:
        bench = status.bench
        for issuer in (status.issuer, await offline(bench, "shares:offline-1", AuthoritySettings())):
            crl = await status.lists.draft(issuer, 0, holds_s=9_000)
            await bench.journal.save(crl, permit=bench.permit())
        bench.clock.pass_s(2_000)
        assert (await over(bench))[AlarmKind.TRUST_UNFINISHED.value, "lists"].startswith("1 list intended")


async def test_officers_who_cannot_do_what_needs_two() -> None:
    quorum = (AlarmKind.TRUST_OFFICERS.value, "quorum")
    async with trust_bench() as bench, offices(bench=bench) as at:
        assert await over(bench) == {}
        journal = bench.journal

        async def lose(name: str) -> None:
            officer = await journal.load(Officer, Officer.create_id(name))
            officer.suspend("ill", timestamp=bench.clock.now())
            await journal.save(officer, permit=bench.permit())

        await at.appoint("li", "custodian")
        for name in ("wang", "zhao"):
            await lose(name)
        assert await over(bench) == {}
        await lose("sun")
        assert "qian is the only administrator" in (await over(bench))[quorum]
        await lose("qian")
        assert "1 custodian cannot confirm" in (await over(bench))[quorum]
        officer = Officer("zhou", ["custodian"], [identity_of("zhou").recorded()], {}, timestamp=bench.clock.now())
        await journal.save(officer, permit=bench.permit())
        assert "2 custodians can confirm" in (await over(bench))[quorum]


async def test_an_officer_whose_certificate_has_ended_or_whose_roles_do_not_go_together() -> None:
    kind = AlarmKind.TRUST_OFFICERS.value
    async with trust_bench() as bench:
        now = bench.clock.now()
        ends = int(now.timestamp()) + DAY_S
        made = [
            Officer("a", ["security-administrator"], [_known("a", ends)], {}, timestamp=now),
            Officer("b", ["system-administrator"], [_known("b", ends + DAY_S)], {}, timestamp=now),
            Officer("c", ["auditor", "ca-operator"], [_known("c", 0)], {}, timestamp=now),
        ]
        await bench.journal.save(*made, permit=bench.permit())
        assert set(await over(bench)) == {(kind, "officer c")}
        bench.clock.pass_s(DAY_S + 1)
        assert set(await over(bench)) == {(kind, "officer c"), (kind, "quorum")}


def _known(name: str, not_after: int) -> dict[str, object]:
    return Identity(f"local:{name}", f"local:{name}", 0, not_after).recorded()


async def test_custodians_of_whom_too_few_are_left() -> None:
    about = (AlarmKind.TRUST_OFFICERS.value, "custodians ca-root-1")
    async with trust_bench() as bench:
        now = bench.clock.now()
        key = Key("ca-root-1", "shares:ca-root-1", "P-256", "", timestamp=now)
        key.share({"needed": 2, "custodians": ["li", "wang", "zhang"]}, timestamp=now)
        officers = [Officer(one, ["custodian"], [_known(one, 0)], {}, timestamp=now) for one in ("li", "wang")]
        await bench.journal.save(key, *officers, permit=bench.permit())
        assert await over(bench) == {}
        officers[0].dismiss("left", timestamp=now)
        await bench.journal.save(officers[0], permit=bench.permit())
        assert await over(bench) == {}, "two are left"
        officers[1].suspend("ill", timestamp=now)
        await bench.journal.save(officers[1], permit=bench.permit())
        assert "1 custodian of it can act" in (await over(bench))[about]


@pytest.mark.parametrize(
    ("troubles", "over", "fine"),
    [
        ({"a": "", "b": "is away", "c": ""}, False, True),
        ({"a": "", "b": "is away", "c": "is away"}, True, False),
        ({"a": "", "b": "is away", "c": None}, False, False),
        ({"a": "is away"}, True, False),
    ],
)
def test_sites_that_acknowledge_too_little(troubles: dict[str, str | None], over: bool, fine: bool) -> None:
    (found,) = quorum_readings(troubles)
    assert (found.over, found.fine) == (over, fine)
    assert quorum_readings({}) == []


async def test_keepers_and_places_as_they_were_looked_at() -> None:
    async with trust_bench() as bench:
        await city_authority(bench, kept=("file:city", key_of(P256, "city")))
        found = await over(bench, Looked(places={"far": 301, "near": 300}, keepers={"file": "gone", "hsm": ""}))
        assert set(found) == {("status-late", "place far"), ("key-away", "file")}
        assert "it is behind" in found["status-late", "place far"]
