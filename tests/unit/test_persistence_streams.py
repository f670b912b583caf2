"""The library's streams over the memory store: order, ranges of versions, unknown outcomes; sealed and erased ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from random import Random

import pytest

from ledger.core.acknowledgement import ALL
from ledger.core.entry import Entry
from ledger.core.event import Event
from ledger.errors import (
    Erased,
    IdConflict,
    InvalidRequest,
    JinshiError,
    StoreUnavailable,
    Unavailable,
    VersionConflict,
)
from ledger.persistence import streams as streams_module
from ledger.persistence.mapping import VERSION, version_of
from ledger.persistence.streams import Streams
from ledger.sequencer import Sequencer
from ledger.sources import Mode, declaration
from ledger.store.base import Head, Row, Selection, StoredEntry, StreamId
from ledger.store.memory import MemoryEntryStore
from tests.support.eventsourcing import erase
from tests.support.ledgers import ACTOR, FixedClock
from tests.support.sealing import ORIGIN, PERSONAL, PUBLIC, SEALED, SealedLedger

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


@asynccontextmanager
async def opened_sealed(ledger: SealedLedger) -> AsyncIterator[Streams]:
    """As another process opens it: nothing is remembered, no key is cached."""
    sealer = await ledger.sealer()
    async with Sequencer(ledger.store, ledger.clock, sealer=sealer) as sequencer:
        yield Streams(ledger.store, sequencer, ledger.clock, sealer=sealer, pauses_s=(0.0, 0.0))


def event(streams: Streams, version: int, subject: str = "a", source: str = SOURCE) -> Event:
    """A new event with nothing in it but its version, as the mapping makes them."""
    return Event(
        id=f"{subject}/{version}",
        source=source,
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


# -- sealed --


@pytest.mark.parametrize("source", [SEALED, PERSONAL])
@pytest.mark.parametrize("outcome", ["persisted", "not persisted"])
async def test_a_sealed_append_of_unknown_outcome_is_found_out_and_recorded_once(source: str, outcome: str) -> None:
    ledger = SealedLedger()
    store = ledger.store = CutOffStore()
    await ledger.begin()
    first = (await store.head()).size
    async with opened_sealed(ledger) as streams:
        await streams.append([event(streams, 1, source=source)], actor=ACTOR)
        store.commits = [outcome]
        events = [event(streams, 2, source=source), event(streams, 1, "b", source)]
        places = await streams.append(events, actor=ACTOR)
        assert [place.index for place in places] == [first + 1, first + 2]
        assert await everything(streams, StreamId(source, "a")) == [1, 2]
    async with opened_sealed(ledger) as streams:
        with pytest.raises(IdConflict):  # the application's own repetition is another event
            await streams.append([event(streams, 1, "b", source)], actor=ACTOR)
    assert all([(await ledger.stored(first + number)).event.keyid for number in range(3)])
    assert (await store.head()).size == first + 3


@pytest.mark.parametrize("seed", range(6))
async def test_a_range_of_versions_is_found_under_a_pseudonym(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams_module, "PAGE_ENTRIES", 3)
    random = Random(seed)
    recorded = sorted(random.sample(range(1, 40), 15))
    ledger = await SealedLedger().begin()
    async with opened_sealed(ledger) as streams:
        for version in recorded:
            events = [event(streams, version, subject, PERSONAL) for subject in ("a", "other")]
            await streams.append(events, actor=ACTOR)
    async with opened_sealed(ledger) as streams:
        for _ in range(30):
            gt, lte = (random.choice([None, random.randrange(0, 42)]) for _ in range(2))
            limit, newest_first = random.choice([None, 1, 4]), random.random() < 0.5
            wanted = [v for v in recorded if (gt is None or v > gt) and (lte is None or v <= lte)]
            wanted = (wanted[::-1] if newest_first else wanted)[:limit]
            stream = StreamId(PERSONAL, "a")
            found = await streams.read(stream, gt=gt, lte=lte, newest_first=newest_first, limit=limit)
            assert versions(found) == wanted, (seed, gt, lte, newest_first, limit)
            assert {(one.event.subject, one.event.keyid, one.event.data) for one in found} <= {("a", None, b"{}")}
        assert await streams.last_version(StreamId(PERSONAL, "other")) == recorded[-1]
        assert await streams.last_version(StreamId(PERSONAL, "nobody")) is None
        assert await everything(streams, StreamId(PERSONAL, "nobody")) == []


async def test_a_page_asks_for_its_keys_in_one_request_and_positions_need_none() -> None:
    ledger = await SealedLedger().begin()
    subjects = [f"s{number}" for number in range(50)]
    async with opened_sealed(ledger) as streams:
        await streams.append([event(streams, 1, subject, PERSONAL) for subject in subjects], actor=ACTOR)
        await streams.append([event(streams, 7, "a", SEALED), event(streams, 1, "b", PUBLIC)], actor=ACTOR)
    ledger.kek.calls.clear()
    async with opened_sealed(ledger) as streams:
        assert await streams.last_version(StreamId(SEALED, "a")) == 7
        assert await streams.last_index(PERSONAL) is not None
        assert await everything(streams, StreamId(PUBLIC, "b")) == [1]
        assert ledger.kek.calls == []
        page = await streams.page(PERSONAL, start=0, stop=None, types=None, limit=500)
        assert [entry.event.subject for _, entry in page] == subjects
        await streams.page(PERSONAL, start=0, stop=None, types=None, limit=500)
    assert ledger.kek.calls == [("unwrap", 50)]


async def test_a_keeper_that_is_away_refuses_what_is_sealed_and_nothing_else() -> None:
    ledger = await SealedLedger().begin()
    async with opened_sealed(ledger) as streams:
        await streams.append([event(streams, 1, "a", SEALED), event(streams, 1, "a", PERSONAL)], actor=ACTOR)
    size = (await ledger.store.head()).size
    async with opened_sealed(ledger) as streams:
        ledger.kek.down = True
        for source in (SEALED, PERSONAL):
            with pytest.raises(Unavailable, match="sealed"):
                await streams.append([event(streams, 1, "b", PUBLIC), event(streams, 1, "b", source)], actor=ACTOR)
            with pytest.raises(Unavailable, match="sealed"):
                await everything(streams, StreamId(source, "a"))
        assert (await ledger.store.head()).size == size
        await streams.append([event(streams, 1, "b", PUBLIC)], actor=ACTOR)
        ledger.kek.down = False
        for source in (SEALED, PERSONAL):
            await streams.append([event(streams, 1, "b", source)], actor=ACTOR)
            assert await everything(streams, StreamId(source, "b")) == [1]


async def test_a_reader_without_keys_gets_an_error_and_no_ciphertext() -> None:
    ledger = await SealedLedger().begin()
    async with opened_sealed(ledger) as streams:
        await streams.append([event(streams, 1, "a", SEALED)], actor=ACTOR)
    async with Sequencer(ledger.store, ledger.clock) as sequencer:
        streams = Streams(ledger.store, sequencer, ledger.clock)
        with pytest.raises(Unavailable, match="is sealed"):
            await everything(streams, StreamId(SEALED, "a"))
        with pytest.raises(Unavailable, match="is sealed"):
            await streams.page(SEALED, start=0, stop=None, types=None, limit=9)


# -- erased --


async def test_what_is_erased_is_left_out_of_pages_and_refused_in_its_own_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streams_module, "PAGE_ENTRIES", 4)
    ledger = await SealedLedger().begin()
    async with opened_sealed(ledger) as streams:
        subjects = [f"s{number}" for number in range(12)]
        places = await streams.append(
            [event(streams, version, subject, PERSONAL) for subject in subjects for version in (1, 2)], actor=ACTOR
        )
        assert await streams.last_index(PERSONAL) == places[-1].index
        gone = [subjects[number] for number in (0, 2, 3, 4, 5, 6, 10, 11)]
        sealer = streams.vault._sealer
        assert sealer is not None
        await erase(streams._sequencer, sealer, ledger.objects, PERSONAL, *gone, origin=ORIGIN)
        left = [one.index for one, number in zip(places, range(24), strict=True) if subjects[number // 2] not in gone]
        assert await streams.last_index(PERSONAL) == left[-1]
        assert await streams.last_index(PERSONAL) == left[-1]
        for limit in (1, 2, 3, 100):
            found: list[int] = []
            while page := await streams.page(
                PERSONAL, start=found[-1] + 1 if found else 0, stop=None, types=None, limit=limit
            ):
                found += [index for index, _ in page]
            assert found == left
        asked: list[int] = []
        select = ledger.store.select

        async def counted(what: Selection, *, limit: int) -> Sequence[StoredEntry]:
            asked.append(limit)
            return await select(what, limit=limit)

        monkeypatch.setattr(ledger.store, "select", counted)
        await streams.page(PERSONAL, start=left[1] + 1, stop=None, types=None, limit=1)
        assert asked == [1, 4, 4, 4], "ten erased entries are passed over page by page"
        kinds = frozenset({"thing.happened.v1", "other.v1"})
        typed = await streams.page(PERSONAL, start=0, stop=None, types=kinds, limit=3)
        assert [index for index, _ in typed] == left[:3]
        for gt in (None, 1, 2):  # 2: nothing follows, but what it would be carried on from is gone
            with pytest.raises(Erased, match=r"s0 of urn:residents was erased \(approved in entry \d+\)"):
                await streams.read(StreamId(PERSONAL, "s0"), gt=gt, lte=None, newest_first=False, limit=None)
        assert await everything(streams, StreamId(PERSONAL, "s1")) == [1, 2]

        # Who comes back is recorded under a new key, after what is there; what came before is not invented.
        with pytest.raises(VersionConflict):
            await streams.append([event(streams, 2, "s0", PERSONAL)], actor=ACTOR)
        (back,) = await streams.append([event(streams, 3, "s0", PERSONAL)], actor=ACTOR)
        assert await streams.last_index(PERSONAL) == back.index
        with pytest.raises(Erased):
            await everything(streams, StreamId(PERSONAL, "s0"))
        page = await streams.page(PERSONAL, start=back.index, stop=None, types=None, limit=9)
        assert [(index, entry.event.subject) for index, entry in page] == [(back.index, "s0")]
    async with opened_sealed(ledger) as streams:
        assert await streams.last_index(PERSONAL) == back.index
        with pytest.raises(Erased):
            await everything(streams, StreamId(PERSONAL, "s2"))
        with pytest.raises(IdConflict):
            await streams.append([event(streams, 1, "s2", PERSONAL)], actor=ACTOR)


async def test_a_source_that_demands_sites_takes_nothing_that_would_not_wait_for_them() -> None:
    ledger = await SealedLedger().begin()
    async with opened_sealed(ledger) as streams:
        await streams.append([event(streams, 1, source=PUBLIC)], actor=ACTOR)
        await streams._sequencer.append([declaration(ORIGIN, PUBLIC, Mode.PUBLIC, at=9, ack=ALL)], actor=ACTOR)
        with pytest.raises(InvalidRequest, match="acknowledged by all"):
            await streams.append([event(streams, 2, source=PUBLIC)], actor=ACTOR)
