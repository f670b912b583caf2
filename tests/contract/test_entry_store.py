"""The contract of `EntryStore` (ledger/store/base.py), over every implementation.

To add one: an `Opener` here, its name in IMPLEMENTATIONS, and, when other processes can open it, in writer.OPENERS.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any
from uuid import uuid4

import pytest

from ledger.core.merkle import CompactRange
from ledger.errors import CompareFailed, DuplicateKeys, Fenced, JinshiError, StoreUnavailable
from ledger.index import IndexedEntryStore
from ledger.store.base import EntryStore, Head, Row, Selection, SignedCheckpoint, StoredEntry, StreamId
from ledger.store.faulty import FaultyEntryStore, Outcome
from ledger.store.index_sqlite import SqlitePositionIndex
from ledger.store.memory import MemoryEntryStore
from ledger.store.postgres import PostgresEntryStore
from ledger.store.recent import RecentEntryStore
from ledger.store.sqlite import SqliteEntryStore
from tests.contract.writer import batch_of
from tests.support.rows import TIME_US, Log, make_row, random_rows

IMPLEMENTATIONS = ("memory", "recent", "sqlite", "postgres", "machine_postgres")
DURABLE = ("sqlite", "postgres", "machine_postgres")
ROOT = Path(__file__).parents[2]


@dataclass
class Opener:
    """Opens one empty store, again and again. `url` is how another process opens it (see writer.py)."""

    open: Callable[[], Awaitable[EntryStore]]
    url: str = ""
    opened: list[EntryStore] = field(default_factory=list)

    async def __call__(self) -> EntryStore:
        self.opened.append(await self.open())
        return self.opened[-1]


@asynccontextmanager
async def opener_of(name: str, request: pytest.FixtureRequest) -> AsyncIterator[Opener]:
    async with AsyncExitStack() as stack:
        if name == "memory":
            memory = MemoryEntryStore()

            async def reopen() -> EntryStore:
                return memory

            opener = Opener(reopen)
        elif name == "recent":
            behind = MemoryEntryStore()

            async def in_front() -> EntryStore:
                return RecentEntryStore(behind, kept_bytes_max=4_096)

            opener = Opener(in_front)
        elif name.endswith("postgres"):
            place = request.getfixturevalue(name).place(f"contract_{uuid4().hex[:12]}")
            opener = Opener(
                lambda: PostgresEntryStore.open(place, create=True), f"postgres:{place.port}/{place.schema}"
            )
        else:
            path: Path = request.getfixturevalue("tmp_path") / "ledger.sqlite"
            opener = Opener(lambda: SqliteEntryStore.open(path, create=True), f"sqlite:{path}")
        yield opener
        for store in opener.opened:
            await store.close()
        await stack.aclose()


@pytest.fixture(params=IMPLEMENTATIONS)
async def opener(request: pytest.FixtureRequest) -> AsyncIterator[Opener]:
    """One empty store of each kind, to be opened as often as a test likes."""
    async with opener_of(request.param, request) as opener:
        yield opener


@pytest.fixture(params=DURABLE)
async def durable(request: pytest.FixtureRequest) -> AsyncIterator[Opener]:
    """The same, of each kind that outlives a process."""
    async with opener_of(request.param, request) as opener:
        yield opener


@pytest.fixture
async def store(opener: Opener) -> EntryStore:
    """An empty store of each kind."""
    return await opener()


def rows_of(first: int, stop: int, **attributes: Any) -> list[Row]:
    return [make_row(number, **attributes) for number in range(first, stop)]


def stored(rows: list[Row], first: int = 0) -> list[StoredEntry]:
    return [StoredEntry(index, row.entry) for index, row in enumerate(rows, first)]


def checkpoint(size: int, *, origin: str = "example.test/log") -> SignedCheckpoint:
    return SignedCheckpoint(origin, size, bytes([size % 256]) * 32, b"note of size %d" % size)


async def assert_holds(store: EntryStore, rows: list[Row], tree: CompactRange, epoch: int) -> None:
    recorded_us = rows[-1].recordedtime_us if rows else 0
    assert await store.head() == Head(len(rows), tree.frontier, recorded_us, epoch)
    assert list(await store.rows(0, len(rows) + 1)) == rows
    assert list(await store.read(0, len(rows) + 1)) == stored(rows)


# -- committing -------------------------------------------------------------------------------------------------


async def test_a_new_store_is_an_empty_log(store: EntryStore) -> None:
    assert await store.head() == Head(0, (), 0, 0)
    assert await store.read(0, 10) == await store.rows(0, 10) == await store.select(Selection(), limit=10) == []
    assert await store.size_at(2**62) == 0
    assert await store.find_ids([("urn:test", "e0")]) == {}
    assert await store.stream_versions([StreamId("urn:test", "")]) == {StreamId("urn:test", ""): 0}
    assert await store.last_checkpoint("example.test/log") is None


async def test_what_is_committed_is_read_back_exactly(store: EntryStore) -> None:
    rows = random_rows(Random(1), 200)
    rows.append(
        make_row(200, source="urn:\N{GRINNING FACE}", subject="%_'\"\\?")._replace(entry=bytes(range(256)) * 255)
    )
    log = await Log.claim(store)
    for first in range(0, 201, 67):
        await log.commit(rows[first : first + 67])
    await assert_holds(store, rows, log.tree, log.epoch)
    assert list(await store.read(60, 3)) == stored(rows[60:63], 60)
    assert list(await store.rows(199, 100)) == rows[199:]
    for beyond in (201, 2**31, 2**63, 2**70):
        assert list(await store.read(beyond, 10)) == list(await store.rows(beyond, 10)) == []
    assert list(await store.read(5, 0)) == []
    assert list(await store.read(200, 2**70)) == stored(rows[200:], 200)


async def test_a_commit_without_rows_changes_nothing(store: EntryStore) -> None:
    log = await Log.claim(store)
    await log.commit([])
    await log.commit(rows_of(0, 3))
    await log.commit([])
    await assert_holds(store, rows_of(0, 3), log.tree, log.epoch)


@pytest.mark.parametrize(
    "bad",
    [
        [make_row(3), make_row(1, version=5)],  # an id that is recorded
        [make_row(3), make_row(4)._replace(id="e3")],  # twice in the same commit
        [make_row(3), make_row(4, version=2)],  # a version that is recorded
        [make_row(3), make_row(4, version=4)],
    ],
    ids=["id", "id in itself", "version", "version in itself"],
)
async def test_a_commit_that_repeats_a_key_writes_nothing(store: EntryStore, bad: list[Row]) -> None:
    log = await Log.claim(store)
    rows = rows_of(0, 3)
    await log.commit(rows)
    bad = [bad[0]._replace(actor="local:never-seen", type="never.seen.v1", source="urn:new", streamversion=1), *bad]
    bad[0] = bad[0]._replace(id="new")
    for _ in range(2):
        with pytest.raises(DuplicateKeys) as refused:
            await log.commit(bad)
        assert str(refused.value).isprintable()
        await assert_holds(store, rows, log.tree, log.epoch)
    assert await store.find_ids([("urn:new", "new"), ("urn:test", "e3")]) == {}
    assert await store.select(Selection(actor="local:never-seen"), limit=9) == []
    # The names that were first met in what was rolled back can be used for real.
    await log.commit([bad[0]])
    await assert_holds(store, [*rows, bad[0]], log.tree, log.epoch)


async def test_the_same_id_of_another_source_and_the_same_version_of_another_stream_are_other_keys(
    store: EntryStore,
) -> None:
    log = await Log.claim(store)
    rows = [
        make_row(1, version=1),
        make_row(1, source="urn:other", version=1),
        make_row(2, subject="s", version=1),
        make_row(3, subject="S", version=1)._replace(id="E1"),
        make_row(4, source="urn:Test", version=1)._replace(id="e1 "),
    ]
    await log.commit(rows)
    await assert_holds(store, rows, log.tree, log.epoch)
    assert await store.find_ids([("urn:test", "E1"), ("urn:Test", "e1 "), ("urn:Test", "e1"), ("urn:other", "e2")]) == {
        ("urn:test", "E1"): StoredEntry(3, rows[3].entry),
        ("urn:Test", "e1 "): StoredEntry(4, rows[4].entry),
    }


async def test_a_commit_at_another_size_is_refused(store: EntryStore) -> None:
    log = await Log.claim(store)
    await log.commit(rows_of(0, 3))
    for size in (0, 2, 4):
        with pytest.raises(CompareFailed):
            await store.commit(rows_of(3, 5), expected_size=size, frontier=(b"\0" * 32,), epoch=log.epoch)
    await assert_holds(store, rows_of(0, 3), log.tree, log.epoch)


async def test_of_two_writers_in_one_epoch_one_commits(opener: Opener) -> None:
    first = await Log.claim(await opener())
    second = Log(await opener(), first.epoch)
    results = await asyncio.gather(first.commit(rows_of(0, 4)), second.commit(rows_of(4, 9)), return_exceptions=True)
    assert sorted(map(str, map(type, results))) == sorted(map(str, (type(None), CompareFailed)))
    assert (await first.store.head()).size == (4 if results[0] is None else 5)


async def test_claiming_fences_every_older_writer_and_every_epoch_is_new(opener: Opener) -> None:
    old = await Log.claim(await opener())
    await old.commit(rows_of(0, 2))
    await old.store.record_checkpoint(checkpoint(1), expected_size=None, epoch=old.epoch)
    others = [await opener() for _ in range(4)]
    epochs = await asyncio.gather(*(other.claim() for other in others))
    assert sorted(epochs) == list(range(old.epoch + 1, old.epoch + 5))
    for epoch in (old.epoch, *sorted(epochs)[:-1], max(epochs) + 1):
        with pytest.raises(Fenced) as fenced:
            await Log(old.store, epoch, old.tree).commit(rows_of(2, 4))
        assert str(fenced.value).isprintable()
        with pytest.raises(Fenced):
            await old.store.record_checkpoint(checkpoint(2), expected_size=1, epoch=epoch)
    await assert_holds(old.store, rows_of(0, 2), old.tree, max(epochs))
    assert await old.store.last_checkpoint("example.test/log") == checkpoint(1)
    newest = Log(others[0], max(epochs), old.tree)
    await newest.commit(rows_of(2, 4))
    await assert_holds(old.store, rows_of(0, 4), newest.tree, max(epochs))


async def test_checkpoints_are_kept_per_origin_and_swapped(store: EntryStore) -> None:
    epoch = await store.claim()
    await store.record_checkpoint(checkpoint(0), expected_size=None, epoch=epoch)
    await store.record_checkpoint(checkpoint(7, origin="other"), expected_size=None, epoch=epoch)
    await store.record_checkpoint(checkpoint(5), expected_size=0, epoch=epoch)
    for expected in (None, 0, 4, 7):
        with pytest.raises(CompareFailed):
            await store.record_checkpoint(checkpoint(9), expected_size=expected, epoch=epoch)
    assert await store.last_checkpoint("example.test/log") == checkpoint(5)
    assert await store.last_checkpoint("other") == checkpoint(7, origin="other")
    assert await store.last_checkpoint("Other") is None


@pytest.mark.parametrize("outcome", [Outcome.FAIL_NOT_PERSISTED, Outcome.FAIL_PERSISTED])
async def test_every_write_that_failed_can_be_found_out_about_and_repeated(opener: Opener, outcome: Outcome) -> None:
    store, failing = await opener(), {"claim", "commit", "record_checkpoint"}

    def hook(operation: str, key: str) -> Outcome:
        if operation not in failing:
            return Outcome.PASS
        failing.remove(operation)
        return outcome

    persisted = outcome is Outcome.FAIL_PERSISTED
    faulty = FaultyEntryStore(store, hook)
    with pytest.raises(StoreUnavailable):
        await faulty.claim()
    assert (await faulty.head()).epoch == (1 if persisted else 0)
    log = await Log.claim(faulty)
    assert log.epoch == (2 if persisted else 1)

    with pytest.raises(StoreUnavailable):
        await log.commit(rows_of(0, 5))
    assert (await faulty.head()).size == (5 if persisted else 0)
    if persisted:
        with pytest.raises(CompareFailed):
            await log.commit(rows_of(0, 5))
        log.tree = log.tree.extend(row.leaf_hash for row in rows_of(0, 5))
    else:
        await log.commit(rows_of(0, 5))
    await assert_holds(faulty, rows_of(0, 5), log.tree, log.epoch)

    with pytest.raises(StoreUnavailable):
        await faulty.record_checkpoint(checkpoint(5), expected_size=None, epoch=log.epoch)
    last = await faulty.last_checkpoint("example.test/log")
    assert last == (checkpoint(5) if persisted else None)
    await faulty.record_checkpoint(checkpoint(5), expected_size=None if last is None else last.size, epoch=log.epoch)
    assert await (await opener()).last_checkpoint("example.test/log") == checkpoint(5)
    assert not failing


# -- reading many at once ---------------------------------------------------------------------------------------


async def test_many_entries_are_read_in_the_order_they_are_asked_for(store: EntryStore) -> None:
    assert list(await store.read_many([])) == list(await store.read_many([0, 1])) == []
    rows = random_rows(Random(6), 300)
    await (await Log.claim(store)).commit(rows)
    every = stored(rows)
    random = Random(7)
    for count in (0, 1, 2, 7, 1_000):
        wanted = [random.randrange(300) for _ in range(count)]  # any order, and most of them more than once
        assert list(await store.read_many(wanted)) == [every[index] for index in wanted]
    assert list(await store.read_many(range(299, -1, -1))) == every[::-1]


async def test_indexes_where_nothing_is_recorded_are_left_out(store: EntryStore) -> None:
    rows = rows_of(0, 10)
    await (await Log.claim(store)).commit(rows)
    every = stored(rows)
    beyond = [10, 11, -1, -10, 2**31, 2**63 - 1, 2**63, -(2**63) - 1, 2**70]
    assert list(await store.read_many(beyond)) == []
    assert list(await store.read_many([beyond[0], 9, *beyond, 0, 9, beyond[-1]])) == [every[9], every[0], every[9]]


async def test_more_are_read_than_a_statement_takes_parameters(store: EntryStore) -> None:
    """SQLite takes 32,766 in a statement (250,000 as Debian builds it), PostgreSQL's protocol 65,535."""
    rows = rows_of(0, 400)
    await (await Log.claim(store)).commit(rows)
    every = stored(rows)
    wanted = list(range(260_000))
    Random(8).shuffle(wanted)
    assert list(await store.read_many(wanted)) == [every[index] for index in wanted if index < 400]
    repeated = [index % 400 for index in range(70_000)]
    assert list(await store.read_many(repeated)) == [every[index] for index in repeated]


