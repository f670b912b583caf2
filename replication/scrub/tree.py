"""The authenticated tree of a trusted checkpoint, put together from several copies that are trusted in nothing.

What one copy has lost or altered is taken from another; whatever is handed out has been proven to belong to the root.
So the objects of one site can be judged one by one, also below a tile that is damaged there.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from itertools import islice, product
from typing import Final, TypeVar

from ledger.core.checkpoint import Checkpoint
from ledger.core.merkle import HASH_SIZE, CompactRange, frontier_nodes, leaf_hash, root_hash
from ledger.core.tiles import (
    ENTRIES,
    TILE_WIDTH,
    Tile,
    decode_bundle,
    decode_tile,
    encode_bundle,
    encode_tile,
    node_in_tile,
    parse_tile_path,
    tile_of_node,
)
from ledger.core.tiling import frontier_of
from ledger.errors import Malformed, MalformedTile, ObjectMissing, StoreUnavailable, Tampered
from ledger.store.base import ObjectStore
from ledger.store.versions import read_checked

TILES_KEPT: Final = 64
EDGES_TRIED_MAX: Final = 4_096
"""How many ways to put the right edge together out of contradicting copies are tried."""

Hashes = list[bytes]
T = TypeVar("T")


class TrustedTree:
    """The tiles and bundles of one checkpoint's tree. `copies` are asked in order; each may lie, or not answer."""

    def __init__(self, copies: Sequence[ObjectStore], checkpoint: Checkpoint, edges: Sequence[Hashes]) -> None:
        self._copies = copies
        self._edges = edges
        self._kept: OrderedDict[Tile, Hashes] = OrderedDict()
        self.checkpoint = checkpoint

    @classmethod
    async def open(cls, copies: Sequence[ObjectStore], checkpoint: Checkpoint) -> TrustedTree:
        """Put the right edge of the tree together, which everything else hangs from.

        Raises:
            Tampered: no combination of what the copies hold hashes to the checkpoint's root.
        """
        size = checkpoint.size
        tiles = [Tile(level, size >> 8 * (level + 1), (size >> 8 * level) % TILE_WIDTH) for level in _levels(size)]
        found: list[list[Hashes]] = [await _direct(copies, tile) if tile.width else [[]] for tile in tiles]
        edges = _matching(found, checkpoint)
        if edges is None:  # then what lies below may still tell
            for tile, known in zip(tiles, found, strict=True):
                known += [one for one in await _derived(copies, tile) if tile.width and one not in known]
            edges = _matching(found, checkpoint)
        if edges is None:
            raise Tampered(
                f"no copy at hand has the tree of {size} entries that {checkpoint.origin} signed",
                key="checkpoint",
                hint="bring another copy within reach: the right edge of the tree is lost in all of these",
            )
        return cls(copies, checkpoint, edges)

    def width(self, level: int, index: int) -> int:
        """How many hashes or entries the tree has in that tile: 256, fewer on the right edge, 0 beyond."""
        return max(0, min(TILE_WIDTH, (self.checkpoint.size >> 8 * max(level, 0)) - index * TILE_WIDTH))

    async def hashes(self, level: int, index: int, *, offered: bytes | None = None) -> Hashes:
        """The hashes of one tile, as far as the tree has them; `offered` is tried before any copy is asked.

        Raises:
            Tampered: no copy has the tile, nor what it could be computed from; `key` names it.
        """
        assert self.width(level, index), "the tree has that tile"
        if self.width(level, index) < TILE_WIDTH:
            return self._edges[level]
        tile = Tile(level, index)
        found = self._kept.get(tile)
        if found is None:
            found = await self._authenticate(tile, offered)
            self._kept[tile] = found
        self._kept.move_to_end(tile)
        while len(self._kept) > TILES_KEPT:
            self._kept.popitem(last=False)
        return found

    async def _authenticate(self, tile: Tile, offered: bytes | None) -> Hashes:
        wanted = (await self.hashes(tile.level + 1, tile.index >> 8))[tile.index % TILE_WIDTH]
        if offered is not None and (hashes := _decoded(offered, tile)) is not None and root_hash(hashes) == wanted:
            return hashes
        for copy in self._copies:
            hashes = _decoded(await _get(copy, tile.path), tile)
            if hashes is not None and root_hash(hashes) == wanted:
                return hashes

        def check(data: bytes) -> Hashes:
            hashes = _decoded(data, tile)
            if hashes is None or root_hash(hashes) != wanted:
                raise _lost(tile)
            return hashes

        hashes = await read_any(self._copies, tile.path, check)
        if hashes is not None:
            return hashes
        for hashes in await _derived(self._copies, tile):
            if root_hash(hashes) == wanted:
                return hashes
        raise _lost(tile)

    async def genuine(self, tile: Tile) -> bytes:
        """The bytes a tile or bundle of the tree must have, proven. Raises Tampered: no copy has them."""
        hashes = await self.hashes(max(tile.level, 0), tile.index)
        assert tile.width <= len(hashes), "the tree has that much of it"
        if tile.level != ENTRIES:
            return encode_tile(hashes[: tile.width])
        for copy in self._copies:
            async with aclosing(_versions(copy, tile)) as versions:
                async for data in versions:
                    if is_bundle_of(data, hashes[: tile.width]):
                        return data

        def check(data: bytes) -> bytes:
            if not is_bundle_of(data, hashes[: tile.width]):
                raise _lost(tile)
            return data

        older = await read_any(self._copies, tile.path, check)
        if older is not None:
            return older
        raise _lost(tile)

    async def frontier_at(self, size: int) -> CompactRange:
        """The compact range of the first `size` leaves. Raises Tampered."""
        frontier: list[bytes] = []
        for node in frontier_nodes(size):
            tile = tile_of_node(node, self.checkpoint.size)
            frontier.append(node_in_tile(tile, await self.hashes(tile.level, tile.index), node))
        return CompactRange(size, tuple(frontier))


