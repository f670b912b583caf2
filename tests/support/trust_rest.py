"""The REST of the registration over a bench: in process, or behind the real server in a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Route

from cli.serving.listening import Server, Serving, bound
from ledger.errors import JinshiError
from ledger.http.guard import Guard
from ledger.http.problems import on_http_exception, on_jinshi_error
from pki.access.base import Caller
from pki.http.registration import RegistrationService, routes
from tests.support.trust import trust_bench
from tests.support.trust_authorities import city_authority
from tests.support.trust_registration import MAKER, Desk, desk

CALLER = b"x-test-caller"
"""Who is calling, in the tests' own header, where the real server goes by the certificate."""


@dataclass
class Watched:
    """What `Guard` asks of whoever is served."""

    requests: int = 0
    hosts: frozenset[str] | None = None
    head_size_max: int = 64 * 2**10
    faults: list[Exception] = field(default_factory=list)

    def on_fault(self, error: Exception, /) -> None:
        self.faults.append(error)

    def check_room(self) -> None:
        pass

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        pass


def caller_of(scope: Any) -> Caller:
    """By the header of the tests, else the maker."""
    named = dict(scope["headers"]).get(CALLER)
    return MAKER if named is None else Caller(named.decode())


def service_of(made: Desk, caller: Callable[[Any], Caller] = caller_of) -> RegistrationService:
    async def receipts(indexes: Sequence[int]) -> list[str]:
        return [f"receipt of {index}" for index in indexes]

    return RegistrationService(made.registration, made.holders, caller, lambda: list(made.profiles.values()), receipts)


def app_of(served: list[Route], watched: Watched) -> Starlette:
    app = Starlette(
        routes=served,
        middleware=[Middleware(Guard, served=watched)],
        exception_handlers={JinshiError: on_jinshi_error, HTTPException: on_http_exception},
    )
    app.router.redirect_slashes = False
    return app


@dataclass
class Rest:
    desk: Desk
    client: httpx.AsyncClient
    faults: list[Exception]

    async def act(self, path: str, body: object = None, *, by: Caller = MAKER, **headers: str) -> httpx.Response:
        """POST JSON, as somebody."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.post(path, json=body, headers={CALLER.decode(): by.actor, **named})


@asynccontextmanager
async def rest() -> AsyncIterator[Rest]:
    """In process, without a socket, over our own authority with a vetted holder."""
    async with trust_bench() as bench:
        await city_authority(bench)
        made, watched = desk(bench), Watched()
        await made.vetted()
        transport = httpx.ASGITransport(app_of(routes(service_of(made)), watched), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://ra.test") as client:
            yield Rest(made, client, watched.faults)
        assert not watched.faults


@contextmanager
def rest_in_a_thread() -> Iterator[str]:
    """Behind the real server in a thread, for clients that block; yields its URL."""
    url: list[str] = []
    stop: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
    ready = threading.Event()

    async def run() -> None:
        async with trust_bench() as bench:
            await city_authority(bench)
            made = desk(bench)
            await made.vetted()
            where: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            with bound("127.0.0.1:0", loopback_only=True) as listener:
                server = Server(Serving(app_of(routes(service_of(made)), Watched()), where.set_result))
                task = asyncio.create_task(server.serve([listener]))
                url.append(await where)
                stop.append((asyncio.get_running_loop(), asyncio.Event()))
                ready.set()
                await stop[0][1].wait()
                server.should_exit = True
                await task

    thread = threading.Thread(target=lambda: asyncio.run(run()), name="server")
    thread.start()
    try:
        assert ready.wait(20)
        yield url[0]
    finally:
        loop, event = stop[0]
        loop.call_soon_threadsafe(event.set)
        thread.join()
