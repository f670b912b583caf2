"""`jinshi drill`: rehearse the worst day."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from cli.display import render
from cli.display.progress import progress_bar
from cli.files import os_errors
from cli.recording import record
from cli.session import Session, run_async, session_of
from cli.sites.alarms import show_alarms
from cli.system import SystemClock
from cli.wiring.credentials import Use
from cli.wiring.ledgers import load_log_key, open_ledger, read_policy
from cli.wiring.stores import create_store
from ledger.errors import CheckFailed, Tampered
from ledger.store.versions import EveryVersion
from restore.drill.plan import DrillPlan
from restore.drill.report import DrillReport
from restore.drill.runner import run_drill

EXAMPLES = """[bold]Examples[/]

  jinshi drill run --from remote
  jinshi drill run --from remote --rpo 300 --rto 3600 --json
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
    site: Annotated[str, typer.Option("--from", metavar="NAME", help="The site to restore from.")],
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

    Exit code 1 when a check failed, 3 when the copy was tampered with.
    """
    session = session_of(context)
    passphrase = session.passphrase()
    report = run_async(lambda: _run(session, passphrase, site, rpo, rto, policy, scratch))
    index: int | None = None
    try:
        index = run_async(lambda: record(session.ledger, session.environment, passphrase, report.to_event()))
    finally:  # what a drill found is shown even where it cannot be recorded
        if json:
            render.print_json({**report.to_json(), "index": index})
        else:
            _show(report, index)
    if report.passed:
        return
    failed = ", ".join(check.name for check in report.checks if not check.passed)
    what = f"the drill from {site} failed: {failed}"
    if report.tampered:
        raise Tampered(what, hint="keep the copy as evidence, and use another site")
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


def _show(report: DrillReport, index: int | None) -> None:
    for check in report.checks:
        render.say(render.one_line(f"{'passed' if check.passed else 'FAILED'}  {check.name}: {check.detail}"))
    render.say()
    lost = "nothing would be lost"
    if report.rpo_entries:
        lost = f"{render.count(report.rpo_entries, 'entry')} would be lost, the oldest {report.rpo_ms / 1000:.3f} s old"
    render.facts(
        {
            "site": report.site,
            "entries": f"{report.size:,} of {report.head_size:,}",
            "RPO": f"{report.rpo_ms / 1000:.3f} s ({lost})",
            "RTO": f"{report.rto_ms / 1000:.3f} s",
            "recorded": "NO" if index is None else f"entry {index}",
        }
    )
