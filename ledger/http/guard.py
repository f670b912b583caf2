"""What stands around every request of any of our servers: it bounds, counts, and never lets a traceback out."""

from __future__ import annotations

from inspect import iscoroutinefunction
from time import perf_counter
from typing import Any, Protocol

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match, Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ledger.errors import JinshiError
from ledger.http.problems import Refused, fault, refused_by_router, response_of


class Guarded(Protocol):
    """What is served: `requests` counts those being answered; `hosts` are the host names answered to, None for any."""

    requests: int
    hosts: frozenset[str] | None

    def on_fault(self, error: Exception, /) -> None:
        """Told of what is no answer of ours."""
        ...

    @property
    def head_size_max(self) -> int:
        """The most bytes a request line and its headers may have."""
        ...

    def check_room(self) -> None:
        """Raises Pushback: as many requests are being answered as may be."""
        ...

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request; labels of few values, whatever is sent."""
        ...


class GuardedApp(Starlette):
    """An application whose first middleware is the guard, which answers whatever is raised.

    What Starlette puts around and inside of it would do the same once more, for every request.
    """

    def build_middleware_stack(self) -> ASGIApp:
        """See `Starlette`."""
        app: ASGIApp = _Routed(self.router)
        for cls, args, kwargs in reversed(self.user_middleware):
            app = cls(app, *args, **kwargs)
        return app


class _Routed:
    """A router; what is asked of a path without parameters goes to its route at once, past the look at all of them.

    A route has no middleware of its own here.
    """

    def __init__(self, router: Router) -> None:
        self._router = router
        self._routes: dict[tuple[str, str], Route] = {}
        for route in router.routes:
            if isinstance(route, Route) and not route.param_convertors and iscoroutinefunction(route.endpoint):
                self._routes |= {
                    (method, route.path): route
                    for method in route.methods or ()
                    if _first(router, method, route.path) is route
                }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = None
        if scope["type"] == "http" and not scope.get("root_path"):
            route = self._routes.get((scope["method"], scope["path"]))
        if route is None:
            await self._router(scope, receive, send)
            return
        scope["route"], scope["path_params"] = route, {}
        answer: Response = await route.endpoint(Request(scope, receive, send))
        await answer(scope, receive, send)


def _first(router: Router, method: str, path: str) -> Any:
    """The route that Starlette would take."""
    scope = {"type": "http", "method": method, "path": path}
    return next((one for one in router.routes if one.matches(scope)[0] is Match.FULL), None)


class Guard:
    """Around every request: host names, sizes, how many at once; then counts how it went."""

    def __init__(self, app: ASGIApp, served: Guarded) -> None:
        self._app = app
        self._served = served

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        served, status, started_s = self._served, 0, perf_counter()

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        served.requests += 1
        try:
            served.check_room()
            self._check_head(scope)
            await self._app(scope, receive, counted)
        except ClientDisconnect:
            status = status or 499  # nobody hears it; counted as nginx does
            await Response(status_code=400)(scope, receive, counted)
        except (JinshiError, HTTPException) as error:
            if status:  # the answer has begun: the server cuts the connection
                served.on_fault(error)
                raise
            answer = response_of(error) if isinstance(error, JinshiError) else refused_by_router(Request(scope), error)
            await answer(scope, receive, counted)
        except Exception as error:
            served.on_fault(error)
            if status:
                raise  # the answer has begun: the server cuts the connection
            await fault()(scope, receive, counted)
        finally:
            served.requests -= 1
            route = scope["route"].path if "route" in scope else "none"
            served.answered(_method(scope), route, status, perf_counter() - started_s)

    def _check_head(self, scope: Scope) -> None:
        head = len(scope["raw_path"]) + len(scope["query_string"])
        host = ""
        for name, value in scope["headers"]:
            head += len(name) + len(value)
            if name == b"host":
                host = value.decode("latin-1")
        if head > self._served.head_size_max:
            raise Refused(431, "head-too-large", f"the headers have more than {self._served.head_size_max} bytes")
        if self._served.hosts is not None and _host_name(host) not in self._served.hosts:
            raise Refused(421, "wrong-host", f"this is not {host[:80]!r}", hint="use the address it listens on")


def _host_name(host: str) -> str:
    if host.startswith("["):
        return host.partition("]")[0][1:].lower()
    return host.partition(":")[0].lower()


def _method(scope: Any) -> str:
    method: str = scope["method"]
    return method if method in ("GET", "HEAD", "POST", "PUT", "DELETE") else "other"
