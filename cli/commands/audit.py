"""`jinshi audit`: replay everything from its bytes, and say what holds, what does not, and what was not checked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.auditing import Place, Wanted, audit_directory, audit_place, audit_site
from cli.config import LedgerPaths
from cli.display import render
from cli.display.progress import progress_bar
from cli.display.report_html import report_html
from cli.files import write_file
from cli.recording import record
from cli.session import Session, run_async, session_of
from cli.sites.alarms import show_alarms
from cli.wiring.ledgers import load_log_key, load_recovery_key, open_ledger, read_newer_file
from ledger.auditor import AuditReport, Outcome
from ledger.errors import InvalidRequest, JinshiError, Tampered
from ledger.keyring import RecoveryKey

EXAMPLES = """[bold]Examples[/]

  jinshi audit                                    # the ledger: what is published, and every database row
  jinshi audit --site remote --html audit.html
  jinshi audit --from /mnt/remote --policy trust.policy --json
  jinshi audit --open --registers                 # also open what is sealed, and rebuild every edition
  jinshi audit --from /mnt/remote --policy trust.policy --open --recovery-key recovery.key
  jinshi audit --site remote --record             # and record what came of it
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
    open_: Annotated[
        bool, typer.Option("--open", help="Open what is sealed, with the passphrase or --recovery-key.")
    ] = False,
    registers: Annotated[bool, typer.Option("--registers", help="Rebuild every edition of every register.")] = False,
    recovery_key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What --open opens with: needs nothing of the ledger's machine.")
    ] = None,
    recovery_passphrase_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The recovery key's passphrase.  [default: the ledger's]")
    ] = None,
    record_: Annotated[
        bool, typer.Option("--record", help="Record the result in the ledger; takes the passphrase.")
    ] = False,
    processes: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="How many processes.  [default: one for each processor]")
    ] = None,
    scratch: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where to sort keys, about 100 bytes an entry, and to rebuild what is opened of a site.  "
            "[default: the temp directory]",
        ),
    ] = None,
) -> None:
    """Replay a ledger or a site from its bytes, check everything that can be checked, and report.

    Nothing is written to what is audited, unless --record asks for it. Exit code 3 when a check failed.
    """
    session = session_of(context)
    _check(
        site=site is not None,
        place=place is not None,
        policy=policy is not None,
        about_a_copy=bool(against) or at_least is not None or origin is not None,
        record=record_,
        recovery_without_open=not open_ and (recovery_key is not None or recovery_passphrase_file is not None),
    )
    recovery = _recovery_key(session, recovery_key, recovery_passphrase_file) if open_ else None
    passphrase = session.passphrase() if record_ or (open_ and recovery is None) else None
    if record_:  # a wrong passphrase is found before the long work, not after
        load_log_key(LedgerPaths(session.ledger).log_key, passphrase or "")
    with progress_bar("auditing") as progress:
        opens = (lambda: passphrase or "") if open_ and recovery is None else None
        wanted = Wanted(processes, scratch, opens, recovery, registers, progress)
        if place is not None and policy is not None:
            newer = tuple(read_newer_file(file) for file in against or [])
            copy = Place(place, policy, origin, newer, at_least)
            report = run_async(lambda: audit_place(copy, session.environment, wanted))
        elif site is not None:
            report = run_async(lambda: _site(session, site, policy, wanted))
        else:
            report = run_async(lambda: audit_directory(session.ledger, session.environment, wanted))
    try:
        _keep(session, report, html, passphrase if record_ else None, json=json)
    finally:
        show_alarms(report.what, wanted.alarms)
    if not report.passed:
        names = ", ".join(check.name for check in report.failed)
        raise Tampered(f"the audit of {report.what} failed: {names}", hint="keep it as evidence, and use another copy")


def _keep(session: Session, report: AuditReport, html: Path | None, passphrase: str | None, *, json: bool) -> None:
    """Write it to a file, record it where there is a passphrase, and show it."""
    index: int | None = None
    try:
        if html is not None:
            write_file(html.absolute(), report_html(report).encode("utf-8"))
        if passphrase is not None:
            index = _record(session, passphrase, report)
    finally:  # what an audit found is shown even where it cannot be kept
        if json:
            render.print_json(report.to_json() if passphrase is None else {**report.to_json(), "index": index})
        else:
            show(report)
            if index is not None:
                render.facts({"recorded": f"entry {index}"})


def _check(
    *, site: bool, place: bool, policy: bool, about_a_copy: bool, record: bool, recovery_without_open: bool
) -> None:
    """Raises InvalidRequest: what is given does not go together."""
    if site and place:
        raise InvalidRequest("--site and --from are two places", hint="give one of them")
    if about_a_copy and not place:
        raise InvalidRequest("--against, --at-least and --origin are about a copy", hint="name it: --from PATH")
    if place and not policy:
        raise InvalidRequest("no trust policy is given", hint="give --policy FILE: who is believed")
    if record and place:
        raise InvalidRequest(
            "an audit of a place cannot be recorded: there is no ledger to record it in",
            hint="leave out --record, or name the ledger and --site",
        )
    if recovery_without_open:
        raise InvalidRequest("a recovery key opens what is sealed", hint="add --open")


def _recovery_key(session: Session, file: Path | None, passphrase_file: Path | None) -> RecoveryKey | None:
    return None if file is None else load_recovery_key(file, session.passphrase_in(passphrase_file))


async def _site(session: Session, name: str, policy: Path | None, wanted: Wanted) -> AuditReport:
    async with open_ledger(session.ledger, session.environment) as ledger:
        return await audit_site(ledger, name, policy, wanted)


def _record(session: Session, passphrase: str, report: AuditReport) -> int | None:
    """Where the report was recorded; None: nothing is written to a ledger that has just failed its own audit."""
    if report.site is None and not report.passed:
        render.warn("it is not recorded: writing to a ledger that failed its own audit would change the evidence")
        return None
    try:
        return run_async(lambda: record(session.ledger, session.environment, passphrase, report.to_event()))
    except JinshiError as error:
        if report.passed:
            raise
        render.warn(f"it is not recorded: {error}")  # that the audit failed is the more important error
        return None


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
