"""A ledger whose entries are in PostgreSQL, from the command line: every command, and every way it can be refused."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from cli.config import read_environment
from ledger.store.place import PostgresPlace
from tests.support.cli import EDITIONS, SOURCE, Jinshi, contents, events, import_areas
from tests.support.postgres import PostgresServer

ORIGIN = "test.example/库"


def fresh(server: PostgresServer) -> PostgresPlace:
    return server.place(f"cli_{uuid4().hex[:12]}")


def run_sql(place: PostgresPlace, *statements: str) -> list[asyncpg.Record]:
    """Statements run as the superuser, in one transaction; what the last one answers."""

    async def run() -> list[asyncpg.Record]:
        db = await asyncpg.connect(host=place.host, port=place.port, user="jinshi", database=place.database)
        try:
            async with db.transaction():
                for statement in statements[:-1]:
                    await db.execute(statement)
                return list(await db.fetch(statements[-1]))
        finally:
            await db.close()

    return asyncio.run(run())


def tables(place: PostgresPlace) -> set[str]:
    return {row[0] for row in run_sql(place, f"SELECT tablename FROM pg_tables WHERE schemaname = '{place.schema}'")}


def made_in(directory: Path, place: PostgresPlace, *options: str) -> Jinshi:
    """A ledger in PostgreSQL."""
    jinshi = Jinshi(directory, directory / "台账")
    jinshi("init", jinshi.ledger, "--store", place.url, "--origin", ORIGIN, *options)
    return jinshi


@pytest.fixture(params=["postgres", "machine_postgres"])
def either(request: pytest.FixtureRequest) -> PostgresServer:
    """The newest PostgreSQL, and the machine's own."""
    server: PostgresServer = request.getfixturevalue(request.param)
    return server


# -- every command ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_command_works_on_a_ledger_in_postgres(tmp_path: Path, either: PostgresServer) -> None:
    place = fresh(either)
    jinshi = made_in(tmp_path, place, "--sealed")
    assert not (tmp_path / "台账" / "ledger.sqlite").exists()
    assert not any(path.name.startswith(".") or path.name == "store.claim" for path in tmp_path.rglob("*"))
    assert json.loads((tmp_path / "台账" / "jinshi.json").read_bytes())["store"] == place.url

    jinshi("source", "declare", "urn:open", "--public")
    jinshi("source", "declare", "urn:people", "--personal")
    import_areas(jinshi, small=True)
    jinshi("append", stdin=events(300))
    assert jinshi("append", stdin=events(301)).out == "301 events, 300 of them had been recorded before\n"
    jinshi("append", stdin=events(2, source="urn:people"))
    exported = jinshi("export", "--source", SOURCE, "--at", EDITIONS[0])
    assert exported.stdout == (tmp_path / f"{EDITIONS[0]}.csv").read_bytes()
    one = exported.out.splitlines()[1].partition(",")[0]
    assert one in jinshi("history", one).out
    assert one in jinshi("show", one, "--source", SOURCE).out
    asked = ("log", "--type", "thing.happened.v1", "--since", "2020-01-01T00:00:00Z", "--all", "--json")
    unindexed = jinshi(*asked).stdout
    assert unindexed.count(b"\n") == 303
    jinshi("index", "build")
    assert jinshi(*asked).stdout == unindexed
    assert "it says what the log says" in jinshi("index", "status", "--check").out

    jinshi("replicate", "--once")
    jinshi("erase", "s1", "--source", "urn:people", "--reason", "asked for")
    jinshi.with_environment(LOGNAME="second", USER="second")("erase", "s1", "--source", "urn:people", "--approve")
    for _ in range(2):
        jinshi("replicate", "--once")
    assert jinshi("erase", "--status", "--json").json["state"] == "done"
    jinshi("keys", "rotate")
    jinshi("keys", "recover", "--recovery-key", tmp_path / "台账-keys" / "recovery.key")
    jinshi("site", "add", "third", tmp_path / "third")
    jinshi("replicate", "--once")
    jinshi("drill", "run", "--from", "third")
    jinshi("replicate", "--once")
    status = jinshi("status", "--json").json
    assert [site["lag_entries"] for site in status["sites"]] == [0, 0, 0]

    jinshi("prove", "7", "-o", tmp_path / "r.tlog-proof")
    jinshi("verify", tmp_path / "r.tlog-proof", "--entry", tmp_path / "r.tlog-proof.entry")
    jinshi("evidence", one, "--source", SOURCE, "-o", tmp_path / "one.zip")
    jinshi("verify", tmp_path / "one.zip")
    jinshi("verify")
    jinshi("verify", "--site", "third")
    report = jinshi("audit", "--json").json
    assert {check["name"]: check["outcome"] for check in report["checks"]}["database rows"] == "passed"