async def test_a_store_that_fails_and_one_with_an_index_pass_it_on(store: EntryStore, tmp_path: Path) -> None:
    await (await Log.claim(store)).commit(rows_of(0, 3))
    faulty = FaultyEntryStore(store, lambda operation, key: Outcome.FAIL_NOT_PERSISTED)
    indexed = IndexedEntryStore(store, SqlitePositionIndex(tmp_path / "index.sqlite", create=True))
    for other in (faulty, indexed):
        assert list(await other.read_many([2, 7, 0])) == list(await store.read_many([2, 0]))
    await indexed.close()


# -- finding ----------------------------------------------------------------------------------------------------


async def test_ids_are_found_however_many_are_asked_for(store: EntryStore) -> None:
    log = await Log.claim(store)
    rows = random_rows(Random(2), 500)
    await log.commit(rows)
    wanted = [(row.source, row.id) for row in rows]
    unknown = [("urn:a", f"none{n}") for n in range(40_000)] + [("urn:none", "e1")]
    expected = {key: StoredEntry(index, rows[index].entry) for index, key in enumerate(wanted)}
    assert await store.find_ids([*unknown, *wanted, *wanted[:3]]) == expected
    assert await store.find_ids([]) == {}


async def test_the_last_version_of_each_stream_is_known(store: EntryStore) -> None:
    log = await Log.claim(store)
    rows = random_rows(Random(3), 300)
    await log.commit(rows)
    expected = {StreamId(row.source, row.subject): row.streamversion for row in rows}  # the last one counts
    unknown = [StreamId("urn:a", f"none{n}") for n in range(20_000)] + [StreamId("urn:none", "s")]
    found = await store.stream_versions([*unknown, *expected])
    assert found == {**dict.fromkeys(unknown, 0), **expected}
    assert await store.stream_versions([]) == {}


