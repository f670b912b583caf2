"""`jinshi log`, `history` and `export`: questions to the ledger. Nothing here writes to it."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from cli import render
from cli.main import Session, run_async, session_of
from cli.wiring import open_ledger, write_file
from ledger.capture.describe import Change, describe
from ledger.capture.exporter import Exported, export_register
from ledger.core.canonical import parse_json
from ledger.core.entry import Entry, decode_entry, event_time_us
from ledger.errors import InvalidRequest
from ledger.reader import Reader
from ledger.store.base import Selection, StoredEntry

LOG_EXAMPLES = """[bold]Examples[/]

  jinshi log --subject 110101
  jinshi log --type record.retired.v1 --since 2023-01-01T00:00:00Z --all --json
  jinshi log --index 4711
"""
HISTORY_EXAMPLES = """[bold]Examples[/]

  jinshi history 110101
  jinshi history 110101 --source urn:cn:divisions:areas --json
"""
EXPORT_EXAMPLES = """[bold]Examples[/]

  jinshi export --source urn:cn:divisions:areas --at 2018-02-04 -o areas.csv
  jinshi export --source urn:cn:divisions:areas --at 2026-11-24T01:53:35Z > then.csv
"""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(epilog=LOG_EXAMPLES)(log)
    app.command(epilog=HISTORY_EXAMPLES)(history)
    app.command(epilog=EXPORT_EXAMPLES)(export)


def log(
    context: typer.Context,
    subject: Annotated[str | None, typer.Option(metavar="TEXT")] = None,
    source: Annotated[str | None, typer.Option(metavar="URI")] = None,
    actor: Annotated[str | None, typer.Option(metavar="TEXT")] = None,
    type_: Annotated[str | None, typer.Option("--type", metavar="TEXT")] = None,
    since: Annotated[str | None, typer.Option(metavar="TIME", help="Happened at or after (RFC 3339).")] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Happened before.")] = None,
    recorded_until: Annotated[str | None, typer.Option(metavar="TIME", help="Recorded before: what we knew.")] = None,
    index: Annotated[str | None, typer.Option(metavar="N|N..M", help="One entry, or those from N up to M.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 50,
    all_: Annotated[bool, typer.Option("--all", help="All that match, however many.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Show entries, oldest first: the newest 50 that match, or --all."""
    session = session_of(context)
    start, stop = _range(index)
    what = Selection(
        start=start,
        stop=stop,
        source=source,
        subject=subject,
        actor=actor,
        type=type_,
        time_from_us=_time(since),
        time_until_us=_time(until),
        recorded_until_us=_time(recorded_until),
    )
    shown = run_async(lambda: _log(session, what, None if all_ else limit, json))
    if not shown:
        render.note("no entry matches")


def _time(text: str | None) -> int | None:
    return None if text is None else event_time_us(text)


def _range(index: str | None) -> tuple[int, int | None]:
    if index is None:
        return 0, None
    first, dots, last = index.partition("..")
    if not first.isdecimal() or (dots and not last.isdecimal()):
        raise InvalidRequest(f"{index!r} is no index", hint="give N, or N..M")
    return int(first), int(last if dots else first) + 1


async def _log(session: Session, what: Selection, limit: int | None, json: bool) -> int:
    count = 0
    async with open_ledger(session.ledger, session.environment) as ledger:
        columns = render.Columns.of("INDEX", "RECORDED", "TYPE", "SUBJECT", "ACTOR", "DATA")
        start = what.start if limit is None else await _start_of_newest(ledger.reader, what, limit)
        async for stored in ledger.reader.selected(replace(what, start=start)):
            entry = decode_entry(stored.entry)
            count += 1
            if json:
                render.print_json({"index": stored.index, "entry": parse_json(stored.entry)})
            else:
                columns.add(*_cells(stored, entry))
        columns.end()
    return count


async def _start_of_newest(reader: Reader, what: Selection, limit: int) -> int:
    start = what.start
    async for stored in reader.selected(replace(what, newest_first=True), limit=limit):
        start = stored.index
    return start


def _cells(stored: StoredEntry, entry: Entry) -> tuple[str, ...]:
    event = entry.event
    return (
        str(stored.index),
        render.moment(entry.recordedtime),
        event.type,
        event.subject or "",
        entry.actor,
        render.shorten(render.one_line(render.summary(entry)), render.SUMMARY_CELLS_MAX),
    )


def history(
    context: typer.Context,
    subject: Annotated[str, typer.Argument(metavar="SUBJECT", help="The record, by its key.")],
    source: Annotated[str | None, typer.Option(metavar="URI", help="Of this register only.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """What became of one record: what changed, when, by whom."""
    session = session_of(context)
    if not run_async(lambda: _history(session, Selection(subject=subject, source=source), json)):
        raise InvalidRequest(f"nothing is recorded of {subject!r}", hint="look for it with: jinshi log")


async def _history(session: Session, what: Selection, json: bool) -> int:
    count = 0
    async with open_ledger(session.ledger, session.environment) as ledger:
        async for stored in ledger.reader.selected(what):
            _show_change(stored, json, first=count == 0)
            count += 1
    return count


def _show_change(stored: StoredEntry, json: bool, *, first: bool) -> None:
    entry = decode_entry(stored.entry)
    seen = describe(entry.event)
    if json:
        changes = [{"field": one.field, "old": one.old, "new": one.new} for one in seen.changes]
        about = {"index": stored.index, "what": seen.what, "edition": seen.edition, "changes": changes}
        who = {"time": entry.event.time, "recordedtime": entry.recordedtime, "actor": entry.actor}
        render.print_json({**about, **who, "source": entry.event.source, "subject": entry.event.subject})
        return
    if not first:
        render.say()
    edition = f" in edition {seen.edition}" if seen.edition else ""
    render.say(render.one_line(f"{render.moment(entry.event.time or '')}  {seen.what}{edition}"), style="bold")
    render.say(render.one_line(f"  entry {stored.index} of {entry.event.source}, recorded by {entry.actor}"))
    for one in seen.changes:
        render.say(render.one_line(f"    {_change(one)}"))
    if not seen.changes:
        render.say(render.one_line(f"    {render.summary(entry)}"))


def _change(one: Change) -> str:
    if one.old is None:
        return f"{one.field}: {one.new}"
    if one.new is None:
        return f"{one.field}: {one.old} (no more)"
    return f"{one.field}: {one.old} -> {one.new}"


def export(
    context: typer.Context,
    source: Annotated[str, typer.Option(metavar="URI", help="Which register.")],
    at: Annotated[
        str | None, typer.Option(metavar="EDITION|INDEX|TIME", help="As it stood then.  [default: now]")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where to.  [default: stdout]")
    ] = None,
) -> None:
    """Write a register as it stood then: at an edition, byte for byte the file that was imported."""
    session = session_of(context)
    done = run_async(lambda: _export(session, source, at))
    if output is None:
        sys.stdout.buffer.write(done.data)
        sys.stdout.buffer.flush()
    else:
        write_file(output.absolute(), done.data)
    exactly = f"edition {done.edition}, byte for byte" if done.edition else f"after edition {done.after}"
    render.note(f"{render.count(done.count, 'record')}: {exactly}" + (f", in {output}" if output else ""))


async def _export(session: Session, source: str, at: str | None) -> Exported:
    async with open_ledger(session.ledger, session.environment) as ledger:
        return await export_register(ledger.reader, source, at)
