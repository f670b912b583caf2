"""`jinshi classify`: how sensitive the ledger is, which bounds the sites that may hold it."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.display import render
from cli.session import Session, run_async, session_of
from ledger.core.classification import Label, parse_label

EXAMPLES = """[bold]Examples[/]

  jinshi classify internal --reason 'published figures only, but not yet released'
  jinshi classify 公开 --reason 'released 2026-11-20, decision 2026-113'
  jinshi classify 机密 --reason 'case files from now on'      # refused while a site of the ledger may not hold that
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=EXAMPLES)(classify)


def classify(
    context: typer.Context,
    label: Annotated[str, typer.Argument(metavar="LABEL", help="public, internal, mimi, jimi or juemi.")],
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; it is recorded.")],
) -> None:
    """Classify the ledger anew; recorded with who did it, and why.

    It bounds which sites may hold the ledger (docs/mutual-backup.md). A label that a site of the ledger may not hold is
    refused: what is more sensitive than the copies that exist belongs in a ledger of its own.
    """
    wanted = parse_label(label)
    session = session_of(context)
    before, index = run_async(lambda: _classify(session, wanted, reason))
    if index is None:
        render.say(f"the ledger is {wanted.shown} already; nothing was recorded")
        return
    render.say(f"the ledger is {wanted.shown} from now on, {before.shown} before; recorded as entry {index}")


async def _classify(session: Session, label: Label, reason: str) -> tuple[Label, int | None]:
    from cli.sites.classifying import classify_ledger

    return await classify_ledger(session.ledger, label, reason, session.environment, session.passphrase())
