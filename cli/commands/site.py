"""`jinshi site`: where the copies are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.commands import site_holdings, site_host, site_serve, site_throttle
from cli.commands.media import add_offline
from cli.commands.status import show_sites, site_states
from cli.config import LedgerPaths, read_settings
from cli.display import render
from cli.display.progress import progress_bar
from cli.session import Session, run_async, session_of
from cli.sites.adding import Added, Request, add_site
from cli.sites.alarms import show_alarms
from cli.sites.probe import CheckedPlace
from cli.system import SystemClock
from cli.wiring.credentials import Use, check_reference
from cli.wiring.ledgers import open_ledger
from ledger.core.acknowledgement import ROLES
from ledger.core.classification import DEFAULT
from ledger.errors import InvalidRequest
from replication.locks import extend_all
from restore.fetch import SiteCopy, open_site, verify_site

ADD_EXAMPLES = """[bold]Examples[/]

  jinshi site add remote /mnt/remote/jinshi
  jinshi site add remote 's3://backups/jinshi?endpoint=https://s3.example.gov&region=cn-1'
  jinshi site add remote 's3://backups/jinshi?endpoint=https://s3.example.gov' --lock-days 30 \\
    --credentials env:REMOTE_WRITER --mirror-credentials file:/etc/jinshi/remote-mirror.json
  jinshi site add city-b /mnt/city-b --mirror 'a.example/log/mirror/city-b+1a2b...'  # hosted there
  jinshi site add archive archive.receipt --offline      # no line leads there: docs/media.md

The credentials of an S3 site come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY where no others are named.
"""

LIST_EXAMPLES = """[bold]Examples[/]

  jinshi site list
  jinshi site list --json
"""
EXTEND_EXAMPLES = """[bold]Examples[/]

  jinshi site extend remote
"""
STATUS_EXAMPLES = """[bold]Examples[/]

  jinshi site status
  jinshi site status --json | jq 'select(.lag_s > 300).name'
