"""One round of one site, as `jinshi replicate` and `jinshi serve` both run it, and what is logged of it."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cli.display.logs import get_logger
from cli.sites.catching_up import catching_up
from cli.wiring.ledgers import OpenLedger, load_mirror_key
from ledger.core.checkpoint import Checkpoint
from ledger.errors import JinshiError, Paused
from ledger.protocols import Cosigner
from ledger.store.versions import Alarm
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
        self._opening: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def passphrase(self) -> str:
        """What opens them, and the ledger's own."""
        return self._passphrase

    async def of(self, ledger: OpenLedger, site: str) -> Cosigner:
        """The key of a site's mirror. Raises InvalidRequest, Tampered, StoreUnavailable."""
        async with self._opening[site]:
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
        if ledger.settings.site(site.name).offline:
            return await _by_receipts(ledger, site)
        mirror = ledger.mirror(site, await keys.of(ledger, site.name)) if mirrored else None
        follower = await ledger.follower(site)
        try:
            async with catching_up(site.name, None if mirror is None else mirror.advance) as steps:
                size = await follower.run_once(
                    bars(f"shipping to {site.name}"),
                    whole=whole,
                    on_step=steps.on_step,
                    on_pack=None if mirror is None else mirror.read_ahead,
                )
        finally:
            log_alarms(site, follower.alarms.found)
        if mirror is not None:
            try:
                opened = await mirror.advance(bars(f"{site.name} verifies"))
            finally:
                log_alarms(site, mirror.alarms.found, mirror.alarms.more)
            cosigned = None if opened is None else opened.checkpoint
        elif (found := await read_cosigned(site, ledger.log_key)) is not None:
            cosigned = found.opened.checkpoint
    except JinshiError as error:
        return Outcome(site.name, error=error)
    return Outcome(site.name, size, cosigned=cosigned)


async def _by_receipts(ledger: OpenLedger, site: Site) -> Outcome:
    """How far a site is that no line leads to, as far as its receipts say (cli/sites/offline.py)."""
    found = await read_cosigned(site, ledger.log_key)
    if found is None:
        return Outcome(site.name)
    return Outcome(site.name, found.opened.checkpoint.size, cosigned=found.opened.checkpoint)


def log_alarms(site: Site, found: Sequence[Alarm], uncounted: int = 0) -> None:
    """One warning for each object of a site that is not as signed for, the first `ALARMS_LOGGED_MAX` of them."""
    for alarm in found[:ALARMS_LOGGED_MAX]:
        get_logger().warning(f"{site.objects.where}/{alarm.key}: {alarm.what}", site=site.name)
    more = max(0, len(found) - ALARMS_LOGGED_MAX) + uncounted
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
    elif isinstance(outcome.error, Paused):
        get_logger().info(outcome.error.what, site=outcome.site)
    else:
        get_logger().error(outcome.error.what, site=outcome.site, hint=outcome.error.hint)
