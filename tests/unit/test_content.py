"""The content store: what is taken comes back, duplicates are stored once, damage shows, a stopped capture goes on."""

from __future__ import annotations

import asyncio
import hashlib
import io
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from ledger.content import ChunkIndex, Chunking, ContentLimits, ContentReader, Leases, Piece, synchronise
from ledger.core.manifest import (
    DATAREF_PACKS_MAX,
    INDEX,
    PACKS,
    Manifest,
    encode_manifest,
    list_key,
    pack_key,
    parse_dataref,
    parse_list,
    parse_manifest,
)
from ledger.core.packs import Blob, PackTable
from ledger.errors import Fenced, Malformed, StoreUnavailable, Tampered
from ledger.store.directory import DirectoryStore
from ledger.store.faulty import FaultyObjectStore, Outcome
from ledger.store.memory import MemoryObjectStore
from ledger.store.versions import EveryVersion
from tests.support.content import KEYS, SMALL, bytes_under, keys_under, noise, read, reader, stored, writing

TINY = replace(SMALL, chunking=Chunking(64, 256, 1024))


async def test_content_comes_back_from_packs_and_manifest_alone(tmp_path: Path) -> None:
    objects = DirectoryStore(tmp_path)
    datas = [b"", b"x", noise(1, 300), noise(2, 300_000), b"text " * 50_000]
    contents = await stored(objects, *datas)
    for key in await keys_under(objects, INDEX):
        await objects.purge(key)
    for content, data in zip(contents, datas, strict=True):
        manifest = parse_manifest(encode_manifest(content.manifest))
        assert await read(objects, manifest) == data
        assert (manifest.length, manifest.digest) == (len(data), hashlib.sha256(data).digest())


async def test_streams_taken_at_once_share_their_chunks() -> None:
    objects = MemoryObjectStore()
    data = noise(3, 400_000)
    async with writing(objects, limits=replace(SMALL, parallel=4)) as writer:
        contents = await asyncio.gather(*(writer.add(io.BytesIO(data)) for _ in range(12)))
        await writer.flush()
    assert await bytes_under(objects, PACKS) < 1.2 * len(data)
    for content in contents:
        assert await read(objects, content.manifest) == data


async def test_packs_are_as_large_as_they_should_be() -> None:
    objects = MemoryObjectStore()
    await stored(objects, noise(4, 10 * SMALL.pack_size))
    sizes = sorted([len((await objects.get(key)).data) for key in await keys_under(objects, PACKS)])
    assert len(sizes) >= 10
    assert all(SMALL.pack_size <= size < 1.2 * SMALL.pack_size for size in sizes[1:])


async def test_the_next_capture_finds_what_was_stored_and_says_in_which_packs() -> None:
    objects = MemoryObjectStore()
    data = noise(5, 200_000)
    (first,) = await stored(objects, data)
    before = set(await keys_under(objects, PACKS))
    async with writing(objects) as writer:
        again = await writer.add(io.BytesIO(data))
        await writer.flush()
        assert writer.found == set(first.packs())
    assert again.manifest == first.manifest
    assert again.packs() == first.packs()
    assert set(await keys_under(objects, PACKS)) == before


async def test_lists_of_chunks_that_are_too_long_are_content_themselves() -> None:
    objects = MemoryObjectStore()
    data = noise(6, 1_500_000)  # at 256 + 64 bytes a chunk: some 4,700 chunks, whose list is 1,000 chunks in turn
    (content,) = await stored(objects, data, limits=TINY)
    assert content.manifest.depth >= 2
    assert len(encode_manifest(content.manifest)) < 17_000
    assert await read(objects, content.manifest) == data


async def test_a_dataref_names_every_pack_and_a_list_where_they_are_many() -> None:
    objects = MemoryObjectStore()
    async with writing(objects, limits=replace(TINY, pack_size=2**12)) as writer:
        few, many = await writer.add(io.BytesIO(noise(7, 9_000))), await writer.add(io.BytesIO(noise(8, 600_000)))
        nothing = await writer.add(io.BytesIO())
        await writer.flush()
        named, listed = await writer.dataref(few), await writer.dataref(many)
        assert await writer.dataref(nothing) is None
    assert named is not None
    assert listed is not None
    short, long = parse_dataref(named), parse_dataref(listed)
    assert short is not None
    assert long is not None
    assert short.packs == tuple(few.packs())
    assert long.listed is not None
    packs = parse_list((await objects.get(list_key(long.listed))).data)
    assert list(packs) == many.packs()
    assert len(packs) > DATAREF_PACKS_MAX
    assert {pack_key(pack) for pack in packs} <= set(await keys_under(objects, PACKS))


