"""For how long sites keep what they hold, and whether their buckets still lock it: what `site add` found may change."""

from __future__ import annotations

from dataclasses import dataclass

from cli.config import SiteSettings
from cli.wiring.credentials import Use, reference_of, with_credentials
from cli.wiring.ledgers import OpenLedger, open_site
from cli.wiring.places import lock_problem
from ledger.core.checkpoint import CHECKPOINT, origin_prefix
from ledger.errors import JinshiError
from replication.site import read_description


@dataclass(frozen=True, slots=True)
class Guard:
    """`retention_days`: as its site.json says, None: for ever. `lock_days`: how long objects are locked, 0: not at all.

    `trouble`: why they are not, although they should be; '': they are, or need not be.
    """

    retention_days: int | None
    lock_days: int
    trouble: str = ""


async def guard_of(ledger: OpenLedger, settings: SiteSettings) -> Guard | None:
    """What guards the copy at a site; None: it cannot be asked now, which others say."""
    if settings.offline:
        return None
    try:
        site = open_site(settings, ledger.origin, ledger.environment)
        described = await read_description(site, ledger.origin)
        trouble = ""
        if settings.lock_days:
            environment = with_credentials(ledger.environment, reference_of(settings, Use.WRITER))
            trouble = await lock_problem(settings.url, environment, origin_prefix(ledger.origin) + CHECKPOINT)
    except JinshiError:
        return None
    return Guard(described.retention_days, settings.lock_days, trouble)