def test_a_row_changed_in_the_database_is_found_by_an_audit(tmp_path: Path, postgres: PostgresServer) -> None:
    place = fresh(postgres)
    jinshi = made_in(tmp_path, place)
    run_sql(place, f"UPDATE {place.schema}.entry SET subject = 'forged', version = 99 WHERE position = 0")
    assert "entry 0 was changed: it is found by another subject" in jinshi("audit", code=3).out


def test_it_is_served_over_http(tmp_path: Path, postgres: PostgresServer) -> None:
    jinshi = made_in(tmp_path, fresh(postgres), "--no-sites")
    process = jinshi.start("serve", "--listen", "127.0.0.1:0", "--no-replicate", stderr=subprocess.DEVNULL)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().decode().rsplit(" ", 1)[1].strip()
        asked = f"import urllib.request as r; print(r.urlopen('{url}/events/0').read().decode())"
        answer = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
        assert "ledger.created.v1" in answer.stdout
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.communicate()


# -- restoring --------------------------------------------------------------------------------------------------------


def copied(jinshi: Jinshi) -> tuple[object, ...]:
    """What a restore is given: a site and a policy, with nothing of the primary."""
    jinshi("replicate", "--once")
    policy = jinshi.directory / "trust.policy"
    policy.write_bytes((jinshi.directory / "台账" / "trust.policy").read_bytes())
    return "--from", jinshi.directory / "台账-sites" / "remote", "--policy", policy


def test_a_restore_moves_a_ledger_from_sqlite_to_postgres_and_back(tmp_path: Path, postgres: PostgresServer) -> None:
    jinshi = Jinshi(tmp_path, tmp_path / "台账")
    jinshi("init", jinshi.ledger, "--origin", ORIGIN)
    import_areas(jinshi, small=True)
    source = copied(jinshi)
    keys = ("--recovery-key", tmp_path / "台账-keys" / "recovery.key")

    place = fresh(postgres)
    moved = jinshi.at(tmp_path / "moved")
    moved("restore", "ledger", *source, *keys, "--to", moved.ledger, "--store", place.url)
    assert not (tmp_path / "moved" / "ledger.sqlite").exists()
    assert not (tmp_path / "moved" / "store.claim").exists()
    moved("verify")
    assert moved("status", "--json").json["origin"] == f"{ORIGIN}/2"
    published = (tmp_path / f"{EDITIONS[0]}.csv").read_bytes()
    assert moved("export", "--source", SOURCE, "--at", EDITIONS[0]).stdout == published
    moved("append", stdin=events(3))

    # The same origin goes on where the old store, in PostgreSQL this time, proves that nothing is missing.
    moved("site", "add", "remote", tmp_path / "again")
    moved("replicate", "--once")
    back = moved.at(tmp_path / "back")
    trusted = ("--policy", tmp_path / "moved" / "trust.policy", "--continue-from", moved.ledger)
    back("restore", "ledger", "--from", tmp_path / "again", *trusted, *keys, "--to", back.ledger)
    assert back("status", "--json").json["origin"] == f"{ORIGIN}/2"
    assert json.loads((tmp_path / "back" / "jinshi.json").read_bytes())["store"] == "sqlite"
    back("append", stdin=events(4))
    back("verify")


