"""The findings of `jinshi doctor` while serving: an alarm for each asset of which anything is found."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Collection, Sequence
from typing import Final

from cli.assets.beside import Looked, look_beside
from cli.assets.coverage import Finding, SiteFacts
from cli.assets.doctor import own_directories, with_guard
from cli.assets.watching import Watch
from cli.display.logs import get_logger
from cli.display.render import duration
from cli.serving.guarding import Guards
from cli.system import SystemClock
from cli.wiring.ledgers import WritableLedger
from ledger.acknowledging import Standing
from ledger.alarms import AlarmKind, Key, Reading
from ledger.assets import Asset
from ledger.errors import StoreUnavailable
from ledger.http.service import Service

BESIDE_EVERY_S: Final = 600.0
FIRST_CAPTURE_S: Final = 300.0
"""For so long after an asset was added its not having been captured is no alarm."""
UNKNOWN_S: Final = 60.0
"""For so long after its start nothing is said while a site was not heard of yet."""


class Covering:
    """Looks after the assets of a ledger that is served. `unreachable_s`: when a site that is away counts no more."""

    def __init__(self, writable: WritableLedger, service: Service, guards: Guards, *, unreachable_s: float) -> None:
        self._writable = writable
        self._guards = guards
        self._service = service
        self._unreachable_s = unreachable_s
        self._watch: Watch | None = None
        if service.registry is not None and service.asset_lag is not None:
            entries = writable.ledger.searched
            self._watch = Watch(
                entries, service.origin, SystemClock(), service.registry, service.asset_lag, grace_s=FIRST_CAPTURE_S
            )
        self._beside = Looked()
        self._looking: asyncio.Task[Looked] | None = None
        self._looked_s: float | None = None
        self._looked_at: Sequence[Asset] = ()
        self._started_s = time.monotonic()
        self._stop = threading.Event()

    async def readings(self, standing: Collection[Key]) -> list[Reading]:
        """One for every active asset. While the store is away, the alarms that stand stay as they are."""
        if self._watch is None:
            return []
        try:
            found = await self._watch.look(self._sites(), self._service.sources)
        except StoreUnavailable:  # said by whatever else needs the store
            return unchanged(AlarmKind.ASSET_UNCOVERED, standing)
        self._look_beside([asset for asset, _ in found if asset.active])
        known = self._is_known()
        return [reading_of(asset, [*of_it, *self._beside.of(asset)], known=known) for asset, of_it in found]

    async def close(self) -> None:
        """End what still looks around."""
        self._stop.set()
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    def _is_known(self) -> bool:
        """Whether every site was heard of, or should have been by now, and what lies beside was looked at once."""
        heard = all(one.asked for one in self._service.acknowledging.standings)
        waited = time.monotonic() - self._started_s > UNKNOWN_S
        return self._looked_s is not None and (heard or waited)

    def _sites(self) -> list[SiteFacts]:
        now_s = SystemClock().now().timestamp()
        return [self._facts(one, now_s) for one in self._service.acknowledging.standings]

    def _facts(self, one: Standing, now_s: float) -> SiteFacts:
        trouble, damaged = "", one.tampered or one.damage is not None
        away_s = 0.0 if one.since_s is None else now_s - one.since_s
        if damaged:
            trouble = f"is damaged: {one.error if one.tampered else one.damage}"
        elif away_s > self._unreachable_s:
            trouble = f"cannot be reached for {duration(away_s)}: {one.error}"
        return with_guard(SiteFacts(one.name, one.role, one.has, trouble, damaged), self._guards.of(one.name))

    # -- beside, in a task of its own: it may take a while --

    def _look_beside(self, assets: Sequence[Asset]) -> None:
        if self._looking is not None:
            if not self._looking.done():
                return
            error = self._looking.exception()
            if error is None:
                self._beside = self._looking.result()
            else:  # what is said of the assets otherwise still holds, and so does the server
                get_logger().error(f"what lies beside the assets cannot be looked at ({type(error).__name__}: {error})")
            self._looked_s, self._looking = time.monotonic(), None
        due = self._looked_s is None or time.monotonic() - self._looked_s > BESIDE_EVERY_S
        if due or list(assets) != list(self._looked_at):
            self._looked_at = list(assets)
            ledger = self._writable.ledger
            work = look_beside(assets, ledger.environment, own_directories(ledger), self._stop)
            self._looking = asyncio.create_task(work, name="beside the assets")


def unchanged(wanted: AlarmKind, standing: Collection[Key]) -> list[Reading]:
    """Readings that leave the alarms of a kind that stand as they are: what is not read any more would be cleared."""
    return [Reading(wanted, about, "", 0, 0, over=False, fine=False) for kind, about in standing if kind == wanted]


def reading_of(asset: Asset, findings: Sequence[Finding], *, known: bool) -> Reading:
    """What is to be said of one asset; `known` False: not everything was looked at yet, so that nothing changes."""
    what = f"asset {asset.name} is protected as its grade demands"
    if findings:
        more = f" (and {len(findings) - 1} more: jinshi doctor)" if findings[1:] else ""
        what = f"asset {asset.name} is not protected as grade {asset.grade} demands: {findings[0].what}{more}"
        if asset.retired:
            what = f"asset {asset.name}: {findings[0].what}"
    return Reading(
        AlarmKind.ASSET_UNCOVERED,
        asset.name,
        what,
        len(findings),
        0,
        over=known and bool(findings),
        fine=known and not findings,
    )
