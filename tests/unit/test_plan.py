"""What a site lacks: complete, in order, in batches that can be asked for."""

from __future__ import annotations

from itertools import pairwise

import pytest

from ledger.core.tiles import Tile, tiles_of
from replication.plan import batches, full_of, is_partial_of, missing

SIZES = (0, 1, 255, 256, 257, 300, 65_535, 65_536, 65_836, 300_000)


@pytest.mark.parametrize(("old", "new"), [(old, new) for old in SIZES for new in SIZES if old <= new])
def test_the_batches_of_a_growth_are_what_the_larger_tree_has_and_the_smaller_lacks(old: int, new: int) -> None:
    tiles = [tile for batch in batches(old, new) for tile in batch.tiles]
    assert set(tiles) == set(tiles_of(new)) - set(tiles_of(old))
    assert len(tiles) == len(set(tiles))
    assert [tile.level for tile in tiles] == sorted(tile.level for tile in tiles), "bundles first, then upwards"
    for one, other in pairwise(tiles):
        assert one.level != other.level or one.index < other.index


def test_a_batch_is_one_folder_of_at_most_a_thousand() -> None:
    found = list(batches(0, 2_000 * 256))
    assert all(len(batch.tiles) <= 1000 for batch in found)
    assert all(tile.full.path.rpartition("/")[0] == batch.folder for batch in found for tile in batch.tiles)


def test_listing_a_batchs_prefixes_finds_all_of_its_tiles_and_none_of_the_folders_below() -> None:
    for batch in [*batches(0, 300 * 256 + 7), *batches(99 * 256, 101 * 256), *batches(990 * 256, 1_300 * 256)]:
        assert len(batch.prefixes) <= 10
        assert all(tile.path.startswith(batch.prefixes) for tile in batch.tiles)
        assert not f"{batch.folder}/x001/000".startswith(batch.prefixes)


def test_what_stands_in_for_a_full_tile_is_told_from_the_tile_itself() -> None:
    (batch,) = (full_of(batch) for batch in batches(0, 3 * 256 + 5) if batch.folder == "tile/entries")
    full = {tile.path for tile in batch.tiles}
    assert full == {"tile/entries/000", "tile/entries/001", "tile/entries/002"}
    assert is_partial_of("tile/entries/001.p/9", full)
    assert not is_partial_of("tile/entries/001", full)
    assert not is_partial_of("tile/entries/003.p/5", full)


def test_only_what_is_not_there_is_missing() -> None:
    (batch,) = (batch for batch in batches(0, 3 * 256 + 5) if batch.folder == "tile/entries")
    present = {"tile/entries/000", "tile/entries/001.p/9", "tile/entries/003.p/5"}
    assert missing(batch, present) == (Tile(-1, 1), Tile(-1, 2))
    assert missing(batch, ()) == batch.tiles
