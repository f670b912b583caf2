"""Trees of files: an entry is needed by the points from it on until the next entry of its path."""

from __future__ import annotations

import asyncio
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Final

from ledger.capture.files.record import RECORDED
from ledger.capture.files.sealed import SEALED
from ledger.content.references import refers_to_content
from ledger.core.canonical import canonicalize
from ledger.core.entry import decode_entry
from ledger.core.indexes import Indexes
from ledger.store.base import StoredEntry
from restore.retained.base import History, Keeping, Newest, Place

_TYPES: Final = sorted(type_.encode() for type_ in RECORDED)
_SUBJECT: Final = b',"subject":"'
_TAIL: Final = re.compile(
    rb',"subject":"((?:[^"\\]|\\.)*)","time":"[^"]*","type":"(?:' + b"|".join(map(re.escape, _TYPES)) + rb')"}'
)
"""The end of the canonical bytes of an entry of a path: the last of its members are these."""


async def releasable_files(history: History, keeping: Keeping) -> Indexes:
    """A `Releasable`. No key is needed: a path is told by its subject, or by what stands for it in the log."""
    oldest = await history.newest(SEALED, keeping.horizon)
    if oldest is None:
        return Indexes()
    points = [await history.newest(SEALED, size) for size in keeping.marks]
    marked = sorted({point.index for point in points if point is not None})
    found, newest = Indexes(), Newest()
    try:
        async for page in history.pages(oldest.index):
            await asyncio.to_thread(_take, page, newest, marked, found)
    finally:
        newest.close()
    return found


def _take(page: Sequence[StoredEntry], newest: Newest, marked: Sequence[int], found: Indexes) -> None:
    for before, after in newest.replace(_paths(page)):
        point = bisect_right(marked, before.index)
        if before.number and (point == len(marked) or marked[point] > after.index):
            found.add(before.index)


def _paths(page: Sequence[StoredEntry]) -> Iterator[tuple[str, Place]]:
    """What was recorded of which path, as its subject is written; the number is 1 where it refers to content."""
    for one in page:
        found = _TAIL.fullmatch(one.entry, max(0, one.entry.rfind(_SUBJECT)))
        if found is not None:  # nearly always; parsing takes several times as long
            yield found[1].decode(), Place(one.index, int(refers_to_content(one.entry)))
            continue
        event = decode_entry(one.entry).event
        if event.type in RECORDED:
            subject = canonicalize(event.subject or "")[1:-1].decode()
            yield subject, Place(one.index, int(event.dataref is not None))
