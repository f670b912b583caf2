"""All entries that match, however many: `EntryStore.select` page by page."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Final

from ledger.store.base import EntryStore, Selection, StoredEntry

PAGE_ENTRIES: Final = 1_000


async def select_pages(
    entries: EntryStore, what: Selection, *, limit: int | None = None
) -> AsyncIterator[Sequence[StoredEntry]]:
    """What matches, up to `limit` entries, in the order that is asked for. Memory: one page. Raises as `select`."""
    left = limit
    while left is None or left > 0:
        page = await entries.select(what, limit=PAGE_ENTRIES if left is None else min(PAGE_ENTRIES, left))
        if not page:
            return
        yield page
        left = None if left is None else left - len(page)
        last = page[-1].index
        what = replace(what, stop=last) if what.newest_first else replace(what, start=last + 1)


async def select_all(entries: EntryStore, what: Selection, *, limit: int | None = None) -> AsyncIterator[StoredEntry]:
    """The same, entry by entry."""
    async for page in select_pages(entries, what, limit=limit):
        for stored in page:
            yield stored
