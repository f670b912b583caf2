"""Audits the ledger on its primary: what the store holds against what was published and signed. Nothing here writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ledger.content.released import read_released
from ledger.core.checkpoint import CHECKPOINT, Checkpoint, parse_checkpoint
from ledger.core.cosignature import verify_log_signature
from ledger.core.entry import decode_entry
from ledger.core.manifest import CONTENT
from ledger.core.merkle import CompactRange
from ledger.core.note import VerifierKey
from ledger.errors import MalformedEntry, MalformedNote, ObjectMissing, Tampered, Unavailable, Untrusted
from ledger.sequencer import row_of
from ledger.store.base import EntryStore, ObjectStore, Row
from ledger.tasks import Report
from ledger.verify import verify_copy

PAGE_ROWS = 2_000


@dataclass(frozen=True, slots=True)
class Audited:
    """What an audit found to hold: `published` entries under a signed checkpoint, `size` committed in all."""

    size: int
    published: int
    root: bytes


async def audit_ledger(
    store: EntryStore, published: ObjectStore, log: VerifierKey, *, report: Report | None = None
) -> Audited:
    """Check everything a primary holds: entries, their index, the tree, the published tiles and the checkpoint.

    Raises:
        Tampered: something is not what was signed or committed; names it.
        Unavailable: content was released, and perhaps collected, meanwhile.
        StoreUnavailable: a store cannot be read.
    """
    checkpoint = await _checkpoint(store, published, log)
    tree = CompactRange.empty()

    async def compare(start: int, entries: Sequence[bytes]) -> None:
        nonlocal tree
        rows = await store.rows(start, len(entries))
        if [row.entry for row in rows] != list(entries):
            index = next(
                (at for at, (row, entry) in enumerate(zip(rows, entries, strict=False), start) if row.entry != entry),
                start + len(rows),
            )
            raise _wrong(store, index, "it is not the entry that was published and signed")
        tree = _extend(store, tree, rows)

    if checkpoint.size:
        try:
            await verify_copy(published, checkpoint, on_bundle=compare, report=report)
        except Tampered as error:
            if error.key.startswith(CONTENT) and (await read_released(store)).settled_size() > checkpoint.size:
                raise Unavailable(
                    f"content was released while {published.where} was verified: {error.what}", hint="run it again"
                ) from error
            raise
    head = await store.head()
    while tree.size < head.size:
        rows = await store.rows(tree.size, min(PAGE_ROWS, head.size - tree.size))
        if not rows:
            raise _wrong(store, tree.size, "it is missing")
        tree = _extend(store, tree, rows)
    if tree.frontier != head.frontier:
        raise Tampered(
            f"{store.where}: the entries after {checkpoint.size} do not hash to the tree they were committed to",
            hint="restore the ledger from a site",
        )
    return Audited(head.size, checkpoint.size, checkpoint.root)


async def _checkpoint(store: EntryStore, published: ObjectStore, log: VerifierKey) -> Checkpoint:
    """The published checkpoint: signed by the log, and the last one the store recorded."""
    try:
        opened = parse_checkpoint((await published.get(CHECKPOINT)).data)
        signed = verify_log_signature(opened, log) and opened.checkpoint.origin == log.name
    except ObjectMissing as error:
        raise Tampered(
            f"{published.where}/{CHECKPOINT} is missing", key=CHECKPOINT, hint="any append publishes it again"
        ) from error
    except (MalformedNote, Untrusted) as error:
        raise Tampered(f"{published.where}/{CHECKPOINT}: {error.what}", key=CHECKPOINT, hint=error.hint) from error
    if not signed:
        raise Tampered(f"{published.where}/{CHECKPOINT} is not signed by {log.name}", key=CHECKPOINT)
    last = await store.last_checkpoint(log.name)
    if last is None or (last.size, last.root) != (opened.checkpoint.size, opened.checkpoint.root):
        known = "none" if last is None else str(last.size)
        raise Tampered(
            f"{published.where}/{CHECKPOINT} is of size {opened.checkpoint.size}; the last one recorded is {known}",
            key=CHECKPOINT,
            hint="the next append finishes one that was interrupted; if this stays, look who was there",
        )
    return opened.checkpoint


def _extend(store: EntryStore, tree: CompactRange, rows: Sequence[Row]) -> CompactRange:
    for index, row in enumerate(rows, tree.size):
        try:
            expected = row_of(decode_entry(row.entry), row.entry)
        except MalformedEntry as error:
            raise _wrong(store, index, f"it is no entry ({error.what})") from error
        if row != expected:
            raise _wrong(store, index, "what it is found by is not what it says")
    return tree.extend([row.leaf_hash for row in rows])


def _wrong(store: EntryStore, index: int, what: str) -> Tampered:
    return Tampered(
        f"{store.where}: entry {index} was changed: {what}", key=f"entry {index}", hint="restore the ledger from a site"
    )
