"""Databases of real servers, captured and brought back: what the servers say afterwards decides."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from ledger.capture.base import Captured, Restored, Restoring
from ledger.capture.postgres import stream as ledger_stream
from ledger.capture.postgres.base import Copier
from ledger.capture.postgres.messages import Actor
from ledger.capture.postgres.rows import row_history
from ledger.capture.postgres.source import PsycopgSource
from ledger.capture.postgres.transactions import TRANSACTION
from ledger.errors import CaptureFailed, DiskFull, InvalidRequest, RestoreFailed
from ledger.sealing import Opened
from ledger.store.place import PostgresPlace
from restore.rebuild.postgres import rebuild_postgres
from tests.support.captured_postgres import (
    ASSET,
    PlainView,
    Recording,
    connect,
    contents,
    drop_slot,
    recording,
    schema_of,
    source_of,
    sql,
)
from tests.support.ledgers import FixedClock
from tests.support.odd_database import CHANGED, ODD, REDEFINED
from tests.support.postgres import USER, PostgresServer, machine_binaries, private_postgres, wheel_binaries

BINARIES = [wheel_binaries(), *machine_binaries()]
LOGICAL = {"wal_level": "logical", "fsync": "off"}


@pytest.fixture(scope="module", params=BINARIES, ids=lambda path: path.parent.name)
def server(request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    with private_postgres(request.param, **LOGICAL) as running:
        yield running


@pytest.fixture
def database(server: PostgresServer, request: pytest.FixtureRequest) -> Iterator[str]:
    """A database of one test."""
    name = f"数据 {request.node.originalname}"[:40]
    sql(server, f'CREATE DATABASE "{name}"')
    yield name
    for (slot,) in sql(server, "SELECT slot_name FROM pg_replication_slots"):
        drop_slot(server, slot)
    databases = sql(server, "SELECT datname FROM pg_database WHERE datname <> 'postgres' AND NOT datistemplate")
    for (other,) in databases:
        sql(server, f'DROP DATABASE "{other}" WITH (FORCE)')


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Recording]:
    async with recording(tmp_path / "ledger") as opened:
        yield opened


async def restored(
    ledger: Recording, server: PostgresServer, *, size: int | None = None, replace_it: bool = True, **options: str
) -> Restored:
    """Bring the database back as `back`."""
    rebuild = rebuild_postgres(lambda place: source_of(server, place))
    return await rebuild(ledger.view(size), Restoring(ASSET, "back", replace=replace_it, options=options))


async def test_every_odd_thing_comes_back(server: PostgresServer, database: str, ledger: Recording) -> None:
    sql(server, ODD, database=database)
    capture = ledger.capture(source_of(server, database))
    first = await capture.once()
    assert (await capture.once()).repeated
    before = contents(server, database)
    for statement in CHANGED:
        sql(server, statement, database=database)
    sql(server, "REFRESH MATERIALIZED VIEW counted_parents", database=database)
    second = await ledger.capture(source_of(server, database)).once()  # as another process: only the log remembers
    between, between_schema = contents(server, database), schema_of(server, database)
    for statement in REDEFINED:
        sql(server, statement, database=database)
    third = await capture.once()
    after, after_schema = contents(server, database), schema_of(server, database)
    sequences = sql(server, "SELECT * FROM pg_sequences ORDER BY 1, 2", database=database)

    done = await restored(ledger, server)
    assert done.sealed == third.index
    assert contents(server, "back") == after
    assert schema_of(server, "back") == after_schema
    assert sql(server, "SELECT * FROM pg_sequences ORDER BY 1, 2", database="back") == sequences
    assert not sql(server, "SELECT 1 FROM pg_publication", database="back")
    assert (await restored(ledger, server, size=second.index + 1)).sealed == second.index
    assert contents(server, "back") == between
    assert schema_of(server, "back") == between_schema
    assert (await restored(ledger, server, size=second.index)).sealed == first.index
    assert contents(server, "back") == before
    assert first.problems == ("table public.nothing has no primary key: its updates and deletes are not captured; "
                              "give it one, or ALTER TABLE … REPLICA IDENTITY FULL",)  # fmt: skip


async def test_a_transaction_larger_than_an_entry_is_content(
    server: PostgresServer, database: str, ledger: Recording
) -> None:
    sql(server, "CREATE TABLE t (id int PRIMARY KEY, text text)", database=database)
    capture = ledger.capture(source_of(server, database))
    await capture.once()
    sql(server, "INSERT INTO t SELECT n, repeat('x', 40) FROM generate_series(1, 60000) n", database=database)
    sql(server, "BEGIN; UPDATE t SET text = text || '!'; DELETE FROM t WHERE id % 3 = 0; COMMIT", database=database)
    sealed = await ledger.capture(source_of(server, database)).once()
    assert sealed.counts["rows"] == 40_000
    large = [one async for one in ledger.view().entries(ASSET, event_type=TRANSACTION)]
    assert [one.entry.event.dataref is not None for one in large] == [True, True]
    await restored(ledger, server)
    assert contents(server, "back") == contents(server, database)


async def test_what_cannot_be_captured_is_named(server: PostgresServer, database: str, ledger: Recording) -> None:
    """And the capture stands in nobody's way: a table without a key can still be updated."""
    sql(
        server,
        "CREATE TABLE keyless (n int); CREATE UNLOGGED TABLE lost (id int PRIMARY KEY); SELECT lo_create(0)",
        database=database,
    )
    capture = ledger.capture(source_of(server, database))
    problems = (await capture.once()).problems
    assert [problem.split(":")[0] for problem in problems] == [
        "table public.keyless has no primary key",
        "table public.lost is unlogged",
        "1 large objects are not captured",
    ]
    sql(server, "INSERT INTO keyless VALUES (1), (2)", "UPDATE keyless SET n = 5 WHERE n = 1", database=database)
    assert (await capture.once()).problems == problems
    done = await restored(ledger, server)
    assert sql(server, "SELECT n FROM keyless ORDER BY n", database="back") == [(1,), (2,)]
    assert "table public.keyless was not captured as a whole" in done.differences[0]
    sql(server, "ALTER TABLE keyless ADD PRIMARY KEY (n)", database=database)
    assert len((await capture.once()).problems) == 2
    await restored(ledger, server)
    assert sql(server, "SELECT n FROM keyless ORDER BY n", database="back") == [(2,), (5,)]


