"""`jinshi drill`: rehearse the worst day."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from cli.commands.restore_asset import pair
from cli.display import render
from cli.display.progress import progress_bar, progress_bars
from cli.drilling.assets import Drill, Drilled, drill_assets
from cli.files import os_errors
from cli.recording import record
from cli.session import Session, run_async, session_of
from cli.sites.alarms import show_alarms
from cli.system import SystemClock
from cli.wiring.credentials import Use
from cli.wiring.ledgers import load_log_key, open_ledger, read_policy
from cli.wiring.stores import create_store
from cli.wiring.views import Wanted
from ledger.errors import CheckFailed, InvalidRequest, Tampered
from ledger.store.versions import EveryVersion
from restore.choosing import AUTO
from restore.drill.plan import DrillPlan
from restore.drill.report import DrillReport
from restore.drill.runner import run_drill

EXAMPLES = """[bold]Examples[/]

  jinshi drill run --from remote
  jinshi drill run --from remote --rpo 300 --rto 3600 --json
  jinshi drill run --asset www
  jinshi drill run --asset 人口库 --from remote --to postgresql://drill@spare/rehearsal
  jinshi drill run --group registers --at before-the-upgrade --place cases=/srv/scratch/cases.sqlite
"""

drill_app = typer.Typer(help="Rehearsed restores, measured and recorded.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(drill_app, name="drill")


@drill_app.callback()
def drill() -> None:
    """Rehearsed restores, measured and recorded."""


@drill_app.command(epilog=EXAMPLES)
def run(
    context: typer.Context,
    site: Annotated[
        str | None,
        typer.Option("--from", metavar="NAME|auto", help="The site to restore from.  [of assets, default: the best]"),
    ] = None,
    assets: Annotated[
        list[str] | None, typer.Option("--asset", metavar="NAME", help="This asset alone; can be repeated.")
    ] = None,
    group: Annotated[str | None, typer.Option(metavar="NAME", help="All assets of this group.")] = None,
    at: Annotated[
        str | None, typer.Option("--at", metavar="INDEX|TIME|MARK", help="Of assets: as they stood then.")
    ] = None,
    to: Annotated[
        str | None, typer.Option("--to", metavar="PLACE", help="Where the asset goes meanwhile, such as a database.")
    ] = None,
    places: Annotated[
        list[str] | None, typer.Option("--place", metavar="NAME=PLACE", help="The same, of one of several.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="An option of the restore; can be repeated.")
    ] = None,
    rpo: Annotated[float | None, typer.Option(min=0, metavar="SECONDS", help="Fail when more would be lost.")] = None,
    rto: Annotated[float | None, typer.Option(min=0, metavar="SECONDS", help="Fail when it takes longer.")] = None,
    policy: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The trust policy.  [default: the ledger's own]")
    ] = None,
    scratch: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where to restore to meanwhile.  [default: the temp directory]")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Restore from a site into a scratch place, compare everything, measure RPO and RTO, record the report.

    The whole ledger, or assets as restore asset brings them back, held against the RPO and RTO of their grade. Exit
    code 1 when a check failed or an asset was not drilled, 3 when the copy was tampered with.
    """
    session = session_of(context)
    if assets or group is not None:
        drill = Drill(
            _wanted(assets or [], group, at),
            site or AUTO,
            _places(assets or [], to, places or []),
            dict(pair(one, "--set", "an option") for one in set_ or ()),
            policy,
            scratch,
            rpo,
            rto,
        )
        _drill_assets(session, drill, json=json)
        return
    if at is not None or to is not None or places or set_:
        raise InvalidRequest("--at, --to, --place and --set are about assets", hint="name them: --asset NAME")
    if site is None:
        raise InvalidRequest("nobody says what to drill", hint="give --from SITE, or --asset NAME, or --group NAME")
    _drill_ledger(session, site, rpo, rto, policy, scratch, json=json)


def _drill_ledger(
    session: Session,
    site: str,
    rpo: float | None,
    rto: float | None,
    policy: Path | None,
    scratch: Path | None,
    *,
    json: bool,
) -> None:
    passphrase = session.passphrase()
    report = run_async(lambda: _run(session, passphrase, site, rpo, rto, policy, scratch))
    index: int | None = None
    try:
        index = _recorded(session, passphrase, report)
    finally:  # what a drill found is shown even where it cannot be recorded
        if json:
            render.print_json({**report.to_json(), "index": index})
        else:
            _show(report, index)
    _raise_failed([report], f"the drill from {site} failed: {_failed(report)}")


def _recorded(session: Session, passphrase: str, report: DrillReport) -> int:
    return run_async(lambda: record(session.ledger, session.environment, passphrase, report.to_event()))


def _failed(report: DrillReport) -> str:
    return ", ".join(check.name for check in report.checks if not check.passed)


