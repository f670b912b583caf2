"""The record index: the same answers as the store, whatever has become of the index's file."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest

from ledger.core.merkle import CompactRange
from ledger.errors import Tampered
from ledger.index import IndexedEntryStore, catch_up, verify_index
from ledger.store import index_sqlite
from ledger.store.base import EntryStore, Row, Selection, StoredEntry
from ledger.store.index_sqlite import SqlitePositionIndex
from ledger.store.memory import MemoryEntryStore
from ledger.store.positions import IndexDamaged, IndexUnusable
from tests.support.rows import TIME_US, Log, as_entry, make_row, random_rows

ROOT = Path(__file__).parents[2]


class Unsearchable(MemoryEntryStore):
    """A store that is asked for entries, but never searched."""

    async def select(self, what: Selection, *, limit: int) -> Sequence[StoredEntry]:
        raise AssertionError(f"the store was searched for {what}")


async def log_of(rows: Sequence[Row], store: EntryStore | None = None) -> Log:
    log = await Log.claim(store or MemoryEntryStore())
    await log.commit(rows)
    return log


def entries(random: Random, count: int) -> list[Row]:
    """Random rows around real entries: what is found is held against the entry itself."""
    return [as_entry(row) for row in random_rows(random, count)]


def random_selection(random: Random, size: int) -> Selection:
    def maybe(*values: Any) -> Any:
        return random.choice((*values, *[None] * len(values)))

    times = [TIME_US + random.randrange(-10_000, size * 300) for _ in range(4)]
    return Selection(
        start=random.choice((0, 0, random.randrange(size), size, 2**70)),
        stop=maybe(random.randrange(size + 5), 0, 2**70),
        source=maybe("urn:a", "urn:b", "urn:é市", "urn:none"),
        subject=maybe("", "s", "S", "s ", "市", "nobody"),
        actor=maybe("local:a", "local:b", "local:nobody"),
        type=maybe("x.v1", "x.v2", "y.v1", "none.v1"),
        version_from=random.choice((None, None, None, 3)),
        time_from_us=maybe(times[0], -(2**70)),
        time_until_us=maybe(times[1], 2**70),
        recorded_until_us=maybe(times[2], times[3]),
        newest_first=random.choice((True, False)),
    )


@pytest.mark.parametrize("selective_max", [10, 10_000])
async def test_it_answers_as_the_store_does(
    selective_max: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_sqlite, "SELECTIVE_MAX", selective_max)
    random = Random(f"index {selective_max}")
    rows = entries(random, 2_500)
    log = await log_of(rows[:1_300])
    said: list[str] = []
    indexed = IndexedEntryStore(log.store, SqlitePositionIndex(tmp_path / "i", create=True), warn=said.append)
    for number in range(600):
        if number == 300:
            await log.commit(rows[1_300:])
        what, limit = random_selection(random, log.tree.size), random.choice((0, 1, 7, 1_000, 2**70))
        assert list(await indexed.select(what, limit=limit)) == list(await log.store.select(what, limit=limit)), what
    assert said == []
    await indexed.close()


async def test_what_it_narrows_is_not_searched_for_in_the_store(tmp_path: Path) -> None:
    rare = (5, 900, 901, 1_500)
    rows = [as_entry(make_row(n, actor="local:rare" if n in rare else "local:all")) for n in range(2_000)]
    log = await log_of(rows, Unsearchable())
    indexed = IndexedEntryStore(log.store, SqlitePositionIndex(tmp_path / "i", create=True))
    found = await indexed.select(Selection(actor="local:rare", newest_first=True), limit=3)
    assert [one.index for one in found] == [1_500, 901, 900]
    assert [one.entry for one in found] == [rows[one.index].entry for one in found]
    assert await indexed.select(Selection(actor="local:nobody"), limit=3) == []
    built = SqlitePositionIndex(tmp_path / "i")
    assert await built.find(Selection(actor="local:nobody"), 3, size=2_000) == []
    assert await built.find(Selection(actor="local:nobody"), 3, size=2_001) is None, "it does not know all of them"
    assert await built.find(Selection(time_from_us=0), 3, size=2_000) == [0, 1, 2]
    await built.close()
    with pytest.raises(AssertionError, match="searched"):  # one stream is what every store finds best
        await indexed.select(Selection(source="urn:test", subject=""), limit=3)
    await indexed.close()


async def test_everything_else_is_the_stores(tmp_path: Path) -> None:
    log = await log_of([as_entry(make_row(0))])
    indexed = IndexedEntryStore(log.store, SqlitePositionIndex(tmp_path / "i", create=True))
    log.store = indexed
    await log.commit([as_entry(make_row(1))])
    assert (await indexed.head()).size == 2
    assert [row.id for row in await indexed.rows(0, 9)] == ["e0", "e1"]
    assert [one.index for one in await indexed.select(Selection(type="thing.happened.v1"), limit=9)] == [0, 1]
    await indexed.close()


# -- building ---------------------------------------------------------------------------------------------------------


async def test_a_build_that_stopped_is_carried_on(tmp_path: Path) -> None:
    log = await log_of(entries(Random(2), 3_500))
    first = SqlitePositionIndex(tmp_path / "i", create=True)
    assert await catch_up(log.store, first, entries_max=1) is None
    assert (await first.built()).size == 1_000
    await first.close()
    second = SqlitePositionIndex(tmp_path / "i")
    seen: list[tuple[int, int]] = []
    assert await catch_up(log.store, second, report=lambda done, total: seen.append((done, total))) == 3_500
    assert seen == [(2_000, 3_500), (3_000, 3_500), (3_500, 3_500)]
    assert await verify_index(log.store, second) == 3_500
    await second.close()


async def test_while_it_is_far_behind_the_store_is_searched_and_the_index_catches_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger.index.CATCH_UP_ENTRIES_MAX", 1_000)
    log = await log_of(entries(Random(3), 2_500))
    index = SqlitePositionIndex(tmp_path / "i", create=True)
    indexed = IndexedEntryStore(log.store, index)
    what = Selection(actor="local:b", newest_first=True)
    for size in (1_000, 2_000, 2_500):
        assert await indexed.select(what, limit=50) == await log.store.select(what, limit=50)
        assert (await index.built()).size == size
    await indexed.close()


async def test_several_may_build_and_search_at_once(tmp_path: Path) -> None:
    log = await log_of(entries(Random(4), 6_000))
    indexes = [SqlitePositionIndex(tmp_path / "i", create=True) for _ in range(4)]
    assert await asyncio.gather(*(catch_up(log.store, index) for index in indexes)) == [6_000] * 4
    assert await verify_index(log.store, indexes[0]) == 6_000
    for index in indexes:
        await index.close()


@pytest.mark.parametrize("others", [2_000, 2_600, 3_500])
async def test_the_index_of_another_history_is_thrown_away(others: int, tmp_path: Path) -> None:
    """Shorter, as long and longer; where they begin the same, a fork is seen when the trees meet."""
    rows = entries(Random(5), 3_500)
    index = SqlitePositionIndex(tmp_path / "i", create=True)
    await catch_up((await log_of(rows[:others])).store, index)
    forked = [*rows[:1_999], rows[1_999]._replace(entry=b"forged", leaf_hash=bytes(32)), *rows[2_000:2_600]]
    log = await log_of(forked)
    indexed = IndexedEntryStore(log.store, index)
    what = Selection(type="x.v2", newest_first=True)
    assert await indexed.select(what, limit=9) == await log.store.select(what, limit=9)
    assert await index.built() == log.tree
    assert await verify_index(log.store, index) == 2_600
    await indexed.close()


async def test_a_store_whose_entries_are_not_its_tree_is_searched_without_an_index(tmp_path: Path) -> None:
    rows = entries(Random(6), 300)
    store = MemoryEntryStore()
    epoch = await store.claim()
    wrong = CompactRange.empty().extend([bytes(32)] * 300)
    await store.commit(rows, expected_size=0, frontier=wrong.frontier, epoch=epoch)
    said: list[str] = []
    indexed = IndexedEntryStore(store, SqlitePositionIndex(tmp_path / "i", create=True), warn=said.append)
    for _ in range(2):
        what = Selection(actor="local:a")
        assert list(await indexed.select(what, limit=9)) == list(await store.select(what, limit=9))
    assert [line.partition(";")[0] for line in said] == ["memory: its entries do not hash to its tree"]
    await indexed.close()


async def test_a_store_that_finds_an_entry_by_what_it_is_not_is_searched_without_an_index(tmp_path: Path) -> None:
    """It is not the index that is wrong, so it is not built again for every search."""
    rows = entries(Random(11), 300)
    rows[7] = rows[7]._replace(actor="local:forged")
    log = await log_of(rows)
    said: list[str] = []
    index = SqlitePositionIndex(tmp_path / "i", create=True)
    indexed = IndexedEntryStore(log.store, index, warn=said.append)
    for _ in range(2):
        assert [one.index for one in await indexed.select(Selection(actor="local:forged"), limit=9)] == [7]
    assert [line.partition(";")[0] for line in said] == ["memory: what entry 7 is found by is not what it says"]
    assert (await index.built()).size == 300
    await indexed.close()


# -- a file that is not what it was -----------------------------------------------------------------------------------


def overwrite_all(path: Path) -> None:
    path.write_bytes(b"no database at all" * 1_000)


def overwrite_middle(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:4096] + bytes(len(data) - 4096))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5_000])


def change(statement: str) -> Any:
    def act(path: Path) -> None:
        with sqlite3.connect(path) as db:
            db.execute(statement)
        db.close()

    return act


DAMAGES = {
    "no database": overwrite_all,
    "zeros": overwrite_middle,
    "cut": cut,
    "another application": change("PRAGMA application_id = 7"),
    "another version": change("PRAGMA user_version = 7"),
    "no table": change("DROP TABLE record"),
    "no index": change("DROP INDEX by_actor"),
    "no size": change("DELETE FROM built"),
    "impossible size": change("UPDATE built SET size = 7"),
    "other positions": change("UPDATE record SET position = position + 100000"),
    "other actor": change("UPDATE record SET actor = (SELECT number FROM name WHERE text = 'local:b')"),
}


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_damaged_index_is_built_again_and_said_once(damage: str, tmp_path: Path) -> None:
    log = await log_of(entries(Random(7), 1_500))
    path = tmp_path / "index.sqlite"
    index = SqlitePositionIndex(path, create=True)
    await catch_up(log.store, index)
    await index.close()
    DAMAGES[damage](path)
    said: list[str] = []
    indexed = IndexedEntryStore(log.store, SqlitePositionIndex(path), warn=said.append)
    for name in ("local:b", "local:a", "local:b"):
        what = Selection(actor=name)
        assert list(await indexed.select(what, limit=9)) == list(await log.store.select(what, limit=9))
    assert len(said) == 1
    assert said[0].startswith(f"{path} is ")
    await indexed.close()
    again = SqlitePositionIndex(path)
    assert await verify_index(log.store, again) == 1_500
    await again.close()


@pytest.mark.parametrize(
    "statement",
    ["UPDATE record SET actor = 3 - actor WHERE actor < 3 AND position = 700", "UPDATE record SET subject = 'x'"],
)
async def test_a_forged_index_is_found_by_comparing(statement: str, tmp_path: Path) -> None:
    log = await log_of(entries(Random(8), 1_500))
    index = SqlitePositionIndex(tmp_path / "i", create=True)
    await catch_up(log.store, index)
    change("UPDATE record SET time_us = 1 WHERE position = 700")(tmp_path / "i")
    with pytest.raises(Tampered, match="entries 0 to 999"):
        await verify_index(log.store, index)
    change(statement)(tmp_path / "i")
    with pytest.raises(Tampered):
        await verify_index(log.store, index)
    await index.close()


async def test_an_index_dropped_under_a_reader_is_not_missed(tmp_path: Path) -> None:
    log = await log_of(entries(Random(9), 1_500))
    path = tmp_path / "i"
    index = SqlitePositionIndex(path, create=True)
    await catch_up(log.store, index)
    await index.close()
    said: list[str] = []
    indexed = IndexedEntryStore(log.store, SqlitePositionIndex(path), warn=said.append)
    what = Selection(actor="local:a")
    expected = list(await log.store.select(what, limit=9))
    assert list(await indexed.select(what, limit=9)) == expected
    dropping = SqlitePositionIndex(path)
    await dropping.discard()
    await dropping.close()
    assert list(tmp_path.iterdir()) == []
    for _ in range(2):
        assert list(await indexed.select(what, limit=9)) == expected
    assert len(said) == 1
    assert list(tmp_path.iterdir()) == [], "a reader does not bring it back"
    again = SqlitePositionIndex(path, create=True)
    await catch_up(log.store, again)
    assert list(await indexed.select(what, limit=9)) == expected
    await again.close()
    await indexed.close()


async def test_a_place_that_cannot_be_written_only_costs_the_index(tmp_path: Path) -> None:
    log = await log_of(entries(Random(10), 300))
    index = SqlitePositionIndex(tmp_path / "no" / "i", create=True)
    with pytest.raises(IndexUnusable, match="cannot be used"):
        await catch_up(log.store, index)
    indexed = IndexedEntryStore(log.store, index)
    assert len(await indexed.select(Selection(actor="local:a"), limit=9)) == 9
    await indexed.close()
    assert issubclass(IndexDamaged, IndexUnusable)


# -- memory -----------------------------------------------------------------------------------------------------------

CHILD = """
import asyncio, resource, sys
from pathlib import Path
from ledger.index import IndexedEntryStore, catch_up
from ledger.reader import Reader
from ledger.store.base import Selection
from ledger.store.index_sqlite import SqlitePositionIndex
from ledger.store.memory import MemoryObjectStore
from ledger.store.sqlite import SqliteEntryStore

