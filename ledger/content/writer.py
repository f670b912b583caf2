"""Content on its way into packs: cut, named, looked up, packed, sealed and stored, in parallel and in bounded memory.

A crash leaves packs that no entry refers to; the next capture finds their chunks and goes on from there.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, cast

from ledger.content.chunker import WHOLE_UP_TO, Chunker, Chunking, Readable
from ledger.content.index import ChunkIndex, synchronise
from ledger.content.leases import Lease
from ledger.content.packing import Claim, OpenPack, Packing, Place
from ledger.core.chunks import NONCE_SIZE, Buffer, ChunkRef, ContentKeys, Packer, packer, seal_chunk
from ledger.core.manifest import (
    DATAREF_PACKS_MAX,
    INDEX,
    MANIFEST_CHUNKS_MAX,
    UNIQUE_SIZE,
    Dataref,
    Manifest,
    encode_list,
    encode_refs,
    list_key,
)
from ledger.core.packs import encode_segment
from ledger.store.base import ObjectStore

HELPED_SIZE_MIN: Final = 2**16
"""A chunk of fewer bytes is sealed where it was cut: handing it over costs more. So is one when enough streams are
being taken to occupy everybody."""
REFS_IN_MEMORY: Final = 2**22

_PLACES_KEPT = 256


@dataclass(frozen=True, slots=True)
class ContentLimits:
    """`parallel`: streams taken at a time; as many chunks more are sealed beside them.

    `pack_size`: a pack is closed when it reaches so many bytes. At most `packs_max` are in memory.
    """

    parallel: int = 2
    pack_size: int = 2**23
    packs_max: int = 3
    chunking: Chunking = field(default_factory=lambda: Chunking(size_first=WHOLE_UP_TO))


class Content:
    """What was taken from one stream. Its manifest holds keys: it belongs into the data of a sealed entry."""

    def __init__(self) -> None:
        self.manifest = Manifest(0, hashlib.sha256().digest(), ())
        self._stored: set[bytes] = set()
        self._packs: set[OpenPack] = set()
        self._places: list[Place] = []

    def packs(self) -> list[bytes]:
        """The names of the packs it lies in, ascending; once they are stored, that is after `ContentWriter.flush`."""
        self._settle()
        assert not self._places, "flush the writer before content is referred to"
        assert all(pack.durable for pack in self._packs), "flush the writer before content is referred to"
        return sorted(self._stored.union(pack.name or b"" for pack in self._packs))

    def note(self, claim: Claim) -> None:
        """One more chunk, and where it is or will be."""
        if claim.stored is not None:
            self._stored.add(claim.stored)
        elif claim.place is not None:
            self._places.append(claim.place)
            if len(self._places) >= _PLACES_KEPT:
                self._settle()

    def _settle(self) -> None:
        self._packs.update(place.pack for place in self._places if place.pack is not None)
        self._places = [place for place in self._places if place.pack is None]


class _Spool(Protocol):
    """A temporary file: what `tempfile` makes, as far as it is used here."""

    def readinto(self, buffer: memoryview, /) -> int | None: ...
    def read(self, size: int = -1, /) -> bytes: ...
    def write(self, data: Buffer, /) -> int: ...
    def seek(self, position: int, /) -> int: ...
    def tell(self) -> int: ...
    def close(self) -> None: ...


class _Refs:
    """The chunks of one stream: as they are while a manifest can name them, as records in a spool beyond."""

    def __init__(self) -> None:
        self.first: list[ChunkRef] = []
        self.spool: _Spool | None = None

    def append(self, ref: ChunkRef) -> None:
        if self.spool is not None:
            self.spool.write(encode_refs([ref]))
            return
        self.first.append(ref)
        if len(self.first) > MANIFEST_CHUNKS_MAX:
            self.spool = cast(_Spool, tempfile.SpooledTemporaryFile(max_size=REFS_IN_MEMORY))  # noqa: SIM115 (closed with this)
            self.spool.write(encode_refs(self.first))
            self.first.clear()

    def close(self) -> None:
        if self.spool is not None:
            self.spool.close()


class ContentWriter:
    """Takes content for one capture, under its lease. Safe to use from several tasks and threads."""

    def __init__(
        self, objects: ObjectStore, keys: ContentKeys, index: ChunkIndex, lease: Lease, limits: ContentLimits
    ) -> None:
        """See `open`."""
        self._objects = objects
        self._keys = keys
        self._lease = lease
        self._limits = limits
        self._packing = Packing(objects, keys, index, limits.pack_size, limits.packs_max)
        self._takers = ThreadPoolExecutor(limits.parallel, thread_name_prefix="take")
        self._sealers = ThreadPoolExecutor(limits.parallel + 1, thread_name_prefix="seal")  # one of them may drain
        self._helpers = threading.BoundedSemaphore(limits.parallel)
        self._taking: set[int] = set()
        self._chunkers: list[Chunker] = []
        self._own = threading.local()
        self._flushing = asyncio.Lock()
        self.found: set[bytes] = set()
        """Packs of earlier captures that chunks were found in: the locks on them have to be extended."""

    @classmethod
    async def open(
        cls,
        objects: ObjectStore,
        keys: ContentKeys,
        index: ChunkIndex,
        lease: Lease,
        limits: ContentLimits | None = None,
    ) -> ContentWriter:
        """With an index that knows every pack there is. Raises StoreUnavailable; Fenced: the lease has ended."""
        lease.check()
        await synchronise(index, objects, keys)  # after the lease has begun: docs/adr/0017 says why
        return cls(objects, keys, index, lease, limits or ContentLimits())

    async def __aenter__(self) -> ContentWriter:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def add(self, stream: Readable) -> Content:
        """Take a stream to its end, in a thread. Raises as `take`."""
        return await asyncio.get_running_loop().run_in_executor(self._takers, self.take, stream)

    def take(self, stream: Readable) -> Content:
        """Take a stream to its end; blocks: for threads of the caller's.

        Raises:
            Fenced: the lease has ended, or the writer is closed.
            StoreUnavailable, DiskFull: a pack could not be stored; the writer is of no use any more.
            whatever reading the stream raises; the writer stays usable.
        """
        content, digest, length = Content(), hashlib.sha256(), 0
        self._taking.add(threading.get_ident())
        try:
            with closing(_Refs()) as refs:
                for ref in self._chunks(stream, content, digest.update):
                    refs.append(ref)
                    length += ref.length
                depth, chunks = self._named(refs, content)
        finally:
            self._taking.discard(threading.get_ident())
        content.manifest = Manifest(length, digest.digest(), chunks, depth)
        return content

    def _named(self, refs: _Refs, content: Content) -> tuple[int, tuple[ChunkRef, ...]]:
        """The chunks that a manifest names for these, and how many levels they are above the content."""
        if refs.spool is None:
            return 0, tuple(refs.first)
        refs.spool.seek(0)
        with closing(_Refs()) as above:
            for ref in self._chunks(refs.spool, content, _ignore):
                above.append(ref)
            depth, chunks = self._named(above, content)
        return depth + 1, chunks

    def _chunks(self, stream: Readable, content: Content, each: Callable[[Buffer], Any]) -> Iterator[ChunkRef]:
        """The chunks of a stream; `each` sees their bytes in order. All of them are sealed when this ends."""
        helped: list[Future[None]] = []
        try:
            with self._chunker() as chunker:
                for chunk in chunker.cut(stream):
                    self._lease.check()
                    ref = self._keys.identify(chunk)
                    claim = self._packing.claim(ref, self._lease.excluded)
                    content.note(claim)
                    if claim.stored is not None:
                        self.found.add(claim.stored)
                    elif claim.mine and claim.place is not None:
                        self._pass_on(ref, chunk, claim.place, helped)
                    each(chunk)
                    yield ref
        finally:
            for one in helped:
                one.result()

    def _pass_on(self, ref: ChunkRef, chunk: memoryview, place: Place, helped: list[Future[None]]) -> None:
        helped_out = len(chunk) >= HELPED_SIZE_MIN and len(self._taking) < self._limits.parallel
        if not helped_out or not self._helpers.acquire(blocking=False):
            self._seal(ref, chunk, place)
            return
        helped[:] = [one for one in helped if not one.done() or one.exception()]
        try:
            helped.append(self._sealers.submit(self._help, ref, bytes(chunk), place))
        except BaseException as error:
            self._helpers.release()
            self._packing.fail(error)
            raise

    def _help(self, ref: ChunkRef, chunk: bytes, place: Place) -> None:
        try:
            self._seal(ref, chunk, place)
        finally:
            self._helpers.release()

    def _seal(self, ref: ChunkRef, chunk: Buffer, place: Place) -> None:
        try:
            blob = seal_chunk(ref, secrets.token_bytes(NONCE_SIZE), chunk, self._packer())
            self._packing.deliver(ref, blob, place)
        except BaseException as error:
            self._packing.fail(error)
            raise

    async def flush(self) -> None:
        """Everything taken so far is durable on return, and may be referred to. Raises as `take`."""
        async with self._flushing:
            tables = await asyncio.get_running_loop().run_in_executor(self._sealers, self._packing.drain)
            if tables:
                segment = encode_segment(self._keys, secrets.token_bytes(NONCE_SIZE), tables)
                await self._objects.put_immutable(INDEX + hashlib.sha256(segment).hexdigest(), segment)

    async def dataref(self, content: Content) -> str | None:
        """What an entry that refers to flushed content has as its `dataref`; None: the content is empty.

        Raises:
            StoreUnavailable: the list of its packs could not be stored.
        """
        packs = content.packs()
        if not packs:
            return None
        if len(packs) <= DATAREF_PACKS_MAX:
            return str(Dataref(tuple(packs)))
        listed = encode_list(packs, secrets.token_bytes(UNIQUE_SIZE))
        name = hashlib.sha256(listed).digest()
        await self._objects.put_immutable(list_key(name), listed)
        return str(Dataref(listed=name))

    async def close(self) -> None:
        """Stop. What was not flushed may be stored or not; nothing is being stored on return."""
        await self._packing.stop()
        await asyncio.to_thread(self._takers.shutdown)
        await asyncio.to_thread(self._sealers.shutdown)
        await self._packing.stop()

    @contextmanager
    def _chunker(self) -> Iterator[Chunker]:
        """One that nobody else is using: its buffer is large, and used again."""
        try:
            chunker = self._chunkers.pop()
        except IndexError:
            chunker = Chunker(self._limits.chunking, self._keys.boundaries)
        try:
            yield chunker
        finally:
            self._chunkers.append(chunker)

    def _packer(self) -> Packer:
        found: Packer | None = getattr(self._own, "packer", None)
        if found is None:
            found = self._own.packer = packer()
        return found


def _ignore(_: Buffer) -> None:
    return None
