"""The trust service's journal: its aggregates as events in the ledger, saved together, acknowledged, and read back.

Everything the service knows is folded from here. The entries are those of an application of the `eventsourcing` library
called "trust" (docs/eventsourcing.md), so that one can read them too.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final, NamedTuple, Protocol, TypeVar

import orjson
from eventsourcing.persistence import DatetimeAsISO, Mapper, StoredEvent
from eventsourcing.utils import get_topic

import pki.aggregates.every  # noqa: F401 (events are found by their names, whatever else this process imports)
from ledger.core.canonical import canonicalize
from ledger.core.event import Event, Extension, format_moment
from ledger.errors import Conflict, IdConflict, InvalidRequest, MalformedEntry
from ledger.persistence.mapping import VERSION, EventMapping, source_of
from ledger.persistence.names import NAMES
from ledger.persistence.transcoder import CanonicalJSONTranscoder
from ledger.protocols import Clock
from ledger.reader import Reader
from ledger.sealing import OPENED_PAGE, Opened, Opener
from ledger.sequencer import Recorded
from ledger.store.base import Selection, StoredEntry
from pki.access.base import Permit
from pki.aggregates.base import TrustAggregate, TrustEvent

APPLICATION: Final = "trust"
SOURCE: Final = source_of(APPLICATION)
PAGE_ENTRIES: Final = 1_000
SAVED_MAX: Final = 8_192
"""How many events are kept at hand for the index: what is recorded in some seconds under load."""

A = TypeVar("A", bound=TrustAggregate)


class Appending(Protocol):
    """As `Sequencer.append`."""

    async def append(self, events: Sequence[Event], *, actor: str) -> list[Recorded]: ...


class Occurred(NamedTuple):
    """An event with its place in the log. `name` is its frozen name, `actor` who is answerable."""

    place: int
    recordedtime: str
    actor: str
    name: str
    event: TrustEvent

    @property
    def data(self) -> dict[str, Any]:
        """What the event says, by the names of its command's parameters."""
        return vars(self.event)


@dataclass(frozen=True, slots=True)
class Journal:
    """Saves and loads aggregates. One for each process that has the ledger; safe under concurrency.

    `acknowledge` returns when the entries up to an index are where the service's policy demands that they are: at a
    quorum of the sites whenever there is one. `opener` opens what is sealed.
    """

    appending: Appending
    reader: Reader
    opener: Opener
    clock: Clock
    acknowledge: Callable[[int], Awaitable[None]]
    _saved: dict[int, Occurred] = field(default_factory=dict, init=False, repr=False, compare=False)
    """What this process has recorded of late, by place: an index here need not open and decode it again."""

    # -- writing --

    async def save(
        self, *aggregates: TrustAggregate, permit: Permit, extensions: Mapping[str, Extension] | None = None
    ) -> list[Recorded]:
        """Record what is pending of the aggregates, all of it or nothing; durable and acknowledged on return.

        Raises:
            Conflict: another caller has changed one of them meanwhile; load them again, decide again.
            Unacknowledged: it is recorded, but the sites did not confirm in time; nothing may be done on it yet.
            EntryTooLarge, Pushback, Unavailable, Fenced: as `Sequencer.append`; nothing was recorded.
        """
        said = {**permit.extensions(), **(extensions or {})}
        time = format_moment(self.clock.now())
        decided: list[Any] = [event for one in aggregates for event in one.collect_events()]
        if not decided:
            return []
        events = [_event_to_record(one, time, said) for one in decided]
        try:
            # Commit point: a crash after this line leaves the acts recorded, all of them.
            places = await self.appending.append(events, actor=permit.caller.actor)
        except IdConflict as error:
            changed = ", ".join(sorted({one.originator_id for one in decided}))
            raise Conflict(
                f"{changed} was changed by somebody else meanwhile",
                hint="look at it again, then try again; nothing was recorded",
            ) from error
        for place, sent, event in zip(places, events, decided, strict=True):
            if not place.duplicate:
                self._saved[place.index] = Occurred(
                    place.index, place.recordedtime, permit.caller.actor, sent.type, event
                )
        while len(self._saved) > SAVED_MAX:
            del self._saved[next(iter(self._saved))]
        await self.acknowledge(places[-1].index)
        return places

    # -- reading --

    async def find(self, kind: type[A], id_: str) -> A | None:
        """An aggregate as it stands now, or None. Raises Tampered, Unavailable, as `Opener.open_many`."""
        aggregate: Any = None
        async for one in self._occurred(Selection(source=SOURCE, subject=id_)):
            aggregate = one.event.mutate(aggregate)
        if aggregate is not None and not isinstance(aggregate, kind):
            raise InvalidRequest(f"{id_} is no {kind.__name__.lower()}")
        return aggregate

    async def load(self, kind: type[A], id_: str) -> A:
        """The same. Raises InvalidRequest: there is none."""
        found = await self.find(kind, id_)
        if found is None:
            raise InvalidRequest(f"there is no {id_.replace(':', ' ')}", hint=kind.where())
        return found

    async def occurred(self, start: int = 0, stop: int | None = None) -> AsyncIterator[Occurred]:
        """Every event of the service from index `start` of the log up to `stop`, or to what is committed now."""
        while (stop is None or start < stop) and (at_hand := self._saved.pop(start, None)) is not None:
            yield at_hand  # most often all of it: nothing is read
            start += 1
        if start == stop:
            return
        what, page = Selection(source=SOURCE, start=start, stop=stop), list[StoredEntry]()
        async for stored in self.reader.selected(what):
            page.append(stored)
            if len(page) == OPENED_PAGE:
                for one in await self._page(page):
                    yield one
                page = []
        for one in await self._page(page):
            yield one

    async def _page(self, page: Sequence[StoredEntry]) -> list[Occurred]:
        """The events of these entries; those that this process recorded are at hand."""
        at_hand = {one.index: found for one in page if (found := self._saved.pop(one.index, None)) is not None}

        async def others() -> AsyncIterator[StoredEntry]:
            for one in page:
                if one.index not in at_hand:
                    yield one

        read = {opened.index: self._event_of(opened) async for opened in self.opener.readable(others())}
        return [at_hand.get(one.index) or read[one.index] for one in page]

    async def _occurred(self, what: Selection) -> AsyncIterator[Occurred]:
        async for opened in self.opener.readable(self.reader.selected(what)):
            yield self._event_of(opened)

    def _event_of(self, opened: Opened) -> Occurred:
        entry = opened.entry
        if opened.closed is not None:
            raise MalformedEntry(f"entry {opened.index} of {SOURCE} was erased; the trust service cannot be folded")
        stored = _MAPPING.from_entry(entry)
        event = _MAPPER.to_domain_event(stored)
        if not isinstance(event, TrustEvent):
            raise MalformedEntry(f"entry {opened.index} of {SOURCE} is no event of the trust service")
        return Occurred(opened.index, entry.recordedtime, entry.actor, entry.event.type, event)


