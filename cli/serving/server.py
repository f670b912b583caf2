"""Serving one ledger: the HTTP server, publishing, and the followers and mirrors, as one process that ends cleanly."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cli.capturing.asking import answering
from cli.capturing.captures import Captures
from cli.config import Environment
from cli.display.logs import get_logger
from cli.serving.alarming import Alarming, AlarmSettings
from cli.serving.collecting import COLLECT_EVERY_S, collection_rounds
from cli.serving.following import Following, Target, watch_sites
from cli.serving.listening import Server, Serving, bound, log_fault, uvicorn_logs
from cli.serving.scrub_rounds import scrub_rounds
from cli.serving.taking import Taker, taking_over
from cli.serving.tls import TlsFiles, actor_of_scope, fingerprint_of_scope, server_context
from cli.serving.trust import Faces, TrustSettings, serving_trust
from cli.serving.trust_watching import TrustWatch
from cli.sites.acknowledging import Ack, acknowledging_of
from cli.sites.rounds import Keys
from cli.system import SystemClock
from cli.wiring.contents import collect_content
from cli.wiring.ledgers import OpenLedger, WritableLedger, open_for_writing
from cli.wiring.places import open_place
from ledger.acknowledging import demanded
from ledger.asset_lag import AssetLagMeter
from ledger.assets import Registry
from ledger.consumers import Consumers
from ledger.core.checkpoint import OpenedCheckpoint
from ledger.http.app import make_app
from ledger.http.bearer import may_open
from ledger.http.limits import HttpLimits
from ledger.http.metrics import Metrics
from ledger.http.publishing import Publishing
from ledger.http.quorum import LOOK_EVERY_S, Quorum
from ledger.http.service import Service
from ledger.sealing import Opener
from replication.follower import PARALLEL, FollowerLimits

ALL = "all"
CONNECTIONS_MAX = 4_096


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """What to serve: `listen` is HOST:PORT (port 0: a free one); without `tls` the host must be of the loopback."""

    listen: str
    tls: TlsFiles | None = None
    replicate: bool = True
    replicate_every_s: float = 5.0
    parallel: int = PARALLEL
    """Objects on their way to each site at the same time."""
    ship_every_s: float = 0.0
    """How long what is published waits for more before it is shipped, while nobody waits; 0: not at all."""
    open_to: frozenset[str] = frozenset()
    """Who may read what is sealed: SHA-256 fingerprints of client certificates in hexadecimal, or `ALL`."""
    limits: HttpLimits = field(default_factory=HttpLimits)
    alarms: AlarmSettings = field(default_factory=AlarmSettings)
    scrub_every_s: float = 0.0
    """In what time every site is read once; 0: they are not scrubbed."""
    collect_every_s: float = COLLECT_EVERY_S
    """How often content that no retained entry refers to is removed; 0: it is kept."""
    capture: bool = True
    """Whether the ledger's assets are captured all the time, too."""
    trust: TrustSettings | None = None
    """How the trust service is served; None: it is not."""


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
        async with (
            open_for_writing(root, environment, passphrase) as writable,
            _service(writable, settings) as service,
            _trust(writable, service, passphrase, settings) as faces,
        ):
            app = make_app(service)
            app.router.routes[:0] = faces.routes
            server = Server(Serving(app, ready, context, CONNECTIONS_MAX, service.closing.set))
            work = [
                _publishing_failed(service),
                *faces.work,
                *_beside(writable, service, passphrase, settings, faces.watch),
            ]
            with uvicorn_logs(), closing(_captures(writable, service, passphrase)) as captures:
                if settings.capture:
                    work.append(captures.run())
                async with taking_over(root, _taker(writable, service, captures)):
                    await server.run_until_told(listener, work)


async def _publishing_failed(service: Service) -> None:
    """Ends when nothing can be published any more. Raises why."""
    raise await service.publishing.failed


@asynccontextmanager
async def _trust(
    writable: WritableLedger, service: Service, passphrase: str, settings: ServeSettings
) -> AsyncIterator[Faces]:
    if settings.trust is None:
        yield Faces()
        return
    acknowledge, tls = _acknowledge(writable, service), settings.tls is not None
    async with serving_trust(writable, service, passphrase, settings.trust, acknowledge, tls=tls) as faces:
        yield faces


