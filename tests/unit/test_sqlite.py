"""The SQLite store when it is given something bad, or the disk is: one readable error, and nothing half done."""

from __future__ import annotations

import asyncio
import resource
import signal
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from ledger.errors import DiskFull, InvalidRequest, JinshiError, StoreUnavailable
from ledger.store.base import Selection, SignedCheckpoint, StreamId
from ledger.store.sqlite import SqliteEntryStore
from ledger.store.sqlite_schema import SCHEMA_VERSION
from tests.support.places import reachable_directory, small_disk, unwritable
from tests.support.rows import Log, make_row


@asynccontextmanager
async def opened(path: Path, *, create: bool = False) -> AsyncIterator[SqliteEntryStore]:
    store = await SqliteEntryStore.open(path, create=create)
    try:
        yield store
    finally:
        await store.close()


async def fill(path: Path, size: int) -> None:
    async with opened(path, create=True) as store:
        log = await Log.claim(store)
        await log.commit([make_row(number) for number in range(size)])
        await store.record_checkpoint(SignedCheckpoint("o", 1, b"r", b"n"), expected_size=None, epoch=log.epoch)


async def refusal(path: Path, kind: type[JinshiError], *, create: bool = False) -> str:
    """What opening says; it must be an error of exactly that kind, on one line that names the file."""
    with pytest.raises(JinshiError) as refused:
        await SqliteEntryStore.open(path, create=create)
    assert type(refused.value) is kind
    assert refused.value.hint
    assert str(refused.value).isprintable()
    assert str(path) in str(refused.value)
    return str(refused.value)


# -- files that are no store of ours ----------------------------------------------------------------------------


async def test_a_store_that_is_not_there_is_made_only_on_demand(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    assert "is not there" in await refusal(path, InvalidRequest)
    assert "is not there" in await refusal(tmp_path, InvalidRequest)  # a directory
    assert list(tmp_path.iterdir()) == []
    await refusal(tmp_path / "no" / "folder.sqlite", StoreUnavailable, create=True)
    async with opened(path, create=True):
        pass
    async with opened(path, create=True) as again:  # and is not made twice
        assert (await again.head()).size == 0


@pytest.mark.parametrize("create", [False, True])
async def test_what_is_no_database_is_refused_and_left_alone(tmp_path: Path, create: bool) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"dear diary\n" * 500)
    assert "no ledger's store" in await refusal(path, StoreUnavailable, create=create)
    assert path.read_bytes() == b"dear diary\n" * 500
    assert [path] == list(tmp_path.iterdir())


async def test_an_empty_file_is_no_store_until_it_is_made_one(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    path.touch()
    assert "no ledger's store" in await refusal(path, InvalidRequest)
    assert path.stat().st_size == 0
    async with opened(path, create=True) as store:  # as a creation that was killed leaves it
        assert (await store.head()).size == 0


@pytest.mark.parametrize("create", [False, True])
async def test_the_database_of_another_application_is_refused_and_left_alone(tmp_path: Path, create: bool) -> None:
    path = tmp_path / "ledger.sqlite"
    db = sqlite3.connect(path)
    db.executescript("CREATE TABLE head (size); INSERT INTO head VALUES (1); PRAGMA user_version = 1;")
    db.close()
    before = path.read_bytes()
    assert "no ledger's store" in await refusal(path, InvalidRequest, create=create)
    assert path.read_bytes() == before, "not even its journal mode has changed"
    assert [path] == list(tmp_path.iterdir())


@pytest.mark.parametrize("create", [False, True])
async def test_a_newer_schema_is_refused_and_left_alone(tmp_path: Path, create: bool) -> None:
    path = tmp_path / "ledger.sqlite"
    await fill(path, 3)
    db = sqlite3.connect(path, isolation_level=None)
    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    db.execute("PRAGMA journal_mode = DELETE")
    db.close()
    before = path.read_bytes()
    assert f"schema {SCHEMA_VERSION + 1}" in await refusal(path, InvalidRequest, create=create)
    assert path.read_bytes() == before


# -- damage -----------------------------------------------------------------------------------------------------


async def damage_page(path: Path, table: str) -> None:
    """Overwrite the root page of a table, as a broken disk might."""
    db = sqlite3.connect(path)
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    (page,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    (size,) = db.execute("PRAGMA page_size").fetchone()
    db.close()
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xa5" * size)


@pytest.mark.parametrize("table", ["entry", "record", "head", "name", "record_id", "record_stream", "checkpoint"])
async def test_a_damaged_page_is_named_as_damage_and_nothing_is_written(tmp_path: Path, table: str) -> None:
    path = tmp_path / "ledger.sqlite"
    await fill(path, 400)
    await damage_page(path, table)
    raised: list[JinshiError] = []
    async with opened(path) as store:
        for act in (
            lambda: store.head(),
            lambda: store.claim(),
            lambda: store.read(0, 1_000),
            lambda: store.rows(0, 1_000),
            lambda: store.select(Selection(source="urn:test"), limit=1_000),
            lambda: store.size_at(2**60),
            lambda: store.find_ids([("urn:test", "e7")]),
            lambda: store.stream_versions([StreamId("urn:test", "")]),
            lambda: store.last_checkpoint("o"),
            lambda: store.commit([make_row(400)], expected_size=400, frontier=(b"\0" * 32,) * 3, epoch=2),
        ):
            try:
                await act()
            except JinshiError as error:
                raised.append(error)
    assert raised, "somebody notices"
    for error in raised:
        if type(error) is StoreUnavailable:
            assert "damaged" in str(error), error
            assert "restore the ledger from a site" in str(error)
        assert str(error).isprintable()
    assert any(type(error) is StoreUnavailable for error in raised)


@pytest.mark.parametrize("edit", ["DELETE FROM head", "DELETE FROM record", "UPDATE head SET frontier = x'00'"])
async def test_rows_that_somebody_took_away_are_damage_too(tmp_path: Path, edit: str) -> None:
    path = tmp_path / "ledger.sqlite"
    await fill(path, 5)
    db = sqlite3.connect(path, isolation_level=None)
    db.execute(edit)
    db.close()
    async with opened(path) as store:
        asked = await asyncio.gather(store.head(), store.size_at(2**60), return_exceptions=True)
    errors = [str(answer) for answer in asked if isinstance(answer, StoreUnavailable)]
    assert errors
    for error in errors:
        assert "damaged" in error
        assert "restore the ledger from a site" in error


async def test_a_truncated_file_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    await fill(path, 400)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    with pytest.raises(StoreUnavailable, match="damaged"):
        async with opened(path) as store:
            await store.rows(0, 1_000)


# -- permissions, locks and questions that make no sense ----------------------------------------------------------


async def test_in_a_read_only_directory_nothing_is_made_and_the_error_says_so() -> None:
    with reachable_directory() as folder:
        with unwritable(folder):
            await refusal(folder / "new.sqlite", StoreUnavailable, create=True)
        assert list(folder.iterdir()) == []
        await fill(folder / "old.sqlite", 3)
        before = (folder / "old.sqlite").read_bytes()
        with unwritable(folder):
            assert "check permissions" in await refusal(folder / "old.sqlite", StoreUnavailable)
        assert (folder / "old.sqlite").read_bytes() == before
        async with opened(folder / "old.sqlite") as store:
            assert (await store.head()).size == 3


async def test_a_folder_that_may_not_be_entered_is_one_line() -> None:
    with reachable_directory() as top:
        folder = top / "ledger"
        folder.mkdir()
        await fill(folder / "ledger.sqlite", 3)
        folder.chmod(0)
        with unwritable(top):
            assert "check permissions" in await refusal(folder / "ledger.sqlite", StoreUnavailable)
        folder.chmod(0o755)


async def test_a_lock_held_by_another_process_is_named_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ledger.store.sqlite_schema.BUSY_TIMEOUT_S", 0.0)
    path = tmp_path / "ledger.sqlite"
    async with opened(path, create=True) as store:
        log = await Log.claim(store)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match=r"is being written by another process; wait"):
            await log.commit([make_row(0)])
        assert (await store.head()).size == 0, "reading goes on"
        other.execute("ROLLBACK")
        other.close()
        await log.commit([make_row(0)])


async def test_text_that_is_none_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path / "ledger.sqlite", create=True) as store:
        for act in (
            store.select(Selection(subject="\udcff"), limit=1),
            store.find_ids([("urn:test", "\ud800")]),
            store.stream_versions([StreamId("\udcff", "")]),
            store.last_checkpoint("\udcff"),
        ):
            with pytest.raises(InvalidRequest, match="UTF-8") as refused:
                await act
            assert str(refused.value).isprintable()


