"""The tamper campaign over the database: every edit of a row is caught by the audit, and the entry is named."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest

from ledger.auditor import Check, Outcome, ReplaySettings, audit_rows, replay
from ledger.core.checkpoint import CHECKPOINT, OpenedCheckpoint, parse_checkpoint
from ledger.core.event import Event
from ledger.core.merkle import CompactRange, leaf_hash
from ledger.store.base import ObjectStore
from ledger.store.memory import MemoryEntryStore
from ledger.store.place import PostgresPlace
from ledger.store.postgres import PostgresEntryStore
from ledger.store.sqlite import SqliteEntryStore
from tests.support.ledgers import append
from tests.support.postgres import PostgresServer
from tests.support.replicas import ORIGIN, Replicas

PUBLISHED, SIZE = 300, 320
Edit = Callable[[sqlite3.Connection, int], None]


@dataclass(frozen=True)
class Ledger:
    """A ledger in a file: 300 entries published, 20 more committed."""

    file: Path
    replicas: Replicas
    opened: OpenedCheckpoint

    @property
    def published(self) -> ObjectStore:
        return self.replicas.published


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    return asyncio.run(_build(tmp_path_factory.mktemp("rows") / "ledger.sqlite"))


async def _build(file: Path) -> Ledger:
    replicas = Replicas(sites=[])
    replicas.store = await SqliteEntryStore.open(file, create=True)
    await replicas.begin()
    await replicas.grow(PUBLISHED)
    await replicas.publish()
    await replicas.grow(SIZE)
    await replicas.store.close()
    opened = parse_checkpoint((await replicas.published.get(CHECKPOINT)).data)
    return Ledger(file, replicas, opened)


async def audit(ledger: Ledger, file: Path) -> dict[str, Check]:
    store = await SqliteEntryStore.open(file)
    try:
        checks = await audit_rows(store, ledger.published, ledger.opened, ledger.replicas.log)
    finally:
        await store.close()
    return {check.name: check for check in checks}


async def audit_edited(ledger: Ledger, tmp_path: Path, edit: Callable[[sqlite3.Connection], None]) -> dict[str, Check]:
    file = tmp_path / "edited.sqlite"
    shutil.copy(ledger.file, file)
    db = sqlite3.connect(file)
    before = "\n".join(db.iterdump())
    edit(db)
    db.commit()
    assert "\n".join(db.iterdump()) != before, "nothing was changed"
    db.close()
    return await audit(ledger, file)


def named(checks: dict[str, Check]) -> set[str]:
    """The keys of all findings."""
    return {finding.key for check in checks.values() for finding in check.findings}


def update(what: str, table: str = "record") -> Edit:
    return lambda db, index: db.execute(f"UPDATE {table} SET {what} WHERE position = {index}")


def rename(column: str, text: str) -> Edit:
    def edit(db: sqlite3.Connection, index: int) -> None:
        db.execute("INSERT INTO name (text) VALUES (?)", (text,))
        db.execute(
            f"UPDATE record SET {column} = (SELECT number FROM name WHERE text = ?) WHERE position = ?", (text, index)
        )

    return edit


def replace_entry(change: Callable[[bytes], bytes], *, hashed: bool) -> Edit:
    """Other bytes in place of an entry's; with its hash put right, too, or not."""

    def edit(db: sqlite3.Connection, index: int) -> None:
        (data,) = db.execute("SELECT data FROM entry WHERE position = ?", (index,)).fetchone()
        changed = change(data)
        db.execute("UPDATE entry SET data = ? WHERE position = ?", (changed, index))
        if hashed:
            db.execute("UPDATE entry SET leaf = ? WHERE position = ?", (leaf_hash(changed), index))

    return edit


def delete(*tables: str) -> Edit:
    def edit(db: sqlite3.Connection, index: int) -> None:
        for table in tables:
            db.execute(f"DELETE FROM {table} WHERE position = {index}")

    return edit


def swap(*tables: str) -> Edit:
    """With the entry before it."""

    def edit(db: sqlite3.Connection, index: int) -> None:
        for table in tables:
            for old, new in ((index, -1), (index - 1, index), (-1, index - 1)):
                db.execute(f"UPDATE {table} SET position = {new} WHERE position = {old}")

    return edit


def _other_data(data: bytes) -> bytes:
    return data.replace(b'"n":', b'"n":1', 1)


