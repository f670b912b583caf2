"""One round of one site, as `jinshi replicate` and `jinshi serve` both run it, and what is logged of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cli.logs import get_logger
from cli.wiring import OpenLedger, load_mirror_key
from ledger.errors import JinshiError
from ledger.protocols import Cosigner
from ledger.tasks import Report
from replication.site import Site


@dataclass(frozen=True, slots=True)
class Outcome:
    """How far one site came, or what stopped it."""

    site: str
    size: int = 0
    error: JinshiError | None = None


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
    ledger: OpenLedger, site: Site, keys: Keys, bars: Callable[[str], Report], *, mirrored: bool = True
) -> Outcome:
    """Ship what is published, then let the site's mirror verify and cosign it, unless it runs elsewhere."""
    try:
        mirror = ledger.mirror(site, await keys.of(ledger, site.name)) if mirrored else None
        size = await (await ledger.follower(site)).run_once(bars(f"shipping to {site.name}"))
        if mirror is not None:
            await mirror.advance(bars(f"{site.name} verifies"))
    except JinshiError as error:
        return Outcome(site.name, error=error)
    return Outcome(site.name, size)


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