async def test_a_lost_slot_is_never_a_silent_hole(server: PostgresServer, database: str, ledger: Recording) -> None:
    sql(server, "CREATE TABLE t (id int PRIMARY KEY)", database=database)
    await ledger.capture(source_of(server, database)).once()
    ((slot,),) = sql(server, f"SELECT slot_name FROM pg_replication_slots WHERE database = '{database}'")
    drop_slot(server, slot)
    sql(server, "INSERT INTO t VALUES (1)", database=database)
    with pytest.raises(CaptureFailed, match=r"is gone; what was committed after .* cannot be read any more"):
        await ledger.capture(source_of(server, database)).once()
    again = ledger.capture(source_of(server, database), when_lost="copy")
    captured = await again.once()
    assert "not recorded one by one" in captured.problems[0]
    sql(server, "INSERT INTO t VALUES (2)", database=database)
    await again.once()
    await restored(ledger, server)
    assert contents(server, "back") == contents(server, database)


async def test_another_server_is_refused(server: PostgresServer, database: str, ledger: Recording) -> None:
    sql(server, "CREATE TABLE t (id int PRIMARY KEY)", database=database)
    await ledger.capture(source_of(server, database)).once()
    with private_postgres() as other:
        other.stop()
        other.settings.update(LOGICAL)
        other.start()
        sql(other, f'CREATE DATABASE "{database}"')
        with pytest.raises(CaptureFailed, match="is another server than the one captured so far"):
            await ledger.capture(source_of(other, database)).once()


