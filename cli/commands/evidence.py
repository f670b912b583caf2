"""`jinshi evidence`: one record's history, with everything that proves it, in one file to hand over."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.display import render
from cli.output import put
from cli.session import Session, run_async, session_of
from cli.wiring.ledgers import open_ledger
from ledger.capture.describe import describe
from ledger.core.entry import Entry, decode_entry
from ledger.core.note import format_note
from ledger.core.policy import format_policy
from ledger.errors import InvalidRequest
from ledger.evidence import ENTRIES_MAX, Evidence, Proven, pack_evidence, streams
from ledger.sealing import Opened
from ledger.store.base import Selection, StoredEntry

EXAMPLES = """[bold]Examples[/]

  jinshi evidence 110101 -o 110101.zip
  jinshi evidence 110101 --source urn:cn:divisions:areas -o 110101.zip --open
  jinshi verify 110101.zip --policy trust.policy          # anywhere, offline
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=EXAMPLES)(evidence)


def evidence(
    context: typer.Context,
    subject: Annotated[str, typer.Argument(metavar="SUBJECT", help="The record, by its key.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The bundle, a zip file.")],
    source: Annotated[str | None, typer.Option(metavar="URI", help="Of this register.")] = None,
    open_: Annotated[
        bool, typer.Option("--open", help="Put what is sealed into it in the clear, too; takes the passphrase.")
    ] = False,
) -> None:
    """Pack a record's history: its entries, a receipt for each, the keys, and how to check all that without jinshi.

    The receipts are against the newest checkpoint that a site has cosigned as the trust policy demands.
    """
    session = session_of(context)
    if open_:
        session.passphrase()
    made, lacking = run_async(lambda: _evidence(session, subject, source, open_))
    said = f"{output}: {render.count(len(made.entries), 'entry')} of {made.source}, each with its receipt"
    put(output, pack_evidence(made), said)
    if any(one.opened is not None for one in made.entries):
        render.warn("it holds in the clear what is sealed in the ledger: hand it on with care")
    if lacking:
        render.warn("no site has cosigned these entries yet; run jinshi replicate --once, then make the bundle again")


async def _evidence(session: Session, subject: str, source: str | None, open_: bool) -> tuple[Evidence, bool]:
    """The evidence, and whether the ledger's own policy would refuse it."""
    async with open_ledger(session.ledger, session.environment) as ledger:
        opener = await ledger.opener(session.passphrase if open_ else session.passphrase_at_hand)
        stored: list[StoredEntry] = []
        for what in await opener.selections(Selection(subject=subject, source=source)):
            stored += [one async for one in ledger.reader.selected(what, limit=ENTRIES_MAX + 1)]
        stored = sorted({one.index: one for one in stored}.values(), key=lambda one: one.index)
        if not stored:
            raise InvalidRequest(f"nothing is recorded of {subject!r}", hint="look for it with: jinshi log")
        opened = await opener.open_many(stored)
        found = streams([_stored(one) for one in stored])
        if len(found) > 1:
            raise InvalidRequest(
                f"{subject!r} is a record of {', '.join(name for name, _ in found)}", hint="name one: --source URI"
            )
        against, accepted = await ledger.provable(stored[-1].index)
        entries = [
            Proven(one.entry, await ledger.reader.prove(one.index, against), _data(this) if open_ else None)
            for one, this in zip(stored, opened, strict=True)
        ]
        (where, name), note = found[0], format_note(against.note)
        history = "\n".join(_line(one, open_=open_) for one in opened) + "\n"
        policy = format_policy(ledger.policy())
        return Evidence(ledger.origin, where, name, note, policy, history.encode("utf-8"), tuple(entries)), not accepted


def _stored(one: StoredEntry) -> Entry:
    return decode_entry(one.entry)


def _data(one: Opened) -> bytes | None:
    """What a sealed entry holds; None: it is in the clear already, or cannot be opened."""
    return (one.entry.event.data or b"") if one.sealed and one.closed is None else None


def _line(one: Opened, *, open_: bool) -> str:
    """An entry in words; what is sealed only with --open."""
    entry, event = one.entry, one.entry.event
    head = f"entry {one.index}, version {entry.streamversion}, recorded {entry.recordedtime} by {entry.actor}"
    if one.sealed and (one.closed is not None or not open_):
        return render.one_line(f"{head}: {event.type} ({one.closed or 'sealed'})")
    seen = describe(event)
    changes = "; ".join(f"{one.field}: {_side(one.old)} -> {_side(one.new)}" for one in seen.changes)
    return render.one_line(f"{head}: {seen.what} {changes or render.summary(entry)}".rstrip())


def _side(value: str | None) -> str:
    return "(none)" if value is None else value
