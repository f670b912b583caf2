"""/consumers: stored positions of named readers, moved by compare-and-swap (ETag and If-Match, RFC 9110 §13)."""

from __future__ import annotations

import json

from starlette.requests import Request
from starlette.responses import Response

from ledger.consumers import Consumer
from ledger.core.canonical import parse_json
from ledger.errors import InvalidRequest, Malformed
from ledger.http.append import receive_body
from ledger.http.problems import Refused, unmet
from ledger.http.query import INDEX_MAX, parameters
from ledger.http.receive import header
from ledger.http.service import service_of
from ledger.store.base import Tag

BODY_SIZE_MAX = 4_096


async def list_consumers(request: Request) -> Response:
    """The names there are."""
    parameters(request, ())
    return _json({"consumers": await service_of(request).consumers.names()})


async def get_consumer(request: Request) -> Response:
    """Where a consumer is; its ETag is what it is moved by."""
    parameters(request, ())
    consumer, tag = await service_of(request).consumers.get(request.path_params["name"])
    return _shown(consumer, tag)


async def put_consumer(request: Request) -> Response:
    """Make a consumer (If-None-Match: *) or move it (If-Match with the ETag last seen)."""
    service = service_of(request)
    parameters(request, ())
    expected = _expected(request)
    media = (header(request.scope["headers"], b"content-type") or "").partition(";")[0].strip().lower()
    if media != "application/json":
        raise Refused(
            415, "unsupported-content-type", f"{media[:80]!r} is not taken here", hint="send application/json"
        )
    position = _position(await receive_body(request, service, BODY_SIZE_MAX))
    size = (await service.reader.head()).size
    if position > size:
        raise unmet(f"position {position} is beyond the ledger's {size} entries", hint="it would skip entries")
    consumer, tag = await service.consumers.move(
        request.path_params["name"], position, actor=service.actor_of(request.scope), expected=expected
    )
    return _shown(consumer, tag, status=201 if expected is None else 200)


async def delete_consumer(request: Request) -> Response:
    """Forget a consumer."""
    parameters(request, ())
    await service_of(request).consumers.remove(request.path_params["name"])
    return Response(status_code=204)


def _expected(request: Request) -> Tag | None:
    headers = request.scope["headers"]
    match, none_match = header(headers, b"if-match"), header(headers, b"if-none-match")
    if match is not None and none_match is None and len(match) > 2 and match[0] == match[-1] == '"':
        return Tag(match[1:-1])
    if none_match == "*" and match is None:
        return None
    raise Refused(
        428,
        "precondition-required",
        "it is not said what the consumer is expected to be",
        hint='send If-Match: "ETAG" to move it, or If-None-Match: * to make it',
    )


def _position(body: bytes) -> int:
    try:
        value = parse_json(body)
    except Malformed as error:
        raise InvalidRequest(f"the body is no JSON that can be read ({error.what})") from error
    if not isinstance(value, dict) or value.keys() != {"position"}:
        raise InvalidRequest("the body is not an object with 'position' alone", hint='send {"position": 42}')
    position = value["position"]
    if not isinstance(position, int) or isinstance(position, bool) or not 0 <= position <= INDEX_MAX:
        raise InvalidRequest("the position is no whole number, 0 or more", hint='send {"position": 42}')
    return position


def _shown(consumer: Consumer, tag: Tag, *, status: int = 200) -> Response:
    value = {
        "name": consumer.name,
        "position": consumer.position,
        "updated": consumer.updated,
        "actor": consumer.actor,
    }
    return _json(value, status=status, etag=f'"{tag}"')


def _json(value: object, *, status: int = 200, etag: str | None = None) -> Response:
    headers = {"cache-control": "no-store", **({"etag": etag} if etag else {})}
    return Response(json.dumps(value, ensure_ascii=False), status, headers, "application/json")
