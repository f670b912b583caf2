"""What every OpenAPI document of ours is put together from: operations with their answers and problems, parameters."""

from __future__ import annotations

from collections.abc import Sequence

from ledger.http.problems import MEDIA_TYPE
from ledger.http.schemas import Json, ref

_REFUSING = {
    401: {"WWW-Authenticate": {"schema": {"type": "string"}}},
    503: {"Retry-After": {"schema": {"type": "integer"}}},
    507: {"Retry-After": {"schema": {"type": "integer"}}},
}
_EVERYWHERE = (400, 404, 405, 421, 431, 500, 503)
_DESCRIPTIONS = {
    200: "It is done.",
    201: "It is done, and is new.",
    202: "It is recorded, and goes on when others have acted.",
    204: "It is done; there is nothing to say.",
    304: "It is what you have already.",
    400: "The request makes no sense.",
    401: "The access token does not count.",
    403: "The caller may not do that.",
    404: "There is no such thing.",
    405: "That method cannot be used here.",
    408: "The body did not arrive in time.",
    409: "It contradicts what is recorded.",
    412: "The stream, or the consumer, is not at what was expected.",
    413: "The event or the body is too large.",
    415: "The content type is not taken here.",
    421: "The request was meant for another host.",
    422: "The request does not fit what is recorded.",
    428: "It is not said what the consumer is expected to be.",
    431: "The headers are too large.",
    500: "The server, or what is stored, is not in order.",
    503: "It cannot be done now; nothing is lost. Repeat it after Retry-After.",
    507: "No space is left.",
}


def operation(
    name: str,
    summary: str,
    description: str = "",
    *,
    answers: dict[int, tuple[Json, Json]],
    parameters: Sequence[Json] = (),
    body: Json | None = None,
    problems: Sequence[int] = (),
) -> Json:
    """An operation. `answers`: by status, what it sends (by media type) and its headers; `problems`: more statuses."""
    responses: Json = {}
    for status, (content, headers) in answers.items():
        responses[str(status)] = {
            "description": _DESCRIPTIONS[status],
            **({"content": content} if content else {}),
            **({"headers": headers} if headers else {}),
        }
    for status in sorted({*_EVERYWHERE, *problems}):
        responses[str(status)] = problem(status)
    operation: Json = {"operationId": name, "summary": summary, "responses": responses}
    if description:
        operation["description"] = description
    if parameters:
        operation["parameters"] = list(parameters)
    if body is not None:
        operation["requestBody"] = body
    return operation


def problem(status: int) -> Json:
    """The answer of a status that says what is wrong (RFC 9457)."""
    headers = _REFUSING.get(status)
    return {
        "description": _DESCRIPTIONS[status],
        "content": {MEDIA_TYPE: {"schema": ref("Problem")}},
        **({"headers": headers} if headers else {}),
    }


def query(name: str, schema: Json, about: str, *, required: bool = False) -> Json:
    """A query parameter."""
    return {"name": name, "in": "query", "required": required, "schema": schema, "description": about}


def header(name: str, schema: Json, about: str) -> Json:
    """A header, which may be left out."""
    return {"name": name, "in": "header", "required": False, "schema": schema, "description": about}


def path(name: str, schema: Json) -> Json:
    """A part of the path."""
    return {"name": name, "in": "path", "required": True, "schema": schema}
