"""Access tokens over mutual TLS: given to officers, taken by the ledger's API with their own certificate alone."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey

from cli.serving.bearer import accepting
from cli.serving.server import ServeSettings, _opening
from cli.serving.tls import TlsFiles, actor_of_scope, fingerprint_of_scope
from ledger.http.bearer import SCOPES
from ledger.http.service import Service
from pki.access.base import Caller
from pki.access.tokens import TYPE, VALID_S, Tokens, thumbprint
from pki.aggregates.officer import Identity
from pki.aggregates.token import TokenKey
from pki.http.tokens import TokenService, routes
from tests.support.certificates import Authority, Issued
from tests.support.http_api import ORIGIN, listening, made, structured
from tests.support.trust_officers import Offices, caller, offices
from tests.support.trust_served import client_context, serving

FORM = {"grant_type": "client_credentials"}


def caller_of(scope: Any) -> Caller:
    return Caller(actor_of_scope(scope), fingerprint_of_scope(scope))


@dataclass(frozen=True)
class Town:
    """A ledger and a token endpoint behind TLS, officers with certificates, and clients of both."""

    offices: Offices
    service: Service
    tokens: Tokens
    authority: Authority
    people: dict[str, Issued]
    ledger_url: str
    token_url: str

    def client(self, name: str) -> httpx.AsyncClient:
        return httpx.AsyncClient(verify=client_context(self.authority.file, self.people[name]), trust_env=False)

    async def token(self, name: str, **form: str) -> httpx.Response:
        async with self.client(name) as client:
            return await client.post(self.token_url + "/token", data={**FORM, **form})

    async def get(self, name: str, token: str | None) -> httpx.Response:
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        async with self.client(name) as client:
            return await client.get(self.ledger_url + "/events", headers=headers)

    async def post(self, name: str, token: str | None, id_: str) -> httpx.Response:
        headers = {"content-type": "application/cloudevents+json"}
        if token is not None:
            headers["authorization"] = f"Bearer {token}"
        async with self.client(name) as client:
            return await client.post(self.ledger_url + "/events", content=structured(id_), headers=headers)

    async def size(self) -> int:
        """Of the trust service's journal and of the ledger together."""
        return (await self.offices.bench.journal.reader.head()).size + (await self.service.reader.head()).size


@asynccontextmanager
async def town(directory: Path) -> AsyncIterator[Town]:
    authority = Authority(directory)
    server = authority.issue("server", server=True)
    tls = TlsFiles(server.certificate, server.key, authority.file)
    people = {name: authority.issue(name) for name in ("chen", "li", "box", "stranger")}
    async with offices() as one, made(actor_of=actor_of_scope) as (service, *_):
        for name, role in (("chen", "ra-officer"), ("li", "auditor"), ("box", "system")):
            scope = {"extensions": {"tls": {"jinshi_certificate": people[name].der}}}
            credential = f"x509:{fingerprint_of_scope(scope)}"
            identity = Identity(credential, actor_of_scope(scope), 0, 2**40)
            await one.administration.appoint(caller("qian"), name, [role], [identity])
        tokens = Tokens(one.bench.journal, one.bench.index, one.access, one.bench.keys, ORIGIN)
        await tokens.ensure_key("local:service")
        service.tokens = accepting(tokens)
        async with (
            listening(service, tls) as ledger_url,
            serving(routes(TokenService(tokens, caller_of)), tls) as token_url,
        ):
            yield Town(one, service, tokens, authority, people, ledger_url, token_url)


async def test_a_token_does_what_its_scopes_say_on_its_own_certificate(tmp_path: Path) -> None:
    async with town(tmp_path) as here:
        given = (await here.token("box")).json()
        assert given["token_type"] == "Bearer"
        assert given["scope"] == "ledger.append ledger.read"  # what a machine may have of what there is
        assert 0 < given["expires_in"] <= VALID_S
        token = given["access_token"]
        assert (await here.post("box", token, "one")).status_code == 201
        assert (await here.get("box", token)).status_code == 200
        # Asking again gives the same one, and records nothing.
        size = await here.size()
        assert (await here.token("box")).json()["access_token"] == token
        assert await here.size() == size

        reading = (await here.token("box", scope="ledger.read", client_id="box")).json()["access_token"]
        refused = await here.post("box", reading, "two")
        assert refused.status_code == 403
        assert 'error="insufficient_scope", scope="ledger.append"' in refused.headers["www-authenticate"]
        # Another's certificate makes nothing of it; without a token all is as it was.
        stolen = await here.post("chen", token, "three")
        assert stolen.status_code == 401
        assert 'error="invalid_token"' in stolen.headers["www-authenticate"]
        assert (await here.post("stranger", None, "four")).status_code == 201


