"""ACME over HTTP (RFC 8555 §6, §7): routes, signed requests, headers. What they mean is decided elsewhere.

Clients have no certificates yet: they are known by the signatures of their account keys, so that ACME has a listener of
its own, HTTPS without client certificates.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ledger.errors import JinshiError
from ledger.http.guard import Guard, Guarded
from pki.access.base import Caller
from pki.access.base import Resource as AccessResource
from pki.acme.accounts import Accounts
from pki.acme.base import Acme
from pki.acme.jws import MESSAGE_SIZE_MAX, Jwk, Jws, jws_of, parse_jwk, parse_jws, verify
from pki.acme.messages import (
    parse_account_message,
    parse_answer,
    parse_deactivation,
    parse_finalize_message,
    parse_json_message,
    parse_order_message,
    parse_revocation_message,
)
from pki.acme.nonces import Nonces
from pki.acme.orders import Orders
from pki.acme.problems import Problem, absent, malformed, problem_of, response_of
from pki.acme.resources import Resources, pem_chain
from pki.acme.revoking import Revocations
from pki.acme.working import Working
from pki.aggregates.acme import VALID, Account
from pki.aggregates.acme_order import PENDING, PROCESSING

JOSE: Final = "application/jose+json"
PEM_CHAIN: Final = "application/pem-certificate-chain"
BODY_TIMEOUT_S: Final = 30.0

OnRefused = Callable[[Caller, str, AccessResource, str], None]
"""As `RefusalLog.note`: told of every request that was refused, for the summaries."""
Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Signed:
    """A request whose signature holds: its account, or (for newAccount and revokeCert) the key it came with."""

    jws: Jws
    account: Account | None
    key: Jwk

    @property
    def payload(self) -> bytes:
        """Empty: POST-as-GET (RFC 8555 §6.3)."""
        return self.jws.payload


@dataclass(frozen=True, slots=True)
class Face:
    """What the routes answer from."""

    acme: Acme
    accounts: Accounts
    orders: Orders
    revocations: Revocations
    working: Working
    nonces: Nonces
    resources: Resources
    on_refused: OnRefused

    # -- without a signature --

    async def get_directory(self, _: Request) -> Response:
        """RFC 8555 §7.1.1."""
        return _json(self.resources.directory())

    async def new_nonce(self, request: Request) -> Response:
        """RFC 8555 §7.2; the nonce itself is on every answer."""
        return Response(status_code=200 if request.method == "HEAD" else 204, headers={"cache-control": "no-store"})

    async def get_renewal(self, request: Request) -> Response:
        """RFC 9773 §4.2."""
        shown = await self.orders.renewals.information(request.path_params["certificate"])
        return _json(shown, headers={"retry-after": str(self.acme.settings.renewal_check_s)})

    # -- accounts --

    async def new_account(self, request: Request) -> Response:
        """RFC 8555 §7.3."""
        signed = await self._signed(request, by_key=True)
        message = parse_account_message(signed.payload, contacts_max=self.acme.settings.contacts_max)
        account, new = await self.accounts.register(signed.key, message, signed.jws.url)
        location = self.accounts.url(account.name)
        return _json(self.resources.account(account), 201 if new else 200, {"location": location})

    async def account(self, request: Request) -> Response:
        """RFC 8555 §7.3.2, §7.3.6."""
        signed, account = await self._own(request)
        if signed.payload:
            message = parse_account_message(signed.payload, contacts_max=self.acme.settings.contacts_max)
            account = await self.accounts.change(account, message)
        return _json(self.resources.account(account), headers={"location": self.accounts.url(account.name)})

    async def list_orders(self, request: Request) -> Response:
        """RFC 8555 §7.1.2.1, page by page."""
        signed, account = await self._own(request)
        _must_be_empty(signed)
        cursor = request.query_params.get("cursor", "0")
        if not cursor.isascii() or not cursor.isdigit() or len(cursor) > 15:
            raise malformed("the cursor is none of ours")
        index, limit = self.acme.index, self.acme.settings.orders_page
        await index.catch_up()
        rows = index.acme.orders(index.database, account.name, self.acme.now_s(), after=int(cursor) - 1, limit=limit)
        headers = {}
        if len(rows) == limit:
            there = self.resources.url("account", account.name, "orders")
            headers["link"] = f'<{there}?cursor={rows[-1][1] + 1}>;rel="next"'
        return _json({"orders": [self.resources.url("order", name) for name, _ in rows]}, headers=headers)

    async def key_change(self, request: Request) -> Response:
        """RFC 8555 §7.3.5."""
        signed, account = await self._of_account(request)
        inner = jws_of(parse_json_message(signed.payload))
        changed = await self.accounts.change_key(account, inner, signed.jws.url)
        return _json(self.resources.account(changed), headers={"location": self.accounts.url(changed.name)})

    # -- orders --

    async def new_order(self, request: Request) -> Response:
        """RFC 8555 §7.4."""
        signed, account = await self._of_account(request)
        message = parse_order_message(signed.payload, names_max=self.acme.settings.names_max)
        order = await self.orders.make(account, message)
        location = self.resources.url("order", order.name)
        return _json(self.resources.order(order, self.acme.now_s()), 201, {"location": location})

    async def order(self, request: Request) -> Response:
        """RFC 8555 §7.1.3."""
        signed, account = await self._of_account(request)
        _must_be_empty(signed)
        order = await self.orders.find(account, request.path_params["order"])
        headers = self._retry() if self.resources.waits(order) else {}
        return _json(self.resources.order(order, self.acme.now_s()), headers=headers)

    async def finalize(self, request: Request) -> Response:
        """RFC 8555 §7.4: the certificate, if it comes at once; else the client asks again."""
        signed, account = await self._of_account(request)
        order = await self.orders.find(account, request.path_params["order"])
        order, new = await self.orders.finalize(account, order, parse_finalize_message(signed.payload))
        task = self.working.issue(order.name) if new else None
        if task is not None:
            await asyncio.wait({task}, timeout=self.acme.settings.finalize_wait_s)
            order = await self.orders.find(account, order.name)
        headers = {"location": self.resources.url("order", order.name)}
        headers |= self._retry() if self.resources.waits(order) else {}
        return _json(self.resources.order(order, self.acme.now_s()), headers=headers)

    async def certificate(self, request: Request) -> Response:
        """RFC 8555 §7.4.2."""
        signed, account = await self._of_account(request)
        _must_be_empty(signed)
        order = await self.orders.find(account, request.path_params["order"])
        if order.state != VALID:
            raise absent("the order has no certificate")
        return Response(pem_chain(order), 200, {"cache-control": "no-store"}, PEM_CHAIN)

    # -- authorizations --

    async def authorization(self, request: Request) -> Response:
        """RFC 8555 §7.5."""
        signed, account = await self._of_account(request)
        order, number = await self._authorization(request, account)
        if signed.payload:
            parse_deactivation(signed.payload)
            order = await self.orders.deactivate_authorization(account, order, number)
        one = order.authorizations[number]
        looked_at = one.state == PENDING and any(each.state == PROCESSING for each in one.challenges)
        headers = self._retry() if looked_at else {}
        return _json(self.resources.authorization(order, number, self.acme.now_s()), headers=headers)

    async def challenge(self, request: Request) -> Response:
        """RFC 8555 §7.5.1."""
        signed, account = await self._of_account(request)
        order, number = await self._authorization(request, account)
        challenges = order.authorizations[number].challenges
        which = request.path_params["challenge"]
        if which not in {str(n) for n in range(len(challenges))}:
            raise absent("there is no such challenge")
        which = int(which)
        if signed.payload:
            parse_answer(signed.payload)
            order, new = await self.orders.answer(account, order, number, which)
            if new:
                self.working.look(order.name, number, which)
        challenge = order.authorizations[number].challenges[which]
        headers = {"link": f'<{self.resources.url("authz", order.name, number)}>;rel="up"'}
        headers |= self._retry() if challenge.state == PROCESSING else {}
        return _json(self.resources.challenge(order, number, which, challenge), headers=headers)

    async def _authorization(self, request: Request, account: Account) -> tuple[Any, int]:
        path = request.path_params
        return await self.orders.find_authorization(account, path["order"], path["number"])

    # -- revocation --

    async def revoke(self, request: Request) -> Response:
        """RFC 8555 §7.6."""
        signed = await self._signed(request, by_key=None)
        message = parse_revocation_message(signed.payload)
        if signed.account is None:
            await self.revocations.by_key(signed.key, message)
        else:
            await self.revocations.by_account(signed.account, message)
        return Response(status_code=200)

    # -- signed requests --

    async def _own(self, request: Request) -> tuple[Signed, Account]:
        """A request to an account's own resources."""
        signed, account = await self._of_account(request)
        if request.path_params["account"] != account.name:
            raise Problem("unauthorized", "that is another account's")
        return signed, account

    async def _of_account(self, request: Request) -> tuple[Signed, Account]:
        signed = await self._signed(request, by_key=False)
        assert signed.account is not None
        return signed, signed.account

    async def _signed(self, request: Request, *, by_key: bool | None) -> Signed:
        """Everything that RFC 8555 §6 asks of a request. `by_key`: jwk (True), kid (False), or either (None)."""
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != JOSE:
            raise Problem("malformed", f"the content type is not {JOSE}", status=415)
        jws = parse_jws(await _body(request))
        if by_key is not None and (jws.jwk is not None) != by_key:
            raise malformed(f"this request is signed with {'jwk' if by_key else 'kid'}")
        account = None if jws.kid is None else await self.accounts.by_kid(jws.kid)
        key = jws.jwk if account is None else parse_jwk(dict(account.jwk))
        assert key is not None, "one of jwk and kid is there"
        verify(jws, key)
        if account is not None:
            request.state.account = account.name
        if jws.url != self._url(request):
            raise Problem("unauthorized", "the message was signed for another URL", hint="RFC 8555 §6.4")
        if jws.nonce is None or not self.nonces.use(jws.nonce):
            raise Problem("badNonce", "the nonce is none of ours, or was used before", hint="sign it again")
        return Signed(jws, account, key)

    def _url(self, request: Request) -> str:
        """Where a client must have sent it to, whatever stands before us."""
        base = self.acme.settings.url
        query = f"?{request.url.query}" if request.url.query else ""
        return base + request.url.path.removeprefix(urlsplit(base).path) + query

    def _retry(self) -> dict[str, str]:
        return {"retry-after": str(self.acme.settings.retry_after_s)}

    def _note(self, request: Request, handler: Handler, problem: Problem) -> None:
        """Only an account whose signature held is named: anybody can write a kid."""
        who = Caller(f"acme:{getattr(request.state, 'account', '')}")
        where = AccessResource("acme", request.url.path)
        self.on_refused(who, f"acme.{handler.__name__.replace('_', '-')}", where, problem.kind)

    # -- answering --

    def answering(self, handler: Handler) -> Handler:
        """Errors as ACME's, and what every answer has: a fresh nonce and where the directory is (§6.5, §7.1)."""

        async def answered(request: Request) -> Response:
            try:
                response = await handler(request)
            except JinshiError as error:
                problem = problem_of(error)
                if problem is not error and problem.status >= 500:
                    self.working.on_fault(error)
                else:
                    self._note(request, handler, problem)
                response = response_of(problem)
            if request.method != "GET" or request.url.path.endswith("/new-nonce"):
                response.headers["replay-nonce"] = self.nonces.new()
            if handler != self.get_directory:
                response.headers.append("link", f'<{self.resources.url("directory")}>;rel="index"')
            return response

        return answered


