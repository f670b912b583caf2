"""Captures beside a server: all the time, when a command asks, and one that fails beside one that works."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
from pathlib import Path

import pytest

from cli.capturing.asking import open_to_capture
from cli.config import Environment
from ledger.capture.base import Captured
from tests.support.assets import add, add_database, eventually, make_database, rewrite, rows_of, types_of
from tests.support.cli import PASSPHRASE, Jinshi, contents, ledger_in
from tests.support.serving import serving
from tests.support.sqlite_shell import sqlite3_command


@pytest.fixture
def jinshi(tmp_path: Path) -> Jinshi:
    return ledger_in(tmp_path)


def count(jinshi: Jinshi, type_: str) -> int:
    return len(jinshi("log", "--type", type_, "--all", "--json").json_lines)


def alarms(jinshi: Jinshi) -> list[tuple[str, str]]:
    return [(one["kind"], one["about"]) for one in jinshi("status", "--json").json["alarms"]]


@pytest.mark.slow
def test_a_server_captures_what_is_registered_and_one_failure_stops_nothing(jinshi: Jinshi, tmp_path: Path) -> None:
    database, config, log = tmp_path / "cases.sqlite", tmp_path / "app.conf", tmp_path / "serve.log"
    make_database(database)
    config.write_text("mode = strict\n")
    flag = tmp_path / "works"
    add_database(jinshi, "cases", database, "every_s=3600", grade=2)
    with serving(jinshi, "--every", "0.2", log=log) as (server, _):
        eventually(lambda: count(jinshi, "dump.sealed.v1") == 1, log.read_text)
        # What is registered while it runs is captured from then on; what fails is said once, and nothing else stops.
        add(jinshi, "broken", "commands", f"dump=cat {flag}", "every_s=1")
        add(jinshi, "app", "config", f"path={config}", "every_s=1")
        eventually(lambda: count(jinshi, "asset.degraded.v1") == 1, log.read_text)
        eventually(lambda: ("asset-degraded", "broken") in alarms(jinshi), log.read_text)
        rewrite(config, "mode = lax\n")
        eventually(lambda: count(jinshi, "config.recorded.v1") == 2, log.read_text)
        # A paused asset is left alone, also when it is asked for.
        jinshi("asset", "pause", "app", "--reason", "moved")
        eventually(lambda: "is paused" in jinshi("capture", "app", code=2).stderr)
        # Asked for, it captures now: the command holds no lock, and sees what the server did.
        with sqlite3.connect(database) as open_database:
            open_database.execute("DELETE FROM case_file WHERE number = 3")
        open_database.close()
        done = jinshi.process("capture", "cases", "--json").json
        assert done["repeated"] is False
        assert count(jinshi, "dump.sealed.v1") == 2
        jinshi("restore", "asset", "cases", "--to", tmp_path / "restored.sqlite")
        assert rows_of(tmp_path / "restored.sqlite") == rows_of(database)
        refused = jinshi("capture", "broken", code=4).stderr
        assert "No such file" in refused
        assert "captures run in it all the time" in jinshi("capture", "cases", "--watch", code=4).stderr
        # What is amended counts at once, and goes on as it is now.
        other = tmp_path / "other.sqlite"
        make_database(other, rows=3)
        jinshi("asset", "amend", "cases", "--set", f"dump={sqlite3_command()} {other} .dump", "--set", "every_s=1")
        jinshi("capture", "cases")
        assert count(jinshi, "dump.sealed.v1") == 3
        make_database(tmp_path / "more.sqlite", rows=5)
        (tmp_path / "more.sqlite").replace(other)
        eventually(lambda: count(jinshi, "dump.sealed.v1") == 4, log.read_text)
        # Mended, it recovers by itself, and the alarm goes.
        flag.write_text("dump\n")
        eventually(lambda: count(jinshi, "asset.recovered.v1") == 1, log.read_text)
        eventually(lambda: ("asset-degraded", "broken") not in alarms(jinshi), log.read_text)
        assert count(jinshi, "asset.degraded.v1") == 1
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
    assert "Traceback" not in log.read_text()
    jinshi("verify")


def test_a_group_is_marked_through_the_server(jinshi: Jinshi, tmp_path: Path) -> None:
    database, config = tmp_path / "cases.sqlite", tmp_path / "app.conf"
    make_database(database)
    config.write_text("mode = strict\n")
    add_database(jinshi, "cases", database, group="court")
    add(jinshi, "app", "config", f"path={config}", group="court")
    with serving(jinshi, "--every", "0.2"):
        marked = jinshi("mark", "before", "--group", "court", "--json").json
        assert set(marked["sealed"]) == {"cases", "app"}
        config.write_text("mode = lax\n")
        jinshi("capture", "app")
        assert "already" in jinshi("mark", "before", "--group", "court", code=1).stderr
        assert "takes it for an index" in jinshi("mark", "2026", "--group", "court", code=2).stderr
        assert "no asset in a group" in jinshi("mark", "x", "--group", "nosuch", code=2).stderr
        add(jinshi, "gone", "config", f"path={tmp_path}/nosuch", group="court")
        failed = jinshi("mark", "after", "--group", "court", code=4).stderr
        assert "nothing is marked; gone: " in failed
        jinshi("restore", "asset", "app", "--at", "before", "--to", tmp_path / "then")
    assert (tmp_path / "then" / "app.conf").read_text() == "mode = strict\n"
    shown = json.loads(jinshi("log", "--type", "mark.set.v1", "--json").out)
    assert shown["entry"]["data"]["sealed"] == marked["sealed"]


def test_a_capture_without_a_server_goes_on_until_it_is_told_to_end(jinshi: Jinshi, tmp_path: Path) -> None:
    config = tmp_path / "app.conf"
    config.write_text("1\n")
    add(jinshi, "app", "config", f"path={config}", "every_s=1")
    process = jinshi.start("capture", "app", "--watch")
    try:
        eventually(lambda: count(jinshi, "config.recorded.v1") == 1)
        rewrite(config, "2\n")
        eventually(lambda: count(jinshi, "config.recorded.v1") == 2)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
        assert b"Traceback" not in said
    finally:
        process.kill()
        process.communicate()
    assert types_of(jinshi).count("config.recorded.v1") == 2
    jinshi("verify")


def test_a_tree_is_watched_and_marked_and_brought_back_from_a_site(jinshi: Jinshi, tmp_path: Path) -> None:
    tree, log = tmp_path / "tree", tmp_path / "serve.log"
    (tree / "卷宗").mkdir(parents=True)
    (tree / "卷宗" / "a.txt").write_text("one\n")
    add(jinshi, "tree", "files", f"path={tree}", group="court")
    with serving(jinshi, "--every", "0.2", log=log):
        eventually(lambda: count(jinshi, "tree.sealed.v1") == 1, log.read_text)
        jinshi("mark", "before", "--group", "court")
        sealed = count(jinshi, "tree.sealed.v1")
        (tree / "b.txt").write_text("two\n")
        eventually(lambda: count(jinshi, "tree.sealed.v1") > sealed, log.read_text)
        jinshi("replicate", "--once", code=(0, 4))
        eventually(lambda: jinshi("status", "--json").json["sites"][1]["lag_entries"] == 0)
        done = jinshi("restore", "group", "court", "--from", "remote", "--to", tmp_path / "now", "--json").json
        assert done["assets"][0]["error"] is None
        jinshi("restore", "asset", "tree", "--at", "before", "--to", tmp_path / "then")
    assert contents(tmp_path / "now" / "tree") == contents(tree)
    assert contents(tmp_path / "then") == {"卷宗/a.txt": b"one\n"}


def test_a_command_that_asks_is_told_how_far_the_server_is(jinshi: Jinshi, tmp_path: Path) -> None:
    slow, ledger = tmp_path / "slow", jinshi.ledger
    slow.write_text("#!/bin/sh\nfor n in 1 2 3 4; do head -c 200000 /dev/urandom; sleep 0.4; done\n")
    slow.chmod(0o755)
    add(jinshi, "slow", "commands", f"dump={slow}")
    assert ledger is not None
    reports: list[tuple[int, int]] = []

    async def ask() -> Captured:
        async with open_to_capture(ledger, Environment(ledger=ledger), PASSPHRASE) as asking:
            return await asking.capture("slow", lambda done, total: reports.append((done, total)))

    with serving(jinshi, "--no-replicate", "--no-capture"):
        assert asyncio.run(ask()).counts == {"bytes": 800_000}
    assert any(0 < done < 800_000 for done, _ in reports), reports


@pytest.mark.slow
def test_what_a_grade_demands_holds_for_captures_too(jinshi: Jinshi, tmp_path: Path) -> None:
    config, sites, log = tmp_path / "app.conf", tmp_path / "台账-sites", tmp_path / "serve.log"
    config.write_text("1\n")
    add(jinshi, "app", "config", f"path={config}", "every_s=1", grade=6)
    with serving(jinshi, "--every", "0.2", "--ack-timeout", "1", log=log):
        eventually(lambda: count(jinshi, "config.recorded.v1") == 1, log.read_text)
        assert jinshi("capture", "app", "--json").json["repeated"]
        (sites / "remote").rename(sites / "away")
        rewrite(config, "2\n")
        # It is recorded, and held to be not captured: a site that its grade demands has not cosigned it.
        eventually(lambda: bool(jinshi("asset", "show", "app", "--json").json["problems"]), log.read_text)
        eventually(lambda: "not captured" in log.read_text())
        assert jinshi("capture", "app", code=5).stderr
        assert count(jinshi, "asset.recovered.v1") == 0
        (sites / "away").rename(sites / "remote")
        eventually(lambda: count(jinshi, "asset.recovered.v1") == 1, log.read_text)
    assert count(jinshi, "config.recorded.v1") == 2
