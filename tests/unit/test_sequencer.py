"""The sequencer over the memory store: what is promised to callers, in the good case and when the store fails."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest

from ledger.core.entry import decode_entry
from ledger.core.event import Event
from ledger.core.merkle import CompactRange, root_hash
from ledger.errors import EntryTooLarge, Fenced, IdConflict, InvalidRequest, Pushback, StoreUnavailable, VersionConflict
from ledger.sequencer import Recorded, Sequencer, SequencerLimits
from ledger.store.base import Head, Row, StreamId
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


# -- group commit, back-pressure and callers that leave -----------------------------------------------------------


class GatedStore(MemoryEntryStore):
    """Counts its commits; each waits until `gate` is open, as for a slow disk."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.committing = asyncio.Event()
        self.sizes: list[int] = []

    async def commit(self, rows: Sequence[Row], *, expected_size: int, frontier: tuple[bytes, ...], epoch: int) -> None:
        self.sizes.append(len(rows))
        self.committing.set()
        await self.gate.wait()
        await super().commit(rows, expected_size=expected_size, frontier=frontier, epoch=epoch)


async def test_callers_that_wait_together_share_one_transaction() -> None:
    store = GatedStore()
    async with Sequencer(store, StepClock(), limits=SequencerLimits(commit_entries_max=100)) as sequencer:
        first = asyncio.create_task(sequencer.append([event(0)], actor=ACTOR))
        await store.committing.wait()
        waiting = [asyncio.create_task(sequencer.append([event(n)], actor=ACTOR)) for n in range(1, 251)]
        await asyncio.sleep(0)
        store.gate.set()
        await asyncio.gather(first, *waiting)
    assert store.sizes == [1, 100, 100, 50]


async def test_a_pool_full_of_bytes_pushes_back_and_one_call_always_fits_an_empty_pool() -> None:
    store = GatedStore()
    data = b'"' + b"x" * 998 + b'"'
    async with Sequencer(store, StepClock(), limits=SequencerLimits(pool_bytes_max=2_500)) as sequencer:
        taken = asyncio.create_task(sequencer.append([event(n, data=data) for n in range(5)], actor=ACTOR))
        await store.committing.wait()
        waiting = [asyncio.create_task(sequencer.append([event(n, data=data)], actor=ACTOR)) for n in range(5, 9)]
        await asyncio.sleep(0)
        assert [task.done() for task in waiting] == [False, False, True, True]
        for task in waiting[2:]:
            with pytest.raises(Pushback, match="2 events wait to be committed"):
                await task
        store.gate.set()
        await asyncio.gather(taken, *waiting[:2])
        assert len(await sequencer.append([event(n, data=data) for n in range(20, 30)], actor=ACTOR)) == 10
    assert (await store.head()).size == 17


async def test_callers_who_leave_the_pool_are_not_recorded_and_give_back_their_room() -> None:
    store = GatedStore()
    async with Sequencer(store, StepClock(), limits=SequencerLimits(pool_entries_max=3)) as sequencer:
        first = asyncio.create_task(sequencer.append([event(0)], actor=ACTOR))
        await store.committing.wait()
        leaving = [asyncio.create_task(sequencer.append([event(n)], actor=ACTOR)) for n in range(1, 4)]
        await asyncio.sleep(0)
        for task in leaving:
            task.cancel()
        store.gate.set()
        await first
        await asyncio.gather(*leaving, return_exceptions=True)
        staying = [sequencer.append([event(n)], actor=ACTOR) for n in range(4, 7)]
        assert [answer[0].index for answer in await asyncio.gather(*staying)] == [1, 2, 3]
    assert [decode_entry(data).event.id for data in await entries_of(store)] == ["e0", "e4", "e5", "e6"]


async def test_a_caller_who_leaves_during_the_commit_finds_the_event_recorded_once() -> None:
    store = GatedStore()
    async with Sequencer(store, StepClock()) as sequencer:
        leaving = asyncio.create_task(sequencer.append([event(0)], actor=ACTOR))
        await store.committing.wait()
        leaving.cancel()
        store.gate.set()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        again = await sequencer.append([event(0), event(1)], actor=ACTOR)
    assert [(recorded.index, recorded.duplicate) for recorded in again] == [(0, True), (1, False)]


