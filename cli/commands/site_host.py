"""`jinshi site host`: a site for another centre's ledger, made by whoever keeps it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from cli.commands.roles import TrustOption
from cli.config import SiteSettings
from cli.display import render
from cli.session import Session, run_async, session_of
from cli.wiring.credentials import check_reference

EXAMPLES = """[bold]Examples[/]

  jinshi site host city-b /srv/hosted --trust a.policy --key city-a.mirror.key --quota 50GB \\
    --network government-external --retention-days 3650
  jinshi site host city-b 's3://hosted/jinshi?endpoint=https://s3.b.example.gov' --trust a.policy --key a.mirror.key
  jinshi site host city-b /srv/hosted --trust a.policy --key city-a.mirror.key --quota 80GB   # more room, later

Then run it: jinshi site serve (docs/mirrors.md); one process serves all that is hosted at a place.
"""


def register(app: typer.Typer) -> None:
    """Add the command to the group `site`."""
    app.command("host", epilog=EXAMPLES)(host)


def host(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the site is called there: this centre's name.")],
    place: Annotated[str, typer.Argument(metavar="PATH|URL", help="A directory, or s3://BUCKET/PREFIX.")],
    trust: TrustOption,
    key: Annotated[Path, typer.Option(metavar="FILE", help="The mirror's key; made where it is not there.")],
    origin: Annotated[str, typer.Option(metavar="NAME", help="Which ledger, where the trust files name several.")] = "",
    quota: Annotated[
        str, typer.Option(metavar="BYTES", help="How much it may take, all versions: 50GB.  [default: no bound]")
    ] = "",
    retention_days: Annotated[
        int | None, typer.Option(min=1, metavar="DAYS", help="How long it keeps things.  [default: for ever]")
    ] = None,
    classification: Annotated[
        str | None, typer.Option(metavar="LABEL", help="The most sensitive it may hold.  [default: internal]")
    ] = None,
    network: Annotated[
        str | None, typer.Option(metavar="NAME", help="Where it stands (docs/mutual-backup.md).  [default: not stated]")
    ] = None,
    lock_days: Annotated[
        int, typer.Option(min=0, max=36_500, metavar="DAYS", help="Lock what is written (S3 Object Lock, COMPLIANCE).")
    ] = 0,
    credentials: Annotated[
        str, typer.Option(metavar="WHERE", help="Of an S3 site: env:PREFIX or file:/path.  [default: AWS_...]")
    ] = "",
    accept: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Do without lock, versions, ports, checksums or clock; can be repeated."),
    ] = None,
) -> None:
    """Host a site for another centre's ledger: its site.json and its mirror's key, neither made by the primary.

    Run again, it changes the bounds that are given: quota, retention, classification, network.
    """
    from cli.sites.hosting import Hosting, host_site, parse_bytes

    session = session_of(context)
    request = Hosting(
        name=name,
        place=place,
        trust=tuple(trust),
        key=key,
        passphrase=session.passphrase(),
        origin=origin,
        classification=classification,
        network=network,
        quota_bytes=parse_bytes(quota) if quota else None,
        retention_days=retention_days,
        lock_days=lock_days,
        credentials=check_reference(credentials),
        accepted=tuple(accept or ()),
    )
    hosted = run_async(lambda: host_site(request, session.environment))
    about = hosted.description
    bounds = "without a bound" if about.quota_bytes is None else f"up to {render.size(about.quota_bytes)}"
    render.say(f"{about.origin} is hosted at {hosted.url}, {bounds}, {about.classification} at most")
    render.say(f"the mirror's key is {key}: run it with jinshi site serve")
    render.say("whoever runs the ledger adds the site, with the path or URL under which it is reached from there:")
    render.say(f"  jinshi site add {about.site} {shlex.quote(hosted.url)} --mirror {shlex.quote(about.mirror)}")


def add_hosted(
    session: Session, name: str, place: str, mirror: str, role: str, credentials: str, reader_credentials: str
) -> None:
    """`jinshi site add --mirror`: a site that another centre hosts."""
    from cli.sites.hosting import add_hosted_site

    wanted = SiteSettings(
        name,
        place,
        mirror,
        "",
        role=role,
        credentials=check_reference(credentials),
        reader_credentials=check_reference(reader_credentials),
    )
    site, described = run_async(
        lambda: add_hosted_site(session.ledger, wanted, session.environment, session.passphrase())
    )
    render.say(f"site {site.name} is at {site.url}; its host keeps the mirror's key")
    kept = "for ever" if described.retention_days is None else render.count(described.retention_days, "day", "days")
    bounds = "without a quota" if described.quota_bytes is None else f"up to {render.size(described.quota_bytes)}"
    render.say(f"it holds {described.classification} at most, {bounds}, and keeps it {kept}")
    render.say("trust.policy has changed: give the new one to every auditor; then run: jinshi replicate --once")
