"""The C2SP tlog-tiles read API under the ledger's prefix, `/<hex SHA-256 of the origin>/`, from what is published."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from ledger.core.checkpoint import CHECKPOINT
from ledger.core.tiles import parse_tile_path
from ledger.errors import InvalidRequest, MalformedTile, ObjectMissing
from ledger.http.problems import Refused
from ledger.http.query import parameters
from ledger.http.receive import header
from ledger.http.service import service_of
from ledger.keyring import KEYRING
from ledger.store.base import ObjectStore, validate_key

FOREVER = "max-age=31536000, immutable"
ASK_AGAIN = "no-cache"
TEXT = "text/plain; charset=utf-8"
BYTES = "application/octet-stream"


async def get_checkpoint(request: Request) -> Response:
    """The newest checkpoint, with the log's own signature."""
    return await _object(request, CHECKPOINT, TEXT, ASK_AGAIN)


async def get_tile(request: Request) -> Response:
    """A Merkle tile or an entry bundle. A partial one disappears when the full one is there (C2SP tlog-tiles)."""
    path = "tile/" + request.path_params["path"]
    try:
        tile = parse_tile_path(path)
    except MalformedTile as error:
        raise _missing(path) from error
    return await _object(request, path, BYTES, ASK_AGAIN if tile.partial else FOREVER)


async def get_key(request: Request) -> Response:
    """A key of the keyring, as wrapped to the offline recovery key."""
    return await _object(request, KEYRING + request.path_params["keyid"], "application/json", "no-store")


async def _object(request: Request, key: str, media_type: str, caching: str) -> Response:
    parameters(request, ())
    try:
        return await object_response(request, service_of(request).published, key, media_type, caching)
    except (ObjectMissing, InvalidRequest) as error:
        raise _missing(key) from error


async def object_response(request: Request, objects: ObjectStore, key: str, media_type: str, caching: str) -> Response:
    """An object as it is stored, or 304 where the caller has it already.

    Raises:
        ObjectMissing, InvalidRequest: it is not there, or `key` is none.
    """
    stored = await objects.get(validate_key(key))
    etag = f'"{stored.tag}"'
    headers = {"cache-control": caching, "etag": etag}
    if matches(header(request.scope["headers"], b"if-none-match"), etag):
        return Response(None, 304, headers)
    return Response(stored.data, 200, headers, media_type)


def matches(condition: str | None, etag: str) -> bool:
    """Whether If-None-Match names this ETag; weak comparison (RFC 9110 §13.1.2)."""
    if condition is None:
        return False
    return condition == "*" or etag in (one.strip().removeprefix("W/") for one in condition.split(","))


def _missing(key: str) -> Refused:
    return Refused(404, "not-published", f"{key[:120]} is not published", hint="fetch the checkpoint, then its tiles")