@pytest.mark.parametrize("when", ["staged", "committed", "staged ahead of a commit that fails"])
async def test_a_fault_of_ours_is_answered_to_everybody_who_waits(when: str) -> None:
    class Broken(MemoryEntryStore):
        committing = False

        async def stream_versions(self, streams: Sequence[StreamId]) -> Mapping[StreamId, int]:
            if when == "staged" or (when != "committed" and self.committing):
                raise RuntimeError("a fault")
            return await super().stream_versions(streams)

        async def commit(self, rows: Sequence[Row], **more: Any) -> None:
            self.committing = True
            await asyncio.sleep(0.01)
            if when == "committed":
                raise RuntimeError("a fault")
            raise StoreUnavailable("the disk is gone")

    sequencer = await Sequencer(Broken(), StepClock()).__aenter__()
    waiting = [asyncio.create_task(sequencer.append([event(0)], actor=ACTOR))]
    await asyncio.sleep(0 if when != "staged ahead of a commit that fails" else 0.001)
    waiting += [asyncio.create_task(sequencer.append([event(n)], actor=ACTOR)) for n in range(1, 4)]
    answers = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 5)
    assert [type(answer) for answer in answers] == [StoreUnavailable] * 4
    with pytest.raises(StoreUnavailable, match="writer stopped"):
        await sequencer.append([event(9)], actor=ACTOR)
    with pytest.raises(RuntimeError, match="a fault"):  # and it is not hidden
        await sequencer.__aexit__(None, None, None)


# -- the next transaction, staged while one commits ---------------------------------------------------------------


async def staged_ahead(store: GatedStore, sequencer: Sequencer, *events: Event) -> list[asyncio.Task[list[Recorded]]]:
    """Append one event after the other: the first is held in its commit, the rest is staged on top of it."""
    tasks = [asyncio.create_task(sequencer.append([events[0]], actor=ACTOR))]
    await store.committing.wait()
    for one in events[1:]:
        tasks.append(asyncio.create_task(sequencer.append([one], actor=ACTOR)))
        await asyncio.sleep(0.001)  # taken in, whatever turns the loop takes for it
    return tasks


async def test_what_was_staged_on_a_commit_that_failed_is_staged_again() -> None:
    class Failing(GatedStore):
        async def commit(self, rows: Sequence[Row], **more: Any) -> None:
            if len(self.sizes) == 0:
                self.sizes.append(0)
                self.committing.set()
                await self.gate.wait()
                raise StoreUnavailable("the line is down")
            await super().commit(rows, **more)

    store = Failing()
    async with Sequencer(store, StepClock()) as sequencer:
        first, second, third = await staged_ahead(store, sequencer, event(0), event(1), event(2))
        store.gate.set()
        with pytest.raises(StoreUnavailable):
            await first
        assert [(await task)[0][:2] for task in (second, third)] == [(0, 1), (1, 2)]
        assert (await sequencer.append([event(0)], actor=ACTOR))[0][:2] == (2, 3)
    assert [decode_entry(data).streamversion for data in await entries_of(store)] == [1, 2, 3]


async def test_an_event_sent_again_while_it_is_committed_is_recorded_once() -> None:
    store = GatedStore()
    async with Sequencer(store, StepClock()) as sequencer:
        first, again, other = await staged_ahead(store, sequencer, event(0), event(0), event(1))
        store.gate.set()
        assert [(await task)[0].index for task in (first, again, other)] == [0, 0, 1]
        assert [(await task)[0].duplicate for task in (first, again, other)] == [False, True, False]
    assert (await store.head()).size == 2


async def test_a_caller_who_leaves_what_was_staged_ahead_is_not_recorded() -> None:
    store = GatedStore()
    async with Sequencer(store, StepClock()) as sequencer:
        first, leaving, staying = await staged_ahead(store, sequencer, event(0), event(1), event(2))
        leaving.cancel()
        await asyncio.sleep(0)
        store.gate.set()
        assert [(await task)[0][:2] for task in (first, staying)] == [(0, 1), (1, 2)]
    assert [decode_entry(data).event.id for data in await entries_of(store)] == ["e0", "e2"]


async def test_what_is_staged_ahead_keeps_its_room_in_the_pool() -> None:
    store = GatedStore()
    async with Sequencer(store, StepClock(), limits=SequencerLimits(pool_entries_max=2)) as sequencer:
        tasks = await staged_ahead(store, sequencer, event(0), event(1), event(2))
        with pytest.raises(Pushback):
            await sequencer.append([event(3)], actor=ACTOR)
        store.gate.set()
        await asyncio.gather(*tasks)
        assert sequencer.pool_entries == 0


