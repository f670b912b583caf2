"""Collecting packs over a real log: what is referred to stays, what is in doubt stays, the rest goes."""

from __future__ import annotations

import asyncio
import io

import pytest

from ledger.content import CONDEMNED, ChunkIndex, Collected, Collector, Lease, Leases, collector, referenced_packs
from ledger.content.collector import drop_empty_segments
from ledger.core.event import Event
from ledger.core.manifest import INDEX, LISTS, PACKS, parse_dataref
from ledger.errors import Fenced, StoreUnavailable, Tampered
from ledger.store.faulty import FaultyObjectStore, Outcome
from ledger.store.memory import MemoryEntryStore, MemoryObjectStore
from tests.support.content import KEYS, SMALL, keys_under, noise, read, writing
from tests.support.ledgers import append


async def barrier() -> None:
    return None


class Captured:
    """A log in memory that refers to content, and everything a collection of it takes."""

    def __init__(self) -> None:
        self.entries = MemoryEntryStore()
        self.objects = MemoryObjectStore()
        self.index = ChunkIndex()
        self.leases = Leases(self.objects)
        self.dropped: set[int] = set()

    async def refer(self, dataref: str | None) -> None:
        size = (await self.entries.head()).size
        event = Event(id=f"e{size}", source="urn:s", type="t.v1", data=b"{}", dataref=dataref)
        await append(self.entries, [event], lease=Lease())

    async def capture(self, data: bytes) -> list[bytes]:
        async with writing(self.objects, index=self.index, leases=self.leases) as writer:
            content = await writer.add(io.BytesIO(data))
            await writer.flush()
            await self.refer(await writer.dataref(content))
        return content.packs()

    async def references(self) -> set[bytes]:
        return await referenced_packs(self.entries, self.objects, lambda index, _: index not in self.dropped)

    def collector(self, objects: MemoryObjectStore | FaultyObjectStore | None = None) -> Collector:
        return Collector(objects or self.objects, self.leases, self.index, references=self.references, barrier=barrier)


async def test_only_what_no_retained_entry_refers_to_is_removed() -> None:
    captured = Captured()
    kept = await captured.capture(noise(1, 200_000))
    await captured.capture(noise(2, 200_000))
    listed = await captured.capture(noise(3, 70 * SMALL.pack_size))
    assert await keys_under(captured.objects, LISTS)
    captured.dropped.add(1)
    done = await captured.collector().run()
    assert done.removed == done.condemned > 2
    assert {bytes.fromhex(key[len(PACKS) :]) for key in await keys_under(captured.objects, PACKS)} == {*kept, *listed}
    assert captured.index.packs() == {*kept, *listed}
    assert await captured.collector().run() == Collected()
    captured.dropped |= {0, 2}
    await captured.collector().run()
    assert await keys_under(captured.objects, PACKS) == await keys_under(captured.objects, LISTS) == []
    await drop_empty_segments(captured.objects, KEYS, captured.index.packs())
    assert await keys_under(captured.objects, INDEX) == []


async def test_more_than_one_collection_condemns_goes_in_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector, "CONDEMNED_MAX", 2)
    captured = Captured()
    packs = await captured.capture(noise(1, 400_000))
    assert len(packs) > 4
    captured.dropped.add(0)
    assert await captured.collector().run() == Collected(len(packs), len(packs))
    assert await keys_under(captured.objects, PACKS) == []


async def test_a_running_capture_is_waited_for_and_what_it_refers_to_is_pardoned() -> None:
    captured = Captured()
    data = noise(4, 200_000)
    await captured.capture(data)
    captured.dropped.add(0)
    async with writing(captured.objects, index=captured.index, leases=captured.leases) as writer:
        content = await writer.add(io.BytesIO(data))
        assert (await captured.collector().run(wait=False)).waiting == 1
        collecting = asyncio.ensure_future(captured.collector().run())
        await writer.flush()
        await captured.refer(await writer.dataref(content))
        assert not collecting.done()
    done = await collecting
    assert (done.removed, done.pardoned) == (0, len(content.packs()))
    assert await read(captured.objects, content.manifest) == data


async def test_a_capture_that_begins_later_stores_what_is_condemned_again() -> None:
    captured = Captured()
    data = noise(5, 200_000)
    old = await captured.capture(data)
    captured.dropped.add(0)
    blocking = await captured.leases.begin()
    assert (await captured.collector().run(wait=False)).waiting == 1
    new = await captured.capture(data)
    assert not set(old) & set(new)
    captured.leases.end(blocking)
    assert (await captured.collector().run()).removed == len(old)
    assert captured.index.packs() == set(new)


async def test_an_interrupted_sweep_is_finished_by_the_next_run() -> None:
    captured = Captured()
    await captured.capture(noise(6, 400_000))
    captured.dropped.add(0)
    calls = iter(range(1_000))

    def third_fails(operation: str, _key: str) -> Outcome:
        return Outcome.FAIL_NOT_PERSISTED if operation == "purge" and next(calls) == 4 else Outcome.PASS

    with pytest.raises(StoreUnavailable):
        await captured.collector(FaultyObjectStore(captured.objects, third_fails)).run()
    assert await keys_under(captured.objects, PACKS)
    assert (await captured.collector().run()).removed > 3
    assert await keys_under(captured.objects, PACKS) == []


async def test_nothing_is_removed_while_what_is_referred_to_is_in_doubt() -> None:
    captured = Captured()
    await captured.capture(noise(7, 70 * SMALL.pack_size))
    (key,) = await keys_under(captured.objects, LISTS)
    await captured.objects.purge(key)
    before = await keys_under(captured.objects, PACKS)
    with pytest.raises(Tampered, match="entry 0 refers to content that cannot be told"):
        await captured.collector().run()
    await captured.refer("jinshi-content:1/what a later jinshi writes")
    with pytest.raises(Tampered):
        await captured.collector().run()
    assert await keys_under(captured.objects, PACKS) == before
    await captured.objects.replace(CONDEMNED, b"{}", expected=None)
    with pytest.raises(Tampered):
        await captured.leases.begin()
    assert captured.leases.older_than(10) == 0


async def test_who_is_not_the_writer_any_more_removes_nothing() -> None:
    captured = Captured()
    await captured.capture(noise(8, 100_000))
    captured.dropped.add(0)
    before = await keys_under(captured.objects, PACKS)

    async def fenced() -> None:
        raise Fenced("another writer")

    collector = Collector(
        captured.objects, captured.leases, captured.index, references=captured.references, barrier=fenced
    )
    with pytest.raises(Fenced):
        await collector.run()
    assert await keys_under(captured.objects, PACKS) == before


async def test_datarefs_that_lead_elsewhere_are_not_looked_at() -> None:
    captured = Captured()
    await captured.refer("https://elsewhere/")
    await captured.refer(None)
    packs = await captured.capture(noise(9, 1_000))
    assert await captured.references() == set(packs)
    assert parse_dataref("https://elsewhere/") is None
