"""What the servers of a mirror and of a witness share: bounds, counts, bodies, and what becomes of an error."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ledger.errors import (
    Forked,
    InvalidRequest,
    JinshiError,
    MalformedNote,
    ProofInvalid,
    Pushback,
    Unavailable,
    Untrusted,
)
from ledger.http.guard import Guard
from ledger.http.metrics import CONTENT_TYPE
from ledger.http.problems import Refused, on_http_exception, on_jinshi_error, problem, response_of
from replication.http.wire import (
    ADD_CHECKPOINT_SIZE_MAX,
    SIZE_TYPE,
    AddCheckpoint,
    format_size,
    parse_add_checkpoint,
)
from replication.witness import OldSizeMismatch, UnknownLog

NO_STORE = {"cache-control": "no-store"}
TEXT = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class RoleLimits:
    """Bounds of one server. What is full is answered with 503 and Retry-After."""

    requests_max: int = 128
    uploads_max: int = 4
    """Each holds one package, up to 17 MB, in memory."""
    head_size_max: int = 32 * 2**10
    body_timeout_s: float = 30.0
    package_timeout_s: float = 120.0
    """Time for one package of an upload to come: whoever is slower keeps others out."""
    store_timeout_s: float = 5.0
    retry_after_s: float = 1.0


@dataclass(eq=False, slots=True)
class Face:
    """One server. `hosts`: the host names answered to, None for any; `troubles` says what keeps it from being ready."""

    troubles: Callable[[], Awaitable[list[str]]]
    hosts: frozenset[str] | None = None
    limits: RoleLimits = field(default_factory=RoleLimits)
    on_fault: Callable[[Exception], None] = lambda error: None
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    requests: int = 0
    uploads: int = 0
    counted: Counter = field(init=False)

    def __post_init__(self) -> None:
        self.counted = Counter(
            "jinshi_http_requests", "Requests answered.", ("method", "route", "status"), registry=self.registry
        )

    @property
    def head_size_max(self) -> int:
        """See `Guarded`."""
        return self.limits.head_size_max

    def check_room(self) -> None:
        """See `Guarded`."""
        if self.requests > self.limits.requests_max:
            raise Pushback(
                f"{self.limits.requests_max} requests are being answered", retry_after_s=self.limits.retry_after_s
            )

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """See `Guarded`."""
        self.counted.labels(method, route, status).inc()


def make_role_app(face: Face, routes: list[Route]) -> Starlette:
    """An application of these routes, guarded, and with /healthz, /readyz and /metrics."""
    own = [
        Route("/healthz", get_health, methods=["GET"]),
        Route("/readyz", get_ready, methods=["GET"]),
        Route("/metrics", get_metrics, methods=["GET"]),
    ]
    app = Starlette(
        routes=[*routes, *own],
        middleware=[Middleware(Guard, served=face)],
        exception_handlers={JinshiError: on_jinshi_error, HTTPException: on_http_exception},
    )
    app.router.redirect_slashes = False
    app.state.face = face
    return app


def face_of(request: Request) -> Face:
    """The face of the application a request came to."""
    face = request.app.state.face
    assert isinstance(face, Face)
    return face


async def get_health(_: Request) -> Response:
    """The process answers."""
    return Response('{"status":"ok"}', 200, NO_STORE, "application/json")


async def get_ready(request: Request) -> Response:
    """It does its work; 503 says what keeps it from that."""
    face = face_of(request)
    try:
        async with asyncio.timeout(face.limits.store_timeout_s):
            troubles = await face.troubles()
    except TimeoutError as error:
        raise Unavailable("the state cannot be read in time", hint="look at the disk") from error
    if troubles:
        raise Unavailable("; ".join(troubles), hint="see the log")
    return Response(json.dumps({"status": "ready"}), 200, NO_STORE, "application/json")


async def get_metrics(request: Request) -> Response:
    """Prometheus text format."""
    return Response(generate_latest(face_of(request).registry), 200, {**NO_STORE, "content-type": CONTENT_TYPE})


# -- bodies ---------------------------------------------------------------------------------------------------------


async def chunks(request: Request) -> AsyncIterator[bytes]:
    """A body as it comes. Raises Refused (408): nothing came for too long; ClientDisconnect."""
    timeout_s = face_of(request).limits.body_timeout_s
    stream = aiter(request.stream())
    while True:
        try:
            async with asyncio.timeout(timeout_s):
                chunk = await anext(stream, None)
        except TimeoutError as error:
            raise Refused(408, "body-too-slow", f"nothing of the body came for {timeout_s:g} s") from error
        if chunk is None:
            return
        yield chunk


async def body_of(request: Request, size_max: int) -> bytes:
    """A whole body. Raises Refused: it is too large (413), or too slow (408)."""
    body = bytearray()
    async for chunk in chunks(request):
        body += chunk
        if len(body) > size_max:
            raise Refused(413, "body-too-large", f"the body has more than {size_max} bytes")
    return bytes(body)


# -- add-checkpoint, which mirrors and witnesses share ----------------------------------------------------------------


async def add_checkpoint(request: Request, take: Callable[[AddCheckpoint], Awaitable[bytes]]) -> Response:
    """C2SP tlog-witness, "add-checkpoint": `take` gives the body of the 200; its errors become the page's statuses."""
    try:
        asked = parse_add_checkpoint(await body_of(request, ADD_CHECKPOINT_SIZE_MAX))
        return Response(await take(asked), 200, NO_STORE, TEXT)
    except OldSizeMismatch as error:
        return Response(format_size(error.size), 409, {**NO_STORE, "content-type": SIZE_TYPE})
    except JinshiError as error:
        return refusal(error)


def refusal(error: JinshiError) -> Response:
    """The statuses that tlog-witness and tlog-mirror share; whatever else it is, is no fault of the caller's."""
    match error:
        case UnknownLog():
            return problem(404, "unknown-log", "The log is not known here", error.what, hint=error.hint)
        case Forked():
            return problem(422, "forked", "The log has signed two histories", error.what, hint=error.hint)
        case Untrusted():
            return problem(403, "untrusted", "No trusted key has signed this", error.what, hint=error.hint)
        case ProofInvalid():
            return problem(422, "proof-invalid", "The proof does not hold", error.what, hint=error.hint)
        case MalformedNote() | InvalidRequest():
            return problem(400, "malformed", "The request is not well formed", error.what, hint=error.hint)
        case _:
            return response_of(error)
