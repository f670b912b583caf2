"""What an ACME client is told when something is wrong: the problem types of RFC 8555 §6.7 and those that came later."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from starlette.responses import Response

from ledger.errors import (
    Conflict,
    EntryTooLarge,
    IssuanceRefused,
    JinshiError,
    NotPermitted,
    Pushback,
    Unavailable,
)
from pki.acme.names import identifier_of

MEDIA_TYPE: Final = "application/problem+json"
PREFIX: Final = "urn:ietf:params:acme:error:"
RETRY_AFTER_S: Final = 5

STATUS: Final[Mapping[str, int]] = {
    "accountDoesNotExist": 400,
    "alreadyReplaced": 409,  # RFC 9773 §7.4
    "alreadyRevoked": 400,
    "badCSR": 400,
    "badNonce": 400,
    "badPublicKey": 400,
    "badRevocationReason": 400,
    "badSignatureAlgorithm": 400,
    "caa": 403,
    "connection": 400,
    "dns": 400,
    "externalAccountRequired": 403,
    "incorrectResponse": 403,
    "invalidContact": 400,
    "invalidProfile": 400,  # draft-ietf-acme-profiles
    "malformed": 400,
    "orderNotReady": 403,
    "rateLimited": 429,
    "rejectedIdentifier": 400,
    "serverInternal": 500,
    "tls": 400,
    "unauthorized": 403,
    "unsupportedContact": 400,
    "unsupportedIdentifier": 400,
}
"""Each type and the HTTP status that goes with it, where nothing else is said."""


@dataclass(frozen=True, slots=True)
class Subproblem:
    """What is wrong with one of an order's names (RFC 8555 §6.7.1)."""

    kind: str
    detail: str
    name: str

    def shown(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "type": PREFIX + self.kind,
            "detail": self.detail,
            "identifier": identifier_of(self.name),
        }


class Problem(JinshiError):
    """A request that is answered with one of ACME's errors; `kind` is its type without the prefix."""

    def __init__(
        self,
        kind: str,
        what: str,
        *,
        status: int | None = None,
        hint: str = "",
        subproblems: Sequence[Subproblem] = (),
        headers: Mapping[str, str] | None = None,
        members: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(what, hint=hint)
        self.kind = kind
        self.status = STATUS[kind] if status is None else status
        self.subproblems = tuple(subproblems)
        self.headers = dict(headers or {})
        self.members = dict(members or {})

    def shown(self) -> dict[str, Any]:
        """The problem document (RFC 9457)."""
        shown: dict[str, Any] = {"type": PREFIX + self.kind, "detail": str(self), "status": self.status, **self.members}
        if self.subproblems:
            shown["subproblems"] = [one.shown() for one in self.subproblems]
        return shown


def malformed(what: str, *, hint: str = "") -> Problem:
    """A message that is not what RFC 8555 says it is."""
    return Problem("malformed", what, hint=hint)


def absent(what: str) -> Problem:
    """A resource that is not there, or not this account's: which of them is not said."""
    return Problem("malformed", what, status=404)


def limited(what: str, *, retry_after_s: float) -> Problem:
    """Too much; it can be tried again later (RFC 8555 §6.6)."""
    return Problem("rateLimited", what, headers={"retry-after": str(math.ceil(retry_after_s))})


def problem_of(error: JinshiError) -> Problem:
    """The error tree in ACME's words; what is wrong inside of us is not told."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, EntryTooLarge):
        return Problem("malformed", "the request has more than can be recorded of it", status=413)
    if isinstance(error, Pushback):
        return limited(error.what, retry_after_s=error.retry_after_s)
    if isinstance(error, NotPermitted):
        return Problem("unauthorized", error.what, hint=error.hint)
    if isinstance(error, IssuanceRefused):
        return Problem("badCSR", error.what, hint=error.hint)
    if isinstance(error, Conflict):
        return Problem("malformed", error.what, hint=error.hint, status=409)
    if isinstance(error, Unavailable):
        return Problem(
            "serverInternal",
            "it cannot be done now; nothing was lost",
            status=503,
            headers={"retry-after": str(RETRY_AFTER_S)},
        )
    return Problem("serverInternal", "the request cannot be answered", hint="tell the operator")


def response_of(problem: Problem) -> Response:
    """The answer, without a nonce."""
    return Response(
        json.dumps(problem.shown(), ensure_ascii=False).encode("utf-8", "backslashreplace"),
        problem.status,
        {"cache-control": "no-store", **problem.headers},
        MEDIA_TYPE,
    )
