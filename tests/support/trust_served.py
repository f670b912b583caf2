"""Faces of the trust service behind the real server, on a free port of the loopback interface."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute

from cli.serving.listening import Server, Serving, bound
from cli.serving.tls import TlsFiles, server_context
from ledger.errors import JinshiError
from ledger.http.problems import on_http_exception, on_jinshi_error
from tests.support.certificates import Issued


@asynccontextmanager
async def serving(routes: Sequence[BaseRoute], tls: TlsFiles | None = None) -> AsyncIterator[str]:
    """Yields the URL."""
    app = Starlette(
        routes=list(routes), exception_handlers={JinshiError: on_jinshi_error, HTTPException: on_http_exception}
    )
    url: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    with bound("127.0.0.1:0", loopback_only=True) as listener:
        server = Server(Serving(app, url.set_result, None if tls is None else server_context(tls)))
        task = asyncio.create_task(server.serve([listener]))
        try:
            yield await url
        finally:
            server.should_exit = True
            await task


def client_context(authority: Path, client: Issued | None) -> ssl.SSLContext:
    """For a client that trusts an authority, and shows a certificate."""
    context = ssl.create_default_context(cafile=str(authority))
    if client is not None:
        context.load_cert_chain(client.certificate, client.key)
    return context
