"""Imports an edition of a register: what changed since the last one, then the event that seals it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from ledger.capture.cloudevents import Appender
from ledger.capture.dialect import parse_sheet
from ledger.capture.register import ADDED, AMENDED, ID_PREFIX, RETIRED, SEALED, Register, changes, records_of, sealing
from ledger.core.event import Event, event_time_us
from ledger.errors import EditionConflict, IdConflict, MalformedCsv, MalformedEvent
from ledger.keyring.erasures import Erasures
from ledger.reader import Reader
from ledger.sealing import Opener
from ledger.sources import Mode, Sources
from ledger.store.base import Selection
from ledger.tasks import Report

CLEAR = Opener(None, Sources(), Erasures())
"""Opens nothing: for registers in the clear."""

APPEND_EVENTS = 1_000
EDITION_SIZE_MAX = 512 * 2**20
NAME_SIZE_MAX = 1_000


@dataclass(frozen=True, slots=True)
class Request:
    """What to import: the file's bytes, and what the operator says about them."""

    data: bytes
    source: str
    key: str
    edition: str | None = None
    time: str | None = None
    encoding: str | None = None
    delimiter: str | None = None
    accept_cut: bool = False


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import recorded. `index` is that of the sealing entry; `repeated`: it had been sealed before."""

    edition: str
    index: int
    count: int
    added: int
    amended: int
    retired: int
    repeated: bool = False


async def import_edition(
    reader: Reader,
    sequencer: Appender,
    request: Request,
    *,
    actor: str,
    report: Report | None = None,
    opener: Opener = CLEAR,
) -> Imported:
    """Record one edition. The whole file is read and checked before the first event is appended.

    An import that was killed is carried on by running it again: its events have the same ids, and what is recorded is
    not recorded twice.

    Raises:
        MalformedCsv: the file cannot be used; names the line. Nothing was recorded.
        MalformedEvent: source, edition or time are not what an event may hold.
        EditionConflict: that edition is sealed with other content, or another import of this source is unfinished.
        InvalidRequest: the register is sealed, and its key cannot be had.
        Pushback, Fenced, StoreUnavailable: as `Sequencer.append`; running it again carries on.
    """
    if len(request.data) > EDITION_SIZE_MAX:
        raise MalformedCsv(f"the file has {len(request.data)} bytes; the most is {EDITION_SIZE_MAX}")
    if request.time is not None:
        event_time_us(request.time)
    _check_name(request.edition, "the edition's name")
    _check_name(request.source, "the source")
    digest = hashlib.sha256(request.data).hexdigest()
    edition = request.edition or f"sha256-{digest[:12]}"
    sheet = parse_sheet(request.data, encoding=request.encoding, delimiter=request.delimiter)
    records = records_of(sheet, request.key)
    register = await _base(reader, request.source, edition, opener)
    if (sealed := register.editions.get(edition)) is not None:
        if sealed.sha256 != digest:
            raise EditionConflict(
                f"edition {edition!r} of {request.source} is recorded with other content (entry {sealed.index})",
                hint="give the new file a new --edition name",
            )
        return Imported(edition, sealed.index, sealed.count, 0, 0, 0, repeated=True)
    last = register.last
    if last is not None and last.key != request.key:
        raise EditionConflict(
            f"the last edition of {request.source} has the key {last.key!r}, not {request.key!r}",
            hint="a register keeps its key; use another --source for another one",
        )
    if last is not None and last.dialect.final_newline and not sheet.dialect.final_newline and not request.accept_cut:
        raise MalformedCsv(
            f"the file's last line does not end, while that of edition {last.name!r} did",
            hint="it may have been cut while it was written; if it is complete, give --accept-cut",
        )
    events = list(changes(request.source, edition, register.records, records, time=request.time))
    closing = sealing(
        request.source,
        edition,
        sheet,
        records,
        key=request.key,
        sha256=digest,
        previous=None if last is None else last.name,
        time=request.time,
        personal=opener.sources.mode_of(request.source) is Mode.PERSONAL,
    )
    index = await _append(sequencer, [*events, *closing], actor, report)
    kinds = [event.type for event in events]
    return Imported(edition, index, len(records), kinds.count(ADDED), kinds.count(AMENDED), kinds.count(RETIRED))


def _check_name(name: str | None, what: str) -> None:
    if name is not None and not (name and name.isprintable() and len(name.encode("utf-8")) <= NAME_SIZE_MAX):
        raise MalformedEvent(
            f"{what} {name!r} cannot be used", hint=f"use printable UTF-8, of at most {NAME_SIZE_MAX} bytes"
        )


async def recorded(reader: Reader, source: str, *, stop: int | None = None, opener: Opener = CLEAR) -> Register:
    """The register as its entries before index `stop` make it.

    Raises:
        MalformedCsv: one cannot be read.
        InvalidRequest: the register is sealed, and its key cannot be had.
    """
    register = Register()
    async for one in opener.readable(reader.selected(Selection(source=source, stop=stop))):
        if one.closed:
            register.pass_over(one.entry)
        else:
            register.apply(one.index, one.entry)
    return register


async def _base(reader: Reader, source: str, edition: str, opener: Opener) -> Register:
    """The register an edition is compared with: all but what an unfinished import of that edition has recorded.

    Raises:
        EditionConflict: an import of another edition is unfinished.
        MalformedCsv: an entry cannot be read as a register's.
    """
    newest = await reader.select(Selection(source=source, type=SEALED, newest_first=True), limit=1)
    sealed = newest[0].index + 1 if newest else 0
    register = await recorded(reader, source, stop=sealed, opener=opener)
    async for one in opener.readable(reader.selected(Selection(source=source, start=sealed))):
        entry = one.entry
        if one.closed:
            register.pass_over(entry)
            continue
        if not entry.event.id.startswith(ID_PREFIX):
            register.apply(one.index, entry)  # what a system recorded between two editions
            continue
        data = entry.event.json_data
        begun = data.get("edition") if isinstance(data, dict) else None
        if begun != edition:
            raise EditionConflict(
                f"the import of edition {begun!r} of {source} is unfinished (entry {one.index})",
                hint=f"import its file again with --edition {begun} to finish it, then this one",
            )
    return register


async def _append(sequencer: Appender, events: Sequence[Event], actor: str, report: Report | None) -> int:
    index = -1
    for first in range(0, len(events), APPEND_EVENTS):
        part = events[first : first + APPEND_EVENTS]
        try:
            places = await sequencer.append(part, actor=actor)
        except IdConflict as error:
            raise EditionConflict(
                "an unfinished import of this edition recorded other changes than this file makes",
                hint="import the file it was begun with, then this one under another --edition name",
            ) from error
        index = places[-1].index
        if report is not None:
            report(first + len(part), len(events))
    return index