def matches(row: Row, index: int, what: Selection) -> bool:
    """What a selection means, said once more."""
    return (
        what.start <= index
        and (what.stop is None or index < what.stop)
        and what.source in (None, row.source)
        and what.subject in (None, row.subject)
        and what.actor in (None, row.actor)
        and what.type in (None, row.type)
        and (what.version_from is None or what.version_from <= row.streamversion)
        and (what.version_until is None or row.streamversion < what.version_until)
        and (what.time_from_us is None or what.time_from_us <= row.time_us)
        and (what.time_until_us is None or row.time_us < what.time_until_us)
        and (what.recorded_until_us is None or row.recordedtime_us < what.recorded_until_us)
    )


def random_selection(random: Random, rows: list[Row]) -> Selection:
    def maybe(values: list[Any]) -> Any:
        return random.choice(values) if random.random() < 0.35 else None

    some = random.choices(rows, k=5)
    times = [row.time_us + random.choice((-1, 0, 1)) for row in some] + [0, -(2**70), 2**70]
    versions = [random.choice(some).streamversion + random.choice((-1, 0, 1)) for _ in range(2)] + [-(2**70), 2**70]
    recorded = [row.recordedtime_us + random.choice((-1, 0, 1)) for row in some] + [0, 2**70]
    return Selection(
        start=random.choice((0, 0, random.randrange(len(rows)), len(rows), 2**70)),
        stop=maybe([0, random.randrange(len(rows)), len(rows), 2**70]),
        source=maybe([*(row.source for row in some), "urn:none", "URN:A", ""]),
        subject=maybe([*(row.subject for row in some), "", "none", "%"]),
        actor=maybe([*(row.actor for row in some), "local:none"]),
        type=maybe([*(row.type for row in some), "x.v%"]),
        version_from=maybe(versions),
        version_until=maybe(versions),
        time_from_us=maybe(times),
        time_until_us=maybe(times),
        recorded_until_us=maybe(recorded),
        newest_first=random.random() < 0.5,
    )


