"""`jinshi log`, `history` and `export`: questions to the ledger. Nothing here writes to it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from cli.display import render
from cli.moments import AT_HELP, MOMENT, find_size, size_at
from cli.output import goes_to_stdout, put
from cli.session import Session, run_async, session_of
from cli.wiring.ledgers import OpenLedger, open_ledger
from cli.wiring.sealing import Passphrase
from ledger.capture.describe import Change, Description, describe
from ledger.capture.exporter import Exported, export_register
from ledger.content.released import read_released
from ledger.core.canonical import JsonValue, is_canonical, parse_json
from ledger.core.encoding import encode_base64
from ledger.core.event import event_time_us
from ledger.errors import InvalidRequest
from ledger.reader import Reader, in_log_order
from ledger.sealing import Opened, Opener
from ledger.store.base import Selection, StoredEntry

FOLLOW_POLL_S = 0.2
OPENED_PAGE = 512

LOG_EXAMPLES = """[bold]Examples[/]

  jinshi log --subject 110101
  jinshi log --type record.retired.v1 --since 2023-01-01T00:00:00Z --all --json
  jinshi log --index 4711
  jinshi log --subject 110101 --recorded-since 2026-11-01T00:00:00Z --recorded-until 2026-12-01T00:00:00Z   # who?
  jinshi log --actor local:zhang --all             # everything they did
  jinshi log --actor chen --all                    # everything an officer did, by whatever certificate
  jinshi log --source urn:cn:divisions:areas --at record.tlog-proof   # as of a receipt or checkpoint
  jinshi log --source urn:cn:divisions:areas --follow
"""
HISTORY_EXAMPLES = """[bold]Examples[/]

  jinshi history 110101
  jinshi history 110101 --source urn:cn:divisions:areas --json
  jinshi history 110101 --at 2026-11-24T01:53:35Z  # what was known then
"""
EXPORT_EXAMPLES = """[bold]Examples[/]

  jinshi export --source urn:cn:divisions:areas --at 2018-02-04 -o areas.csv
  jinshi export --source urn:cn:divisions:areas --at 2026-11-24T01:53:35Z > then.csv
  jinshi export --source urn:cn:divisions:areas --at checkpoint.txt > signed.csv
"""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(epilog=LOG_EXAMPLES)(log)
    app.command(epilog=HISTORY_EXAMPLES)(history)
    app.command(epilog=EXPORT_EXAMPLES)(export)


def log(
    context: typer.Context,
    subject: Annotated[str | None, typer.Option(metavar="TEXT", help="About this record.")] = None,
    source: Annotated[str | None, typer.Option(metavar="URI", help="Of this register or system.")] = None,
    actor: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Recorded by: local:USER, or an officer's name.")
    ] = None,
    type_: Annotated[
        str | None, typer.Option("--type", metavar="TEXT", help="Of this type, such as record.amended.v1.")
    ] = None,
    since: Annotated[str | None, typer.Option(metavar="TIME", help="Happened at or after (RFC 3339).")] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Happened before.")] = None,
    recorded_since: Annotated[str | None, typer.Option(metavar="TIME", help="Recorded at or after.")] = None,
    recorded_until: Annotated[str | None, typer.Option(metavar="TIME", help="Recorded before: what we knew.")] = None,
    at: Annotated[str | None, typer.Option(metavar=MOMENT, help=AT_HELP)] = None,
    index: Annotated[str | None, typer.Option(metavar="N|N..M", help="One entry, or those from N up to M.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 50,
    all_: Annotated[bool, typer.Option("--all", help="All that match, however many.")] = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on: show what is recorded from now on.")] = False,
    sealed: Annotated[
        bool, typer.Option("--sealed", help="Leave what is sealed closed; no passphrase is used.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Show entries, oldest first: the newest 50 that match, or --all.

    What is sealed is opened when a passphrase is given (JINSHI_PASSPHRASE or --passphrase-file).
    """
    session = session_of(context)
    start, stop = _range(index)
    if follow and (index is not None or recorded_until is not None or at is not None):
        raise InvalidRequest("--follow has no end", hint="leave out --index, --recorded-until and --at")
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
    asked = Asked(what, None if all_ else limit, at, _time(recorded_since))
    passphrase = None if sealed else session.passphrase_at_hand
    shown = run_async(lambda: _log(session, passphrase, asked, json=json, follow=follow))
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


