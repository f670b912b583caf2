"""The REST of the registration: what it takes, what it answers, and which status each refusal has."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tests.support.trust_registration import FIRST, HOLDER, SECOND, csr
from tests.support.trust_rest import rest

WHERE = {"authority": "city", "profile": "tls-server", "holder": HOLDER}


def wish(**more: object) -> dict[str, object]:
    return {**WHERE, "csr": b64encode(csr("dns:www.parks.example")).decode(), **more}


def problem(answer: object) -> str:
    return str(answer.json()["type"]).removeprefix("urn:jinshi:problem:")  # type: ignore[attr-defined]


async def test_a_csr_in_any_form_becomes_a_certificate() -> None:
    async with rest() as made:
        der = csr("dns:www.parks.example")
        pem = x509.load_der_x509_csr(der).public_bytes(Encoding.PEM)
        serials = []
        for content, kind in ((der, "application/pkcs10"), (pem, "application/x-pem-file")):
            answer = await made.client.post(
                "/ra/requests", params=WHERE, content=content, headers={"content-type": kind}
            )
            assert answer.status_code == 201, answer.text
            serials.append(answer.json()["serial"])
        answer = await made.act("/ra/requests", wish(), accept="application/pkix-cert")
        assert answer.status_code == 201
        serials.append(f"{x509.load_der_x509_certificate(answer.content).serial_number:040x}")
        for serial in serials:
            shown = (await made.client.get(f"/ra/certificates/{serial}", params={"receipts": "true"})).json()
            assert shown["state"] == "issued"
            assert len(shown["receipts"]) == len(shown["entries"]) == 2
        chain = await made.client.get(
            f"/ra/certificates/{serials[0]}", headers={"accept": "application/pem-certificate-chain"}
        )
        leaf, above = x509.load_pem_x509_certificates(chain.content)[:2]
        leaf.verify_directly_issued_by(above)


async def test_the_same_key_of_idempotency_is_the_same_request() -> None:
    async with rest() as made:
        first = await made.act("/ra/requests", wish(), Idempotency_Key="a")
        again = await made.act("/ra/requests", wish(), Idempotency_Key='"a"')
        assert (first.status_code, again.status_code) == (201, 200)
        assert first.json()["serial"] == again.json()["serial"]
        other = await made.act("/ra/requests", wish(names=["dns:other.parks.example"]), Idempotency_Key="a")
        assert (other.status_code, problem(other)) == (409, "conflict")


async def test_makers_and_checkers_over_http() -> None:
    async with rest() as made:
        made.desk.profiles["tls-server"] = replace(made.desk.profiles["tls-server"], approvals=2)
        waiting = await made.act("/ra/requests", wish())
        assert waiting.status_code == 202
        assert int(waiting.headers["retry-after"]) > 0
        at = waiting.headers["location"]
        assert (await made.act(f"{at}/approve")).status_code == 403
        assert (await made.act(f"{at}/approve", {"comment": "seen"}, by=FIRST)).status_code == 202
        assert (await made.act(f"{at}/approve", by=FIRST)).status_code == 403
        done = await made.act(f"{at}/approve", by=SECOND)
        assert (done.status_code, done.json()["state"]) == (200, "issued")
        assert (await made.act(f"{at}/reject", {"reason": "late"}, by=FIRST)).status_code == 409
        shown = (await made.client.get(at)).json()
        assert (shown["approvals"]["given"], shown["serial"]) == (2, done.json()["serial"])
        listed = (await made.client.get("/ra/requests", params={"state": "issued", "holder": HOLDER})).json()
        assert [one["request"] for one in listed["requests"]] == [shown["request"]]


async def test_identities_are_registered_vetted_suspended_and_withdrawn() -> None:
    async with rest() as made:
        body = {"kind": "system", "name": "gate", "title": "Gate", "organisation": "parks"}
        assert (await made.act("/ra/identities", body)).status_code == 201
        at = "/ra/identities/system:gate"
        evidence = [{"name": "deed", "media_type": "text/plain", "content": b64encode(b"signed").decode()}]
        vetting = {"method": "in person", "names": ["dns:.gate.example"], "evidence": evidence}
        assert (await made.act(f"{at}/vet", vetting)).status_code == 400
        vetted = await made.act(f"{at}/vet", {**vetting, "until": "2027-12-01T00:00:00Z"})
        assert vetted.json()["names"] == ["dns:.gate.example"]
        serial = (
            await made.act(
                "/ra/requests",
                wish(holder="system:gate", names=["dns:a.gate.example"], subject={"CN": "a.gate.example"}),
            )
        ).json()["serial"]
        assert (await made.act(f"{at}/suspend", {"reason": "stolen"})).json()["state"] == "suspended"
        assert (await made.client.get(f"/ra/certificates/{serial}")).json()["state"] == "held"
        assert (await made.act(f"{at}/resume")).json()["state"] == "active"
        assert (await made.act(f"{at}/withdraw", {"reason": "gone"})).json()["state"] == "withdrawn"
        assert (await made.client.get(f"/ra/certificates/{serial}")).json()["state"] == "revoked"
        assert (await made.act(f"{at}/resume")).status_code == 409
        pages = []
        after = None
        while True:
            page = (
                await made.client.get("/ra/identities", params={"limit": 1, **({"after": after} if after else {})})
            ).json()
            pages += [one["identity"] for one in page["identities"]]
            if (after := page["next"]) is None:
                break
        assert pages == [HOLDER, "system:gate"]


async def test_certificates_are_renewed_held_released_and_revoked() -> None:
    async with rest() as made:
        serial = (await made.act("/ra/requests", wish())).json()["serial"]
        at = f"/ra/certificates/{serial}"
        early = await made.act(f"{at}/renew")
        assert (early.status_code, problem(early)) == (422, "issuance-refused")
        made.desk.bench.clock.pass_s(61 * 86_400)
        renewed = await made.act(f"{at}/renew")
        assert renewed.status_code == 201
        assert (await made.act(f"{at}/hold")).json()["state"] == "held"
        assert (await made.act(f"{at}/hold")).status_code == 409
        assert (await made.act(f"{at}/release")).json()["state"] == "issued"
        revoked = await made.act(f"{at}/revoke", {"reason": "superseded"})
        assert (revoked.json()["state"], revoked.json()["reason"]) == ("revoked", "superseded")
        assert (await made.act(f"{at}/revoke")).status_code == 409


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/ra/requests", {**WHERE, "csr": "no CSR"}, 400),
        ("/ra/requests", {**WHERE, "csr": "-----BEGIN NOTHING-----"}, 422),
        ("/ra/requests", {**WHERE, "csr": "AAAA", "colour": "red"}, 400),
        ("/ra/requests", wish(profile="none"), 422),
        ("/ra/requests", wish(authority="none"), 422),
        ("/ra/requests", wish(holder="organisation:none"), 422),
        ("/ra/requests", wish(names=["dns:www.elsewhere.example"]), 422),
        ("/ra/requests", wish(names=["dns:" + "a" * 3_000]), 422),
        ("/ra/requests", wish(not_after="1999-01-01T00:00:00Z"), 422),
        ("/ra/requests/none/approve", {}, 404),
        ("/ra/identities/organisation:none/suspend", {"reason": "x"}, 404),
        ("/ra/identities", {"kind": "god", "name": "a", "title": "a"}, 422),
        ("/ra/certificates/12/revoke", {}, 404),
        ("/ra/requests", ["no object"], 400),
    ],
)
async def test_what_cannot_be_done_is_a_problem_and_records_nothing(path: str, body: object, status: int) -> None:
    async with rest() as made:
        size = len([one async for one in made.desk.bench.journal.occurred()])
        answer = await made.act(path, body)
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        assert len([one async for one in made.desk.bench.journal.occurred()]) == size


async def test_whoever_may_not_is_told_so_and_bodies_are_bounded() -> None:
    async with rest() as made:
        for action in ("request.submit", "request.list", "certificate.read", "authority.list"):
            made.desk.access.forbidden.add((FIRST.actor, action))
        assert (await made.act("/ra/requests", wish(), by=FIRST)).status_code == 403
        large = await made.client.post(
            "/ra/requests", content=b" " * 300_000, headers={"content-type": "application/json"}
        )
        assert large.status_code == 413
        other = await made.client.post("/ra/requests", content=b"x", headers={"content-type": "text/plain"})
        assert other.status_code == 415


async def test_authorities_and_profiles_are_shown() -> None:
    async with rest() as shown:
        authorities = (await shown.client.get("/ca/authorities")).json()["authorities"]
        assert {one["authority"] for one in authorities} == {"root", "city"}
        city = (await shown.client.get("/ca/authorities/city")).json()
        assert city["generations"][0]["algorithm"] == "P-256"
        assert (await shown.client.get("/ca/authorities/none")).status_code == 404
        profiles = {one["name"]: one for one in (await shown.client.get("/ca/profiles")).json()["profiles"]}
        assert profiles["person"]["approvals"] == 1
