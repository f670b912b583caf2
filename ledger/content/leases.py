"""Who captures, and which packs are condemned: what keeps a collection from racing a capture (docs/adr/0017).

Leases are held in memory by the process that appends: a capture whose process is gone, or which another writer has
fenced, can never refer to anything any more. What is condemned is an object of the store, as it outlives processes.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from ledger.core.acts import CONTENT_COLLECTING, acts_source
from ledger.core.canonical import JsonValue, canonicalize, parse_canonical
from ledger.core.event import Event
from ledger.errors import Fenced, Malformed, ObjectMissing, Tampered
from ledger.store.base import ObjectStore, Tag

CONDEMNED: Final = "content/condemned"
CONDEMNED_MAX: Final = 4_096
"""How many packs one collection condemns; the next one goes on."""

NUMBER_BITS: Final = 62

_UNKNOWN = -1


@dataclass(frozen=True, slots=True)
class Condemned:
    """What collection number `collection` condemns, and what the last one removed."""

    collection: int = 0
    packs: frozenset[bytes] = frozenset()
    removed: frozenset[bytes] = frozenset()


def format_condemned(condemned: Condemned) -> bytes:
    """Canonical JSON."""
    return canonicalize(
        {
            "collection": condemned.collection,
            "condemned": [*sorted(pack.hex() for pack in condemned.packs)],
            "format": 1,
            "removed": [*sorted(pack.hex() for pack in condemned.removed)],
        }
    )


def parse_condemned(data: bytes) -> Condemned:
    """The inverse of `format_condemned`, and of nothing else. Raises Malformed."""
    match parse_canonical(data):
        case {"collection": int(number), "condemned": list(packs), "format": 1, "removed": list(removed)}:
            try:
                found = Condemned(number, _digests(packs), _digests(removed))
            except ValueError:
                pass
            else:
                if number > 0 and format_condemned(found) == data:
                    return found
    raise Malformed("what should say which packs are condemned does not", hint="use a newer jinshi")


def _digests(names: Sequence[object]) -> frozenset[bytes]:
    if len(names) > CONDEMNED_MAX or not all(isinstance(name, str) and len(name) == 64 for name in names):
        raise ValueError("these are no digests")
    return frozenset(bytes.fromhex(str(name)) for name in names)


def collecting(origin: str, condemned: Condemned, nonce: str) -> Event:
    """What a collection records before it goes on: it comes after whatever was handed to the sequencer before."""
    data: dict[str, JsonValue] = {"format": 1, "collection": condemned.collection, "condemned": len(condemned.packs)}
    id_ = f"content-collecting:{condemned.collection}:{nonce}"
    return Event.of_json(data, id=id_, source=acts_source(origin), type=CONTENT_COLLECTING)


async def read_condemned(objects: ObjectStore) -> tuple[Condemned, Tag | None]:
    """What is condemned, and the tag to swap against. Raises Tampered: it cannot be told."""
    try:
        stored = await objects.get(CONDEMNED)
        return parse_condemned(stored.data), stored.tag
    except ObjectMissing:
        return Condemned(), None
    except Malformed as error:
        raise Tampered(f"{objects.where}/{CONDEMNED}: {error.what}", key=CONDEMNED, hint=error.hint) from error


@dataclass(eq=False, slots=True)
class Lease:
    """The right to refer to packs, from before the first of them is looked for until the last entry is acknowledged."""

    number: int = 0
    """What another process names it by; no other process, and no other lease, has the same."""
    collection: int = _UNKNOWN
    excluded: frozenset[bytes] = field(default=frozenset(), repr=False)
    """Packs that it must never find a chunk in."""
    ended: bool = False

    def check(self) -> None:
        """To be called right before an entry with a dataref is handed to the sequencer. Raises Fenced."""
        if self.ended:
            raise _ended()


def _ended() -> Fenced:
    return Fenced("this capture's lease on the content store has ended", hint="start it again: it goes on")


class Leasing(Protocol):
    """Gives out leases: the process that appends (`Leases`), or what leads to it from another one."""

    making: asyncio.Lock
    """Held while the content secret is looked for, or made."""

    async def begin(self) -> Lease:
        """As `Leases.begin`."""
        ...

    def end(self, lease: Lease) -> None:
        """As `Leases.end`."""
        ...


class Leases:
    """Of one process that appends to one ledger."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects
        self._held: dict[int, Lease] = {}
        self.making = asyncio.Lock()
        self._ended = asyncio.Event()

    async def begin(self) -> Lease:
        """A lease; end it with `end`, whatever becomes of the capture."""
        number = secrets.randbits(NUMBER_BITS)
        # Before the object is read: a collection that condemns in between waits for it.
        lease = self._held[number] = Lease(number)
        try:
            condemned, _ = await read_condemned(self._objects)
        except BaseException:
            self.end(lease)
            raise
        lease.collection = condemned.collection
        lease.excluded = condemned.packs | condemned.removed
        return lease

    def end(self, lease: Lease) -> None:
        """No entry will be handed to the sequencer under it any more."""
        lease.ended = True
        self._held.pop(lease.number, None)
        self._ended.set()

    def find(self, number: int) -> Lease:
        """The lease of that number. Raises Fenced: it has ended, or is another process's."""
        lease = self._held.get(number)
        if lease is None:
            raise _ended()
        return lease

    def older_than(self, collection: int) -> int:
        """How many leases began before that collection condemned anything."""
        return sum(lease.collection < collection for lease in self._held.values())

    async def wait_for_older(self, collection: int) -> None:
        """Until all of them have ended."""
        while self.older_than(collection):
            self._ended.clear()
            await self._ended.wait()
