"""`jinshi status`: one screen that says whether the ledger is safe."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated

import typer

from cli.config import read_settings
from cli.display import render
from cli.display.progress import stdout
from cli.session import Session, run_async, session_of
from cli.sites.throttling import ShownPhase, phase_of
from cli.system import SystemClock
from cli.wiring.ledgers import OpenLedger, mirror_memory, open_ledger
from ledger.alarms import StandingAlarm, read_alarms
from ledger.asset_lag import AssetLag, AssetLagMeter
from ledger.assets import Asset, Registry
from ledger.classification import read_label
from ledger.core.acknowledgement import LOCAL, AckPolicy, is_possible
from ledger.core.classification import parse_label
from ledger.core.entry import decode_entry
from ledger.core.merkle import CompactRange
from ledger.errors import JinshiError
from ledger.lag import Lag, LagMeter
from ledger.sources import read_sources
from ledger.store.base import Selection
from replication.quota import Notice, Room, read_notice
from replication.schedule import OFF
from replication.site import Site, SiteState, site_state

COUNTED_MAX = 1_000
WATCH_EVERY_S = 2.0

EXAMPLES = """[bold]Examples[/]

  jinshi status
  jinshi status --watch                                      # again and again, until Ctrl-C
  jinshi status --json | jq '.sites[] | {name, lag_entries, lag_bytes, lag_s}'
"""


@dataclass(frozen=True, slots=True)
class SiteView:
    """One site: what it says, and its lag by what it is known to have cosigned, also while it is away."""

    role: str
    state: SiteState
    size: int
    lag: Lag
    phase: ShownPhase | None = None
    offline: bool = False
    room: str | None = None
    full: bool = False

    @property
    def fine(self) -> bool:
        return (
            self.state.problem is None
            and not self.offline
            and not self.full
            and (self.phase is None or self.phase.rate != OFF)
        )

    @property
    def json(self) -> dict[str, object]:
        return {
            "name": self.state.name,
            "where": self.state.where,
            "role": self.role,
            "reachable": self.state.reachable,
            "size": self.size,
            "pending": self.state.pending,
            "lag_entries": self.lag.entries,
            "lag_bytes": self.lag.bytes,
            "lag_s": round(self.lag.seconds, 3),
            "last_cosigned": self.state.last_cosigned,
            "problem": self.state.problem,
            "tampered": self.state.tampered,
            "offline": self.offline,
            "room": self.room,
            "full": self.full,
            "throttle": None if self.phase is None else self.phase.json,
        }


@dataclass(frozen=True, slots=True)
class SourceView:
    """What a source demands, whether the sites can meet it now, and how many of its entries still wait for that."""

    source: str
    ack: AckPolicy
    possible: bool
    waiting: int

    @property
    def json(self) -> dict[str, str | int | bool]:
        return {"source": self.source, "ack": str(self.ack), "possible": self.possible, "waiting": self.waiting}


@dataclass(frozen=True, slots=True)
class AssetView:
    """An asset under protection, and how far each site is behind with it."""

    asset: Asset
    lags: Mapping[str, AssetLag]

    @property
    def state(self) -> str:
        words = [word for word, so in (("paused", self.asset.paused), ("DEGRADED", self.asset.problems)) if so]
        return ", ".join(words) or ("fine" if not any(lag.seconds for lag in self.lags.values()) else "behind")

    @property
    def json(self) -> dict[str, object]:
        return {
            "name": self.asset.name,
            "kind": self.asset.kind,
            "grade": self.asset.grade,
            "paused": self.asset.paused,
            "problems": list(self.asset.problems),
            "sites": [
                {
                    "site": name,
                    "lag_entries": lag.entries,
                    "lag_bytes": lag.bytes,
                    "lag_s": round(lag.seconds, 3),
                }
                for name, lag in self.lags.items()
            ],
        }


class Meters:
    """Kept while one watches, so that watching reads little."""

    def __init__(self, ledger: OpenLedger) -> None:
        clock = SystemClock()
        self.lag = LagMeter(ledger.store, clock)
        self.registry = Registry(ledger.searched)
        self.asset_lag = AssetLagMeter(ledger.searched, clock)


@dataclass(frozen=True, slots=True)
class Status:
    """What the screen shows."""

    about: dict[str, str | int]
    sites: list[SiteView]
    assets: list[AssetView]
    sources: list[SourceView]
    alarms: list[StandingAlarm]

    @property
    def json(self) -> dict[str, object]:
        return {
            **self.about,
            "sites": [site.json for site in self.sites],
            "assets": [asset.json for asset in self.assets],
            "sources": [source.json for source in self.sources],
            "alarms": [
                {"kind": one.kind, "about": one.about, "what": one.what, "since": one.since, "index": one.index}
                for one in self.alarms
            ],
        }


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=EXAMPLES)(status)


def status(
    context: typer.Context,
    watch: Annotated[bool, typer.Option("--watch", help="Again and again, until Ctrl-C.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print as one JSON object.")] = False,
) -> None:
    """Show the ledger's size and root, how far every site is, also with each asset, and which alarms stand."""
    session = session_of(context)
    run_async(lambda: _show(session, watch=watch, json=json))


