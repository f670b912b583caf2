"""What a server watches: sites, assets, its disk, its certificate. Alarms are recorded, sent and counted, once."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from cryptography import x509

from cli.display.logs import get_logger
from cli.display.render import duration
from cli.serving.covering import Covering, unchanged
from cli.serving.guarding import Guards
from cli.serving.trust_watching import TrustWatch
from cli.serving.webhook import Webhook
from cli.sites.scrub_alarms import ScrubAlarms
from cli.system import SystemClock
from cli.trust.health import TRUST_KINDS, quorum_readings
from cli.wiring.ledgers import WritableLedger
from ledger.acknowledging import Standing
from ledger.alarms import AlarmKind, Key, Reading, changes, cleared_event, raised_event, read_alarms
from ledger.assets import Asset
from ledger.core.event import Event, format_time, posix_us
from ledger.errors import Fenced, JinshiError, StoreUnavailable, Unavailable
from ledger.http.service import Service

LOOK_EVERY_S: Final = 5.0
DAY_S: Final = 86_400.0
UNRECORDED_MAX: Final = 256
OFFLINE_LAG_S: Final = 31 * DAY_S
"""How far a site may be behind that no line leads to."""


@dataclass(frozen=True, slots=True)
class AlarmSettings:
    """The bounds. Cleared: lag at half its bound, disk with a quarter more than its bound free; the others at once."""

    lag_s: float = 900.0
    unreachable_s: float = 300.0
    disk_free_percent: int = 5
    certificate_days: int = 14
    webhook: str | None = None
    offline: frozenset[str] = frozenset()
    """The sites that no line leads to."""
    look_every_s: float = LOOK_EVERY_S


class Alarming:
    """Watches one server. `certificate`: the file of the one it serves with; `trust`: its trust service."""

    def __init__(
        self,
        writable: WritableLedger,
        service: Service,
        settings: AlarmSettings,
        certificate: Path | None,
        trust: TrustWatch | None = None,
    ) -> None:
        """Raises InvalidRequest: the webhook is no URL."""
        self._writable = writable
        self._service = service
        self._settings = settings
        self._webhook = None if settings.webhook is None else Webhook(settings.webhook)
        self._expires_s = None if certificate is None else _end_of(certificate)
        self._trust = trust
        self._clock = SystemClock()
        self._guards = Guards(writable.ledger)
        self._covering = Covering(writable, service, self._guards, unreachable_s=settings.unreachable_s)
        self._scrubs = ScrubAlarms(writable.ledger.store, service.acknowledging)
        self._standing: set[Key] = set()
        self._unrecorded: list[Event] = []

    async def run(self) -> None:
        """Look again and again, for ever. Raises Fenced."""
        while True:
            try:
                self._standing = set(await read_alarms(self._writable.ledger.store))
                await self._scrubs.begin()
                break
            except StoreUnavailable as error:  # a database that is away for a moment must not end the server
                get_logger().error(f"standing alarms cannot be read: {error.what}", hint=error.hint)
                await asyncio.sleep(LOOK_EVERY_S)
        for kind, about in self._standing:
            self._service.metrics.alarms.labels(kind, about).set(1)
        sending = None if self._webhook is None else asyncio.create_task(self._webhook.run(), name="webhook")
        try:
            while True:
                await self.look()
                await asyncio.sleep(self._settings.look_every_s)
        finally:
            await self._covering.close()
            await self._guards.close()
            if sending is not None:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)

    async def look(self) -> None:
        """Measure everything once; raise and clear what is due. Raises Fenced."""
        with suppress(StoreUnavailable):  # said by whatever else needs the store; the next look takes it in
            await self._scrubs.look()
        over, fine = changes(self._standing, await self._readings())
        at_us = posix_us(self._clock.now())
        at, origin = format_time(at_us), self._service.origin
        for reading in over:
            self._standing.add(reading.key)
            self._service.metrics.alarms.labels(*reading.key).set(1)
            get_logger().error(f"alarm: {reading.what}", kind=reading.kind.value)
            self._tell(raised_event(origin, reading, at=at), at)
        for key in fine:
            self._standing.discard(key)
            with suppress(KeyError):
                self._service.metrics.alarms.remove(*key)
            get_logger().info("alarm cleared", kind=key[0], about=key[1])
            self._tell(cleared_event(origin, key, at=at), at)
        self._scrubs.settle()
        await self._record()

    def _tell(self, event: Event, at: str) -> None:
        if self._webhook is not None:
            self._webhook.offer(event, at)
        if len(self._unrecorded) >= UNRECORDED_MAX:  # the store takes nothing at all, and the log lines say why
            self._unrecorded.pop(0)
        self._unrecorded.append(event)

    async def _record(self) -> None:
        """What cannot be recorded now, on a full disk, is the next look's; the ids tell it from what is."""
        if not self._unrecorded:
            return
        try:
            await self._writable.sequencer.append(self._unrecorded, actor=self._writable.ledger.environment.actor)
        except Fenced:
            raise
        except JinshiError as error:
            get_logger().error(f"an alarm cannot be recorded: {error.what}", hint=error.hint)
            return
        self._unrecorded.clear()

    async def _readings(self) -> list[Reading]:
        found = [reading for one in self._service.acknowledging.standings for reading in await self._of_site(one)]
        found += self._guards.readings(self._standing)
        found += await self._covering.readings(self._standing)
        found += await self._of_assets()
        found += self._of_trust()
        found.append(disk_reading(self._writable.ledger.paths.root, self._settings.disk_free_percent))
        if self._expires_s is not None:
            left_s = self._expires_s - self._clock.now().timestamp()
            found.append(certificate_reading(left_s, self._settings.certificate_days))
        return found

    async def _of_assets(self) -> list[Reading]:
        """One for every active asset. While the store is away, the alarms that stand stay as they are."""
        if self._service.registry is None:
            return []
        try:
            assets = await self._service.registry.assets()
        except StoreUnavailable:  # said by whatever else needs the store
            return unchanged(AlarmKind.ASSET_DEGRADED, self._standing)
        return [degraded_reading(asset) for asset in assets.active()]

    def _of_trust(self) -> list[Reading]:
        """Where it is not served, what was last known of it stays."""
        if self._trust is not None:
            return [*self._trust.readings(self._standing), *quorum_readings(self._troubles())]
        return [one for kind in TRUST_KINDS for one in unchanged(kind, self._standing)]

    def _troubles(self) -> dict[str, str | None]:
        """Why each site acknowledges nothing, for longer than a hiccup; None: it was not heard of yet."""
        now_s, settings = self._clock.now().timestamp(), self._settings
        found: dict[str, str | None] = {}
        for one in self._service.acknowledging.standings:
            if one.name in settings.offline:
                continue
            lasts = one.since_s is not None and now_s - one.since_s > settings.unreachable_s
            wrong = one.error if one.tampered or lasts else None
            found[one.name] = "takes nothing more" if one.full else wrong or ("" if one.asked else None)
        return found

    async def _of_site(self, one: Standing) -> list[Reading]:
        """Nothing is said of a site that was not heard of yet, except what is known to be wrong."""
        lag_s: float | None = None
        if one.asked and (one.has or one.fine):
            with suppress(Unavailable):
                lag_s = (await self._service.acknowledging.lag.of(one.has)).seconds
        settings = self._settings
        if one.name in settings.offline:  # it is behind by nature: what matters is that it is not forgotten
            settings = replace(settings, lag_s=max(settings.lag_s, OFFLINE_LAG_S))
        return site_readings(one, lag_s, self._clock.now().timestamp(), settings)


