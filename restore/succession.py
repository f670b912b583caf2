"""Under which origin a restored ledger goes on: its own only when nothing signed can be missing."""

from __future__ import annotations

import re

from ledger.core.acts import SUCCEEDED, acts_source
from ledger.core.canonical import JsonValue
from ledger.core.checkpoint import OpenedCheckpoint
from ledger.core.entry import Event
from ledger.core.merkle import CompactRange
from ledger.core.note import format_note
from ledger.errors import Conflict, Forked
from ledger.store.base import EntryStore

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
        id=f"succeeds:{checkpoint.origin}:{checkpoint.size}",
        source=acts_source(origin),
        type=SUCCEEDED,
        subject=origin,
        data=data,
    )


async def prove_continuity(old: EntryStore, restored: EntryStore, origin: str) -> int:
    """Check that `restored` holds everything that was ever signed for `origin`; returns the last signed size.

    `old` is the lost primary's entry store, found intact: the only one who knows the highest checkpoint ever signed.

    Raises:
        Conflict: it signed more than was restored; the ledger must go on under a successor origin.
        Forked: it signed another history.
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
    tree = CompactRange.empty()
    while tree.size < last.size:
        rows = await restored.rows(tree.size, min(4096, last.size - tree.size))
        tree = tree.extend([row.leaf_hash for row in rows])
    if tree.root() != last.root:
        raise Forked(
            f"{old.where} signed another history of {origin} at size {last.size}",
            hint="keep both, and ask who held the log's key",
        )
    return last.size
