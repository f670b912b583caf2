"""`jinshi site throttle`: how fast may be sent to a site, by the time of day."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.config import LedgerPaths, local_zone, read_settings
from cli.display import render
from cli.session import session_of
from cli.sites.throttling import phase_of, set_throttle
from cli.wiring.shipping import open_zone
from ledger.errors import InvalidRequest
from replication.schedule import parse_schedule

EXAMPLES = """[bold]Examples[/]

  jinshi site throttle remote '08:00-18:00 10Mbit, else 100Mbit'
  jinshi site throttle remote '22:00-06:00 free, else off' --zone Asia/Shanghai
  jinshi site throttle remote 10Mbit
  jinshi site throttle remote             # what holds now, and until when
  jinshi site throttle remote --none
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=EXAMPLES)(throttle)


def throttle(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Which site.")],
    schedule: Annotated[
        str | None, typer.Argument(metavar="SCHEDULE", help="Windows of the day, a rate each, and: else RATE.")
    ] = None,
    zone: Annotated[
        str | None, typer.Option(metavar="NAME", help="On the clocks of which time zone.  [default: this machine's]")
    ] = None,
    none: Annotated[bool, typer.Option("--none", help="As fast as it goes, at all times.")] = False,
) -> None:
    """Set, or show, how fast may be sent to a site: 10Mbit, 2MB (a second), off or free, by windows of the day.

    It holds for what is sent and for what is read back, each by itself: shipping, a mirror that runs here, scrub. A
    server and a running replicate take it over within seconds.
    """
    session = session_of(context)
    paths = LedgerPaths(session.ledger.absolute())
    site = read_settings(paths).site(name)
    if none and schedule is not None:
        raise InvalidRequest("--none and a schedule contradict each other", hint="give one of them")
    if schedule is not None or none:
        zone_name = "" if none else zone or local_zone(session.environment.variables)
        text = "" if schedule is None else str(parse_schedule(schedule, open_zone(zone_name)))
        site = set_throttle(paths, name, text, zone_name)
    elif zone is not None:
        raise InvalidRequest("--zone says on which clocks a schedule holds", hint="give the schedule with it")
    phase = phase_of(site)
    if phase is None:
        render.say(f"site {name}: not throttled at any time")
        return
    render.say(f"site {name}: {site.throttle}, on the clocks of {site.throttle_zone}")
    render.say(f"now: {phase.text}")
