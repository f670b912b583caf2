"""What a site lacks, in batches small enough to ask for. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from ledger.core.tiles import Tile, growth

LISTED_TILES_MIN = 32
"""Fewer tiles than this need not be asked for first: putting the same bytes again is fine."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Tiles of one folder, at most a thousand, in ascending order."""

    folder: str
    tiles: tuple[Tile, ...]

    @property
    def prefixes(self) -> tuple[str, ...]:
        """What to list to see which are there: the folder's own tiles, without the folders below it (x000/, ...)."""
        digits = 1 if len(self.tiles) >= LISTED_TILES_MIN else 2
        end = len(self.folder) + 1 + digits
        return tuple(sorted({tile.full.path[:end] for tile in self.tiles}))


def batches(old: int, new: int) -> Iterator[Batch]:
    """Everything a growth from `old` to `new` entries adds, bundles first, then tiles level by level upwards. Lazy."""
    for folder, tiles in groupby(growth(old, new), key=_folder):
        yield Batch(folder, tuple(tiles))


def _folder(tile: Tile) -> str:
    return tile.full.path.rpartition("/")[0]


def missing(batch: Batch, present: Collection[str]) -> tuple[Tile, ...]:
    """The tiles of a batch that are not among the keys `present`."""
    return tuple(tile for tile in batch.tiles if tile.path not in present)


def together(found: Iterable[Batch]) -> Iterator[tuple[Batch, ...]]:
    """Batches in groups that are shipped at once: small ones with their neighbours, so that none waits. Lazy."""
    group: list[Batch] = []
    for batch in found:
        if group and sum(len(one.tiles) for one in group) + len(batch.tiles) > LISTED_TILES_MIN:
            yield tuple(group)
            group = []
        group.append(batch)
    if group:
        yield tuple(group)


def full_of(batch: Batch) -> Batch:
    """The full tiles of a batch."""
    return Batch(batch.folder, tuple(tile for tile in batch.tiles if not tile.partial))


def is_partial_of(key: str, full: Collection[str]) -> bool:
    """Whether a key is that of a partial tile of one of the full ones, by path."""
    path, partial, _ = key.partition(".p/")
    return bool(partial) and path in full
