"""What a lost primary that turned up again had beyond its successor: listed, kept as evidence, recorded."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from ledger.core.acts import FOUND, SUCCEEDED, acts_source
from ledger.core.entry import decode_entry
from ledger.core.event import Event
from ledger.errors import Conflict, Forked, InvalidRequest
from ledger.reader import Reader
from ledger.store.base import EntryStore, Selection, StoredEntry
from restore.succession import root_at

PAGE_ENTRIES: Final = 1_000


@dataclass(frozen=True, slots=True)
class Succession:
    """What a ledger says about its own succession: whom it succeeded, and at which size."""

    origin: str
    predecessor: str
    size: int


@dataclass(frozen=True, slots=True)
class Leftover:
    """What the predecessor holds from `start` on; `sha256` is over its entries in order, as they are kept."""

    predecessor: str
    start: int
    size: int
    sha256: str

    @property
    def count(self) -> int:
        """How many entries the successor lacks."""
        return self.size - self.start


async def last_succession(reader: Reader) -> Succession:
    """Whom this ledger succeeded last. Raises InvalidRequest: it is nobody's successor."""
    found = await reader.select(Selection(type=SUCCEEDED, newest_first=True), limit=1)
    data = decode_entry(found[0].entry).event.json_data if found else None
    match data:
        case {"origin": str(origin), "predecessor": str(predecessor), "size": int(size)}:
            return Succession(origin, predecessor, size)
    raise InvalidRequest("this ledger succeeded no other", hint="name the restored ledger with --ledger")


async def leftover(old: EntryStore, new: EntryStore, succession: Succession) -> Leftover:
    """What `old` has beyond the size it was succeeded at.

    Raises:
        Forked: `old` is not what was restored: its beginning differs.
        Conflict: it is shorter than what was restored, so it is not the predecessor at its end.
        Tampered: one of the two lacks entries it says to have.
    """
    size = (await old.head()).size
    if size < succession.size:
        raise Conflict(
            f"{old.where} holds {size} entries; {succession.predecessor} was succeeded at {succession.size}",
            hint="this is an older copy of the predecessor; look for the one that was lost",
        )
    if await root_at(old, succession.size) != await root_at(new, succession.size):
        raise Forked(
            f"{old.where} holds another history of {succession.predecessor} than was restored",
            hint="keep both, and ask who held the log's key",
        )
    digest = hashlib.sha256()
    async for stored in beyond(old, succession.size):
        digest.update(len(stored.entry).to_bytes(2, "big") + stored.entry)
    return Leftover(succession.predecessor, succession.size, size, digest.hexdigest())


async def beyond(old: EntryStore, start: int) -> AsyncIterator[StoredEntry]:
    """The predecessor's entries from `start` on."""
    while page := await old.read(start, PAGE_ENTRIES):
        for stored in page:
            yield stored
        start += len(page)


def found_event(succession: Succession, left: Leftover, evidence: str) -> Event:
    """The event that records it. `evidence` says where the entries are kept."""
    return Event.of_json(
        id=f"predecessor-found:{left.predecessor}:{left.start}:{left.sha256}",
        source=acts_source(succession.origin),
        type=FOUND,
        subject=left.predecessor,
        data={
            "predecessor": left.predecessor,
            "start": left.start,
            "size": left.size,
            "count": left.count,
            "sha256": left.sha256,
            "evidence": evidence,
        },
    )
