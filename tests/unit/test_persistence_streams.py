"""The library's streams over the memory store: order, ranges of versions, and appends whose outcome was unknown."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from random import Random

import pytest

from ledger.core.entry import Entry, Event
from ledger.errors import IdConflict, JinshiError, StoreUnavailable, VersionConflict
from ledger.persistence import streams as streams_module
from ledger.persistence.mapping import VERSION, version_of
from ledger.persistence.streams import Streams
from ledger.sequencer import Sequencer
from ledger.store.base import Head, Row, StreamId
from ledger.store.memory import MemoryEntryStore
from tests.support.ledgers import ACTOR, FixedClock

SOURCE = "urn:jinshi:app:Test"
STREAM = StreamId(SOURCE, "a")


class CutOffStore(MemoryEntryStore):
    """A store whose commits and heads fail as told; a commit fails before or after it was persisted."""

    def __init__(self) -> None:
        super().__init__()
        self.commits: list[str] = []
        self.heads_fail = 0

    async def commit(self, rows: Sequence[Row], *, expected_size: int, frontier: tuple[bytes, ...], epoch: int) -> None:
        outcome = self.commits.pop(0) if self.commits else "passes"
        if outcome != "not persisted":
            await super().commit(rows, expected_size=expected_size, frontier=frontier, epoch=epoch)
        if outcome != "passes":
            self.heads_fail = 1  # the connection is lost: how it went cannot be asked now
            raise StoreUnavailable("the connection was lost")

    async def head(self) -> Head:
        if self.heads_fail:
            self.heads_fail -= 1
            raise StoreUnavailable("the connection is lost")
        return await super().head()


@asynccontextmanager
async def opened(store: MemoryEntryStore, pauses_s: Sequence[float] = (0.0, 0.0)) -> AsyncIterator[Streams]:
    async with Sequencer(store, FixedClock()) as sequencer:
        yield Streams(store, sequencer, FixedClock(), pauses_s=pauses_s)


def event(streams: Streams, version: int, subject: str = "a") -> Event:
    """A new event with nothing in it but its version, as the mapping makes them."""
    return Event(
        id=f"{subject}/{version}",
        source=SOURCE,
        type="thing.happened.v1",
        subject=subject,
        time=streams.stamp(),
        data=b"{}",
        extensions={VERSION: version},
    )


def versions(entries: Sequence[Entry]) -> list[int]:
    return [version_of(entry) for entry in entries]


async def everything(streams: Streams, stream: StreamId = STREAM) -> list[int]:
    return versions(await streams.read(stream, gt=None, lte=None, newest_first=False, limit=None))


@pytest.mark.parametrize("outcome", ["persisted", "not persisted"])
async def test_an_append_of_unknown_outcome_is_found_out_and_recorded_once(outcome: str) -> None:
    store = CutOffStore()
    async with opened(store) as streams:
        await streams.append([event(streams, 1)], actor=ACTOR)
        store.commits = [outcome]
        places = await streams.append([event(streams, 2), event(streams, 1, "b")], actor=ACTOR)
        assert [place.index for place in places] == [1, 2]
        assert await everything(streams) == [1, 2]
        with pytest.raises(VersionConflict):  # it was recorded, whatever it looked like
            await streams.append([event(streams, 2)], actor=ACTOR)
        assert (await store.head()).size == 3


async def test_a_store_that_stays_away_is_the_callers_error_and_nothing_blocks_afterwards() -> None:
    store = CutOffStore()
    async with opened(store) as streams:
        store.commits = ["not persisted"] * 3
        with pytest.raises(StoreUnavailable):
            await streams.append([event(streams, 1)], actor=ACTOR)
        await streams.append([event(streams, 1)], actor=ACTOR)
        assert await everything(streams) == [1]


async def test_the_same_event_again_is_a_conflict_and_takes_the_rest_of_its_append_with_it() -> None:
    store = MemoryEntryStore()
    async with opened(store) as streams:
        await streams.append([event(streams, 1), event(streams, 2)], actor=ACTOR)
    async with opened(store) as streams:  # another process: nothing is remembered
        with pytest.raises(IdConflict):
            await streams.append([event(streams, 1, "new"), event(streams, 1)], actor=ACTOR)
        with pytest.raises(VersionConflict):
            await streams.append([event(streams, 1, "new"), event(streams, 2)], actor=ACTOR)
        with pytest.raises(VersionConflict):
            await streams.append([event(streams, 3), event(streams, 3)], actor=ACTOR)
        assert (await store.head()).size == 2
        await streams.append([event(streams, 3)], actor=ACTOR)
        assert await everything(streams) == [1, 2, 3]


async def test_of_racing_appends_of_one_version_exactly_one_is_recorded() -> None:
    async with opened(MemoryEntryStore()) as streams:
        for version in range(1, 20):
            appends = [streams.append([event(streams, version)], actor=ACTOR) for _ in range(8)]
            ended = await asyncio.gather(*appends, return_exceptions=True)
            assert [isinstance(one, JinshiError) for one in ended].count(False) == 1
        assert await everything(streams) == list(range(1, 20))


@pytest.mark.parametrize("seed", range(40))
async def test_a_range_of_versions_is_what_reading_everything_would_give(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams_module, "PAGE_ENTRIES", 3)
    random = Random(seed)
    recorded, version = [], random.choice([0, 1, 7])
    for _ in range(random.randrange(1, 30)):
        recorded.append(version)
        version += 1 if random.random() < random.choice([1.0, 0.8]) else random.randrange(2, 6)
    async with opened(MemoryEntryStore()) as streams:
        for one in recorded:
            await streams.append([event(streams, one), event(streams, one, "other")], actor=ACTOR)
        for _ in range(60):
            gt, lte = (random.choice([None, random.randrange(-1, version + 3)]) for _ in range(2))
            limit, newest_first = random.choice([None, 0, 1, 4]), random.random() < 0.5
            wanted = [v for v in recorded if (gt is None or v > gt) and (lte is None or v <= lte)]
            wanted = (wanted[::-1] if newest_first else wanted)[:limit]
            found = await streams.read(STREAM, gt=gt, lte=lte, newest_first=newest_first, limit=limit)
            assert versions(found) == wanted, (seed, gt, lte, newest_first, limit)


async def test_the_last_entry_of_a_source_is_found_among_those_of_others() -> None:
    store = MemoryEntryStore()
    async with Sequencer(store, FixedClock()) as sequencer:
        streams = Streams(store, sequencer, FixedClock())
        assert await streams.last_index(SOURCE) is None
        for version in range(1, 4):
            await streams.append([event(streams, version)], actor=ACTOR)
            await sequencer.append([Event(id=f"x{version}", source="urn:else", type="x.v1")], actor=ACTOR)
            assert await streams.last_index(SOURCE) == 2 * version - 2
        assert await streams.last_index("urn:else") == 5
        page = await streams.page(SOURCE, start=1, stop=None, types=None, limit=9)
        assert [index for index, _ in page] == [2, 4]
        assert await streams.page(SOURCE, start=0, stop=None, types=frozenset({"none.v1"}), limit=9) == []


async def test_stamps_grow_although_the_clock_stands() -> None:
    async with opened(MemoryEntryStore()) as streams:
        stamps = [streams.stamp() for _ in range(100)]
    assert stamps == sorted(set(stamps))
