"""The application: routes, and the guard around them that bounds, counts and never lets a traceback out."""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ledger.core.checkpoint import origin_prefix
from ledger.errors import JinshiError, Pushback
from ledger.http.append import post_events
from ledger.http.consuming import delete_consumer, get_consumer, list_consumers, put_consumer
from ledger.http.health import get_health, get_metrics, get_ready
from ledger.http.openapi import document
from ledger.http.problems import Refused, fault, on_http_exception, on_jinshi_error, response_of
from ledger.http.query import parameters
from ledger.http.read import get_consistency, get_event, get_events, get_receipt
from ledger.http.service import Service
from ledger.http.stream import get_stream
from ledger.http.tiles import get_checkpoint, get_key, get_tile

STREAM_PATH = "/events/stream"


def make_app(service: Service) -> Starlette:
    """The ASGI application that serves one ledger."""
    service.metrics.registry.register(Gauges(service))
    app = Starlette(
        routes=routes(service.origin),
        middleware=[Middleware(Guard, service=service)],
        exception_handlers={JinshiError: on_jinshi_error, HTTPException: on_http_exception},
    )
    app.router.redirect_slashes = False
    app.state.service = service
    app.state.openapi = document(service.origin, service.limits)
    return app


def routes(origin: str) -> list[Route]:
    """Every route; what each takes and answers is said in openapi.py."""
    prefix = f"/{origin_prefix(origin)}"
    return [
        Route("/events", post_events, methods=["POST"]),
        Route("/events", get_events, methods=["GET"]),
        Route(STREAM_PATH, get_stream, methods=["GET"]),
        Route("/events/{index}", get_event, methods=["GET"]),
        Route("/events/{index}/receipt", get_receipt, methods=["GET"]),
        Route("/proofs/consistency", get_consistency, methods=["GET"]),
        Route("/consumers", list_consumers, methods=["GET"]),
        Route("/consumers/{name}", get_consumer, methods=["GET"]),
        Route("/consumers/{name}", put_consumer, methods=["PUT"]),
        Route("/consumers/{name}", delete_consumer, methods=["DELETE"]),
        Route(prefix + "checkpoint", get_checkpoint, methods=["GET"]),
        Route(prefix + "tile/{path:path}", get_tile, methods=["GET"]),
        Route(prefix + "keyring/{keyid}", get_key, methods=["GET"]),
        Route("/healthz", get_health, methods=["GET"]),
        Route("/readyz", get_ready, methods=["GET"]),
        Route("/metrics", get_metrics, methods=["GET"]),
        Route("/openapi.json", get_openapi, methods=["GET"]),
    ]


async def get_openapi(request: Request) -> Response:
    """The OpenAPI 3.1 document of this API."""
    parameters(request, ())
    return Response(request.app.state.openapi, 200, {"cache-control": "no-cache"}, "application/json")


class Guard:
    """Around every request: host names, sizes, how many at once; then counts how it went."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        service = self._service
        started_s, status = perf_counter(), 0

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        service.requests += 1
        try:
            self._check(scope)
            await self._app(scope, receive, counted)
        except ClientDisconnect:
            status = status or 499  # nobody hears it; counted as nginx does
            await _answer_nobody(scope, receive, counted)
        except JinshiError as error:
            await response_of(error)(scope, receive, counted)
        except Exception as error:
            service.on_fault(error)
            if status:
                raise  # the answer has begun: the server cuts the connection
            await fault()(scope, receive, counted)
        finally:
            service.requests -= 1
            route = scope["route"].path if "route" in scope else "none"
            service.metrics.requests.labels(_method(scope), route, status).inc()
            if route != STREAM_PATH:
                service.metrics.request_seconds.labels(route).observe(perf_counter() - started_s)

    def _check(self, scope: Scope) -> None:
        service, limits = self._service, self._service.limits
        if service.requests - service.streams > limits.requests_max:
            raise Pushback(f"{limits.requests_max} requests are being answered", retry_after_s=limits.retry_after_s)
        head = len(scope["raw_path"]) + len(scope["query_string"])
        host = ""
        for name, value in scope["headers"]:
            head += len(name) + len(value)
            if name == b"host":
                host = value.decode("latin-1")
        if head > limits.head_size_max:
            raise Refused(431, "head-too-large", f"the headers have more than {limits.head_size_max} bytes")
        if service.hosts is not None and _host_name(host) not in service.hosts:
            raise Refused(421, "wrong-host", f"this is not {host[:80]!r}", hint="use the address it listens on")


async def _answer_nobody(scope: Scope, receive: Receive, send: Send) -> None:
    await Response(status_code=400)(scope, receive, send)


def _host_name(host: str) -> str:
    if host.startswith("["):
        return host.partition("]")[0][1:].lower()
    return host.partition(":")[0].lower()


def _method(scope: Scope) -> str:
    """A label of few values, whatever is sent."""
    method: str = scope["method"]
    return method if method in ("GET", "HEAD", "POST", "PUT", "DELETE") else "other"


class Gauges:
    """What is read from the ledger's parts when /metrics is asked for."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        """The metrics, as prometheus_client wants them."""
        service = self._service
        sequencer, publishing = service.sequencer, service.publishing
        commits = sequencer.committed.commits
        yield CounterMetricFamily("jinshi_commits", "Rounds of the sequencer, one transaction each.", commits)
        yield GaugeMetricFamily("jinshi_pool_entries", "Events that wait to be committed.", sequencer.pool_entries)
        yield GaugeMetricFamily("jinshi_tree_size", "Entries committed.", publishing.committed.value)
        yield GaugeMetricFamily("jinshi_published_size", "Entries the checkpoint covers.", publishing.published.value)
        yield GaugeMetricFamily("jinshi_requests_open", "Requests being answered.", service.requests)