def _event_to_record(decided: TrustEvent, time: str, extensions: Mapping[str, Extension]) -> Event:
    """What the library's mapper and `EventMapping.to_event` make of it, one after the other; a third of their time."""
    state = dict(vars(decided))
    id_, version = state.pop("originator_id"), state.pop("originator_version")
    state["timestamp"] = {"_type_": _MOMENTS.name, "_data_": _MOMENTS.encode(decided.timestamp)}
    name, class_version = _name_of(type(decided))
    if class_version > 1:
        state["class_version"] = class_version
    return Event(
        f"{id_}/{version}",
        SOURCE,
        name,
        id_,
        time,
        data=_TRANSCODER.encode(state),
        extensions={**extensions, VERSION: version},
    )


@cache
def _name_of(kind: type[TrustEvent]) -> tuple[str, int]:
    """The frozen name of such events, and the version of their class."""
    return NAMES.name_of(get_topic(kind)), getattr(kind, "class_version", 1)


def remembered(event: TrustEvent) -> bytes:
    """An event as bytes, to be kept in an index."""
    stored = _MAPPER.to_stored_event(event)
    return canonicalize([str(stored.originator_id), stored.originator_version, stored.topic, stored.state.decode()])


def recalled(data: bytes) -> TrustEvent:
    """The inverse of `remembered`, for bytes that it has made."""
    id_, version, topic, state = json.loads(data)
    event = _MAPPER.to_domain_event(StoredEvent(id_, version, topic, state.encode()))
    assert isinstance(event, TrustEvent)
    return event


class _Transcoder(CanonicalJSONTranscoder):
    """The same bytes by a quicker library, for data without floats, as that of all our events is."""

    def encode(self, obj: Any) -> bytes:
        try:
            return orjson.dumps(obj, default=self._encode_obj, option=_AS_IT_WAS)
        except TypeError:  # an integer beyond 64 bits; half of a surrogate pair
            return super().encode(obj)


_AS_IT_WAS: Final = (
    orjson.OPT_SORT_KEYS
    | orjson.OPT_PASSTHROUGH_DATETIME
    | orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_PASSTHROUGH_SUBCLASS
)


_MOMENTS: Final = DatetimeAsISO()


def _transcoder() -> _Transcoder:
    transcoder = _Transcoder()
    transcoder.register(_MOMENTS)
    return transcoder


_TRANSCODER: Final = _transcoder()
_MAPPER: Final[Mapper[str]] = Mapper(_TRANSCODER)
_MAPPING: Final = EventMapping(SOURCE, NAMES, uuids=False, json=True)