EDITS: dict[str, Edit] = {
    "entry": replace_entry(_other_data, hashed=False),
    "entry and its hash": replace_entry(_other_data, hashed=True),
    "entry, no JSON any more": replace_entry(lambda data: data[:-1], hashed=True),
    "entry, not canonical": replace_entry(lambda data: data.replace(b":", b": ", 1), hashed=True),
    "leaf": update("leaf = zeroblob(32)", "entry"),
    "id": update("id = 'forged'"),
    "subject": update("subject = 'forged'"),
    "version": update("version = 7777"),
    "source": rename("source", "urn:forged"),
    "type": rename("type", "forged.v1"),
    "actor": rename("actor", "local:mallory"),
    "time": update("time_us = time_us + 1"),
    "recorded time": update("recorded_us = recorded_us + 1"),
    "deleted": delete("entry", "record"),
    "deleted, the entry only": delete("entry"),
    "deleted, what it is found by only": delete("record"),
    "swapped": swap("entry", "record"),
    "swapped, the entries only": swap("entry"),
    "swapped, what they are found by only": swap("record"),
}


@pytest.mark.parametrize("index", [1, 256, PUBLISHED - 1, PUBLISHED + 1, SIZE - 1])
@pytest.mark.parametrize("name", EDITS)
async def test_an_edited_row_is_named(ledger: Ledger, tmp_path: Path, name: str, index: int) -> None:
    checks = await audit_edited(ledger, tmp_path, lambda db: EDITS[name](db, index))
    # Whole rows, consistent in themselves, of entries that nobody has signed yet: only the tree tells.
    only_told_by_the_tree = index >= PUBLISHED and name in ("entry and its hash", "swapped")
    assert ("head" if only_told_by_the_tree else f"entry {index}") in named(checks), checks


