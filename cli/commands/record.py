"""`jinshi import` and `jinshi append`: what goes into the ledger."""

from __future__ import annotations

import asyncio
import os
import select
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from cli.display import render
from cli.display.progress import progress_bar
from cli.files import read_file
from cli.serving.handover import AcknowledgingRecorder, open_to_record
from cli.session import Session, run_async, session_of
from cli.sites.acknowledging import Ack, check_ack
from ledger.acknowledging import ACK_TIMEOUT_S, ACK_TIMEOUT_S_MAX
from ledger.capture.cloudevents import LINE_SIZE_MAX, Appended, append_lines
from ledger.capture.importer import EDITION_SIZE_MAX, Imported, Request, import_edition
from ledger.core.acknowledgement import parse_ack
from ledger.core.acts import is_act
from ledger.core.event import Event
from ledger.errors import InvalidRequest, MalformedEvent, StoreUnavailable
from ledger.sequencer import Recorded

READ_SIZE = 1 << 20
READ_POLL_S = 0.2

AckOption = Annotated[
    str | None,
    typer.Option(
        metavar="POLICY", help="Wait for more than the source demands: any:N, same-city, all.  [default: as declared]"
    ),
]
AckTimeout = Annotated[
    float, typer.Option(min=0.1, max=ACK_TIMEOUT_S_MAX, metavar="SECONDS", help="How long to wait for the sites.")
]

IMPORT_EXAMPLES = """[bold]Examples[/]

  jinshi import areas.csv --source urn:cn:divisions:areas --key code --edition 2018-02-04
  jinshi import 台账.csv --source urn:city:register --key 编号 --encoding gb18030
"""
APPEND_EXAMPLES = """[bold]Examples[/]

  my-system | jinshi append
  echo '{"specversion":"1.0","id":"1","source":"urn:x","type":"door.opened.v1"}' | jinshi append --json
  my-system | jinshi append --ack all        # each is verified and cosigned at every site before it is answered
"""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("import", epilog=IMPORT_EXAMPLES)(import_)
    app.command(epilog=APPEND_EXAMPLES)(append)


