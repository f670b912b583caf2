"""kill -9 of the real `jinshi` while it makes, or restores, a ledger in PostgreSQL: the same command again finishes it.

A moment is an event seen from outside: a file that appears in the staged directory, or rows in the schema. After each
kill the schema is this command's own, whatever is in it, and what stood beside it is untouched.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from ledger.store.place import PostgresPlace
from tests.support.cli import Jinshi, events
from tests.support.postgres import PostgresServer

ENTRIES = 5_000
"""More than one commit of a restore."""

pytestmark = pytest.mark.slow

Moment = Callable[[Any, str, Path], Coroutine[Any, Any, bool]]


def a_file(name: str) -> Moment:
    async def seen(_db: Any, _schema: str, staged: Path) -> bool:
        return (staged / name).exists()

    return seen


def entries(least: int) -> Moment:
    async def seen(db: Any, schema: str, _staged: Path) -> bool:
        try:
            return int(await db.fetchval(f"SELECT size FROM {schema}.head")) >= least
        except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError):
            return False

    return seen


@asynccontextmanager
async def connected(place: PostgresPlace) -> AsyncIterator[Any]:
    db = await asyncpg.connect(host=place.host, port=place.port, user=place.user, database=place.database)
    try:
        yield db
    finally:
        await db.close()


async def killed_at(moment: Moment, process: subprocess.Popen[bytes], db: Any, schema: str, staged: Path) -> bool:
    """Kill it at that moment; False: it had come to its end, well, before that was seen."""
    with process:
        while process.poll() is None and not await moment(db, schema, staged):
            await asyncio.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        _, errors = process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), errors.decode()
    return process.returncode != 0


async def test_a_killed_init_leaves_nothing_that_it_does_not_know_again(
    tmp_path: Path, postgres: PostgresServer
) -> None:
    moments = [a_file("writer.lock"), a_file("store.claim"), entries(0), entries(1), a_file("jinshi.json")]
    place = postgres.place(f"kill_{uuid4().hex[:12]}")
    jinshi, kills = Jinshi(tmp_path, tmp_path / "l"), 0
    init = ("init", tmp_path / "l", "--store", place.url)
    async with connected(place) as db:
        for moment in moments:  # one after the other, each over what the one before has left
            kills += await killed_at(moment, jinshi.start(*init), db, place.schema, tmp_path / ".l.jinshi-init")
            if (tmp_path / "l").exists():
                break
        assert kills >= 4, "hardly ever was it killed"
        if not (tmp_path / "l").exists():
            jinshi.process(*init)
        assert await db.fetchval(f"SELECT count(*) FROM {place.schema}.entry") == 3, "those of one init"
    jinshi.process("append", stdin=events(10))
    jinshi.process("replicate", "--once")
    jinshi.process("verify")
    assert {path.name for path in tmp_path.iterdir()} == {"l", "l-keys", "l-sites"}
    assert not (tmp_path / "l" / "store.claim").exists()


async def test_a_killed_restore_carries_on_with_what_it_had_written(tmp_path: Path, postgres: PostgresServer) -> None:
    jinshi = Jinshi(tmp_path, tmp_path / "l")
    jinshi.process("init", tmp_path / "l", "--clear")
    jinshi.process("append", stdin=events(ENTRIES))
    jinshi.process("replicate", "--once")
    place = postgres.place(f"kill_{uuid4().hex[:12]}")
    to = tmp_path / "new"
    source = ("--from", tmp_path / "l-sites" / "remote", "--policy", tmp_path / "l" / "trust.policy")
    restore = ("restore", "ledger", *source, "--to", to, "--store", place.url)
    size = ENTRIES + 3
    moments = [a_file("store.claim"), entries(0), entries(1), entries(size), entries(size + 1), a_file("jinshi.json")]
    kills, seen = 0, 0
    async with connected(place) as db:
        for moment in moments:
            kills += await killed_at(moment, jinshi.start(*restore), db, place.schema, tmp_path / ".new.jinshi-restore")
            if await entries(0)(db, place.schema, to):
                now = await db.fetchval(f"SELECT size FROM {place.schema}.head")
                assert now >= seen, "what was written once is carried on from"
                assert now == await db.fetchval(f"SELECT count(*) FROM {place.schema}.entry")
                seen = now
            if to.exists():
                break
        assert kills >= 4, "hardly ever was it killed"
        if not to.exists():
            jinshi.process(*restore)
        assert await db.fetchval(f"SELECT count(*) FROM {place.schema}.entry") == size + 1
    restored = jinshi.at(to)
    restored.process("verify")
    ran = restored.process("append", stdin=events(ENTRIES + 1))
    assert ran.out == f"{ENTRIES + 1:,} events, {ENTRIES:,} of them had been recorded before\n"
    assert not any(path.name.startswith(".") for path in tmp_path.iterdir())


def test_a_server_killed_under_an_init_is_finished_by_repeating_it(
    tmp_path: Path, own_postgres: PostgresServer
) -> None:
    place = own_postgres.place()
    jinshi = Jinshi(tmp_path, tmp_path / "l")
    init = ("init", tmp_path / "l", "--store", place.url, "--no-sites")
    with jinshi.start(*init) as process:
        while process.poll() is None and not (tmp_path / ".l.jinshi-init" / "store.claim").exists():
            time.sleep(0.001)
        own_postgres.stop(signal.SIGKILL)
        _, errors = process.communicate()
    assert process.returncode in (0, 4), errors.decode()
    if process.returncode == 4:
        assert errors.decode().startswith("jinshi: postgresql://")
        refused = jinshi.process(*init, code=4)  # it has begun there, and cannot know what
        assert "run it again" in refused.stderr
    own_postgres.start()
    if process.returncode == 4:
        jinshi.process(*init)
    jinshi.process("append", stdin=events(1))
    jinshi.process("verify")
