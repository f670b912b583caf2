"""`jinshi prove`: a receipt for one entry, to be verified anywhere, offline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.display import render
from cli.files import write_file
from cli.output import STDOUT
from cli.session import Session, run_async, session_of
from cli.wiring.ledgers import open_ledger
from ledger.core.checkpoint import OpenedCheckpoint
from ledger.core.proof import EXTENSION, format_receipt
from ledger.errors import InvalidRequest

EXAMPLES = """[bold]Examples[/]

  jinshi prove 4711 -o record.tlog-proof
  jinshi verify record.tlog-proof --entry record.tlog-proof.entry --policy trust.policy
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=EXAMPLES)(prove)


def prove(
    context: typer.Context,
    index: Annotated[int, typer.Argument(metavar="INDEX", min=0, help="Which entry.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="The receipt.  [default: INDEX.tlog-proof]")
    ] = None,
) -> None:
    """Write a receipt (C2SP tlog-proof) for an entry, and the entry's bytes beside it (FILE.entry).

    The receipt is against the newest checkpoint that a site has cosigned as the trust policy demands.
    """
    session = session_of(context)
    if output == STDOUT:
        raise InvalidRequest("a receipt and its entry are two files", hint="name the receipt's: --output FILE")
    file = (output or Path(f"{index}{EXTENSION}")).absolute()
    against, lacking = run_async(lambda: _prove(session, index, file))
    render.say(f"{file}: the receipt, against a tree of {render.count(against.checkpoint.size, 'entry')}")
    render.say(f"{file}.entry: the entry")
    if lacking:
        render.warn(f"{lacking}; run jinshi replicate --once, then prove again")


async def _prove(session: Session, index: int, file: Path) -> tuple[OpenedCheckpoint, str]:
    """The checkpoint the receipt is against, and what it lacks in the eyes of the ledger's own policy ('': nothing)."""
    async with open_ledger(session.ledger, session.environment) as ledger:
        stored = await ledger.reader.entry(index)
        against, accepted = await ledger.provable(index)
        receipt = await ledger.reader.prove(index, against)
    write_file(file.with_name(file.name + ".entry"), stored.entry)
    write_file(file, format_receipt(receipt))
    if accepted:
        return against, ""
    return against, "no site has cosigned this entry yet: the trust policy does not accept the receipt"