def import_(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The edition, a CSV file.")],
    source: Annotated[str, typer.Option(metavar="URI", help="Which register it is an edition of.")],
    key: Annotated[str, typer.Option(metavar="COLUMN", help="The column that names a record.")],
    edition: Annotated[
        str | None, typer.Option(metavar="NAME", help="The edition's name.  [default: from its digest]")
    ] = None,
    time: Annotated[
        str | None, typer.Option(metavar="TIME", help="When it happened (RFC 3339).  [default: now]")
    ] = None,
    encoding: Annotated[str | None, typer.Option(metavar="NAME", help="utf-8 or gb18030.  [default: utf-8]")] = None,
    delimiter: Annotated[str | None, typer.Option(metavar="CHAR", help="[default: from the header line]")] = None,
    accept_cut: Annotated[
        bool, typer.Option("--accept-cut", help="Accept a last line without an end where the last edition had one.")
    ] = False,
    ack: AckOption = None,
    ack_timeout: AckTimeout = ACK_TIMEOUT_S,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Record an edition of a register: what changed since the last one, and a closing event.

    The whole file is checked before anything is recorded. An import that was interrupted is finished by repeating it.
    """
    session = session_of(context)
    request = Request(
        data=read_file(file, "the edition", size_max=EDITION_SIZE_MAX),
        source=source,
        key=key,
        edition=edition,
        time=time,
        encoding=encoding,
        delimiter=delimiter,
        accept_cut=accept_cut,
    )
    wanted = _ack(ack, ack_timeout)
    done = run_async(lambda: _import(session, request, file, wanted))
    if json:
        render.print_json(
            {
                "edition": done.edition,
                "index": done.index,
                "count": done.count,
                "added": done.added,
                "amended": done.amended,
                "retired": done.retired,
                "repeated": done.repeated,
            }
        )
    elif done.repeated:
        render.say(f"edition {done.edition} is recorded already (entry {done.index}); nothing was added")
    else:
        render.say(
            f"edition {done.edition}: {render.count(done.count, 'record')}, {done.added:,} added, "
            f"{done.amended:,} amended, {done.retired:,} retired; sealed by entry {done.index}"
        )


async def _import(session: Session, request: Request, file: Path, ack: Ack) -> Imported:
    async with open_to_record(session.ledger, session.environment, session.passphrase()) as writable:
        check_ack(writable.sealer, [request.source], ack)
        with progress_bar(f"importing {file.name}", "events") as report:
            done = await import_edition(
                writable.ledger.reader,
                writable.sequencer,
                request,
                actor=session.environment.actor,
                report=report,
                opener=writable.sealer.opener(),
            )
        with progress_bar("publishing") as report:
            await writable.publish(report)
        await writable.acknowledge(done.index, [request.source], ack)
    return done


def append(
    context: typer.Context,
    ack: AckOption = None,
    ack_timeout: AckTimeout = ACK_TIMEOUT_S,
    json: Annotated[bool, typer.Option("--json", help="Print each event's place as a JSON line.")] = False,
) -> None:
    """Record CloudEvents from stdin, one JSON object a line; each is durable before its place is printed.

    Durable here, and at the sites that its source's acknowledgement policy, or --ack, demands (jinshi source declare).
    Sending the same events again is safe: what is recorded is answered with its first place.
    """
    session = session_of(context)
    wanted = _ack(ack, ack_timeout)
    count, repeated = run_async(lambda: _append(session, wanted, json))
    if not json:
        again = f", {repeated:,} of them had been recorded before" if repeated else ""
        render.say(f"{render.count(count, 'event')}{again}")


@dataclass(frozen=True, slots=True)
class _Acknowledged:
    """An `Appender` whose answers are acknowledged."""

    recorder: AcknowledgingRecorder
    ack: Ack

    async def append(
        self, events: Sequence[Event], *, actor: str, expected_version: int | None = None
    ) -> list[Recorded]:
        sources = {event.source for event in events}
        for source in filter(is_act, sources):  # a file from elsewhere must not erase, retire or release anything here
            raise InvalidRequest(f"{source[:120]} is for the ledger's own acts", hint="use the jinshi command for them")
        check_ack(self.recorder.sealer, sources, self.ack)
        places = await self.recorder.sequencer.append(events, actor=actor, expected_version=expected_version)
        if places:
            await self.recorder.acknowledge(max(place.index for place in places), sources, self.ack)
        return places


def _ack(ack: str | None, timeout_s: float) -> Ack:
    return Ack(None if ack is None else parse_ack(ack), timeout_s)


async def _append(session: Session, ack: Ack, json: bool) -> tuple[int, int]:
    count = repeated = 0
    async with open_to_record(session.ledger, session.environment, session.passphrase()) as writable:
        try:
            appender = _Acknowledged(writable, ack)
            async for one in append_lines(appender, _stdin(), actor=session.environment.actor):
                count += 1
                repeated += one.place.duplicate
                if json:
                    _show_place(one)
        finally:
            await writable.publish()
    return count, repeated


def _show_place(one: Appended) -> None:
    try:
        render.print_json(
            {
                "line": one.line,
                "id": one.event.id,
                "index": one.place.index,
                "streamversion": one.place.streamversion,
                "recordedtime": one.place.recordedtime,
                "repeated": one.place.duplicate,
            }
        )
        sys.stdout.flush()
    except BrokenPipeError as error:  # no success: what was still to come on stdin is not recorded
        raise StoreUnavailable(
            f"nobody reads the places any more; the events up to line {one.line} are recorded",
            hint="send everything again, nothing is recorded twice",
        ) from error


async def _stdin() -> AsyncIterator[list[bytes]]:
    """The lines that have arrived on stdin, as they arrive."""
    rest = b""
    while data := await _read_stdin():
        *lines, rest = (rest + data).split(b"\n")
        if len(rest) > LINE_SIZE_MAX:
            raise MalformedEvent(f"a line is longer than {LINE_SIZE_MAX} bytes", hint="send one event a line")
        if lines:
            yield lines
    if rest:
        yield [rest]


async def _read_stdin() -> bytes:
    """What is there on stdin, b"" at its end. Never stuck in read(2), so that an interrupt ends the command."""
    ready: list[int] = []
    while not ready:
        ready, _, _ = await asyncio.to_thread(select.select, [0], [], [], READ_POLL_S)
    return await asyncio.to_thread(os.read, 0, READ_SIZE)
