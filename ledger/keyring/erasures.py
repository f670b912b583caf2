"""Erasures and legal holds as a fold of the log's own acts: who asked, who approved, which keys are gone for good.

The primary, every site's mirror and every verifier fold the same entries and come to the same answer. What is no valid
act (approved by whoever asked, held, of another subject) has no effect, wherever it came from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from ledger.core.acts import (
    ERASURE_APPROVED,
    ERASURE_CONFIRMED,
    ERASURE_REQUESTED,
    HOLD_LIFTED,
    HOLD_PLACED,
    acts_source,
    is_act,
)
from ledger.core.canonical import JsonValue
from ledger.core.entry import Entry, decode_entry
from ledger.core.event import Event
from ledger.core.sealing import PSEUDONYM
from ledger.errors import Conflict, Malformed, MalformedEntry
from ledger.store.base import EntryStore, Selection
from ledger.store.selecting import select_all

PRIMARY: Final = ""
"""Stands for the primary itself among those who confirm."""
SUBJECT_KEYS: Final = "subject-"
"""What the ids of all data keys that an erasure can take begin with."""
ERASURE_TYPES: Final = (ERASURE_REQUESTED, ERASURE_APPROVED, ERASURE_CONFIRMED, HOLD_PLACED, HOLD_LIFTED)


@dataclass(frozen=True, slots=True)
class Erasure:
    """One request to erase a subject. `subject` is its pseudonym; `approved` the index of the entry that approved it.

    `confirmed`: the sites whose own role has said that the keys are gone there, `PRIMARY` among them.
    """

    index: int
    source: str
    subject: str
    requested_by: str
    reason: str
    approved: int | None = None
    approved_by: str = ""
    keyids: tuple[str, ...] = ()
    confirmed: frozenset[str] = frozenset()

    def pending(self, sites: Sequence[str]) -> list[str]:
        """Who has not confirmed yet, of these sites and the primary."""
        return [name for name in (PRIMARY, *sites) if name not in self.confirmed]


@dataclass(frozen=True, slots=True)
class Hold:
    """A legal hold on a subject (its pseudonym), or on a whole source (None)."""

    source: str
    subject: str | None
    reason: str
    by: str


@dataclass(slots=True)
class Erasures:
    """What the acts so far come to, folded in order of their indexes with `apply`."""

    requests: dict[int, Erasure] = field(default_factory=dict)
    holds: dict[tuple[str, str | None], Hold] = field(default_factory=dict)
    erased: set[str] = field(default_factory=set)
    """Key ids that are gone, or must go, wherever they are."""

    def apply(self, index: int, entry: Entry) -> None:
        """Take in the next entry; what is no valid act about erasure is passed over."""
        event = entry.event
        if event.type not in ERASURE_TYPES or not is_act(event.source):
            return
        try:
            data = event.json_data
        except Malformed:
            return
        match event.type, data:
            case "hold.placed.v1", {"source": str(source), "subject": str() | None as subject, "reason": str(reason)}:
                self.holds[source, subject] = Hold(source, subject, reason, entry.actor)
            case "hold.lifted.v1", {"source": str(source), "subject": str() | None as subject}:
                self.holds.pop((source, subject), None)
            case "erasure.requested.v1", {"source": str(source), "subject": str(subject), "reason": str(reason)}:
                if self.held(source, subject) is None:
                    self.requests[index] = Erasure(index, source, subject, entry.actor, reason)
            case "erasure.approved.v1", {"request": int(request), "keyids": list(keyids)}:
                self._approve(index, request, keyids, entry.actor)
            case "erasure.confirmed.v1", {"request": int(request), "site": str(site)}:
                found = self.requests.get(request)
                if found is not None and found.approved is not None:
                    self.requests[request] = replace(found, confirmed=found.confirmed | {site})

    def _approve(self, index: int, request: int, keyids: Sequence[JsonValue], actor: str) -> None:
        found = self.requests.get(request)
        if found is None or found.approved is not None or self.refusal(found, actor):
            return
        names = tuple(str(keyid) for keyid in keyids)
        if all(of_subject(keyid, found.subject) for keyid in names):
            self.requests[request] = replace(found, approved=index, approved_by=actor, keyids=names)
            self.erased.update(names)

    def refusal(self, request: Erasure, actor: str) -> str:
        """Why `actor` may not approve a request now; '' when nothing stands against it."""
        if request.requested_by == actor:
            return f"{actor} asked for it, and a second person must approve"
        hold = self.held(request.source, request.subject)
        return "" if hold is None else f"a legal hold stands against it ({hold.reason}, placed by {hold.by})"

    def held(self, source: str, subject: str) -> Hold | None:
        """The hold that stands against erasing a subject."""
        return self.holds.get((source, subject)) or self.holds.get((source, None))

    def open_request(self, source: str, subject: str) -> Erasure | None:
        """The newest request for a subject that nobody has approved yet."""
        return next(
            (
                one
                for one in reversed(self.requests.values())
                if (one.source, one.subject) == (source, subject) and one.approved is None
            ),
            None,
        )

    @property
    def approved(self) -> list[Erasure]:
        """Every approved erasure, in the order of their requests."""
        return [one for one in self.requests.values() if one.approved is not None]

    @property
    def settled_size(self) -> int:
        """From this size on, no tree has an entry whose key only a later entry erases."""
        return max((one.approved + 1 for one in self.requests.values() if one.approved is not None), default=0)


def subject_key_prefix(pseudonym: str) -> str:
    """What the ids of every data key of a subject begin with, by its pseudonym."""
    return f"{SUBJECT_KEYS}{pseudonym.removeprefix(PSEUDONYM)}-"


def of_subject(keyid: str, pseudonym: str) -> bool:
    """Whether a data key is one of that subject's."""
    return pseudonym.startswith(PSEUDONYM) and keyid.startswith(subject_key_prefix(pseudonym))


