"""`jinshi init`: a new ledger with its keys and sites. How one is made is in cli/making/create.py."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.config import SQLITE
from cli.display import render
from cli.session import run_async, session_of
from ledger.core.classification import DEFAULT, parse_label, parse_network

if TYPE_CHECKING:
    from cli.making.create import Made

EXAMPLES = """[bold]Examples[/]

  jinshi init /srv/ledger
  jinshi init /srv/台账 --origin ledger.example.gov/divisions
  jinshi init /srv/published --clear              # published data: nothing is sealed unless declared so
  jinshi --passphrase-file /run/secrets/jinshi init /srv/ledger --keys /media/keys
  PGPASSWORD=... jinshi init /srv/ledger --store 'postgresql://jinshi@db.example.gov/ledgers?schema=cases'
  jinshi init /srv/cases --classification 机密 --no-sites     # above internal: sites say on which network they stand
  BAO_TOKEN=... jinshi init /srv/ledger --kek openbao+https://bao.example.gov:8200/transit/jinshi
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=EXAMPLES)(init)


def init(
    context: typer.Context,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where the ledger will be; must not exist.")],
    origin: Annotated[
        str | None, typer.Option(metavar="NAME", help="The ledger's name for ever; random when not given.")
    ] = None,
    keys: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where mirror and recovery keys go.  [default: DIR-keys]")
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Where the entries are: sqlite (a file in DIR), or a schema in PostgreSQL, as in the examples; "
            "its password comes from PGPASSWORD.  [default: sqlite]",
        ),
    ] = None,
    kek: Annotated[
        str | None,
        typer.Option(metavar="URL", help="The key that protects data keys, in OpenBao.  [default: a file in DIR]"),
    ] = None,
    sealed: Annotated[
        bool,
        typer.Option(
            "--sealed/--clear",
            help="Seal every source that is not declared public, or only those that are declared sealed or personal "
            "(see docs/sealing.md).",
        ),
    ] = True,
    sites: Annotated[bool, typer.Option("--sites/--no-sites", help="Make the two default sites in DIR-sites.")] = True,
    classification: Annotated[
        str, typer.Option(metavar="LABEL", help="How sensitive it is: public, internal, mimi, jimi, juemi.")
    ] = DEFAULT.value,
    network: Annotated[
        str, typer.Option(metavar="NAME", help="Where the default sites stand (see docs/mutual-backup.md).")
    ] = "",
) -> None:
    """Make a new ledger in DIR: its entries, keys under a passphrase, and two directory sites beside it.

    Nothing is ever overwritten. An init that was interrupted is finished by running it again.
    """
    from cli.making.create import Request, create_ledger

    session = session_of(context)
    request = Request(
        root=directory.absolute(),
        keys=keys.absolute() if keys else None,
        origin=origin,
        with_sites=sites,
        passphrase=session.passphrase(confirm=True, what=" for the new ledger's keys"),
        kek=kek,
        sealed=sealed,
        store=store,
        classification=parse_label(classification),
        network=parse_network(network),
    )
    made = run_async(lambda: create_ledger(request, session.environment))
    _show(made, sealed=sealed)


def _show(made: Made, *, sealed: bool) -> None:
    """What was made, and where its parts belong."""
    paths, settings = made.paths, made.settings
    render.say(f"{paths.root} is a ledger" + (" (an interrupted init was finished)" if made.finished_earlier else ""))
    render.say()
    key_directory = Path(settings.keys)
    mode = "all but what is declared public" if sealed else "what is declared sealed or personal"
    if made.finished_earlier:
        mode = "as the interrupted init was told"
    where = {
        "origin": settings.origin,
        "verifier key": settings.vkey,
        "log key": str(paths.log_key),
        "entries": str(paths.store) if settings.store == SQLITE else settings.store,
        "sealing": f"{mode}; data keys are wrapped under {settings.kek}",
        **{f"site {site.name}": site.url for site in settings.sites},
        "keys": settings.keys,
    }
    render.facts(where)
    render.say()
    render.say("Where things belong:")
    belongs = {
        "recovery.key": "offline, with custodians: it alone opens log key and data when nothing else is left",
        "*.mirror.key": "with whoever runs each site, not on this machine",
        "trust.policy": "with every auditor, and wherever a restore may have to start",
    }
    if not settings.sites:
        del belongs["*.mirror.key"]
    if settings.sites:
        belongs[f"{paths.default_sites.name}/"] = "in other buildings; it is beside the ledger only to start with"
    render.facts(
        {
            str(key_directory / name) if "/" not in name else str(paths.default_sites): why
            for name, why in belongs.items()
        }
    )
    render.say()
    render.say(f"Next: export JINSHI_LEDGER={_shell(paths.root)}")


def _shell(path: Path) -> str:
    import shlex

    return shlex.quote(str(path))
