"""What the log releases: one form of the act, bounded memory, and nothing but what an act may release."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from ledger.content.released import (
    RUNS_SIZE_MAX,
    Release,
    Released,
    ReleasedIn,
    find_release,
    format_release,
    parse_release,
    read_released,
    released_events,
)
from ledger.core.acts import CONTENT_RELEASED, acts_source
from ledger.core.entry import ENTRY_SIZE_MAX, Entry, decode_entry, encode_entry
from ledger.core.event import Event
from ledger.core.indexes import BLOCK, Indexes, Named, decode_runs, encode_runs
from ledger.errors import Malformed
from ledger.store.memory import MemoryEntryStore
from tests.support.ledgers import append

ORIGIN = "ledger.test/released"
SOURCE = "urn:files:office"
TIME = "2026-11-30T00:00:00.000000Z"


def entry_of(event: Event) -> Entry:
    """As it is recorded, and read back."""
    return decode_entry(encode_entry(Entry(event.at(TIME), 1, TIME, "local:test")))


def released(indexes: set[int], *, at: int, source: str = SOURCE) -> Released:
    fold = Released()
    for event in released_events(ORIGIN, source, indexes, 1_800_000_000, at):
        fold.apply(at, entry_of(event))
    return fold


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_indexes_are_a_set(seed: int) -> None:
    chance = random.Random(seed)
    model, indexes = set[int](), Indexes()
    other_model, other = set[int](), Indexes()
    for _ in range(60):
        first, count = chance.randrange(3 * BLOCK), chance.choice([1, 1, 2, 70, BLOCK, BLOCK + 1])
        which, numbers = chance.choice([(model, indexes), (other_model, other)])
        which.update(range(first, first + count))
        numbers.add(first, count)
        if chance.random() < 0.3:
            model, indexes, other_model, other = other_model, other, set[int](), Indexes()
    assert list(indexes) == sorted(model), f"seed={seed}"
    assert (len(indexes), bool(indexes), bool(Indexes())) == (len(model), bool(model), False)
    assert set(indexes.without(other)) == model - other_model
    assert all((index in indexes) == (index in model) for index in range(0, 5 * BLOCK, 7))
    runs = tuple(indexes.runs())
    assert all(a + count < b for (a, count), (b, _) in pairwise(runs)), "no two of them touch"
    if runs:
        assert decode_runs(encode_runs(runs)) == runs


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_indexes_have_names(seed: int) -> None:
    chance, names = random.Random(seed), [f"urn:{number}" for number in range(4)]
    model, parts = dict[int, str](), [Named(), Named()]
    for _ in range(2_000):
        index, name = chance.randrange(3 * BLOCK), chance.choice(names)
        if index not in model:
            model[index] = name
            chance.choice(parts).put(index, name)
    named = Named()
    for part in parts:
        named.update(part)
    for _ in range(300):
        first, count, name = chance.randrange(4 * BLOCK), chance.choice([1, 3, 40, BLOCK + 1]), chance.choice(names)
        others = [index for index in range(first, first + count) if model.get(index, name) != name]
        assert named.other_than(name, first, count) == (others[0] if others else None), f"seed={seed}"
    assert named.other_than("urn:unknown", 0, 4 * BLOCK) == min(model)


def test_what_a_thousand_sources_refer_to_takes_no_more_than_what_one_does() -> None:
    named = Named()
    for index in range(10_000):
        named.put(index, f"urn:files:{index % 1_000}")
    assert sum(len(numbers) for numbers in named._blocks.values()) == 3 * BLOCK


def test_memory_goes_by_entries_and_not_by_runs() -> None:
    every_other = Indexes()
    for index in range(0, 100_000, 2):
        every_other.add(index)
    everything = Indexes()
    everything.add(0, 100_000)
    assert len(every_other._blocks) == len(everything._blocks) == -(-100_000 // BLOCK)
    assert len({id(bits) for bits in everything._blocks.values()}) == 2, "full blocks are one"


@pytest.mark.parametrize(
    "numbers", [[], [1], [0, 0], [-1, 3], [3, 0], [3, 1, 0, 1], [True, 1], [1, True], ["1", 1], [2**53, 1], {}, None]
)
def test_runs_have_one_form(numbers: object) -> None:
    with pytest.raises(Malformed):
        decode_runs(numbers)  # type: ignore[arg-type]


def test_an_act_reads_back_and_has_one_form() -> None:
    release = Release(SOURCE, ((0, 3), (9, 1)), 1_800_000_000, "grade 2")
    assert parse_release(format_release(release)) == release
    assert release.stop == 10
    for data in (
        format_release(release).replace(b"[0,3,6,1]", b"[0,2,0,1,6,1]"),
        format_release(release).replace(b"1800000000", b"true"),
        format_release(release) + b" ",
        b"{}",
    ):
        with pytest.raises(Malformed):
            parse_release(data)


def test_an_act_releases_what_comes_before_it_of_the_source_it_names() -> None:
    fold = released({1, 2, 5}, at=6)
    assert [index for index in range(9) if (SOURCE, index) in fold] == [1, 2, 5]
    assert ("urn:files:other", 1) not in fold
    assert (bool(fold), bool(Released()), fold.sources, list(fold.of(SOURCE))) == (True, False, [SOURCE], [1, 2, 5])
    assert not fold.wrong
    forged = released({1, 6}, at=6)
    assert not forged
    assert forged.wrong == {6: "it releases entry 6, which does not come before it"}
    (event,) = released_events(ORIGIN, SOURCE, {1}, 0, 6)
    stranger = Event.of_json(event.json_data, id="x", source=SOURCE, type=CONTENT_RELEASED)
    assert fold.apply(9, entry_of(stranger)) is None
    assert not fold.wrong, "it is no act"
    odd = Event.of_json({"source": SOURCE}, id="y", source=acts_source(ORIGIN), type=CONTENT_RELEASED)
    assert fold.apply(10, entry_of(odd)) is None
    assert set(fold.wrong) == {10}


def test_an_act_that_would_not_fit_an_entry_is_several() -> None:
    indexes = set(range(10**12, 10**12 + 40_000, 2))
    events = released_events(ORIGIN, SOURCE, indexes, 1_800_000_000, 10**13, reason="x" * 200)
    assert len(events) > 1
    assert len({event.id for event in events}) == len(events)
    fold = Released()
    for event in events:
        entry = entry_of(event)
        assert len(encode_entry(entry)) <= ENTRY_SIZE_MAX
        assert len(event.data or b"") > RUNS_SIZE_MAX // 4 or event is events[-1]
        fold.apply(10**13, entry)
    assert set(fold.of(SOURCE)) == indexes
    assert released_events(ORIGIN, SOURCE, (), 0, 9) == []


def test_a_tree_is_settled_once_no_later_act_releases_of_it() -> None:
    fold = Released()
    for at, indexes in ((10, {1, 2}), (20, {3, 12}), (30, {4}), (40, {25})):
        for event in released_events(ORIGIN, SOURCE, indexes, 0, at):
            fold.apply(at, entry_of(event))
    assert [fold.settled_size(start) for start in (0, 12, 13, 25, 26)] == [41, 41, 41, 41, 0]
    backwards = Released()
    for at, indexes in ((40, {5}), (20, {3, 12}), (10, {1, 2})):
        for event in released_events(ORIGIN, SOURCE, indexes, 0, at):
            backwards.apply(at, entry_of(event))
    assert [backwards.settled_size(start) for start in (0, 6, 12, 13)] == [41, 21, 21, 0]


async def test_a_growing_log_is_caught_up_and_an_act_is_found() -> None:
    entries = MemoryEntryStore()
    await append(entries, [Event(id=f"e{n}", source=SOURCE, type="t.v1", data=b"{}") for n in range(4)])
    growing = ReleasedIn(entries)
    assert not await growing.now()
    await append(entries, released_events(ORIGIN, SOURCE, {0, 2}, 7, 4, reason="grade 1"))
    assert set((await growing.now()).of(SOURCE)) == {0, 2}
    assert set((await read_released(entries)).of(SOURCE)) == {0, 2}
    assert await find_release(entries, SOURCE, 2) == (4, Release(SOURCE, ((0, 1), (2, 1)), 7, "grade 1"))
    assert await find_release(entries, SOURCE, 1) is None
