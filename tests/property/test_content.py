"""Any bytes come back, however they are cut and packed; what is only shifted is not stored again."""

from __future__ import annotations

import io
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from pyfastcdc import FastCDC

from ledger.content import Chunking
from ledger.content.chunker import Chunker
from ledger.core.manifest import PACKS, encode_manifest, parse_manifest
from ledger.store.memory import MemoryObjectStore
from tests.support.content import KEYS, SMALL, bytes_under, noise, read, stored

CHUNKINGS = [Chunking(64, 256, 1024), Chunking(256, 1024, 4096), Chunking(256, 512, 1024)]

CONTENTS = st.lists(
    st.one_of(
        st.binary(max_size=3_000),
        st.builds(lambda seed, size: noise(seed, size), st.integers(0, 3), st.integers(0, 40_000)),
        st.builds(lambda part, times: part * times, st.binary(min_size=1, max_size=50), st.integers(0, 2_000)),
    ),
    max_size=5,
)


@settings(max_examples=40, deadline=None)
@given(CONTENTS, st.sampled_from(CHUNKINGS), st.integers(2**10, 2**16), st.integers(1, 3))
async def test_any_bytes_come_back(datas: list[bytes], chunking: Chunking, pack_size: int, parallel: int) -> None:
    objects = MemoryObjectStore()
    limits = replace(SMALL, chunking=chunking, pack_size=pack_size, parallel=parallel)
    contents = await stored(objects, *datas, limits=limits)
    for content, data in zip(contents, datas, strict=True):
        assert await read(objects, parse_manifest(encode_manifest(content.manifest))) == data


class Dripping(io.BytesIO):
    """Gives as much at a time as it likes."""

    def __init__(self, data: bytes, most: int) -> None:
        super().__init__(data)
        self._most = most

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        return super().readinto(buffer[: self._most])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 50), st.integers(0, 60_000), st.sampled_from(CHUNKINGS), st.integers(1, 5_000))
def test_where_content_is_cut_depends_on_nothing_but_the_content(
    seed: int, size: int, chunking: Chunking, most: int
) -> None:
    data = noise(seed, size)
    chunker = Chunker(chunking, KEYS.boundaries)
    whole = [bytes(chunk) for chunk in chunker.cut(io.BytesIO(data))]
    assert [bytes(chunk) for chunk in chunker.cut(Dripping(data, most))] == whole
    assert b"".join(whole) == data
    assert all(len(chunk) <= chunking.size_max for chunk in whole)
    assert all(len(chunk) >= chunking.size_min for chunk in whole[:-1])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 50), st.integers(0, 60_000), st.sampled_from(CHUNKINGS), st.booleans())
def test_it_is_cut_as_if_all_of_it_were_at_hand(seed: int, size: int, chunking: Chunking, text: bool) -> None:
    data = noise(seed, size).hex().encode()[:size] if text else noise(seed, size)
    cut = [bytes(chunk) for chunk in Chunker(chunking, KEYS.boundaries).cut(io.BytesIO(data))]
    whole = FastCDC(
        chunking.size_avg, min_size=chunking.size_min, max_size=chunking.size_max, seed=KEYS.boundaries
    ).cut_buf(data)
    assert [len(chunk) for chunk in cut] == [chunk.length for chunk in whole if data]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 50), st.integers(1, 60_000), st.sampled_from([1_000, 4_096]))
def test_what_is_short_is_one_chunk_and_what_is_long_is_cut_finely_behind_its_beginning(
    seed: int, size: int, first: int
) -> None:
    data = noise(seed, size)
    chunking = Chunking(64, 256, 1024, first)
    cut = [bytes(chunk) for chunk in Chunker(chunking, KEYS.boundaries).cut(io.BytesIO(data))]
    assert b"".join(cut) == data
    assert len(cut) == 1 or first <= len(cut[0]) <= 2 * first
    assert all(len(chunk) <= chunking.size_max for chunk in cut[1:])
    behind = Chunker(Chunking(64, 256, 1024), KEYS.boundaries).cut(io.BytesIO(data[len(cut[0]) :]))
    assert [bytes(chunk) for chunk in behind] == cut[1:]


@settings(max_examples=15, deadline=None)
@given(st.binary(min_size=1, max_size=500), st.integers(0, 1_000), st.integers(0, 100_000))
async def test_what_is_only_shifted_is_not_stored_again(inserted: bytes, seed: int, where: int) -> None:
    objects = MemoryObjectStore()
    data = noise(seed, 400_000)
    await stored(objects, data)
    before = await bytes_under(objects, PACKS)
    await stored(objects, data[:where] + inserted + data[where:])
    assert await bytes_under(objects, PACKS) - before < 0.2 * len(data)
