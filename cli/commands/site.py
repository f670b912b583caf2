"""`jinshi site`: where the copies are."""

from __future__ import annotations

from typing import Annotated

import typer

from cli import render
from cli.commands.status import show_sites, site_states
from cli.config import LedgerPaths, read_settings
from cli.session import run_async, session_of
from cli.sites import Request, add_site

ADD_EXAMPLES = """[bold]Examples[/]

  jinshi site add remote /mnt/remote/jinshi
  jinshi site add remote 's3://backups/jinshi?endpoint=https://s3.example.gov&region=cn-1'

The credentials of an S3 site come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.
"""

LIST_EXAMPLES = """[bold]Examples[/]

  jinshi site list
  jinshi site list --json
"""
STATUS_EXAMPLES = """[bold]Examples[/]

  jinshi site status
  jinshi site status --json | jq 'select(.lag_s > 300).name'
"""

site_app = typer.Typer(help="Where the copies are: add a site, list them, see how far they are.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(site_app, name="site")


@site_app.command(epilog=ADD_EXAMPLES)
def add(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it is called: same-city, remote, ...")],
    place: Annotated[str, typer.Argument(metavar="PATH|URL", help="A directory, or s3://BUCKET/PREFIX.")],
    classification: Annotated[str, typer.Option(metavar="LABEL", help="The most sensitive it may hold.")] = "internal",
    retention_days: Annotated[
        int | None, typer.Option(min=1, metavar="DAYS", help="How long it keeps things.  [default: for ever]")
    ] = None,
) -> None:
    """Add a site, with a mirror key of its own, and trust that mirror in the ledger's policy."""
    session = session_of(context)
    request = Request(
        root=session.ledger,
        name=name,
        place=place,
        classification=classification,
        retention_days=retention_days,
        passphrase=session.passphrase(),
    )
    site = run_async(lambda: add_site(request, session.environment))
    render.say(f"site {site.name} is at {site.url}")
    render.say(f"its mirror's key is {site.mirror_key}: it belongs with whoever runs the site")
    render.say("trust.policy has changed: give the new one to every auditor; then run: jinshi replicate --once")


@site_app.command("list", epilog=LIST_EXAMPLES)
def list_(
    context: typer.Context, json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False
) -> None:
    """List the sites and where they are."""
    settings = read_settings(LedgerPaths(session_of(context).ledger.absolute()))
    if json:
        for site in settings.sites:
            render.print_json(
                {"name": site.name, "url": site.url, "mirror": site.mirror, "mirror_key": site.mirror_key}
            )
        return
    render.table(
        ("SITE", "WHERE", "CLASSIFICATION"), [(site.name, site.url, site.classification) for site in settings.sites]
    )


@site_app.command(epilog=STATUS_EXAMPLES)
def status(
    context: typer.Context, json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False
) -> None:
    """Show how far each site is: size, lag in entries and seconds, last cosignature, what is wrong."""
    session = session_of(context)
    states = run_async(lambda: site_states(session))
    show_sites(states, json=json)