WHOLE: dict[str, tuple[str, str]] = {
    "a name that many rows share": ("UPDATE name SET text = 'local:mallory' WHERE text = 'local:test'", "entry 1"),
    "the head's size, less": (f"UPDATE head SET size = {PUBLISHED - 44}, frontier = substr(frontier, 1, 32)", "head"),
    "the head's size and tree do not agree": ("UPDATE head SET size = size - 1", "head"),
    "the head's tree": ("UPDATE head SET frontier = zeroblob(length(frontier))", "head"),
    "the head's recorded time": ("UPDATE head SET recorded_us = recorded_us + 1", "head"),
    "the head is gone": ("DELETE FROM head", "head"),
    "the checkpoint's size": ("UPDATE checkpoint SET size = size - 1", CHECKPOINT),
    "the checkpoint's root": ("UPDATE checkpoint SET root = zeroblob(32)", CHECKPOINT),
    "the checkpoint's note": ("UPDATE checkpoint SET note = x'00'", CHECKPOINT),
    "the checkpoint's signature": (
        "UPDATE checkpoint SET note = CAST(replace(CAST(note AS TEXT), 'A', 'B') AS BLOB)", CHECKPOINT
    ),
    "the checkpoint is gone": ("DELETE FROM checkpoint", CHECKPOINT),
    "the checkpoint is another log's": ("UPDATE checkpoint SET origin = 'example.test/other'", CHECKPOINT),
    "an entry beyond the end": (
        f"INSERT INTO entry SELECT {SIZE + 5}, data, leaf FROM entry WHERE position = 5", f"entry {SIZE + 5}"
    ),
    "a version of a stream beyond the end": (
        f"INSERT INTO record SELECT {SIZE + 5}, source, 'x', subject, 999, type, actor, time_us, recorded_us"
        " FROM record WHERE position = 5", "stream s5 of urn:test"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WHOLE)
async def test_an_edit_of_what_is_not_a_row_of_an_entry_is_named(ledger: Ledger, tmp_path: Path, name: str) -> None:
    sql, key = WHOLE[name]
    assert key in named(await audit_edited(ledger, tmp_path, lambda db: db.executescript(sql) and None))


async def test_what_was_not_edited_passes(ledger: Ledger, tmp_path: Path) -> None:
    """The campaign proves nothing about an audit that refuses everything."""
    checks = await audit(ledger, Path(shutil.copy(ledger.file, tmp_path / "copy.sqlite")))
    assert [check.outcome for check in checks.values()] == [Outcome.PASSED] * 3, checks
    done = await replay(ledger.published, ledger.opened.checkpoint, ReplaySettings(tmp_path))
    assert not [check for check in done.checks if check.outcome is Outcome.FAILED]


async def test_a_database_rebuilt_in_itself_around_a_forged_entry_is_caught(ledger: Ledger) -> None:
    """Rows, hashes, head and tree agree with each other; only what was published and signed gives it away."""
    whole = await SqliteEntryStore.open(ledger.file)
    rows = list(await whole.rows(0, SIZE))
    last = await whole.last_checkpoint(ORIGIN)
    await whole.close()
    other = MemoryEntryStore()
    await append(other, [Event(id="x", source="urn:forged", type="t.v1")])
    rows[200] = (await other.rows(0, 1))[0]
    forged = MemoryEntryStore()
    epoch = await forged.claim()
    frontier = CompactRange.empty().extend([row.leaf_hash for row in rows]).frontier
    await forged.commit(rows, expected_size=0, frontier=frontier, epoch=epoch)
    assert last is not None
    await forged.record_checkpoint(last, expected_size=None, epoch=epoch)
    checks = await audit_rows(forged, ledger.published, ledger.opened, ledger.replicas.log)
    assert {finding.key for check in checks for finding in check.findings} >= {"entry 200"}


# -- PostgreSQL -------------------------------------------------------------------------------------------------------

TABLES = ("entry", "head", "checkpoint")
PostgresEdit = Callable[["asyncpg.Connection[asyncpg.Record]", int], Awaitable[object]]


def run_sql(sql: str) -> PostgresEdit:
    """One statement; $1 is the entry's index."""
    return lambda db, index: db.execute(sql, index)


def replace_there(change: Callable[[bytes], bytes], *, hashed: bool) -> PostgresEdit:
    """As `replace_entry`."""

    async def edit(db: asyncpg.Connection[asyncpg.Record], index: int) -> None:
        changed = change(await db.fetchval("SELECT data FROM entry WHERE position = $1", index))
        await db.execute("UPDATE entry SET data = $2 WHERE position = $1", index, changed)
        if hashed:
            await db.execute("UPDATE entry SET leaf = $2 WHERE position = $1", index, leaf_hash(changed))

    return edit


async def swap_there(db: asyncpg.Connection[asyncpg.Record], index: int) -> None:
    for old, new in ((index, -1), (index - 1, index), (-1, index - 1)):
        await db.execute("UPDATE entry SET position = $2 WHERE position = $1", old, new)


POSTGRES_EDITS: dict[str, PostgresEdit] = {
    "entry": replace_there(_other_data, hashed=False),
    "entry and its hash": replace_there(_other_data, hashed=True),
    "entry, no JSON any more": replace_there(lambda data: data[:-1], hashed=True),
    "entry, not canonical": replace_there(lambda data: data.replace(b":", b": ", 1), hashed=True),
    "leaf": run_sql("UPDATE entry SET leaf = decode(repeat('00', 32), 'hex') WHERE position = $1"),
    "id": run_sql("UPDATE entry SET id = 'forged' WHERE position = $1"),
    "subject": run_sql("UPDATE entry SET subject = 'forged' WHERE position = $1"),
    "version": run_sql("UPDATE entry SET version = 7777 WHERE position = $1"),
    "source": run_sql("UPDATE entry SET source = 'urn:forged' WHERE position = $1"),
    "type": run_sql("UPDATE entry SET type = 'forged.v1' WHERE position = $1"),
    "actor": run_sql("UPDATE entry SET actor = 'local:mallory' WHERE position = $1"),
    "time": run_sql("UPDATE entry SET time_us = time_us + 1 WHERE position = $1"),
    "recorded time": run_sql("UPDATE entry SET recorded_us = recorded_us + 1 WHERE position = $1"),
    "deleted": run_sql("DELETE FROM entry WHERE position = $1"),
    "swapped": swap_there,
}
POSTGRES_WHOLE: dict[str, tuple[str, str]] = {
    "a name that many rows share": ("UPDATE entry SET actor = 'x' WHERE actor = 'local:test'", "entry 1"),
    "the head's size, less": (
        f"UPDATE head SET size = {PUBLISHED - 44}, frontier = substr(frontier, 1, 32)", "head"
    ),
    "the head's size and tree do not agree": ("UPDATE head SET size = size - 1", "head"),
    "the head's tree": ("UPDATE head SET frontier = decode(repeat('00', length(frontier)), 'hex')", "head"),
    "the head's recorded time": ("UPDATE head SET recorded_us = recorded_us + 1", "head"),
    "the head is gone": ("DELETE FROM head", "head"),
    "the checkpoint's size": ("UPDATE checkpoint SET size = size - 1", CHECKPOINT),
    "the checkpoint's root": ("UPDATE checkpoint SET root = decode(repeat('00', 32), 'hex')", CHECKPOINT),
    "the checkpoint's note": ("UPDATE checkpoint SET note = decode('00', 'hex')", CHECKPOINT),
    "the checkpoint's signature": (
        "UPDATE checkpoint SET note = convert_to(replace(convert_from(note, 'UTF8'), 'A', 'B'), 'UTF8')", CHECKPOINT
    ),
    "the checkpoint is gone": ("DELETE FROM checkpoint", CHECKPOINT),
    "the checkpoint is another log's": ("UPDATE checkpoint SET origin = 'example.test/other'", CHECKPOINT),
    "an entry beyond the end": (
        f"INSERT INTO entry SELECT {SIZE + 5}, data, leaf, source, 'x', subject, 999, type, actor, time_us, recorded_us"
        " FROM entry WHERE position = 5", f"entry {SIZE + 5}"
    ),
    "an entry moved beyond the end": ("UPDATE entry SET position = 400 WHERE position = 319", "entry 400"),
}  # fmt: skip


@pytest.fixture(scope="module")
def place(ledger: Ledger, postgres: PostgresServer) -> PostgresPlace:
    """The same ledger in PostgreSQL, with a copy of every table to take edits back from."""
    return asyncio.run(_fill(ledger, postgres.place("tamper_rows")))


async def _fill(ledger: Ledger, place: PostgresPlace) -> PostgresPlace:
    whole = await SqliteEntryStore.open(ledger.file)
    rows, head, last = await whole.rows(0, SIZE), await whole.head(), await whole.last_checkpoint(ORIGIN)
    await whole.close()
    assert last is not None
    store = await PostgresEntryStore.open(place, create=True)
    try:
        epoch = await store.claim()
        await store.commit(rows, expected_size=0, frontier=head.frontier, epoch=epoch)
        await store.record_checkpoint(last, expected_size=None, epoch=epoch)
    finally:
        await store.close()
    db = await _connect(place)
    for table in TABLES:
        await db.execute(f"CREATE TABLE {table}_kept AS TABLE {table}")
    await db.close()
    return place


async def _connect(place: PostgresPlace) -> asyncpg.Connection[asyncpg.Record]:
    return await asyncpg.connect(
        host=place.host,
        port=place.port,
        user=place.user,
        database=place.database,
        server_settings={"search_path": place.schema},
    )


async def audit_edited_there(
    ledger: Ledger, place: PostgresPlace, edits: Sequence[tuple[PostgresEdit, int]]
) -> list[dict[str, Check]]:
    """What the audit finds after each edit; every one is taken back before the next."""
    store, db = await PostgresEntryStore.open(place), await _connect(place)
    found: list[dict[str, Check]] = []
    try:
        for edit, index in edits:
            try:
                await edit(db, index)
                checks = await audit_rows(store, ledger.published, ledger.opened, ledger.replicas.log)
                found.append({check.name: check for check in checks})
            finally:
                for table in TABLES:
                    await db.execute(f"TRUNCATE {table}; INSERT INTO {table} SELECT * FROM {table}_kept")
    finally:
        await db.close()
        await store.close()
    return found


@pytest.mark.parametrize("name", POSTGRES_EDITS)
async def test_an_edited_row_of_postgresql_is_named(ledger: Ledger, place: PostgresPlace, name: str) -> None:
    indexes = (1, 256, PUBLISHED - 1, PUBLISHED + 1, SIZE - 1)
    found = await audit_edited_there(ledger, place, [(POSTGRES_EDITS[name], index) for index in indexes])
    for index, checks in zip(indexes, found, strict=True):
        only_told_by_the_tree = index >= PUBLISHED and name in ("entry and its hash", "swapped")
        assert ("head" if only_told_by_the_tree else f"entry {index}") in named(checks), checks


@pytest.mark.parametrize("name", POSTGRES_WHOLE)
async def test_an_edit_of_what_is_not_a_row_of_an_entry_is_named_in_postgresql_too(
    ledger: Ledger, place: PostgresPlace, name: str
) -> None:
    sql, key = POSTGRES_WHOLE[name]
    (checks,) = await audit_edited_there(ledger, place, [(lambda db, index: db.execute(sql), 0)])
    assert key in named(checks), checks


async def test_what_was_not_edited_passes_in_postgresql_too(ledger: Ledger, place: PostgresPlace) -> None:
    async def nothing(db: asyncpg.Connection[asyncpg.Record], index: int) -> None:
        return None

    (checks,) = await audit_edited_there(ledger, place, [(nothing, 0)])
    assert [check.outcome for check in checks.values()] == [Outcome.PASSED] * 3, checks


def test_both_campaigns_make_the_same_edits() -> None:
    """Only what SQLite keeps in two tables can be edited in one of them alone."""
    assert {name for name in EDITS if not name.endswith("only")} == set(POSTGRES_EDITS)