def test_a_restore_never_writes_into_a_schema_that_holds_something(tmp_path: Path, postgres: PostgresServer) -> None:
    place = fresh(postgres)
    jinshi = made_in(tmp_path, place)
    source = copied(jinshi)
    before = run_sql(place, f"SELECT position, data FROM {place.schema}.entry ORDER BY 1")
    refused = jinshi("restore", "ledger", *source, "--to", tmp_path / "新", "--store", place.url, code=2)
    assert f"#{place.schema} is used already" in refused.stderr
    assert run_sql(place, f"SELECT position, data FROM {place.schema}.entry ORDER BY 1") == before
    other = fresh(postgres)
    run_sql(other, f"CREATE SCHEMA {other.schema}", f"CREATE TABLE {other.schema}.mine AS SELECT 1 AS precious")
    jinshi("restore", "ledger", *source, "--to", tmp_path / "新", "--store", other.url, code=2)
    assert tables(other) == {"mine"}
    # What was refused is noted nowhere: the next one goes where it is told to.
    jinshi("restore", "ledger", *source, "--to", tmp_path / "新", "--store", fresh(postgres).url)


@pytest.mark.parametrize("settled", [False, True], ids=["before it is settled", "after it is settled"])
def test_an_interrupted_restore_is_finished_by_repeating_it(
    settled: bool, tmp_path: Path, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    jinshi = made_in(tmp_path, fresh(postgres))
    jinshi("append", stdin=events(300))
    source, place, to = copied(jinshi), fresh(postgres), tmp_path / "新"

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    restore = ("restore", "ledger", *source, "--to", to)
    for where in (
        "cli.making.recreate._succeed",
        "cli.making.recreate.Place.settle" if settled else "cli.making.recreate.settle_store",
    ):
        with monkeypatch.context() as patched:
            patched.setattr(where, interrupted)
            jinshi(*restore, "--store", place.url, code=130)
        assert not to.exists()
    assert "has begun here" in jinshi(*restore, "--store", "sqlite", code=2).stderr
    assert "has begun here" in jinshi(*restore, "--store", fresh(postgres).url, code=2).stderr
    jinshi(*restore)  # where to is known
    restored = jinshi.at(to)
    restored("verify")
    assert len(restored("log", "--type", "ledger.succeeded.v1", "--json").json_lines) == 1
    assert not any(path.name.startswith(".") for path in tmp_path.iterdir())


def test_what_another_restore_has_begun_is_left_alone(
    tmp_path: Path, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    jinshi = made_in(tmp_path, fresh(postgres))
    source, place = copied(jinshi), fresh(postgres)
    store = ("--store", place.url)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("cli.making.recreate.sync_tree", interrupted)
        jinshi("restore", "ledger", *source, "--to", tmp_path / "one", *store, code=130)
    before = run_sql(place, f"SELECT count(*) FROM {place.schema}.entry")
    for command in (("restore", "ledger", *source, "--to", tmp_path / "two"), ("init", tmp_path / "three")):
        refused = jinshi(*command, *store, code=2)
        assert "another init or restore has begun" in refused.stderr
        assert f"DROP SCHEMA {place.schema} CASCADE" in refused.stderr
    assert run_sql(place, f"SELECT count(*) FROM {place.schema}.entry") == before
    jinshi("restore", "ledger", *source, "--to", tmp_path / "one", *store)


# -- init: all or nothing ---------------------------------------------------------------------------------------------


def test_init_never_uses_a_schema_that_holds_something(tmp_path: Path, postgres: PostgresServer) -> None:
    place = fresh(postgres)
    jinshi = made_in(tmp_path, place, "--no-sites")
    refused = jinshi("init", tmp_path / "other", "--store", place.url, code=2)
    assert "is used already; nothing is overwritten" in refused.stderr
    assert not (tmp_path / "other").exists()
    jinshi("verify")
    jinshi("append", stdin=events(1))
    # An empty one, as a database's owner makes it for somebody without further rights, will do.
    other, user = fresh(postgres), f"user_{uuid4().hex[:8]}"
    run_sql(
        other, f"CREATE ROLE {user} LOGIN", f"REVOKE CREATE ON DATABASE {other.database} FROM PUBLIC",
        f"CREATE SCHEMA {other.schema} AUTHORIZATION {user}",
    )  # fmt: skip
    theirs = PostgresPlace(other.host, other.port, other.database, user, schema=other.schema)
    jinshi("init", tmp_path / "other", "--store", theirs.url, "--no-sites")
    jinshi.at(tmp_path / "other")("append", stdin=events(1))
    nowhere = PostgresPlace(other.host, other.port, other.database, user, schema=other.schema + "_2")
    refused = jinshi("init", tmp_path / "third", "--store", nowhere.url, code=4)
    assert "permission denied" in refused.stderr
    assert "AUTHORIZATION" in refused.stderr


STEPS: dict[str, str] = {
    "with an empty schema": "cli.making.create.create_log_key",
    "with its first entries": "cli.making.create.sync_tree",
    "complete, but not settled": "cli.making.create.settle_store",
    "settled": "cli.making.create.Place.settle",
}


@pytest.mark.parametrize("step", STEPS)
def test_an_init_killed_half_way_is_begun_anew_or_finished(
    step: str, tmp_path: Path, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, jinshi = fresh(postgres), Jinshi(tmp_path, tmp_path / "l")

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    init = ("init", tmp_path / "l", "--origin", ORIGIN)
    for _ in range(2):
        with monkeypatch.context() as patched:
            patched.setattr(STEPS[step], interrupted)
            jinshi(*init, "--store", place.url, code=130)
        assert tables(place), "it had come so far"
        assert not (tmp_path / "l").exists()
    said = jinshi(*init, "--store", place.url).out
    assert ("an interrupted init was finished" in said) is ("settled" in step)
    assert [row[0] for row in run_sql(place, f"SELECT count(*) FROM {place.schema}.entry WHERE id = 'created'")] == [1]
    jinshi("append", stdin=events(1))
    jinshi("replicate", "--once")
    jinshi("verify")
    assert not any(path.name.startswith(".") for path in tmp_path.iterdir())


def test_an_init_that_starts_over_somewhere_else_drops_only_what_it_had_begun(
    tmp_path: Path, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, other, jinshi = fresh(postgres), fresh(postgres), Jinshi(tmp_path, tmp_path / "l")

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("cli.making.create.sync_tree", interrupted)
        jinshi("init", tmp_path / "l", "--store", place.url, code=130)
    run_sql(place, f"CREATE TABLE {place.schema}.mine AS SELECT 1 AS precious")
    jinshi("init", tmp_path / "l", "--store", other.url, "--no-sites")
    assert tables(place) == {"mine"}, "everything that the migrations make is dropped, and nothing else"
    jinshi("verify")


def test_a_settled_ledger_is_dropped_by_nobody(
    tmp_path: Path, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even where a copy of its staged directory, from the time before it was complete, turns up again."""
    place, jinshi = fresh(postgres), Jinshi(tmp_path, tmp_path / "l")

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("cli.making.create.settle_store", interrupted)
        jinshi("init", tmp_path / "l", "--store", place.url, code=130)
    (staged,) = tmp_path.glob(".l.*")
    (tmp_path / ".m.jinshi-init").mkdir()
    (tmp_path / ".m.jinshi-init" / "store.claim").write_bytes((staged / "store.claim").read_bytes())
    jinshi("init", tmp_path / "l")
    before = run_sql(place, f"SELECT position, data FROM {place.schema}.entry ORDER BY 1")
    assert "is used already" in jinshi("init", tmp_path / "m", "--store", place.url, code=2).stderr
    assert run_sql(place, f"SELECT position, data FROM {place.schema}.entry ORDER BY 1") == before
    jinshi("verify")


# -- what is refused, in one line -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("postgresql://jinshi:geheim@127.0.0.1/postgres", "set PGPASSWORD"),
        ("postgresql://jinshi@127.0.0.1/postgres?password=geheim", "set PGPASSWORD"),
        ("postgresql://127.0.0.1/postgres", "names no user"),
        ("postgresql://jinshi@127.0.0.1", "names no database"),
        ("postgresql://jinshi@db.example/postgres?sslmode=require", "sslmode=verify-full"),
        ("postgresql://jinshi@127.0.0.1/postgres?schema=Ünfug", "cannot name a schema"),
        ("postgresql://jinshi@127.0.0.1/postgres?scheme=x", "known: schema"),
        ("mysql://jinshi@127.0.0.1/x", "neither sqlite nor postgresql://"),
        ("/srv/ledger", "neither sqlite nor postgresql://"),
    ],
)
def test_a_store_that_cannot_be_one_is_refused_before_anything_is_made(url: str, what: str, tmp_path: Path) -> None:
    refused = Jinshi(tmp_path)("init", tmp_path / "l", "--store", url, code=2)
    assert what in refused.stderr
    assert "geheim" not in refused.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_cannot_be_used_is_named_with_what_to_do(
    tmp_path: Path, own_postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = fresh(own_postgres)
    jinshi = made_in(tmp_path, place, "--no-sites")
    before = contents(tmp_path)

    settings = (tmp_path / "台账" / "jinshi.json").read_text()
    (tmp_path / "台账" / "jinshi.json").write_text(settings.replace("/postgres?", "/nowhere?"))
    assert "createdb" in jinshi("status", code=2).stderr
    (tmp_path / "台账" / "jinshi.json").write_text(settings)
    with monkeypatch.context() as patched:
        patched.setattr("ledger.store.postgres_server.SERVER_VERSION_MIN", 99)
        assert "a ledger needs 99 or newer; upgrade the server" in jinshi("status", code=2).stderr

    own_postgres.stop()
    for command in ("status", "log", "append", "verify"):
        refused = jinshi(command, code=4)
        assert "cannot be used" in refused.stderr
        assert "check the server and the network" in refused.stderr
    jinshi("init", tmp_path / "other", "--store", place.url, code=4)
    assert not (tmp_path / ".other.jinshi-init" / "store.claim").exists(), "a server nobody reached is noted nowhere"
    own_postgres.settings["unix_socket_directories"] = str(own_postgres.root)
    own_postgres.start()
    jinshi("verify")
    socket = PostgresPlace(str(own_postgres.root), place.port, place.database, place.user, schema=place.schema)
    (tmp_path / "台账" / "jinshi.json").write_text(settings.replace(place.url, socket.url))
    assert f"postgresql://jinshi@:{place.port}" in (tmp_path / "台账" / "jinshi.json").read_text()
    jinshi("verify")
    (tmp_path / "台账" / "jinshi.json").write_text(settings)
    after = {name: data for name, data in contents(tmp_path).items() if not name.startswith(".other")}
    assert after == before


def test_the_password_comes_from_the_environment_and_is_shown_nowhere(
    tmp_path: Path, own_postgres: PostgresServer
) -> None:
    place = fresh(own_postgres)
    run_sql(place, "SET password_encryption = 'scram-sha-256'", "CREATE ROLE clerk LOGIN SUPERUSER PASSWORD 'geheim'")
    own_postgres.stop()
    rules = own_postgres.root / "data" / "pg_hba.conf"
    rules.write_text("host all jinshi all trust\nhost all all all scram-sha-256\n")
    own_postgres.start()
    place = PostgresPlace(place.host, own_postgres.port, place.database, "clerk", schema=place.schema)
    jinshi = Jinshi(tmp_path, tmp_path / "台账")
    init = ("init", jinshi.ledger, "--store", place.url, "--no-sites")
    for password in (None, "", "falsch"):
        refused = jinshi.with_environment(PGPASSWORD=password)(*init, code=4)
        assert "refuses the login" in refused.stderr
        assert "set PGPASSWORD" in refused.stderr
        assert "falsch" not in refused.stderr
    knowing = jinshi.with_environment(PGPASSWORD="geheim")
    assert "geheim" not in knowing(*init).out
    knowing("append", stdin=events(1))
    assert "set PGPASSWORD" in jinshi("log", code=4).stderr
    assert not [name for name, data in contents(tmp_path).items() if b"geheim" in data]
    assert "geheim" not in repr(read_environment({"PGPASSWORD": "geheim", "JINSHI_PASSPHRASE": "geheim"}))
    assert "geheim" not in repr(PostgresPlace("h", 1, "d", "u", "geheim"))


def test_a_schema_that_is_dropped_or_another_ledgers_is_never_taken_for_ones_own(
    tmp_path: Path, postgres: PostgresServer
) -> None:
    place, other = fresh(postgres), fresh(postgres)
    jinshi = made_in(tmp_path, place)
    (tmp_path / "b").mkdir()
    theirs = Jinshi(tmp_path / "b", tmp_path / "b" / "台账")
    theirs("init", theirs.ledger, "--store", other.url, "--no-sites", "--origin", "another.example")
    config = tmp_path / "台账" / "jinshi.json"
    own = config.read_text()

    config.write_text(own.replace(place.schema, other.schema))
    for command in ("log", "append", "status"):
        refused = jinshi(command, code=2)
        assert f"holds the ledger another.example, not {ORIGIN}" in refused.stderr
        assert "check 'store' in jinshi.json" in refused.stderr
    assert theirs("status", "--json").json["tree_size"] == 1

    # The successor's schema has all of its predecessor's entries; that one's key would sign a second history.
    config.write_text(own)
    source, third = copied(jinshi), fresh(postgres)
    jinshi("restore", "ledger", *source, "--to", tmp_path / "新", "--store", third.url)
    config.write_text(own.replace(place.schema, third.schema))
    assert "does not know what was signed last" in jinshi("append", stdin=events(1), code=2).stderr
    config.write_text(own)
    jinshi("append", stdin=events(1))

    run_sql(place, f"DROP SCHEMA {place.schema} CASCADE")
    refused = jinshi("append", stdin=events(1), code=2)
    assert "holds no ledger; check the database, or restore it from a site" in refused.stderr
    assert not run_sql(place, f"SELECT FROM pg_namespace WHERE nspname = '{place.schema}'"), "and none is made"


def test_a_server_that_goes_away_while_a_command_runs_is_one_line_and_nothing_acknowledged_is_lost(
    tmp_path: Path, own_postgres: PostgresServer
) -> None:
    jinshi = made_in(tmp_path, fresh(own_postgres), "--no-sites")
    with jinshi.start("append", "--json") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(events(1))
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["index"] == 1
        own_postgres.stop(signal.SIGKILL)
        process.stdin.write(events(5))
        _, errors = process.communicate(timeout=60)
    said = errors.decode().splitlines()
    assert process.returncode == 4
    assert len(said) == 1
    assert said[0].startswith("jinshi: postgresql://jinshi@127.0.0.1")
    assert "check the server and the network, then run it again" in said[0]
    own_postgres.start()
    assert "of them had been recorded before" in jinshi("append", stdin=events(5)).out
    assert [one["entry"]["id"] for one in jinshi("log", "--source", "urn:test", "--json").json_lines] == [
        f"e{number}" for number in range(5)
    ]
    jinshi("verify")
