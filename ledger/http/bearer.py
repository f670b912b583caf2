"""Access tokens on the ledger's API (RFC 6750): what a request may do when it carries one.

Without one, all stays as it is.

Who gives tokens out, and what makes one valid, is the business of whoever serves.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from starlette.types import ASGIApp, Receive, Scope, Send

from ledger.http.problems import Refused

APPEND: Final = "ledger.append"
READ: Final = "ledger.read"
OPEN: Final = "ledger.open"
"""To read what is sealed, in the clear."""

SCOPES: Final = "jinshi.scopes"
"""In the ASGI scope of a request with a valid token: the scopes of the token."""

Accept = Callable[[Any, str], Awaitable[frozenset[str]]]
"""The scopes of a token that came with a request (its ASGI scope). Raises Refused by `not_valid`."""


class Bearing:
    """Between the guard and the routes."""

    def __init__(self, app: ASGIApp, accept: Accept) -> None:
        self._app = app
        self._accept = accept

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            token = _token_of(scope)
            if token is not None:
                scopes = await self._accept(scope, token)
                needed = APPEND if scope["method"] == "POST" and scope["path"] == "/events" else READ
                if needed not in scopes:
                    raise _lacking(needed)
                scope[SCOPES] = scopes
        await self._app(scope, receive, send)


def may_open(scope: Scope) -> bool | None:
    """Whether the request's token opens what is sealed; None: it has no token."""
    scopes = scope.get(SCOPES)
    return None if scopes is None else OPEN in scopes


def not_valid(why: str, *, hint: str = "") -> Refused:
    """The refusal of a token, RFC 6750 §3.1."""
    headers = {"www-authenticate": 'Bearer error="invalid_token"'}
    return Refused(401, "invalid-token", why, hint=hint or "ask for a new token", headers=headers)


def _lacking(needed: str) -> Refused:
    headers = {"www-authenticate": f'Bearer error="insufficient_scope", scope="{needed}"'}
    return Refused(403, "insufficient-scope", f"the token is not for {needed}", headers=headers)


def _token_of(scope: Scope) -> str | None:
    found = [value for name, value in scope["headers"] if name == b"authorization"]
    if not found:
        return None
    header: str = found[0].decode("latin-1")
    kind, _, token = header.partition(" ")
    if len(found) > 1 or kind.lower() != "bearer" or not token.strip():
        raise not_valid("the Authorization header holds no bearer token", hint="send one: Authorization: Bearer TOKEN")
    return token.strip()
