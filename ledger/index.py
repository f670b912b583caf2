"""The record index: an entry store whose searches are answered from a projection of the log, caught up on demand.

The projection (`ledger/store/positions.py`) only says where to look; every entry is read from the store, and is held
against what was asked. Whatever is wrong with the projection, the store itself gives the answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from ledger.core.event import event_time_us
from ledger.core.quick import quick_entries, slow_entry
from ledger.errors import MalformedEntry, Tampered
from ledger.store.base import EntryStore, Selection, StoredEntry
from ledger.store.forwarding import ForwardingEntryStore
from ledger.store.positions import Attributes, IndexDamaged, IndexUnusable, PositionIndex
from ledger.tasks import Report

PAGE_ROWS = 1_000
CATCH_UP_ENTRIES_MAX = 20_000
"""A search catches up so many entries first, which takes about a second; while it is further behind, the store is
asked, and the next search carries on."""


class IndexedEntryStore(ForwardingEntryStore):
    """An `EntryStore` that passes everything on to `store`, but asks `index` first where entries are.

    `warn` is told, in one line, when the index was of no use. It is never the reason that a search fails.
    """

    def __init__(
        self, store: EntryStore, index: PositionIndex, *, warn: Callable[[str], None] = lambda line: None
    ) -> None:
        super().__init__(store)
        self._index = index
        self._warn = warn
        self._catching_up = asyncio.Lock()
        self._warned = self._unusable = False

    async def select(self, what: Selection, *, limit: int) -> Sequence[StoredEntry]:
        found = await self._indexed(what, limit) if _is_indexed(what) and not self._unusable else None
        return await self._store.select(what, limit=limit) if found is None else found

    async def _indexed(self, what: Selection, limit: int) -> Sequence[StoredEntry] | None:
        """The answer by the index; None: ask the store."""
        if self._catching_up.locked():
            return None
        try:
            async with self._catching_up:
                size = await catch_up(self._store, self._index, entries_max=CATCH_UP_ENTRIES_MAX)
            if size is None:
                return None
            if what.recorded_until_us is not None:
                recorded = await self._store.size_at(what.recorded_until_us - 1)
                stop = recorded if what.stop is None else min(what.stop, recorded)
                what = replace(what, stop=stop, recorded_until_us=None)
            positions = await self._index.find(what, limit, size=size)
            return None if positions is None else await self._entries(positions, what)
        except IndexDamaged as error:
            await self._begin_anew(error)
        except (IndexUnusable, Tampered) as error:
            self._unusable = isinstance(error, Tampered)  # which building it again would not change
            if not self._warned:
                self._warned = True
                self._warn(f"{error.what}; the ledger is searched without its index")
        return None

    async def _entries(self, positions: Sequence[int], what: Selection) -> Sequence[StoredEntry]:
        """The entries there. Raises IndexDamaged, Tampered: one of them is not what was looked for."""
        found = await self._store.read_many(positions)
        if len(found) < len(positions):
            there = {one.index for one in found}
            raise await self._wrong(next(position for position in positions if position not in there))
        for one, value in zip(found, quick_entries([one.entry for one in found]), strict=True):
            if not _matches(value or _slow_entry(one.entry), what):
                raise await self._wrong(one.index)
        return found

    async def _wrong(self, position: int) -> IndexDamaged | Tampered:
        """Who is wrong about an entry: the index, which can be built again, or the store it was built from."""
        said = [Attributes.of(row) for row in await self._store.rows(position, 1)]
        if said and said == list(await self._index.attributes(position, 1)):
            return Tampered(
                f"{self._store.where}: what entry {position} is found by is not what it says", hint="run: jinshi audit"
            )
        return IndexDamaged(f"{self._index.where} is wrong about entry {position}")

    async def _begin_anew(self, error: IndexDamaged) -> None:
        self._warn(f"{error.what}; it is thrown away, and built again as the ledger is searched")
        with suppress(IndexUnusable):
            await self._index.discard()

    async def close(self) -> None:
        try:
            await self._index.close()
        finally:
            await self._store.close()


def _is_indexed(what: Selection) -> bool:
    """Whether the index may help: one stream, and the versions in it, every store finds by itself."""
    stream = what.source is not None and what.subject is not None
    versions = what.version_from is not None or what.version_until is not None
    asked = (what.source, what.subject, what.actor, what.type, what.time_from_us, what.time_until_us)
    return not stream and not versions and any(one is not None for one in asked)


def _slow_entry(entry: bytes) -> Mapping[str, Any]:
    """The members of an entry; none of what is no entry, which nothing that is asked for matches."""
    try:
        return slow_entry(entry)
    except MalformedEntry:
        return {}


def _matches(value: Mapping[str, Any], what: Selection) -> bool:
    """Whether an entry, by its members, is one of those that are asked for."""
    if not value or any(
        wanted not in (None, value.get(name, ""))
        for name, wanted in (
            ("source", what.source),
            ("subject", what.subject),
            ("actor", what.actor),
            ("type", what.type),
        )
    ):
        return False
    if what.time_from_us is None and what.time_until_us is None:
        return True
    time_us = event_time_us(value["time"])
    return (what.time_from_us is None or what.time_from_us <= time_us) and (
        what.time_until_us is None or time_us < what.time_until_us
    )


async def catch_up(
    store: EntryStore, index: PositionIndex, *, entries_max: int | None = None, report: Report | None = None
) -> int | None:
    """Build the index on from where it stands, in pages; killed anywhere, the next call carries on.

    Another ledger's index, or that of another history of this one, is thrown away and begun anew: what it covers, with
    what follows in the store, must hash to the store's own tree. Returns the size of the log once it covers all of it;
    None: `entries_max` were not enough.

    Raises:
        IndexUnusable, IndexDamaged: as `PositionIndex`; and whatever the store raises.
        Tampered: the store's entries do not hash to its tree.
    """
    tree, head = await index.built(), await store.head()
    first, ours = tree.size, tree.size == 0
    while True:
        if tree.size > head.size or (tree.size == head.size and tree.frontier != head.frontier):
            if ours:
                raise _not_its_tree(store)
            await index.discard()
            tree, first, ours = await index.built(), 0, True
        if tree.size == head.size:
            return head.size
        if entries_max is not None and tree.size - first >= entries_max:
            return None
        rows = await store.rows(tree.size, min(PAGE_ROWS, head.size - tree.size))
        if not rows:
            raise _not_its_tree(store)
        after = tree.extend([row.leaf_hash for row in rows])
        if await index.add(rows, tree, after):
            tree = after
        else:  # another process has added to it, or thrown it away
            tree, head, ours = await index.built(), await store.head(), False
        if report is not None:
            report(tree.size, head.size)


def _not_its_tree(store: EntryStore) -> Tampered:
    return Tampered(f"{store.where}: its entries do not hash to its tree", hint="run: jinshi verify")


async def verify_index(store: EntryStore, index: PositionIndex, *, report: Report | None = None) -> int:
    """Compare everything the index says with the log; returns how many entries it covers.

    Raises:
        Tampered: it is not what the log says.
        StoreUnavailable: one of them cannot be read.
    """
    try:
        await index.check()
        size = (await index.built()).size
        for start in range(0, size, PAGE_ROWS):
            wanted = min(PAGE_ROWS, size - start)
            rows = await store.rows(start, wanted)
            if await index.attributes(start, wanted) != [Attributes.of(row) for row in rows]:
                raise IndexDamaged(f"{index.where} is not what entries {start} to {start + wanted - 1} say")
            if report is not None:
                report(start + wanted, size)
    except IndexDamaged as error:
        raise Tampered(error.what, hint="drop it and build it again: jinshi index drop; jinshi index build") from error
    return size