@pytest.mark.parametrize("seed", range(3))
async def test_any_selection_finds_exactly_what_matches(store: EntryStore, seed: int) -> None:
    random = Random(seed)
    rows = random_rows(random, 250)
    log, oracle = await Log.claim(store), await Log.claim(MemoryEntryStore())
    for first in range(0, 250, 50):
        await log.commit(rows[first : first + 50])
        await oracle.commit(rows[first : first + 50])
    for number in range(400):
        what, limit = random_selection(random, rows), random.choice((0, 1, 3, 1_000, 2**70))
        expected = [entry for entry, row in zip(stored(rows), rows, strict=True) if matches(row, entry.index, what)]
        expected = (expected[::-1] if what.newest_first else expected)[:limit]
        found = list(await store.select(what, limit=limit))
        assert found == expected == list(await oracle.store.select(what, limit=limit)), f"{seed=} {number=} {what}"


@pytest.mark.parametrize("newest_first", [False, True])
async def test_a_range_of_versions_is_cut_out_of_one_stream_or_of_all(store: EntryStore, newest_first: bool) -> None:
    """Half-open, like every range; in one stream the versions are the order."""
    rows = [make_row(n, subject=f"s{n % 3}", version=n // 3 + 1) for n in range(30)]
    await (await Log.claim(store)).commit(rows)

    async def found(subject: str | None, first: int | None, until: int | None, limit: int = 100) -> list[int]:
        what = Selection(
            source="urn:test", subject=subject, version_from=first, version_until=until, newest_first=newest_first
        )
        page = [one.index for one in await store.select(what, limit=limit)]
        return page[::-1] if newest_first else page

    stream = list(range(1, 30, 3))
    assert await found("s1", None, None) == stream
    assert await found("s1", 3, 6) == stream[2:5]
    assert await found("s1", 3, None) == stream[2:]
    assert await found("s1", None, 3) == stream[:2]
    assert await found("s1", 3, None, limit=2) == (stream[-2:] if newest_first else stream[2:4])
    for nothing in ((3, 3), (6, 3), (11, None), (None, 1), (None, -(2**70)), (2**70, None)):
        assert await found("s1", *nothing) == []
    assert await found("s1", -(2**70), 2**70) == stream
    assert await found(None, 3, 5) == list(range(6, 12)), "of every stream"


@pytest.mark.parametrize("newest_first", [False, True])
async def test_paging_through_a_selection_skips_and_repeats_nothing(store: EntryStore, newest_first: bool) -> None:
    rows = random_rows(Random(4), 120)
    await (await Log.claim(store)).commit(rows)
    what = Selection(source="urn:a", newest_first=newest_first)
    indexes: list[int] = []
    while page := await store.select(what, limit=7):
        indexes += [one.index for one in page]
        last = page[-1].index
        what = replace(what, stop=last) if newest_first else replace(what, start=last + 1)
    expected = [index for index, row in enumerate(rows) if row.source == "urn:a"]
    assert indexes == (expected[::-1] if newest_first else expected)


async def test_the_size_at_a_moment_counts_what_was_recorded_up_to_it(store: EntryStore) -> None:
    log = await Log.claim(store)
    times = [TIME_US + offset for offset in (0, 0, 1, 1, 1, 5, 5, 9)]
    rows = [make_row(number, recordedtime_us=time) for number, time in enumerate(times)]
    await log.commit(rows)
    for moment in range(TIME_US - 1, TIME_US + 11):
        expected = sum(time <= moment for time in times)
        assert await store.size_at(moment) == expected
        # The half-open condition is the same cut, one microsecond later.
        found = await store.select(Selection(recorded_until_us=moment + 1), limit=100)
        assert [one.index for one in found] == list(range(expected))
    assert await store.size_at(-(2**70)) == 0
    assert await store.size_at(2**70) == len(rows)


# -- beside a writer, and after it ------------------------------------------------------------------------------


async def assert_no_gap(reader: EntryStore, seen: int) -> int:
    """Whatever is read is a whole beginning of the log, and never shorter than what was seen before."""
    head = await reader.head()
    entries = await reader.read(0, 100_000)
    rows = await reader.rows(0, 100_000)
    assert seen <= head.size <= len(entries) <= len(rows)
    assert head.frontier == CompactRange.empty().extend(row.leaf_hash for row in rows[: head.size]).frontier
    assert [one.index for one in entries] == list(range(len(entries)))
    assert [row.id for row in rows] == [f"e{n}" for n in range(len(rows))]
    newest = await reader.select(Selection(newest_first=True), limit=1)
    assert not rows or newest[0].index >= len(rows) - 1
    assert await reader.size_at(2**62) >= len(rows)
    return len(rows)


async def test_readers_beside_the_writer_never_see_a_gap(opener: Opener) -> None:
    log = await Log.claim(await opener())
    reader, done = await opener(), asyncio.Event()

    async def read(store: EntryStore) -> None:
        seen = 0
        while not done.is_set():
            seen = await assert_no_gap(store, seen)
            await asyncio.sleep(0)
        assert await assert_no_gap(store, seen) == log.tree.size

    readers = [asyncio.create_task(read(store)) for store in (log.store, reader, reader)]
    for number in range(100):
        first, length = batch_of(number)
        await log.commit(rows_of(first, first + length))
        await asyncio.sleep(0)
    done.set()
    await asyncio.gather(*readers)


@asynccontextmanager
async def writer_process(url: str, batches: int) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.contract.writer", url, str(batches), cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_a_reader_never_sees_a_gap_beside_a_writer_in_another_process(durable: Opener) -> None:
    reader = await durable()
    async with writer_process(durable.url, 150) as writer:
        assert writer.stdout is not None
        seen = 0
        while line := await writer.stdout.readline():
            acknowledged = int(line)
            seen = await assert_no_gap(reader, seen)
            assert seen >= acknowledged, "what was committed before a read is in it"
        assert await writer.wait() == 0
    assert await assert_no_gap(reader, seen) == batch_of(150)[0]


@pytest.mark.parametrize("seed", range(3))
async def test_a_killed_writer_leaves_whole_commits_and_everything_acknowledged(durable: Opener, seed: int) -> None:
    wanted = Random(seed).randrange(5, 60)
    await (await durable()).close()  # the writer finds it made
    async with writer_process(durable.url, 0) as writer:
        assert writer.stdout is not None
        lines = [await writer.stdout.readline() for _ in range(wanted)]
        writer.kill()
        rest, _ = await writer.communicate()
    acknowledged = int([*b"".join(lines).split(), *rest.split()][-1])
    store = await durable()
    log = await Log.claim(store)  # as whoever takes over does: what was still in flight on a server is decided by then
    head = await store.head()
    assert head.size >= acknowledged
    assert head.size in {batch_of(number)[0] for number in range(100_000)}, "a commit is whole or not there"
    rows = rows_of(0, head.size)
    await assert_holds(store, rows, CompactRange.empty().extend(row.leaf_hash for row in rows), head.epoch)
    await log.commit(rows_of(head.size, head.size + 3))


async def test_everything_is_there_again_after_closing_and_opening(durable: Opener) -> None:
    store = await durable()
    log = await Log.claim(store)
    rows = random_rows(Random(5), 100)
    await log.commit(rows[:60])
    await store.record_checkpoint(checkpoint(60), expected_size=None, epoch=log.epoch)
    await store.close()
    await store.close()  # closing twice is fine
    again = await durable()
    await assert_holds(again, rows[:60], log.tree, log.epoch)
    assert await again.last_checkpoint("example.test/log") == checkpoint(60)
    log = await Log.claim(again)
    await log.commit(rows[60:])
    await assert_holds(again, rows, log.tree, 2)


async def test_an_error_is_one_line_that_names_the_store(opener: Opener) -> None:
    store = await opener()
    log = await Log.claim(store)
    await log.commit(rows_of(0, 2))
    errors: list[JinshiError] = []
    for act in (
        log.store.commit(rows_of(0, 2), expected_size=2, frontier=(), epoch=log.epoch),
        log.store.commit(rows_of(2, 3), expected_size=9, frontier=(), epoch=log.epoch),
        log.store.commit(rows_of(2, 3), expected_size=2, frontier=(), epoch=9),
        log.store.record_checkpoint(checkpoint(2), expected_size=1, epoch=log.epoch),
    ):
        with pytest.raises(JinshiError) as raised:
            await act
        errors.append(raised.value)
    for error in errors:
        assert store.where in str(error)
        assert str(error).isprintable()
