"""The one place that checks a copy against a checkpoint: for the auditor, the mirror, the restore and the drill.

Hash tiles are authenticated from the root down, bundles against the tiles at level 0, in index order and in bounded
memory. Whether the checkpoint itself is to be trusted is the trust policy's question (core/policy.py). Handed an
`EveryVersion`, the first version of an object that belongs to the tree counts, whatever was put over it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing, suppress
from functools import partial
from itertools import islice, product
from typing import Final, TypeVar

from ledger.content.references import ContentAudit
from ledger.content.released import ReleaseAudit, Released
from ledger.core.checkpoint import Checkpoint
from ledger.core.merkle import EMPTY_ROOT, HASH_SIZE, CompactRange, frontier_nodes, leaf_hash, root_hash
from ledger.core.tiles import (
    ENTRIES,
    TILE_WIDTH,
    Tile,
    decode_bundle,
    decode_tile,
    encode_bundle,
    node_in_tile,
    parse_tile_path,
    tile_of_node,
)
from ledger.core.tiling import frontier_of
from ledger.errors import Forked, Malformed, MalformedTile, ObjectMissing, Tampered
from ledger.keyring import KeyringAudit
from ledger.store.base import ObjectStore
from ledger.store.versions import EveryVersion, read_checked
from ledger.tasks import Report, run_bounded

T = TypeVar("T")

PARALLEL = 8
EDGES_TRIED_MAX: Final = 4_096
_TILES_KEPT = 64

OnBundle = Callable[[int, Sequence[bytes]], Awaitable[None]]
"""Handed verified entries: the index of the first, and their bytes."""


async def read_tile(objects: ObjectStore, tile: Tile) -> bytes:
    """A tile or bundle as stored; a partial one that is gone is cut out of its full tile (C2SP tlog-tiles).

    Raises:
        Tampered: it is missing, or the full one cannot be read.
    """
    try:
        return (await objects.get(tile.path)).data
    except ObjectMissing as missing:
        error = Tampered(f"{objects.where}/{tile.path} is missing", key=tile.path, hint="use another copy")
        if not tile.partial:
            raise error from missing
    try:
        data = (await objects.get(tile.full.path)).data
    except ObjectMissing as missing:
        raise error from missing
    return _cut(objects, tile, data)


def _cut(objects: ObjectStore, tile: Tile, data: bytes) -> bytes:
    """A partial tile out of its full one."""
    try:
        if tile.level == ENTRIES:
            return encode_bundle(decode_bundle(data, TILE_WIDTH)[: tile.width])
        return b"".join(decode_tile(data, TILE_WIDTH)[: tile.width])
    except MalformedTile as malformed:
        raise _damaged(objects, tile.full, malformed.what) from malformed


async def _read_verified(
    objects: ObjectStore, tile: Tile, check: Callable[[bytes], T], *, read: bytes | Tampered | None = None
) -> T:
    """What `check` makes of a tile (`read`: as `read_tile` found it); of an older version where it refuses the newest.

    Raises:
        Tampered: no version of it is there that passes.
    """
    try:
        if isinstance(read, Tampered):
            raise read
        return check(await read_tile(objects, tile) if read is None else read)
    except Tampered as error:
        if not isinstance(objects, EveryVersion):
            raise
        try:
            return (await objects.find(tile.path, check, error))[0]
        except Tampered:
            if not tile.partial:
                raise
        return (await objects.find(tile.full.path, lambda data: check(_cut(objects, tile, data)), error))[0]


def _damaged(objects: ObjectStore, tile: Tile, what: str) -> Tampered:
    return Tampered(f"{objects.where}/{tile.path} is damaged: {what}", key=tile.path, hint="use another copy")


class AuthenticatedTiles:
    """The hash tiles of one checkpoint's tree, each proven to belong to its root before it is handed out."""

    def __init__(self, objects: ObjectStore, checkpoint: Checkpoint, edges: Sequence[Sequence[bytes]]) -> None:
        self._objects = objects
        self._size = checkpoint.size
        self._edges = edges
        self._kept: OrderedDict[Tile, asyncio.Future[list[bytes]]] = OrderedDict()
        self.tree = CompactRange(checkpoint.size, frontier_of(edges))

    @classmethod
    async def open(cls, objects: ObjectStore, checkpoint: Checkpoint) -> AuthenticatedTiles:
        """Read the right edge of the tree, which everything else hangs from.

        Raises:
            Tampered: it does not hash to the checkpoint's root; names the object where it can be told.
        """
        edges: list[list[bytes]] = []
        try:
            while checkpoint.size >> (8 * len(edges)):
                tile = _edge(checkpoint.size, len(edges))
                edges.append(await _hashes(objects, tile) if tile.width else [])
        except Tampered:
            if not isinstance(objects, EveryVersion) or (other := await _other_edges(objects, checkpoint)) is None:
                raise
            edges = other
        tiles = cls(objects, checkpoint, edges)
        if tiles.tree.root() != checkpoint.root:
            if isinstance(objects, EveryVersion) and (other := await _other_edges(objects, checkpoint)) is not None:
                return cls(objects, checkpoint, other)
            await tiles._blame_edge()
            raise Tampered(
                f"{objects.where}: the tiles hash to another root than the checkpoint of size {checkpoint.size}",
                key="checkpoint",
                hint="the checkpoint and the tiles belong to different histories; use another copy",
            )
        return tiles

    async def hashes(self, level: int, index: int) -> list[bytes]:
        """The hashes of one tile, as far as the tree has them. Raises Tampered, naming it."""
        tile = Tile(level, index)
        if (index << 8) + TILE_WIDTH > self._size >> (8 * level):
            return list(self._edges[level])
        found = self._kept.get(tile)
        if found is None:
            found = self._kept[tile] = asyncio.ensure_future(self._authenticate(tile))
            while len(self._kept) > _TILES_KEPT:
                self._kept.popitem(last=False)
        return await asyncio.shield(found)

    async def _authenticate(self, tile: Tile) -> list[bytes]:
        parent = await self.hashes(tile.level + 1, tile.index >> 8)

        def check(data: bytes) -> list[bytes]:
            hashes = _decode(self._objects, tile, data)
            if root_hash(hashes) != parent[tile.index % TILE_WIDTH]:
                raise _damaged(self._objects, tile, "it does not hash to what the tile above says")
            return hashes

        return await _read_verified(self._objects, tile, check)

    async def frontier_at(self, size: int) -> CompactRange:
        """The compact range of the first `size` leaves, from authenticated tiles only."""
        frontier: list[bytes] = []
        for node in frontier_nodes(size):
            tile = tile_of_node(node, self._size)
            frontier.append(node_in_tile(tile, await self.hashes(tile.level, tile.index), node))
        return CompactRange(size, tuple(frontier))

    def close(self) -> None:
        """End what is still being read."""
        for task in self._kept.values():
            if not task.done():
                task.cancel()
            elif not task.cancelled():
                task.exception()  # it was raised to whoever asked first
        self._kept.clear()

    async def _blame_edge(self) -> None:
        """Find the tile on the right edge that is wrong, by what lies below it. Raises Tampered when it is found."""
        for level, edge in enumerate(self._edges):
            tile = _edge(self._size, level)
            if level == 0 and edge:
                bundle = Tile(ENTRIES, tile.index, tile.width)
                entries = _entries(self._objects, bundle, await read_tile(self._objects, bundle))
                if [leaf_hash(entry) for entry in entries] != list(edge):
                    raise _damaged(self._objects, tile, f"it is not what the entries in {bundle.path} hash to")
            for number, value in enumerate(edge if level else ()):
                child = Tile(level - 1, (tile.index << 8) + number)
                if root_hash(await _hashes(self._objects, child)) != value:
                    raise _damaged(self._objects, tile, f"hash {number} is not that of {child.path}")


