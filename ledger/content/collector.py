"""Garbage collection of packs, in two phases: condemn, wait for who may have seen them, sweep (docs/adr/0017)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from ledger.content.index import ChunkIndex, digest_of, digests_under
from ledger.content.leases import CONDEMNED, CONDEMNED_MAX, Condemned, Leases, format_condemned, read_condemned
from ledger.content.references import Gone, packs_of, refers_to_content
from ledger.core.chunks import ContentKeys
from ledger.core.entry import Entry, decode_entry
from ledger.core.manifest import INDEX, LISTS, PACKS, list_key, pack_key, parse_dataref
from ledger.core.packs import open_segment
from ledger.errors import CompareFailed, Malformed, ObjectMissing, Tampered
from ledger.store.base import EntryStore, ObjectStore

PAGE: Final = 1_024

Retained = Callable[[int, Entry], bool]
"""Whether an entry's content is to be kept, by its index and the entry."""

Barrier = Callable[[], Awaitable[None]]
"""Returns once everything that was handed to the sequencer before is committed or refused.

Raises Fenced when this process is not the ledger's writer any more. Appending an entry and waiting for it does both.
"""

References = Callable[[], Awaitable[set[bytes]]]
"""The packs and lists that retained entries refer to, at the time of the call."""


@dataclass(frozen=True, slots=True)
class Collected:
    """What a collection came to: `removed` packs and lists, and how many were `pardoned`, as an entry refers to them.

    `waiting`: how many captures have to end before anything can be removed.
    """

    condemned: int = 0
    removed: int = 0
    pardoned: int = 0
    waiting: int = 0


class Collector:
    """Removes the packs that no retained entry refers to, in the process that writes the ledger."""

    def __init__(
        self, objects: ObjectStore, leases: Leases, index: ChunkIndex, *, references: References, barrier: Barrier
    ) -> None:
        self._objects = objects
        self._leases = leases
        self._index = index
        self._references = references
        self._barrier = barrier

    async def run(self, *, wait: bool = True) -> Collected:
        """One collection, or the rest of one that was interrupted; where it condemned as many as it may, the next too.

        `wait` False: when older captures are running, nothing is removed; the next run goes on.

        Raises:
            Fenced: this process is not the ledger's writer any more; nothing was removed.
            Tampered: what is referred to cannot be told for sure; nothing was removed.
            StoreUnavailable: an object cannot be removed (a lock on it); the next run goes on.
        """
        total = Collected()
        while True:
            done = await self._once(wait=wait)
            total = Collected(
                total.condemned + done.condemned,
                total.removed + done.removed,
                total.pardoned + done.pardoned,
                done.waiting,
            )
            if done.waiting or done.condemned < CONDEMNED_MAX:
                return total

    async def _once(self, *, wait: bool) -> Collected:
        condemned, _ = await read_condemned(self._objects)
        if not condemned.packs:
            condemned = await self._condemn()
            if not condemned.packs:
                return Collected()
        # The barrier comes after condemning: were another process the writer already when the packs were listed, its
        # captures would not be among these leases.
        await self._barrier()
        if not wait and (older := self._leases.older_than(condemned.collection)):
            return Collected(condemned=len(condemned.packs), waiting=older)
        await self._leases.wait_for_older(condemned.collection)
        # A capture that was cancelled may have left an entry with the sequencer, which commits it all the same.
        await self._barrier()
        return await self._sweep(condemned)

    async def _condemn(self) -> Condemned:
        stored = await digests_under(self._objects, PACKS) | await digests_under(self._objects, LISTS)
        candidates = sorted(stored - await self._references())[:CONDEMNED_MAX]
        while True:
            last, tag = await read_condemned(self._objects)
            if last.packs or not candidates:
                return last
            mine = Condemned(last.collection + 1, frozenset(candidates), last.removed)
            try:
                await self._objects.replace(CONDEMNED, format_condemned(mine), expected=tag)
            except CompareFailed:
                continue
            # Every pack that was listed is older than this: a capture that begins from here on wrote none of them.
            return mine

    async def _sweep(self, condemned: Condemned) -> Collected:
        """Remove what is condemned and still not referred to: nobody can come to refer to it any more."""
        referred = await self._references()
        removed = condemned.packs - referred
        self._index.forget(removed)
        for name in sorted(removed):
            await self._objects.purge(pack_key(name))
            await self._objects.purge(list_key(name))
        done = Condemned(condemned.collection, frozenset(), removed)
        last, tag = await read_condemned(self._objects)
        if last == condemned:  # else another run of this collection has finished it
            await self._objects.replace(CONDEMNED, format_condemned(done), expected=tag)
        return Collected(len(condemned.packs), len(removed), len(condemned.packs & referred))


