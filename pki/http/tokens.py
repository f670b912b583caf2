"""`POST /token`: access tokens for callers with a client certificate (RFC 6749 §4.4, RFC 8705 §2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ledger.errors import InvalidRequest, NotPermitted, Pushback, Unavailable
from pki.access.base import Caller
from pki.access.tokens import SCOPES, Tokens
from pki.http.bodies import Bodies, json_response, media_type
from pki.keystore.base import KeyMissing

FORM: Final = "application/x-www-form-urlencoded"
FIELDS_MAX: Final = 16


@dataclass(frozen=True, slots=True)
class TokenService:
    """What the route is handed. `caller_of` says who is calling, from a request's ASGI scope."""

    tokens: Tokens
    caller_of: Callable[[Any], Caller]
    bodies: Bodies = field(default_factory=lambda: Bodies(size_max=8 * 2**10))


def routes(service: TokenService) -> list[Route]:
    """The token endpoint."""

    async def post(request: Request) -> Response:
        return await _token(service, request)

    return [Route("/token", post, methods=["POST"])]


async def _token(service: TokenService, request: Request) -> Response:
    """RFC 6749 §5: a token, or an error in that form."""
    body = await service.bodies.receive(request)
    if media_type(request) != FORM:
        return _error("invalid_request", f"send {FORM}")
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=FIELDS_MAX)
    except ValueError:  # not ASCII, or too many fields
        return _error("invalid_request", "the body is no form")
    form = dict(pairs)
    if len(form) != len(pairs):
        return _error("invalid_request", "a parameter is there twice")  # RFC 6749 §3.2
    if form.get("grant_type") != "client_credentials":
        known = "grant_type" in form
        return _error("unsupported_grant_type" if known else "invalid_request", "use client_credentials")
    try:
        caller = service.caller_of(request.scope)
        scopes = form.get("scope", " ".join(SCOPES)).split()
        granted = await service.tokens.issue(caller, scopes, client_id=form.get("client_id"))
    except NotPermitted as error:
        return _error("invalid_client", error.what, 401)
    except KeyMissing as error:  # after a restore, until the keys are brought back
        return _error("temporarily_unavailable", error.what, 503)
    except InvalidRequest as error:
        return _error("invalid_scope", error.what)
    except Pushback:
        raise
    except Unavailable as error:
        return _error("temporarily_unavailable", error.what, 503)
    return json_response(
        {
            "access_token": granted.token,
            "token_type": "Bearer",
            "expires_in": granted.expires_in_s,
            "scope": granted.scope,
        },
        headers={"pragma": "no-cache"},
    )


def _error(code: str, what: str, status: int = 400) -> Response:
    said = "".join(letter if " " <= letter <= "~" and letter not in '"\\' else "?" for letter in what[:200])
    headers = {"www-authenticate": f'Bearer error="{code}"'} if status == 401 else {}
    return json_response({"error": code, "error_description": said}, status, headers)
