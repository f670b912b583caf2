"""Kinds of which every point is one entry: dumps, configuration."""

from __future__ import annotations

from ledger.core.indexes import Indexes
from restore.retained.base import History, Keeping, Releasable


def whole_points(sealing: str) -> Releasable:
    """What can be released where each entry of the type `sealing` is a point, and needs nothing else."""

    async def releasable(history: History, keeping: Keeping) -> Indexes:
        found = Indexes()
        oldest = await history.newest(sealing, keeping.horizon)
        if oldest is None:
            return found
        points = [await history.newest(sealing, size) for size in keeping.marks]
        kept = {point.index for point in points if point is not None}
        async for page in history.referring(oldest.index, sealing):
            for one in page:
                if one.index not in kept:
                    found.add(one.index)
        return found

    return releasable