async def read_erasures(entries: EntryStore) -> Erasures:
    """The erasures and holds a ledger knows of. Raises Conflict: an entry of such a type cannot be read."""
    found: list[tuple[int, Entry]] = []
    for type_ in ERASURE_TYPES:
        async for stored in select_all(entries, Selection(type=type_)):
            try:
                found.append((stored.index, decode_entry(stored.entry)))
            except MalformedEntry as error:
                raise Conflict(f"entry {stored.index} cannot be read ({error.what})") from error
    erasures = Erasures()
    for index, entry in sorted(found, key=lambda one: one[0]):
        erasures.apply(index, entry)
    return erasures


# -- the events -----------------------------------------------------------------------------------------------------


def requested(origin: str, source: str, subject: str, reason: str, *, at: int) -> Event:
    """The event that asks for a subject to be erased; `at` (the size of the log) tells one request from the next."""
    data: dict[str, JsonValue] = {"source": source, "subject": subject, "reason": reason}
    return _act(origin, ERASURE_REQUESTED, f"erasure-requested:{subject}:{at}", subject, data)


def approved(origin: str, request: Erasure, keyids: Sequence[str]) -> Event:
    """The event that approves it and names the keys that go."""
    data: dict[str, JsonValue] = {"request": request.index, "keyids": list(keyids)}
    return _act(origin, ERASURE_APPROVED, f"erasure-approved:{request.index}", request.subject, data)


def confirmed(origin: str, erasure: Erasure, site: str, statement: str) -> Event:
    """The event that records a site's own statement (a signed note; '' for the primary) that the keys are gone."""
    data: dict[str, JsonValue] = {"request": erasure.index, "site": site, "statement": statement}
    return _act(origin, ERASURE_CONFIRMED, f"erasure-confirmed:{erasure.index}:{site}", erasure.subject, data)


def hold_event(origin: str, source: str, subject: str | None, reason: str, *, lift: bool, at: int) -> Event:
    """The event that places or lifts a hold."""
    data: dict[str, JsonValue] = {"source": source, "subject": subject, "reason": reason}
    kind = HOLD_LIFTED if lift else HOLD_PLACED
    return _act(origin, kind, f"{kind}:{subject or 'source'}:{at}", subject, data)


def _act(origin: str, type_: str, id_: str, subject: str | None, data: dict[str, JsonValue]) -> Event:
    return Event.of_json(data, id=id_, source=acts_source(origin), type=type_, subject=subject)
