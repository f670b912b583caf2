"""Rebuilds an entry store from a site's copy: verified before it is written, resumable, in bounded memory."""

from __future__ import annotations

from collections.abc import Sequence

from ledger.core.entry import decode_entry
from ledger.core.merkle import CompactRange
from ledger.errors import Conflict, DuplicateKeys, Forked, MalformedEntry, Tampered
from ledger.sequencer import row_of
from ledger.store.base import EntryStore, Row
from ledger.tasks import Report
from ledger.verify import verify_growth
from restore.fetch import SiteCopy
from restore.succession import holds_succession

COMMIT_ENTRIES = 4_096
COMMIT_BYTES = 16 * 1024 * 1024
"""A commit holds fewer of either, and one bundle (at most 16 MiB) more."""


async def rebuild(copy: SiteCopy, store: EntryStore, *, report: Report | None = None) -> int:
    """Bring `store` up to the copy's checkpoint; returns the size. A store that holds a part is carried on from.

    What is written has been proven against the checkpoint: count, order and bytes.

    Raises:
        Tampered: an object is missing or wrong; `key` names it. What was written before it is genuine.
        Conflict: the store holds something else.
        StoreUnavailable, DiskFull: site or store failed; running it again carries on.
    """
    writer = _Writer(copy, store)
    await writer.start()
    head = writer.tree
    if head.size > copy.checkpoint.size and await holds_succession(store, copy.checkpoint):
        return copy.checkpoint.size  # an interrupted restore had come further than this
    try:
        tree = await verify_growth(
            copy.objects, (head.size, head.root()), copy.checkpoint, on_bundle=writer.take, report=report
        )
    except Forked as error:
        raise Conflict(
            f"{store.where} holds {head.size} entries that are not the beginning of this copy",
            hint="restore into a new directory",
        ) from error
    await writer.flush()
    assert writer.tree == tree, "what was written is what was verified"
    return tree.size


class _Writer:
    """Collects verified entries into commits."""

    def __init__(self, copy: SiteCopy, store: EntryStore) -> None:
        self._copy = copy
        self._store = store
        self._rows: list[Row] = []
        self._bytes = 0
        self._epoch = 0
        self.tree = CompactRange.empty()

    async def start(self) -> None:
        self._epoch = await self._store.claim()
        head = await self._store.head()
        self.tree = CompactRange(head.size, head.frontier)

    async def take(self, start: int, entries: Sequence[bytes]) -> None:
        for index, data in enumerate(entries, start):
            try:
                self._rows.append(row_of(decode_entry(data), data))
            except MalformedEntry as error:
                raise Tampered(
                    f"entry {index} in {self._copy.objects.where} is signed for, but is no entry ({error.what})",
                    key=f"entry {index}",
                    hint="the log was written by something else than jinshi; keep this copy as evidence",
                ) from error
        self._bytes += sum(map(len, entries))
        if len(self._rows) >= COMMIT_ENTRIES or self._bytes >= COMMIT_BYTES:
            await self.flush()

    async def flush(self) -> None:
        """Commit what is collected. Commit point: an interrupted restore carries on from the last commit."""
        if not self._rows:
            return
        tree = self.tree.extend([row.leaf_hash for row in self._rows])
        try:
            await self._store.commit(
                self._rows, expected_size=self.tree.size, frontier=tree.frontier, epoch=self._epoch
            )
        except DuplicateKeys as error:
            raise Tampered(
                f"entries {self.tree.size} to {tree.size - 1} in {self._copy.objects.where} repeat an id or a version",
                hint="the log was written by something else than jinshi; keep this copy as evidence",
            ) from error
        self.tree = tree
        self._rows, self._bytes = [], 0