"""

site_app = typer.Typer(help="Where the copies are: add a site, list them, see how far they are.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    site_serve.register(site_app)
    site_throttle.register(site_app)
    site_host.register(site_app)
    site_holdings.register(site_app)
    app.add_typer(site_app, name="site")


@site_app.command(epilog=ADD_EXAMPLES)
def add(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it is called: same-city, remote, ...")],
    place: Annotated[str, typer.Argument(metavar="PATH|URL", help="A directory, or s3://BUCKET/PREFIX.")],
    offline: Annotated[
        bool, typer.Option("--offline", help="No line leads there; PATH is the file that jinshi media init wrote.")
    ] = False,
    classification: Annotated[
        str, typer.Option(metavar="LABEL", help="The most sensitive it may hold.  [default: internal]")
    ] = "",
    network: Annotated[
        str, typer.Option(metavar="NAME", help="Where it stands (docs/mutual-backup.md).  [default: not stated]")
    ] = "",
    mirror: Annotated[
        str, typer.Option(metavar="VKEY", help="Whose site it is already: what jinshi site host has said there.")
    ] = "",
    retention_days: Annotated[
        int | None, typer.Option(min=1, metavar="DAYS", help="How long it keeps things.  [default: for ever]")
    ] = None,
    role: Annotated[
        str, typer.Option(metavar="same-city|remote", help="What it counts as.  [default: by its name]")
    ] = "",
    lock_days: Annotated[
        int, typer.Option(min=0, max=36_500, metavar="DAYS", help="Lock what is written (S3 Object Lock, COMPLIANCE).")
    ] = 0,
    credentials: Annotated[
        str, typer.Option(metavar="REF", help="Where the writer's are: env:PREFIX or file:/PATH.  [default: AWS_*]")
    ] = "",
    mirror_credentials: Annotated[
        str, typer.Option(metavar="REF", help="Where those of the site's own role are.  [default: the writer's]")
    ] = "",
    reader_credentials: Annotated[
        str, typer.Option(metavar="REF", help="Where those of readers are.  [default: the writer's]")
    ] = "",
    accept: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Do without lock, versions, ports, checksums or clock; can be repeated."),
    ] = None,
) -> None:
    """Add a site, with a mirror key of its own, and trust that mirror in the ledger's policy.

    A bucket is tried out first: conditional writes, versions, lock, checksums. What it lacks refuses it.
    """
    session = session_of(context)
    if role not in ("", *ROLES):
        raise InvalidRequest(f"{role!r} is no role of a site", hint=f"give {' or '.join(ROLES)}")
    said_there = bool(classification or network or retention_days or lock_days or mirror_credentials)
    if offline:
        if said_there or mirror or credentials:
            raise InvalidRequest("what a site is, is said in the file it has sent", hint="give nothing but --role")
        add_offline(session, name, Path(place), role)
        return
    if mirror:
        if said_there or accept:
            raise InvalidRequest(
                "what a site is, is said by whoever hosts it", hint="leave it out: its site.json has it already"
            )
        site_host.add_hosted(session, name, place, mirror, role, credentials, reader_credentials)
        return
    request = Request(
        root=session.ledger,
        name=name,
        place=place,
        classification=classification or DEFAULT.value,
        network=network,
        retention_days=retention_days,
        passphrase=session.passphrase(),
        role=role,
        lock_days=lock_days,
        credentials=check_reference(credentials),
        mirror_credentials=check_reference(mirror_credentials),
        reader_credentials=check_reference(reader_credentials),
        accepted=tuple(accept or ()),
    )
    _show_added(run_async(lambda: add_site(request, session.environment)), lock_days)


def _show_added(added: Added, wanted_days: int) -> None:
    site = added.site
    _show_probes(added.checked, wanted_days)
    render.say(f"site {site.name} is at {site.url}")
    render.say(f"its mirror's key is {site.mirror_key}: it belongs with whoever runs the site")
    render.say("trust.policy has changed: give the new one to every auditor; then run: jinshi replicate --once")


def _show_probes(checked: CheckedPlace, wanted_days: int) -> None:
    if checked.probed is None:
        return
    for probe in checked.probed.probes:
        render.say(render.one_line(f"{'holds' if probe.holds else 'LACKS'}  {probe.name}: {probe.detail}"))
    for left in checked.probed.left:
        render.say(f"what remains of it, locked: {left}")
    for probe in checked.missing:
        render.warn(f"it does without {probe.name}, as accepted: {probe.detail}")
    if checked.lock_days:
        days = render.count(checked.lock_days, "day", "days")
        render.say(f"what is written there is locked for {days}")
    elif not wanted_days and checked.probed.holds("lock"):
        render.warn("nothing is locked there, although the bucket can: see --lock-days")


@site_app.command("list", epilog=LIST_EXAMPLES)
def list_(
    context: typer.Context, json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False
) -> None:
    """List the sites and where they are."""
    settings = read_settings(LedgerPaths(session_of(context).ledger.absolute()))
    if json:
        for site in settings.sites:
            render.print_json(
                {
                    "name": site.name,
                    "url": site.url,
                    "role": site.counts_as,
                    "mirror": site.mirror,
                    "mirror_key": site.mirror_key,
                    "classification": site.classification,
                    "network": site.network,
                }
            )
        return
    render.table(
        ("SITE", "WHERE", "ROLE", "MAY HOLD", "NETWORK"),
        [
            (site.name, site.url, site.counts_as, site.classification, site.network or "not stated")
            for site in settings.sites
        ],
    )


@site_app.command(epilog=EXTEND_EXAMPLES)
def extend(context: typer.Context, name: Annotated[str, typer.Argument(metavar="NAME", help="Which site.")]) -> None:
    """Verify a site's copy, then let the locks on everything in it run anew. For sites with --lock-days."""
    session = session_of(context)
    count, copy = run_async(lambda: _extend(session, name))
    show_alarms(copy.objects.where, copy.alarms)
    render.say(f"site {name}: {render.count(count, 'object')} of the copy are locked anew")


async def _extend(session: Session, name: str) -> tuple[int, SiteCopy]:
    async with open_ledger(session.ledger, session.environment) as ledger:
        if not ledger.settings.site(name).lock_days:
            raise InvalidRequest(f"site {name!r} locks nothing", hint="a site is added with locks: see --lock-days")
        site, now = ledger.site(name, Use.MIRROR), SystemClock().now()
        copy = await open_site(site.objects, ledger.policy(), ledger.origin, now=now, mirror=site.mirror)
        with progress_bar(f"verifying {name}") as report:
            await verify_site(copy, report=report)  # so that it is the genuine versions whose locks run anew
        with progress_bar(f"locking {name}") as report:
            return await extend_all(copy.objects, copy.checkpoint, report=report), copy


@site_app.command(epilog=STATUS_EXAMPLES)
def status(
    context: typer.Context, json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False
) -> None:
    """Show how far each site is: size, lag in entries and seconds, last cosignature, what is wrong."""
    session = session_of(context)
    states = run_async(lambda: site_states(session))
    show_sites(states, json=json)
