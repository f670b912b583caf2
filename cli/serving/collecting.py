"""Releasing and collecting content while a ledger is served: now and then, never while captures could be in the way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any, Final

from cli.assets.releasing import acts_of, offers, record_acts, silence, still
from cli.display.logs import get_logger
from cli.sites.rounds import Keys
from cli.system import SystemClock
from cli.wiring.contents import collect_content
from cli.wiring.ledgers import OpenLedger, WritableLedger
from cli.wiring.sealing import Passphrase
from ledger.content import Collected
from ledger.errors import Fenced, JinshiError
from ledger.grades import grade_of
from ledger.protocols import Clock
from replication.collect import SiteCollected

COLLECT_EVERY_S: Final = 86_400.0


def collection_rounds(writable: WritableLedger, keys: Keys, every_s: float) -> list[Coroutine[Any, Any, None]]:
    """For as long as the ledger is served; none when `every_s` is 0. Raises Fenced."""
    if not every_s:
        return []
    ledger = writable.ledger
    # Those whose mirrors' keys are here; the other ones clear up themselves.
    names = [site.name for site in ledger.settings.sites if not site.offline and Path(site.mirror_key).is_file()]
    sites = (site_rounds(name, partial(collect_site, ledger, keys, name), every_s, first_s=every_s) for name in names)
    return [_rounds(writable, keys, every_s), *sites]


async def collect_site(ledger: OpenLedger, keys: Keys, name: str) -> SiteCollected:
    """Remove at a site, as its mirror, what no cosigned entry needs. Raises as `Mirror.collect`."""
    return await ledger.mirror(ledger.site(name), await keys.of(ledger, name)).collect()


async def site_rounds(
    where: str, collect: Callable[[], Awaitable[SiteCollected]], every_s: float, *, first_s: float
) -> None:
    """Remove at a site what no cosigned entry needs, for ever, and log how that went; first after `first_s`."""
    await asyncio.sleep(first_s)
    while True:
        try:
            _log_collected(where, await collect())
        except JinshiError as error:
            get_logger().error(f"no content was removed: {error.what}", at=where, hint=error.hint)
        await asyncio.sleep(every_s)


async def _rounds(writable: WritableLedger, keys: Keys, every_s: float) -> None:
    """Round after round; captures that are at work are left for the next one. Raises Fenced."""
    problem, releasing = "", Releasing(writable, keys.passphrase, SystemClock())
    while True:
        await asyncio.sleep(every_s)
        try:
            done = await collect_content(writable, wait=False)
            problem = ""
            if done != Collected():
                get_logger().info("collected", removed=done.removed, pardoned=done.pardoned, waiting=done.waiting)
        except Fenced:
            raise
        except JinshiError as error:
            if str(error) != problem:  # that it goes on as it went is no news
                problem = str(error)
                get_logger().error(f"no content was removed: {error.what}", hint=error.hint)
        # What is released now goes in the next round: whoever reads a tree of before the act meanwhile finds all of it.
        await releasing.run()


class Releasing:
    """Releases what is beyond its retention, of the assets that let it go; what stands against it is logged once."""

    def __init__(self, writable: WritableLedger, passphrase: Passphrase, clock: Clock) -> None:
        self._writable = writable
        self._passphrase = passphrase
        self._clock = clock
        self._said: dict[str, str] = {}

    async def run(self) -> None:
        """One round. Raises Fenced."""
        try:
            await self._release()
        except Fenced:
            raise
        except JinshiError as error:
            self._say("", f"nothing was released: {error.what}", error.hint)

    async def _release(self) -> None:
        ledger, now = self._writable.ledger, self._clock.now()
        found = await offers(ledger, self._writable.sealer.opener(), self._passphrase, (), now)
        found = await still(ledger, found, self._clock.now())
        going = [offer for offer in found if offer.indexes and not offer.refusal]
        days = max((grade_of(offer.asset.grade).retention_days for offer in going), default=0)
        doubt = await silence(ledger.searched, now, days) if going else ""
        self._say(
            "",
            f"nothing was released: {doubt}" if doubt else "",
            "jinshi content release --silence-ok does it, if the clock is right",
        )
        for offer in found:
            refusal = f"nothing was released: {offer.refusal}" if offer.refusal else ""
            self._say(offer.asset.name, refusal, "see jinshi doctor")
        if not going or doubt:
            return
        events = acts_of(ledger.origin, going, at=(await ledger.store.head()).size)
        await record_acts(self._writable.sequencer, events, ledger.environment.actor)
        for offer in going:
            oldest = None if offer.oldest is None else offer.oldest.index
            get_logger().info("released", asset=offer.asset.name, entries=len(offer.indexes), oldest_point=oldest)

    def _say(self, about: str, what: str, hint: str) -> None:
        """That it is as it was is no news."""
        if what and self._said.get(about) != what:
            get_logger().error(what, **({"asset": about} if about else {}), hint=hint)
        self._said[about] = what


def _log_collected(where: str, done: SiteCollected) -> None:
    if done.unneeded:
        get_logger().info(
            "collected", at=where, unneeded=done.unneeded, removed=done.removed, kept_by_locks=done.locked
        )
