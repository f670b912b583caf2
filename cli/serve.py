"""Serving one ledger: the HTTP server, publishing, and the followers and mirrors, as one process that ends cleanly."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import signal
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn

from cli.config import Environment
from cli.following import Following, Target
from cli.handover import taking_over
from cli.logs import get_logger
from cli.replicating import Keys
from cli.system import SystemClock
from cli.tls import GuardedProtocol, TlsFiles, actor_of_scope, server_context
from cli.wiring import OpenLedger, WritableLedger, open_for_writing, open_place
from ledger.consumers import Consumers
from ledger.core.checkpoint import OpenedCheckpoint
from ledger.errors import InvalidRequest, JinshiError, Unavailable
from ledger.http.app import make_app
from ledger.http.limits import HttpLimits
from ledger.http.metrics import Metrics
from ledger.http.publishing import Publishing
from ledger.http.quorum import Quorum
from ledger.http.service import Service

GRACE_S = 20
CONNECTIONS_MAX = 4_096


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """What to serve: `listen` is HOST:PORT (port 0: a free one); without `tls` the host must be of the loopback."""

    listen: str
    tls: TlsFiles | None = None
    replicate: bool = True
    replicate_every_s: float = 5.0
    limits: HttpLimits = field(default_factory=HttpLimits)


async def serve(
    root: Path, environment: Environment, passphrase: str, settings: ServeSettings, ready: Callable[[str], None]
) -> None:
    """Serve the ledger in `root` until SIGTERM or SIGINT; `ready` is told the URL once requests are answered.

    Raises:
        InvalidRequest: the address or the TLS files cannot be used, or `root` is no ledger.
        LockHeld: another process is writing it.
        Fenced, Tampered, Forked: another writer took over, or what is stored contradicts what was signed.
    """
    context = None if settings.tls is None else server_context(settings.tls)
    with bound(settings.listen, loopback_only=context is None) as listener:
        async with open_for_writing(root, environment, passphrase) as writable, _service(writable, settings) as service:
            config = uvicorn.Config(
                make_app(service),
                http=GuardedProtocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                limit_concurrency=CONNECTIONS_MAX,
                timeout_graceful_shutdown=GRACE_S,
                ssl_context_factory=None if context is None else lambda config, default: context,
            )
            url = f"{'http' if context is None else 'https'}://{_address(listener)}"
            work: list[Coroutine[Any, Any, None]] = []
            if settings.replicate:
                target = Target(service, hold_s=settings.replicate_every_s)
                work = Following(writable, service, Keys(passphrase), target, settings.replicate_every_s).sites()

            async def published() -> None:
                size = (await service.reader.head()).size
                if size:
                    await service.publishing.until_published(size - 1)

            with _uvicorn_logs():
                async with taking_over(root, writable.sequencer, published):
                    await _run(Server(config, service, lambda: ready(url)), listener, service, work)


class Server(uvicorn.Server):
    """Uvicorn's server, ended by its owner alone; it tells the streams to end before it waits for them."""

    def __init__(self, config: uvicorn.Config, service: Service, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._service = service
        self._ready = ready

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the owner's."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then say so."""
        await super().startup(sockets)
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the streams, let every request be answered, close."""
        self._service.closing.set()
        await super().shutdown(sockets)


async def _run(
    server: Server, listener: socket.socket, service: Service, work: list[Coroutine[Any, Any, None]]
) -> None:
    """Serve until a signal comes or something that must not end ends; then end all of it. Raises what ended it."""

    def stop() -> None:
        server.force_exit = server.should_exit  # asked for twice: wait for nobody
        server.should_exit = True

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    serving = asyncio.create_task(server.serve([listener]), name="http")
    background = [asyncio.create_task(one) for one in work]
    try:
        watched: set[asyncio.Future[Any]] = {serving, service.publishing.failed, *background}
        await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
    finally:
        server.should_exit = True
        await asyncio.wait({serving})
        for task in background:
            task.cancel()
        results = await asyncio.gather(*background, return_exceptions=True)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
    serving.result()
    if service.publishing.failed.done():
        raise service.publishing.failed.result()
    for result in results:
        if isinstance(result, Exception):
            raise result


@asynccontextmanager
async def _service(writable: WritableLedger, settings: ServeSettings) -> AsyncIterator[Service]:
    ledger = writable.ledger
    metrics = Metrics()
    quorum = _quorum(ledger, settings)
    consumers = open_place(str(ledger.paths.root / "consumers"), ledger.environment, create=True)
    async with Publishing(
        ledger.store,
        writable.sequencer,
        writable.publisher,
        limits=settings.limits,
        metrics=metrics,
        notice=lambda error: get_logger().error(error.what, hint=error.hint),
        published=lambda opened: None if quorum.needs_sites else quorum.offer(opened),
    ) as publishing:
        service = Service(
            origin=ledger.origin,
            sequencer=writable.sequencer,
            reader=ledger.reader,
            published=ledger.published,
            publishing=publishing,
            consumers=Consumers(consumers, SystemClock()),
            actor_of=(lambda scope: ledger.environment.actor) if settings.tls is None else actor_of_scope,
            metrics=metrics,
            limits=settings.limits,
            quorum=quorum,
            hosts=frozenset({"localhost", "127.0.0.1", "::1"}) if settings.tls is None else None,
            on_fault=log_fault,
        )
        try:
            yield service
        finally:
            service.receipts.close()


def log_fault(error: Exception) -> None:
    """What kept a request from being answered as it should: one line, and for a fault of ours where it was."""
    if isinstance(error, JinshiError):
        get_logger().error(error.what, hint=error.hint)
    else:
        get_logger().error("a fault stopped a request", exc_info=error)


# -- what runs beside the server --------------------------------------------------------------------------------


def _quorum(ledger: OpenLedger, settings: ServeSettings) -> Quorum:
    """Fed by the rounds of the sites; where they are not run here, by looking at the sites."""

    async def look() -> list[OpenedCheckpoint]:
        return [one.opened for one in await ledger.shown()]

    return Quorum(ledger.policy(), None if settings.replicate else look)


# -- the address ------------------------------------------------------------------------------------------------


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
        try:
            listener.bind(address)
        except OSError as error:
            raise Unavailable(f"{listen} cannot be listened on ({error.strerror})", hint="choose another") from error
        listener.setblocking(False)
        yield listener


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


# -- uvicorn's own log lines ------------------------------------------------------------------------------------


class _ToOurs(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        get_logger().warning(record.getMessage().strip(), exc_info=record.exc_info)


@contextmanager
def _uvicorn_logs() -> Iterator[None]:
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
