"""What the log and the sites say of the assets, again and again: only what was recorded since is looked through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cli.assets.coverage import AssetFacts, DrillFacts, Finding, SiteFacts, findings, left_behind
from ledger.asset_lag import AssetLagMeter
from ledger.assets import Asset, Registry
from ledger.core.acts import DRILLED, acts_source
from ledger.core.entry import Entry, decode_entry
from ledger.core.event import Event, event_time_us, posix_us
from ledger.errors import Malformed
from ledger.grades import grade_of
from ledger.kinds import CHECKED, KINDS
from ledger.protocols import Clock
from ledger.sources import Sources
from ledger.store.base import EntryStore, Selection
from restore.drill.report import drill_subject
from restore.retained.acts import Horizon, Horizons, next_point, oldest_point


class Watch:
    """Looks after the assets of one ledger. For one event loop. `grace_s`: as `findings` has it."""

    def __init__(
        self,
        entries: EntryStore,
        origin: str,
        clock: Clock,
        registry: Registry,
        lag: AssetLagMeter,
        *,
        grace_s: float = 0.0,
    ) -> None:
        self._entries = entries
        self._origin = origin
        self._clock = clock
        self._registry = registry
        self._lag = lag
        self._grace_s = grace_s
        self._newest: dict[Selection, _Newest] = {}
        self._since: dict[tuple[str, int], int] = {}
        self._horizons = Horizons(entries)
        self._kept: dict[tuple[str, Horizon], int] = {}

    async def look(self, sites: Sequence[SiteFacts], sources: Sources) -> list[tuple[Asset, list[Finding]]]:
        """Every active asset with what is found of it, and what retired ones have left. Raises StoreUnavailable."""
        registered = await self._registry.assets()
        assets = registered.active()
        left = [(asset, behind) for asset in registered.all() if (behind := left_behind(asset))]
        if not assets:
            return left
        lags = await self._lag.of(assets, {site.size for site in sites})
        head = (await self._entries.head()).size
        # Up to the last drill of all: until there is another one, nothing is searched for.
        last = await self._last(acts_source(self._origin), DRILLED, head)
        drilled = 0 if last is None else last.index + 1
        drills = [drill for site in sites if (drill := await self._drill(site.name, drilled)) is not None]
        now_us, horizons = posix_us(self._clock.now()), await self._horizons.now()
        found: list[tuple[Asset, list[Finding]]] = []
        for asset in assets:
            sealed, seen = await self._seen(asset, head)
            facts = AssetFacts(
                asset,
                [sources.ack_of(source) for source in asset.sources],
                None if sealed is None else sealed.index,
                None if seen is None else event_time_us(seen.entry.recordedtime),
                {site.name: lags[site.size, asset.name] for site in sites},
                await self._drills(asset, sites, drilled),
                await self._kept_since(asset, horizons.get(asset.source), now_us),
            )
            grade = grade_of(asset.grade)
            found.append((asset, findings(facts, grade, sites, drills, now_us, grace_s=self._grace_s)))
        return found + left

    async def _seen(self, asset: Asset, head: int) -> tuple[_Found | None, _Found | None]:
        """Its last sealing entry, and its last sign of life."""
        sealing = KINDS[asset.kind].sealing if asset.kind in KINDS else ""
        if not sealing:
            return None, None
        since = asset.name, asset.since_us
        if since not in self._since:  # nothing before it was added is searched, or counts
            self._since[since] = await self._entries.size_at(asset.since_us - 1)
        sealed = await self._last(asset.source, sealing, head, start=self._since[since])
        if sealed is None:
            return None, None
        # A heartbeat before the sealing entry says nothing any more, so that the search for one is short.
        return sealed, await self._last(asset.source, CHECKED, head, start=sealed.index + 1) or sealed

    async def _kept_since(self, asset: Asset, horizon: Horizon | None, now_us: int) -> int | None:
        """When the point from which on all of an asset is kept was recorded; None: nothing of it was released."""
        if horizon is None:
            return None
        key = asset.source, horizon
        if key not in self._kept:
            sealing = KINDS[asset.kind].sealing if asset.kind in KINDS else ""
            # What an act says of its horizon, and what it has released: the later one counts.
            points = [await oldest_point(self._entries, asset.source, sealing, horizon)]
            points.append(await next_point(self._entries, asset.source, sealing, horizon.stop))
            self._kept = {one: kept for one, kept in self._kept.items() if one[0] != asset.source}
            self._kept[key] = max(now_us if one is None else one.recorded_us for one in points)
        return self._kept[key]

    async def _drills(self, asset: Asset, sites: Sequence[SiteFacts], head: int) -> list[DrillFacts]:
        """The last drill of the asset from each site; those of a retired asset of its name do not count."""
        last = [await self._drill(drill_subject(site.name, asset.name), head) for site in sites]
        return [drill for drill in last if drill is not None and drill.finished_us >= asset.since_us]

    async def _drill(self, subject: str, head: int) -> DrillFacts | None:
        """The last drill of that subject: a site's name, or that of an asset from there (restore/drill/report.py)."""
        last = await self._last(acts_source(self._origin), DRILLED, head, subject=subject)
        return None if last is None else drill_of(last.entry.event, event_time_us(last.entry.recordedtime))

    async def _last(
        self, source: str, type_: str, head: int, *, start: int = 0, subject: str | None = None
    ) -> _Found | None:
        """The last entry of a source of that type from `start` on."""
        key = Selection(source=source, type=type_, subject=subject)
        known = self._newest.get(key) or _Newest(0, None)
        what = Selection(max(start, known.looked), head, source=source, type=type_, subject=subject, newest_first=True)
        found = known.found
        if what.start < head:
            for stored in await self._entries.select(what, limit=1):
                found = _Found(stored.index, decode_entry(stored.entry))
        self._newest[key] = _Newest(head, found)
        return found if found is not None and found.index >= start else None


@dataclass(frozen=True, slots=True)
class _Found:
    index: int
    entry: Entry


@dataclass(frozen=True, slots=True)
class _Newest:
    """The last entry of a kind among the first `looked`."""

    looked: int
    found: _Found | None


def drill_of(event: Event, finished_us: int) -> DrillFacts | None:
    """What a `drill.completed.v1` says; None: it cannot be read."""
    try:
        data = event.json_data
    except Malformed:
        return None
    match data:
        case {"site": str(site), "passed": bool(passed), "rto_ms": int(rto_ms)}:
            return DrillFacts(site, finished_us, passed, rto_ms)
    return None
