"""The examination of a ledger's assets, once: what `jinshi doctor` shows."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from cli.assets.beside import Looked, look_beside
from cli.assets.coverage import Finding, SiteFacts
from cli.assets.watching import Watch
from cli.config import S3Place, parse_place
from cli.sites.guarding import Guard, guard_of
from cli.sites.scrub_alarms import result_of
from cli.system import SystemClock
from cli.wiring.ledgers import OpenLedger
from ledger.alarms import Reading
from ledger.asset_lag import AssetLagMeter
from ledger.assets import Asset, Registry
from ledger.core.acts import SCRUBBED, acts_source
from ledger.core.entry import decode_entry
from ledger.sources import read_sources
from ledger.store.base import Selection


@dataclass(frozen=True, slots=True)
class Examined:
    """Every active asset, and retired ones that have left something at their system, with what was found of it.

    `notes` say what was not looked at to the end; `trust` is what is wrong with the trust service.
    """

    assets: Sequence[tuple[Asset, Sequence[Finding]]]
    notes: Sequence[str]
    trust: Sequence[Reading] = ()

    @property
    def findings(self) -> list[Finding]:
        """All of them, by asset."""
        return [finding for _, found in self.assets for finding in found]

    @property
    def json(self) -> dict[str, object]:
        return {
            "passed": not self.findings and not self.trust,
            "assets": [
                {"name": asset.name, "grade": asset.grade, "findings": [one.json for one in found]}
                for asset, found in self.assets
            ],
            "trust": [{"check": one.kind.value, "about": one.about, "what": one.what} for one in self.trust],
            "notes": list(self.notes),
        }


async def examine(ledger: OpenLedger, sites: Sequence[SiteFacts], *, beside: bool) -> Examined:
    """Hold every active asset against what its grade demands. `beside`: also look for what no asset covers.

    Raises:
        StoreUnavailable: the ledger cannot be read. What goes wrong elsewhere is a finding.
    """
    entries, clock = ledger.searched, SystemClock()
    watch = Watch(entries, ledger.origin, clock, Registry(entries), AssetLagMeter(entries, clock))
    scrubbed = [with_guard(await _with_scrub(ledger, site), await _guard(ledger, site.name)) for site in sites]
    found = await watch.look(scrubbed, await read_sources(ledger.store))
    looked = Looked()
    if beside and found:
        active = [asset for asset, _ in found if asset.active]
        looked = await look_beside(active, ledger.environment, own_directories(ledger))
        looked.notes += _same_disk(ledger)
    return Examined([(asset, [*of_it, *looked.of(asset)]) for asset, of_it in found], looked.notes)


async def _guard(ledger: OpenLedger, name: str) -> Guard | None:
    """What guards the copy at a site; None: it cannot be asked."""
    settings = next((site for site in ledger.settings.sites if site.name == name), None)
    return None if settings is None else await guard_of(ledger, settings)


def with_guard(site: SiteFacts, guard: Guard | None) -> SiteFacts:
    """A site, with for how long it keeps what it holds."""
    if guard is None:
        return site
    return replace(site, retention_days=guard.retention_days, lock_days=guard.lock_days, unlocked=guard.trouble)


async def _with_scrub(ledger: OpenLedger, site: SiteFacts) -> SiteFacts:
    """A site, with what its last recorded scrub says of it."""
    what = Selection(source=acts_source(ledger.origin), subject=site.name, type=SCRUBBED, newest_first=True)
    for stored in await ledger.searched.select(what, limit=1):
        result = result_of(decode_entry(stored.entry).event)
        if result is not None and not result.whole and not site.trouble:
            return replace(site, trouble=f"is damaged: {result.what}", damaged=True)
    return site


def _same_disk(ledger: OpenLedger) -> list[str]:
    """Sites in directories that one failure would take together with the ledger, a line each."""
    found: list[str] = []
    with suppress(OSError):
        device = ledger.paths.root.stat().st_dev
        for site in ledger.settings.sites:
            place = parse_place(site.url)
            if isinstance(place, Path) and not site.offline and place.exists() and place.stat().st_dev == device:
                found.append(f"site {site.name} lies on the disk of the ledger itself: one failure would take both")
    return found


def own_directories(ledger: OpenLedger) -> list[Path]:
    """Where Jinshi itself keeps things: the ledger, what `init` puts beside it, sites in directories, mirrors' keys."""
    paths, sites = ledger.paths, ledger.settings.sites
    places = [place for site in sites if not isinstance(place := parse_place(site.url), S3Place)]
    keys = [Path(site.mirror_key).parent for site in sites if site.mirror_key]
    return [paths.root, paths.default_keys, paths.default_sites, *places, *keys]
