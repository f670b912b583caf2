"""Drills of assets: restored from a site exactly as `restore asset` does it, then judged, recorded and removed."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from pathlib import Path

from cli.assets.coverage import point_age_max_s
from cli.capturing.copies import Where, copies_of
from cli.capturing.restoring import Bars, Done, Request, check_sets, restore_assets
from cli.drilling.places import Places, check_new, places_for, remove
from cli.files import os_errors
from cli.session import Session
from cli.system import SystemClock
from cli.wiring.ledgers import OpenLedger, load_log_key, open_ledger
from cli.wiring.views import Wanted, size_of_mark
from ledger.assets import Asset, Assets, read_assets
from ledger.core.entry import decode_entry
from ledger.core.event import event_time_us
from ledger.errors import InvalidRequest, JinshiError, Unavailable
from ledger.grades import grade_of
from ledger.kinds import CHECKED, KINDS
from ledger.store.base import EntryStore, Selection
from restore.choosing import AUTO, PRIMARY
from restore.drill.assets import Rehearsed, judge
from restore.drill.report import DrilledAsset, DrillReport

RUN_AS = "run_as"
"""The option of a restore that is done as another user (kind postgres-cluster)."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Drill:
    """What to rehearse. `place`: AUTO or a site's name; `places`: where assets go that need more than a scratch place.

    `rpo_s` and `rto_s` count in place of what the grade of each asset demands.
    """

    wanted: Wanted
    place: str = AUTO
    places: Mapping[str, str] = field(default_factory=dict)
    sets: Mapping[str, str] = field(default_factory=dict)
    policy: Path | None = None
    scratch: Path | None = None
    rpo_s: float | None = None
    rto_s: float | None = None


@dataclass(frozen=True, slots=True)
class Drilled:
    """What a drill found of each asset; `missing` are those that were not drilled, with why."""

    site: str
    reports: Sequence[DrillReport]
    missing: Mapping[str, str]


async def drill_assets(session: Session, drill: Drill, bars: Bars, say: Say) -> Drilled:
    """Restore the assets from a site into a scratch place, have each judged, and remove what was restored.

    What goes wrong with the copy or a restore is in the reports; a check that could not run has failed.

    Raises:
        InvalidRequest: there is no such asset, site or mark, a place is not free, or the passphrase is wrong.
        Unavailable: no site can be read, or the server that a place names.
        StoreUnavailable: the ledger itself cannot be read, so that nothing says how old a point is.
    """
    passphrase = cache(session.passphrase)
    async with open_ledger(session.ledger, session.environment) as ledger:
        load_log_key(ledger.paths.log_key, passphrase())  # a wrong one is found before the long work, not after
        known = await read_assets(ledger.store)
        assets = drill.wanted.of(known)
        _check(known, assets, drill)
        where = Where(drill.place, passphrase, drill.policy)
        where = Where(await _site(ledger, where, drill.wanted, say), passphrase, drill.policy)
        with os_errors(drill.scratch), tempfile.TemporaryDirectory(prefix="jinshi-drill-", dir=drill.scratch) as room:
            if RUN_AS in drill.sets:  # whoever that is has to reach it; what is restored has modes of its own
                Path(room).chmod(0o711)
            places = places_for(assets, drill.places, Path(room))
            chosen = [asset for asset in assets if asset.name in places.of]
            for asset in chosen:
                await check_new(asset, places.of[asset.name])
            reports = await _rehearsed(_Drilling(session, ledger, drill, where, bars, say), chosen, places)
    return Drilled(where.place, reports, places.missing)


def _check(known: Assets, assets: Sequence[Asset], drill: Drill) -> None:
    """What is wrong with the question is said before anything counts as a drill that failed. Raises InvalidRequest."""
    for asset in assets:
        check_sets(asset, drill.sets)
        if drill.wanted.at is not None and drill.wanted.index is None and drill.wanted.time_us is None:
            size_of_mark(known, asset.name, drill.wanted.at)


async def _site(ledger: OpenLedger, where: Where, wanted: Wanted, say: Say) -> str:
    """The site to restore from; of several the best. A drill from the ledger itself would prove nothing.

    Raises InvalidRequest, Unavailable.
    """
    if where.place == PRIMARY:
        raise InvalidRequest(
            "a drill restores from a site, not from the ledger itself", hint="name one, or leave --from"
        )
    if where.place != AUTO:
        return ledger.settings.site(where.place).name
    for chosen in await copies_of(ledger, where, wanted.size):
        if chosen.name != PRIMARY:
            say(chosen.why)
            return chosen.name
    raise Unavailable("no site can be restored from", hint="see jinshi status, or name one with --from")


