"""From append calls to rows: idempotency, stream versions, canonical bytes. No I/O; the sequencer's own room.

A call is staged on top of what is known: the versions of its streams, and, once they were looked up, the entries
recorded under its keys. Where staging without that look cannot be right, it says so (`Unsure`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Final, NamedTuple

from ledger.core.entry import Entry, encode_event, same_event
from ledger.core.event import Event, event_time_us, format_time
from ledger.core.merkle import leaf_hash
from ledger.errors import IdConflict, JinshiError, Unavailable, VersionConflict
from ledger.sealing import Addressed, Closed, Opened
from ledger.store.base import Row, StoredEntry, StreamId

SLICE_EVENTS: Final = 64
"""Staging so many takes about as long as a round trip to the store."""

_SOURCE_AND_SUBJECT = attrgetter("event.source", "event.subject")

EventKey = tuple[str, str]
"""(source, id): what idempotency goes by."""

Seal = Callable[[Addressed, str], bytes]
"""The sealed data of an event that has a key, bound to this time. Raises EntryTooLarge, Unavailable."""


class Recorded(NamedTuple):
    """Where an event stands in the log. `duplicate`: it stood there before this call."""

    index: int  # type: ignore[assignment]  # in place of tuple's method, which nobody asks of it
    streamversion: int
    recordedtime: str
    leaf_hash: bytes
    duplicate: bool = False


@dataclass(eq=False, slots=True)
class Call:
    """One append call, waiting to be recorded."""

    events: Sequence[Addressed]
    keys: Sequence[EventKey]
    actor: str
    expected_version: int | None
    done: asyncio.Future[list[Recorded]]
    size: int

    def streams(self) -> set[StreamId]:
        """Those its events belong to."""
        return {StreamId(source, subject or "") for source, subject in set(map(_SOURCE_AND_SUBJECT, self.events))}


class Known(NamedTuple):
    """What is recorded under an event's key, and the same opened."""

    stored: StoredEntry
    opened: Opened


class Unsure(Exception):  # noqa: N818 (no error: another way is taken)
    """Whether a call can be recorded depends on what is recorded under its keys, and that was not looked up."""


def stream_of(event: Event) -> StreamId:
    """The stream an event belongs to: (source, subject), '' standing for no subject."""
    return StreamId(event.source, event.subject or "")


def row_of(entry: Entry, data: bytes) -> Row:
    """The store's row for an entry and its canonical bytes."""
    event = entry.event
    assert event.time is not None, "an entry always has a time"
    return Row(
        entry=data,
        leaf_hash=leaf_hash(data),
        source=event.source,
        id=event.id,
        subject=event.subject or "",
        streamversion=entry.streamversion,
        type=event.type,
        actor=entry.actor,
        time_us=event_time_us(event.time),
        recordedtime_us=event_time_us(entry.recordedtime),
    )