async def read_any(copies: Sequence[ObjectStore], key: str, check: Callable[[bytes], T]) -> T | None:
    """What `check` makes of an object, in the first copy where it does not raise, older versions too; else None."""
    for copy in copies:
        try:
            return (await read_checked(copy, key, check))[0]
        except (ObjectMissing, StoreUnavailable, Malformed, Tampered):
            continue
    return None


async def read_fitting(copies: Sequence[ObjectStore], key: str, fits: Callable[[bytes], bool]) -> bytes:
    """An object out of the first copy where its bytes fit, older versions too. Raises Tampered: they do in none."""
    lost = Tampered(f"no copy at hand has {key} as it should be", key=key)

    def check(data: bytes) -> bytes:
        if not fits(data):
            raise lost
        return data

    found = await read_any(copies, key, check)
    if found is None:
        raise lost
    return found


def is_bundle_of(data: bytes, hashes: Sequence[bytes]) -> bool:
    """Whether a bundle holds exactly the entries with these leaf hashes."""
    try:
        entries = decode_bundle(data, len(hashes))
    except MalformedTile:
        return False
    return all(leaf_hash(entry) == wanted for entry, wanted in zip(entries, hashes, strict=True))


def _levels(size: int) -> range:
    return range(-(-size.bit_length() // 8))


def _lost(tile: Tile) -> Tampered:
    return Tampered(
        f"no copy at hand has {tile.path} as it was signed for", key=tile.path, hint="look for another copy"
    )


def _matching(found: Sequence[Sequence[Hashes]], checkpoint: Checkpoint) -> Sequence[Hashes] | None:
    """The combination, one of each level, that hashes to the root."""
    for edges in islice(product(*found), EDGES_TRIED_MAX):
        if CompactRange(checkpoint.size, frontier_of(edges)).root() == checkpoint.root:
            return edges
    return None


async def _direct(copies: Sequence[ObjectStore], tile: Tile) -> list[Hashes]:
    """What the copies hold as a tile, each once; nothing is verified."""
    found: list[Hashes] = []
    for copy in copies:
        async with aclosing(_versions(copy, tile)) as versions:
            async for data in versions:
                hashes = _decoded(data, tile)
                if hashes is not None and hashes not in found:
                    found.append(hashes)
    return found


async def _derived(copies: Sequence[ObjectStore], tile: Tile) -> list[Hashes]:
    """A tile as computed from what lies below it at each copy; nothing is verified."""
    found: list[Hashes] = []
    for copy in copies:
        hashes = await (_from_bundle(copy, tile) if tile.level == 0 else _from_tiles(copy, tile))
        if hashes and hashes not in found:
            found.append(hashes)
    return found


async def _from_bundle(copy: ObjectStore, tile: Tile) -> Hashes | None:
    bundle = Tile(ENTRIES, tile.index, tile.width)
    async with aclosing(_versions(copy, bundle)) as versions:
        async for data in versions:
            try:
                return [leaf_hash(entry) for entry in decode_bundle(data, tile.width)]
            except MalformedTile:
                continue
    return None


async def _from_tiles(copy: ObjectStore, tile: Tile) -> Hashes | None:
    hashes: Hashes = []
    for number in range(tile.width):
        child = Tile(tile.level - 1, tile.index * TILE_WIDTH + number)
        found = _decoded(await _get(copy, child.path), child)
        if found is None and child.level == 0:
            found = await _from_bundle(copy, child)
        if found is None:
            return None
        hashes.append(root_hash(found))
    return hashes


def _decoded(data: bytes | None, tile: Tile) -> Hashes | None:
    try:
        return None if data is None else decode_tile(data, tile.width)
    except MalformedTile:
        return None


async def _get(copy: ObjectStore, key: str) -> bytes | None:
    try:
        return (await copy.get(key)).data
    except (ObjectMissing, StoreUnavailable):
        return None  # it may be had elsewhere; when not, that is said


async def _versions(copy: ObjectStore, tile: Tile) -> AsyncGenerator[bytes, None]:
    """Everything a copy has that could be this tile or bundle: itself, and wider ones that begin with it."""
    names = [tile, tile.full] if tile.partial else [tile]
    for one in names:
        data = _cut(await _get(copy, one.path), one, tile.width)
        if data is not None:
            yield data
    if tile.partial:
        try:
            keys = [key async for key in copy.list_keys(f"{tile.full.path}.p/")]
        except StoreUnavailable:
            return
        for key in keys:
            try:
                wider = parse_tile_path(key)
            except MalformedTile:
                continue
            data = _cut(await _get(copy, key), wider, tile.width) if wider.width > tile.width else None
            if data is not None:
                yield data


def _cut(data: bytes | None, tile: Tile, width: int) -> bytes | None:
    """The first `width` entries or hashes of what is stored as `tile`; None where it cannot be read that far."""
    if data is None or tile.width == width:
        return data
    if tile.level != ENTRIES:
        return data[: width * HASH_SIZE]
    try:
        return encode_bundle(decode_bundle(data, tile.width)[:width])
    except MalformedTile:
        return None
