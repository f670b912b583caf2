"""The library's recorders over the ledger: synchronous, for any thread but the loop's own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from threading import Event as ThreadEvent
from typing import Any, Final
from uuid import UUID

from eventsourcing.persistence import (
    AggregateRecorder,
    ApplicationRecorder,
    ListenNotifySubscription,
    Notification,
    ProcessRecorder,
    StoredEvent,
    Subscription,
    Tracking,
    TrackingRecorder,
)

from ledger.core.event import Event, Extension
from ledger.errors import InvalidRequest
from ledger.persistence.mapping import TRACKED_APPLICATION, TRACKED_ID, EventMapping
from ledger.persistence.runtime import Act, Runtime, T
from ledger.persistence.streams import Streams
from ledger.persistence.translate import library_errors
from ledger.store.base import StreamId

EXTENSIONS: Final = {"correlation_id": "correlationid", "causation_id": "causationid"}
"""What `Application.save` may be given to be recorded with every event, and the attribute that holds it."""


@dataclass(frozen=True, slots=True)
class Link:
    """What a recorder needs: how events map, who is answerable, and the open ledger (opened at the first call).

    `copies` are the sources in which the application keeps copies of what is in `source`, such as snapshots.
    """

    mapping: EventMapping
    source: str
    copies: Collection[str]
    actor: str
    open: Callable[[], Runtime]
    opened: Callable[[], Runtime | None]

    def call(self, act: Act[T]) -> T:
        """Do `act` on the loop and wait. Raises the library's errors."""
        with library_errors():
            return self.open().call(act)

    async def call_async(self, act: Act[T]) -> T:
        """The same from code on a loop, which is not kept waiting. Raises the library's errors."""
        with library_errors():
            runtime = self.opened()
            if runtime is None:
                runtime = await asyncio.to_thread(self.open)
            return await runtime.call_async(act)


