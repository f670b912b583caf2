"""One round of one site, as `jinshi replicate` and `jinshi serve` both run it, and what is logged of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cli.display.logs import get_logger
from cli.wiring.ledgers import OpenLedger, load_mirror_key
from ledger.core.checkpoint import Checkpoint
from ledger.errors import JinshiError
from ledger.protocols import Cosigner
from ledger.store.versions import Alarms
from ledger.tasks import Report
from replication.site import Site, read_cosigned

ALARMS_LOGGED_MAX = 20


@dataclass(frozen=True, slots=True)
class Outcome:
    """How far one site came, or what stopped it. `cosigned`: what its mirror has verified, if anything."""

    site: str
    size: int = 0
    error: JinshiError | None = None
    cosigned: Checkpoint | None = None


class Keys:
    """The mirrors' keys, each opened once: that takes half a second and 128 MiB by design."""

    def __init__(self, passphrase: str) -> None:
        self._passphrase = passphrase
        self._opened: dict[str, Cosigner] = {}

    async def of(self, ledger: OpenLedger, site: str) -> Cosigner:
        """The key of a site's mirror. Raises InvalidRequest, Tampered, StoreUnavailable."""
        if site not in self._opened:
            file = Path(ledger.settings.site(site).mirror_key)
            self._opened[site] = await asyncio.to_thread(load_mirror_key, file, self._passphrase)
        return self._opened[site]


async def replicate_site(
    ledger: OpenLedger,
    site: Site,
    keys: Keys,
    bars: Callable[[str], Report],
    *,
    mirrored: bool = True,
    whole: bool = False,
) -> Outcome:
    """Ship what is published, then let the site's mirror verify and cosign it, unless it runs elsewhere.

    `whole`: also what the site once had, and has lost since.
    """
    cosigned = None
    try:
        mirror = ledger.mirror(site, await keys.of(ledger, site.name)) if mirrored else None
        size = await (await ledger.follower(site)).run_once(bars(f"shipping to {site.name}"), whole=whole)
        if mirror is not None:
            try:
                opened = await mirror.advance(bars(f"{site.name} verifies"))
            finally:
                _log_alarms(site, mirror.alarms)
            cosigned = None if opened is None else opened.checkpoint
        elif (found := await read_cosigned(site, ledger.log_key)) is not None:
            cosigned = found.opened.checkpoint
    except JinshiError as error:
        return Outcome(site.name, error=error)
    return Outcome(site.name, size, cosigned=cosigned)


def _log_alarms(site: Site, alarms: Alarms) -> None:
    for alarm in alarms.found[:ALARMS_LOGGED_MAX]:
        get_logger().warning(f"{site.objects.where}/{alarm.key}: {alarm.what}", site=site.name)
    more = max(0, len(alarms.found) - ALARMS_LOGGED_MAX) + alarms.more
    if more:
        get_logger().warning("and more objects of that site", site=site.name, more=more)


def log_news(outcome: Outcome, shown: dict[str, str]) -> None:
    """Log how a round went, unless the last one of that site went the same way (`shown`)."""
    state = f"size {outcome.size}" if outcome.error is None else str(outcome.error)
    if shown.get(outcome.site) == state:
        return
    shown[outcome.site] = state
    if outcome.error is None:
        get_logger().info("replicated", site=outcome.site, size=outcome.size)
    else:
        get_logger().error(outcome.error.what, site=outcome.site, hint=outcome.error.hint)
