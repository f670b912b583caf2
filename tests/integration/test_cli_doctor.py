"""`jinshi doctor` and its alarms over real processes: a site that is away, a scrub, a drill, a PostgreSQL server."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from ledger.assets import asset_source
from tests.integration.test_acknowledging import broken, site
from tests.integration.test_cli_postgres import run_sql
from tests.support.assets import eventually
from tests.support.cli import Jinshi, events
from tests.support.postgres import PostgresServer
from tests.support.receiving import receiving
from tests.support.serving import serving

PERMITS = "urn:city:permits"


@pytest.fixture
def jinshi(tmp_path: Path) -> Jinshi:
    """The command, with a new ledger and its two sites, which have everything."""
    command = Jinshi(tmp_path)
    command("init", tmp_path / "ledger")
    return command.at(tmp_path / "ledger")


def add(jinshi: Jinshi, name: str, grade: int, *more: str) -> None:
    jinshi("asset", "add", name, "--grade", grade, "--owner", "x", *more)


def permits(jinshi: Jinshi, grade: int) -> None:
    add(jinshi, "permits", grade, "--kind", "events", "--set", f"sources={PERMITS}")


def found(jinshi: Jinshi, *options: str) -> list[tuple[str, str]]:
    """What the doctor finds, as (check, what); the exit code says the same."""
    ran = jinshi("doctor", "--json", *options, code=(0, 1))
    findings = [one for asset in ran.json["assets"] for one in asset["findings"]]
    assert (ran.code, ran.json["passed"]) == ((1, False) if findings else (0, True))
    assert all(one["todo"] for one in findings)
    return [(one["check"], one["what"]) for one in findings]


def test_an_asset_that_is_protected_and_one_that_is_not_any_more(jinshi: Jinshi) -> None:
    assert "nothing is under protection" in jinshi("doctor").out
    permits(jinshi, 5)
    assert [check for check, _ in found(jinshi)] == ["copies", "copies"], "no site has anything yet"
    jinshi("append", stdin=events(3, source=PERMITS))
    jinshi("replicate", "--once")
    assert found(jinshi) == []
    shown = jinshi("doctor")
    assert "protected" in shown.out
    assert "site remote lies on the disk of the ledger itself" in shown.stderr
    with broken(site(jinshi, "remote")):
        ((check, what),) = found(jinshi)
        assert (check, "site remote cannot be reached" in what) == ("copies", True)
        shown = jinshi("doctor", code=1)
        assert "permits, copies: site remote cannot be reached" in shown.out
        assert "jinshi status" in shown.out
        assert "1 finding about 1 of 1 asset" in shown.stderr
    assert found(jinshi) == []


def test_what_is_wrong_with_the_trust_service_is_said(jinshi: Jinshi, tmp_path: Path) -> None:
    jinshi("ca", "init", "--organization", "x")
    assert jinshi("doctor", "--json").json["trust"] == []
    (key,) = (tmp_path / "ledger" / "keys" / "ca").glob("*issuing*")
    key.unlink()
    ran = jinshi("doctor", "--json", code=1)
    ((check, about),) = [(one["check"], one["about"]) for one in ran.json["trust"]]
    assert (check, about, ran.json["passed"]) == ("key-away", "file", False)
    shown = jinshi("doctor", code=1)
    assert "trust service, key-away: keys of the trust service cannot be used (file)" in shown.out
    assert "1 finding about the trust service" in shown.stderr
    with broken(site(jinshi, "remote")), broken(site(jinshi, "same-city")):
        checks = {one["check"] for one in jinshi("doctor", "--json", code=1).json["trust"]}
        assert checks == {"key-away", "trust-quorum"}
    assert "needs the passphrase" in jinshi.with_environment(JINSHI_PASSPHRASE=None)("doctor").stderr


def test_a_damaged_site_is_found_by_what_its_scrub_recorded(jinshi: Jinshi) -> None:
    permits(jinshi, 5)
    jinshi("append", stdin=events(300, source=PERMITS))
    jinshi("replicate", "--once")
    tile = next(path for path in site(jinshi, "remote").glob("*/tile/entries/*") if path.is_file())
    data = bytearray(tile.read_bytes())
    data[0] ^= 1
    tile.write_bytes(bytes(data))
    assert found(jinshi) == [], "nobody has read it"
    jinshi("scrub", "--site", "remote", "--no-heal", code=(0, 1, 3))
    ((check, what),) = found(jinshi)
    assert (check, "a scrub found 1 damaged, 0 of them healed" in what) == ("copies", True)
    jinshi("scrub", "--site", "remote", code=(0, 1, 3))
    assert found(jinshi) == []


def test_a_drill_that_failed_is_found_until_one_passes(jinshi: Jinshi) -> None:
    permits(jinshi, 5)
    jinshi("append", stdin=events(3, source=PERMITS))
    jinshi("replicate", "--once")
    jinshi("drill", "run", "--from", "remote", "--rto", "0", code=1)
    ((check, what),) = found(jinshi)
    assert (check, "the last drill from remote failed" in what) == ("drill", True)
    jinshi("drill", "run", "--from", "remote")
    assert found(jinshi) == []


def test_paused_and_gaps_and_what_lies_beside(jinshi: Jinshi, tmp_path: Path) -> None:
    tree = tmp_path / "srv" / "www"
    tree.mkdir(parents=True)
    (tmp_path / "srv" / "mail").mkdir()
    (tmp_path / "srv" / "mail" / "box").write_text("x")
    add(jinshi, "www", 1, "--kind", "files", "--set", f"path={tree}")
    jinshi("replicate", "--once")
    (never, (check, what)) = found(jinshi)
    assert (check, what.endswith("no asset covers: mail")) == ("beside", True)
    assert [never] == found(jinshi, "--no-beside") == [("capture", "it was never captured")]
    jinshi("asset", "amend", "www", "--set", "beside=mail")
    jinshi("asset", "pause", "www", "--reason", "x")
    assert [check for check, _ in found(jinshi)] == ["paused"]
    jinshi("asset", "resume", "www")
    jinshi("append", stdin=sealing("www"))
    assert found(jinshi) == []


def sealing(name: str) -> bytes:
    """What a capture of files records at the end."""
    event = {"specversion": "1.0", "id": "1", "source": asset_source(name), "type": "tree.sealed.v1", "data": {}}
    return json.dumps(event).encode() + b"\n"


def test_an_asset_that_is_captured_and_one_whose_capture_fails(jinshi: Jinshi, tmp_path: Path) -> None:
    file = tmp_path / "etc" / "routes.conf"
    file.parent.mkdir()
    file.write_text("a = 1\n")
    add(jinshi, "routes", 5, "--kind", "config", "--set", f"path={file}")
    jinshi("replicate", "--once")
    assert found(jinshi) == [("capture", "it was never captured")]
    jinshi("capture", "routes")
    jinshi("replicate", "--once")
    assert found(jinshi) == []
    file.unlink()
    jinshi("capture", "routes", code=4)
    assert [check for check, _ in found(jinshi)] == ["degraded"]
    file.write_text("a = 1\n")
    jinshi("capture", "routes")
    assert found(jinshi) == []


def test_other_databases_of_a_server_under_protection(jinshi: Jinshi, postgres: PostgresServer) -> None:
    mine, other = f"mine_{uuid4().hex[:8]}", f"其他_{uuid4().hex[:8]}"
    place = postgres.place()
    for name in (mine, other):
        create_database(postgres, name)
    dsn = f"postgresql://jinshi@127.0.0.1:{place.port}/{mine}"
    command = jinshi.with_environment(DSN=dsn)
    add(command, "db", 1, "--kind", "postgres", "--secret", "dsn=env:DSN")
    command("replicate", "--once")
    (_, (check, what)) = found(command)
    assert (check, other in what, mine in what) == ("beside", True, False)
    command("asset", "amend", "db", "--set", f"databases={mine}", "--set", f"databases={other}")
    others = [one for one in found(command) if mine in one[1] or other in one[1]]
    assert others == []
    command("asset", "amend", "db", "--set", f"databases={mine}", "--set", "databases=gone")
    assert any(what == "its server has no database gone" for _, what in found(command))
    away = command.with_environment(DSN=f"postgresql://jinshi@127.0.0.1:9/{mine}")
    (_, (check, what)) = found(away)
    assert (check, "cannot be asked" in what) == ("place", True)


def create_database(server: PostgresServer, name: str) -> None:
    import asyncio

    import asyncpg

    async def run() -> None:
        db = await asyncpg.connect(host="127.0.0.1", port=server.port, user="jinshi", database="postgres")
        await db.execute(f'CREATE DATABASE "{name}"')
        await db.close()

    asyncio.run(run())
    assert run_sql(server.place(), f"SELECT 1 FROM pg_database WHERE datname = '{name}'")


def test_status_says_how_far_each_site_is_with_each_asset(jinshi: Jinshi) -> None:
    permits(jinshi, 1)
    add(jinshi, "sensors", 1, "--kind", "events", "--set", "sources=urn:city:sensors")
    jinshi("append", stdin=events(2, source=PERMITS))
    jinshi("replicate", "--once")
    with broken(site(jinshi, "remote")):
        jinshi("append", stdin=events(5, source=PERMITS, first=2))
        jinshi("append", stdin=events(7))
        jinshi("replicate", "--once", code=4)
        one, other = assets_of(jinshi)
        assert (one["name"], [at["lag_entries"] for at in one["sites"]]) == ("permits", [0, 5])
        lines = jinshi("log", "--source", PERMITS, "--json", "--all").json_lines
        assert one["sites"][1]["lag_s"] > 0
        assert one["sites"][1]["lag_bytes"] > 5 * 300
        assert len(lines) == 7
        assert (other["name"], [at["lag_entries"] for at in other["sites"]]) == ("sensors", [0, 0])
        shown = jinshi("status").out
        assert "LAG AT remote" in shown
        assert "5 entries" in shown
    jinshi("replicate", "--once")
    assert [at["lag_entries"] for one in assets_of(jinshi) for at in one["sites"]] == [0, 0, 0, 0]


def assets_of(jinshi: Jinshi) -> list[Any]:
    return list(jinshi("status", "--json").json["assets"])


def test_a_server_raises_an_alarm_for_an_asset_and_clears_it_when_it_is_mended(jinshi: Jinshi, tmp_path: Path) -> None:
    permits(jinshi, 5)
    jinshi("append", stdin=events(3, source=PERMITS))
    jinshi("replicate", "--once")
    with receiving() as receiver:
        options = ("--every", "0.2", "--alarm-unreachable", "0.5", "--alarm-webhook", receiver.url)
        with serving(jinshi, *options) as (_, url), httpx.Client(base_url=url, timeout=30) as client:
            with broken(site(jinshi, "remote")):
                until(receiver, "alarm.raised.v1")
                shown = client.get("/metrics").text
                assert 'jinshi_alarms{about="permits",kind="asset-uncovered"} 1.0' in shown
                assert 'jinshi_asset_lag_entries{asset="permits",site="same-city"}' in shown
                eventually(lambda: ("asset-uncovered", "permits") in standing(jinshi))
            until(receiver, "alarm.cleared.v1")
            eventually(lambda: ("asset-uncovered", "permits") not in standing(jinshi))
    lines = [line["entry"] for line in jinshi("log", "--json", "--all").json_lines]
    ours = [one for one in lines if one["type"].startswith("alarm.") and one["data"]["about"] == "permits"]
    assert [one["type"] for one in ours] == ["alarm.raised.v1", "alarm.cleared.v1"], "each once"
    assert "site remote cannot be reached" in ours[0]["data"]["what"]


def standing(jinshi: Jinshi) -> set[tuple[str, str]]:
    """What is recorded to stand: a receiver is told before."""
    return {(one["kind"], one["about"]) for one in jinshi("status", "--json").json["alarms"]}


def until(receiver: Any, type_: str) -> None:
    """Until the webhook was told so of the asset."""
    deadline_s = time.monotonic() + 60
    while True:
        told = [(one["type"], one["data"]["kind"]) for one in list(receiver.taken)]
        if (type_, "asset-uncovered") in told:
            return
        assert time.monotonic() < deadline_s, told
        time.sleep(0.05)
