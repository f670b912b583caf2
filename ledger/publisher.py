"""Tiles and signed checkpoints out of what is committed, into one object store. Nothing is committed here."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress

from ledger.core.checkpoint import (
    CHECKPOINT,
    STEP_ENTRIES,
    Checkpoint,
    OpenedCheckpoint,
    parse_checkpoint,
    step_key,
    step_sizes,
)
from ledger.core.merkle import CompactRange, leaf_hash
from ledger.core.note import Note, NoteSignature, VerifierKey, format_note, parse_vkey, verify_signature
from ledger.core.tiles import TILE_WIDTH, Tile, completed_partials, decode_tile
from ledger.core.tiling import TileData, Tiler, frontier_of
from ledger.errors import (
    Fenced,
    Forked,
    ImmutableConflict,
    Malformed,
    MalformedTile,
    ObjectMissing,
    RolledBack,
    Tampered,
)
from ledger.protocols import Signer
from ledger.store.base import EntryStore, Head, ObjectStore, SignedCheckpoint, Tag
from ledger.tasks import Report, run_bounded

READ_ENTRIES = 4 * TILE_WIDTH
STEPS_REMEMBERED = 256


def sign_checkpoint(checkpoint: Checkpoint, signer: Signer) -> bytes:
    """The checkpoint as a signed note with the log's signature (C2SP tlog-checkpoint). Raises Unavailable."""
    key = parse_vkey(signer.vkey)
    signature = NoteSignature(key.name, key.key_id, signer.sign(checkpoint.text))
    return format_note(Note(checkpoint.text, (signature,)))


