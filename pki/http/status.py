"""Certificate lists, certificates of authorities and OCSP over HTTP: RFC 5280 §4.2.1.13, RFC 6960 appendix A, RFC 5019.

The same routes serve the primary and a site that has nothing but what was published to it (`StatusSource`).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from email.utils import formatdate
from typing import Final
from urllib.parse import unquote_to_bytes

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from ledger.errors import ObjectMissing
from ledger.http.problems import Refused
from ledger.protocols import Clock
from pki.core.ocsp import REQUEST_SIZE_MAX, Failed, failed
from pki.status.base import StatusSource, Told, parse_key_name, parse_list_name

CRL_TYPE: Final = "application/pkix-crl"
CERTIFICATE_TYPE: Final = "application/pkix-cert"
REQUEST_TYPE: Final = b"application/ocsp-request"
RESPONSE_TYPE: Final = "application/ocsp-response"

FRESH_MAX_S: Final = 300
"""How long a cache may keep an answer at most: a revocation is not hidden for longer by what stands between."""

_NOT_KEPT: Final = {"cache-control": "no-store"}


@dataclass(frozen=True, slots=True)
class StatusService:
    """What the routes need."""

    source: StatusSource
    clock: Clock


Answering = Callable[[StatusService, Request], Awaitable[Response]]


def routes(service: StatusService) -> list[Route]:
    """Every route."""

    def handler(answer: Answering) -> Callable[[Request], Awaitable[Response]]:
        async def handle(request: Request) -> Response:
            return await answer(service, request)

        return handle

    return [
        Route("/ocsp", PostOcsp(service), methods=["POST"]),
        Route("/crl/{name}.crl", handler(get_crl), methods=["GET"]),
        Route("/ca/{name}.cer", handler(get_certificate), methods=["GET"]),
        Route("/ocsp/{request:path}", handler(get_ocsp), methods=["GET"]),
    ]


async def get_crl(service: StatusService, request: Request) -> Response:
    """The newest list of a shard, or its delta."""
    name = parse_list_name(request.path_params["name"])
    if name is None:
        raise ObjectMissing(f"crl {request.path_params['name'][:80]}")
    authority, generation, shard, delta = name
    told = await service.source.crl(authority, generation, shard, delta=delta)
    return _answer(service, request, told, CRL_TYPE)


async def get_certificate(service: StatusService, request: Request) -> Response:
    """The certificate of an authority's key, for who builds a path (caIssuers)."""
    name = parse_key_name(request.path_params["name"])
    if name is None:
        raise ObjectMissing(f"ca {request.path_params['name'][:80]}")
    return _answer(service, request, await service.source.certificate(*name), CERTIFICATE_TYPE)


@dataclass(frozen=True, slots=True)
class PostOcsp:
    """An OCSP request in the body, as an ASGI application of its own: it is asked for as often as all else together.

    What answers a POST is in no cache, so that nothing is said of how long it may be kept (RFC 5019 §6.1).
    """

    service: StatusService

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer (ASGI). Raises Refused, ClientDisconnect."""
        kind = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
        if kind.partition(b";")[0].strip().lower() != REQUEST_TYPE:
            raise Refused(415, "not-ocsp", f"an OCSP request is {REQUEST_TYPE.decode()}")
        body = await self._body(receive)
        told = Told(failed(Failed.MALFORMED)) if body is None else await self.service.source.ocsp(body)
        size = str(len(told.data)).encode()
        headers = [
            (b"content-type", RESPONSE_TYPE.encode()),
            (b"content-length", size),
            (b"cache-control", b"no-store"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": told.data})

    @staticmethod
    async def _body(receive: Receive) -> bytes | None:
        """None: it is larger than any request that is answered."""
        body: bytes = b""
        while True:
            message = await receive()
            if message["type"] != "http.request":
                raise ClientDisconnect
            body += message.get("body", b"")
            if len(body) > REQUEST_SIZE_MAX:
                return None
            if not message.get("more_body", False):
                return body


async def get_ocsp(service: StatusService, request: Request) -> Response:
    """An OCSP request in the path, base64: what caches can keep."""
    # The decoded path would have lost a "%2F" among its slashes.
    raw = request.scope["raw_path"].partition(b"/ocsp/")[2]
    try:
        body = base64.b64decode(unquote_to_bytes(raw), validate=True)
    except (binascii.Error, ValueError):
        return Response(failed(Failed.MALFORMED), 200, _NOT_KEPT, RESPONSE_TYPE)
    told = await service.source.ocsp(body)
    if not told.until:
        return Response(told.data, 200, _NOT_KEPT, RESPONSE_TYPE)
    return _answer(service, request, told, RESPONSE_TYPE)


def _answer(service: StatusService, request: Request, told: Told, media_type: str) -> Response:
    headers = _headers(service, told)
    if headers["etag"] in (one.strip() for one in request.headers.get("if-none-match", "").split(",")):
        return Response(None, 304, headers)
    return Response(told.data, 200, headers, media_type)


def _headers(service: StatusService, told: Told) -> dict[str, str]:
    """RFC 5019 §6.2. No longer than `FRESH_MAX_S`, and never past the time of what is told."""
    now = int(service.clock.now().timestamp())
    fresh_s = min(FRESH_MAX_S, max(0, told.until - now)) if told.until else FRESH_MAX_S
    headers = {
        "cache-control": f"max-age={fresh_s},public,no-transform,must-revalidate",
        "expires": formatdate(now + fresh_s, usegmt=True),
        "etag": f'"{hashlib.sha256(told.data).hexdigest()[:32]}"',
    }
    if told.since:
        headers["last-modified"] = formatdate(told.since, usegmt=True)
    return headers
