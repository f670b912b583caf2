"""Collecting content while a ledger is served: now and then, and never while a capture could be in the way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any, Final

from cli.display.logs import get_logger
from cli.sites.rounds import Keys
from cli.wiring.contents import collect_content
from cli.wiring.ledgers import OpenLedger, WritableLedger
from ledger.content import Collected
from ledger.errors import Fenced, JinshiError
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
    return [_rounds(writable, every_s), *sites]


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


async def _rounds(writable: WritableLedger, every_s: float) -> None:
    """Round after round; captures that are at work are left for the next one. Raises Fenced."""
    problem = ""
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


def _log_collected(where: str, done: SiteCollected) -> None:
    if done.unneeded:
        get_logger().info(
            "collected", at=where, unneeded=done.unneeded, removed=done.removed, kept_by_locks=done.locked
        )
