"""Receipts for many requests out of few reads: a checkpoint's tiles are read and authenticated once for all of them."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from ledger.core.checkpoint import Checkpoint, OpenedCheckpoint
from ledger.core.merkle import Node, inclusion_ranges, range_nodes, read_range
from ledger.core.note import Note, format_note
from ledger.core.proof import Receipt, format_receipt
from ledger.core.tiles import TILE_WIDTH, node_in_tile, tile_of_node
from ledger.errors import JinshiError, Tampered
from ledger.sequencer import Recorded
from ledger.store.base import ObjectStore
from ledger.verify import AuthenticatedTiles

TREES_KEPT = 4
RANGES_KEPT = 65_536


class Receipts:
    """Proves entries against checkpoints this log has published, as C2SP tlog-proofs. For one event loop."""

    def __init__(self, published: ObjectStore) -> None:
        self._published = published
        self._trees: OrderedDict[bytes, _Tree] = OrderedDict()

    async def of(self, places: Sequence[Recorded], opened: OpenedCheckpoint) -> list[str]:
        """A receipt for each place; `opened` covers them all.

        Raises:
            Tampered: a published tile is missing or damaged (`key` names it), or does not hold what was recorded.
            StoreUnavailable: a tile cannot be read.
        """
        async with self._tree(opened) as tree:
            note = tree.formatted(opened.note)
            return [format_receipt(await tree.prove(place, note)).decode("utf-8") for place in places]

    def close(self) -> None:
        """Let go of the trees; whoever still proves with one ends it."""
        while self._trees:
            self._trees.popitem()[1].leave()

    @asynccontextmanager
    async def _tree(self, opened: OpenedCheckpoint) -> AsyncIterator[_Tree]:
        text = opened.note.text
        tree = self._trees.get(text)
        if tree is None:
            tree = self._trees[text] = _Tree(self._published, opened.checkpoint)
            while len(self._trees) > TREES_KEPT:
                self._trees.popitem(last=False)[1].leave()
        self._trees.move_to_end(text)
        tree.users += 1
        try:
            if not tree.is_open:
                await tree.open()
            yield tree
        except JinshiError:
            if self._trees.get(text) is tree:  # what could not be read may be there the next time
                self._trees.pop(text).leave()
            raise
        finally:
            tree.leave()


class _Tree:
    """One checkpoint's tree, and what was worked out of it so far. Closed when the last of its users has left."""

    def __init__(self, objects: ObjectStore, checkpoint: Checkpoint) -> None:
        self._objects = objects
        self._checkpoint = checkpoint
        self._opening = asyncio.Lock()
        self._tiles: AuthenticatedTiles | None = None
        self._known: dict[tuple[int, int], bytes] = {}  # the hash over a range of leaves
        self._note: tuple[Note, bytes] | None = None
        self.users = 1  # whoever keeps it

    @property
    def is_open(self) -> bool:
        return self._tiles is not None

    def formatted(self, note: Note) -> bytes:
        """The note as it stands in every receipt; the same checkpoint may come with more or fewer cosignatures."""
        if self._note is None or self._note[0] is not note:
            self._note = note, format_note(note)
        return self._note[1]

    async def open(self) -> None:
        async with self._opening:
            if self._tiles is None:
                self._tiles = await AuthenticatedTiles.open(self._objects, self._checkpoint)

    async def prove(self, place: Recorded, note: bytes) -> Receipt:
        tiles, size, known = self._tiles, self._checkpoint.size, self._known
        assert tiles is not None
        leaves = await tiles.hashes(0, place.index // TILE_WIDTH)
        if leaves[place.index % TILE_WIDTH] != place.leaf_hash:
            raise Tampered(
                f"{self._objects.where}: entry {place.index} is published with another content than is recorded",
                hint="restore from a site",
            )
        hashes: list[bytes] = []
        for start, end in inclusion_ranges(place.index, 0, size):
            if (start, end) not in known:  # neighbours share all but the first few
                known[start, end] = await self._hash(tiles, start, end)
            hashes.append(known[start, end])
        if len(known) > RANGES_KEPT:
            known.clear()
        return Receipt(place.index, tuple(hashes), note)

    async def _hash(self, tiles: AuthenticatedTiles, start: int, end: int) -> bytes:
        nodes: dict[Node, bytes] = {}
        for node in range_nodes(start, end):
            tile = tile_of_node(node, self._checkpoint.size)
            nodes[node] = node_in_tile(tile, await tiles.hashes(tile.level, tile.index), node)
        return read_range(start, end, nodes.__getitem__)

    def leave(self) -> None:
        self.users -= 1
        if not self.users and self._tiles is not None:
            self._tiles.close()