class Staging:
    """One transaction in the making: rows at `base`, +1, ... and what each call will be answered.

    `known` None: nothing was looked up by key, and every event is taken for new.
    """

    def __init__(
        self,
        base: int,
        recordedtime_us: int,
        versions: Mapping[StreamId, int],
        seal: Seal | None,
        known: Mapping[EventKey, Known] | None = None,
    ) -> None:
        self.rows: list[Row] = []
        self.answers: list[tuple[Call, list[Recorded]]] = []
        self.versions: dict[StreamId, int] = {}
        self.recordedtime_us = recordedtime_us
        self.base = base
        self._recordedtime = format_time(recordedtime_us)
        self._before = versions
        self._seal = seal
        self._known = known

    def answer(self) -> None:
        """Tell every caller where its events stand: they are committed."""
        for call, answer in self.answers:
            if not call.done.done():
                call.done.set_result(answer)

    @property
    def abandoned(self) -> bool:
        """Whether a caller has left since its call was staged."""
        return any(call.done.done() for call, _ in self.answers)

    def add(self, call: Call) -> Iterator[None]:
        """Stage a call, a slice at a time, so that whoever does it can let others in between.

        A call that cannot be recorded is answered why, and the others go on. Raises Unsure.
        """
        rows: list[Row] = []
        answer: list[Recorded] = []
        versions: dict[StreamId, int] = {}
        try:
            yield from self._stage(call, rows, answer, versions)
        except JinshiError as error:
            if not call.done.done():
                call.done.set_exception(error)
            return
        self.rows += rows
        self.versions.update(versions)
        self.answers.append((call, answer))

    def _stage(
        self, call: Call, rows: list[Row], answer: list[Recorded], versions: dict[StreamId, int]
    ) -> Iterator[None]:
        placed: dict[EventKey, tuple[Event, Recorded]] | None = {} if len(set(call.keys)) < len(call.keys) else None
        index, known, seal, actor = self.base + len(self.rows), self._known, self._seal, call.actor
        recordedtime, recordedtime_us = self._recordedtime, self.recordedtime_us
        stream = StreamId("", "")
        for number, (one, key) in enumerate(zip(call.events, call.keys, strict=True), 1):
            if not number % SLICE_EVENTS:
                yield
            event = one.event
            if known and (first := known.get(key)) is not None:
                answer.append(_first_receipt(first, one))
                continue
            if placed and (twin := placed.get(key)) is not None:
                answer.append(self._twin(twin, one, actor))
                continue
            if event.source != stream.source or (event.subject or "") != stream.subject:  # most often it is the same
                stream = StreamId(event.source, event.subject or "")
            version = versions.get(stream)
            if version is None:
                version = self._version(stream)
            if not rows and call.expected_version is not None and version != call.expected_version:
                raise self._conflict(stream, version, call.expected_version)
            version += 1
            time = recordedtime if event.time is None else event.time
            sealed = None if one.key is None or seal is None else seal(one, time)
            data = encode_event(
                event, time, streamversion=version, recordedtime=recordedtime, actor=actor, sealed=sealed
            )
            leaf = leaf_hash(data)
            time_us = recordedtime_us if event.time is None else event_time_us(time)
            rows.append(
                Row(
                    data, leaf, event.source, event.id, stream.subject, version,
                    event.type, actor, time_us, recordedtime_us,
                )
            )  # fmt: skip
            recorded = Recorded(index, version, recordedtime, leaf)
            index += 1
            answer.append(recorded)
            versions[stream] = version
            if placed is not None:
                placed[key] = (one.sent, recorded)

    def _version(self, stream: StreamId) -> int:
        found = self.versions.get(stream)
        return self._before.get(stream, 0) if found is None else found

    def _conflict(self, stream: StreamId, version: int, expected: int) -> Exception:
        if self._known is None:  # the first attempt of the same call may be why
            return Unsure()
        return VersionConflict(
            f"stream {stream.subject or stream.source!r} is at version {version}, expected {expected}",
            hint="read what was recorded since, then decide again",
        )

    def _twin(self, twin: tuple[Event, Recorded], one: Addressed, actor: str) -> Recorded:
        """An event that stands twice in one call is recorded once."""
        sent, recorded = twin
        first = sent if sent.time is not None else sent.at(self._recordedtime)
        _check_same(Entry(first, recorded.streamversion, self._recordedtime, actor), one.sent)
        return recorded._replace(duplicate=True)


def _first_receipt(known: Known, one: Addressed) -> Recorded:
    stored, entry = known.stored, known.opened.entry
    if known.opened.closed is Closed.NO_KEY:
        raise Unavailable(
            f"event {one.sent.id!r} of {one.sent.source} is recorded at index {stored.index}, and cannot be opened",
            hint="open the ledger's data keys, then send it again",
        )
    if known.opened.closed is Closed.ERASED:
        # Its data is gone: what is left in the clear, pseudonyms among it, decides.
        _check_same(entry, replace(one.event, data=entry.event.data), index=stored.index)
    else:
        _check_same(entry, one.sent, index=stored.index)
    return Recorded(stored.index, entry.streamversion, entry.recordedtime, leaf_hash(stored.entry), duplicate=True)


def _check_same(entry: Entry, event: Event, *, index: int | None = None) -> None:
    if not same_event(entry, event):
        place = "earlier in the same call" if index is None else f"at index {index}"
        raise IdConflict(
            f"event {event.id!r} of {event.source} is recorded {place} with other content",
            hint="give a new event a new id",
        )
