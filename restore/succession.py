"""Under which origin a restored ledger goes on: its own only when nothing signed can be missing."""

from __future__ import annotations

import re

from ledger.core.acts import SUCCEEDED, acts_source
from ledger.core.canonical import JsonValue
from ledger.core.checkpoint import Checkpoint, OpenedCheckpoint
from ledger.core.entry import decode_entry
from ledger.core.event import Event
from ledger.core.merkle import CompactRange, leaf_hash
from ledger.core.note import format_note
from ledger.errors import Conflict, Forked, Tampered
from ledger.store.base import EntryStore

PAGE_ENTRIES = 1_000
_NUMBERED = re.compile(r"(.+)/([1-9][0-9]{0,8})")


def successor_origin(origin: str) -> str:
    """`<origin>/2`, then `/3`, ..."""
    match = _NUMBERED.fullmatch(origin)
    return f"{match[1]}/{int(match[2]) + 1}" if match else f"{origin}/2"


def succeeded(origin: str, predecessor: OpenedCheckpoint, reason: str, extra: dict[str, JsonValue]) -> Event:
    """The event that names the predecessor: the first one after the restored entries.

    `extra` says who the successor is (vkey, policy).
    """
    checkpoint = predecessor.checkpoint
    data: dict[str, JsonValue] = {
        "origin": origin,
        "predecessor": checkpoint.origin,
        "size": checkpoint.size,
        "checkpoint": format_note(predecessor.note).decode(),
        "reason": reason,
        **extra,
    }
    return Event.of_json(
        id=_event_id(checkpoint),
        source=acts_source(origin),
        type=SUCCEEDED,
        subject=origin,
        data=data,
    )


async def holds_succession(store: EntryStore, predecessor: Checkpoint) -> bool:
    """Whether `store` is the tree of `predecessor` and, right behind it, the event that names it as such.

    So does a restore that was interrupted after it recorded that. Raises Tampered: entries are missing.
    """
    size = predecessor.size
    if (await store.head()).size != size + 1:
        return False
    (stored,) = await store.read(size, 1)
    event = decode_entry(stored.entry).event
    if event.type != SUCCEEDED or event.id != _event_id(predecessor):
        return False
    return await root_at(store, size) == predecessor.root


async def root_at(store: EntryStore, size: int) -> bytes:
    """The root of a store's first `size` entries, from their bytes. Raises Tampered: one is missing."""
    tree = CompactRange.empty()
    while tree.size < size:
        page = await store.read(tree.size, min(PAGE_ENTRIES, size - tree.size))
        if not page:
            raise Tampered(f"{store.where}: entry {tree.size} is missing", hint="run jinshi verify on it")
        tree = tree.extend([leaf_hash(stored.entry) for stored in page])
    return tree.root()


def _event_id(predecessor: Checkpoint) -> str:
    return f"succeeds:{predecessor.origin}:{predecessor.size}"


async def prove_continuity(old: EntryStore, restored: EntryStore, origin: str) -> int:
    """Check that `restored` holds everything that was ever signed for `origin`; returns the last signed size.

    `old` is the lost primary's entry store, found intact: the only one who knows the highest checkpoint ever signed.
    One that has signed less than was restored is an older copy of itself, and knows nothing.

    Raises:
        Conflict: it signed or recorded more than was restored, or less; the ledger must go on under a successor origin.
        Forked: it signed another history.
        Tampered: the restored store lacks entries it says to have.
    """
    last = await old.last_checkpoint(origin)
    if last is None:
        raise Conflict(f"{old.where} never signed a checkpoint of {origin}", hint="name the old ledger's directory")
    size = (await restored.head()).size
    if last.size > size:
        raise Conflict(
            f"{old.where} signed {last.size} entries of {origin}, the copy holds {size}",
            hint="restore from a newer copy, or leave out --continue-from and go on under a successor origin",
        )
    if last.size < size:
        raise Conflict(
            f"{old.where} is an older copy: it signed {last.size} entries of {origin}, the site's copy holds {size}",
            hint="name the newest directory of the old ledger, or leave out --continue-from",
        )
    recorded = (await old.head()).size
    if recorded > size:
        raise Conflict(
            f"{old.where} has recorded {recorded - size} entries that are not in the copy",
            hint="replicate the old ledger first, or leave out --continue-from and take them in as its predecessor's",
        )
    if await root_at(restored, size) != last.root:
        raise Forked(
            f"{old.where} signed another history of {origin} at size {last.size}",
            hint="keep both, and ask who held the log's key",
        )
    return last.size
