"""Appends CloudEvents as they arrive, one JSON object a line (structured mode)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from ledger.core.event import Event, parse_event
from ledger.errors import IdConflict, InvalidRequest, MalformedEvent
from ledger.sequencer import Recorded

BATCH_EVENTS_MAX = 1_000
LINE_SIZE_MAX = 1_000_000


class Appender(Protocol):
    """Records events: a `Sequencer`, or what stands for one in another process."""

    async def append(
        self, events: Sequence[Event], *, actor: str, expected_version: int | None = None
    ) -> list[Recorded]:
        """As `Sequencer.append`."""
        ...


@dataclass(frozen=True, slots=True)
class Appended:
    """One line's event and its place."""

    line: int
    event: Event
    place: Recorded


async def append_lines(
    sequencer: Appender, batches: AsyncIterator[list[bytes]], *, actor: str
) -> AsyncIterator[Appended]:
    """Append the events in these lines; yields each once it is durable. Blank lines are passed over.

    `batches` hands over the lines that are there, so that a slow producer is not kept waiting for a full batch. Each
    batch is recorded whole or not at all.

    Raises:
        MalformedEvent, IdConflict: a line cannot be recorded; names it. What came before its batch is recorded, and
            sending everything again is safe.
        Pushback, Fenced, StoreUnavailable: as `Sequencer.append`.
    """
    number = 0
    async for lines in batches:
        for first in range(0, len(lines), BATCH_EVENTS_MAX):
            part = lines[first : first + BATCH_EVENTS_MAX]
            events = [(at, _parse(line, at)) for at, line in enumerate(part, number + first + 1) if line.strip()]
            try:
                places = await sequencer.append([event for _, event in events], actor=actor)
            except (IdConflict, MalformedEvent) as error:
                last = number + first + len(part)
                raise type(error)(
                    f"lines {number + first + 1} to {last}: {error.what}", hint=_hint(number + first, error.hint)
                ) from error
            for (at, event), place in zip(events, places, strict=True):
                yield Appended(at, event, place)
        number += len(lines)


def _parse(line: bytes, number: int) -> Event:
    if len(line) > LINE_SIZE_MAX:
        raise InvalidRequest(f"line {number} is longer than {LINE_SIZE_MAX} bytes", hint="send one event a line")
    try:
        return parse_event(line.strip())
    except MalformedEvent as error:
        raise MalformedEvent(f"line {number}: {error.what}", hint=_hint(number - 1, error.hint)) from error


def _hint(done: int, hint: str) -> str:
    again = "the batches before it are recorded; fix it and send all again, nothing is recorded twice"
    return "; ".join(part for part in (hint, again if done else "") if part)
