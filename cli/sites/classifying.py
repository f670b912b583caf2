"""Classifying a ledger anew: whether its sites may hold it then, and the event that says so."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from cli.config import Environment, SiteSettings
from cli.serving.handover import open_to_record
from cli.wiring.ledgers import OpenLedger
from ledger.classification import REASON_LENGTH_MAX, NotPermitted, classified, read_label
from ledger.core.classification import Label, site_label, site_network, why_not_at
from ledger.errors import InvalidRequest, JinshiError
from replication.site import check_site

SITE_TIMEOUT_S: Final = 10.0


async def classify_ledger(
    root: Path, label: Label, reason: str, environment: Environment, passphrase: str
) -> tuple[Label, int | None]:
    """Record that a ledger is `label` from now on; returns what it was, and the entry's index (None: it is already).

    Raises:
        InvalidRequest: the reason is empty or too long.
        NotPermitted: sites of the ledger may not hold it then; the message names each, with why.
        LockHeld: another process is writing it that takes nothing.
    """
    if not reason.strip() or len(reason) > REASON_LENGTH_MAX or not reason.isprintable():
        raise InvalidRequest(
            "a classification needs a reason", hint=f"give one line of up to {REASON_LENGTH_MAX} characters: --reason"
        )
    async with open_to_record(root, environment, passphrase) as recorder:
        ledger = recorder.ledger
        before = await read_label(ledger.store)
        if label is before:
            return before, None
        if label.rank > before.rank:
            await check_sites(ledger, label)
        event = classified(ledger.origin, label, reason, at=(await ledger.reader.head()).size)
        places = await recorder.sequencer.append([event], actor=environment.actor)
        await recorder.publish()
        return before, places[0].index


async def check_sites(ledger: OpenLedger, label: Label) -> None:
    """Whether every site of a ledger may hold it so classified. Raises NotPermitted, naming all that may not."""
    reasons = await asyncio.gather(*(_why_not(ledger, site, label) for site in ledger.settings.sites))
    refused = [f"{site.name} ({why})" for site, why in zip(ledger.settings.sites, reasons, strict=True) if why]
    if refused:
        raise NotPermitted(
            f"the ledger cannot become {label.shown}: sites that hold it may not: {'; '.join(refused)}",
            hint="what is more sensitive belongs in a ledger of its own: the copies there cannot be taken back",
        )


async def _why_not(ledger: OpenLedger, site: SiteSettings, label: Label) -> str:
    """By what the site itself says, signed; where it does not answer, by what it said when it was added."""
    most, network = site.classification, site.network
    try:
        async with asyncio.timeout(SITE_TIMEOUT_S):
            described = await check_site(ledger.site(site.name), ledger.origin)
        most, network = described.classification, described.network or ""
    except (JinshiError, TimeoutError):
        pass
    return why_not_at(label, site_label(most), site_network(network))
