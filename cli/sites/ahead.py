"""Packs shipped to the sites while they are captured, by the process that captures (replication/ahead.py)."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

from cli.sites.rounds import Keys
from cli.wiring.ledgers import OpenLedger
from ledger.classification import Labelled
from replication.ahead import Ahead
from replication.mirror import Mirror
from replication.site import Site


def shipping_ahead(ledger: OpenLedger, sites: Sequence[Site], keys: Keys) -> list[Coroutine[Any, Any, None]]:
    """One for each of these sites that a line leads to, for as long as anything may be captured."""
    lines = [site for site in sites if not ledger.settings.site(site.name).offline]
    return [_ahead(ledger, site, keys).run() for site in lines]


def _ahead(ledger: OpenLedger, site: Site, keys: Keys) -> Ahead:
    mirrored = Path(ledger.settings.site(site.name).mirror_key).is_file()
    opening, known = asyncio.Lock(), list[Mirror]()

    async def mirror() -> Mirror | None:
        async with opening:
            if mirrored and not known:
                known.append(ledger.mirror(site, await keys.of(ledger, site.name)))
        return known[0] if known else None

    throttled, label = ledger.throttled(site), Labelled(ledger.store).label
    return Ahead(ledger.shipping.written, throttled, ledger.origin, label=label, mirror=mirror)
