"""Fills packs with sealed chunks from several threads, and stores each when it is full. For `ContentWriter` only."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import NamedTuple

from ledger.content.index import ChunkIndex
from ledger.core.chunks import NONCE_SIZE, ChunkRef, ContentKeys
from ledger.core.manifest import pack_key
from ledger.core.packs import PACK_HEADER, Blob, PackTable, encode_trailer
from ledger.errors import Fenced, JinshiError
from ledger.store.base import ObjectStore


@dataclass(eq=False, slots=True)
class OpenPack:
    """A pack being filled, then stored; `name` once it is closed, `durable` once it is stored."""

    size: int = len(PACK_HEADER)
    name: bytes | None = None
    durable: bool = False
    parts: list[bytes] = field(default_factory=lambda: [PACK_HEADER], repr=False)
    blobs: list[Blob] = field(default_factory=list, repr=False)

    def add(self, ref: ChunkRef, blob: bytes) -> None:
        """One more blob at its end."""
        self.blobs.append(Blob(ref.id, self.size, len(blob), ref.length))
        self.parts.append(blob)
        self.size += len(blob)


@dataclass(eq=False, slots=True)
class Place:
    """Where a chunk is going to be: in `pack`, once it is sealed."""

    pack: OpenPack | None = None


class Claim(NamedTuple):
    """What is to be done with a chunk: nothing, it is `stored` in that pack; or, when it is `mine`, seal it."""

    stored: bytes | None
    place: Place | None
    mine: bool


class Packing:
    """One capture's packs. Whatever fails ends all of it: no chunk is silently left out."""

    def __init__(self, objects: ObjectStore, keys: ContentKeys, index: ChunkIndex, pack_size: int, packs_max: int):
        assert packs_max >= 2
        self._objects = objects
        self._keys = keys
        self._index = index
        self._pack_size = pack_size
        self._packs_max = packs_max
        self._loop = asyncio.get_running_loop()
        self._changed = threading.Condition()
        self._pending: dict[bytes, Place] = {}
        self._unsealed = 0
        self._draining = False
        self._open: OpenPack | None = None
        self._live: set[OpenPack] = set()
        self._storing: set[Future[None]] = set()
        self._failed: BaseException | None = None
        self._tables: list[PackTable] = []

    def claim(self, ref: ChunkRef, excluded: frozenset[bytes]) -> Claim:
        """Where the chunk is or will be; the first to ask for a chunk that is nowhere has to `deliver` it."""
        with self._changed:
            self._check()
            while self._draining:
                self._wait()
            place = self._pending.get(ref.id)
            if place is not None:
                return Claim(None, place, mine=False)
            found = self._index.find(ref.id, excluded=excluded)
            if found is not None:
                return Claim(found.pack, None, mine=False)
            place = self._pending[ref.id] = Place()
            self._unsealed += 1
            return Claim(None, place, mine=True)

    def deliver(self, ref: ChunkRef, blob: bytes, place: Place) -> None:
        """The blob of a claimed chunk. Blocks while too many packs are in memory. Raises what storing one raised."""
        with self._changed:
            while self._open is None and len(self._live) >= self._packs_max:
                self._wait()
            self._check()
            if self._open is None:
                self._open = OpenPack()
                self._live.add(self._open)
            pack = self._open
            pack.add(ref, blob)
            place.pack = pack
            self._unsealed -= 1
            full = pack.size >= self._pack_size
            if full:
                self._open = None
            self._changed.notify_all()
        if full:
            self._close(pack)

    def drain(self) -> list[PackTable]:
        """Store everything that is claimed so far; blocks. The tables of the packs stored since the last call."""
        with self._changed:
            self._draining = True
            try:
                while self._unsealed:
                    self._wait()
                self._check()
                pack, self._open = self._open, None
                waiting = set(self._live)
            finally:
                self._draining = False
                self._changed.notify_all()
        if pack is not None:
            self._close(pack)
        with self._changed:
            while not all(one.durable for one in waiting):
                self._wait()
            tables, self._tables = self._tables, []
        return tables

    def fail(self, error: BaseException) -> None:
        """Nothing can be delivered any more; whoever waits is told."""
        with self._changed:
            self._failed = self._failed or error
            self._changed.notify_all()

    async def stop(self) -> None:
        """No more packs. Returns when none is being stored."""
        self.fail(Fenced("this capture was stopped", hint="start it again: it goes on"))
        with self._changed:
            storing = list(self._storing)
        await asyncio.gather(*map(asyncio.wrap_future, storing), return_exceptions=True)

    def _close(self, pack: OpenPack) -> None:
        try:
            pack.parts.append(encode_trailer(self._keys, secrets.token_bytes(NONCE_SIZE), pack.blobs))
            data = b"".join(pack.parts)
            pack.parts.clear()
            pack.name = hashlib.sha256(data).digest()
            with self._changed:
                self._check()
                storing = asyncio.run_coroutine_threadsafe(self._store(pack, data), self._loop)
                self._storing.add(storing)
            storing.add_done_callback(self._storing.discard)
        except BaseException as error:
            self.fail(error)
            raise

    async def _store(self, pack: OpenPack, data: bytes) -> None:
        assert pack.name is not None
        try:
            await self._objects.put_immutable(pack_key(pack.name), data)
            # Commit point of a pack: a crash after this line leaves it to be found by the next capture.
            table = PackTable(pack.name, tuple(pack.blobs))
            await asyncio.to_thread(self._index.add, [table])
        except BaseException as error:
            self.fail(error)
            raise
        with self._changed:
            for blob in table.blobs:
                del self._pending[blob.id]
            pack.blobs.clear()
            pack.durable = True
            self._live.discard(pack)
            self._tables.append(table)
            self._changed.notify_all()

    def _wait(self) -> None:
        self._check()
        self._changed.wait()
        self._check()

    def _check(self) -> None:
        if self._failed is None:
            return
        if isinstance(self._failed, JinshiError):
            raise self._failed
        raise RuntimeError("a pack could not be stored") from self._failed