@dataclass(frozen=True, slots=True)
class Survey:
    """What a content store holds, and what of it a collection would remove, with its size in bytes.

    Of the `free` objects, `released` are referred to by released entries, and `erased` by erased ones only; no entry
    refers to the others.
    """

    packs: int
    lists: int
    size_bytes: int
    free: int
    free_bytes: int
    released: int
    erased: int
    condemned: int


async def survey(entries: EntryStore, objects: ObjectStore, gone: Gone) -> Survey:
    """Look what is there; nothing is changed. Raises Tampered: what is referred to cannot be told for sure."""
    sizes: dict[bytes, int] = {}
    count = dict.fromkeys((PACKS, LISTS), 0)
    for folder in count:
        async for version in objects.list_versions(folder):
            digest = digest_of(version.key, folder)
            if version.current and not version.removed and digest is not None:
                sizes[digest] = version.size
                count[folder] += 1
    referred = await referenced_packs(entries, objects, gone.retains)
    free = sizes.keys() - referred
    once, released = set[bytes](), set[bytes]()
    if free:  # lists that were removed with what they list are missing rightly
        once = free & await _referenced(entries, objects, lambda _index, _entry: True, lost_too=True)
        released = once & await _referenced(entries, objects, Gone(gone.erased).retains, lost_too=True)
    condemned, _ = await read_condemned(objects)
    return Survey(
        packs=count[PACKS],
        lists=count[LISTS],
        size_bytes=sum(sizes.values()),
        free=len(free),
        free_bytes=sum(sizes[name] for name in free),
        released=len(released),
        erased=len(once - released),
        condemned=len(condemned.packs),
    )


async def referenced_packs(
    entries: EntryStore, objects: ObjectStore, retained: Retained = lambda _index, _entry: True
) -> set[bytes]:
    """The packs, and lists of packs, that retained entries refer to. Memory: 32 bytes of each.

    Raises:
        Tampered: an entry, or a list that one refers to, cannot be read: what is retained cannot be told.
    """
    return await _referenced(entries, objects, retained)


async def _referenced(
    entries: EntryStore, objects: ObjectStore, retained: Retained, *, lost_too: bool = False
) -> set[bytes]:
    """As `referenced_packs`; with `lost_too`, what cannot be told is passed over."""
    found: set[bytes] = set()
    size = (await entries.head()).size
    for start in range(0, size, PAGE):
        for stored in await entries.read(start, min(PAGE, size - start)):
            if not refers_to_content(stored.entry):
                continue
            entry = decode_entry(stored.entry)
            if not retained(stored.index, entry):
                continue
            try:
                found |= await _named(entry.event.dataref or "", objects, found, stored.index)
            except Tampered:
                if not lost_too:
                    raise
    return found


async def _named(text: str, objects: ObjectStore, known: set[bytes], index: int) -> set[bytes]:
    try:
        dataref = parse_dataref(text)
        if dataref is None or dataref.listed in known:
            return set()
        packs = set(await packs_of(objects, dataref))
    except (Malformed, ObjectMissing) as error:
        raise Tampered(
            f"entry {index} refers to content that cannot be told: {error.what}",
            hint="nothing is removed; scrub first",
        ) from error
    return packs if dataref.listed is None else packs | {dataref.listed}


async def drop_empty_segments(objects: ObjectStore, keys: ContentKeys, packs: set[bytes]) -> int:
    """Delete the index segments of which no pack is there any more; how many. `packs`: those that are there."""
    dropped = 0
    for key in [key async for key in objects.list_keys(INDEX)]:
        try:
            tables = open_segment(keys, (await objects.get(key)).data)
        except (Tampered, ObjectMissing):
            continue
        if not any(table.pack in packs for table in tables):
            await objects.purge(key)
            dropped += 1
    return dropped