async def test_only_auditors_get_a_token_that_opens_what_is_sealed(tmp_path: Path) -> None:
    async with town(tmp_path) as here:
        assert (await here.token("li")).json()["scope"] == "ledger.read ledger.open"
        assert (await here.token("chen")).json()["scope"] == "ledger.read"
        refused = await here.token("chen", scope="ledger.open")
        assert (refused.status_code, refused.json()["error"]) == (401, "invalid_client")


@pytest.mark.parametrize(
    ("name", "form", "status", "error"),
    [
        ("stranger", {}, 401, "invalid_client"),
        ("chen", {"scope": "everything"}, 400, "invalid_scope"),
        ("chen", {"client_id": "li"}, 401, "invalid_client"),
        ("chen", {"grant_type": "password"}, 400, "unsupported_grant_type"),
        ("chen", {"grant_type": ""}, 400, "unsupported_grant_type"),
    ],
)
async def test_who_asks_wrongly_is_told_in_the_protocols_form(
    name: str, form: dict[str, str], status: int, error: str, tmp_path: Path
) -> None:
    async with town(tmp_path) as here:
        size = await here.size()
        answer = await here.token(name, **form)
        assert (answer.status_code, answer.json()["error"]) == (status, error)
        assert answer.headers["cache-control"] == "no-store"
        assert ("www-authenticate" in answer.headers) == (status == 401)
        assert await here.size() == size


async def test_while_the_key_of_tokens_is_not_brought_back_yet_clients_come_again(tmp_path: Path) -> None:
    """After a restore, before `jinshi ca keys recover`."""
    async with town(tmp_path) as here:
        keys = here.offices.bench.keys.keys
        gone = dict(keys)
        keys.clear()
        answer = await here.token("box")
        assert (answer.status_code, answer.json()["error"]) == (503, "temporarily_unavailable")
        keys.update(gone)
        assert (await here.token("box")).status_code == 200


async def test_what_is_no_token_of_ours_or_is_over_is_refused_and_nothing_is_recorded(tmp_path: Path) -> None:
    async with town(tmp_path) as here:
        bench = here.offices.bench
        token: str = (await here.token("box")).json()["access_token"]
        made = next(bench.index.book.all(TokenKey))
        held = bench.keys.keys[made.reference].private
        size = await here.size()
        header = {"alg": "ES256", "kid": made.kid, "typ": TYPE}
        claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
        ours, theirs = ECKey(held, held), ECKey.import_key(ec.generate_private_key(ec.SECP256R1()))  # type: ignore[arg-type]

        def forged(key: Any, change: dict[str, Any], **headers: str) -> str:
            alg = headers.get("alg", "ES256")
            return jwt.encode({**header, **headers}, {**claims, **change}, key, algorithms=[alg])

        wrong = [
            forged(theirs, {}),
            forged(theirs, {}, kid="nobody"),
            forged(OctKey.import_key("s" * 32), {}, alg="HS256"),
            forged(ours, {"exp": claims["iat"]}),
            forged(ours, {"aud": "another.test/ledger"}),
            forged(ours, {"sub": "li"}),
            forged(ours, {"cnf": {"x5t#S256": thumbprint("ab" * 32)}}),
            forged(ours, {"cnf": None}),
            forged(ours, {}, typ="JWT"),
            ".".join([base64.urlsafe_b64encode(b'{"alg":"none"}').decode().rstrip("="), token.split(".")[1], ""]),
            *(token[:-4], token + "." + "a.b", "x" * 10_000, "no token", "a.b.c"),
        ]
        for one in wrong:
            answer = await here.post("box", one, "wrong")
            assert answer.status_code == 401, one
            assert answer.headers["www-authenticate"].startswith("Bearer ")
        assert (await here.post("box", forged(ours, {}), "right")).status_code == 201
        # It ends by itself; and with the officer.
        size += 1
        qian = caller("qian")
        await here.offices.administration.suspend(qian, "box", "broken")
        assert (await here.post("box", token, "suspended")).status_code == 401
        await here.offices.administration.reinstate(qian, "box")
        assert (await here.get("box", token)).status_code == 200
        bench.clock.pass_s(VALID_S)
        assert (await here.get("box", token)).status_code == 401
        assert await here.size() == size + 2


def test_with_a_token_the_token_alone_decides_what_is_opened() -> None:
    opener = object()
    writable: Any = SimpleNamespace(sealer=SimpleNamespace(opener=lambda: opener))
    for open_to in ({"all"}, set[str]()):
        opening = _opening(writable, ServeSettings("127.0.0.1:0", open_to=frozenset(open_to)))
        assert opening({}) is (opener if open_to else None)
        assert opening({SCOPES: frozenset({"ledger.read"})}) is None
        assert opening({SCOPES: frozenset({"ledger.read", "ledger.open"})}) is opener