@asynccontextmanager
async def _service(writable: WritableLedger, settings: ServeSettings) -> AsyncIterator[Service]:
    ledger = writable.ledger
    metrics = Metrics()
    quorum, acknowledging = _quorum(ledger, settings), await acknowledging_of(ledger)

    def published(opened: OpenedCheckpoint) -> None:
        acknowledging.published(opened.checkpoint)
        if not quorum.needs_sites:
            quorum.offer(opened)

    consumers = open_place(str(ledger.paths.root / "consumers"), ledger.environment, create=True)
    async with Publishing(
        ledger.store,
        writable.sequencer,
        writable.publisher,
        limits=settings.limits,
        metrics=metrics,
        notice=lambda error: get_logger().error(error.what, hint=error.hint),
        published=published,
    ) as publishing:
        service = Service(
            origin=ledger.origin,
            sequencer=writable.sequencer,
            reader=ledger.reader,
            published=ledger.published,
            publishing=publishing,
            consumers=Consumers(consumers, SystemClock()),
            actor_of=(lambda scope: ledger.environment.actor) if settings.tls is None else actor_of_scope,
            opener_of=_opening(writable, settings),
            metrics=metrics,
            acknowledging=acknowledging,
            sources=writable.sealer.sources,
            registry=Registry(ledger.searched),
            asset_lag=AssetLagMeter(ledger.searched, SystemClock()),
            limits=settings.limits,
            quorum=quorum,
            hosts=frozenset({"localhost", "127.0.0.1", "::1"}) if settings.tls is None else None,
            on_fault=log_fault,
        )
        try:
            yield service
        finally:
            service.receipts.close()


def _opening(writable: WritableLedger, settings: ServeSettings) -> Callable[[Any], Opener | None]:
    """What opens sealed entries for the caller of a request; it knows what is declared and erased meanwhile.

    A request with an access token goes by the token alone.
    """
    opener, everybody = writable.sealer.opener(), ALL in settings.open_to

    def opener_of(scope: Any) -> Opener | None:
        by_token = may_open(scope)
        if by_token is not None:
            return opener if by_token else None
        known = everybody or (settings.tls is not None and fingerprint_of_scope(scope) in settings.open_to)
        return opener if known else None

    return opener_of


# -- what runs beside the server --------------------------------------------------------------------------------


def _beside(
    writable: WritableLedger, service: Service, passphrase: str, settings: ServeSettings, trust: TrustWatch | None
) -> list[Coroutine[Any, Any, None]]:
    certificate = None if settings.tls is None else settings.tls.certificate
    offline = frozenset(site.name for site in writable.ledger.settings.sites if site.offline)
    as_often_s = min(settings.alarms.look_every_s, settings.replicate_every_s)
    alarms = replace(settings.alarms, offline=offline, look_every_s=as_often_s)
    work = [Alarming(writable, service, alarms, certificate, trust).run()]
    if settings.replicate:
        target = Target(service, hold_s=settings.replicate_every_s)
        writable.ledger.shipping.limits = FollowerLimits(parallel=settings.parallel)
        every_s, ship_every_s = settings.replicate_every_s, settings.ship_every_s
        work += Following(writable, service, Keys(passphrase), target, every_s, ship_every_s).sites()
    elif writable.ledger.settings.sites:
        look_s = min(LOOK_EVERY_S, settings.replicate_every_s)
        work.append(watch_sites(writable.ledger, service.acknowledging, look_s))
    work += collection_rounds(writable, Keys(passphrase), settings.collect_every_s)
    every_s, registry = settings.scrub_every_s, service.metrics.registry
    return work + scrub_rounds(writable, registry, service.acknowledging, passphrase, every_s)


def _captures(writable: WritableLedger, service: Service, passphrase: str) -> Captures:
    """The captures of the ledger's assets, whose entries are acknowledged as those of any producer are."""
    acknowledge, ack = _acknowledge(writable, service), Ack(None, service.limits.ack_timeout_s)
    return Captures(writable, lambda: passphrase, lambda index, sources: acknowledge(index, sources, ack))


def _taker(writable: WritableLedger, service: Service, captures: Captures) -> Taker:
    """What is done for other processes of the ledger's owner."""

    async def published() -> None:
        size = (await service.reader.head()).size
        if size:
            await service.publishing.until_published(size - 1)

    return Taker(
        writable.sequencer,
        published,
        _acknowledge(writable, service),
        writable.leases,
        answering(captures, published),
        lambda wait: collect_content(writable, wait=wait),
    )


def _acknowledge(writable: WritableLedger, service: Service) -> Callable[[int, Collection[str], Ack], Awaitable[None]]:
    """As `AcknowledgingRecorder.acknowledge`, with the rounds of the sites that the server runs."""

    async def acknowledge(index: int, sources: Collection[str], ack: Ack) -> None:
        if policies := demanded(writable.sealer.sources, sources, ack.asked):
            await service.acknowledge(index, policies, ack.timeout_s)

    return acknowledge


def _quorum(ledger: OpenLedger, settings: ServeSettings) -> Quorum:
    """Fed by the rounds of the sites; where they are not run here, by looking at the sites."""

    async def look() -> list[OpenedCheckpoint]:
        return [one.opened for one in await ledger.shown()]

    return Quorum(ledger.policy(), None if settings.replicate else look)