async def test_a_stream_that_was_taken_for_new_and_is_not_goes_on_where_it_was() -> None:
    store = MemoryEntryStore()
    async with Sequencer(store, StepClock()) as earlier:
        await earlier.append([event(n, subject="old") for n in range(3)], actor=ACTOR)
    async with Sequencer(store, StepClock()) as sequencer:
        for number in range(100):  # by now whatever is not known is taken for new
            await sequencer.append([event(1_000 + number, subject=f"new{number}")], actor=ACTOR)
        answers = await asyncio.gather(
            sequencer.append([event(5, subject="young")], actor=ACTOR),
            sequencer.append([event(3, subject="old"), event(4, subject="old")], actor=ACTOR),
        )
        assert [[recorded.streamversion for recorded in answer] for answer in answers] == [[1], [4, 5]]
        with pytest.raises(VersionConflict, match="at version 5, expected 0"):
            await sequencer.append([event(6, subject="old")], actor=ACTOR, expected_version=0)
    async with Sequencer(store, StepClock()) as later:
        with pytest.raises(VersionConflict, match="at version 5, expected 0"):  # nothing is known of it at all
            await later.append([event(6, subject="old")], actor=ACTOR, expected_version=0)
        again = await later.append([event(0, subject="old")], actor=ACTOR, expected_version=0)
        assert again[0].duplicate


async def test_a_repetition_beside_an_expected_version_does_not_move_it() -> None:
    store = GatedStore()
    store.gate.set()
    async with Sequencer(store, StepClock()) as sequencer:
        await sequencer.append([event(0)], actor=ACTOR)
        repeated, next_ = await asyncio.gather(
            sequencer.append([event(0)], actor=ACTOR), sequencer.append([event(1)], actor=ACTOR, expected_version=1)
        )
    assert (repeated[0].duplicate, next_[0].streamversion) == (True, 2)


# -- a store that fails at random ---------------------------------------------------------------------------------


class UnsureStore(MemoryEntryStore):
    """Commits fail before or after they are stored, and so does finding out which it was."""

    def __init__(self, random: Random) -> None:
        super().__init__()
        self.random = random
        self.healthy = False

    def _fail(self, chance: float) -> None:
        if not self.healthy and self.random.random() < chance:
            raise StoreUnavailable("the line is down")

    async def head(self) -> Head:
        self._fail(0.3)
        return await super().head()

    async def commit(self, rows: Sequence[Row], *, expected_size: int, frontier: tuple[bytes, ...], epoch: int) -> None:
        self._fail(0.3)
        await super().commit(rows, expected_size=expected_size, frontier=frontier, epoch=epoch)
        self._fail(0.3)


async def persist(sequencer: Sequencer, events: list[Event], version: int | None = None) -> list[Recorded]:
    """Append as a caller should: again, until it is acknowledged."""
    while True:
        try:
            return await sequencer.append(events, actor=ACTOR, expected_version=version)
        except StoreUnavailable:
            continue


@pytest.mark.parametrize("seed", range(12))
async def test_outcomes_nobody_knows_never_lose_nor_repeat_an_event(seed: int) -> None:
    store = UnsureStore(Random(seed))
    async with Sequencer(store, StepClock(), limits=SequencerLimits(commit_entries_max=16)) as sequencer:

        async def chain() -> None:
            """A stream whose every event expects the version before it."""
            for version in range(15):
                await persist(sequencer, [event(1_000 + version, subject="chain")], version)

        batches = [[event(n, subject=f"s{n % 5}") for n in range(first, first + 3)] for first in range(0, 120, 3)]
        answers = await asyncio.gather(*(persist(sequencer, batch) for batch in batches), chain())
        store.healthy = True
    recorded = [decode_entry(data) for data in await entries_of(store)]
    ids = [entry.event.id for entry in recorded]
    assert sorted(ids) == sorted([f"e{n}" for n in range(120)] + [f"e{1_000 + n}" for n in range(15)]), f"{seed=}"
    for batch, answer in zip(batches, answers, strict=False):
        assert answer is not None
        indexes = [one.index for one in answer]
        assert [ids[index] for index in indexes] == [one.id for one in batch]
        assert indexes == list(range(indexes[0], indexes[0] + 3)), "a call stays together"
    chained = [entry for entry in recorded if entry.event.subject == "chain"]
    assert [entry.streamversion for entry in chained] == list(range(1, 16))
    assert [entry.event.id for entry in chained] == [f"e{1_000 + n}" for n in range(15)]
    head, hashes = await store.head(), [row.leaf_hash for row in await store.rows(0, 1_000)]
    assert CompactRange(head.size, head.frontier).root() == root_hash(hashes)
