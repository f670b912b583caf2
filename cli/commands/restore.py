"""`jinshi restore`: bring it back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.config import SQLITE, Environment, LedgerPaths, read_settings
from cli.display import render
from cli.display.progress import progress_bar
from cli.making.predecessor import record_predecessor
from cli.making.recreate import Request, Restored, restore_ledger
from cli.session import Session, run_async, session_of
from cli.sites.alarms import show_alarms
from cli.wiring.credentials import Use, reference_of, with_credentials
from cli.wiring.ledgers import read_newer_file
from ledger.errors import InvalidRequest

LEDGER_EXAMPLES = """[bold]Examples[/]

  jinshi restore ledger --from /mnt/remote --policy trust.policy --to /srv/restored
  jinshi restore ledger --from 's3://backups/jinshi?endpoint=https://s3.example.gov' --policy trust.policy --to /srv/new
  jinshi restore ledger --from /mnt/remote --policy trust.policy --to /srv/new --continue-from /srv/old
  jinshi restore ledger --from /mnt/remote --policy trust.policy --to /srv/new \
    --store 'postgresql://jinshi@db.example.gov/ledgers?schema=cases'
"""
PREDECESSOR_EXAMPLES = """[bold]Examples[/]

  jinshi --ledger /srv/restored restore predecessor /mnt/found/ledger
"""

restore_app = typer.Typer(
    help="Bring a ledger, an asset or a group back, from one site alone where it has to be.", no_args_is_help=True
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(restore_app, name="restore")


@restore_app.command(epilog=LEDGER_EXAMPLES)
def ledger(
    context: typer.Context,
    place: Annotated[
        str, typer.Option("--from", metavar="NAME|PATH|URL", help="A site's path or URL, or its name in --ledger.")
    ],
    policy: Annotated[Path, typer.Option(metavar="FILE", help="The trust policy: who is believed.")],
    to: Annotated[Path, typer.Option(metavar="DIR", help="The new ledger; must not exist.")],
    origin: Annotated[
        str | None, typer.Option(metavar="NAME", help="Which ledger, where the place holds several.")
    ] = None,
    at_least: Annotated[
        int | None, typer.Option(min=0, metavar="SIZE", help="Refuse a copy with fewer entries.")
    ] = None,
    against: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A receipt or checkpoint the copy must not fall behind; can be repeated."),
    ] = None,
    continue_from: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The old ledger, found intact: go on under the same origin, when proven."),
    ] = None,
    recovery_key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Opens every data key, and, with --continue-from, the log's.")
    ] = None,
    recovery_passphrase_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The recovery key's passphrase.  [default: the new ledger's]")
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Where the entries go: sqlite (a file in DIR), or a schema in PostgreSQL that holds nothing yet, as "
            "in the examples; its password comes from PGPASSWORD.  [default: sqlite]",
        ),
    ] = None,
    kek: Annotated[
        str | None, typer.Option(metavar="URL", help="The key in OpenBao that data keys are wrapped under, if any.")
    ] = None,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why, for the record.")] = "restored from a site",
) -> None:
    """Rebuild a ledger from one site's copy, with nothing of the primary left.

    Everything is verified against the site's cosigned checkpoint under the trust policy before it is written. The
    ledger goes on under a successor origin (NAME/2), unless --continue-from proves that nothing signed is missing.
    An interrupted restore is carried on by running it again.
    """
    session = session_of(context)
    url, environment = _place(session, place)
    request = Request(
        place=url,
        policy=policy,
        root=to,
        passphrase=session.passphrase(confirm=True, what=" for the restored ledger's keys"),
        reason=reason,
        origin=origin,
        at_least=at_least,
        newer=[read_newer_file(file) for file in against or []],
        continue_from=continue_from,
        recovery_key=recovery_key,
        recovery_passphrase=session.passphrase_in(recovery_passphrase_file) if recovery_passphrase_file else None,
        kek=kek,
        store=store,
    )
    with progress_bar("restoring") as report:
        done = run_async(lambda: restore_ledger(request, environment, report))
    _show(done, to)


def _place(session: Session, text: str) -> tuple[str, Environment]:
    """A site's name in the ledger, when there is one, with its credentials; else the text is a path or a URL."""
    if "://" in text or "/" in text or session.environment.ledger is None:
        return text, session.environment
    if not (session.environment.ledger / "jinshi.json").exists():
        return text, session.environment
    try:
        site = read_settings(LedgerPaths(session.environment.ledger.absolute())).site(text)
    except InvalidRequest:
        if Path(text).is_dir():
            return text, session.environment
        raise
    return site.url, with_credentials(session.environment, reference_of(site, Use.READER))


def _show(done: Restored, to: Path) -> None:
    checkpoint, settings = done.copy.checkpoint, done.settings
    render.say(f"{to} is a ledger: {render.count(checkpoint.size, 'entry')} restored, every one verified")
    render.facts(
        {
            "copy": f"site {done.copy.description.site} of {checkpoint.origin}",
            "cosigned": f"{render.duration(done.copy.age_s)} ago; what was recorded since is not in it",
            "root": checkpoint.root.hex(),
            "origin": settings.origin,
            **({} if settings.store == SQLITE else {"entries": settings.store}),
        }
    )
    if closed := done.keys.count - done.keys.openable:
        render.warn(
            f"{render.count(closed, 'data key', 'data keys')} cannot be opened yet: what they seal stays closed; "
            "run jinshi keys recover --recovery-key FILE"
        )
    render.say()
    show_alarms(done.copy.objects.where, done.copy.alarms)
    if done.succeeded:
        render.say(f"It goes on as {settings.origin}: nothing proves that the lost primary signed no more.")
        render.say("Its own trust.policy is new; the predecessor's is kept in evidence/.")
        render.say("Next: add its sites with jinshi site add, then jinshi replicate --once")
    else:
        render.say("It goes on under its own origin: the old store proves that nothing signed is missing.")
        render.say("Next: jinshi replicate --once")


@restore_app.command(epilog=PREDECESSOR_EXAMPLES)
def predecessor(
    context: typer.Context,
    found: Annotated[Path, typer.Argument(metavar="DIR", help="The lost primary's directory, found again.")],
) -> None:
    """List what a lost primary that turned up had beyond this ledger, keep it as evidence, and record that."""
    session = session_of(context)
    left, file, index = run_async(
        lambda: record_predecessor(session.ledger, found, session.environment, session.passphrase())
    )
    if not left.count:
        render.say(f"{found} had nothing that was not restored; recorded as entry {index}")
        return
    render.say(
        f"{found} had {render.count(left.count, 'entry')} that were not restored ({left.start} to {left.size - 1})"
    )
    render.say(f"they are kept in {file}; recorded as entry {index}")
