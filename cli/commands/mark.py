"""`jinshi mark`: a name for one moment of a group of assets."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.capturing.asking import open_to_capture
from cli.capturing.captures import Marked
from cli.display import render
from cli.display.progress import progress_bar
from cli.session import Session, run_async, session_of
from ledger.errors import CheckFailed

EXAMPLES = """[bold]Examples[/]

  jinshi mark before-the-upgrade --group taxes
  jinshi restore group taxes --at before-the-upgrade --to /srv/rehearsal
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=EXAMPLES)(mark)


def mark(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What --at is to find it by.")],
    group: Annotated[str, typer.Option(metavar="GROUP", help="The assets that are marked together.")],
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Capture all assets of a group, and give the point that each came to one name.

    None of them goes on before all are captured. When one cannot be, nothing is marked.
    """
    session = session_of(context)
    done = run_async(lambda: _mark(session, name, group))
    if json:
        render.print_json(
            {
                "mark": name,
                "group": group,
                "index": done.index,
                "size": done.mark.size,
                "sealed": dict(done.mark.sealed),
                "problems": {asset: list(lines) for asset, lines in done.problems.items()},
            }
        )
    else:
        render.say(f"{name} stands for {render.count(len(done.mark.sealed), 'asset')} of {group}: entry {done.index}")
        render.facts({asset: f"sealed by entry {index}" for asset, index in done.mark.sealed.items()})
    if done.problems:
        for asset, lines in done.problems.items():
            for line in lines:
                render.warn(f"{asset}: {line}")
        raise CheckFailed(f"{name} is marked, but not all of it was captured", hint="mend what is listed, mark again")


async def _mark(session: Session, name: str, group: str) -> Marked:
    async with open_to_capture(session.ledger, session.environment, session.passphrase()) as asking:
        with progress_bar(f"marking {group}", "") as report:
            return await asking.mark(name, group, session.environment.actor, report)