class Publisher:
    """Publishes one origin's log into `objects` (already prefixed to the origin).

    `publish` is start-up, tick and recovery in one: whatever an earlier run left undone is done first. One publisher
    per epoch; a fenced one fails in `record_checkpoint`, before anybody can see what it signed. Whoever calls while
    another call is at work waits for it, and then publishes what was committed since.
    """

    def __init__(
        self, store: EntryStore, objects: ObjectStore, signer: Signer, origin: str, *, epoch: int, parallel: int = 16
    ) -> None:
        self._store = store
        self._objects = objects
        self._signer = signer
        self._key: VerifierKey = parse_vkey(signer.vkey)
        self._origin = origin
        self._epoch = epoch
        self._parallel = parallel
        self._publishing = asyncio.Lock()
        self._tiler: Tiler | None = None  # the right edge at the last published size
        self.steps: deque[OpenedCheckpoint] = deque(maxlen=STEPS_REMEMBERED)
        """The last that were signed on the way to a published checkpoint, for copies to catch up by."""

    async def publish(self, report: Report | None = None) -> SignedCheckpoint:
        """Bring the published tiles and checkpoint up to what is committed; return the checkpoint shown.

        Raises:
            Forked: what is shown is not the last checkpoint signed; nothing is signed.
            RolledBack: the store is older than what it has published.
            Tampered: the store's entries, or the published tiles, are not what the tree was built from.
            Fenced, CompareFailed: another writer has taken over.
            StoreUnavailable, Unavailable: a store or the signer failed; publishing again carries on.
        """
        async with self._publishing:
            try:
                return await self._publish(report)
            except Tampered as error:
                self._tiler = None
                epoch = (await self._store.head()).epoch
                if epoch != self._epoch:  # what looked wrong is what the writer that took over was doing just then
                    what = f"epoch {epoch} writes {self._store.where} now; this writer's is {self._epoch}"
                    raise Fenced(what) from error
                raise
            except BaseException:
                self._tiler = None  # read back what is really published next time
                raise

    async def _publish(self, report: Report | None) -> SignedCheckpoint:
        last = await self._store.last_checkpoint(self._origin)
        shown, tag = await self._shown()
        if last is not None and (shown is None or shown.checkpoint.size < last.size):
            # Its tiles were durable before it was recorded: only showing it was left undone.
            tag = await self._objects.replace(CHECKPOINT, last.note, expected=tag)
            self._tiler = None
        elif last is None and shown is not None:
            raise Tampered(
                f"{self._objects.where} shows a checkpoint of {self._origin}, but the store has none recorded",
                key=CHECKPOINT,
                hint="the store is not the one this was published from; restore instead",
            )
        elif last is not None and shown is not None and shown.checkpoint.size > last.size:
            raise RolledBack(
                f"{self._store.where} ends at size {last.size}, but size {shown.checkpoint.size} has been published",
                key=CHECKPOINT,
                hint="the store is an older copy; put the newest one back, or restore from a site",
            )
        elif last is not None and shown is not None and shown.checkpoint.text != _text(last):
            raise Forked(
                f"{self._objects.where}/{CHECKPOINT} is not the last checkpoint this ledger signed (size {last.size})",
                key=CHECKPOINT,
                hint="keep both, and ask who held the log's key",
            )
        head = await self._store.head()
        if last is not None and head.size == last.size:
            return last
        previous = 0 if last is None else last.size
        tiler = self._tiler or await self._load(last)
        tree, steps = await self._write_growth(tiler, head, report)
        signed = self._sign(tree, head)
        # Commit point: a crash after this line is finished by the next publish, which shows what is recorded.
        await self._store.record_checkpoint(
            signed, expected_size=None if last is None else last.size, epoch=self._epoch
        )
        await self._keep_steps(steps)
        await self._objects.replace(CHECKPOINT, signed.note, expected=tag)
        self._tiler = tiler
        await self._drop_partials(previous, head.size)
        return signed

    async def _shown(self) -> tuple[OpenedCheckpoint | None, Tag | None]:
        try:
            stored = await self._objects.get(CHECKPOINT)
        except ObjectMissing:
            return None, None
        try:
            opened = parse_checkpoint(stored.data)
        except Malformed as error:
            raise Tampered(
                f"{self._objects.where}/{CHECKPOINT} is damaged: {error.what}",
                key=CHECKPOINT,
                hint="move it aside: the next publish shows what the store has recorded",
            ) from error
        if opened.checkpoint.origin != self._origin or not verify_signature(opened.note, self._key):
            raise Tampered(
                f"{self._objects.where}/{CHECKPOINT} is not signed by {self._origin}",
                key=CHECKPOINT,
                hint="run jinshi verify and look at who can write there",
            )
        return opened, stored.tag

    async def _load(self, last: SignedCheckpoint | None) -> Tiler:
        """The right edge at the last signed size, from the published tiles, proven against its root."""
        if last is None:
            return Tiler(0, [], [])
        size = last.size
        edges: list[list[bytes]] = []
        level = 0
        while size >> (8 * level):
            width = (size >> (8 * level)) % TILE_WIDTH
            tile = Tile(level, size >> (8 * (level + 1)), width)
            edges.append(await self._read(tile) if width else [])
            level += 1
        tree = CompactRange(size, frontier_of(edges))
        if tree.root() != last.root:
            raise Tampered(
                f"{self._objects.where}: the tiles at the right edge do not hash to the root signed at size {size}",
                hint="run jinshi verify to find which, or restore from a site",
            )
        first = size - size % TILE_WIDTH
        rest = [stored.entry for stored in await self._store.read(first, size - first)] if first < size else []
        signed_for = edges[0] if edges else []
        if [leaf_hash(entry) for entry in rest] != signed_for:  # they go into the next bundle once more
            raise Tampered(
                f"{self._store.where}: entries {first} to {size - 1} are not those that were signed for",
                hint="nothing was signed; restore from a site",
            )
        return Tiler(size, edges, rest)

    async def _read(self, tile: Tile) -> list[bytes]:
        try:
            return decode_tile((await self._objects.get(tile.path)).data, tile.width)
        except MalformedTile as error:
            raise Tampered(
                f"{self._objects.where}/{tile.path} is damaged: {error.what}", key=tile.path, hint="restore from a site"
            ) from error
        except ObjectMissing as error:
            raise Tampered(
                f"{self._objects.where}/{tile.path} is missing", key=tile.path, hint="restore from a site"
            ) from error

    async def _write_growth(
        self, tiler: Tiler, head: Head, report: Report | None
    ) -> tuple[CompactRange, list[CompactRange]]:
        """The tree of everything, which is what was committed, and those at the steps on the way."""
        first = tiler.size
        steps: list[CompactRange] = []
        while tiler.size < head.size:
            start = tiler.size
            stop = min(head.size, start + READ_ENTRIES, step_sizes(start, start + STEP_ENTRIES)[0])
            batch = await self._store.read(start, stop - start)
            if not batch or batch[0].index != start:
                raise Tampered(f"{self._store.where}: entry {start} is missing", hint="restore from a site")
            await self._put(tiler.extend([stored.entry for stored in batch]))
            if tiler.size in step_sizes(first, head.size):
                steps.append(tiler.tree())
                await self._put(one for one in tiler.partials() if not _is_completed(one[0], head.size))
            if report is not None:
                report(tiler.size - first, head.size - first)
        tree = tiler.tree()
        if tree.frontier != head.frontier:
            raise Tampered(
                f"{self._store.where}: entries {first} to {head.size - 1} do not hash to the tree they belong to",
                hint="nothing was signed; run jinshi verify, or restore from a site",
            )
        await self._put(tiler.partials())
        return tree, steps

    async def _keep_steps(self, steps: Sequence[CompactRange]) -> None:
        """Sign what was passed on the way: beginnings of a tree that is signed and recorded by now.

        Killed before it is done, some are missing, and whoever catches up takes a longer step.
        """
        for tree in steps:
            note = sign_checkpoint(Checkpoint(self._origin, tree.size, tree.root()), self._signer)
            with suppress(ImmutableConflict):  # signed before, by a signer that never signs twice alike
                await self._objects.put_immutable(step_key(tree.size), note)
            self.steps.append(parse_checkpoint(note))

    async def _put(self, objects: Iterable[TileData]) -> None:
        await run_bounded(
            (self._objects.put_immutable(tile.path, data) for tile, data in objects), parallel=self._parallel
        )

    def _sign(self, tree: CompactRange, head: Head) -> SignedCheckpoint:
        # The tree was grown from the last signed root, leaf by leaf, and ends in the committed frontier: it extends it.
        assert tree.size == head.size
        checkpoint = Checkpoint(self._origin, head.size, tree.root())
        return SignedCheckpoint(self._origin, head.size, checkpoint.root, sign_checkpoint(checkpoint, self._signer))

    async def _drop_partials(self, old: int, new: int) -> None:
        """Delete the partials whose full tile is stored now (C2SP tlog-tiles, "Partial Tiles")."""
        for tile in completed_partials(old, new):
            full = Tile(tile.level, tile.index)
            async for key in self._objects.list_keys(f"{full.path}.p/"):
                await self._objects.delete(key)


def _is_completed(tile: Tile, size: int) -> bool:
    """Whether a tree of that size has the whole of a partial tile."""
    return tile.index < size >> (8 * (max(tile.level, 0) + 1))


def _text(last: SignedCheckpoint) -> bytes:
    return Checkpoint(last.origin, last.size, last.root).text
