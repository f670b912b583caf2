"""Content out of packs: in order, every chunk proven to be the one that was named, a few packs ahead."""

from __future__ import annotations

import asyncio
import hashlib
import struct
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import zip_longest
from typing import Final, NamedTuple, TypeVar

from ledger.content.index import ChunkIndex, Location, read_digest
from ledger.core.chunks import Buffer, ChunkRef, ContentKeys, open_chunk
from ledger.core.manifest import REF_SIZE, Manifest, decode_refs, pack_key
from ledger.core.packs import PACK_HEADER
from ledger.errors import Malformed, ObjectMissing, Tampered
from ledger.store.base import ObjectStore, read_part_of
from ledger.tasks import run_bounded

T = TypeVar("T")

PACKS_READ_AT_ONCE: Final = 2
THREADED_SIZE_MIN: Final = 2**16
"""A chunk of fewer bytes is opened at once: handing it to a thread costs more."""

PLANNED_MAX: Final = 65_536
LOCATED_TOGETHER: Final = 512
GROUP_SIZE: Final = 2**21
GAP_SIZE_MAX: Final = 2**16

_PLANNED: Final = struct.Struct(">IIQII32s32s")
_Planned = tuple[int, int, int, int, int, bytes, bytes]
"""A chunk that is wanted of a pack: place, content, offset in it, size, length, id, key. So they sort by place."""


