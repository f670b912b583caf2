"""`jinshi site holdings`: whose copies a place holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.display import render
from cli.session import raise_worst, run_async, session_of
from cli.wiring.credentials import check_reference

if TYPE_CHECKING:
    from cli.sites.holdings import Holding

EXAMPLES = """[bold]Examples[/]

  jinshi site holdings /srv/hosted
  jinshi site holdings 's3://hosted/jinshi?endpoint=https://s3.b.example.gov' --trust a.policy --trust c.policy
  jinshi site holdings /srv/hosted --json | jq 'select(.room == "over").origin'

It needs no ledger: only the place, and credentials that may read it.
"""


def register(app: typer.Typer) -> None:
    """Add the command to the group `site`."""
    app.command("holdings", epilog=EXAMPLES)(holdings)


def holdings(
    context: typer.Context,
    place: Annotated[str, typer.Argument(metavar="PATH|URL", help="A directory, or s3://BUCKET/PREFIX.")],
    trust: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Trust policies, to check the logs' signatures too; can be repeated."),
    ] = None,
    credentials: Annotated[
        str, typer.Option(metavar="WHERE", help="Of an S3 site: env:PREFIX or file:/path.  [default: AWS_...]")
    ] = "",
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Show whose copies are at a place: origin, mirror, entries cosigned and when, bytes and quota, what it may hold.

    Everything there is listed once. What is wrong with one copy is said below, and is the exit code.
    """
    from cli.sites.holdings import read_holdings

    session = session_of(context)
    where, found = run_async(
        lambda: read_holdings(place, check_reference(credentials), trust or (), session.environment)
    )
    if json:
        for one in found:
            render.print_json(one.json)
    elif not found:
        render.say(f"{where} holds no copies")
    else:
        render.table(
            ("ORIGIN", "SITE", "ENTRIES", "COSIGNED", "STORED", "MAY HOLD", "KEPT"), [_row(one) for one in found]
        )
    raise_worst(
        [(one.described.origin if one.described else one.folder, one.error) for one in found if one.error is not None]
    )


def _row(one: Holding) -> tuple[str, ...]:
    stored = render.size(one.stored_bytes)
    about = one.described
    if about is None:
        return one.folder[:12] + "...", "?", "?", "?", stored, "?", "?"
    if about.quota_bytes is not None:
        percent = 100 * one.stored_bytes // about.quota_bytes
        stored = f"{stored} of {render.size(about.quota_bytes)} ({percent} %)"
    most = f"{about.classification} on {about.network}" if about.network else about.classification
    kept = "for ever" if about.retention_days is None else render.count(about.retention_days, "day", "days")
    cosigned = "never" if one.cosigned_at is None else render.moment(one.cosigned_at)
    return about.origin, about.site, f"{one.size:,}", cosigned, stored, most, kept
