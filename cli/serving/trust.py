"""The trust service in `jinshi serve`: its faces beside the ledger's API, its listeners, and its periodic work.

What each part is and does is said in docs/trust; here they are put together, once.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Final, TypeVar

from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from cli.display.logs import get_logger
from cli.serving.bearer import accepting
from cli.serving.listening import Server, Serving, address_of, bound, log_fault
from cli.serving.tls import actor_of_scope, fingerprint_of_scope, public_context
from cli.serving.trust_watching import TrustWatch
from cli.sites.acknowledging import Ack
from cli.system import SystemClock
from cli.trust.keys import recorded_keys
from cli.trust.opening import Trust, quorum
from cli.trust.registering import RegistrationServices, registration_services
from cli.trust.registration_http import registration_routes
from cli.wiring.ledgers import WritableLedger
from cli.wiring.status import StatusServices, status_services
from ledger.errors import Fenced, InvalidRequest, JinshiError, Unacknowledged
from ledger.http.service import Service
from ledger.protocols import Clock
from ledger.workers.pool import Workers
from pki.access.base import Caller
from pki.access.officers import OfficersAccess
from pki.access.tokens import Tokens
from pki.acme.app import make_app as make_acme_app
from pki.acme.caa import Caa
from pki.acme.challenges.network import Network, make_resolver
from pki.acme.challenges.perspective import Here, Perspectives
from pki.acme.own import OwnAuthority
from pki.acme.service import make_acme
from pki.acme.settings import AcmeSettings
from pki.ca import CertificateAuthority
from pki.custody import RecordedKeys
from pki.http import status as status_routes
from pki.http import tokens as token_routes
from pki.http import tsa as tsa_routes
from pki.issuance.away import ENTRY
from pki.issuance.drafts import Drafts, SharedDrafts
from pki.issuance.generations import Generations
from pki.journal import SOURCE, Journal
from pki.keys_away import keys_away
from pki.tsa import TimeStampings
from pki.views.catalogue import TrustIndex
from pki.views.profiles import all_profiles
from replication.http.common import Face, RoleLimits, make_role_app

ROUNDS_EVERY_S: Final = 30.0
LAG_S: Final = 1.0
"""How soon what another process has recorded (an officer suspended, a holder's names) counts here."""
LIMITS: Final = RoleLimits(requests_max=512)

Work = Coroutine[Any, Any, None]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class AcmeServing:
    """Where ACME is served, and from where it looks at names.

    `url`: what clients call it, "" for its address. `resolvers`: addresses of DNS servers, none for the machine's;
    `allowed`: the only networks that are connected to, none for all but special ones.
    """

    listen: str
    certificate: Path
    key: Path
    url: str = ""
    resolvers: tuple[str, ...] = ()
    allowed: tuple[str, ...] = ()
    http_port: int = 80
    alpn_port: int = 443


@dataclass(frozen=True, slots=True)
class TrustSettings:
    """What of the trust service has a listener of its own; "" or None: it has none."""

    status_listen: str = ""
    acme: AcmeServing | None = None


@dataclass(frozen=True, slots=True)
class Faces:
    """What is served: `routes` beside the ledger's own, `work` that goes on for as long as the server does."""

    routes: Sequence[BaseRoute] = ()
    work: Sequence[Work] = ()
    watch: TrustWatch | None = None
    """What of it raises alarms."""


@dataclass(frozen=True, slots=True)
class _Parts:
    """The service, put together."""

    trust: Trust
    access: OfficersAccess
    authority: CertificateAuthority
    status: StatusServices
    registration: RegistrationServices
    tokens: Tokens
    stamping: TimeStampings
    keys: RecordedKeys


@asynccontextmanager
async def serving_trust(
    writable: WritableLedger,
    service: Service,
    passphrase: str,
    settings: TrustSettings,
    acknowledge: Callable[[int, Collection[str], Ack], Awaitable[None]],
    *,
    tls: bool,
) -> AsyncIterator[Faces]:
    """The trust service of a ledger that this process writes; to be entered before an application is made of `service`.

    `acknowledge` waits for the sites, as for any producer. `tls`: callers show certificates.

    Raises:
        InvalidRequest: an address, a certificate or an issuer cannot be used.
        Unavailable: an address is taken.
    """
    actor = writable.ledger.environment.actor

    def caller_of(scope: Any) -> Caller:
        return Caller(actor_of_scope(scope), fingerprint_of_scope(scope)) if tls else Caller(actor)

    async with AsyncExitStack() as stack:
        parts = await _put_together(stack, writable, service, passphrase, acknowledge)
        source = status_routes.StatusService(parts.status.live, SystemClock())
        public = [*status_routes.routes(source), *tsa_routes.routes(tsa_routes.TsaService(parts.stamping.find))]
        routes: list[BaseRoute] = [
            *registration_routes(parts.registration, parts.trust.index, service, caller_of),
            *public,
        ]
        if tls:
            service.tokens = accepting(parts.tokens)
            routes += token_routes.routes(token_routes.TokenService(parts.tokens, caller_of))
        watch = _watch(parts)
        work = [parts.status.rounds.run(), parts.access.refusals.run(), _rounds(parts, tokens=tls), watch.run()]
        if settings.status_listen:
            listener = stack.enter_context(bound(settings.status_listen, loopback_only=False))
            app = make_role_app(Face(_no_troubles, None, LIMITS, log_fault), public)
            work.append(_listening(app, listener, "status and time stamps"))
        if settings.acme is not None:
            work += _acme(stack, settings.acme, parts)
        try:
            yield Faces(routes, work, watch)
        finally:
            for one in work:
                one.close()  # does nothing to those that were begun and have ended


async def _put_together(
    stack: AsyncExitStack,
    writable: WritableLedger,
    service: Service,
    passphrase: str,
    acknowledge: Callable[[int, Collection[str], Ack], Awaitable[None]],
) -> _Parts:
    ledger, environment = writable.ledger, writable.ledger.environment
    actor, ack = environment.actor, Ack(quorum(ledger.settings), service.limits.ack_timeout_s)

    async def acknowledged(index: int) -> None:
        await acknowledge(index, [SOURCE], ack)

    journal = Journal(writable.sequencer, ledger.reader, writable.sealer.opener(), SystemClock(), acknowledged)
    index = stack.enter_context(closing(TrustIndex(journal, ledger.paths.trust_index)))
    await index.catch_up()
    trust = Trust(ledger.paths, journal, index, Caller(actor))
    keys = recorded_keys(trust, environment, passphrase)
    stack.push_async_callback(keys.close)
    access = OfficersAccess(journal, index, actor, look_every_s=LAG_S)
    stack.push_async_callback(_close, access)
    generations = Generations(index.book)
    drafts = await _drafts(stack, generations, journal.clock)
    authority = CertificateAuthority(journal, index, keys, drafts=drafts, generations=generations)
    stack.push_async_callback(authority.close)
    status = status_services(journal, index, keys, authority, ledger.paths, environment)
    status.rounds.notice = lambda what, error: get_logger().error(f"{what}: {error.what}", hint=error.hint)
    registration = registration_services(
        journal, index, access, authority, status.revocation, environment, lag_s=LAG_S, drafts=drafts
    )
    stamping = TimeStampings(journal, index, keys, actor, access.refusals, on_fault=log_fault)
    stack.push_async_callback(stamping.close)
    tokens = Tokens(journal, index, access, keys, ledger.origin)
    return _Parts(trust, access, authority, status, registration, tokens, stamping, keys)


async def _drafts(stack: AsyncExitStack, generations: Generations, clock: Clock) -> Drafts:
    """With a worker, where there is a processor for it."""
    if (os.cpu_count() or 1) < 2:
        return Drafts()
    return SharedDrafts(await stack.enter_async_context(Workers(ENTRY, on_fault=log_fault)), generations, clock)


async def _close(access: OfficersAccess) -> None:
    """What was refused last is recorded; the sites, which are not served any more, get it after the next start."""
    with suppress(Unacknowledged):
        await access.close()


async def _no_troubles() -> list[str]:
    return []


async def _rounds(parts: _Parts, *, tokens: bool) -> None:
    """What a crash left is finished, what has expired is closed, holders are told of what ends; for ever.

    It begins when the sites are served, too: whatever is recorded waits for them. The lock of the ledger's writer is
    this process's: what another one has begun to issue, it has left for good.
    """
    registration = parts.registration
    await _tried(parts.authority.recover(older_than_s=0))
    while True:
        if tokens:
            await _tried(parts.tokens.ensure_key(parts.trust.caller.actor))
        for recover in (parts.authority.recover, registration.registration.recover):
            await _tried(recover())
        for one in await _tried(registration.expiry.notice()) or ():
            get_logger().warning(
                f"certificate {one.row.serial} of {one.title or one.row.holder} ends in {one.days} days",
                hint=f"renew it: {one.row.subject}",
            )
        await asyncio.sleep(ROUNDS_EVERY_S)


async def _tried(work: Awaitable[T]) -> T | None:
    """What cannot be done now is said, and done the next time. Raises Fenced."""
    try:
        return await work
    except Fenced:
        raise
    except JinshiError as error:
        get_logger().error(error.what, hint=error.hint)
        return None


def _watch(parts: _Parts) -> TrustWatch:
    index, clock, folder = parts.trust.index, SystemClock(), parts.trust.paths.authority_keys

    async def away() -> dict[str, str]:
        return await keys_away(index.book, parts.keys, folder, int(clock.now().timestamp()))

    return TrustWatch(index, parts.status.rounds, away, clock)


def _acme(stack: AsyncExitStack, settings: AcmeServing, parts: _Parts) -> list[Work]:
    context = public_context(settings.certificate, settings.key)
    listener = stack.enter_context(bound(settings.listen, loopback_only=False))
    url = (settings.url or f"https://{address_of(listener)}").rstrip("/")
    trust, index, network = parts.trust, parts.trust.index, _network(settings)
    face = make_acme(
        trust.journal,
        index,
        parts.access,
        OwnAuthority(trust.journal, index, parts.authority),
        parts.status.revocation,
        Perspectives([Here(network)]),
        Caa(network),
        AcmeSettings(f"{url}/acme", profiles={one.name: one.title for one in all_profiles(index.book)}),
        actor=trust.caller.actor,
        on_fault=log_fault,
        on_refused=parts.access.refusals.note,
    )
    app = make_acme_app(face, Face(_no_troubles, None, LIMITS, log_fault))
    return [_listening(app, listener, "acme", context), face.working.run()]


def _network(settings: AcmeServing) -> Network:
    """Raises InvalidRequest: a resolver, or a network, is none."""
    try:
        allowed = tuple(ip_network(one) for one in settings.allowed)
    except ValueError as error:
        raise InvalidRequest(
            f"that is no network ({error})", hint="give an address with its prefix: --acme-network 192.0.2.0/24"
        ) from error
    return Network(make_resolver(settings.resolvers), allowed, settings.http_port, alpn_port=settings.alpn_port)


async def _listening(app: ASGIApp, listener: Any, what: str, context: ssl.SSLContext | None = None) -> None:
    """Serve on a listener of its own until cancelled; then requests are answered first."""
    server = Server(Serving(app, lambda url: get_logger().info(f"serving {what} on {url}"), context))
    task = asyncio.create_task(server.serve([listener]), name=what)
    try:
        await asyncio.shield(task)
    finally:
        server.should_exit = True
        await task
