"""The seam between the library's stored events and the ledger's: one function there, one back. Pure.

Whatever happens to an application's data on its way into the log or out of it happens in these two.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote
from uuid import UUID

from eventsourcing.persistence import StoredEvent, Tracking

from ledger.core.canonical import canonicalize, is_canonical
from ledger.core.entry import Entry
from ledger.core.event import Event, Extension
from ledger.errors import InvalidRequest, MalformedEntry
from ledger.persistence.names import EventNames

VERSION: Final = "originatorversion"
TRACKED_APPLICATION: Final = "trackedapplication"
TRACKED_ID: Final = "trackedid"
TRACKING_MOVED: Final = "tracking.moved.v1"
OCTETS: Final = "application/octet-stream"

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def source_of(application: str) -> str:
    """The source of an application's events: `urn:jinshi:app:<name>`, percent-encoded."""
    return f"urn:jinshi:app:{quote(application or 'default', safe='')}"


@dataclass(frozen=True, slots=True)
class EventMapping:
    """How one recorder's stored events stand in the ledger.

    `source` is theirs alone. `uuids`: originator ids that read as UUIDs are UUIDs (the library's ORIGINATOR_ID_TYPE).
    `json`: whoever made the states, they are JSON, and are not looked at to find that out.
    """

    source: str
    names: EventNames
    uuids: bool = True
    json: bool = False

    def to_event(self, stored: StoredEvent, *, time: str, extensions: Mapping[str, Extension]) -> Event:
        """A stored event as the event that records it.

        Its id is `<originator id>/<version>`, so that no position of an aggregate is ever recorded twice. `time`
        differs from one insert to the next: the same event inserted again is a conflict, whereas the recorder's own
        repetition of a commit of unknown outcome, with the time of the first attempt, is answered with its place.

        Raises:
            InvalidRequest: the topic is the path of a class and has no frozen name.
        """
        subject = str(stored.originator_id)
        return Event(
            id=f"{subject}/{stored.originator_version}",
            source=self.source,
            type=self.names.name_of(stored.topic),
            subject=subject,
            time=time,
            datacontenttype=None if self.json or _is_json(stored.state) else OCTETS,
            data=stored.state,
            extensions={**extensions, VERSION: stored.originator_version},
        )

    def from_entry(self, entry: Entry) -> StoredEvent:
        """The inverse of `to_event`.

        Raises:
            MalformedEntry: the entry was not recorded by it.
            InvalidRequest: it was not opened; ciphertext is never handed over as an application's data.
        """
        event = entry.event
        if event.keyid is not None:
            raise InvalidRequest(
                f"event {event.id!r} of {event.source} is sealed, and was not opened", hint="open it with its data key"
            )
        subject = event.subject
        if subject is None or event.data is None:
            raise MalformedEntry(f"event {event.id!r} of {event.source} was not recorded by an application")
        return StoredEvent(
            originator_id=UUID(subject) if self.uuids and _UUID.fullmatch(subject) else subject,
            originator_version=version_of(entry),
            topic=self.names.topic_of(event.type),
            state=event.data,
        )

    @property
    def tracking_source(self) -> str:
        """Where this recorder keeps how far it has come in other applications: a stream for each of them."""
        return f"{self.source}:tracking"

    def tracking_event(self, tracking: Tracking, *, time: str) -> Event:
        """The event that says how far this recorder has come; the position is its version in the stream."""
        upstream, position = tracking.application_name, tracking.notification_id
        return Event(
            id=f"{upstream}/{position}",
            source=self.tracking_source,
            type=TRACKING_MOVED,
            subject=upstream,
            time=time,
            data=canonicalize({"application": upstream, "notification": position}),
            extensions={VERSION: position},
        )


def version_of(entry: Entry) -> int:
    """The library's version of an event in its aggregate. Raises MalformedEntry: it has none."""
    version = entry.event.extensions.get(VERSION)
    if not isinstance(version, int) or isinstance(version, bool):
        raise MalformedEntry(f"event {entry.event.id!r} of {entry.event.source} has no {VERSION}")
    return version


def _is_json(state: bytes) -> bool:
    if is_canonical(state):  # as our transcoder writes it; the general answer takes longer
        return True
    try:
        json.loads(state)
    except (ValueError, RecursionError):
        return False
    return True
