"""`jinshi asset add-host`: a whole host under protection, as one group of assets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from cli.assets import registering
from cli.assets.doctor import own_directories
from cli.assets.hosts import HOMES, Host, Packages, host_assets
from cli.assets.registering import Registered
from cli.commands.asset import AcceptGap, Json, Release, asset_app
from cli.display import render
from cli.session import Session, run_async, session_of
from cli.wiring.ledgers import open_ledger

EXAMPLES = """[bold]Examples[/]

  jinshi asset add-host web1 --grade 3 --owner "portal office"
  jinshi asset add-host web1 --grade 3 --owner "portal office" --home /home --home /srv/www
  jinshi mark before-the-upgrade --group web1
  jinshi restore group web1 --at before-the-upgrade --to /srv/web1
"""


def register(_app: typer.Typer) -> None:
    """Add the command, to the group that `asset` has registered."""
    asset_app.command("add-host", epilog=EXAMPLES)(add_host)


def add_host(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The host, and the group of its assets.")],
    grade: Annotated[int, typer.Option(min=1, max=6, help="GB/T 20988, 1 (basic) to 6 (no loss).")],
    owner: Annotated[str, typer.Option(metavar="TEXT", help="Who answers for it.")],
    root: Annotated[Path, typer.Option(metavar="DIR", help="Where the host's root is.")] = Path("/"),
    home: Annotated[
        list[str] | None,
        typer.Option(metavar="DIR", help=f"A directory with data; can be repeated.  [default: {' '.join(HOMES)}]"),
    ] = None,
    packages: Annotated[Packages, typer.Option(help="Whose packages are listed.")] = Packages.AUTO,
    accept_gap: AcceptGap = False,
    release: Release = None,
    json: Json = False,
) -> None:
    """Put a host under protection: its configuration, boot files, data, packages and units, each an asset of one group.

    All of them are registered, or none. A mark of the group seals them together, and restore group brings the tree of
    the host back as it was then.
    """
    session = session_of(context)
    homes = tuple(dict.fromkeys(home or ()))
    host = Host(name, grade, owner, root.absolute(), homes, packages, release=bool(release))
    done = run_async(lambda: _add(session, host, accept_gap))
    if json:
        render.print_json(
            {
                "group": name,
                "assets": [{**one.asset.to_json(), "ack": str(one.ack), "index": one.index} for one in done],
            }
        )
        return
    for gap in done[0].asset.gaps:
        render.warn(f"{gap}; recorded as accepted")
    render.table(("ASSET", "KIND", "WHAT", "ENTRY"), [_row(one) for one in done])
    render.say(render.one_line(f"jinshi mark MARK --group {name} seals all of it at one point"))


async def _add(session: Session, host: Host, accept_gap: bool) -> Sequence[Registered]:
    async with open_ledger(session.ledger, session.environment) as ledger:
        own = tuple(path.absolute() for path in own_directories(ledger))
    return await registering.add_all(session, host_assets(replace(host, own=own)), accept_gap=accept_gap)


def _row(one: Registered) -> tuple[str, ...]:
    options = one.asset.options
    command = options.get("command")
    what = " ".join(map(str, command)) if isinstance(command, list) else str(options.get("path", ""))
    return one.asset.name, one.asset.kind, what, "-" if one.index is None else str(one.index)
