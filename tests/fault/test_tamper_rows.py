"""The tamper campaign over the database: every edit of a row is caught by the audit, and the entry is named."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest

from ledger.auditor import Check, Outcome, ReplaySettings, audit_rows, replay
from ledger.core.checkpoint import CHECKPOINT, OpenedCheckpoint, parse_checkpoint
from ledger.core.entry import Event
from ledger.core.merkle import CompactRange, leaf_hash
from ledger.store.base import ObjectStore
from ledger.store.memory import MemoryEntryStore
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


POSTGRES: dict[str, tuple[str, str]] = {
    "entry": ("UPDATE entry SET data = data || '\\x20' WHERE position = 7", "entry 7"),
    "leaf": ("UPDATE entry SET leaf = decode(repeat('00', 32), 'hex') WHERE position = 8", "entry 8"),
    "subject": ("UPDATE entry SET subject = 'forged' WHERE position = 9", "entry 9"),
    "type and actor": ("UPDATE entry SET type = 'x', actor = 'y' WHERE position = 256", "entry 256"),
    "times": ("UPDATE entry SET time_us = 0, recorded_us = 0 WHERE position = 301", "entry 301"),
    "deleted": ("DELETE FROM entry WHERE position = 100", "entry 100"),
    "beyond the end": ("UPDATE entry SET position = 400 WHERE position = 319", "entry 400"),
    "head": ("UPDATE head SET size = size - 1", "head"),
    "checkpoint": ("UPDATE checkpoint SET size = size - 1", CHECKPOINT),
}


async def test_edits_of_postgresql_are_named_too(ledger: Ledger, postgres: PostgresServer) -> None:
    whole = await SqliteEntryStore.open(ledger.file)
    rows, head, last = await whole.rows(0, SIZE), await whole.head(), await whole.last_checkpoint(ORIGIN)
    await whole.close()
    assert last is not None
    place = postgres.place("tamper_rows")
    store = await PostgresEntryStore.open(place, create=True)
    edits = await asyncpg.connect(
        host=place.host,
        port=place.port,
        user=place.user,
        database=place.database,
        server_settings={"search_path": place.schema},
    )
    try:
        epoch = await store.claim()
        await store.commit(rows, expected_size=0, frontier=head.frontier, epoch=epoch)
        await store.record_checkpoint(last, expected_size=None, epoch=epoch)
        for name, (sql, key) in POSTGRES.items():
            for edit, expected in ((None, None), (sql, key)):
                # Every edit is taken back; the store reads on connections of its own, so it has to be committed first.
                if edit is not None:
                    await edits.execute(f"CREATE TABLE kept AS TABLE {_table(sql)}; {sql}")
                checks = await audit_rows(store, ledger.published, ledger.opened, ledger.replicas.log)
                found = {finding.key for check in checks for finding in check.findings}
                assert (expected in found) if expected else not found, f"{name}: {found}"
            await edits.execute(
                f"TRUNCATE {_table(sql)}; INSERT INTO {_table(sql)} SELECT * FROM kept; DROP TABLE kept"
            )
    finally:
        await edits.close()
        await store.close()


def _table(sql: str) -> str:
    return next(table for table in ("entry", "head", "checkpoint") if f" {table} " in sql)
