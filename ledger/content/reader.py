"""Content out of packs: in order, every chunk proven to be the one that was named, a few packs ahead."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import zip_longest
from typing import Final, NamedTuple, TypeVar

from ledger.content.index import ChunkIndex, Location, read_digest
from ledger.core.chunks import ChunkRef, ContentKeys, open_chunk
from ledger.core.manifest import REF_SIZE, Manifest, decode_refs, pack_key
from ledger.core.packs import PACK_HEADER
from ledger.errors import Malformed, ObjectMissing, Tampered
from ledger.store.base import ObjectStore

T = TypeVar("T")

PACKS_READ_AT_ONCE: Final = 2
THREADED_SIZE_MIN: Final = 2**16
"""A chunk of fewer bytes is opened at once: handing it to a thread costs more."""

PLANNED_MAX: Final = 65_536
GROUP_SIZE: Final = 2**20

_Places = list[tuple[int, int]]
_Wanted = dict[tuple[ChunkRef, Location], _Places]
_Group = list[tuple[tuple[ChunkRef, Location], _Places]]
_Plan = dict[bytes, _Wanted]


class Piece(NamedTuple):
    """Bytes of the content with that number among those asked for, and where in it they belong."""

    content: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class ReaderLimits:
    """`packs_max`: how many packs are kept in memory; `ahead`: how many chunks are opened before they are asked for."""

    packs_max: int = 3
    ahead: int = 3


class ContentReader:
    """Reads content of one copy of a ledger. For one event loop; several contents may be read at once."""

    def __init__(
        self, objects: ObjectStore, keys: ContentKeys, index: ChunkIndex, limits: ReaderLimits | None = None
    ) -> None:
        """`index` knows the packs of this copy (see `synchronise`)."""
        self._objects = objects
        self._keys = keys
        self._index = index
        self._limits = limits or ReaderLimits()
        self._packs: OrderedDict[bytes, asyncio.Task[bytes]] = OrderedDict()
        self._opening = asyncio.Semaphore(self._limits.ahead)
        self._reading = asyncio.Semaphore(PACKS_READ_AT_ONCE)

    async def read(self, manifest: Manifest) -> AsyncIterator[bytes]:
        """The content, chunk by chunk. Memory: `ahead` chunks, and the packs kept.

        Only what comes before the end of the iteration is proven chunk by chunk; the length and the digest of the
        whole are proven when it ends without an error.

        Raises:
            Tampered: a chunk is missing or damaged, or together they are not the content.
            StoreUnavailable: the copy cannot be read.
        """
        digest, length = hashlib.sha256(), 0
        async for chunk in self._chunks(self._refs(manifest)):
            length += len(chunk)
            digest.update(chunk)
            yield chunk
        if (length, digest.digest()) != (manifest.length, manifest.digest):
            raise Tampered(
                f"content of {manifest.length} bytes came out as {length} bytes with another digest",
                hint="its manifest was not written by jinshi, or was changed",
            )

    async def scatter(self, manifests: Iterable[Manifest], take: Callable[[Piece], None]) -> None:
        """Many contents at once, in the order of packs: each pack is read once for every `PLANNED_MAX` chunks.

        `take` is called in threads, several at a time, and may get a piece again. For places that can be written in any
        order, such as files: far faster than `read` where contents share chunks. Every piece is proven to be the chunk
        that is named there; the digest of a whole is the caller's to check.

        Raises:
            Tampered: a chunk is missing or damaged.
            StoreUnavailable: the copy cannot be read.
            whatever `take` raises.
        """
        plan: _Plan = {}
        planned = 0
        for number, manifest in enumerate(manifests):
            offset = 0
            async for ref in self._refs(manifest):
                location = self._locate(ref)
                plan.setdefault(location.pack, {}).setdefault((ref, location), []).append((number, offset))
                offset += ref.length
                planned += 1
                if planned == PLANNED_MAX:
                    await self._follow(plan, take)
                    plan, planned = {}, 0
        await self._follow(plan, take)

    async def _follow(self, plan: _Plan, take: Callable[[Piece], None]) -> None:
        opening: deque[asyncio.Task[None]] = deque()
        packs = list(plan)
        try:
            for pack, following in zip_longest(packs, packs[1:]):
                data = await self._pack(pack)
                if following is not None:
                    self._packs.pop(pack, None)  # the last may be the first of what comes next
                for number, group in enumerate(_groups(plan.pop(pack)), 1):
                    opening.append(asyncio.ensure_future(self._give(pack, data, group, take)))
                    if len(opening) >= self._limits.ahead:
                        await opening.popleft()
                    if following is not None and number == self._limits.ahead:
                        self._fetch(following)  # nobody needs the one before any more: two are in memory
            while opening:
                await opening.popleft()
        finally:
            await asyncio.gather(*opening, return_exceptions=True)

    async def _give(self, pack: bytes, data: bytes, group: _Group, take: Callable[[Piece], None]) -> None:
        try:
            await asyncio.to_thread(self._give_all, data, group, take)
        except Tampered:
            await asyncio.to_thread(self._give_all, await self._prove(pack), group, take)

    def _give_all(self, pack: bytes, group: _Group, take: Callable[[Piece], None]) -> None:
        for (ref, location), places in group:
            data = self._open(ref, location, pack)
            for content, offset in places:
                take(Piece(content, offset, data))

    async def _refs(self, manifest: Manifest, depth: int = 0) -> AsyncIterator[ChunkRef]:
        """The chunks at level `depth` of a manifest."""
        if depth == manifest.depth:
            for ref in manifest.chunks:
                yield ref
            return
        rest = b""
        async for part in self._chunks(self._refs(manifest, depth + 1)):
            whole = rest + part
            end = len(whole) - len(whole) % REF_SIZE
            rest = whole[end:]
            try:
                refs = decode_refs(whole[:end])
            except Malformed as error:
                raise Tampered(f"a list of chunks cannot be read ({error.what})", hint=error.hint) from error
            for ref in refs:
                yield ref
        if rest:
            raise Tampered("a list of chunks is cut short", hint="its manifest was not written by jinshi")

    async def _chunks(self, refs: AsyncIterator[ChunkRef]) -> AsyncIterator[bytes]:
        waiting: deque[asyncio.Task[bytes]] = deque()
        try:
            async for ref in refs:
                waiting.append(asyncio.ensure_future(self._chunk(ref)))
                if len(waiting) >= self._limits.ahead:
                    yield await waiting.popleft()
            while waiting:
                yield await waiting.popleft()
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    async def _chunk(self, ref: ChunkRef) -> bytes:
        location = self._locate(ref)

        async def opened(pack: bytes) -> bytes:
            if ref.length < THREADED_SIZE_MIN:
                return self._open(ref, location, pack)
            async with self._opening:
                return await asyncio.to_thread(self._open, ref, location, pack)

        return await self._from(location.pack, opened)

    def _locate(self, ref: ChunkRef) -> Location:
        found = self._index.find(ref.id)
        if found is None:
            where = self._objects.where
            raise Tampered(f"chunk {ref.id.hex()} is in no pack of {where}", hint="use another copy, or heal this one")
        return found

    def _open(self, ref: ChunkRef, location: Location, pack: bytes) -> bytes:
        try:
            return open_chunk(self._keys, ref, memoryview(pack)[location.offset : location.offset + location.size])
        except Tampered as error:
            key = pack_key(location.pack)
            raise Tampered(f"{self._objects.where}/{key}: {error.what}", key=key, hint=error.hint) from error

    async def _from(self, name: bytes, opened: Callable[[bytes], Awaitable[T]]) -> T:
        """What is opened out of a pack. Every chunk proves itself, so the whole pack is proven only where one does not.

        Then the pack is named as damaged, or what was stored is another version of it.
        """
        pack = await self._pack(name)
        try:
            return await opened(pack)
        except Tampered:
            return await opened(await self._prove(name))

    async def _pack(self, name: bytes) -> bytes:
        """A whole pack; those used last are kept. Who asks for one that is being read waits for the same reading."""
        task = self._fetch(name)
        try:
            return await asyncio.shield(task)
        except BaseException:
            if task.done() and self._packs.get(name) is task:
                del self._packs[name]
            raise

    def _fetch(self, name: bytes) -> asyncio.Task[bytes]:
        task = self._packs.get(name)
        if task is None:
            task = self._packs[name] = asyncio.ensure_future(self._read(name))
            while len(self._packs) > self._limits.packs_max:
                self._packs.popitem(last=False)
        self._packs.move_to_end(name)
        return task

    async def _read(self, name: bytes) -> bytes:
        """A pack as the store has it; when it does not even begin as one, it is proven."""
        with suppress(ObjectMissing):
            async with self._reading:
                data = (await self._objects.get(pack_key(name))).data
            if data.startswith(PACK_HEADER):
                return data
        return await self._prove(name)

    async def _prove(self, name: bytes) -> bytes:
        """The bytes that have the digest a pack is named by. Raises Tampered: it is damaged, or missing."""
        key = pack_key(name)
        self._packs.pop(name, None)  # what the store answers with may be another version from then on
        try:
            async with self._reading:
                return await read_digest(self._objects, key, name)
        except ObjectMissing as error:
            raise Tampered(f"{error.what}", key=key, hint="use another copy, or heal this one") from error


def _groups(wanted: _Wanted) -> Iterator[_Group]:
    """In the order they lie in, so many at a time that handing them to a thread costs little."""
    group: _Group = []
    size = 0
    for one in sorted(wanted.items(), key=lambda found: found[0][1].offset):
        group.append(one)
        size += one[0][0].length
        if size >= GROUP_SIZE:
            yield group
            group, size = [], 0
    if group:
        yield group
