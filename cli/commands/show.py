"""`jinshi show`: what a record, or every record of a source, holds at a point in time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import aclosing
from typing import Annotated

import typer

from cli.commands.read import as_of, merged
from cli.display import render
from cli.moments import AT_HELP, MOMENT
from cli.session import Session, run_async, session_of
from cli.wiring.ledgers import open_ledger
from ledger.capture.state import RecordState, States
from ledger.core.canonical import JsonValue, is_canonical, parse_json
from ledger.core.encoding import encode_base64
from ledger.errors import InvalidRequest
from ledger.store.base import Selection

EXAMPLES = """[bold]Examples[/]

  jinshi show 110101                                   # as it stands now
  jinshi show 110101 --source urn:cn:divisions:areas --at 2026-11-24T01:53:35Z
  jinshi show 110101 --at record.tlog-proof            # as of a receipt or checkpoint
  jinshi show --source urn:my-system --at 4711 --json  # every record of a source, as of entry 4711
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=EXAMPLES)(show)


def show(
    context: typer.Context,
    subject: Annotated[str | None, typer.Argument(metavar="[SUBJECT]", help="The record, by its key.")] = None,
    source: Annotated[str | None, typer.Option(metavar="URI", help="Of this register or system.")] = None,
    at: Annotated[str | None, typer.Option(metavar=MOMENT, help=AT_HELP)] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Show what a record holds, now or at any earlier point; without SUBJECT, every record of --source.

    A register's record is put together from its changes; of any other stream, the last event counts.
    """
    session = session_of(context)
    if subject is None and source is None:
        raise InvalidRequest("neither a record nor a source is named", hint="give SUBJECT, or --source URI, or both")
    states = run_async(lambda: _states(session, Selection(subject=subject, source=source), at))
    found = list(states.records())
    if not found:
        then = "" if at is None else " by then"
        what = repr(subject) if subject is not None else source
        raise InvalidRequest(f"nothing is recorded of {what}{then}", hint="look for it with: jinshi log")
    if json:
        for one in found:
            render.print_json(_as_json(one))
    elif subject is None:
        render.table(("SUBJECT", "ENTRY", "RECORDED", "ACTOR", "STATE"), map(_cells, found))
    else:
        for number, one in enumerate(found):
            if number:
                render.say()
            _show(one)


async def _states(session: Session, what: Selection, at: str | None) -> States:
    states = States()
    async with open_ledger(session.ledger, session.environment) as ledger:
        opener = await ledger.opener(session.passphrase)
        wanted = await opener.selections(await as_of(ledger, what, at))
        async with aclosing(merged(ledger.reader, wanted)) as entries:
            async for one in opener.readable(entries):
                states.apply(one, subject=what.subject)
    return states


def _show(one: RecordState) -> None:
    entry = one.last.entry
    render.say(render.one_line(f"{one.subject or '(no subject)'} of {one.source}"), style="bold")
    made = f"{render.moment(entry.recordedtime)} by {entry.actor}, entry {one.last.index}"
    render.say(render.one_line(f"  {_verdict(one)} {made} ({render.count(one.entries, 'entry')} of it)"))
    for line in _lines(one):
        render.say(render.one_line(f"    {line}"))


def _verdict(one: RecordState) -> str:
    if one.last.closed:
        return f"{one.last.closed.value}; last recorded"
    return "retired" if one.retired else "as recorded"


def _lines(one: RecordState) -> Iterator[str]:
    if one.values is not None:
        yield from (f"{name}: {text}" for name, text in one.values.items())
    elif not one.retired and not one.last.closed:
        yield f"{one.last.entry.event.type}: {render.summary(one.last.entry)}"


def _cells(one: RecordState) -> tuple[str, ...]:
    entry = one.last.entry
    state = render.value_text(dict(one.values)) if one.values is not None else " ".join(_lines(one)) or _verdict(one)
    shown = render.shorten(render.one_line(state), render.SUMMARY_CELLS_MAX)
    return one.subject, str(one.last.index), render.moment(entry.recordedtime), entry.actor, shown


def _as_json(one: RecordState) -> dict[str, JsonValue]:
    entry, event = one.last.entry, one.last.entry.event
    about: dict[str, JsonValue] = {
        "subject": one.subject,
        "source": one.source,
        "index": one.last.index,
        "entries": one.entries,
        "type": event.type,
        "time": event.time,
        "recordedtime": entry.recordedtime,
        "actor": entry.actor,
    }
    if one.last.closed:
        about["closed"] = one.last.closed.value
    elif one.retired or one.values is not None:
        about["values"] = None if one.values is None else dict(one.values)
    elif event.data is not None and event.datacontenttype is None and is_canonical(event.data):
        about["data"] = parse_json(event.data)
    elif event.data is not None:
        about["data_base64"] = encode_base64(event.data)
    return about