class Piece(NamedTuple):
    """Bytes of the content with that number among those asked for, and where in it they belong."""

    content: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class ReaderLimits:
    """`packs_max`: how many packs are kept in memory; `ahead`: how many chunks are opened before they are asked for.

    `parallel`: in how many threads `scatter` opens them.
    """

    packs_max: int = 3
    ahead: int = 3
    parallel: int = 2


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

        `take` is called in threads, several at a time, once for each piece; those of one pack come in the order they
        lie in. For places that can be written in any order, such as files: far faster than `read` where contents share
        chunks. Every piece is proven to be the chunk that is named there; the digest of a whole is the caller's to
        check.

        Raises:
            Tampered: a chunk is missing or damaged.
            StoreUnavailable: the copy cannot be read.
            whatever `take` raises; others that are at work may come to the end of their chunk after that.
        """
        plan = _Plan(self._index, self._objects.where)
        for number, manifest in enumerate(manifests):
            offset = 0
            async for ref in self._refs(manifest):
                plan.add(number, offset, ref)
                offset += ref.length
                if plan.count == PLANNED_MAX:
                    await self._follow(plan, take)
                    plan = _Plan(self._index, self._objects.where)
        await self._follow(plan, take)

    async def _follow(self, plan: _Plan, take: Callable[[Piece], None]) -> None:
        wanted = plan.packs()
        names = list(wanted)
        giving = _Giving(self._keys, self._objects, take)

        def jobs() -> Iterator[Coroutine[None, None, None]]:
            for name, following in zip_longest(names, names[1:]):
                pack = None if giving.in_parts else self._fetch(name)
                if following is not None:  # the last may be the first of what comes next
                    self._packs.pop(name, None)
                for number, group in enumerate(_groups(wanted.pop(name)), 1):
                    yield self._give(giving, name, group, pack)
                    if pack is not None and following is not None and number == self._limits.parallel:
                        self._fetch(following)  # nobody needs the one before any more: two are in memory

        try:
            await run_bounded(jobs(), parallel=self._limits.parallel)
        finally:
            giving.stop()

    async def _give(
        self, giving: _Giving, name: bytes, group: deque[_Planned], reading: asyncio.Task[bytes] | None
    ) -> None:
        """Some of the chunks of a pack; from the first that does not hold on, out of the pack as it is proven."""
        try:
            if reading is None:
                await asyncio.to_thread(giving.read, name, group)
            else:
                await asyncio.to_thread(giving.give, name, group, await self._read_by(name, reading))
        except (Tampered, ObjectMissing):
            await asyncio.to_thread(giving.give, name, group, await self._prove(name))

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
            raise _nowhere(ref, self._objects.where)
        return found

    def _open(self, ref: ChunkRef, location: Location, pack: bytes) -> bytes:
        blob = memoryview(pack)[location.offset : location.offset + location.size]
        return _opened(self._keys, ref, blob, location.pack, self._objects.where)

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
        return await self._read_by(name, self._fetch(name))

    async def _read_by(self, name: bytes, task: asyncio.Task[bytes]) -> bytes:
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


class _Giving:
    """Hands chunks to `take`, for several threads at once."""

    def __init__(self, keys: ContentKeys, objects: ObjectStore, take: Callable[[Piece], None]) -> None:
        self._keys = keys
        self._where = objects.where
        self._read_part = read_part_of(objects)
        self._take = take
        self._buffers: list[bytearray] = []
        self._stopped = False

    @property
    def in_parts(self) -> bool:
        """Whether packs need not be read whole."""
        return self._read_part is not None

    def read(self, name: bytes, group: deque[_Planned]) -> None:
        """Some of the chunks of a pack, which are read first, into a buffer that is used again. Raises as `scatter`."""
        assert self._read_part is not None
        start = group[0][0]
        size = group[-1][0] + group[-1][3] - start
        buffer = self._buffers.pop() if self._buffers else bytearray(GROUP_SIZE)
        if len(buffer) < size:
            buffer = bytearray(size)
        try:
            with memoryview(buffer) as view:
                filled = self._read_part(pack_key(name), start, view[:size])
                self.give(name, group, view[:filled], start)
        finally:
            self._buffers.append(buffer)

    def give(self, name: bytes, group: deque[_Planned], pack: Buffer, start: int = 0) -> None:
        """The same out of a pack, or of what of it comes from `start` on. What was given is taken out of the group."""
        view = memoryview(pack)
        place, data = -1, b""
        while group and not self._stopped:
            at, content, offset, size, length, id_, key = group[0]
            if at != place:
                data = b""  # two are never in memory
                blob = view[at - start : at - start + size]
                data = _opened(self._keys, ChunkRef(id_, key, length), blob, name, self._where)
                place = at
            group.popleft()
            self._take(Piece(content, offset, data))

    def stop(self) -> None:
        """Nothing more is given, but what is being given."""
        self._stopped = True


def _opened(keys: ContentKeys, ref: ChunkRef, blob: memoryview, name: bytes, where: str) -> bytes:
    try:
        return open_chunk(keys, ref, blob)
    except Tampered as error:
        key = pack_key(name)
        raise Tampered(f"{where}/{key}: {error.what}", key=key, hint=error.hint) from error


def _groups(planned: bytearray) -> Iterator[deque[_Planned]]:
    """In the order they lie in, so many at a time that handing them to a thread costs little."""
    group: deque[_Planned] = deque()
    start = end = 0
    for one in sorted(_PLANNED.iter_unpack(planned)):
        place, size = one[0], one[3]
        if group and (place + size - start > GROUP_SIZE or place - end > GAP_SIZE_MAX):
            yield group
            group = deque()
        if not group:
            start = place
        group.append(one)
        end = place + size
    if group:
        yield group


class _Plan:
    """Which chunks are wanted of which packs, 88 bytes each."""

    def __init__(self, index: ChunkIndex, where: str) -> None:
        self._index = index
        self._where = where
        self._waiting: list[tuple[int, int, ChunkRef]] = []
        self._packs: dict[bytes, bytearray] = {}
        self.count = 0

    def add(self, content: int, offset: int, ref: ChunkRef) -> None:
        """One more. Raises Tampered: one of those added is in no pack."""
        self.count += 1
        self._waiting.append((content, offset, ref))
        if len(self._waiting) == LOCATED_TOGETHER:
            self._locate()

    def packs(self) -> dict[bytes, bytearray]:
        """All of them, by pack, in the order in which packs were first wanted. Raises as `add`."""
        self._locate()
        return self._packs

    def _locate(self) -> None:
        found = self._index.find_many([ref.id for _, _, ref in self._waiting])
        for content, offset, ref in self._waiting:
            location = found.get(ref.id)
            if location is None:
                raise _nowhere(ref, self._where)
            planned = _PLANNED.pack(location.offset, content, offset, location.size, ref.length, ref.id, ref.key)
            self._packs.setdefault(location.pack, bytearray()).extend(planned)
        self._waiting.clear()


def _nowhere(ref: ChunkRef, where: str) -> Tampered:
    return Tampered(f"chunk {ref.id.hex()} is in no pack of {where}", hint="use another copy, or heal this one")
