"""Low traffic, published second by second, does not fill a site: what stands in for full tiles goes when they come."""

from __future__ import annotations

import pytest

from ledger.core.tiles import ENTRIES, parse_tile_path, tiles_of
from tests.support.quiet_day import quiet_day

SECONDS = 900
"""More than three bundles full; `python -m tests.bench day` goes through a whole day."""


@pytest.mark.slow
async def test_objects_and_bytes_of_low_traffic_stay_bounded_at_primary_and_site() -> None:
    day = await quiet_day(SECONDS)
    for account, notes in ((day.primary, 1), (day.site, 3)):  # checkpoint; and site.json, pending
        tiles = {key: parse_tile_path(key) for key in account.objects if key.startswith("tile/")}
        full = {tile for tile in tiles_of(day.entries) if not tile.partial}
        assert {tile for tile in tiles.values() if not tile.partial} == full
        edges = {(tile.level, tile.index) for tile in tiles_of(day.entries) if tile.partial}
        assert {(tile.level, tile.index) for tile in tiles.values() if tile.partial} <= edges
        # At most 255 partials stand beside one another at a level, and the entries of one bundle 128 times over.
        others = len(account.objects) - len(tiles)
        assert others == notes + 1  # and the keyring
        assert account.objects_max <= len(full) + 255 * len(edges) + others
        one_bundle = max(size for key, size in account.objects.items() if is_full_bundle(key))
        assert account.bytes_max <= day.entries_bytes * 1.2 + 128 * 1.2 * one_bundle


def is_full_bundle(key: str) -> bool:
    return key.startswith("tile/") and (tile := parse_tile_path(key)).level == ENTRIES and not tile.partial
