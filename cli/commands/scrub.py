"""`jinshi scrub`: read every object of a site, and repair what rots."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from cli.config import LedgerPaths
from cli.display import render
from cli.display.progress import progress_bar
from cli.session import Session, raise_worst, run_async, session_of
from cli.sites.scrub_alarms import alarm_alone
from cli.sites.scrubbing import Scrubbed, Wanted, names_of, parse_rate, parse_time, recording, scrub_site
from cli.wiring.ledgers import load_log_key, open_ledger, read_policy
from ledger.errors import JinshiError, Tampered
from replication.scrub import ScrubReport

EXAMPLES = """[bold]Examples[/]

  jinshi scrub                            # every site: read all of it, heal what is damaged
  jinshi scrub --site remote --rate 20MB
  jinshi scrub --site remote --over 7d    # spread over a week; interrupted, it is carried on
  jinshi scrub --no-heal --json           # only look
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=EXAMPLES)(scrub)


def scrub(
    context: typer.Context,
    site: Annotated[str, typer.Option(metavar="NAME", help="This site only.")] = "all",
    heal: Annotated[bool, typer.Option("--heal/--no-heal", help="Replace what is damaged from a proven copy.")] = True,
    rate: Annotated[str | None, typer.Option(metavar="SIZE", help="Bytes to read a second at most, like 20MB.")] = None,
    over: Annotated[str | None, typer.Option(metavar="TIME", help="Spread the reading over so long, like 7d.")] = None,
    anew: Annotated[bool, typer.Option("--anew", help="Begin anew, also where a cycle was interrupted.")] = False,
    policy: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The trust policy.  [default: the ledger's own]")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print each report as one JSON object.")] = False,
) -> None:
    """Read every object of the sites, hold it against the signed tree, heal what is damaged, record the result.

    What is damaged is kept in the ledger's evidence directory before it is replaced. Exit code 3 when damage was found
    and not healed; 0 when all is whole, or whole again.
    """
    session = session_of(context)
    passphrase = session.passphrase()
    wanted = Wanted(
        heal,
        parse_rate(rate) if rate else 0.0,
        parse_time(over) if over else 0.0,
        read_policy(policy) if policy else None,
        anew,
    )
    load_log_key(LedgerPaths(session.ledger).log_key, passphrase)  # a wrong passphrase is found before the long work
    failed: list[tuple[str, JinshiError]] = []
    for name in run_async(lambda: _names(session, site)):
        try:
            done = run_async(partial(_scrub, session, name, passphrase, wanted))
        except JinshiError as error:
            failed.append((name, error))
            continue
        run_async(partial(alarm_alone, session.ledger, session.environment, passphrase, done.report.to_event()))
        if json:
            render.print_json({**done.report.to_json(), "index": done.index})
        else:
            _show(done)
        if not done.report.whole:
            failed.append((name, _not_whole(done.report)))
    raise_worst(failed)


async def _names(session: Session, site: str) -> list[str]:
    async with open_ledger(session.ledger, session.environment) as ledger:
        return names_of(ledger, site)


async def _scrub(session: Session, name: str, passphrase: str, wanted: Wanted) -> Scrubbed:
    async with open_ledger(session.ledger, session.environment) as ledger:
        with progress_bar(f"scrubbing {name}") as report:
            return await scrub_site(ledger, name, passphrase, wanted, recording(ledger, passphrase), report)


def _not_whole(report: ScrubReport) -> Tampered:
    left = report.found - report.healed
    return Tampered(
        f"{render.count(left, 'object')} not as signed for",
        hint="see what is said of each; what was damaged is kept in the ledger's evidence directory",
    )


def _show(done: Scrubbed) -> None:
    report = done.report
    for one in report.findings:
        mark = "healed" if one.healed else "NOT HEALED"
        render.say(render.one_line(f"{mark}  {one.damage.value}: {one.key}: {one.detail}"))
    if more := report.more_healed + report.more_open:
        render.say(f"{more:,} more, {report.more_healed:,} of them healed")
    verdict = "whole"
    if report.found:
        verdict = f"{render.count(report.found, 'object')} found damaged, {report.healed:,} healed"
    if report.resumed:
        verdict += f" (carried on from a cycle begun {render.moment(report.started)})"
    render.facts(
        {
            "site": report.site,
            "state": verdict,
            "checked": f"{render.count(report.objects, 'object')}, {report.bytes:,} bytes, "
            f"against {render.count(report.size, 'entry')}",
            "recorded": f"entry {done.index}",
        }
    )