async def test_a_slot_that_somebody_else_has_used_is_found_out(
    server: PostgresServer, database: str, ledger: Recording
) -> None:
    """By the rows, at the next seal with digests: the table is copied again, and the point is good."""
    sql(server, "CREATE TABLE t (id int PRIMARY KEY)", database=database)
    clock = FixedClock()
    capture = ledger.capture(source_of(server, database), clock=clock)
    await capture.once()
    ((slot,),) = sql(server, f"SELECT slot_name FROM pg_replication_slots WHERE database = '{database}'")
    sql(server, "INSERT INTO t VALUES (1), (2)", database=database)
    sql(server, f"SELECT pg_replication_slot_advance('{slot}', pg_current_wal_lsn())", database=database)
    await capture.once()
    clock.advance(86_401)
    captured = await capture.once()
    assert any("are not what the transactions captured come to: copied again" in one for one in captured.problems)
    done = await restored(ledger, server)
    assert contents(server, "back") == contents(server, database)
    assert done.checks["counts"] == 1


async def test_a_slot_near_its_end_is_an_alarm(server: PostgresServer, database: str, ledger: Recording) -> None:
    sql(server, "CREATE TABLE t (id int PRIMARY KEY)", "CREATE TABLE junk (text text)", database=database)
    sql(server, "ALTER SYSTEM SET max_slot_wal_keep_size = '48MB'", "SELECT pg_reload_conf()")
    try:
        capture = ledger.capture(source_of(server, database))
        assert not any("slot" in one for one in (await capture.once()).problems)
        with connect(server, database) as holding:
            # An open transaction holds the slot back, whatever is confirmed.
            holding.execute("BEGIN; INSERT INTO t VALUES (1)")
            for _ in range(20):
                some = "INSERT INTO junk SELECT repeat(md5(n::text), 60) FROM generate_series(1, 2000) n"
                sql(server, some, database=database)
                said = [one for one in (await capture.once()).problems if "is lost after" in one]
                if said:
                    break
        assert said
        ((status,),) = sql(server, f"SELECT wal_status FROM pg_replication_slots WHERE database = '{database}'")
        assert status in ("reserved", "extended")
    finally:
        sql(server, "ALTER SYSTEM RESET max_slot_wal_keep_size", "SELECT pg_reload_conf()")


async def test_several_databases_have_a_slot_each(server: PostgresServer, database: str, ledger: Recording) -> None:
    sql(server, 'CREATE DATABASE "second"')
    sql(server, "CREATE TABLE t AS SELECT 1 AS n; ALTER TABLE t ADD PRIMARY KEY (n)", database=database)
    sql(server, "CREATE TABLE u AS SELECT 2 AS n; ALTER TABLE u ADD PRIMARY KEY (n)", database="second")
    capture = ledger.capture(source_of(server, database), databases=[database, "second"])
    await capture.once()
    sql(server, "INSERT INTO u VALUES (3)", database="second")
    await ledger.capture(source_of(server, database), databases=[database, "second"]).once()
    with pytest.raises(InvalidRequest, match="holds the databases second, 数据"):
        await restored(ledger, server)
    await restored(ledger, server, database="second")
    assert sql(server, "SELECT n FROM u ORDER BY n", database="back") == [(2,), (3,)]
    await restored(ledger, server, database=database)
    assert contents(server, "back") == contents(server, database)


async def test_a_restore_overwrites_nothing_unasked(server: PostgresServer, database: str, ledger: Recording) -> None:
    sql(server, "CREATE TABLE t AS SELECT 1 AS n; ALTER TABLE t ADD PRIMARY KEY (n)", database=database)
    with pytest.raises(InvalidRequest, match=r"no database of .* is sealed there"):
        await restored(ledger, server)
    await ledger.capture(source_of(server, database)).once()
    sql(server, "CREATE DATABASE back")
    await restored(ledger, server, replace_it=False)
    with pytest.raises(InvalidRequest, match=r"is not empty: it has public\.t"):
        await restored(ledger, server, replace_it=False)


