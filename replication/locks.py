"""How long each object of a site is locked (Object Lock, COMPLIANCE), and how the locks are kept up."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import suppress
from datetime import timedelta
from typing import Final

from ledger.content.references import SEEN_MAX, packs_of
from ledger.content.released import Released, may_release
from ledger.core.checkpoint import CHECKPOINT, Checkpoint
from ledger.core.manifest import CONTENT, list_key, pack_key
from ledger.core.tiles import ENTRIES, TILE_WIDTH, Tile, decode_bundle, levels, parse_tile_path, tiles_of
from ledger.errors import Malformed, ObjectMissing
from ledger.store.base import ObjectStore
from ledger.tasks import Report, run_bounded
from ledger.verify import read_tile
from replication.contents import referring_in

PARTIAL_DAYS: Final = 7
"""A partial tile and a checkpoint are locked for so long at most: others take their place, at every publish."""

PARALLEL: Final = 8


def lock_of(key: str, days: int) -> timedelta | None:
    """How long the object under `key` (relative to its ledger) is locked at a site with `days`; None: not at all.

    `keyring/` is not: the site role deletes from it, on erasure. `pending` is not: a newer one takes its place.
    """
    short = timedelta(days=min(days, PARTIAL_DAYS))
    if key.startswith("tile/"):
        try:
            return short if parse_tile_path(key).partial else timedelta(days=days)
        except Malformed:
            return None
    if key == CHECKPOINT:
        return short
    if key == "site.json" or key.startswith((CONTENT, "erased/")):
        return timedelta(days=days)
    return None


async def extend_edge(objects: ObjectStore, checkpoint: Checkpoint) -> None:
    """Keep locked what only the current checkpoint needs: its partial tiles and itself; what is missing is passed over.

    Raises:
        StoreUnavailable: a lock cannot be extended.
    """
    keys = [CHECKPOINT]
    for level in levels(checkpoint.size):
        count = checkpoint.size >> (8 * max(level, 0))
        tile = Tile(level, count // TILE_WIDTH, count % TILE_WIDTH)
        if tile.width:
            keys.append(tile.path)
    await run_bounded((extend(objects, key) for key in keys), parallel=PARALLEL)


async def extend_all(objects: ObjectStore, checkpoint: Checkpoint, *, report: Report | None = None) -> int:
    """Let the locks on everything that a checkpoint covers run anew; how many objects that are.

    In an `EveryVersion` whose copy has been verified, those of the genuine versions. Content counts as far as entries
    refer to it that are not released.

    Raises:
        StoreUnavailable: a lock cannot be extended.
    """
    await extend_edge(objects, checkpoint)
    await extend(objects, "site.json")
    total, done = sum(1 for _ in tiles_of(checkpoint.size)), 0

    async def extend_one(key: str) -> None:
        nonlocal done
        await extend(objects, key)
        done += 1
        if report is not None:
            report(done, total)

    await run_bounded((extend_one(tile.path) for tile in tiles_of(checkpoint.size)), parallel=PARALLEL)
    return total + await _extend_content(objects, checkpoint.size)


async def _extend_content(objects: ObjectStore, size: int) -> int:
    """From the last entry on, so that what an entry releases is known when it is come to."""
    extended: OrderedDict[str, None] = OrderedDict()
    count, released = 0, Released()
    for index in reversed(range(-(-size // TILE_WIDTH))):
        tile = Tile(ENTRIES, index, min(TILE_WIDTH, size - index * TILE_WIDTH))
        keys: set[str] = set()
        data = await read_tile(objects, tile)
        if may_release(data):
            for place, entry in enumerate(decode_bundle(data, tile.width), index * TILE_WIDTH):
                released.take(place, entry)
        for one in referring_in(tile, data):
            if (one.source, one.index) in released:
                continue
            with suppress(ObjectMissing):  # whoever verifies the site says so
                keys.update(map(pack_key, await packs_of(objects, one.dataref)))
            if one.dataref.listed is not None:
                keys.add(list_key(one.dataref.listed))
        keys -= extended.keys()
        await run_bounded((extend(objects, key) for key in keys), parallel=PARALLEL)
        count += len(keys)
        extended.update(dict.fromkeys(keys))
        while len(extended) > SEEN_MAX:
            extended.popitem(last=False)
    return count


async def extend(objects: ObjectStore, key: str) -> None:
    """Let the lock on one object run anew. Raises StoreUnavailable: it cannot be extended."""
    try:
        await objects.extend_lock(key)
    except ObjectMissing:
        return  # whoever verifies the site says so
