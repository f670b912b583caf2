"""Tiles and bundles: which there are, what they hold, and that growing in any steps gives the same ones."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.core.merkle import Node, frontier_nodes, leaf_hash, root_hash
from ledger.core.tiles import (
    ENTRIES,
    LEVEL_MAX,
    Tile,
    completed_partials,
    decode_bundle,
    decode_tile,
    encode_bundle,
    growth,
    levels,
    needed,
    node_in_tile,
    parse_tile_path,
    tile_of_node,
    tiles_of,
)
from ledger.core.tiling import Tiler
from ledger.errors import MalformedTile
from tests.support.strategies import LEAF_HASHES, flip, leaf_entry, steps

SIZES = st.one_of(
    st.integers(0, 1_000),
    st.integers(65_000, 70_000),
    st.sampled_from([0, 1, 255, 256, 257, 511, 512, 65_535, 65_536, 65_537, 131_072]),
)
TREE_SIZES = st.integers(0, len(LEAF_HASHES)) | st.sampled_from([0, 1, 255, 256, 257, 512, 1_024])


def _by_the_formula(size: int) -> set[Tile]:
    """C2SP tlog-tiles: "The partial tile at level l for a tree of size s has floor(s / 256**l) mod 256 entries"."""
    found: set[Tile] = set()
    for level in range(LEVEL_MAX + 1):
        hashes = size // 256**level
        if hashes == 0:
            break
        tiles = [(index, 256) for index in range(hashes // 256)]
        if hashes % 256:
            tiles.append((hashes // 256, hashes % 256))
        found |= {Tile(level, index, width) for index, width in tiles}
        if level == 0:
            found |= {Tile(ENTRIES, index, width) for index, width in tiles}
    return found


@given(SIZES)
def test_a_tree_has_the_tiles_of_the_formula_each_once(size: int) -> None:
    tiles = list(tiles_of(size))
    assert set(tiles) == _by_the_formula(size)
    assert len(set(tiles)) == len(tiles)
    assert tiles == [tile for level in levels(size) for tile in needed(size, level)]
    assert [tile.level for tile in tiles] == sorted(tile.level for tile in tiles)  # what is referred to comes first


@given(SIZES, SIZES)
def test_growth_is_exactly_the_difference_of_two_trees(one: int, other: int) -> None:
    old, new = sorted((one, other))
    gained = list(growth(old, new))
    assert set(gained) == set(tiles_of(new)) - set(tiles_of(old))
    assert len(set(gained)) == len(gained)


@given(SIZES, SIZES)
def test_a_partial_tile_may_go_when_its_full_tile_is_there_and_not_before(one: int, other: int) -> None:
    old, new = sorted((one, other))
    there = set(tiles_of(new))
    assert set(completed_partials(old, new)) == {tile for tile in tiles_of(old) if tile.partial and tile.full in there}


@given(st.integers(ENTRIES, LEVEL_MAX), st.integers(0, 2**63 - 1) | st.integers(0, 10**4), st.integers(1, 256))
def test_a_path_is_read_back(level: int, index: int, width: int) -> None:
    tile = Tile(level, index, width)
    assert parse_tile_path(tile.path) == tile
    assert all(len(part.lstrip("x")) == 3 for part in tile.path.split(".p/")[0].split("/")[2:])


@given(st.lists(st.binary(max_size=300), max_size=20), st.data())
def test_a_bundle_is_read_back_and_nothing_cut_or_added_is(entries: list[bytes], data: st.DataObject) -> None:
    bundle = encode_bundle(entries)
    assert decode_bundle(bundle, len(entries)) == entries
    for wrong, width in (
        (bundle + b"\0", len(entries)),
        (bundle, len(entries) + 1),
        *([(bundle[: data.draw(st.integers(0, len(bundle) - 1))], len(entries))] if bundle else ()),
        *([(bundle, len(entries) - 1)] if entries else ()),
    ):
        with pytest.raises(MalformedTile):
            decode_bundle(wrong, width)


@given(st.data(), TREE_SIZES)
def test_tiles_made_in_any_steps_are_those_made_from_scratch(data: st.DataObject, size: int) -> None:
    """What is complete is yielded once; partials are what is left; every start from a stored edge gives the same."""
    published: dict[Tile, bytes] = {}
    tiler = Tiler(0, (), ())
    sizes = data.draw(steps(size))
    for before, after in zip([0, *sizes], sizes, strict=False):
        for tile, content in tiler.extend([leaf_entry(index) for index in range(before, after)]):
            assert not tile.partial
            assert tile not in published
            published[tile] = content
        partials = dict(tiler.partials())
        assert all(tile.partial for tile in partials)
        assert {**published, **partials} == {tile: _content(tile) for tile in tiles_of(after)}
        assert tiler.tree().root() == root_hash(LEAF_HASHES[:after])
        tiler = _reopened(after, {**published, **partials})


def test_a_tree_of_66_000_in_uneven_steps_has_every_level_right() -> None:
    """Large enough for a full tile at level 1 and a hash at level 2."""
    size, step = 66_000, 9_973
    entries = [leaf_entry(index) for index in range(size)]
    below = [leaf_hash(entry) for entry in entries]
    tiler = Tiler(0, (), ())
    published: dict[Tile, bytes] = {}
    for first in range(0, size, step):
        published.update(tiler.extend(entries[first : first + step]))
    published.update(tiler.partials())
    assert set(published) == _by_the_formula(size)
    assert tiler.tree().root() == root_hash(below)
    for level in range(3):
        whole = b"".join(published[tile] for tile in needed(size, level))
        assert whole == b"".join(below)
        below = [root_hash(below[first : first + 256]) for first in range(0, len(below) // 256 * 256, 256)]


def _content(tile: Tile) -> bytes:
    if tile.level == ENTRIES:
        return encode_bundle([leaf_entry(index) for index in range(tile.index * 256, tile.index * 256 + tile.width)])
    span = 256**tile.level
    first = tile.index * 256
    return b"".join(
        root_hash(LEAF_HASHES[number * span : (number + 1) * span]) for number in range(first, first + tile.width)
    )


def _reopened(size: int, objects: dict[Tile, bytes]) -> Tiler:
    """A tiler that starts from what is stored, as a process that was restarted does."""
    edges: list[list[bytes]] = []
    for level in range(levels(size).stop if size else 0):
        count = size >> 8 * level
        width = count % 256
        edges.append(decode_tile(objects[Tile(level, count // 256, width)], width) if width else [])
    last = size % 256
    entries = decode_bundle(objects[Tile(ENTRIES, size // 256, last)], last) if last else []
    return Tiler(size, edges, entries)


@given(st.data(), st.integers(1, len(LEAF_HASHES)))
def test_every_node_of_a_tree_is_in_the_tile_that_is_named(data: st.DataObject, size: int) -> None:
    level = data.draw(st.integers(0, size.bit_length() - 1))
    node = Node(level, data.draw(st.integers(0, (size >> level) - 1)))
    for one in (node, *frontier_nodes(size)):
        tile = tile_of_node(one, size)
        assert tile in _by_the_formula(size)
        expected = root_hash(LEAF_HASHES[one.index << one.level : (one.index + 1) << one.level])
        assert node_in_tile(tile, decode_tile(_content(tile), tile.width), one) == expected


@given(st.integers(1, 256), st.integers(0, 300))
def test_a_tile_of_another_length_is_refused(width: int, hashes: int) -> None:
    data = bytes(32 * hashes)
    if hashes == width:
        assert decode_tile(data, width) == [bytes(32)] * width
    else:
        with pytest.raises(MalformedTile):
            decode_tile(data, width)
    with pytest.raises(MalformedTile):
        decode_tile(data + b"\0", width)


@given(st.integers(0, 8 * 6 - 1))
def test_a_changed_bundle_is_another_one_or_none(bit: int) -> None:
    entries = [b"a", b"b"]
    with suppress(MalformedTile):
        assert decode_bundle(flip(encode_bundle(entries), bit), 2) != entries