def site_readings(one: Standing, lag_s: float | None, now_s: float, settings: AlarmSettings) -> list[Reading]:
    """What is to be said of one site; `lag_s` None: its lag is not known."""
    away_s = 0.0 if one.since_s is None or one.tampered else now_s - one.since_s
    unknown = lag_s is None
    lag_s = lag_s or 0.0
    return [
        Reading(
            AlarmKind.SITE_LAG,
            one.name,
            f"site {one.name} is {duration(lag_s)} behind",
            round(lag_s),
            round(settings.lag_s),
            over=lag_s > settings.lag_s,
            fine=not unknown and lag_s <= settings.lag_s / 2,
        ),
        Reading(
            AlarmKind.SITE_UNREACHABLE,
            one.name,
            f"site {one.name} cannot be reached for {duration(away_s)}: {one.error}",
            round(away_s),
            round(settings.unreachable_s),
            over=away_s > settings.unreachable_s,
            fine=one.reachable,
        ),
        Reading(
            AlarmKind.SITE_DAMAGED,
            one.name,
            f"site {one.name} is damaged: {one.error if one.tampered else one.damage}",
            1 if one.tampered or one.damage else 0,
            0,
            over=one.tampered or one.damage is not None,
            fine=one.fine and one.damage is None,
        ),
        Reading(
            AlarmKind.SITE_QUOTA,
            one.name,
            one.error or "" if one.full else f"site {one.name} takes more again",
            int(one.full),
            0,
            over=one.full,
            fine=one.fine,
        ),
    ]


def degraded_reading(asset: Asset) -> Reading:
    """What is to be said of the captures of one asset, by what they have recorded."""
    count, what = len(asset.problems), f"asset {asset.name} is not captured as a whole"
    return Reading(
        AlarmKind.ASSET_DEGRADED,
        asset.name,
        f"{what}: {asset.problems[0]}" if asset.problems else what,
        count,
        0,
        over=count > 0,
        fine=count == 0,
    )


def disk_reading(
    root: Path, bound_percent: int, usage: Callable[[Path], tuple[int, int, int]] = shutil.disk_usage
) -> Reading:
    """How much of the ledger's disk is free."""
    try:
        total, _, free = usage(root)
    except OSError as error:
        what = f"the disk of {root} cannot be measured ({error.strerror or error})"
        return Reading(AlarmKind.DISK, "", what, 0, bound_percent, over=False, fine=False)
    percent = 100 * free / max(1, total)
    what = f"the disk of {root} is nearly full: {percent:.1f} % ({free // 2**20:,} MiB) are free"
    over, fine = percent < bound_percent, percent >= 1.25 * bound_percent
    return Reading(AlarmKind.DISK, "", what, int(percent), bound_percent, over=over, fine=fine)


def certificate_reading(left_s: float, bound_days: int) -> Reading:
    """How long the certificate in use is still valid."""
    days = int(left_s // DAY_S)
    what = f"the server's certificate expires in {duration(left_s)}" if left_s > 0 else "its certificate has expired"
    over = left_s < bound_days * DAY_S
    return Reading(AlarmKind.CERTIFICATE, "", what, days, bound_days, over=over, fine=not over)


def _end_of(certificate: Path) -> float:
    """When the first certificate of a chain expires, in POSIX seconds; the TLS context has loaded the same file."""
    return x509.load_pem_x509_certificates(certificate.read_bytes())[0].not_valid_after_utc.timestamp()
