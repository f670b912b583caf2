"""The error tree as problem details (RFC 9457): the one table that knows which error is which status."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route

from ledger import errors
from ledger.errors import JinshiError, Pushback, Unacknowledged, Unavailable

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:jinshi:problem:"
RETRY_AFTER_S = 5

# The first class that an error is an instance of decides; so the special ones stand before the general ones.
STATUS: Mapping[type[JinshiError], tuple[int, str]] = {
    errors.EntryTooLarge: (413, "The event is too large for an entry"),
    errors.MalformedEvent: (400, "This is no CloudEvent that can be recorded"),
    errors.MalformedRequest: (422, "This is no certification request that can be met"),
    errors.NotPermitted: (403, "The caller may not do that"),
    errors.IssuanceRefused: (422, "It may not be certified so"),
    errors.InvalidRequest: (400, "The request makes no sense"),
    errors.VersionConflict: (412, "The stream is not at the expected version"),
    errors.CompareFailed: (412, "It is no longer what it was"),
    errors.IdConflict: (409, "The event's id is recorded with other content"),
    errors.Conflict: (409, "It contradicts what is recorded"),
    errors.ObjectMissing: (404, "There is no such thing"),
    errors.DiskFull: (507, "No space is left"),
    errors.OverQuota: (507, "The site's quota is used up"),
    errors.Fenced: (503, "Another writer has taken over"),
    errors.Pushback: (503, "Too much is being done at once"),
    errors.StoreUnavailable: (503, "The store cannot be used"),
    errors.Unacknowledged: (503, "It is recorded, but not at as many sites as it should be"),
    errors.Unavailable: (503, "It cannot be done now"),
    errors.Tampered: (500, "A copy is not what was signed for"),
    errors.JinshiError: (500, "The ledger cannot answer"),
}

_TITLES = {
    400: "The request makes no sense",
    401: "The caller is not known",
    403: "The caller may not do that",
    404: "There is no such thing",
    405: "The method is not allowed here",
    408: "The request took too long",
    413: "The request is too large",
    415: "The content type is not known here",
    421: "The request was meant for another server",
    422: "The request cannot be met as it stands",
    428: "The request needs a condition",
    431: "The request's head is too large",
}
_WORDS = re.compile(r"(?<=[a-z])(?=[A-Z])")


class Refused(JinshiError):
    """A request that HTTP itself has a status for; `kind` names the problem type."""

    def __init__(
        self, status: int, kind: str, what: str, *, hint: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(what, hint=hint)
        self.status = status
        self.kind = kind
        self.headers = dict(headers or {})


def unmet(what: str, *, hint: str = "") -> Refused:
    """A request that is well formed but does not fit what is recorded (422); 400 is for what is not well formed."""
    return Refused(422, "unmet", what, hint=hint)


class ReceiptPending(Unavailable):
    """The entry is recorded, but no checkpoint of the kind that was asked for covers it yet.

    `sites`: how far each site is, or what is wrong there, where that is what is waited for.
    """

    def __init__(self, what: str, *, hint: str = "", sites: Mapping[str, str] | None = None) -> None:
        super().__init__(what, hint=hint)
        self.sites = dict(sites or {})


class NotAcknowledged(Unacknowledged):
    """`Unacknowledged`, with the places at which the events of the request are recorded."""

    def __init__(self, error: Unacknowledged, events: Sequence[Mapping[str, object]]) -> None:
        super().__init__(error.what, hint=error.hint, sites=error.sites)
        self.events = list(events)


def problem(
    status: int,
    kind: str,
    title: str,
    what: str,
    *,
    hint: str = "",
    headers: Mapping[str, str] | None = None,
    more: Mapping[str, object] | None = None,
) -> Response:
    """A problem details response (RFC 9457), with `hint` and `more` as extension members."""
    body: dict[str, object] = {"type": TYPE_PREFIX + kind, "title": title, "status": status, "detail": what}
    if hint:
        body["hint"] = hint
    body |= more or {}
    return Response(
        json.dumps(body, ensure_ascii=False).encode("utf-8", "backslashreplace"),
        status,
        {"cache-control": "no-store", **(headers or {})},
        MEDIA_TYPE,
    )


def response_of(error: JinshiError) -> Response:
    """What a caller is answered for an error."""
    if isinstance(error, Refused):
        title = _TITLES[error.status]
        return problem(error.status, error.kind, title, error.what, hint=error.hint, headers=error.headers)
    kind = next(kind for kind in STATUS if isinstance(error, kind))
    status, title = STATUS[kind]
    headers: dict[str, str] = {}
    if isinstance(error, Pushback):
        headers["retry-after"] = str(math.ceil(error.retry_after_s))
    elif status in (503, 507):
        headers["retry-after"] = str(RETRY_AFTER_S)
    name = _WORDS.sub("-", type(error).__name__).lower()
    more: dict[str, object] = {}
    if isinstance(error, NotAcknowledged):
        more = {"sites": error.sites, "events": error.events}
    elif isinstance(error, ReceiptPending) and error.sites:
        more = {"sites": error.sites}
    return problem(status, name, title, error.what, hint=error.hint, headers=headers, more=more)


def fault() -> Response:
    """What a caller is answered when the fault is ours: nothing of what is inside."""
    return problem(
        500,
        "fault",
        "A fault in the server",
        "a fault in the server stopped this request",
        hint="nothing acknowledged is lost; repeat the request, and tell the operator",
    )


async def on_jinshi_error(_: Request, error: Exception) -> Response:
    """Starlette's handler for the error tree."""
    assert isinstance(error, JinshiError)
    return response_of(error)


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Starlette's handler for what its router refuses."""
    assert isinstance(error, HTTPException)
    return refused_by_router(request, error)


def refused_by_router(request: Request, error: HTTPException) -> Response:
    """What a caller is answered where there is no such path, or no such method there."""
    status, headers = error.status_code, dict[str, str]()
    if status == 405:
        headers["allow"] = ", ".join(sorted(_methods_at(request)))
        what, kind = f"{request.method[:16]} cannot be used on {request.url.path[:200]}", "method-not-allowed"
    else:
        what, kind = f"there is nothing at {request.url.path[:200]}", "not-found"
    return problem(status, kind, _TITLES[status], what, hint="see /openapi.json", headers=headers)


def _methods_at(request: Request) -> set[str]:
    """Every method of a path (RFC 9110 §10.2.1), over all of its routes."""
    methods: set[str] = set()
    for route in request.app.routes:
        if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE:
            methods |= route.methods or set()
    return methods
