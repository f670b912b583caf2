"""Turns a growing log into the tiles and bundles to publish, holding only the right edge of the tree. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ledger.core.merkle import CompactRange, leaf_hash, root_hash
from ledger.core.tiles import ENTRIES, TILE_WIDTH, Tile, encode_bundle, encode_tile

TileData = tuple[Tile, bytes]


class Tiler:
    """The right edge of a tree of `size` leaves: at most 255 hashes a level, and the entries of the last bundle.

    Every inner node is hashed once, with the tile it belongs to.

    `edges[L]` are the hashes of the partial tile at level L (empty where the level is full), `entries` those of the
    partial bundle. C2SP tlog-tiles, "Partial Tiles".
    """

    def __init__(self, size: int, edges: Sequence[Sequence[bytes]], entries: Sequence[bytes]) -> None:
        self.size = size
        self._edges = [list(edge) for edge in edges]
        self._entries = list(entries)
        assert len(self._entries) == size % TILE_WIDTH
        for level, edge in enumerate(self._edges):
            assert len(edge) == (size >> (8 * level)) % TILE_WIDTH

    def tree(self) -> CompactRange:
        """The tree over everything taken in so far."""
        return CompactRange(self.size, frontier_of(self._edges))

    def extend(self, entries: Sequence[bytes]) -> Iterator[TileData]:
        """Take in the next entries; yields every bundle and tile they complete, each bundle before its tile.

        The whole iterator must be consumed before the next call.
        """
        hashes = [leaf_hash(entry) for entry in entries]
        first = self.size
        self.size += len(entries)
        position = 0
        while position < len(entries):
            room = TILE_WIDTH - len(self._entries)
            self._entries.extend(entries[position : position + room])
            taken = hashes[position : position + room]
            position += room
            if len(self._entries) == TILE_WIDTH:
                yield Tile(ENTRIES, (first + position - 1) // TILE_WIDTH), encode_bundle(self._entries)
                self._entries = []
            yield from self._push(0, taken, first + min(position, len(entries)))

    def _push(self, level: int, hashes: Sequence[bytes], size: int) -> Iterator[TileData]:
        """Add hashes at a level; a tile that becomes full is yielded and its root goes one level up."""
        while len(self._edges) <= level:
            self._edges.append([])
        edge = self._edges[level]
        edge.extend(hashes)
        if len(edge) == TILE_WIDTH:
            index = (size >> (8 * (level + 1))) - 1
            yield Tile(level, index), encode_tile(edge)
            self._edges[level] = []
            yield from self._push(level + 1, [root_hash(edge)], size)

    def partials(self) -> Iterator[TileData]:
        """The partial bundle and tiles of the tree as it is now."""
        size = self.size
        if self._entries:
            yield Tile(ENTRIES, size // TILE_WIDTH, len(self._entries)), encode_bundle(self._entries)
        for level, edge in enumerate(self._edges):
            if edge:
                yield Tile(level, size >> (8 * (level + 1)), len(edge)), encode_tile(edge)


def frontier_of(edges: Sequence[Sequence[bytes]]) -> tuple[bytes, ...]:
    """The compact range of a tree from the hashes on its right edge, level by level; largest subtree first."""
    frontier: list[bytes] = []
    for edge in reversed(edges):
        frontier.extend(CompactRange.empty().extend(edge).frontier)
    return tuple(frontier)