# -- a full disk ------------------------------------------------------------------------------------------------


async def assert_whole(store: SqliteEntryStore, log: Log) -> None:
    """The store holds exactly what was acknowledged."""
    rows = await store.rows(0, 100_000)
    assert [row.id for row in rows] == [f"e{number}" for number in range(log.tree.size)]
    head = await store.head()
    assert (head.size, head.frontier) == (log.tree.size, log.tree.frontier)


async def commit_until_full(log: Log) -> tuple[int, DiskFull | StoreUnavailable]:
    while True:
        first = log.tree.size
        try:
            await log.commit([make_row(number) for number in range(first, first + 100)])
        except StoreUnavailable as error:
            return first, error
        assert first < 100_000, "it never got full"


async def test_a_full_disk_loses_nothing_and_the_same_call_works_once_there_is_room(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 512) as disk:
        path = disk.path / "ledger.sqlite"
        async with opened(path, create=True) as store:
            log = await Log.claim(store)
            first, error = await commit_until_full(log)
            assert type(error) is DiskFull
            assert str(error) == f"{path}: no space is left; free space, then run it again"
            await assert_whole(store, log)
            with pytest.raises(DiskFull):
                await log.commit([make_row(number) for number in range(first, first + 100)])
            await assert_whole(store, log)
            disk.resize(8_192)
            await log.commit([make_row(number) for number in range(first, first + 100)])
            await assert_whole(store, log)
        async with opened(path) as again:
            await assert_whole(again, log)


@pytest.mark.parametrize("size_kib", [4, 16, 40, 64])
async def test_a_store_that_does_not_fit_is_made_later(tmp_path: Path, size_kib: int) -> None:
    with small_disk(tmp_path / "disk", size_kib) as disk:
        path = disk.path / "ledger.sqlite"
        assert "no space is left" in await refusal(path, DiskFull, create=True)
        disk.resize(1_024)
        async with opened(path, create=True) as store:
            log = await Log.claim(store)
            await log.commit([make_row(0)])
            await assert_whole(store, log)


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """No file of this process may grow beyond `size` bytes, as with a quota."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


async def test_a_file_that_may_not_grow_is_an_error_and_nothing_is_half_done(tmp_path: Path) -> None:
    async with opened(tmp_path / "ledger.sqlite", create=True) as store:
        log = await Log.claim(store)
        with file_size_limit(512 * 1024):
            first, error = await commit_until_full(log)
        assert str(error).isprintable()
        await assert_whole(store, log)
        await log.commit([make_row(number) for number in range(first, first + 100)])
        await assert_whole(store, log)
