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
from cli.logs import get_logger
from cli.replicating import Keys, log_news, replicate_site
from cli.system import SystemClock
from cli.tls import GuardedProtocol, TlsFiles, actor_of_scope, server_context
from cli.wiring import OpenLedger, WritableLedger, accepts, merged, open_for_writing, open_place
from ledger.consumers import Consumers
from ledger.core.checkpoint import OpenedCheckpoint
from ledger.errors import Fenced, InvalidRequest, JinshiError, Unavailable
from ledger.http.app import make_app
from ledger.http.limits import HttpLimits
from ledger.http.metrics import Metrics
from ledger.http.publishing import Publishing
from ledger.http.service import Service

GRACE_S = 20
CONNECTIONS_MAX = 4_096
COSIGNED_EVERY_S = 2.0


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
            with _uvicorn_logs():
                work = _followers(writable.ledger, passphrase, service, settings)
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
    consumers = open_place(str(ledger.paths.root / "consumers"), ledger.environment, create=True)
    async with Publishing(
        ledger.store,
        writable.sequencer,
        writable.publisher,
        limits=settings.limits,
        metrics=metrics,
        notice=lambda error: get_logger().error(error.what, hint=error.hint),
    ) as publishing:
        cosigned = Cosigned(ledger)
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
            cosigned=cosigned.newest,
            hosts=frozenset({"localhost", "127.0.0.1", "::1"}) if settings.tls is None else None,
            on_fault=log_fault,
        )
        yield service


def log_fault(error: Exception) -> None:
    """What kept a request from being answered as it should: one line, and for a fault of ours where it was."""
    if isinstance(error, JinshiError):
        get_logger().error(error.what, hint=error.hint)
    else:
        get_logger().error("a fault stopped a request", exc_info=error)


# -- what runs beside the server --------------------------------------------------------------------------------


class Cosigned:
    """The newest checkpoint that the ledger's own policy accepts, looked up at the sites at most every few seconds."""

    def __init__(self, ledger: OpenLedger) -> None:
        self._ledger = ledger
        self._newest: OpenedCheckpoint | None = None
        self._looked_s = float("-inf")
        self._lock = asyncio.Lock()

    async def newest(self) -> OpenedCheckpoint | None:
        """That checkpoint; None: no site shows one."""
        now_s = asyncio.get_running_loop().time
        async with self._lock:
            if now_s() - self._looked_s >= COSIGNED_EVERY_S:
                policy = self._ledger.policy()
                shown = merged([one.opened for one in await self._ledger.shown()])
                accepted = [one for one in shown if accepts(policy, one)]
                self._newest = max(accepted, key=lambda one: one.checkpoint.size, default=None)
                self._looked_s = now_s()
            return self._newest


def _followers(
    ledger: OpenLedger, passphrase: str, service: Service, settings: ServeSettings
) -> list[Coroutine[Any, Any, None]]:
    """One for each site, so that a slow or broken one keeps no other waiting."""
    keys, shown = Keys(passphrase), dict[str, str]()
    return [
        keep_up(ledger, site.name, keys, service, shown, every_s=settings.replicate_every_s)
        for site in (ledger.settings.sites if settings.replicate else ())
    ]


async def keep_up(
    ledger: OpenLedger, name: str, keys: Keys, service: Service, shown: dict[str, str], *, every_s: float
) -> None:
    """Bring one site up to date again and again. Raises Fenced: another primary has taken over."""
    site = ledger.site(name)
    mirrored = Path(ledger.settings.site(name).mirror_key).is_file()
    if not mirrored:
        get_logger().info("the mirror's key is not here; shipping only", site=name)
    while True:
        outcome = await replicate_site(ledger, site, keys, _no_bars, mirrored=mirrored)
        log_news(outcome, shown)
        if isinstance(outcome.error, Fenced):
            raise outcome.error
        if outcome.error is None:
            service.metrics.replicated.labels(name).set(outcome.size)
        await asyncio.sleep(every_s)


def _no_bars(what: str) -> Callable[[int, int], None]:
    return lambda done, total: None


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
