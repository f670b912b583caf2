"""Reading the log: by index, by attribute, as of a time, live, and with proofs. Nothing here writes."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Protocol, TypeVar

from ledger.core.checkpoint import CHECKPOINT, Checkpoint, OpenedCheckpoint, parse_checkpoint
from ledger.core.event import event_time_us
from ledger.core.merkle import (
    LeafIndex,
    Node,
    TreeSize,
    consistency_nodes,
    consistency_proof,
    inclusion_nodes,
    inclusion_proof,
    leaf_hash,
)
from ledger.core.note import format_note
from ledger.core.proof import Receipt
from ledger.core.tiles import TILE_WIDTH, node_in_tile, tile_of_node
from ledger.errors import Forked, InvalidRequest, Malformed, ObjectMissing, Tampered
from ledger.sequencer import CommitSignal
from ledger.store.base import EntryStore, Head, ObjectStore, Selection, StoredEntry, StreamId
from ledger.store.selecting import select_all, select_pages
from ledger.verify import AuthenticatedTiles

PAGE_ENTRIES = 1_000
_DECIMAL = re.compile(r"[0-9]{1,18}")


class Reader:
    """Answers questions about one ledger from its store and its published tiles.

    `objects` is prefixed to the origin. `committed` makes live reading immediate for commits of this process; those
    of other processes are seen within `poll_s`.
    """

    def __init__(self, store: EntryStore, objects: ObjectStore, *, committed: CommitSignal | None = None) -> None:
        self._store = store
        self._objects = objects
        self._committed = committed or CommitSignal()

    async def head(self) -> Head:
        """The committed end of the log."""
        return await self._store.head()

    async def entry(self, index: int) -> StoredEntry:
        """One entry. Raises InvalidRequest when the log is not that long."""
        found = await self._store.read(index, 1) if index >= 0 else []
        if not found:
            size = (await self.head()).size
            hint = f"ask for 0 to {size - 1}" if size else "append something first"
            raise InvalidRequest(f"there is no entry {index}; the ledger has {size}", hint=hint)
        return found[0]

    async def entries(self, start: int = 0, stop: int | None = None) -> AsyncIterator[StoredEntry]:
        """Entries `start` (inclusive) to `stop` (exclusive; None: what is committed when it gets there), in order."""
        while stop is None or start < stop:
            limit = PAGE_ENTRIES if stop is None else min(PAGE_ENTRIES, stop - start)
            page = await self._store.read(start, limit)
            if not page:
                return
            for stored in page:
                yield stored
            start += len(page)

    async def tail(self, start: int = 0, *, poll_s: float = 0.2) -> AsyncIterator[StoredEntry]:
        """Catch up from `start`, then follow live, for ever: every entry once, in order, without a gap.

        Resume after a break with `start` = last index seen + 1. Memory: one page.
        """
        while True:
            seen = self._committed.commits  # before reading, so that a commit in between is not slept through
            page = await self._store.read(start, PAGE_ENTRIES)
            for stored in page:
                yield stored
            start += len(page)
            if not page:
                await self._committed.wait(poll_s, seen=seen)

    async def select(self, what: Selection, *, limit: int) -> Sequence[StoredEntry]:
        """Up to `limit` entries that match (see `EntryStore.select`)."""
        return await self._store.select(what, limit=limit)

    async def selected(self, what: Selection, *, limit: int | None = None) -> AsyncIterator[StoredEntry]:
        """Every entry that matches, page by page."""
        async for stored in select_all(self._store, what, limit=limit):
            yield stored

    def pages(self, what: Selection, *, limit: int | None = None) -> AsyncIterator[Sequence[StoredEntry]]:
        """The same as pages, for those who go through many."""
        return select_pages(self._store, what, limit=limit)

    async def stream_versions(self, streams: Sequence[StreamId]) -> Mapping[StreamId, int]:
        """The last version of each stream."""
        return await self._store.stream_versions(streams)

    async def size_at(self, recordedtime_us: int) -> int:
        """How many entries had been recorded at that moment."""
        return await self._store.size_at(recordedtime_us)

    async def size_of(self, at: str) -> int | None:
        """How many entries to look back at: up to and with the one of that index, or all recorded by that time.

        None: `at` is neither an index nor an RFC 3339 time. Raises InvalidRequest: there is no such entry.
        """
        if _DECIMAL.fullmatch(at):
            size = (await self.head()).size
            if int(at) >= size:
                raise InvalidRequest(f"there is no entry {at}; the ledger has {size}", hint=f"ask for 0 to {size - 1}")
            return int(at) + 1
        try:
            moment = event_time_us(at)
        except Malformed:
            return None
        return await self.size_at(moment)

    async def published(self) -> OpenedCheckpoint:
        """The checkpoint shown to the world.

        Raises:
            InvalidRequest: nothing has been published yet.
            Tampered: it is damaged.
        """
        try:
            return parse_checkpoint((await self._objects.get(CHECKPOINT)).data)
        except ObjectMissing as error:
            raise InvalidRequest("this ledger has not published a checkpoint yet", hint="append something") from error
        except Malformed as error:
            raise Tampered(
                f"{self._objects.where}/{CHECKPOINT} is damaged: {error.what}",
                key=CHECKPOINT,
                hint="move it aside: the next publish shows what the store has recorded",
            ) from error

    async def extends(self, old: Checkpoint) -> None:
        """Whether what is published holds exactly the entries of an older checkpoint, and then perhaps more.

        Raises:
            InvalidRequest: nothing was published, or less than that.
            Tampered: a published tile is missing or damaged.
            Forked: the published tree is another one.
        """
        published = (await self.published()).checkpoint
        _check_covers(published, old)
        async with self._tiles(published) as tiles:
            await self._check_extends(tiles, old)

    async def prove(self, index: int, checkpoint: OpenedCheckpoint | None = None) -> Receipt:
        """A receipt for entry `index` against `checkpoint` (default: the published one), C2SP tlog-proof.

        Every hash in it has been proven to belong to the published checkpoint's root.

        Raises:
            InvalidRequest: the entry is not covered by the checkpoint, or the checkpoint by what is published.
            Tampered: a published tile is missing or damaged (`key` names it), or the store's entry is another one.
            Forked: the published tree does not extend `checkpoint`.
        """
        published = await self.published()
        against = checkpoint or published
        size = against.checkpoint.size
        if not 0 <= index < size:
            raise InvalidRequest(
                f"entry {index} is not covered by the checkpoint of size {size}",
                hint="replicate first, or ask for an earlier entry",
            )
        _check_covers(published.checkpoint, against.checkpoint)
        place, tree = LeafIndex(index), TreeSize(size)
        async with self._tiles(published.checkpoint) as tiles:
            await self._check_extends(tiles, against.checkpoint)
            leaves = await tiles.hashes(0, index // TILE_WIDTH)
            if leaves[index % TILE_WIDTH] != leaf_hash((await self.entry(index)).entry):
                raise Tampered(
                    f"{self._store.where}: entry {index} is not the one that was published", hint="restore from a site"
                )
            nodes = await _nodes(tiles, inclusion_nodes(place, tree), published.checkpoint)
        hashes = inclusion_proof(place, tree, nodes.__getitem__)
        return Receipt(index=index, hashes=tuple(hashes), checkpoint=format_note(against.note), extra=None)

    async def prove_consistency(self, old: int, new: int) -> list[bytes]:
        """The consistency proof between two tree sizes (RFC 6962 §2.1.2). Raises InvalidRequest, Tampered."""
        published = (await self.published()).checkpoint
        if not 0 <= old <= new <= published.size:
            raise InvalidRequest(f"there is no proof from size {old} to {new} in a tree of size {published.size}")
        async with self._tiles(published) as tiles:
            nodes = await _nodes(tiles, consistency_nodes(TreeSize(old), TreeSize(new)), published)
        return consistency_proof(TreeSize(old), TreeSize(new), nodes.__getitem__)

    async def _check_extends(self, tiles: AuthenticatedTiles, old: Checkpoint) -> None:
        if (await tiles.frontier_at(old.size)).root() != old.root:
            raise Forked(
                f"{self._objects.where}: the published tree does not extend the checkpoint of size {old.size}",
                key=CHECKPOINT,
                hint="two histories of one log: keep both, and ask who held its key",
            )

    @asynccontextmanager
    async def _tiles(self, published: Checkpoint) -> AsyncIterator[AuthenticatedTiles]:
        tiles = await AuthenticatedTiles.open(self._objects, published)
        try:
            yield tiles
        finally:
            tiles.close()


class Indexed(Protocol):
    """Something of an entry: of that index in the log."""

    @property
    def index(self) -> int: ...


T = TypeVar("T", bound=Indexed)


async def in_log_order(streams: Sequence[AsyncIterator[T]]) -> AsyncGenerator[T, None]:
    """What several streams give, each of them in the order of the log, in that order."""
    heads = [await anext(stream, None) for stream in streams]
    while left := [(head.index, number) for number, head in enumerate(heads) if head is not None]:
        _, number = min(left)
        head = heads[number]
        assert head is not None
        yield head
        heads[number] = await anext(streams[number], None)


def _check_covers(published: Checkpoint, old: Checkpoint) -> None:
    if old.size > published.size:
        raise InvalidRequest(
            f"the checkpoint of size {old.size} is newer than the published one of size {published.size}",
            hint="publish first, or use an older checkpoint",
        )


async def _nodes(tiles: AuthenticatedTiles, wanted: Sequence[Node], published: Checkpoint) -> dict[Node, bytes]:
    nodes: dict[Node, bytes] = {}
    for node in wanted:
        tile = tile_of_node(node, TreeSize(published.size))
        nodes[node] = node_in_tile(tile, await tiles.hashes(tile.level, tile.index), node)
    return nodes
