"""The application that serves one ledger: its routes, behind the guard, and what its metrics are read from."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ledger.core.checkpoint import origin_prefix
from ledger.http.append import post_events
from ledger.http.bearer import Bearing
from ledger.http.consuming import delete_consumer, get_consumer, list_consumers, put_consumer
from ledger.http.guard import Guard, GuardedApp
from ledger.http.health import get_health, get_metrics, get_ready
from ledger.http.openapi import document
from ledger.http.query import parameters
from ledger.http.read import get_consistency, get_event, get_events, get_receipt
from ledger.http.service import STREAM_PATH, Service
from ledger.http.stream import get_stream
from ledger.http.tiles import get_checkpoint, get_key, get_tile


def make_app(service: Service) -> Starlette:
    """The ASGI application that serves one ledger."""
    service.metrics.registry.register(Gauges(service))
    app = GuardedApp(
        routes=routes(service.origin),
        middleware=[Middleware(Guard, served=service), *_bearing(service)],
    )
    app.router.redirect_slashes = False
    app.state.service = service
    app.state.openapi = document(service.origin, service.limits)
    return app


def _bearing(service: Service) -> list[Middleware]:
    return [] if service.tokens is None else [Middleware(Bearing, accept=service.tokens)]


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