async def _show(session: Session, *, watch: bool, json: bool) -> None:
    async with open_ledger(session.ledger, session.environment) as ledger:
        meters = Meters(ledger)
        while True:
            found = await _status(ledger, meters)
            if json:
                render.print_json(found.json)
            else:
                if watch:
                    stdout.clear()
                _show_status(session, found)
            if not watch:
                return
            sys.stdout.flush()
            await asyncio.sleep(WATCH_EVERY_S)


def _show_status(session: Session, found: Status) -> None:
    about = found.about
    render.facts(
        {
            "ledger": str(session.ledger),
            "origin": str(about["origin"]),
            "entries": f"{about['tree_size']:,}",
            "published": f"{about['published_size']:,}",
            "classified": parse_label(str(about["classification"])).shown,
            "root": str(about["root_hash"]),
        }
    )
    render.say()
    show_sites(found.sites, json=False)
    if found.assets:
        render.say()
        _show_assets(found.assets)
    if found.sources:
        render.say()
        rows = [(one.source, str(one.ack), "yes" if one.possible else "NO", _waiting(one)) for one in found.sources]
        render.table(("SOURCE", "ACKNOWLEDGED BY", "CAN BE NOW", "WAITING"), rows)
    for alarm in found.alarms:
        render.warn(f"alarm since {render.moment(alarm.since)}: {alarm.what}")


def _waiting(one: SourceView) -> str:
    if not one.waiting:
        return "nothing"
    return f"{COUNTED_MAX:,} entries or more" if one.waiting == COUNTED_MAX else render.count(one.waiting, "entry")


def _show_assets(assets: Sequence[AssetView]) -> None:
    """Every asset, with what each site lacks of it."""
    sites = list(assets[0].lags)
    rows = [
        (one.asset.name, str(one.asset.grade), *(_asset_lag(one.lags[site]) for site in sites), one.state)
        for one in assets
    ]
    render.table(("ASSET", "GRADE", *(f"LAG AT {site}" for site in sites), "STATE"), rows)


def _asset_lag(lag: AssetLag) -> str:
    if not lag.seconds and not lag.entries:
        return "none"
    entries = "many entries" if lag.entries is None else render.count(lag.entries, "entry")
    weight = "" if lag.bytes is None else f", {render.size(lag.bytes)}"
    return f"{entries}{weight}, {render.duration(lag.seconds)}"


async def _status(ledger: OpenLedger, meters: Meters) -> Status:
    head = await ledger.reader.head()
    last = await ledger.store.last_checkpoint(ledger.origin)
    about: dict[str, str | int] = {
        "origin": ledger.origin,
        "tree_size": head.size,
        "root_hash": CompactRange(head.size, head.frontier).root().hex(),
        "published_size": 0 if last is None else last.size,
        "classification": (await read_label(ledger.store)).value,
    }
    sites = await _views(ledger, meters.lag)
    alarms = sorted((await read_alarms(ledger.store)).values(), key=lambda one: one.index)
    return Status(about, sites, await _assets(sites, meters), await _sources(ledger, sites), alarms)