async def test_an_index_made_from_the_packs_alone_is_equal(tmp_path: Path) -> None:
    objects = DirectoryStore(tmp_path / "site")
    (tmp_path / "site").mkdir()
    index = ChunkIndex(tmp_path / "index.sqlite")
    async with writing(objects, index=index) as writer:
        for seed in range(5):
            await writer.add(io.BytesIO(noise(seed, 150_000)))
            await writer.flush()
    from_segments, from_packs = ChunkIndex(), ChunkIndex()
    taken = await synchronise(from_segments, objects, KEYS)
    assert (taken.from_segments, taken.from_packs) == (taken.packs, 0)
    for key in await keys_under(objects, INDEX):
        await objects.purge(key)
    taken = await synchronise(from_packs, objects, KEYS)
    assert (taken.from_segments, taken.from_packs) == (0, taken.packs)
    assert from_packs.rows() == from_segments.rows() == index.rows()
    assert len(from_packs.rows()) > 100
    index.close()


async def test_a_damaged_pack_or_segment_is_named_and_nothing_new_refers_to_it() -> None:
    objects = MemoryObjectStore()
    data = noise(9, 200_000)
    (content,) = await stored(objects, data)
    for key in [(await keys_under(objects, INDEX))[0], pack_key(content.packs()[0])]:
        whole = (await objects.get(key)).data
        await objects.purge(key)
        await objects.put_immutable(key, whole[:-1] + bytes([whole[-1] ^ 1]))
    index = ChunkIndex()
    synced = await synchronise(index, objects, KEYS)
    assert len(synced.damaged) == 2
    assert content.packs()[0] not in index.packs()
    async with writing(objects) as writer:
        again = await writer.add(io.BytesIO(data))
        await writer.flush()
    assert content.packs()[0] not in again.packs()
    assert await read(objects, again.manifest) == data


@pytest.mark.parametrize("damage", ["removed", "cut short", "one bit", "another pack"])
async def test_damage_shows_before_the_end_of_a_read(damage: str) -> None:
    objects = MemoryObjectStore()
    content, other = await stored(objects, noise(10, 100_000), noise(11, 100_000))
    key = pack_key(content.packs()[0])
    whole = (await objects.get(key)).data
    apart = min(set(other.packs()) - set(content.packs()))
    replacement = (await objects.get(pack_key(apart))).data
    index = ChunkIndex()
    await synchronise(index, objects, KEYS)
    await objects.purge(key)
    if damage == "cut short":
        await objects.put_immutable(key, whole[:-40_000])
    elif damage == "one bit":
        await objects.put_immutable(key, whole[:20_000] + bytes([whole[20_000] ^ 4]) + whole[20_001:])
    elif damage == "another pack":
        await objects.put_immutable(key, replacement)
    with pytest.raises(Tampered) as told:
        [part async for part in ContentReader(objects, KEYS, index).read(content.manifest)]
    assert told.value.key == key


@pytest.mark.parametrize("damage", ["one bit", "another pack", "no pack", "deleted"])
@pytest.mark.parametrize("scattered", [True, False])
async def test_a_pack_that_something_was_put_over_is_read_from_the_version_that_was_stored(
    damage: str, scattered: bool
) -> None:
    objects = MemoryObjectStore(versioned=True)
    data = noise(30, 300_000)
    content, other = await stored(objects, data, noise(31, 300_000))
    index = ChunkIndex()
    copy = EveryVersion(objects)
    await synchronise(index, copy, KEYS)
    source = ContentReader(copy, KEYS, index)
    key = pack_key(content.packs()[0])
    whole = await objects.get(key)
    if damage == "one bit":
        changed = whole.data[:20_000] + bytes([whole.data[20_000] ^ 1]) + whole.data[20_001:]
        await objects.replace(key, changed, expected=whole.tag)
    elif damage == "another pack":
        apart = min(set(other.packs()) - set(content.packs()))
        await objects.replace(key, (await objects.get(pack_key(apart))).data, expected=whole.tag)
    elif damage == "no pack":
        await objects.replace(key, b"rotten", expected=whole.tag)
    else:
        await objects.delete(key)
    if scattered:
        found = bytearray(len(data))
        await source.scatter([content.manifest], lambda piece: put(found, piece))
        assert found == data
    else:
        assert b"".join([part async for part in source.read(content.manifest)]) == data
    assert [alarm.key for alarm in copy.alarms.found] == [key]


async def test_a_manifest_that_was_put_together_wrongly_is_refused_at_the_end() -> None:
    objects = MemoryObjectStore()
    (content,) = await stored(objects, noise(12, 50_000))
    swapped = content.manifest.chunks[::-1]
    with pytest.raises(Tampered, match="another digest"):
        await read(objects, Manifest(content.manifest.length, content.manifest.digest, swapped))