class Lacking(PlainView):
    """A copy of a ledger that lacks an entry, and does not know it."""

    def __init__(self, view: PlainView, missing: int) -> None:
        super().__init__(view._entries, view._content)
        self._missing = missing

    async def entries(
        self, source: str, *, start: int = 0, subject: str | None = None, event_type: str | None = None
    ) -> AsyncIterator[Opened]:
        async for one in super().entries(source, start=start, subject=subject, event_type=event_type):
            if one.index != self._missing:
                yield one


async def test_a_restore_that_is_not_what_was_captured_leaves_nothing(
    server: PostgresServer, database: str, ledger: Recording
) -> None:
    sql(server, "CREATE TABLE t (id int PRIMARY KEY, n int)", database=database)
    clock = FixedClock()
    capture = ledger.capture(source_of(server, database), clock=clock)
    await capture.once()
    sql(server, "INSERT INTO t VALUES (1, 1), (2, 1)", "UPDATE t SET n = 2 WHERE id = 1", database=database)
    clock.advance(86_401)
    await capture.once()
    inserted, updated = [one.index async for one in ledger.view().entries(ASSET, event_type=TRANSACTION)]
    rebuild = rebuild_postgres(lambda place: source_of(server, place))
    for missing, how in ((inserted, "1 rows where 2 were captured"), (updated, "other values than were captured")):
        with pytest.raises(RestoreFailed, match=how):
            await rebuild(Lacking(ledger.view(), missing), Restoring(ASSET, "back"))
        assert not sql(server, "SELECT 1 FROM pg_database WHERE datname ~ '^(back|jinshi)'")
    done = await restored(ledger, server)
    assert done.checks["digests"] == 1


async def test_a_server_that_restarts_is_connected_to_again(
    server: PostgresServer, database: str, ledger: Recording
) -> None:
    sql(server, "CREATE TABLE t (id int PRIMARY KEY)", database=database)
    seen: list[Captured] = []
    capture = ledger.capture(source_of(server, database), every_s=1)
    watching = asyncio.create_task(capture.watch(seen.append))
    try:
        for number in range(1, 4):
            await asyncio.to_thread(server.stop)
            server.start()  # in this thread: the server ends with the thread that started it
            await asyncio.to_thread(sql, server, f"INSERT INTO t VALUES ({number})", database=database)
            while not (seen and seen[-1].counts["rows"] == number):
                assert not watching.done(), watching.exception()
                await asyncio.sleep(0.1)
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
    await restored(ledger, server)
    assert contents(server, "back") == contents(server, database)


async def test_definitions_that_change_all_the_time_do_not_deceive(
    server: PostgresServer, database: str, ledger: Recording
) -> None:
    """Temporary tables come and go, columns are added, while points are sealed: each of them comes back."""
    sql(server, "CREATE TABLE t (id int PRIMARY KEY)", database=database)
    capture = ledger.capture(source_of(server, database))
    await capture.once()
    points: list[tuple[Captured, Mapping[str, str]]] = []
    with connect(server, database) as busy:
        for number in range(4):
            busy.execute(f"CREATE TEMP TABLE x{number} (id serial PRIMARY KEY, t text DEFAULT 'a')".encode())
            busy.execute(f"ALTER TABLE t ADD COLUMN c{number} int DEFAULT {number}".encode())
            busy.execute(f"INSERT INTO t VALUES ({number})".encode())
            points.append((await capture.once(), contents(server, database)))
    for captured, found in points[::3]:
        await restored(ledger, server, size=captured.index + 1)
        assert contents(server, "back") == found