async def _assets(sites: Sequence[SiteView], meters: Meters) -> list[AssetView]:
    assets = (await meters.registry.assets()).active()
    if not assets:
        return []
    lags = await meters.asset_lag.of(assets, {site.size for site in sites})
    return [AssetView(one, {site.state.name: lags[site.size, one.name] for site in sites}) for one in assets]


async def _sources(ledger: OpenLedger, sites: Sequence[SiteView]) -> list[SourceView]:
    """The sources that demand more than the commit."""
    acks = (await read_sources(ledger.store)).acks
    found: list[SourceView] = []
    for source, ack in sorted(acks.items()):
        if ack == LOCAL:
            continue
        covered = ack.covered((site.role, site.size) for site in sites)
        possible = is_possible(ack, [(site.role, site.fine) for site in sites])
        waiting = await ledger.store.select(Selection(source=source, start=covered), limit=COUNTED_MAX)
        found.append(SourceView(source, ack, possible, len(waiting)))
    return found


async def site_states(session: Session) -> list[SiteView]:
    """How far each site of the session's ledger is."""
    async with open_ledger(session.ledger, session.environment) as ledger:
        return await _views(ledger, LagMeter(ledger.store, SystemClock()))


async def _views(ledger: OpenLedger, meter: LagMeter) -> list[SiteView]:
    async def recordedtime_of(index: int) -> str:
        return decode_entry((await ledger.reader.entry(index)).entry).recordedtime

    head, now = await ledger.reader.head(), SystemClock().now()

    async def ask(site: Site) -> tuple[SiteState, int, Notice | None]:
        state = await site_state(site, ledger.log_key, head_size=head.size, recordedtime_of=recordedtime_of, now=now)
        if state.problem is not None:
            return state, await _remembered(ledger, state), None
        notice = None
        with suppress(JinshiError):
            notice = await read_notice(site, ledger.origin)
        return state, state.size, notice

    found = await asyncio.gather(*(ask(site) for site in ledger.sites()))
    lags = {size: await meter.of(size) for size in sorted({size for _, size, _ in found})}
    settings = {
        site.name: site for site in read_settings(ledger.paths).sites
    }  # a throttle may be set while one watches
    return [
        SiteView(
            settings[state.name].counts_as,
            state,
            size,
            lags[size],
            phase_of(settings[state.name]),
            settings[state.name].offline,
            None if notice is None or notice.room is Room.FINE else notice.what,
            notice is not None and notice.room is Room.OVER,
        )
        for state, size, notice in found
    ]


async def _remembered(ledger: OpenLedger, state: SiteState) -> int:
    """How much a site that cannot say so has cosigned: by its mirror's memory, where that is at hand."""
    with suppress(JinshiError):
        remembered = await mirror_memory(ledger.settings.site(state.name), ledger.origin)
        if remembered is not None:
            return remembered.checkpoint.size
    return state.size


def show_sites(sites: Sequence[SiteView], *, json: bool) -> None:
    """The sites as a table, and what is wrong with any of them below it."""
    if json:
        for site in sites:
            render.print_json(site.json)
        return
    if not sites:
        render.say("no sites: nothing protects this ledger; add one with: jinshi site add NAME PATH-OR-URL")
        return
    render.table(("SITE", "ROLE", "ENTRIES", "LAG", "COSIGNED", "STATE"), [_row(site) for site in sites])
    for site in sites:
        if site.phase is not None:
            render.say(f"site {site.state.name}: {site.phase.text}")
    for site in sites:
        if site.room:
            render.warn(site.room)
        if site.state.problem:
            render.warn(f"site {site.state.name}: {site.state.problem}")


def _row(site: SiteView) -> tuple[str, ...]:
    lag = "none"
    if site.lag.entries:
        weight = "" if site.lag.bytes is None else f", {render.size(site.lag.bytes)}"
        lag = f"{render.count(site.lag.entries, 'entry')}{weight}, {render.duration(site.lag.seconds)}"
    behind = "by media" if site.offline else "behind"
    verdict = "fine" if not site.lag.entries else behind
    if site.state.problem:
        verdict = "TAMPERED" if site.state.tampered else "not reachable"
    elif site.full:
        verdict = "FULL"
    cosigned = render.moment(site.state.last_cosigned or ("never" if not site.size else "not known"))
    return site.state.name, site.role, f"{site.size:,}", lag, cosigned, verdict