@dataclass(frozen=True, slots=True)
class Asked:
    """What `log` is to show: the selection, and what only the ledger can turn into indexes."""

    what: Selection
    limit: int | None
    at: str | None
    recorded_since_us: int | None


async def as_of(ledger: OpenLedger, what: Selection, at: str | None) -> Selection:
    """The selection among the entries there were at that moment. Raises as `cli.moments.size_at`."""
    if at is None:
        return what
    size = await size_at(ledger, at)
    render.note(f"as of {render.one_line(at)}: the first {render.count(size, 'entry')}")
    return replace(what, stop=size if what.stop is None else min(what.stop, size))


async def _log(session: Session, passphrase: Passphrase | None, asked: Asked, *, json: bool, follow: bool) -> int:
    count = 0
    async with open_ledger(session.ledger, session.environment) as ledger:
        opener = await ledger.opener(passphrase)
        what, limit = await as_of(ledger, asked.what, asked.at), asked.limit
        if asked.recorded_since_us is not None:
            earlier = await ledger.reader.size_at(asked.recorded_since_us - 1)
            what = replace(what, start=max(what.start, earlier))
        wanted = await _wanted(ledger, opener, what, has_keys=passphrase is not None)
        columns = render.Columns.of("INDEX", "RECORDED", "TYPE", "SUBJECT", "ACTOR", "DATA")
        start = what.start if limit is None else await _start_of_newest(ledger.reader, wanted, limit)
        while True:
            size = (await ledger.reader.head()).size  # what is committed while this is shown comes in the next round
            stop = size if what.stop is None else what.stop
            these = [replace(one, start=start, stop=stop) for one in wanted]
            async for stored, one in _opened(opener, ledger.reader, these):
                count += 1
                if json:
                    render.print_json({"index": stored.index, "entry": parse_json(stored.entry), **_unsealed(one)})
                else:
                    columns.add(*_cells(one))
            columns.end()
            if not follow:
                return count
            sys.stdout.flush()
            start = max(start, size)
            await asyncio.sleep(FOLLOW_POLL_S)


async def _wanted(ledger: OpenLedger, opener: Opener, what: Selection, *, has_keys: bool) -> list[Selection]:
    """The selections that give what is asked; an officer's name stands for all that the officer is known by."""
    if what.actor is None or ":" in what.actor:
        return await opener.selections(what)
    from cli.trust.officers import actors_of  # takes long to import, and is seldom asked for

    actors = await actors_of(what.actor, ledger.reader, opener, has_keys=has_keys)
    return [one for actor in actors for one in await opener.selections(replace(what, actor=actor))]


async def _start_of_newest(reader: Reader, wanted: Sequence[Selection], limit: int) -> int:
    """Where the newest `limit` entries begin that match one of the selections."""
    newest: list[int] = []
    for what in wanted:
        newest += [stored.index async for stored in reader.selected(replace(what, newest_first=True), limit=limit)]
    return min(sorted(newest, reverse=True)[:limit], default=wanted[0].start)


def merged(reader: Reader, wanted: Sequence[Selection]) -> AsyncGenerator[StoredEntry, None]:
    """The entries of every selection, in order of their indexes."""
    return in_log_order([reader.selected(what) for what in wanted])


async def _opened(
    opener: Opener, reader: Reader, wanted: Sequence[Selection]
) -> AsyncIterator[tuple[StoredEntry, Opened]]:
    """Entries as stored and as opened, some of them at a time."""
    page: list[StoredEntry] = []
    async with aclosing(merged(reader, wanted)) as entries:
        async for stored in entries:
            page.append(stored)
            if len(page) == OPENED_PAGE:
                for pair in zip(page, await opener.open_many(page), strict=True):
                    yield pair
                page = []
    for pair in zip(page, await opener.open_many(page), strict=True):
        yield pair


def _unsealed(one: Opened) -> dict[str, JsonValue]:
    """What a sealed entry holds, for --json; nothing for any other."""
    if not one.sealed:
        return {}
    if one.closed:
        return {"closed": one.closed.value}
    event = one.entry.event
    unsealed: dict[str, JsonValue] = {"id": event.id, "subject": event.subject}
    if event.data is not None and event.datacontenttype is None and is_canonical(event.data):
        unsealed["data"] = parse_json(event.data)
    elif event.data is not None:
        unsealed["data_base64"] = encode_base64(event.data)
    return {"unsealed": unsealed}


def _summary(one: Opened) -> str:
    return f"<{one.closed}>" if one.closed else render.summary(one.entry)


