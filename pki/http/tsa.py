"""Time stamps over HTTP, RFC 3161 §3.4: `POST /tsa`, and `/tsa/<name>` where there are several authorities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ledger.http.problems import Refused
from pki.core.timestamp import REQUEST_SIZE_MAX
from pki.http.bodies import Bodies, media_type
from pki.tsa import TimeStamping

QUERY: Final = "application/timestamp-query"
REPLY: Final = "application/timestamp-reply"


@dataclass(frozen=True, slots=True)
class TsaService:
    """What the routes are handed: `find` gives an authority that stamps here, by name; "" is the one at `/tsa`."""

    find: Callable[[str], TimeStamping | None]
    bodies: Bodies = field(default_factory=lambda: Bodies(size_max=2 * REQUEST_SIZE_MAX))


def routes(service: TsaService) -> list[Route]:
    """Nobody has to say who they are: a time stamp says nothing about who asked."""

    async def post(request: Request) -> Response:
        return await _stamp(service, request)

    return [Route("/tsa", post, methods=["POST"]), Route("/tsa/{name}", post, methods=["POST"])]


async def _stamp(service: TsaService, request: Request) -> Response:
    if media_type(request) != QUERY:
        raise Refused(415, "unsupported-content-type", "this takes time-stamp requests", hint=f"send {QUERY}")
    name = request.path_params.get("name", "")
    stamping = service.find(name)
    if stamping is None:
        raise Refused(404, "not-found", f"there is no time-stamping authority {name[:80]} here".replace("  ", " "))
    answer = await stamping.answer(await service.bodies.receive(request))
    return Response(answer, 200, {"cache-control": "no-store"}, REPLY)
