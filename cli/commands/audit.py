"""`jinshi audit`: replay everything from its bytes, and say what holds, what does not, and what was not checked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli import render
from cli.auditing import Place, Wanted, audit_directory, audit_place, audit_site
from cli.progress import progress_bar
from cli.report_html import report_html
from cli.session import Session, run_async, session_of
from cli.wiring import open_ledger, read_newer_file, write_file
from ledger.auditor import AuditReport, Outcome
from ledger.errors import InvalidRequest, Tampered

EXAMPLES = """[bold]Examples[/]

  jinshi audit                                    # the ledger: what is published, and every database row
  jinshi audit --site remote --html audit.html
  jinshi audit --from /mnt/remote --policy trust.policy --json
  jinshi audit --open --registers                 # also open what is sealed, and rebuild every edition
"""
_MARKS = {Outcome.PASSED: "passed", Outcome.FAILED: "FAILED", Outcome.NOT_RUN: "not run"}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=EXAMPLES)(audit)


def audit(
    context: typer.Context,
    site: Annotated[str | None, typer.Option(metavar="NAME", help="Audit this site's copy.")] = None,
    place: Annotated[
        str | None, typer.Option("--from", metavar="PATH|URL", help="Audit the copy there; needs --policy alone.")
    ] = None,
    policy: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The trust policy.  [default: the ledger's own]")
    ] = None,
    origin: Annotated[
        str | None, typer.Option(metavar="NAME", help="Which ledger, where the place holds several.")
    ] = None,
    against: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A receipt or checkpoint the copy must not fall behind; with --from."),
    ] = None,
    at_least: Annotated[
        int | None, typer.Option(min=0, metavar="SIZE", help="Refuse a copy with fewer entries; with --from.")
    ] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the report as one HTML file, too.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    open_: Annotated[bool, typer.Option("--open", help="Open what is sealed, with the passphrase.")] = False,
    registers: Annotated[bool, typer.Option("--registers", help="Rebuild every edition of every register.")] = False,
    processes: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="How many processes.  [default: one for each processor]")
    ] = None,
    scratch: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Where to sort keys, about 100 bytes an entry.  [default: the temp directory]"
        ),
    ] = None,
) -> None:
    """Replay a ledger or a site from its bytes, check everything that can be checked, and report.

    Nothing is written to what is audited. Exit code 3 when a check failed.
    """
    session = session_of(context)
    if site is not None and place is not None:
        raise InvalidRequest("--site and --from are two places", hint="give one of them")
    if place is None and (against or at_least is not None or origin is not None):
        raise InvalidRequest("--against, --at-least and --origin are about a copy", hint="name it: --from PATH")
    if (site is not None or place is not None) and (open_ or registers):
        raise InvalidRequest("--open and --registers are about a ledger's directory", hint="leave out --site or --from")
    with progress_bar("auditing") as progress:
        passphrase = session.passphrase() if open_ else ""
        wanted = Wanted(processes, scratch, (lambda: passphrase) if open_ else None, registers, progress)
        if place is not None:
            if policy is None:
                raise InvalidRequest("no trust policy is given", hint="give --policy FILE: who is believed")
            newer = tuple(read_newer_file(file) for file in against or [])
            copy = Place(place, policy, origin, newer, at_least)
            report = run_async(lambda: audit_place(copy, session.environment, wanted))
        elif site is not None:
            report = run_async(lambda: _site(session, site, policy, wanted))
        else:
            report = run_async(lambda: audit_directory(session.ledger, session.environment, wanted))
    if html is not None:
        write_file(html.absolute(), report_html(report).encode("utf-8"))
    if json:
        render.print_json(report.to_json())
    else:
        show(report)
    if not report.passed:
        names = ", ".join(check.name for check in report.failed)
        raise Tampered(f"the audit of {report.what} failed: {names}", hint="keep it as evidence, and use another copy")


async def _site(session: Session, name: str, policy: Path | None, wanted: Wanted) -> AuditReport:
    async with open_ledger(session.ledger, session.environment) as ledger:
        return await audit_site(ledger, name, policy, wanted)


def show(report: AuditReport) -> None:
    """The report on a terminal."""
    for check in report.checks:
        render.say(render.one_line(f"{_MARKS[check.outcome]:<8} {check.name}: {check.detail}"))
        for finding in check.findings:
            render.say(render.one_line(f"           {finding.key}: {finding.what}"))
        if check.more:
            render.say(f"           and {check.more:,} more")
    render.say()
    counts = ", ".join(f"{report.count(outcome)} {outcome.value}" for outcome in Outcome)
    seconds = report.took_ms / 1_000
    rate = f"{report.size / seconds:,.0f} entries/s, " if seconds else ""
    render.facts(
        {
            "audited": report.what,
            "origin": report.origin,
            "entries": f"{report.size:,}",
            "root": report.root,
            "checks": counts,
            "took": f"{seconds:.1f} s ({rate}{render.count(report.processes, 'process', 'processes')})",
        }
    )
