"""ACME as a protocol: what it takes, what it refuses and how, what survives a restart (RFC 8555, RFC 9773)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from ledger.errors import NotPermitted, Unacknowledged
from pki.access.base import Resource
from pki.access.officers import OfficersAccess
from pki.acme.base import caller_of
from pki.acme.ids import format_certificate_id
from pki.acme.jws import encode_base64url
from pki.aggregates.acme import Account, EabKey
from pki.aggregates.acme_order import Order
from tests.support.acme_client import Client, csr_for, jwk_of, jws, new_key, problem
from tests.support.trust import Permissive, trust_bench
from tests.support.trust_acme import (
    HOLDER,
    WILDCARDS,
    AcmeBench,
    RunningClock,
    acme_bench,
    client_of,
    enrolled,
    prepared,
    prove,
)


@asynccontextmanager
async def account(tmp_path: Path, **settings: Any) -> AsyncIterator[tuple[AcmeBench, Client]]:
    """A server and a client with an account; nothing may have gone wrong inside."""
    async with acme_bench(tmp_path, **settings) as acme, client_of(acme) as client:
        made = await client.register(*await acme.eab(accounts_max=5, profiles=["tls-server", WILDCARDS]))
        assert made.status_code == 201, made.text
        yield acme, client
        assert acme.faults == []


# -- enrolment --


@pytest.mark.parametrize("kind", ["ES256", "ES384", "RS256", "EdDSA"])
async def test_keys_of_every_kind_enrol(kind: str, tmp_path: Path) -> None:
    key = {
        "ES256": new_key,
        "ES384": lambda: ec.generate_private_key(ec.SECP384R1()),
        "RS256": lambda: rsa.generate_private_key(65_537, 2_048),
        "EdDSA": ed25519.Ed25519PrivateKey.generate,
    }[kind]()
    async with acme_bench(tmp_path) as acme, client_of(acme) as client:
        client.key = key
        assert (await client.register(*await acme.eab())).status_code == 201
        order, pem = await enrolled(acme, client, "a.city.example", "b.city.example")
        leaf, issuer = x509.load_pem_x509_certificates(pem.encode())
        leaf.verify_directly_issued_by(issuer)
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == ["a.city.example", "b.city.example"]
        recorded = await acme.bench.journal.load(Order, "order:" + order["finalize"].split("/")[-2])
        assert (recorded.holder, recorded.profile, recorded.state) == (HOLDER, "tls-server", "valid")
        await acme.bench.index.catch_up()
        rows = acme.bench.index.certificates.by_holder(acme.bench.index.database, HOLDER)
        assert [row.request for row in rows] == [recorded.id]


async def test_a_wildcard_is_proven_over_dns_alone(tmp_path: Path) -> None:
    async with account(tmp_path) as (acme, client):
        made = (await client.order("*.w.city.example", profile=WILDCARDS)).json()
        authorization = await client.read(made["authorizations"][0])
        assert authorization["identifier"]["value"] == "w.city.example"
        assert authorization["wildcard"]
        assert [one["type"] for one in authorization["challenges"]] == ["dns-01"]
        await prove(acme, client, made)
        order = (await client.finalize(made, csr_for(["*.w.city.example"], new_key()))).json()
        assert order["status"] == "valid"
        assert acme.finalizer.asked[0].profile == WILDCARDS


# -- accounts --


async def test_an_account_needs_a_key_that_an_officer_gave_out(tmp_path: Path) -> None:
    async with acme_bench(tmp_path) as acme, client_of(acme) as client:
        kid, secret = await acme.eab()
        where = f"{acme.url}/new-account"
        problem(await client.send(where, {}, by_key=True), "externalAccountRequired", 403)
        problem(await client.send(where, {"onlyReturnExisting": True}, by_key=True), "accountDoesNotExist", 400)
        problem(await client.register(kid, encode_base64url(b"wrong" * 8)), "unauthorized", 403)
        problem(await client.register("0" * 32, secret), "unauthorized", 403)
        other = client.binding(kid, secret, key=new_key())
        problem(await client.send(where, {"externalAccountBinding": other}, by_key=True), "malformed", 400)
        assert (await client.register(kid, secret, contact=["mailto:a@city.example"])).status_code == 201
        # The same key again is the same account, with or without a binding.
        again = await client.send(where, {}, by_key=True)
        assert (again.status_code, again.headers["location"]) == (200, client.kid)
        async with client_of(acme) as another:
            problem(await another.register(kid, secret), "unauthorized", 403)  # its one account is made
        entries = [one async for one in acme.bench.journal.occurred()]
        assert [one.name for one in entries][-3:] == ["account.created.v1", "account-key.claimed.v1", "eab.bound.v1"]


async def test_of_many_who_use_a_key_at_once_as_many_get_an_account_as_may(tmp_path: Path) -> None:
    async with acme_bench(tmp_path) as acme, client_of(acme) as client:
        kid, secret = await acme.eab(accounts_max=3)
        clients = [Client(client.http, client.url) for _ in range(6)]
        twins = [Client(client.http, client.url, key=clients[0].key) for _ in range(2)]
        answers = await asyncio.gather(*(one.register(kid, secret) for one in (*clients, *twins)))
        made = {one.headers["location"] for one in answers if one.status_code == 201}
        assert len(made) == 3
        assert (await acme.bench.journal.load(EabKey, f"eab:{kid}")).accounts == 3


async def test_a_key_change_keeps_the_account_and_frees_the_old_key(tmp_path: Path) -> None:
    async with account(tmp_path) as (acme, client):
        old, new, where = client.key, new_key(), f"{acme.url}/key-change"
        inner = {"account": client.kid, "oldKey": jwk_of(old)}

        def signed(key: Any, payload: object, **header: object) -> dict[str, str]:
            return jws(key, {"alg": "ES256", "jwk": jwk_of(key), "url": where, **header}, payload)

        problem(await client.send(where, signed(new, {**inner, "oldKey": jwk_of(new)})), "malformed", 400)
        problem(await client.send(where, signed(new, inner, nonce="x")), "malformed", 400)
        problem(await client.send(where, signed(new, inner, url=acme.url)), "malformed", 400)
        taken = await client.send(where, signed(old, inner))
        assert problem(taken, "malformed", 409)
        assert taken.headers["location"] == client.kid
        assert (await client.send(where, signed(new, inner))).status_code == 200
        problem(await client.send(client.kid, None), "malformed", 400)  # signed with the old one
        client.key = new
        order, _ = await enrolled(acme, client, "a.city.example")
        assert order["status"] == "valid"
        client.key = old
        problem(
            await client.send(f"{acme.url}/new-account", {"onlyReturnExisting": True}, by_key=True),
            "accountDoesNotExist",
            400,
        )
        # It can be bound anew, and back again.
        client.kid = ""
        assert (await client.register(*await acme.eab())).status_code == 201


async def test_an_account_that_is_deactivated_does_nothing_more(tmp_path: Path) -> None:
    async with account(tmp_path) as (_, client):
        made = (await client.order("a.city.example")).json()
        challenge = await client.challenge(made, "dns-01")
        assert (await client.send(client.kid, {"contact": ["mailto:b@city.example"]})).json()["contact"]
        shown = (await client.send(client.kid, {"status": "deactivated"})).json()
        assert shown["status"] == "deactivated"
        problem(await client.send(challenge["url"], {}), "unauthorized", 403)
        problem(await client.order("a.city.example"), "unauthorized", 403)
        problem(await client.send(f"{client.url}/new-account", {}, by_key=True), "unauthorized", 403)


async def test_profiles_that_people_approve_are_not_issued(tmp_path: Path) -> None:
    async with acme_bench(tmp_path) as acme, client_of(acme) as client:
        assert (await client.register(*await acme.eab(profiles=["tls-server", "person"]))).status_code == 201
        shown = problem(await client.order("a.city.example", profile="person"), "invalidProfile", 400)
        assert "approved by people" in shown["detail"]


async def test_one_account_sees_nothing_of_another(tmp_path: Path) -> None:
    async with account(tmp_path) as (acme, client):
        order, _ = await enrolled(acme, client, "a.city.example")
        other = Client(client.http, client.url)
        assert (await other.register(*await acme.eab())).status_code == 201
        for url in (order["finalize"].removesuffix("/finalize"), order["certificate"], order["authorizations"][0]):
            problem(await other.send(url, None), "malformed", 404)
        problem(await other.send(client.kid, None), "unauthorized", 403)
        problem(await other.send(f"{client.kid}/orders", None), "unauthorized", 403)
        shown = (await client.send(f"{client.kid}/orders", None)).json()
        assert shown == {"orders": [order["finalize"].removesuffix("/finalize")]}


# -- messages --


async def test_a_nonce_is_good_once_and_for_this_process(tmp_path: Path) -> None:
    async with account(tmp_path) as (_, client):
        nonce = await client.take_nonce()
        assert (await client.send(client.kid, None, header={"nonce": nonce})).status_code == 200
        replayed = await client.send(client.kid, None, header={"nonce": nonce})
        assert problem(replayed, "badNonce", 400)
        assert (await client.send(client.kid, None, header={"nonce": replayed.headers["replay-nonce"]})).is_success
        for bad in (encode_base64url(bytes(24)), "!", None):
            problem(await client.send(client.kid, None, header={"nonce": bad}), "badNonce", 400)


async def test_messages_that_are_not_as_they_should_be_are_refused_one_by_one(tmp_path: Path) -> None:
    async with account(tmp_path) as (acme, client):
        kid, there = client.kid, f"{acme.url}/new-order"
        problem(await client.send(kid, None, header={"url": there}), "unauthorized", 403)
        problem(
            await client.send(kid, None, header={"kid": f"{acme.url}/account/{'0' * 32}"}), "accountDoesNotExist", 400
        )
        problem(await client.send(kid, None, header={"jwk": jwk_of(client.key)}), "malformed", 400)
        problem(await client.send(kid, None, header={"crit": ["exp"]}), "malformed", 400)
        problem(await client.send(kid, None, key=new_key()), "malformed", 400)
        problem(await client.send(kid, None, by_key=True), "malformed", 400)
        for algorithm in ("none", "HS512", "RS512"):
            shown = problem(await client.send(kid, None, header={"alg": algorithm}), "badSignatureAlgorithm", 400)
            assert shown["algorithms"] == ["ES256", "ES384", "EdDSA", "RS256"]
        # A MAC under the public key's bytes, which a careless server takes for a signature.
        problem(await client.send(kid, None, header={"alg": "HS256"}), "badSignatureAlgorithm", 400)
        weak = {"kty": "RSA", "n": encode_base64url(b"\xff" * 128), "e": "AQAB"}
        shown = await client.send(f"{acme.url}/new-account", {}, header={"jwk": weak, "alg": "RS256"}, by_key=True)
        problem(shown, "badPublicKey", 400)
        problem(await client.post(kid, b"{" * 70_000), "malformed", 413)
        problem(await client.post(kid, b"{" * 1_000), "malformed", 400)
        plain = await client.http.post(kid, content=b"{}", headers={"content-type": "application/json"})
        problem(plain, "malformed", 415)
        problem(await client.send(f"{acme.url}/order/../{'a' * 40}", None), "malformed", 404)
        problem(await client.http.get(kid), "malformed", 405)
        assert plain.headers["link"] == f'<{acme.url}/directory>;rel="index"'
        assert plain.headers["replay-nonce"]
        known = f"acme:{kid.rpartition('/')[2]}"
        assert (known, "acme.account", "unauthorized") in acme.refused  # its signature held, its URL did not
        assert ("acme:", "acme.account", "badSignatureAlgorithm") in acme.refused


async def test_orders_keep_within_what_the_key_allows(tmp_path: Path) -> None:
    async with account(tmp_path, orders_open_max=2) as (_, client):
        shown = problem(await client.order("a.city.example", "evil.example"), "rejectedIdentifier", 400)
        assert [one["identifier"]["value"] for one in shown["subproblems"]] == ["evil.example"]
        problem(await client.order("xcity.example"), "rejectedIdentifier", 400)
        shown = problem(await client.order("*.city.example"), "rejectedIdentifier", 400)
        assert shown["subproblems"][0]["detail"] == "profile tls-server has no wildcards"
        problem(await client.order("192.0.2.1"), "rejectedIdentifier", 400)
        problem(await client.order("a.city.example", profile="person"), "invalidProfile", 400)
        problem(await client.order("a.city.example", notBefore="2026-12-01T00:00:00Z"), "malformed", 400)
        problem(await client.order(), "malformed", 400)
        for type_, value, kind in (
            ("ip", "192.0.2.1", "rejectedIdentifier"),  # it is not the account's
            ("ip", "a.city.example", "rejectedIdentifier"),
            ("ip", "2001:DB8::0:1", "rejectedIdentifier"),  # RFC 8738 §3: as RFC 5952 writes it
            ("email", "a@city.example", "unsupportedIdentifier"),
        ):
            asked = {"identifiers": [{"type": type_, "value": value}]}
            problem(await client.send(f"{client.url}/new-order", asked), kind, 400)
        answers = await asyncio.gather(*(client.again().order("a.city.example") for _ in range(4)))
        assert sorted(one.status_code for one in answers) == [201, 201, 429, 429]
        assert all(int(one.headers["retry-after"]) > 0 for one in answers if one.status_code == 429)


async def test_a_key_that_is_revoked_orders_nothing_more_but_its_certificates_can_be_revoked(tmp_path: Path) -> None:
    async with account(tmp_path) as (acme, client):
        pending = (await client.order("a.city.example")).json()
        await prove(acme, client, pending)
        _, pem = await enrolled(acme, client, "b.city.example")
        journal = acme.bench.journal
        holder = await journal.load(Account, f"account:{client.kid.rpartition('/')[2]}")
        key = await journal.load(EabKey, f"eab:{holder.eab}")
        key.revoke("moved", timestamp=acme.bench.clock.now())
        await journal.save(key, permit=acme.bench.permit())
        problem(await client.order("c.city.example"), "unauthorized", 403)
        problem(await client.finalize(pending, csr_for(["a.city.example"], new_key())), "unauthorized", 403)
        assert (await client.revoke(pem)).status_code == 200


# -- orders --


async def test_a_request_that_is_not_what_was_proven_leaves_the_order_ready(tmp_path: Path) -> None:
    async with account(tmp_path) as (acme, client):
        made = await client.order("a.city.example", "b.city.example")
        order, key = made.json(), new_key()
        good = csr_for(["b.city.example", "a.city.example"], key)
        problem(await client.finalize(order, good), "orderNotReady", 403)
        await prove(acme, client, order)
        for names, signer, common in (
            (["a.city.example"], key, ""),
            (["a.city.example", "b.city.example", "c.city.example"], key, ""),
            (["a.city.example", "b.city.example"], key, "c.city.example"),
            (["a.city.example", "b.city.example"], client.key, ""),
            (["a.city.example", "b.city.example"], rsa.generate_private_key(65_537, 1_024), ""),
        ):
            problem(await client.finalize(order, csr_for(names, signer, common_name=common)), "badCSR", 400)
        problem(await client.finalize(order, b"no request"), "badCSR", 400)
        broken = bytearray(good)
        broken[-1] ^= 1
        problem(await client.finalize(order, bytes(broken)), "badCSR", 400)
        assert (await client.read(made.headers["location"]))["status"] == "ready"
        assert acme.finalizer.asked == []
        done = await client.finalize(order, good)
        assert done.json()["status"] == "valid"
        assert (await client.finalize(order, good)).json() == done.json()  # the answer was lost
        problem(await client.finalize(order, csr_for(["a.city.example"], key)), "orderNotReady", 403)
        assert len(acme.finalizer.asked) == 1


async def test_a_name_that_is_not_proven_fails_its_order_and_says_why(tmp_path: Path) -> None:
    async with account(tmp_path, attempts=2) as (acme, client):
        made = await client.order("a.city.example", "b.city.example")
        challenge = await client.challenge(made.json(), "dns-01")
        acme.zone.records["_acme-challenge.a.city.example", "TXT"] = ['"something else"']
        answered = await client.send(challenge["url"], {})
        assert answered.headers.get_list("link", split_commas=True)[0].endswith('rel="up"')
        order = await client.until(made.headers["location"], "invalid")
        assert order["error"]["type"].endswith(":incorrectResponse")
        assert order["error"]["identifier"]["value"] == "a.city.example"
        authorization = await client.read(order["authorizations"][0])
        assert (authorization["status"], authorization["challenges"][0]["status"]) == ("invalid", "invalid")
        assert acme.zone.asked.count(("_acme-challenge.a.city.example", "TXT")) == 2
        recorded = [one async for one in acme.bench.journal.occurred() if "failed" in one.name]
        assert recorded[0].data["findings"] == [["here", recorded[0].data["findings"][0][1]]]
        again = await client.send(challenge["url"], {})  # it is decided
        assert again.json()["status"] == "invalid"


async def test_orders_and_proofs_end_with_their_time(tmp_path: Path) -> None:
    async with account(tmp_path, proof_life_s=3_600, order_life_s=7_200) as (acme, client):
        order, _ = await enrolled(acme, client, "a.city.example")
        reused = await client.order("a.city.example")
        assert reused.json()["status"] == "ready"
        authorization = await client.read(reused.json()["authorizations"][0])
        assert authorization["status"] == "valid"
        assert all(one["status"] == "valid" for one in authorization["challenges"])
        acme.bench.clock.pass_s(3_601)
        problem(
            await client.finalize(reused.json(), csr_for(["a.city.example"], new_key())),
            "unauthorized",
            403,
        )
        late = await client.order("a.city.example")
        assert late.json()["status"] == "pending"
        acme.bench.clock.pass_s(7_201)
        assert (await client.read(late.headers["location"]))["status"] == "invalid"
        assert (await client.read(late.json()["authorizations"][0]))["status"] == "invalid"
        assert (await client.read(order["authorizations"][0]))["status"] == "expired"
        listed = (await client.send(f"{client.kid}/orders", None)).json()["orders"]
        assert listed == [order["finalize"].removesuffix("/finalize")]


async def test_a_proof_that_is_given_up_is_used_by_no_order(tmp_path: Path) -> None:
    async with account(tmp_path, proof_life_s=3_600) as (acme, client):
        order, _ = await enrolled(acme, client, "a.city.example")
        reused = await client.order("a.city.example")
        there = reused.json()["authorizations"][0]
        problem(await client.send(there, {"status": "valid"}), "malformed", 400)
        assert (await client.send(there, {"status": "deactivated"})).json()["status"] == "deactivated"
        assert (await client.read(reused.headers["location"]))["status"] == "invalid"
        assert (await client.order("a.city.example")).json()["status"] == "pending"
        assert (await client.read(order["authorizations"][0]))["status"] == "valid"  # what was issued on it stays


async def test_orders_are_listed_page_by_page(tmp_path: Path) -> None:
    async with account(tmp_path, orders_page=2) as (_, client):
        made = [(await client.order(f"{n}.city.example")).headers["location"] for n in range(5)]
        found, url = [], f"{client.kid}/orders"
        for _ in range(3):
            page = await client.send(url, None)
            found += page.json()["orders"]
            nexts = [one for one in page.headers.get_list("link", split_commas=True) if 'rel="next"' in one]
            url = nexts[0].strip()[1:].partition(">")[0] if nexts else ""
        assert found == made
        assert url == ""


# -- crashes --


async def test_what_was_under_way_is_carried_on_by_the_next_process(tmp_path: Path) -> None:
    clock = RunningClock()
    async with trust_bench(clock=clock) as first:
        await prepared(first)
        async with acme_bench(tmp_path, first, tasks_max=0) as acme, client_of(acme) as client:
            assert (await client.register(*await acme.eab())).status_code == 201
            looked_at = await client.order("a.city.example")
            challenge = await client.challenge(looked_at.json(), "dns-01")
            assert (await client.send(challenge["url"], {})).json()["status"] == "processing"
        async with acme_bench(tmp_path, first) as acme, client_of(acme) as again:
            again.key, again.kid = client.key, client.kid
            acme.zone.records["_acme-challenge.a.city.example", "TXT"] = [f'"{client.digest(challenge)}"']
            assert await acme.face.working.recover() == 1
            assert await acme.face.working.recover() == 0
            await again.until(looked_at.headers["location"], "ready")
            acme.finalizer.away = True
            processing = await again.finalize(looked_at.json(), csr_for(["a.city.example"], new_key()))
            assert processing.json()["status"] == "processing"
            assert processing.headers["retry-after"] == "1"
            assert [type(one).__name__ for one in acme.faults] == ["Unavailable"]
        async with acme_bench(tmp_path, first) as acme, client_of(acme) as again:
            again.key, again.kid = client.key, client.kid
            acme.finalizer.waiting = True  # for an approval
            assert await acme.face.working.recover() == 1
            await acme.face.working.settled()
            acme.finalizer.waiting = False
            assert await acme.face.working.recover() == 1
            assert (await again.until(looked_at.headers["location"], "valid"))["certificate"]


async def test_a_certificate_that_was_issued_before_the_crash_is_the_orders(tmp_path: Path) -> None:
    async with account(tmp_path) as (acme, client):
        made = await client.order("a.city.example")
        await prove(acme, client, made.json())
        acme.finalizer.waiting = True
        await client.finalize(made.json(), csr_for(["a.city.example"], new_key()))
        await acme.finalizer.own.issue(acme.finalizer.asked[0], permit=acme.bench.permit())
        acme.finalizer.waiting = False
        await acme.face.working.recover()
        order = await client.until(made.headers["location"], "valid")
        await acme.bench.index.catch_up()
        rows = list(acme.bench.index.certificates.by_holder(acme.bench.index.database, HOLDER))
        assert len(rows) == 1
        pem = (await client.send(order["certificate"], None)).text
        leaf, issuer = x509.load_pem_x509_certificates(pem.encode())
        leaf.verify_directly_issued_by(issuer)
        assert f"{leaf.serial_number:040x}" == rows[0].serial


async def test_what_is_refused_in_the_end_makes_the_order_invalid(tmp_path: Path) -> None:
    async with account(tmp_path) as (acme, client):
        made = await client.order("a.city.example")
        await prove(acme, client, made.json())
        acme.finalizer.refused = "the approver said no"
        done = await client.finalize(made.json(), csr_for(["a.city.example"], new_key()))
        assert done.json()["status"] == "invalid"
        assert done.json()["error"]["detail"] == "the approver said no"


async def test_an_act_that_the_sites_did_not_confirm_is_answered_when_they_have(tmp_path: Path) -> None:
    away = True

    async def acknowledge(_index: int) -> None:
        if away:
            raise Unacknowledged("recorded, but no site has it", hint="wait")

    async with trust_bench(clock=RunningClock()) as bench:
        await prepared(bench)
        unsure = replace(bench, journal=replace(bench.journal, acknowledge=acknowledge))
        async with acme_bench(tmp_path, unsure) as acme, client_of(acme) as client:
            away = False
            kid, secret = await acme.eab()
            away = True
            waits = await client.register(kid, secret)
            problem(waits, "serverInternal", 503)
            assert int(waits.headers["retry-after"]) > 0
            away = False
            assert (await client.register(kid, secret)).status_code == 200  # it was recorded
            order, _ = await enrolled(acme, client, "a.city.example")
            assert order["status"] == "valid"
            assert [type(one) for one in acme.faults] == [Unacknowledged]


# -- permission --


async def test_the_officers_policies_let_subscribers_do_what_is_theirs_and_nothing_else(tmp_path: Path) -> None:
    async with trust_bench(clock=RunningClock()) as bench:
        await prepared(bench)
        access = OfficersAccess(bench.journal, bench.index, "local:service")
        async with acme_bench(tmp_path, replace(bench, access=access)) as acme, client_of(acme) as client:  # type: ignore[arg-type]
            assert (await client.register(*await acme.eab())).status_code == 201
            _, pem = await enrolled(acme, client, "a.city.example")
            assert (await client.send(client.kid, {"contact": ["mailto:b@city.example"]})).is_success
            assert (await client.revoke(pem)).is_success
            _, pem = await enrolled(acme, client, "b.city.example")
            entries = [one async for one in bench.journal.occurred()]
            account = client.kid.rpartition("/")[2]
            assert {one.actor for one in entries if one.name == "certificate.intended.v1"} == {f"acme:{account}"}
            with pytest.raises(NotPermitted):
                await access.permit(caller_of(account), "account.bind", Resource("eab", "x", {"authority": "city"}))
            with pytest.raises(NotPermitted):
                await access.permit(caller_of(account), "certificate.revoke", Resource("certificate", "1", {}))
            assert (await client.send(client.kid, {"status": "deactivated"})).is_success


async def test_what_a_policy_forbids_is_unauthorized(tmp_path: Path) -> None:
    async with trust_bench(clock=RunningClock()) as bench:
        await prepared(bench)
        forbidding = replace(bench, access=Permissive({"order.finalize"}))
        async with acme_bench(tmp_path, forbidding) as acme, client_of(acme) as client:
            assert (await client.register(*await acme.eab())).status_code == 201
            made = await client.order("a.city.example")
            await prove(acme, client, made.json())
            csr = csr_for(["a.city.example"], new_key())
            problem(await client.finalize(made.json(), csr), "unauthorized", 403)
            assert (await client.read(made.headers["location"]))["status"] == "ready"


async def test_an_account_that_an_officer_ends_is_issued_nothing_more(tmp_path: Path) -> None:
    async with account(tmp_path) as (acme, client):
        journal, permit = acme.bench.journal, acme.bench.permit()
        made = await client.order("a.city.example")
        await prove(acme, client, made.json())
        acme.finalizer.waiting = True
        await client.finalize(made.json(), csr_for(["a.city.example"], new_key()))
        ended = await journal.load(Account, f"account:{client.kid.rpartition('/')[2]}")
        ended.deactivate("officer", timestamp=acme.bench.clock.now())
        await journal.save(ended, permit=permit)
        acme.finalizer.waiting = False
        await acme.face.working.recover()
        await acme.face.working.settled()
        order = await journal.load(Order, f"order:{made.headers['location'].rpartition('/')[2]}")
        assert (order.state, order.error["kind"]) == ("invalid", "unauthorized")
        problem(await client.send(client.kid, None), "unauthorized", 403)


# -- revocation and renewal --


async def test_who_may_revoke(tmp_path: Path) -> None:
    async with account(tmp_path, proof_life_s=3_600) as (acme, client):
        key = new_key()
        made = await client.order("a.city.example")
        await prove(acme, client, made.json())
        order = (await client.finalize(made.json(), csr_for(["a.city.example"], key))).json()
        pem = (await client.send(order["certificate"], None)).text
        other = Client(client.http, client.url)
        assert (await other.register(*await acme.eab())).status_code == 201
        problem(await other.revoke(pem), "unauthorized", 403)
        problem(await client.revoke(pem, reason=2), "badRevocationReason", 400)
        problem(await client.revoke(pem, key=new_key(), by_key=True), "unauthorized", 403)
        problem(await client.send(f"{client.url}/revoke-cert", {"certificate": "AAAA"}), "malformed", 404)
        await prove(acme, other, (await other.order("a.city.example")).json())
        assert (await other.revoke(pem)).status_code == 200  # it has proven all of its names
        problem(await client.revoke(pem), "alreadyRevoked", 400)
        _, second = await enrolled(acme, client, "a.city.example")
        assert (await client.revoke(second, reason=0)).status_code == 200


async def test_a_certificates_own_key_revokes_it_without_an_account(tmp_path: Path) -> None:
    async with account(tmp_path) as (acme, client):
        key = new_key()
        made = await client.order("a.city.example")
        await prove(acme, client, made.json())
        order = (await client.finalize(made.json(), csr_for(["a.city.example"], key))).json()
        pem = (await client.send(order["certificate"], None)).text
        nobody = Client(client.http, client.url, key=key)
        assert (await nobody.revoke(pem)).status_code == 200
        await acme.bench.index.catch_up()
        row = next(acme.bench.index.certificates.by_holder(acme.bench.index.database, HOLDER))
        assert (row.state, row.reason) == ("revoked", "keyCompromise")


async def test_when_to_renew_and_what_replaces_what(tmp_path: Path) -> None:
    async with account(tmp_path) as (acme, client):
        _, pem = await enrolled(acme, client, "a.city.example")
        leaf = x509.load_pem_x509_certificate(pem.encode())
        keyid = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
        assert keyid is not None
        name = format_certificate_id(keyid, f"{leaf.serial_number:040x}")
        there = f"{acme.url}/renewal-info/{name}"
        answer = await client.http.get(there)
        window = answer.json()["suggestedWindow"]
        life = leaf.not_valid_after_utc - leaf.not_valid_before_utc
        assert window["start"] == f"{leaf.not_valid_before_utc + life * 2 / 3:%Y-%m-%dT%H:%M:%SZ}"
        assert window["start"] < window["end"] < f"{leaf.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}"
        assert int(answer.headers["retry-after"]) > 0
        problem(await client.http.get(f"{there}x"), "malformed", 404)
        problem(await client.http.get(f"{acme.url}/renewal-info/zz"), "malformed", 400)

        problem(await client.order("b.city.example", replaces=name), "malformed", 400)
        other = Client(client.http, client.url)
        assert (await other.register(*await acme.eab())).status_code == 201
        problem(await other.order("a.city.example", replaces=name), "unauthorized", 403)
        answers = await asyncio.gather(*(client.again().order("a.city.example", replaces=name) for _ in range(2)))
        assert sorted(one.status_code for one in answers) == [201, 409]
        order = next(one for one in answers if one.status_code == 201).json()
        assert order["replaces"] == name
        await prove(acme, client, order)
        assert (await client.finalize(order, csr_for(["a.city.example"], new_key()))).json()["status"] == "valid"
        assert acme.finalizer.asked[-1].renews == f"{leaf.serial_number:040x}"

        assert (await client.revoke(pem)).status_code == 200
        window = (await client.http.get(there)).json()["suggestedWindow"]
        assert window["end"] <= f"{acme.bench.clock.now():%Y-%m-%dT%H:%M:%SZ}"


async def test_an_order_may_end_a_certificate_early(tmp_path: Path) -> None:
    async with account(tmp_path) as (acme, client):
        end = (acme.bench.clock.now() + timedelta(days=10)).replace(microsecond=0)
        _, pem = await enrolled(acme, client, "a.city.example", notAfter=end.isoformat())
        assert x509.load_pem_x509_certificate(pem.encode()).not_valid_after_utc == end


async def test_the_index_of_orders_says_what_the_orders_say(tmp_path: Path) -> None:
    async with account(tmp_path, proof_life_s=3_600) as (acme, client):
        await enrolled(acme, client, "a.city.example")
        await client.order("a.city.example", "b.city.example")
        failed = await client.order("c.city.example")
        challenge = await client.challenge(failed.json(), "dns-01")
        await client.send(challenge["url"], {})
        await client.until(failed.headers["location"], "invalid")
        index = acme.bench.index
        await index.catch_up()
        [key] = index.acme.keys(index.database)
        recorded = await acme.bench.journal.load(EabKey, f"eab:{key.kid}")
        assert (key.accounts, key.state) == (recorded.accounts, recorded.state)
        assert not any(recorded.secret in line for line in index.database.iterdump())
        for name, state in index.database.execute("SELECT name, state FROM acme_orders").fetchall():
            order = await acme.bench.journal.load(Order, f"order:{name}")
            assert order.state == state, json.dumps(order.names)
            rows = index.database.execute(
                "SELECT name, state, proven FROM acme_authorizations WHERE order_name = ? ORDER BY number", (name,)
            ).fetchall()
            assert rows == [(one.name, one.state, one.proven) for one in order.authorizations]