async def test_a_stream_that_cannot_be_read_ends_its_own_content_only() -> None:
    class Torn(io.BytesIO):
        def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
            if self.tell() > 30_000:
                raise PermissionError("gone")
            return super().readinto(buffer[:5_000])

    objects = MemoryObjectStore()
    async with writing(objects) as writer:
        with pytest.raises(PermissionError):
            await writer.add(Torn(noise(13, 100_000)))
        content = await writer.add(io.BytesIO(noise(14, 100_000)))
        await writer.flush()
    assert await read(objects, content.manifest) == noise(14, 100_000)


@pytest.mark.parametrize("outcome", [Outcome.FAIL_NOT_PERSISTED, Outcome.FAIL_PERSISTED])
async def test_a_pack_that_cannot_be_stored_stops_the_capture_and_the_next_one_goes_on(outcome: Outcome) -> None:
    memory = MemoryObjectStore()
    packs = iter(range(100))
    full = threading.Event()

    def third(operation: str, key: str) -> Outcome:
        if operation == "put_immutable" and key.startswith(PACKS) and next(packs) == 2:
            full.set()
            return outcome
        return Outcome.PASS

    data = noise(15, 8 * SMALL.pack_size)
    async with writing(FaultyObjectStore(memory, third)) as writer:
        with pytest.raises(StoreUnavailable, match="on demand"):  # noqa: PT012
            await writer.add(io.BytesIO(data))
            await writer.flush()
        with pytest.raises(StoreUnavailable, match="on demand"):
            await writer.flush()
        with pytest.raises(StoreUnavailable, match="on demand"):
            await writer.add(io.BytesIO(b"more"))
    assert full.is_set()
    before = await bytes_under(memory, PACKS)
    assert before >= 2 * SMALL.pack_size
    async with writing(memory) as writer:
        content = await writer.add(io.BytesIO(data))
        await writer.flush()
        assert len(writer.found) >= 2
    assert await read(memory, content.manifest) == data
    assert await bytes_under(memory, PACKS) < 1.2 * len(data) + SMALL.pack_size


async def test_nothing_is_taken_when_the_lease_has_ended() -> None:
    objects = MemoryObjectStore()
    leases = Leases(objects)
    async with writing(objects, leases=leases) as writer:
        leases.end(writer._lease)
        with pytest.raises(Fenced):
            await writer.add(io.BytesIO(b"late"))


async def test_memory_is_bounded_however_slow_the_store_is() -> None:
    gate = asyncio.Event()
    waiting: list[int] = []

    class Slow(MemoryObjectStore):
        async def put_immutable(self, key: str, data: bytes) -> None:
            waiting.append(len(data))
            await gate.wait()
            await super().put_immutable(key, data)

    objects = Slow()
    read_so_far = 0

    class Counting(io.BytesIO):
        def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
            nonlocal read_so_far
            count = super().readinto(buffer)
            read_so_far += count
            return count

    data = noise(16, 40 * SMALL.pack_size)
    async with writing(objects) as writer:
        taking = asyncio.ensure_future(writer.add(Counting(data)))
        try:
            await asyncio.wait([taking], timeout=0.5)  # it would have come to its end long ago
            assert not taking.done()
            assert len(waiting) == SMALL.packs_max
            assert read_so_far < (SMALL.packs_max + 2) * SMALL.pack_size
        finally:
            gate.set()
        content = await taking
        await writer.flush()
    assert await read(objects, content.manifest) == data


async def test_a_reader_holds_few_packs_and_reads_each_once_in_order() -> None:
    asked: list[str] = []

    class Counting(MemoryObjectStore):
        async def get(self, key: str):  # type: ignore[no-untyped-def]  # noqa: ANN202
            asked.append(key)
            return await super().get(key)

    objects = Counting()
    data = noise(17, 10 * SMALL.pack_size)
    (content,) = await stored(objects, data)
    source = await reader(objects)
    asked.clear()
    assert b"".join([part async for part in source.read(content.manifest)]) == data
    assert len(asked) == len(set(asked)) == len(content.packs())


def put(content: bytearray, piece: Piece) -> None:
    content[piece.offset : piece.offset + len(piece.data)] = piece.data