def _cells(one: Opened) -> tuple[str, ...]:
    entry, event = one.entry, one.entry.event
    return (
        str(one.index),
        render.moment(entry.recordedtime),
        event.type,
        event.subject or "",
        entry.actor,
        render.shorten(render.one_line(_summary(one)), render.SUMMARY_CELLS_MAX),
    )


def history(
    context: typer.Context,
    subject: Annotated[str, typer.Argument(metavar="SUBJECT", help="The record, by its key.")],
    source: Annotated[str | None, typer.Option(metavar="URI", help="Of this register only.")] = None,
    at: Annotated[str | None, typer.Option(metavar=MOMENT, help=AT_HELP)] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """What became of one record: what changed, when, by whom."""
    session = session_of(context)
    if not run_async(lambda: _history(session, Selection(subject=subject, source=source), at, json)):
        then = "" if at is None else " by then"
        raise InvalidRequest(f"nothing is recorded of {subject!r}{then}", hint="look for it with: jinshi log")


async def _history(session: Session, what: Selection, at: str | None, json: bool) -> int:
    count = 0
    async with open_ledger(session.ledger, session.environment) as ledger:
        opener = await ledger.opener(session.passphrase)
        what, released = await as_of(ledger, what, at), await read_released(ledger.searched)
        async for _, one in _opened(opener, ledger.reader, await opener.selections(what)):
            gone = (one.entry.event.source, one.index) in released
            _show_change(one, json, first=count == 0, released=gone)
            count += 1
    return count


def _show_change(one: Opened, json: bool, *, first: bool, released: bool) -> None:
    entry = one.entry
    seen = Description(entry.event.type, None, ()) if one.closed else describe(entry.event)
    if json:
        changes = [{"field": change.field, "old": change.old, "new": change.new} for change in seen.changes]
        about = {"index": one.index, "what": seen.what, "edition": seen.edition, "changes": changes}
        who = {"time": entry.event.time, "recordedtime": entry.recordedtime, "actor": entry.actor}
        closed: dict[str, JsonValue] = {"closed": one.closed.value} if one.closed else {}
        closed |= {"released": True} if released else {}
        diff = {"diff": seen.diff} if seen.diff else {}
        where = {"source": entry.event.source, "subject": entry.event.subject}
        render.print_json({**about, **who, **where, **closed, **diff})
        return
    if not first:
        render.say()
    edition = f" in edition {seen.edition}" if seen.edition else ""
    render.say(render.one_line(f"{render.moment(entry.event.time or '')}  {seen.what}{edition}"), style="bold")
    gone = "; its content was released" if released else ""
    render.say(render.one_line(f"  entry {one.index} of {entry.event.source}, recorded by {entry.actor}{gone}"))
    for change in seen.changes:
        render.say(render.one_line(f"    {_change(change)}"))
    for line in seen.diff.splitlines():
        render.say(render.one_line(f"    {line}"))
    if not seen.changes and not seen.diff:
        render.say(render.one_line(f"    {_summary(one)}"))


def _change(one: Change) -> str:
    if one.old is None:
        return f"{one.field}: {one.new}"
    if one.new is None:
        return f"{one.field}: {one.old} (no more)"
    return f"{one.field}: {one.old} -> {one.new}"


def export(
    context: typer.Context,
    source: Annotated[str, typer.Option(metavar="URI", help="Which register.")],
    at: Annotated[str | None, typer.Option(metavar=f"EDITION|{MOMENT}", help=f"{AT_HELP}  [default: now]")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where to.  [default: stdout]")
    ] = None,
) -> None:
    """Write a register as it stood then: at an edition, byte for byte the file that was imported."""
    session = session_of(context)
    done = run_async(lambda: _export(session, source, at))
    put(output, done.data)
    exactly = f"edition {done.edition}, byte for byte" if done.edition else f"after edition {done.after}"
    if done.erased:
        exactly += f", without {render.count(done.erased, 'erased record')}"
    render.note(
        f"{render.count(done.count, 'record')}: {exactly}" + ("" if goes_to_stdout(output) else f", in {output}")
    )


async def _export(session: Session, source: str, at: str | None) -> Exported:
    async with open_ledger(session.ledger, session.environment) as ledger:
        opener = await ledger.opener(session.passphrase)
        return await export_register(ledger.reader, source, at, opener=opener, size_of=partial(find_size, ledger))