async def test_what_became_of_a_row(server: PostgresServer, database: str, ledger: Recording) -> None:
    sql(server, "CREATE TABLE t (id int PRIMARY KEY, name text)", database=database)
    sql(server, "INSERT INTO t VALUES (1, 'a'), (2, 'b')", database=database)
    capture = ledger.capture(source_of(server, database))
    await capture.once()
    sql(
        server,
        "UPDATE t SET name = 'c' WHERE id = 1",
        "UPDATE t SET id = 7 WHERE id = 1",
        "DELETE FROM t WHERE id = 7",
        "INSERT INTO t VALUES (1, 'other')",
        database=database,
    )
    await capture.once()
    steps = [step async for step in row_history(ledger.view(), ASSET, database, "public.t", ["1"])]
    assert [(step.op, step.old, step.new) for step in steps] == [
        ("copied", None, {"id": "1", "name": "a"}),
        ("update", {"id": "1", "name": "a"}, {"id": "1", "name": "c"}),
        ("update", {"id": "1", "name": "c"}, {"id": "7", "name": "c"}),
        ("delete", {"id": "7", "name": "c"}, None),
    ]
    with pytest.raises(InvalidRequest, match="no table"):
        [step async for step in row_history(ledger.view(), ASSET, database, "public.none", ["1"])]


async def test_who_changed_a_row(server: PostgresServer, database: str, ledger: Recording) -> None:
    """Said by a trigger of ours, where the asset asks for it: also of new tables, in spite of savepoints, once each."""
    sql(server, "CREATE TABLE t (id int PRIMARY KEY, name text)", "INSERT INTO t VALUES (1, 'a')", database=database)
    sql(server, "CREATE ROLE clerk", "GRANT SELECT, UPDATE ON t TO clerk", database=database)
    capture = ledger.capture(source_of(server, database), record_roles=True)
    await capture.once()
    sql(
        server,
        "UPDATE t SET name = 'b'",
        "SET application_name = 'desk 7'; SET ROLE clerk",
        "BEGIN; SAVEPOINT s; UPDATE t SET name = 'x'; ROLLBACK TO s; UPDATE t SET name = 'c'; COMMIT",
        "BEGIN; UPDATE t SET name = 'd'; RESET ROLE; UPDATE t SET name = 'e'; COMMIT",
        "CREATE TABLE later (id int PRIMARY KEY)",
        database=database,
    )
    await capture.once()
    sql(server, "INSERT INTO later VALUES (1)", "DELETE FROM t", database=database)
    sealed = await capture.once()
    assert not sealed.problems
    steps = [step async for step in row_history(ledger.view(), ASSET, database, "public.t", ["1"])]
    mine, clerk = Actor(USER, USER, "", "127.0.0.1"), Actor(USER, "clerk", "desk 7", "127.0.0.1")
    assert [step.actor for step in steps] == [None, mine, clerk, clerk, mine._replace(application="desk 7"), mine]
    (new,) = [step async for step in row_history(ledger.view(), ASSET, database, "public.later", ["1"])]
    assert new.actor == mine
    await restored(ledger, server)
    assert not sql(server, "SELECT 1 FROM pg_trigger WHERE tgname ~ 'jinshi'", database="back")
    assert not sql(server, "SELECT 1 FROM pg_namespace WHERE nspname ~ 'jinshi'", database="back")
    await ledger.capture(source_of(server, database)).once()  # it is asked for no more
    assert not sql(server, "SELECT 1 FROM pg_trigger WHERE tgname ~ 'jinshi'", database=database)
    sql(server, "DROP DATABASE back")
    sql(server, "DROP OWNED BY clerk", "DROP ROLE clerk", database=database)


async def test_somebodys_own_publication(server: PostgresServer, database: str, ledger: Recording) -> None:
    sql(server, "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int PRIMARY KEY, n int)", database=database)
    sql(server, "INSERT INTO u VALUES (1, 1)", database=database)
    clock = FixedClock()
    capture = ledger.capture(source_of(server, database), clock=clock, publication="theirs")
    with pytest.raises(CaptureFailed, match="there is no publication 'theirs'"):
        await capture.once()
    sql(server, "CREATE PUBLICATION theirs FOR TABLE t", database=database)
    await capture.once()
    sql(server, "INSERT INTO t VALUES (1)", "UPDATE u SET n = 2", database=database)
    clock.advance(86_401)
    captured = await capture.once()
    assert captured.problems == ("table public.u is not in publication 'theirs': none of its changes is captured",)
    done = await restored(ledger, server)
    assert "table public.u was not captured as a whole" in done.differences[0]
    assert sql(server, "SELECT id FROM t", database="back") == [(1,)]
    assert sql(server, "SELECT 1 FROM pg_publication", database="back") == [(1,)]
    sql(server, "ALTER PUBLICATION theirs ADD TABLE u", database=database)
    assert not (await capture.once()).problems
    await restored(ledger, server)
    assert contents(server, "back") == contents(server, database)


