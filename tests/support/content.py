"""Content stores for tests: small chunks and packs, so that a megabyte shows what a terabyte does."""

from __future__ import annotations

import io
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ledger.content import (
    ChunkIndex,
    Chunking,
    Collected,
    Collector,
    Content,
    ContentLimits,
    ContentReader,
    ContentWriter,
    Lease,
    Leases,
    referenced_packs,
    synchronise,
)
from ledger.content.references import Gone
from ledger.content.released import read_released, released_events
from ledger.core.chunks import ContentKeys
from ledger.core.event import Event
from ledger.core.manifest import Dataref, Manifest, parse_dataref
from ledger.store.base import ObjectStore
from tests.support.ledgers import append
from tests.support.replicas import Replicas

FILES = "urn:files"
SECRET = bytes(range(32))
KEYS = ContentKeys.derive(SECRET)
SMALL = ContentLimits(pack_size=2**16, chunking=Chunking(256, 1024, 4096))


def noise(seed: int, size: int) -> bytes:
    """Bytes that do not compress."""
    return random.Random(seed).randbytes(size)


@asynccontextmanager
async def writing(
    objects: ObjectStore,
    *,
    index: ChunkIndex | None = None,
    leases: Leases | None = None,
    limits: ContentLimits = SMALL,
) -> AsyncIterator[ContentWriter]:
    """A writer under a lease of its own, with an index made from the store."""
    held = leases or Leases(objects)
    lease = await held.begin()
    try:
        async with await ContentWriter.open(objects, KEYS, index or ChunkIndex(), lease, limits) as writer:
            yield writer
    finally:
        held.end(lease)


async def stored(objects: ObjectStore, *datas: bytes, limits: ContentLimits = SMALL) -> list[Content]:
    """Each of these as content, durable."""
    async with writing(objects, limits=limits) as writer:
        contents = [await writer.add(io.BytesIO(data)) for data in datas]
        await writer.flush()
        return contents


async def reader(objects: ObjectStore) -> ContentReader:
    """With nothing but the store and the ledger's secret."""
    index = ChunkIndex()
    await synchronise(index, objects, KEYS)
    return ContentReader(objects, KEYS, index)


async def read(objects: ObjectStore, manifest: Manifest) -> bytes:
    """The whole content."""
    return b"".join([part async for part in (await reader(objects)).read(manifest)])


async def refer(
    replicas: Replicas,
    data: bytes,
    *,
    keyid: str | None = None,
    limits: ContentLimits = SMALL,
    source: str = FILES,
) -> Dataref:
    """One more entry of a ledger in memory, which refers to that content, published."""
    async with writing(replicas.published, limits=limits) as writer:
        content = await writer.add(io.BytesIO(data))
        await writer.flush()
        text = await writer.dataref(content)
        size = (await replicas.store.head()).size
        event = Event(id=f"c{size}", source=source, type="t.v1", data=b"{}", dataref=text, keyid=keyid)
        _, replicas.epoch = await append(replicas.store, [event], replicas.clock, lease=Lease())
    await replicas.publish()
    dataref = parse_dataref(text or "")
    assert dataref is not None
    return dataref


async def release(replicas: Replicas, *indexes: int, source: str = FILES) -> None:
    """One more entry, which says that these need their content no more, published."""
    at = (await replicas.store.head()).size
    events = released_events(replicas.origin, source, indexes, 1_800_000_000, at)
    _, replicas.epoch = await append(replicas.store, events, replicas.clock)
    await replicas.publish()


async def collect(replicas: Replicas) -> Collected:
    """A collection of the primary's own copy, in whose log nothing was erased."""

    async def references() -> set[bytes]:
        gone = Gone((), await read_released(replicas.store))
        return await referenced_packs(replicas.store, replicas.published, gone.retains)

    async def barrier() -> None:
        return None

    leases = Leases(replicas.published)
    return await Collector(replicas.published, leases, ChunkIndex(), references=references, barrier=barrier).run()


async def keys_under(objects: ObjectStore, prefix: str) -> list[str]:
    """The names of the objects there."""
    return [key async for key in objects.list_keys(prefix)]


async def bytes_under(objects: ObjectStore, prefix: str) -> int:
    """How many bytes they have together."""
    return sum([len((await objects.get(key)).data) for key in await keys_under(objects, prefix)])