async def main(directory):
    store = await SqliteEntryStore.open(directory / "ledger.sqlite")
    index = SqlitePositionIndex(directory / "index.sqlite", create=True)
    size = await catch_up(store, index)
    indexed = IndexedEntryStore(store, index)
    reader = Reader(indexed, MemoryObjectStore())
    found = 0
    for newest_first in (True, False):
        async for _ in reader.selected(Selection(actor="local:a", newest_first=newest_first)):
            found += 1
    await indexed.close()
    print(size, found, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)

asyncio.run(main(Path(sys.argv[1])))
"""


@pytest.mark.slow
async def test_memory_does_not_grow_with_the_log(tmp_path: Path) -> None:
    from ledger.store.sqlite import SqliteEntryStore

    peaks: list[int] = []
    store = await SqliteEntryStore.open(tmp_path / "ledger.sqlite", create=True)
    log = await Log.claim(store)
    for size in (20_000, 200_000):
        for first in range(log.tree.size, size, 10_000):
            await log.commit(
                [
                    as_entry(make_row(n, subject=f"s{n}", version=1, actor="local:a" if n % 3 else "local:b"))
                    for n in range(first, first + 10_000)
                ]
            )
        (tmp_path / "index.sqlite").unlink(missing_ok=True)
        ran = subprocess.run(
            [sys.executable, "-c", CHILD, tmp_path], cwd=ROOT, check=True, capture_output=True, text=True
        )
        built, found, peak = map(int, ran.stdout.split())
        assert (built, found) == (size, 2 * sum(1 for n in range(size) if n % 3))
        peaks.append(peak * (1 if sys.platform == "darwin" else 1_024))  # getrusage(2): bytes there, KiB on Linux
    await store.close()
    assert peaks[1] - peaks[0] < index_sqlite.CACHE_KIB * 1_024, f"{peaks} bytes"
