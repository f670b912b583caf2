"""C2SP tlog-tiles: paths, entry bundles, and which tiles a tree has, needs, or gains. Pure; builds no tree itself."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ledger.core.merkle import HASH_SIZE, CompactRange, Node
from ledger.errors import MalformedTile

TILE_WIDTH = 256
ENTRIES = -1
"""The "level" of entry bundles, below level 0."""

LEVEL_MAX = 63
_HEIGHT = 8
# Seven groups of digits hold more than any tree has tiles.
_PATH = re.compile(r"tile/(entries|0|[1-9][0-9]?)/((?:x[0-9]{3}/){0,6}[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?")


@dataclass(frozen=True, slots=True, order=True)
class Tile:
    """A tile (`level` 0 and up) or an entry bundle (`level` ENTRIES), `width` hashes or entries wide."""

    level: int
    index: int
    width: int = TILE_WIDTH

    @property
    def partial(self) -> bool:
        """Whether it is narrower than 256."""
        return self.width < TILE_WIDTH

    @property
    def full(self) -> Tile:
        """The full tile this is, or will become."""
        return Tile(self.level, self.index)

    @property
    def path(self) -> str:
        """Where it lies: `tile/0/x001/x234/067`, `tile/entries/000.p/17`."""
        level = "entries" if self.level == ENTRIES else str(self.level)
        digits = f"{self.index:03d}"
        digits = digits.zfill(-(-len(digits) // 3) * 3)
        groups = [digits[i : i + 3] for i in range(0, len(digits), 3)]
        number = "/".join([*(f"x{group}" for group in groups[:-1]), groups[-1]])
        return f"tile/{level}/{number}" + (f".p/{self.width}" if self.partial else "")


def parse_tile_path(path: str) -> Tile:
    """The inverse of `Tile.path`. Raises MalformedTile."""
    match = _PATH.fullmatch(path) if path.isascii() else None
    if match is None:
        raise MalformedTile(f"{path!r} is no tile path")
    level = ENTRIES if match[1] == "entries" else int(match[1])
    tile = Tile(level, int(match[2].replace("x", "").replace("/", "")), int(match[3] or TILE_WIDTH))
    if level > LEVEL_MAX or tile.path != path:  # a width of 256 and more, or superfluous zeroes
        raise MalformedTile(f"{path!r} is no tile path")
    return tile


def _shift(level: int) -> int:
    return _HEIGHT * max(level, 0)


def levels(size: int) -> range:
    """The levels a tree of that size has, ENTRIES first; empty for the empty tree."""
    return range(ENTRIES, -(-size.bit_length() // _HEIGHT)) if size else range(0)


def _of_level(size: int, level: int, first: int = 0) -> Iterator[Tile]:
    count = size >> _shift(level)
    for index in range(first, count // TILE_WIDTH):
        yield Tile(level, index)
    if count % TILE_WIDTH:
        yield Tile(level, count // TILE_WIDTH, count % TILE_WIDTH)


def needed(size: int, level: int) -> Iterator[Tile]:
    """The tiles of one level of a tree, by index; the last may be partial. Lazy."""
    return _of_level(size, level)


def tiles_of(size: int) -> Iterator[Tile]:
    """Every bundle and tile of a tree of that size, bundles first, then level by level upwards. Lazy."""
    return growth(0, size)


def growth(old: int, new: int) -> Iterator[Tile]:
    """What a tree gains when it grows from `old` to `new` leaves: bundles first, then level by level upwards. Lazy."""
    assert 0 <= old <= new
    for level in levels(new):
        before = old >> _shift(level)
        if new >> _shift(level) != before:
            yield from _of_level(new, level, before // TILE_WIDTH)


def completed_partials(old: int, new: int) -> Iterator[Tile]:
    """The partial tiles of the tree of `old` leaves whose full tile a tree of `new` leaves has."""
    for level in levels(old):
        width = (old >> _shift(level)) % TILE_WIDTH
        index = old >> _shift(level) >> _HEIGHT
        if width and index < new >> _shift(level) >> _HEIGHT:
            yield Tile(level, index, width)


def encode_bundle(entries: Sequence[bytes]) -> bytes:
    """An entry bundle: each entry behind its big-endian uint16 length. An entry is at most 65,535 bytes."""
    return b"".join([part for entry in entries for part in (len(entry).to_bytes(2, "big"), entry)])


def decode_bundle(data: bytes, width: int) -> list[bytes]:
    """The entries of a bundle of exactly `width`. Raises MalformedTile: truncated, or something trails."""
    entries: list[bytes] = []
    position = 0
    for number in range(width):
        start = position + 2
        position = start + int.from_bytes(data[position:start], "big")
        if start > len(data) or position > len(data):
            raise MalformedTile(f"the bundle ends inside entry {number} of {width}")
        entries.append(data[start:position])
    if position != len(data):
        raise MalformedTile(f"{len(data) - position} bytes follow the {width} entries of the bundle")
    return entries


def encode_tile(hashes: Sequence[bytes]) -> bytes:
    """A tile: its hashes, concatenated."""
    return b"".join(hashes)


def decode_tile(data: bytes, width: int) -> list[bytes]:
    """The hashes of a tile of exactly `width`. Raises MalformedTile: it has another length."""
    if len(data) != width * HASH_SIZE:
        raise MalformedTile(f"the tile is {len(data)} bytes long; {width} hashes are {width * HASH_SIZE}")
    return [data[i : i + HASH_SIZE] for i in range(0, len(data), HASH_SIZE)]


def tile_of_node(node: Node, size: int) -> Tile:
    """The tile, as it is in a tree of `size` leaves, whose hashes the node is computed from.

    The node must be a perfect subtree of that tree.
    """
    assert (node.index + 1) << node.level <= size, "the tree has that node"
    level = node.level // _HEIGHT
    index = (node.index << node.level % _HEIGHT) // TILE_WIDTH
    return Tile(level, index, min(TILE_WIDTH, (size >> _shift(level)) - index * TILE_WIDTH))


def node_in_tile(tile: Tile, hashes: Sequence[bytes], node: Node) -> bytes:
    """The hash of a node, from the hashes of its tile (see `tile_of_node`)."""
    rise = node.level % _HEIGHT
    assert node.level // _HEIGHT == tile.level
    first = (node.index << rise) - tile.index * TILE_WIDTH
    return CompactRange.empty().extend(list(hashes[first : first + (1 << rise)])).root()