async def test_scattered_reading_fills_every_content_and_reads_each_pack_once() -> None:
    objects = MemoryObjectStore()
    shared = noise(18, 100_000)
    datas = [b"", shared, noise(19, 50_000) + shared, noise(20, 900_000), shared]
    contents = await stored(objects, *datas, limits=TINY)
    source = await reader(objects)
    filled = [bytearray(len(data)) for data in datas]
    asked: list[str] = []
    get = objects.get

    async def counting(key: str):  # type: ignore[no-untyped-def]  # noqa: ANN202
        asked.append(key)
        return await get(key)

    objects.get = counting  # type: ignore[method-assign]
    flat = [content.manifest for content in contents if not content.manifest.depth]
    numbers = [number for number, content in enumerate(contents) if not content.manifest.depth]
    await source.scatter(flat, lambda piece: put(filled[numbers[piece.content]], piece))
    assert len(asked) == len(set(asked))
    await source.scatter([content.manifest for content in contents], lambda piece: put(filled[piece.content], piece))
    assert [bytes(one) for one in filled] == datas


async def test_scattered_reading_stops_at_a_damaged_chunk() -> None:
    objects = MemoryObjectStore()
    (content,) = await stored(objects, noise(21, 100_000))
    source = await reader(objects)
    key = pack_key(content.packs()[0])
    whole = (await objects.get(key)).data
    await objects.purge(key)
    await objects.put_immutable(key, whole[:20_000] + bytes([whole[20_000] ^ 4]) + whole[20_001:])
    with pytest.raises(Tampered) as told:
        await source.scatter([content.manifest], lambda _: None)
    assert told.value.key == key


@pytest.mark.parametrize("damage", ["one bit", "cut short", "missing"])
async def test_scattered_reading_out_of_a_directory_gives_each_piece_once_and_names_what_is_damaged(
    damage: str, tmp_path: Path
) -> None:
    objects = DirectoryStore(tmp_path)
    datas = [noise(32, 400_000), noise(33, 70_000), noise(32, 400_000)]
    contents = await stored(objects, *datas)
    source = await reader(objects)
    given: dict[tuple[int, int], bytes] = {}

    def take(piece: Piece) -> None:
        assert (piece.content, piece.offset) not in given
        given[piece.content, piece.offset] = bytes(piece.data)

    await source.scatter([content.manifest for content in contents], take)
    for number, data in enumerate(datas):
        assert b"".join(given[place] for place in sorted(given) if place[0] == number) == data
    key = pack_key(contents[1].packs()[-1])
    pack = tmp_path / key
    whole = pack.read_bytes()
    pack.chmod(0o600)
    if damage == "one bit":
        pack.write_bytes(whole[:2_000] + bytes([whole[2_000] ^ 4]) + whole[2_001:])
    elif damage == "cut short":
        pack.write_bytes(whole[:2_000])
    else:
        pack.unlink()
    given.clear()
    with pytest.raises(Tampered) as told:
        await source.scatter([content.manifest for content in contents], take)
    assert told.value.key == key
    assert all(datas[number][offset:].startswith(data) for (number, offset), data in given.items())


async def test_the_sites_see_neither_plaintext_nor_ids_nor_keys() -> None:
    objects = MemoryObjectStore()
    text = b"the same sentence again and again, " * 2_000
    (content,) = await stored(objects, text)
    everything = b"".join([(await objects.get(key)).data for key in await keys_under(objects, "content/")])
    assert text[:35] not in everything
    for ref in content.manifest.chunks:
        assert ref.id not in everything
        assert ref.key not in everything
        assert ref.key.hex() not in repr(ref)


def test_a_pack_that_is_known_already_changes_nothing() -> None:
    index = ChunkIndex()
    tables = [PackTable(bytes([number]) * 32, (Blob(b"c" * 32, 14, 50, 20),)) for number in (1, 2)]
    index.add(tables)
    before = index.rows()
    index.add([PackTable(bytes([1]) * 32, (Blob(b"d" * 32, 14, 50, 20),))])
    assert index.rows() == before
    found = index.find(b"c" * 32)
    assert found is not None
    other = index.find(b"c" * 32, excluded={found.pack})
    assert other is not None
    assert {found.pack, other.pack} == {table.pack for table in tables}
    index.forget([found.pack])
    assert index.find(b"c" * 32) == other


@pytest.mark.parametrize(
    "rest",
    [
        "",
        "list/",
        "A" * 64,
        "a" * 63,
        f"list/{'a' * 64},{'b' * 64}",
        f"{'b' * 64},{'a' * 64}",
        f"{'a' * 64},{'a' * 64}",
        ",".join(f"{number:064x}" for number in range(DATAREF_PACKS_MAX + 1)),
    ],
)
def test_a_dataref_has_one_spelling(rest: str) -> None:
    with pytest.raises(Malformed):
        parse_dataref(f"jinshi-content:1/{rest}")


async def test_limits_of_the_default_are_those_of_the_design() -> None:
    limits = ContentLimits()
    largest = limits.pack_size + limits.chunking.size_max
    assert limits.pack_size >= 8 * 2**20
    assert largest < 32 * 2**20