class SlowSource(PsycopgSource):
    """A server whose tables take a while to read."""

    @asynccontextmanager
    async def copier(self, database: str, snapshot: str = "") -> AsyncIterator[Copier]:
        async with super().copier(database, snapshot) as copier:
            await asyncio.sleep(3)
            yield copier


async def test_a_long_read_does_not_cost_the_stream(
    server: PostgresServer, database: str, ledger: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server ends a connection that it hears nothing from for wal_sender_timeout."""
    monkeypatch.setattr(ledger_stream, "BEAT_S", 0.2)
    sql(server, "CREATE TABLE t (id int PRIMARY KEY)", database=database)
    sql(server, "ALTER SYSTEM SET wal_sender_timeout = '1s'", "SELECT pg_reload_conf()")
    try:
        clock = FixedClock()
        place = PostgresPlace("127.0.0.1", server.port, database, USER)
        capture = ledger.capture(SlowSource(place, tools=server.binaries), clock=clock)
        await capture.once()
        sql(server, "INSERT INTO t VALUES (1)", database=database)
        clock.advance(86_401)
        captured = await capture.once()
    finally:
        sql(server, "ALTER SYSTEM RESET wal_sender_timeout", "SELECT pg_reload_conf()")
    assert captured.counts["rows"] == 1
    assert (await restored(ledger, server)).checks["digests"] == 1


async def test_a_first_copy_that_fails_leaves_no_slot(server: PostgresServer, database: str, ledger: Recording) -> None:
    sql(server, "CREATE TABLE t AS SELECT 1 AS n; ALTER TABLE t ADD PRIMARY KEY (n)", database=database)

    def full(done: int, total: int) -> None:
        raise DiskFull(f"after {done} of {total}")

    with pytest.raises(DiskFull):
        await ledger.capture(source_of(server, database)).once(full)
    assert not sql(server, f"SELECT 1 FROM pg_replication_slots WHERE database = '{database}'")
    await ledger.capture(source_of(server, database)).once()
    await restored(ledger, server)
    assert contents(server, "back") == contents(server, database)


async def test_a_standby_that_was_promoted_is_refused(server: PostgresServer, database: str, ledger: Recording) -> None:
    sql(server, "CREATE TABLE t (id int PRIMARY KEY)", database=database)
    first = await ledger.capture(source_of(server, database)).once()
    ((lsn,),) = sql(server, "SELECT pg_current_wal_lsn()")
    sql(server, "INSERT INTO t VALUES (1)", database=database)
    second = await ledger.capture(source_of(server, database)).once()
    assert (await restored(ledger, server)).sealed == second.index
    assert (await restored(ledger, server, lsn=str(lsn))).sealed == first.index
    server.stop()
    (server.root / "data" / "standby.signal").touch()
    server.start()
    sql(server, "SELECT pg_promote()")
    with pytest.raises(CaptureFailed, match=r"was promoted from a standby \(timeline \d, not \d\)"):
        await ledger.capture(source_of(server, database)).once()


async def test_a_wrong_server_is_said_so(tmp_path: Path) -> None:
    with private_postgres() as plain:
        async with recording(tmp_path / "ledger") as ledger:
            with pytest.raises(CaptureFailed, match="runs with wal_level = replica"):
                await ledger.capture(source_of(plain)).once()
    async with recording(tmp_path / "other") as ledger:
        with pytest.raises(CaptureFailed, match="cannot be used"):
            await ledger.capture(replace_port(plain)).once()


def replace_port(server: PostgresServer) -> PsycopgSource:
    """Where nobody listens."""
    return source_of(replace(server, port=1))
