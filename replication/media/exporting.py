"""Writes an increment of a ledger for offline media: proven first, then hash tiles and keys, then bundles in order,
each after the content that its entries refer to.

Where a medium lies, and how it gets its name when it is whole, is the command's business (cli/sites/media_export.py).
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeVar

from ledger.content.index import read_digest
from ledger.content.references import Gone, packs_of
from ledger.content.released import Released
from ledger.core.checkpoint import Checkpoint, OpenedCheckpoint
from ledger.core.entry import decode_entry
from ledger.core.manifest import list_key, pack_key
from ledger.core.note import format_note
from ledger.core.tiles import ENTRIES, TILE_WIDTH, Tile, growth
from ledger.errors import Forked, InvalidRequest, ObjectMissing, Tampered
from ledger.keyring import KEYRING
from ledger.keyring.logkey import ANNOUNCING
from ledger.protocols import Signer
from ledger.store.base import ObjectStore
from ledger.tasks import Report, run_bounded
from ledger.verify import AuthenticatedTiles, read_tile, verify_growth
from replication.contents import referring_in
from replication.media.medium import HEAD, OBJECTS_MAX, SUMS, Medium, format_sums, sign_medium

T = TypeVar("T")

PARALLEL = 8
BATCH_OBJECTS = 64
HEAD_SIZE = 16_384
"""What `medium.json` takes at most, for counting bytes before it is written."""
LOOKED_BACK_MAX = 1_000_000
"""How many packs are remembered as being at the site."""
_SUM_SIZE = 140
_KEYID_MARK = b'"keyid":"'
_ANNOUNCING_MARKS = tuple(f'"type":"{type_}"'.encode() for type_ in ANNOUNCING)


@dataclass(frozen=True, slots=True)
class Increment:
    """What is to be carried: from `base` entries to the log's `opened` checkpoint, for a site and its mirror.

    `erased`: ids of data keys that never leave. `known`: what the site has cosigned, as far as it is known. `released`:
    whose content is not carried.
    """

    site: str
    mirror: str
    base: int
    opened: OpenedCheckpoint
    epoch: int
    created: str
    erased: Collection[str] = ()
    known: Checkpoint | None = None
    released: Released = field(default_factory=Released)


@dataclass(slots=True)
class _Part:
    """One medium in the making."""

    objects: ObjectStore
    start: int
    stop: int
    sums: dict[str, str] = field(default_factory=dict)
    size_bytes: int = 0

    @property
    def weight(self) -> int:
        """Its size, with its list and head."""
        return self.size_bytes + _SUM_SIZE * len(self.sums) + HEAD_SIZE

    def takes(self, size: int, bytes_max: int | None) -> bool:
        """Whether an object of that size still fits."""
        fits = bytes_max is None or self.weight + size + _SUM_SIZE <= bytes_max
        return fits and len(self.sums) < OBJECTS_MAX

    def add(self, key: str, data: bytes) -> None:
        """Count an object in that is about to be written."""
        self.sums[key] = hashlib.sha256(data).hexdigest()
        self.size_bytes += len(data)


class Exporter:
    """Writes one increment out of `source`, what the primary has published (prefixed to the origin)."""

    def __init__(
        self,
        source: ObjectStore,
        increment: Increment,
        open_part: Callable[[int], tuple[ObjectStore, ObjectStore]],
        *,
        bytes_max: int | None = None,
    ) -> None:
        """`open_part`: by its number, where a part lies, and its objects (prefixed to the origin). `bytes_max`: of one
        part, its list and head included.
        """
        self._source = source
        self._wanted = increment
        self._open = open_part
        self._bytes_max = bytes_max
        self._parts: list[_Part] = []
        self._roots: list[ObjectStore] = []
        self._carried: set[str] = set()
        """Content that the site has, or that is on a part already."""

    async def run(self, signer: Signer, report: Report | None = None) -> list[Medium]:
        """Prove what is published, write it part by part, then every list and head; returns the heads.

        Raises:
            InvalidRequest: the site has all of it, or a part cannot hold what the first must hold.
            Forked: the site has cosigned another history.
            Tampered: what is published is damaged; nothing was written.
            DiskFull, StoreUnavailable: it cannot be written.
        """
        named = await self._prove()
        await self._look_back()
        self._next(self._wanted.base)
        await self._write_tiles()
        await self._write_keys(named)
        await self._write_bundles(report)
        return await self._finish(signer)

    # -- what is published --

    async def _prove(self) -> list[str] | None:
        """Verify the increment as a mirror will; the keys its entries name, None: all there are (it announces some)."""
        wanted, tree = self._wanted, self._wanted.opened.checkpoint
        tiles = await AuthenticatedTiles.open(self._source, tree)
        try:
            known, base = wanted.known, await tiles.frontier_at(wanted.base)
            if known is not None and (await tiles.frontier_at(known.size)).root() != known.root:
                raise Forked(
                    f"site {wanted.site!r} has cosigned another history of {known.size} entries",
                    hint="keep its receipt, and ask who held the log's key",
                )
        finally:
            tiles.close()
        named, announces = dict[str, None](), wanted.base == 0

        async def take(_start: int, entries: Sequence[bytes]) -> None:
            nonlocal announces
            for entry in entries:
                announces = announces or any(mark in entry for mark in _ANNOUNCING_MARKS)
                if _KEYID_MARK in entry and (keyid := decode_entry(entry).event.keyid) is not None:
                    named[keyid] = None

        await verify_growth(self._source, (wanted.base, base.root()), tree, on_bundle=take)
        return None if announces else list(named)

    async def _look_back(self) -> None:
        """What the site's entries refer to, it has; beyond a bound it is carried again, which does no harm."""
        for tile in _bundles(0, self._wanted.base):
            if len(self._carried) >= LOOKED_BACK_MAX:
                return
            content = await self._content(tile, await read_tile(self._source, tile))
            self._carried.update(key for _, key, _ in content)

    async def _content(self, tile: Tile, data: bytes) -> list[tuple[int, str, bytes]]:
        """What the entries of a bundle refer to: index, key and digest; erased and released ones aside."""
        found: list[tuple[int, str, bytes]] = []
        gone = Gone(self._wanted.erased, self._wanted.released)
        for one in referring_in(tile, data):
            if one in gone:
                continue
            try:
                packs = await packs_of(self._source, one.dataref)
            except ObjectMissing as error:
                raise self._lost(one.index, error.key) from error
            found += [(one.index, pack_key(pack), pack) for pack in packs]
            if one.dataref.listed is not None:
                found.append((one.index, list_key(one.dataref.listed), one.dataref.listed))
        return found

    def _lost(self, index: int, key: str) -> Tampered:
        return Tampered(
            f"{self._source.where}/{key} is missing: entry {index} refers to it, and is neither erased nor released",
            key=key,
            hint="put it back from a site before anything is carried",
        )

    # -- what is written --

    def _next(self, start: int) -> _Part:
        root, objects = self._open(len(self._parts) + 1)
        self._roots.append(root)
        self._parts.append(_Part(objects, start, start))
        return self._parts[-1]

    async def _write_tiles(self) -> None:
        tree = self._wanted.opened.checkpoint
        tiles = (tile for tile in growth(self._wanted.base, tree.size) if tile.level != ENTRIES)
        for batch in _batches(tiles):
            await self._write_first([(tile.path, await read_tile(self._source, tile)) for tile in batch])

    async def _write_keys(self, named: list[str] | None) -> None:
        """The keys, as the recovery key opens them; what is wrapped under an operating key never leaves."""
        if named is not None:
            keys = [KEYRING + keyid for keyid in named if keyid not in self._wanted.erased]
            for group in _batches(keys):
                await self._write_first([(key, await self._key(key)) for key in group])
            return
        async for key in self._source.list_keys(KEYRING):
            keyid = key.removeprefix(KEYRING)
            if "." not in keyid and keyid not in self._wanted.erased:
                await self._write_first([(key, await self._key(key))])

    async def _key(self, key: str) -> bytes:
        try:
            return (await self._source.get(key)).data
        except ObjectMissing as error:
            raise Tampered(
                f"{self._source.where}/{key} is missing: entries are sealed with it, and nobody erased it",
                key=key,
                hint="put it back from a site before anything is carried",
            ) from error

    async def _write_first(self, found: Sequence[tuple[str, bytes]]) -> None:
        """Objects of the first part: whoever takes in any other needs them."""
        part = self._parts[0]
        for key, data in found:
            if not part.takes(len(data), self._bytes_max):
                raise InvalidRequest(
                    f"the hash tiles and keys of {self._wanted.opened.checkpoint.size - self._wanted.base} entries do "
                    "not fit on one medium",
                    hint="use larger media, or a larger --max-bytes: the first must hold all of them",
                )
            part.add(key, data)
        await run_bounded((part.objects.put_immutable(key, data) for key, data in found), parallel=PARALLEL)

    async def _write_bundles(self, report: Report | None) -> None:
        base, size = self._wanted.base, self._wanted.opened.checkpoint.size
        for batch in _batches(_bundles(base, size)):
            found = await asyncio.gather(*(read_tile(self._source, tile) for tile in batch))
            writes: list[tuple[_Part, str, bytes]] = []
            for tile, data in zip(batch, found, strict=True):
                await self._write_content(tile, data)
                part = self._room_for(tile.path, data)
                part.stop = tile.index * TILE_WIDTH + tile.width
                writes.append((part, tile.path, data))
            await run_bounded((part.objects.put_immutable(key, data) for part, key, data in writes), parallel=PARALLEL)
            if report is not None:
                report(self._parts[-1].stop - base, size - base)

    async def _write_content(self, tile: Tile, bundle: bytes) -> None:
        """One at a time: a pack is large, and in memory as a whole."""
        for index, key, digest in await self._content(tile, bundle):
            if key in self._carried:
                continue
            try:
                data = await read_digest(self._source, key, digest)
            except ObjectMissing as error:
                raise self._lost(index, key) from error
            await self._room_for(key, data).objects.put_immutable(key, data)
            self._carried.add(key)

    def _room_for(self, key: str, data: bytes) -> _Part:
        """The part that takes an object, counted in: the last one, or another one. Raises InvalidRequest."""
        part = self._parts[-1]
        if not part.takes(len(data), self._bytes_max):
            part = self._next(part.stop)
            if not part.takes(len(data), self._bytes_max):
                raise InvalidRequest(
                    f"{key} of {len(data)} bytes does not fit on one medium",
                    hint="use larger media, or a larger --max-bytes",
                )
        part.add(key, data)
        return part

    async def _finish(self, signer: Signer) -> list[Medium]:
        wanted, tree = self._wanted, self._wanted.opened.checkpoint
        heads: list[Medium] = []
        for number, (root, part) in enumerate(zip(self._roots, self._parts, strict=True), 1):
            sums = format_sums(tree.origin, part.sums)
            await root.put_immutable(SUMS, sums)
            head = Medium(
                origin=tree.origin,
                site=wanted.site,
                mirror=wanted.mirror,
                base=wanted.base,
                size=tree.size,
                part=number,
                parts=len(self._parts),
                start=part.start,
                stop=part.stop,
                epoch=wanted.epoch,
                objects=len(part.sums),
                bytes=part.size_bytes,
                digest=hashlib.sha256(sums).hexdigest(),
                created=wanted.created,
                checkpoint=format_note(wanted.opened.note).decode("utf-8"),
            )
            await root.put_immutable(HEAD, sign_medium(head, signer))
            heads.append(head)
        return heads


def _bundles(base: int, size: int) -> Iterator[Tile]:
    for tile in growth(base, size):
        if tile.level != ENTRIES:
            return
        yield tile


def _batches(all_of_it: Iterable[T]) -> Iterator[tuple[T, ...]]:
    """Of BATCH_OBJECTS each; lazy."""
    remaining = iter(all_of_it)
    while batch := tuple(islice(remaining, BATCH_OBJECTS)):
        yield batch