class LedgerRecorder:
    """What all recorders share."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def _insert(
        self, streams: Streams, stored_events: Sequence[StoredEvent], given: dict[str, Any]
    ) -> list[int] | None:
        """Record events, and how far that brings the tracking of another application, in one append.

        Returns the notification ids of the events: their indexes in the ledger + 1. Raises as `Streams.append`, and
        InvalidRequest.
        """
        mapping = self._link.mapping
        streams.vault.check_copies(self._link.source, self._link.copies)
        tracking, actor, extensions = _read(given)
        time = streams.stamp()
        events: list[Event] = []
        for stored in stored_events:
            causes = _cause(tracking) if not events else {}
            events.append(mapping.to_event(stored, time=time, extensions={**extensions, **causes}))
        count = len(events)
        if tracking is not None:
            events.append(mapping.tracking_event(tracking, time=time))
        if not events:
            return None
        places = await streams.append(events, actor=actor or self._link.actor)
        return [place.index + 1 for place in places[:count]]


def _read(given: dict[str, Any]) -> tuple[Tracking | None, str | None, dict[str, Extension]]:
    """What came with an insert. Raises InvalidRequest for what is not known: nothing is dropped in silence."""
    rest = dict(given)
    tracking, actor = rest.pop("tracking", None), rest.pop("actor", None)
    extensions: dict[str, Extension] = {}
    for name, attribute in EXTENSIONS.items():
        value = rest.pop(name, None)
        if value is not None:
            extensions[attribute] = value
    if rest:
        raise InvalidRequest(
            f"save() was given {', '.join(sorted(rest))}, which the ledger does not know",
            hint=f"it records actor, {', '.join(EXTENSIONS)}",
        )
    if actor is not None and not isinstance(actor, str):
        raise InvalidRequest(f"the actor is {actor!r}", hint="name who is answerable in a text")
    return tracking, actor, extensions


def _cause(tracking: Tracking | None) -> dict[str, Extension]:
    if tracking is None:
        return {}
    return {TRACKED_APPLICATION: tracking.application_name, TRACKED_ID: tracking.notification_id}


class LedgerAggregateRecorder(LedgerRecorder, AggregateRecorder):
    """Records and finds the events of aggregates."""

    def insert_events(self, stored_events: Sequence[StoredEvent], **kwargs: Any) -> Sequence[int] | None:
        """Record events, all or none; durable on return.

        Raises:
            IntegrityError: a version of an aggregate is recorded already, or does not follow what is.
            OperationalError: not now; or it would be sealed, and the key for that cannot be had.
            DataError, ProgrammingError: see `translate.py`.
        """
        self._link.call(lambda streams: self._insert(streams, stored_events, kwargs))
        return None

    def select_events(
        self,
        originator_id: UUID | str,
        *,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
    ) -> Sequence[StoredEvent]:
        """The events of an aggregate with gt < version <= lte, by version (`desc`: the other way round).

        Raises:
            AggregateErasedError: one of them was erased, or the one that they continue.
        """
        mapping = self._link.mapping
        stream = StreamId(mapping.source, str(originator_id))
        entries = self._link.call(lambda streams: streams.read(stream, gt=gt, lte=lte, newest_first=desc, limit=limit))
        with library_errors():
            return [mapping.from_entry(entry) for entry in entries]


class LedgerApplicationRecorder(LedgerAggregateRecorder, ApplicationRecorder):
    """Records the events of an application, and shows them in the order of the ledger, also live."""

    def insert_events(self, stored_events: Sequence[StoredEvent], **kwargs: Any) -> Sequence[int] | None:
        """As above; returns the notification ids: increasing, with gaps where others have written in between."""
        return self._link.call(lambda streams: self._insert(streams, stored_events, kwargs))

    async def append(self, stored_events: Sequence[StoredEvent], **kwargs: Any) -> Sequence[int] | None:
        """`insert_events` for code on an event loop, also the ledger's own. See `ledger.persistence.save`."""
        return await self._link.call_async(lambda streams: self._insert(streams, stored_events, kwargs))

    def select_notifications(
        self,
        start: int | None,
        limit: int,
        stop: int | None = None,
        topics: Sequence[str] = (),
        *,
        inclusive_of_start: bool = True,
    ) -> Sequence[Notification]:
        """This application's events from the id `start` (or after it) to `stop`, inclusive; at most `limit`.

        What was erased is left out: there, ids have one more gap.
        """
        mapping = self._link.mapping
        first = 0 if start is None else max(start - 1 if inclusive_of_start else start, 0)
        types = mapping.names.names_of(topics) if topics else None
        page = self._link.call(
            lambda streams: streams.page(mapping.source, start=first, stop=stop, types=types, limit=limit)
        )
        with library_errors():
            return [
                Notification(
                    originator_id=stored.originator_id,
                    originator_version=stored.originator_version,
                    topic=stored.topic,
                    state=stored.state,
                    id=index + 1,
                )
                for index, stored in ((index, mapping.from_entry(entry)) for index, entry in page)
            ]

    def max_notification_id(self) -> int | None:
        """The id of this application's last event, erased ones aside; None: there is none."""
        index = self._link.call(lambda streams: streams.last_index(self._link.mapping.source))
        return None if index is None else index + 1

    def subscribe(self, gt: int | None = None, topics: Sequence[str] = ()) -> Subscription[ApplicationRecorder]:
        """This application's events after the id `gt`: those recorded, then those being recorded, until stopped."""
        return LedgerSubscription(recorder=self, gt=gt, topics=topics)

    @property
    def listeners(self) -> set[ThreadEvent]:
        """What is in there is set after every commit."""
        with library_errors():
            return self._link.open().listeners


class LedgerSubscription(ListenNotifySubscription[LedgerApplicationRecorder]):
    """Catch-up, then live, in order and without a gap; the library's own, which holds at most eleven pages of 500."""

    def __init__(self, recorder: LedgerApplicationRecorder, gt: int | None = None, topics: Sequence[str] = ()) -> None:
        self._listeners = recorder.listeners
        super().__init__(recorder=recorder, gt=gt, topics=topics)
        self._listeners.add(self._has_been_notified)
        self._has_been_notified.set()  # for what was recorded between the first look and this

    def stop(self) -> None:
        """End the iteration, from any thread."""
        super().stop()
        self._listeners.discard(self._has_been_notified)


class LedgerTrackingRecorder(LedgerRecorder, TrackingRecorder):
    """Records how far this application has come in others: an entry for each step, in a stream for each of them."""

    def insert_tracking(self, tracking: Tracking) -> None:
        """Record that everything up to a notification was processed.

        Raises:
            IntegrityError: that, or something later, was recorded before.
        """
        self._link.call(lambda streams: self._insert(streams, [], {"tracking": tracking}))

    def max_tracking_id(self, application_name: str) -> int | None:
        """How far it has come in that application; None: nowhere."""
        stream = StreamId(self._link.mapping.tracking_source, application_name)
        return self._link.call(lambda streams: streams.last_version(stream))


class LedgerProcessRecorder(LedgerTrackingRecorder, LedgerApplicationRecorder, ProcessRecorder):
    """Records events and the tracking of what they follow from, in one append: exactly once."""