def _raise_failed(reports: Sequence[DrillReport], what: str) -> None:
    if any(report.tampered for report in reports):
        raise Tampered(what, hint="keep the copy as evidence, and use another site")
    if not all(report.passed for report in reports):
        raise CheckFailed(what, hint="see the report above; it is recorded in the ledger")


async def _run(
    session: Session,
    passphrase: str,
    site: str,
    rpo_s: float | None,
    rto_s: float | None,
    policy: Path | None,
    scratch: Path | None,
) -> DrillReport:
    async with open_ledger(session.ledger, session.environment) as ledger:
        place = ledger.site(site, Use.READER)
        copy = EveryVersion(place.objects)
        plan = DrillPlan(
            site=replace(place, objects=copy),
            policy=read_policy(policy) if policy else ledger.policy(),
            origin=ledger.origin,
            rpo_s=rpo_s,
            rto_s=rto_s,
        )
        keys = ledger.data_keys(lambda: passphrase, plan.site.objects)
        load_log_key(ledger.paths.log_key, passphrase)  # a wrong passphrase is found before the long work, not after
        with os_errors(scratch), tempfile.TemporaryDirectory(prefix="jinshi-drill-", dir=scratch) as directory:
            store = await create_store(Path(directory) / "ledger.sqlite")
            try:
                with progress_bar(f"restoring from {site}") as progress:
                    return await run_drill(plan, ledger.store, store, SystemClock(), keys=keys, report=progress)
            finally:
                await store.close()
                show_alarms(copy.where, copy.alarms)


# -- of assets --------------------------------------------------------------------------------------------------------


def _wanted(assets: Sequence[str], group: str | None, at: str | None) -> Wanted:
    if assets and group is not None:
        raise InvalidRequest("both assets and a group are named", hint="give --asset or --group")
    return Wanted(tuple(dict.fromkeys(assets)), group or "", at)


def _places(assets: Sequence[str], to: str | None, places: Sequence[str]) -> dict[str, str]:
    given = dict(pair(one, "--place", "an asset and its place") for one in places)
    if to is not None:
        if len(assets) != 1 or given:
            raise InvalidRequest("--to is the place of one asset", hint="of several, give --place NAME=PLACE for each")
        given[assets[0]] = to
    return given


def _drill_assets(session: Session, drill: Drill, *, json: bool) -> None:
    with progress_bars("") as bars:
        done = run_async(lambda: drill_assets(session, drill, bars, render.note))
    indexes: list[int | None] = [None] * len(done.reports)
    try:
        for number, report in enumerate(done.reports):
            indexes[number] = _recorded(session, session.passphrase(), report)
    finally:
        if json:
            _print(done, indexes)
        else:
            for report, index in zip(done.reports, indexes, strict=True):
                _show(report, index)
                render.say()
        for name, why in done.missing.items():
            render.warn(f"{name} was NOT drilled: {why}; give --to PLACE, or --place {name}=PLACE")
    failed = [
        f"{report.asset.name} ({_failed(report)})"
        for report in done.reports
        if report.asset is not None and not report.passed
    ]
    _raise_failed(done.reports, f"the drill from {done.site} failed: {'; '.join(failed)}")
    if done.missing:
        raise CheckFailed(f"not drilled: {', '.join(done.missing)}", hint="say where to restore to: --to, --place")


def _print(done: Drilled, indexes: Sequence[int | None]) -> None:
    drills = [{**report.to_json(), "index": index} for report, index in zip(done.reports, indexes, strict=True)]
    passed = not done.missing and all(report.passed for report in done.reports)
    render.print_json({"site": done.site, "passed": passed, "drills": drills, "not_drilled": dict(done.missing)})


# -- what people see --------------------------------------------------------------------------------------------------


def _show(report: DrillReport, index: int | None) -> None:
    for check in report.checks:
        render.say(render.one_line(f"{'passed' if check.passed else 'FAILED'}  {check.name}: {check.detail}"))
    render.say()
    lost = "nothing would be lost"
    if report.asset is not None:
        lost = "the age of the point that came back"
    elif report.rpo_entries:
        lost = f"{render.count(report.rpo_entries, 'entry')} would be lost, the oldest {report.rpo_ms / 1000:.3f} s old"
    asset = {} if report.asset is None else {"asset": f"{report.asset.name} (grade {report.asset.grade})"}
    render.facts(
        {
            **asset,
            "site": report.site,
            "entries": f"{report.size:,} of {report.head_size:,}",
            "RPO": f"{report.rpo_ms / 1000:.3f} s ({lost})",
            "RTO": f"{report.rto_ms / 1000:.3f} s",
            "recorded": "NO" if index is None else f"entry {index}",
        }
    )