def routes(face: Face) -> list[Route]:
    """Every route, below the path of the URL in the settings."""
    prefix = urlsplit(face.acme.settings.url).path

    def route(path: str, handler: Handler, *methods: str) -> Route:
        return Route(prefix + path, face.answering(handler), methods=list(methods or ("POST",)))

    return [
        route("/directory", face.get_directory, "GET"),
        route("/new-nonce", face.new_nonce, "HEAD", "GET"),
        route("/renewal-info/{certificate}", face.get_renewal, "GET"),
        route("/new-account", face.new_account),
        route("/account/{account}", face.account),
        route("/account/{account}/orders", face.list_orders),
        route("/key-change", face.key_change),
        route("/new-order", face.new_order),
        route("/order/{order}", face.order),
        route("/order/{order}/finalize", face.finalize),
        route("/order/{order}/certificate", face.certificate),
        route("/authz/{order}/{number}", face.authorization),
        route("/challenge/{order}/{number}/{challenge}", face.challenge),
        route("/revoke-cert", face.revoke),
    ]


def make_app(face: Face, served: Guarded) -> Starlette:
    """The application for ACME's own listener."""
    app = Starlette(
        routes=routes(face),
        middleware=[Middleware(Guard, served=served)],
        exception_handlers={HTTPException: _on_http_exception},
    )
    app.router.redirect_slashes = False
    return app


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    what = "the method is not allowed here" if error.status_code == 405 else "there is nothing there"
    return response_of(Problem("malformed", what, status=error.status_code, hint="see the directory"))


async def _body(request: Request) -> bytes:
    too_large = Problem("malformed", f"the message has more than {MESSAGE_SIZE_MAX} bytes", status=413)
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for part in request.stream():
                body += part
                if len(body) > MESSAGE_SIZE_MAX:
                    raise too_large
    except TimeoutError as error:
        raise Problem("malformed", "the message did not come in time", status=408) from error
    return bytes(body)


def _must_be_empty(signed: Signed) -> None:
    if signed.payload:
        raise malformed("this is read with an empty payload (POST-as-GET, RFC 8555 §6.3)")


def _json(shown: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(
        json.dumps(shown, ensure_ascii=False).encode(),
        status,
        {"cache-control": "no-store", **(headers or {})},
        "application/json",
    )
