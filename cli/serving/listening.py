"""One HTTP server as a process that ends cleanly: where it listens, how it is ended, what is logged of it."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import signal
import socket
import ssl
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from cli.display.logs import get_logger
from cli.serving.tls import GuardedProtocol
from ledger.errors import InvalidRequest, JinshiError, Unavailable

GRACE_S = 20
"""How long a server that is told to end waits for the requests it is answering."""


@contextmanager
def bound(listen: str, *, loopback_only: bool) -> Iterator[socket.socket]:
    """A socket bound to HOST:PORT; it listens once the server does.

    Raises:
        InvalidRequest: that is no address, or (`loopback_only`) one that others can reach.
        Unavailable: it is taken.
    """
    host, separator, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not separator or not host or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise InvalidRequest(f"{listen!r} is no HOST:PORT", hint="give 127.0.0.1:8420, or port 0 for a free one")
    try:
        found = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise InvalidRequest(f"the host {host!r} is not known ({error.strerror})", hint="give an address") from error
    family, _, _, _, address = found[0]
    if loopback_only and not ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback:
        raise InvalidRequest(
            f"{host} can be reached from elsewhere, and without TLS nobody knows who is calling",
            hint="give --tls-cert, --tls-key and --client-ca, or listen on 127.0.0.1",
        )
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Not every event loop sees to it: without, the end of an answer waits 40 ms for the client to confirm its head.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            listener.bind(address)
        except OSError as error:
            raise Unavailable(f"{listen} cannot be listened on ({error.strerror})", hint="choose another") from error
        listener.setblocking(False)
        yield listener


def address_of(listener: socket.socket) -> str:
    """HOST:PORT, as in a URL."""
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class _ToOurs(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        get_logger().warning(record.getMessage().strip(), exc_info=record.exc_info)


@contextmanager
def uvicorn_logs() -> Iterator[None]:
    """What uvicorn itself has to say goes to our log."""
    logger, handler = logging.getLogger("uvicorn"), _ToOurs(logging.WARNING)
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]


def log_fault(error: Exception) -> None:
    """What kept a request from being answered as it should: one line, and for a fault of ours where it was."""
    if isinstance(error, JinshiError):
        get_logger().error(error.what, hint=error.hint)
    else:
        get_logger().error("a fault stopped a request", exc_info=error)


# -- the server -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Serving:
    """What to serve. `ready` is told the URL once requests are answered, `ending` when no more are taken.

    Without a TLS `context` only this machine is listened on, which is for `bound` to see to.
    """

    app: ASGIApp
    ready: Callable[[str], None]
    context: ssl.SSLContext | None = None
    connections_max: int = 1_024
    ending: Callable[[], None] = lambda: None


class Server(uvicorn.Server):
    """Uvicorn's server, ended by its owner alone."""

    def __init__(self, serving: Serving) -> None:
        context = serving.context
        config = uvicorn.Config(
            serving.app,
            http=GuardedProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=serving.connections_max,
            timeout_graceful_shutdown=GRACE_S,
            ssl_context_factory=None if context is None else lambda config, default: context,
        )
        super().__init__(config)
        self._serving = serving

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the owner's."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then say so."""
        await super().startup(sockets)
        for listener in sockets or ():
            self._serving.ready(f"{'http' if self._serving.context is None else 'https'}://{address_of(listener)}")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let every request be answered, close."""
        self._serving.ending()
        await super().shutdown(sockets)

    async def run_until_told(self, listener: socket.socket, work: Iterable[Coroutine[Any, Any, None]]) -> None:
        """Serve, with `work` beside it, until SIGTERM or SIGINT; then end all of it.

        Raises:
            whatever ended one of `work`, which should go on for ever.
        """

        def stop() -> None:
            self.force_exit = self.should_exit  # asked for twice: wait for nobody
            self.should_exit = True

        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        serving = asyncio.create_task(self.serve([listener]), name="http")
        background = [asyncio.create_task(one) for one in work]
        try:
            await asyncio.wait({serving, *background}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.should_exit = True
            await asyncio.wait({serving})
            for task in background:
                task.cancel()
            results = await asyncio.gather(*background, return_exceptions=True)
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
        serving.result()
        for result in results:
            if isinstance(result, Exception):
                raise result
