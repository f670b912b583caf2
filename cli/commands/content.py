"""`jinshi content`: what lies in the content store, and the removal of what nothing refers to any more."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.display import render
from cli.session import Session, run_async, session_of
from cli.wiring.contents import survey_content
from cli.wiring.ledgers import open_ledger
from ledger.content import Collected, Survey
from ledger.errors import InvalidRequest
from replication.collect import GRACE_DAYS, SiteCollected

STATUS_EXAMPLES = """[bold]Examples[/]

  jinshi content status
  jinshi content status --json
"""
COLLECT_EXAMPLES = """[bold]Examples[/]

  jinshi content collect --dry-run     # what would go, and why
  jinshi content collect
  jinshi content collect --site remote
"""

content_app = typer.Typer(
    help="The content store, which holds what captures take in: its state, and removal of what is not referred to.",
    no_args_is_help=True,
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(content_app, name="content")


@content_app.command(epilog=STATUS_EXAMPLES)
def status(
    context: typer.Context, json: Annotated[bool, typer.Option("--json", help="Print as one JSON object.")] = False
) -> None:
    """Show what the ledger's own content store holds, and how much of it no entry needs any more."""
    session = session_of(context)
    _show(run_async(lambda: _survey(session)), json=json)


@content_app.command(epilog=COLLECT_EXAMPLES)
def collect(
    context: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go, and why.")] = False,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Wait for captures that are at work, or leave it for the next run.")
    ] = True,
    site: Annotated[
        str | None, typer.Option(metavar="NAME", help="At that site, as its mirror, whose key has to be here.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print as one JSON object.")] = False,
) -> None:
    """Remove what no entry refers to, or only entries whose data is erased: from the ledger's own copy, or a site.

    It never races a capture, and stops when in doubt; interrupted, it is carried on by running it again. While the
    ledger is served, the server does it. At a site, what was not needed for a week goes, unless a lock keeps it.
    """
    session = session_of(context)
    if site is not None:
        if dry_run:
            raise InvalidRequest("--dry-run is about the ledger's own copy", hint="leave out --site")
        _collect_site(session, site, json=json)
        return
    if dry_run:
        _show(run_async(lambda: _survey(session)), json=json)
        return
    from cli.serving.handover import collect as collect_by_writer

    passphrase = session.passphrase()
    done = run_async(lambda: collect_by_writer(session.ledger, session.environment, passphrase, wait=wait))
    if json:
        render.print_json(
            {
                "condemned": done.condemned,
                "removed": done.removed,
                "pardoned": done.pardoned,
                "waiting": done.waiting,
            }
        )
        return
    render.say(_said(done))


def _collect_site(session: Session, name: str, *, json: bool) -> None:
    from cli.serving.collecting import collect_site
    from cli.sites.rounds import Keys

    passphrase = session.passphrase()

    async def run() -> SiteCollected:
        async with open_ledger(session.ledger, session.environment) as ledger:
            return await collect_site(ledger, Keys(passphrase), name)

    done = run_async(run)
    if json:
        render.print_json({"unneeded": done.unneeded, "removed": done.removed, "locked": done.locked})
        return
    locked = f"; locks keep {done.locked:,} more" if done.locked else ""
    render.say(
        f"site {name}: {render.count(done.unneeded, 'object')} of content are not needed, {done.removed:,} of them "
        f"are removed{locked}; each goes {GRACE_DAYS} days after it was first found so"
    )


def _said(done: Collected) -> str:
    if done.waiting:
        return (
            f"nothing is removed yet: {render.count(done.waiting, 'capture')} began before {done.condemned:,} objects "
            "were condemned, and may refer to them; run it again"
        )
    if not done.condemned:
        return "there is nothing to remove: entries refer to everything that is there"
    pardoned = f"; {done.pardoned:,} are referred to after all" if done.pardoned else ""
    return f"{done.removed:,} packs and lists of packs are removed{pardoned}"


async def _survey(session: Session) -> Survey:
    async with open_ledger(session.ledger, session.environment) as ledger:
        return await survey_content(ledger)


def _show(found: Survey, *, json: bool) -> None:
    if json:
        render.print_json(
            {
                "packs": found.packs,
                "lists": found.lists,
                "bytes": found.size_bytes,
                "free": found.free,
                "free_bytes": found.free_bytes,
                "free_released": found.released,
                "free_erased": found.erased,
                "condemned": found.condemned,
            }
        )
        return
    never = found.free - found.released - found.erased
    render.facts(
        {
            "packs": f"{found.packs:,}",
            "lists of packs": f"{found.lists:,}",
            "bytes": f"{found.size_bytes:,}",
            "to be removed": f"{found.free:,} ({found.free_bytes:,} bytes)",
            "as no entry refers to them": f"{never:,}",
            "as their entries are released": f"{found.released:,}",
            "as their entries are erased": f"{found.erased:,}",
            "condemned": f"{found.condemned:,}",
        }
    )
