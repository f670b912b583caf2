"""/healthz, /readyz and /metrics, for those who run the server."""

from __future__ import annotations

import asyncio
import json

from starlette.requests import Request
from starlette.responses import Response

from ledger.errors import JinshiError, Unavailable
from ledger.http.metrics import CONTENT_TYPE
from ledger.http.query import parameters
from ledger.http.service import Service, service_of

_NO_STORE = {"cache-control": "no-store"}


async def get_health(request: Request) -> Response:
    """The process answers."""
    parameters(request, ())
    return Response('{"status":"ok"}', 200, _NO_STORE, "application/json")


async def get_ready(request: Request) -> Response:
    """It can take events: the store answers, this is the writer, and a checkpoint is published."""
    parameters(request, ())
    service = service_of(request)
    size = await _check(service)
    body = {"status": "ready", "size": size, "published": service.publishing.published.value}
    return Response(json.dumps(body), 200, _NO_STORE, "application/json")


async def _check(service: Service) -> int:
    publishing = service.publishing
    if service.closing.is_set():
        raise Unavailable("the server is ending", hint="ask another one, or wait until it is back")
    if (failed := service.sequencer.failed) is not None:
        raise failed
    if publishing.failed.done():
        raise not_ready(publishing.failed.result())
    try:
        async with asyncio.timeout(service.limits.store_timeout_s):
            size = (await service.reader.head()).size
    except TimeoutError as error:
        raise Unavailable("the store does not answer", hint="look at the disk or the database") from error
    if publishing.trouble is not None:
        raise not_ready(publishing.trouble)
    if not publishing.published.value:
        raise Unavailable("no checkpoint is published yet", hint="wait")
    return size


def not_ready(error: JinshiError) -> Unavailable:
    """Whatever keeps the server from publishing makes it unready, and that is 503."""
    return Unavailable(f"nothing can be published: {error.what}", hint=error.hint)


async def get_metrics(request: Request) -> Response:
    """Prometheus text format."""
    parameters(request, ())
    service = service_of(request)
    await service.metrics.measure(service.acknowledging)
    if service.registry is not None and service.asset_lag is not None:
        await service.metrics.measure_assets(service.acknowledging, service.registry, service.asset_lag)
    return Response(service.metrics.render(), 200, {**_NO_STORE, "content-type": CONTENT_TYPE})
