"""The sequencer over the memory store: what is promised to callers, in the good case and when the store fails."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from ledger.core.entry import Event, decode_entry
from ledger.core.merkle import CompactRange, root_hash
from ledger.errors import EntryTooLarge, Fenced, IdConflict, InvalidRequest, Pushback, StoreUnavailable, VersionConflict
from ledger.sequencer import Sequencer, SequencerLimits
from ledger.store.faulty import FaultyEntryStore, Outcome
from ledger.store.memory import MemoryEntryStore

ACTOR = "local:test"


class StepClock:
    """A clock the test sets."""

    def __init__(self) -> None:
        self.time = datetime(2026, 11, 24, tzinfo=UTC)

    def now(self) -> datetime:
        return self.time


def event(number: int, *, subject: str = "s", data: bytes = b'{"n":1}') -> Event:
    return Event(id=f"e{number}", source="urn:test", type="thing.happened.v1", subject=subject, data=data)


async def entries_of(store: MemoryEntryStore) -> list[bytes]:
    return [stored.entry for stored in await store.read(0, 100_000)]


async def test_concurrent_callers_get_dense_indexes_in_one_tree() -> None:
    store = MemoryEntryStore()
    async with Sequencer(store, StepClock()) as sequencer:
        answers = await asyncio.gather(
            *(sequencer.append([event(n, subject=f"s{n % 7}")], actor=ACTOR) for n in range(500))
        )
    indexes = sorted(answer[0].index for answer in answers)
    assert indexes == list(range(500))
    entries = await entries_of(store)
    head = await store.head()
    hashes = [recorded.leaf_hash for recorded in sorted((a[0] for a in answers), key=lambda r: r.index)]
    assert CompactRange(head.size, head.frontier).root() == root_hash(hashes)
    versions: dict[str | None, int] = {}
    for data in entries:  # versions are dense in every stream, in index order
        entry = decode_entry(data)
        assert entry.streamversion == versions.get(entry.event.subject, 0) + 1
        versions[entry.event.subject] = entry.streamversion


async def test_the_same_event_again_returns_its_first_place() -> None:
    store = MemoryEntryStore()
    async with Sequencer(store, StepClock()) as sequencer:
        first = await sequencer.append([event(1), event(2)], actor=ACTOR)
        again = await sequencer.append([event(2), event(3), event(1)], actor="local:other")
    assert [(r.index, r.duplicate) for r in again] == [(1, True), (2, False), (0, True)]
    assert again[0].leaf_hash == first[1].leaf_hash
    assert (await store.head()).size == 3


async def test_twice_in_one_call_is_recorded_once() -> None:
    store = MemoryEntryStore()
    async with Sequencer(store, StepClock()) as sequencer:
        answer = await sequencer.append([event(1), event(1), event(2)], actor=ACTOR)
    assert [(r.index, r.duplicate) for r in answer] == [(0, False), (0, True), (1, False)]


async def test_same_id_with_other_content_is_a_conflict_and_changes_nothing() -> None:
    store = MemoryEntryStore()
    async with Sequencer(store, StepClock()) as sequencer:
        await sequencer.append([event(1)], actor=ACTOR)
        with pytest.raises(IdConflict, match="index 0"):
            await sequencer.append([event(2), event(1, data=b'{"n":2}')], actor=ACTOR)
        with pytest.raises(IdConflict, match="same call"):
            await sequencer.append([event(5), event(5, data=b'{"n":2}')], actor=ACTOR)
    assert (await store.head()).size == 1


async def test_expected_version_lets_one_of_two_writers_through() -> None:
    store = MemoryEntryStore()
    async with Sequencer(store, StepClock()) as sequencer:
        await sequencer.append([event(0)], actor=ACTOR, expected_version=0)
        results = await asyncio.gather(
            *(sequencer.append([event(n)], actor=ACTOR, expected_version=1) for n in (1, 2)), return_exceptions=True
        )
        assert [type(result) for result in results].count(VersionConflict) == 1
        # A retry of the append that succeeded is answered, although the version has moved on.
        retry = await sequencer.append([event(0)], actor=ACTOR, expected_version=0)
        assert retry[0].duplicate
        with pytest.raises(InvalidRequest, match="one stream"):
            await sequencer.append([event(8, subject="a"), event(9, subject="b")], actor=ACTOR, expected_version=0)


async def test_one_bad_call_does_not_harm_its_neighbours_in_the_pool() -> None:
    store = MemoryEntryStore()
    async with Sequencer(store, StepClock()) as sequencer:
        big = event(2, data=b'"' + b"x" * 66_000 + b'"')
        results = await asyncio.gather(
            sequencer.append([event(1)], actor=ACTOR),
            sequencer.append([event(7), big], actor=ACTOR),
            sequencer.append([event(3)], actor=ACTOR),
            return_exceptions=True,
        )
    assert isinstance(results[1], EntryTooLarge)
    assert [decode_entry(data).event.id for data in await entries_of(store)] == ["e1", "e3"]


async def test_recorded_time_never_goes_back() -> None:
    store, clock = MemoryEntryStore(), StepClock()
    async with Sequencer(store, clock) as sequencer:
        await sequencer.append([event(1)], actor=ACTOR)
        clock.time -= timedelta(hours=1)
        await sequencer.append([event(2)], actor=ACTOR)
        clock.time += timedelta(hours=2)
        await sequencer.append([event(3)], actor=ACTOR)
    times = [decode_entry(data).recordedtime for data in await entries_of(store)]
    assert times == sorted(times)
    assert times[0] == times[1] == "2026-11-24T00:00:00.000000Z"
    assert times[2] == "2026-11-24T01:00:00.000000Z"


async def test_a_full_pool_pushes_back_with_a_retry_hint() -> None:
    store = MemoryEntryStore()
    limits = SequencerLimits(pool_entries_max=4, retry_after_s=0.25)
    async with Sequencer(store, StepClock(), limits=limits) as sequencer:
        waiting = [asyncio.create_task(sequencer.append([event(n)], actor=ACTOR)) for n in range(6)]
        results = await asyncio.gather(*waiting, return_exceptions=True)
        refused = [result for result in results if isinstance(result, Pushback)]
        assert len(refused) == 2
        assert refused[0].retry_after_s == 0.25
        assert len(await sequencer.append([event(9)], actor=ACTOR)) == 1  # there is room again
    assert (await store.head()).size == 5


@pytest.mark.parametrize("outcome", [Outcome.FAIL_NOT_PERSISTED, Outcome.FAIL_PERSISTED])
async def test_a_failed_commit_is_resolved_or_refused_and_never_recorded_twice(outcome: Outcome) -> None:
    inner = MemoryEntryStore()
    failing = True

    def hook(operation: str, key: str) -> Outcome:
        return outcome if failing and operation == "commit" else Outcome.PASS

    async with Sequencer(FaultyEntryStore(inner, hook), StepClock()) as sequencer:
        if outcome is Outcome.FAIL_PERSISTED:  # it was stored: the sequencer finds out and says so
            assert [r.index for r in await sequencer.append([event(1)], actor=ACTOR)] == [0]
        else:
            with pytest.raises(StoreUnavailable):
                await sequencer.append([event(1)], actor=ACTOR)
        failing = False
        again = await sequencer.append([event(1), event(2)], actor=ACTOR)
    assert [r.index for r in again] == [0, 1]
    assert (await inner.head()).size == 2


async def test_an_older_writer_commits_nothing_more() -> None:
    store = MemoryEntryStore()
    async with Sequencer(store, StepClock()) as old:
        await old.append([event(1)], actor=ACTOR)
        async with Sequencer(store, StepClock()) as new:
            with pytest.raises(Fenced):
                await old.append([event(2)], actor=ACTOR)
            with pytest.raises(Fenced):  # and it stays so
                await old.append([event(3)], actor=ACTOR)
            assert (await new.append([event(4)], actor=ACTOR))[0].index == 1


async def test_leaving_commits_what_is_in_the_pool() -> None:
    store = MemoryEntryStore()
    async with Sequencer(store, StepClock()) as sequencer:
        waiting = [asyncio.create_task(sequencer.append([event(n)], actor=ACTOR)) for n in range(20)]
        await asyncio.sleep(0)
    assert [(await task)[0].index for task in waiting] == list(range(20))
    with pytest.raises(InvalidRequest):
        await sequencer.append([event(99)], actor=ACTOR)


async def test_more_streams_than_the_cache_holds_keep_their_versions() -> None:
    store = MemoryEntryStore()
    async with Sequencer(store, StepClock(), limits=SequencerLimits(streams_cached_max=3)) as sequencer:
        for round_ in range(3):
            for stream in range(10):
                recorded = await sequencer.append([event(round_ * 10 + stream, subject=f"s{stream}")], actor=ACTOR)
                assert recorded[0].streamversion == round_ + 1
