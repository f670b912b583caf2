"""The guard around an application: what is raised behind it, before and after an answer has begun."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import httpx
import pytest
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message

from ledger.errors import Conflict
from ledger.http.guard import Guard, GuardedApp


@dataclass
class Served:
    requests: int = 0
    hosts: frozenset[str] | None = None
    head_size_max: int = 10_000
    faults: list[Exception] = field(default_factory=list)
    counted: list[tuple[str, str, int]] = field(default_factory=list)

    def on_fault(self, error: Exception, /) -> None:
        self.faults.append(error)

    def check_room(self) -> None: ...

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        self.counted.append((method, route, status))


def app_of(served: Served, error: Exception) -> GuardedApp:
    async def fails(_: Request) -> Response:
        raise error

    app = GuardedApp(routes=[Route("/fails", fails, methods=["GET"])], middleware=[Middleware(Guard, served=served)])
    app.router.redirect_slashes = False
    return app


@pytest.mark.parametrize(
    ("method", "path", "error", "status", "faults"),
    [
        ("GET", "/fails", Conflict("it is so already"), 409, 0),
        ("GET", "/fails", ZeroDivisionError("ours"), 500, 1),
        ("GET", "/fails", HTTPException(404), 404, 0),
        ("GET", "/elsewhere", Conflict("unused"), 404, 0),
        ("POST", "/fails", Conflict("unused"), 405, 0),
    ],
)
async def test_whatever_is_raised_is_answered_and_counted(
    method: str, path: str, error: Exception, status: int, faults: int
) -> None:
    served = Served()
    transport = httpx.ASGITransport(app_of(served, error))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.request(method, path)
    assert answer.status_code == answer.json()["status"] == status
    assert "ours" not in answer.text
    assert answer.headers.get("allow") == ("GET, HEAD" if status == 405 else None)
    assert len(served.faults) == faults
    assert (served.requests, served.counted[0][2]) == (0, status)


@pytest.mark.parametrize("make", [Conflict, ZeroDivisionError, lambda what: HTTPException(404, what)])
async def test_an_answer_that_has_begun_is_cut_off(make: Callable[[str], Exception]) -> None:
    served, error, sent = Served(), make("half done"), list[Message]()

    async def begun(scope: object, receive: object, send: Callable[[Message], object]) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})  # type: ignore[misc]
        raise error

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "raw_path": b"/", "query_string": b"", "headers": []}
    with pytest.raises(type(error)):
        await Guard(begun, served)(scope, None, send)  # type: ignore[arg-type]
    assert [one["type"] for one in sent] == ["http.response.start"]
    assert served.faults == [error]
