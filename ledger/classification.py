"""What a ledger is classified as: a fold of what it was created with and of every `ledger.classified.v1` since.

What the labels mean, and which sites may hold which, is in ledger/core/classification.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ledger.core.acts import CREATED, acts_source, is_act
from ledger.core.canonical import JsonValue
from ledger.core.classification import DEFAULT, Label, Network, ledger_label, why_not_at
from ledger.core.entry import Entry, decode_entry
from ledger.core.event import Event
from ledger.errors import InvalidRequest, Malformed, Tampered
from ledger.store.base import EntryStore, Selection
from ledger.store.selecting import select_all

CLASSIFIED: Final = "ledger.classified.v1"
REASON_LENGTH_MAX: Final = 500
_MARKS: Final = tuple(f'"type":"{type_}"'.encode() for type_ in (CREATED, CLASSIFIED))


class NotPermitted(InvalidRequest):
    """A ledger is more sensitive than a site may hold; nothing was shipped, or cosigned."""


def check_permitted(ledger: Label, site: Label, network: Network, *, where: str) -> None:
    """Whether a site (`where`, for people) may hold a ledger. Raises NotPermitted, with the reason."""
    why = why_not_at(ledger, site, network)
    if why:
        raise NotPermitted(
            f"{where} may not hold this ledger: {why}", hint="use a site that may: docs/mutual-backup.md has the table"
        )


class Classification:
    """What the entries taken so far classify their ledger as; folded in index order."""

    def __init__(self, label: Label = DEFAULT) -> None:
        self.label = label

    async def take(self, start: int, entries: Sequence[bytes]) -> None:
        """Look at verified entries, `start` being the index of the first. Raises Tampered: one cannot be read."""
        for index, data in enumerate(entries, start):
            if not any(mark in data for mark in _MARKS):  # told apart without being parsed
                continue
            try:
                self.apply(index, decode_entry(data))
            except Malformed as error:
                raise Tampered(
                    f"entry {index} is about the ledger's classification, but is damaged: {error.what}",
                    key=f"entry {index}",
                    hint="the log was written by something else than jinshi; keep this copy as evidence",
                ) from error

    def apply(self, index: int, entry: Entry) -> None:
        """Take in one entry; what classifies nothing is passed over."""
        event = entry.event
        if not is_act(event.source) or not (event.type == CLASSIFIED or (event.type == CREATED and index == 0)):
            return
        try:
            data = event.json_data
        except Malformed:
            return
        match data:
            case {"classification": str(label)}:
                self.label = ledger_label(label)


async def read_label(entries: EntryStore) -> Label:
    """What a ledger is classified as, by what is recorded."""
    return await Labelled(entries).label()


class Labelled:
    """What a ledger is classified as, again and again: only what was recorded since is looked through."""

    def __init__(self, entries: EntryStore) -> None:
        self._entries = entries
        self._found = Classification()
        self._size = 0

    async def label(self) -> Label:
        """As of what is recorded now."""
        size = (await self._entries.head()).size
        if self._size == 0 and size:
            for first in await self._entries.read(0, 1):
                self._found.apply(0, decode_entry(first.entry))
        async for stored in select_all(self._entries, Selection(type=CLASSIFIED, start=self._size, stop=size)):
            self._found.apply(stored.index, decode_entry(stored.entry))
        self._size = max(self._size, size)
        return self._found.label


def classified(origin: str, label: Label, reason: str, *, at: int) -> Event:
    """`ledger.classified.v1` (docs/formats.md, section 6); `at` (the size of the log) tells one from the next."""
    data: dict[str, JsonValue] = {"classification": label.value, "reason": reason}
    return Event.of_json(data, id=f"classified:{at}", source=acts_source(origin), type=CLASSIFIED, subject=origin)