@dataclass(frozen=True, slots=True)
class _Drilling:
    session: Session
    ledger: OpenLedger
    drill: Drill
    where: Where
    bars: Bars
    say: Say


async def _rehearsed(at: _Drilling, assets: Sequence[Asset], places: Places) -> list[DrillReport]:
    if not assets:
        return []
    clock, drill = SystemClock(), at.drill
    names = tuple(asset.name for asset in assets)
    request = Request(Wanted(names, at=drill.wanted.at), {name: places.of[name] for name in names}, sets=drill.sets)
    started, head_size = clock.now(), (await at.ledger.store.head()).size
    done: Done | None = None
    failed: JinshiError | None = None
    try:
        environment = at.session.environment
        done = await restore_assets(at.session.ledger, environment, at.where, request, at.bars, _nothing)
    except JinshiError as unusable:  # the copy as a whole: no asset comes back from it
        failed = unusable
    finally:
        finished = clock.now()
        for asset in assets:
            await _removed(asset, places.of[asset.name], done, at.say)
    outcomes = [] if done is None else list(done.outcomes)
    reports = []
    for asset in assets:
        number = next((number for number, one in enumerate(outcomes) if one.asset.name == asset.name), None)
        outcome = None if number is None else outcomes[number]
        # Those that came after it have not held it up; what came before it, proving the copy too, has.
        later_s = 0.0 if number is None else sum(one.took_s for one in outcomes[number + 1 :])
        size = 0 if outcome is None else outcome.chosen.copy.checkpoint.size
        restored = None if outcome is None else outcome.restored
        rehearsed = Rehearsed(
            origin=at.ledger.origin,
            site=at.where.place,
            started=started,
            finished=finished,
            size=size,
            head_size=head_size,
            took_s=max(0.0, (finished - started).total_seconds() - later_s),
            point_age_s=0.0
            if restored is None
            else await point_age_s(at.ledger.searched, asset, restored.sealed, size, started),
            restored=restored,
            error=failed if outcome is None else outcome.error,
        )
        reports.append(_judged(asset, rehearsed, drill))
    return reports


def _nothing(_line: str) -> None:
    """What is decided about copies is decided before: there is one, and what is wrong with it is in the reports."""


async def _removed(asset: Asset, place: str, done: Done | None, say: Say) -> None:
    """Remove what was restored; where nothing was, a restore has left nothing at its place."""
    restored = {one.asset.name for one in done.outcomes if one.restored is not None} if done is not None else set()
    if asset.name not in restored:
        return
    try:
        left = await remove(asset, place)
    except JinshiError as error:
        left = f"{error.what}; {error.hint}"
    if left:
        say(left)


def _judged(asset: Asset, rehearsed: Rehearsed, drill: Drill) -> DrillReport:
    grade, restored = grade_of(asset.grade), rehearsed.restored
    drilled = DrilledAsset(
        asset.name,
        asset.kind,
        asset.grade,
        drill.wanted.group,
        drill.wanted.at or "",
        None if restored is None else restored.sealed,
        {} if restored is None else restored.counts,
        {} if restored is None else restored.checks,
    )
    rpo_s = drill.rpo_s if drill.rpo_s is not None else point_age_max_s(asset, grade)
    return judge(
        drilled,
        rehearsed,
        rpo_s=None if drill.wanted.at is not None else rpo_s,
        rto_s=drill.rto_s if drill.rto_s is not None else grade.rto_s,
    )


async def point_age_s(entries: EntryStore, asset: Asset, sealed: int, size: int, now: datetime) -> float:
    """How old the point is that came back: since it was sealed, or last found unchanged in what the copy has.

    Of events that come by themselves, how old the first one is that the copy lacks.
    """
    if asset.kind in KINDS and not KINDS[asset.kind].captured:
        lacking = [await _first_us(entries, Selection(start=size, source=source)) for source in asset.sources]
        point_us = min((one for one in lacking if one is not None), default=None)
    else:
        looked = Selection(sealed, size, source=asset.source, type=CHECKED, newest_first=True)
        point_us = await _first_us(entries, looked)
        if point_us is None:
            point_us = await _first_us(entries, Selection(sealed, sealed + 1))
    return 0.0 if point_us is None else max(0.0, now.timestamp() - point_us / 1_000_000)


async def _first_us(entries: EntryStore, what: Selection) -> int | None:
    """When the first entry of a selection was recorded."""
    for stored in await entries.select(what, limit=1):
        return event_time_us(decode_entry(stored.entry).recordedtime)
    return None
