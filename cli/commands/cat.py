"""`jinshi cat`: one file of a captured tree, as it was at a point in time, to stdout."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from cli.commands.browse import AtOption, check_is_tree
from cli.display import render
from cli.session import Session, run_async, session_of
from cli.wiring.views import open_view
from ledger.capture.files import Kind
from ledger.capture.files.content import read_content
from ledger.capture.files.names import path_of
from ledger.capture.files.point import tree_at
from ledger.errors import InvalidRequest

EXAMPLES = """[bold]Examples[/]

  jinshi cat archive:2026/taxes/letter.txt
  jinshi cat archive:2026/taxes/letter.txt --at 2026-11-24T01:53:35Z > letter.txt
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=EXAMPLES)(cat)


def cat(
    context: typer.Context,
    what: Annotated[str, typer.Argument(metavar="NAME:PATH", help="The asset, and a file in its tree.")],
    at: AtOption = None,
) -> None:
    """Write a file to stdout as it was captured. What comes out before an error is genuine, but not all of it."""
    name, colon, path = what.partition(":")
    if not (name and colon and path):
        raise InvalidRequest(f"{what!r} names no file of an asset", hint="write NAME:PATH")
    run_async(lambda: _cat(session_of(context), name, path, at))


async def _cat(session: Session, name: str, path: str, at: str | None) -> None:
    async with open_view(session.ledger, session.environment, session.passphrase, name, at) as found:
        check_is_tree(found.asset)
        async with tree_at(found.view, found.asset.source) as point:
            item = point.tree.find(path_of(path))
        if item is None or item.record.kind is not Kind.FILE:
            raise InvalidRequest(
                f"{name} had no file {path!r} then" if item is None else f"{path} is a {item.record.kind}, not a file",
                hint=f"look around with: jinshi browse {name}",
            )
        await found.kept.check([item.place])
        async for part in read_content(found.view, item.record):
            sys.stdout.buffer.write(part)
        sys.stdout.buffer.flush()
    if item.record.torn:
        render.warn(f"{path} changed each time it was read: this is what was read last")