def _edge(size: int, level: int) -> Tile:
    """The partial tile on the right edge at a level; of width 0 where the last tile is full."""
    count = size >> (8 * level)
    return Tile(level, count >> 8, count % TILE_WIDTH)


async def _other_edges(objects: EveryVersion, checkpoint: Checkpoint) -> list[list[bytes]] | None:
    """The right edge put together out of older versions; None: no way of it leads to the checkpoint's root.

    Only all levels together can be held against the root. What was written first is tried first.
    """
    ways: list[list[tuple[list[bytes], Callable[[], None]]]] = []
    for level in range((checkpoint.size.bit_length() + 7) // 8):
        tile = _edge(checkpoint.size, level)
        if not tile.width:
            ways.append([([], lambda: None)])
            continue
        found = await objects.candidates(tile.path, partial(_decode, objects, tile))
        found += await objects.candidates(tile.full.path, partial(_decode_cut, objects, tile))
        ways.append(found)
    for way in islice(product(*ways), EDGES_TRIED_MAX):
        edges = [hashes for hashes, _ in way]
        if CompactRange(checkpoint.size, frontier_of(edges)).root() == checkpoint.root:
            for _, choose in way:
                choose()
            return edges
    return None


async def _hashes(objects: ObjectStore, tile: Tile) -> list[bytes]:
    return _decode(objects, tile, await read_tile(objects, tile))


def _decode_cut(objects: ObjectStore, tile: Tile, data: bytes) -> list[bytes]:
    return _decode(objects, tile, _cut(objects, tile, data))


def _decode(objects: ObjectStore, tile: Tile, data: bytes) -> list[bytes]:
    try:
        return decode_tile(data, tile.width)
    except MalformedTile as error:
        raise _damaged(objects, tile, error.what) from error


def _entries(objects: ObjectStore, bundle: Tile, data: bytes) -> list[bytes]:
    try:
        return decode_bundle(data, bundle.width)
    except MalformedTile as error:
        raise _damaged(objects, bundle, error.what) from error


async def verify_growth(
    objects: ObjectStore,
    old: tuple[int, bytes],
    new: Checkpoint,
    *,
    on_bundle: OnBundle | None = None,
    parallel: int = PARALLEL,
    report: Report | None = None,
) -> CompactRange:
    """Check that the copy holds the tree of `new`, and that it extends the tree `old` (size, root); returns the tree.

    Every entry from index `old` size on is read and verified; `on_bundle` gets them in index order, each only after it
    has been verified. What lies below is proven by hashes, not read again. (0, EMPTY_ROOT) checks everything.

    Raises:
        Tampered: an object is missing or wrong; `key` names it.
        Forked: the tree of `new` does not extend `old`.
    """
    old_size, old_root = old
    if old_size > new.size:
        raise Forked(f"{objects.where}: a tree of {new.size} entries cannot extend one of {old_size}", key="checkpoint")
    tiles = await AuthenticatedTiles.open(objects, new)
    try:
        before = await tiles.frontier_at(old_size)
        if before.root() != old_root:
            raise Forked(
                f"{objects.where}: the tree of {new.size} entries does not extend the known tree of {old_size}",
                key="checkpoint",
                hint="two histories of one log: keep both, and ask who held its key",
            )
        async with aclosing(_bundles(objects, tiles, old_size, new.size, parallel)) as bundles:
            async for start, entries in bundles:
                if on_bundle is not None:
                    await on_bundle(start, entries)
                if report is not None:
                    report(start + len(entries) - old_size, new.size - old_size)
    finally:
        tiles.close()
    return tiles.tree


async def verify_backwards(objects: ObjectStore, tree: Checkpoint, *, on_bundle: OnBundle) -> None:
    """Check that the copy holds a tree, and hand its entries out bundle by bundle, the last one first.

    So that who is told what an entry releases or erases comes to that entry knowing it.

    Raises:
        Tampered: an object is missing or wrong; `key` names it.
    """
    tiles = await AuthenticatedTiles.open(objects, tree)
    last = -(-tree.size // TILE_WIDTH)
    bundles = (Tile(ENTRIES, index, min(TILE_WIDTH, tree.size - index * TILE_WIDTH)) for index in reversed(range(last)))
    try:
        async with aclosing(_read_ahead(objects, tiles, bundles, PARALLEL)) as found:
            async for bundle, entries in found:
                await on_bundle(bundle.index * TILE_WIDTH, entries)
    finally:
        tiles.close()


async def released_in(objects: ObjectStore, tree: Checkpoint, start: int = 0) -> Released:
    """What the entries of a tree, from index `start` on, release, each proven; what is lost is passed over."""
    released = Released()
    try:
        tiles = await AuthenticatedTiles.open(objects, tree)
    except Tampered:
        return released

    async def look(index: int) -> None:
        bundle = Tile(ENTRIES, index, min(TILE_WIDTH, tree.size - index * TILE_WIDTH))
        with suppress(Tampered):
            for place, entry in enumerate(await read_bundle(objects, tiles, bundle), index * TILE_WIDTH):
                released.take(place, entry)

    try:
        last = -(-tree.size // TILE_WIDTH)
        await run_bounded((look(index) for index in range(start // TILE_WIDTH, last)), parallel=PARALLEL)
    finally:
        tiles.close()
    return released


async def verify_copy(
    objects: ObjectStore, checkpoint: Checkpoint, *, on_bundle: OnBundle | None = None, report: Report | None = None
) -> None:
    """Check a whole copy: everything `verify_growth` does, the keyring, the content, and that no other object
    contradicts the tree.

    Raises:
        Tampered: an object is missing, wrong, or of no tree this log can have, or an entry releases content that it may
            not; `key` names it.
    """
    keyring = KeyringAudit(checkpoint.origin, objects)
    content = ContentAudit(objects, learn=partial(released_in, objects, checkpoint), releases=ReleaseAudit())

    async def take(start: int, entries: Sequence[bytes]) -> None:
        await keyring.take(start, entries)
        await content.take(start, entries)
        if on_bundle is not None:
            await on_bundle(start, entries)

    await verify_growth(objects, (0, EMPTY_ROOT), checkpoint, on_bundle=take, report=report)
    await keyring.check(objects)
    content.check(keyring.erasures.erased)
    content.check_releases()
    await check_leftovers(objects, checkpoint.size)


async def check_leftovers(objects: ObjectStore, size: int) -> None:
    """Check that no other object under `tile/` contradicts the verified tree of that size. Raises Tampered."""
    async for key in objects.list_keys("tile/"):
        await _check_leftover(objects, key, size)


async def _check_leftover(objects: ObjectStore, key: str, size: int) -> None:
    """A partial tile of a smaller tree must be the beginning of what has been verified in its place."""
    try:
        tile = parse_tile_path(key)
    except Malformed as error:
        raise Tampered(f"{objects.where}/{key} is no tile", key=key, hint="find out who put it there") from error
    count = size >> (8 * max(tile.level, 0))
    width = min(TILE_WIDTH, count - tile.index * TILE_WIDTH)
    if not tile.partial or width <= tile.width:
        return  # verified, or of a larger tree that nobody has cosigned yet
    whole = await read_tile(objects, Tile(tile.level, tile.index, width))
    if tile.level == ENTRIES:
        whole = encode_bundle(_entries(objects, Tile(ENTRIES, tile.index, width), whole)[: tile.width])
    else:
        whole = whole[: tile.width * HASH_SIZE]

    def check(data: bytes) -> None:
        if data != whole:
            raise _damaged(objects, tile, f"it is not the beginning of {Tile(tile.level, tile.index, width).path}")

    try:
        await read_checked(objects, key, check)
    except ObjectMissing:
        return  # cleared away meanwhile: its full tile is stored


async def _bundles(
    objects: ObjectStore, tiles: AuthenticatedTiles, start: int, stop: int, parallel: int
) -> AsyncGenerator[tuple[int, list[bytes]], None]:
    """Verified entries from `start` on, bundle by bundle in order, `parallel` of them being read ahead."""
    indexes = range(start // TILE_WIDTH, -(-stop // TILE_WIDTH)) if start < stop else range(0)
    bundles = (Tile(ENTRIES, index, min(TILE_WIDTH, stop - index * TILE_WIDTH)) for index in indexes)
    async with aclosing(_read_ahead(objects, tiles, bundles, parallel)) as found:
        async for bundle, entries in found:
            skipped = max(0, start - bundle.index * TILE_WIDTH)
            yield bundle.index * TILE_WIDTH + skipped, entries[skipped:]


async def _read_ahead(
    objects: ObjectStore, tiles: AuthenticatedTiles, bundles: Iterator[Tile], parallel: int
) -> AsyncGenerator[tuple[Tile, list[bytes]], None]:
    """These bundles with their entries, verified, in the order given."""
    reading: deque[tuple[Tile, asyncio.Task[list[bytes]]]] = deque()
    try:
        while True:
            for bundle in islice(bundles, parallel - len(reading)):
                reading.append((bundle, asyncio.ensure_future(read_bundle(objects, tiles, bundle))))
            if not reading:
                return
            bundle, task = reading.popleft()
            yield bundle, await task
    finally:
        for _, task in reading:
            task.cancel()
        await asyncio.gather(*(task for _, task in reading), return_exceptions=True)


async def read_bundle(objects: ObjectStore, tiles: AuthenticatedTiles, bundle: Tile) -> list[bytes]:
    """The entries of a bundle, each what was signed for. Raises Tampered."""
    data, hashes = await asyncio.gather(_found(objects, bundle), tiles.hashes(0, bundle.index))

    def check(data: bytes) -> list[bytes]:
        entries = _entries(objects, bundle, data)
        for number, entry in enumerate(entries):
            if leaf_hash(entry) != hashes[number]:
                index = bundle.index * TILE_WIDTH + number
                raise _damaged(objects, bundle, f"entry {index} is not the one that was signed for")
        return entries

    return await _read_verified(objects, bundle, check, read=data)


async def _found(objects: ObjectStore, tile: Tile) -> bytes | Tampered:
    try:
        return await read_tile(objects, tile)
    except Tampered as error:
        return error
