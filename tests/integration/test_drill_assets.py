"""`jinshi drill run --asset` and `--group`: green where an asset comes back, red where anything of it does not."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.support.assets import add, add_database, make_database, types_of
from tests.support.captured_cluster import RUN_AS, dsn_of, reachable_directory
from tests.support.captured_postgres import registered_database, sql
from tests.support.cli import Jinshi, events, ledger_in
from tests.support.postgres import private_postgres


@pytest.fixture
def jinshi(tmp_path: Path) -> Jinshi:
    return ledger_in(tmp_path)


def tree_in(directory: Path) -> Path:
    """A tree with content beside the log and in it."""
    tree = directory / "tree"
    tree.mkdir()
    (tree / "large").write_bytes(bytes(range(256)) * 1_000)
    (tree / "small").write_bytes(b"x")
    return tree


def protected(jinshi: Jinshi, directory: Path, *options: str, grade: int = 1) -> Path:
    """That tree under protection, captured and at every site."""
    tree = tree_in(directory)
    add(jinshi, "档案", "files", f"path={tree}", *options, grade=grade, group="office")
    jinshi("capture", "档案")
    jinshi("replicate", "--once")
    return tree


def failed(report: dict[str, Any]) -> dict[str, str]:
    """The checks that did not hold, with what they saw."""
    assert report["passed"] is (not [one for one in report["checks"] if not one["passed"]])
    return {one["name"]: one["detail"] for one in report["checks"] if not one["passed"]}


def site(directory: Path, name: str = "remote") -> Path:
    return directory / "台账-sites" / name


def broken(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o600)
    path.write_bytes(bytes(data))


def test_an_asset_comes_back_from_a_site_and_leaves_nothing_behind(jinshi: Jinshi, tmp_path: Path) -> None:
    protected(jinshi, tmp_path)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    ran = jinshi("drill", "run", "--asset", "档案", "--scratch", scratch, "--json").json
    (report,) = ran["drills"]
    assert (ran["passed"], ran["not_drilled"], ran["site"]) == (True, {}, report["site"])
    assert ran["site"] in ("same-city", "remote"), "the ledger itself is no place to rehearse the worst day from"
    assert [one["name"] for one in report["checks"]] == ["restore", "compared", "RPO", "RTO"]
    asset = report["asset"]
    assert (asset["name"], asset["kind"], asset["compared"]) == ("档案", "files", {"paths": 3, "files": 2, "trees": 1})
    assert list(scratch.iterdir()) == []
    recorded = jinshi("log", "--type", "drill.completed.v1", "--json").json["entry"]
    assert recorded["subject"] == f"{ran['site']}/档案"
    assert recorded["data"] == {key: value for key, value in report.items() if key != "index"}
    assert "asset.restored.v1" not in types_of(jinshi), "a rehearsal is no restore"
    shown = jinshi("drill", "run", "--asset", "档案", "--from", "remote").out
    assert "passed  compared: the same as captured: paths: 3, files: 2, trees: 1" in shown
    assert "档案 (grade 1)" in shown


def test_a_damaged_pack_makes_the_drill_red_and_so_does_what_the_log_says_of_it(jinshi: Jinshi, tmp_path: Path) -> None:
    protected(jinshi, tmp_path)
    packs = [path for path in site(tmp_path).rglob("*") if path.is_file() and "pack" in str(path.relative_to(tmp_path))]
    assert packs
    for pack in packs:
        broken(pack)
    ran = jinshi("drill", "run", "--asset", "档案", "--from", "remote", "--json", code=3)
    (report,) = ran.json["drills"]
    assert set(failed(report)) == {"restore", "compared", "RPO", "RTO"}, "what did not run has not held"
    assert jinshi("log", "--type", "drill.completed.v1", "--json").json["entry"]["data"]["passed"] is False
    # The other site is whole; then a bundle there, which holds the manifests, is changed.
    jinshi("drill", "run", "--asset", "档案", "--from", "same-city")
    broken(next(path for path in site(tmp_path, "same-city").rglob("tile/entries/000.p/*")))
    (report,) = jinshi("drill", "run", "--asset", "档案", "--from", "same-city", "--json", code=3).json["drills"]
    assert "entries" in failed(report)["restore"]


def test_a_site_that_lacks_the_asset_and_limits_that_are_exceeded(jinshi: Jinshi, tmp_path: Path) -> None:
    tree = tree_in(tmp_path)
    jinshi("replicate", "--once")
    add(jinshi, "档案", "files", f"path={tree}", group="office")
    jinshi("capture", "档案")
    drill = ("drill", "run", "--asset", "档案", "--from", "remote", "--json")
    (report,) = jinshi(*drill, code=1).json["drills"]
    assert "there is no asset" in failed(report)["restore"]
    jinshi("replicate", "--once")
    assert jinshi(*drill).json["passed"]
    (report,) = jinshi(*drill, "--rto", 0, code=1).json["drills"]
    assert list(failed(report)) == ["RTO"]
    (report,) = jinshi(*drill, "--rpo", 0, code=1).json["drills"]
    assert list(failed(report)) == ["RPO"]
    index = report["asset"]["sealed"]
    (report,) = jinshi(*drill, "--rpo", 0, "--at", index).json["drills"]
    assert "RPO" not in [one["name"] for one in report["checks"]], "an earlier point is as old as it is"


def test_a_group_with_what_cannot_be_drilled_without_a_place(jinshi: Jinshi, tmp_path: Path) -> None:
    protected(jinshi, tmp_path)
    database, config = tmp_path / "cases.sqlite", tmp_path / "app.conf"
    make_database(database)
    config.write_text("mode = strict\n")
    add_database(jinshi, "cases", database, group="office")
    add(jinshi, "app", "config", f"path={config}", group="office")
    jinshi("append", stdin=events(20))
    add(jinshi, "orders", "events", "sources=urn:test", group="office")
    jinshi("mark", "m", "--group", "office")
    jinshi("replicate", "--once")
    drill = ("drill", "run", "--group", "office", "--at", "m", "--json")
    ran = jinshi(*drill, code=1)
    assert list(ran.json["not_drilled"]) == ["cases"]
    assert "cases was NOT drilled" in ran.stderr
    assert [(one["asset"]["name"], one["passed"]) for one in ran.json["drills"]] == [
        ("app", True),
        ("orders", True),
        ("档案", True),
    ]
    place = tmp_path / "loaded.sqlite"
    ran = jinshi(*drill, "--place", f"cases={place}")
    assert [one["asset"]["group"] for one in ran.json["drills"]] == ["office"] * 4
    assert not place.exists()
    # What is there is never taken for the drill's own.
    refused = jinshi(*drill, "--place", f"cases={database}", code=2).stderr
    assert "is there already" in refused
    assert database.exists()
    # A dump that cannot be loaded is found by the drill, not on the day.
    jinshi("asset", "amend", "cases", "--set", "load=sh -c 'cat >/dev/null; exit 7'")
    jinshi("replicate", "--once")
    ran = jinshi("drill", "run", "--asset", "cases", "--to", "-", "--json", code=1)
    assert "status 7" in failed(ran.json["drills"][0])["restore"]


def test_what_is_asked_wrongly_is_no_drill(jinshi: Jinshi, tmp_path: Path) -> None:
    protected(jinshi, tmp_path)
    drill = ("drill", "run", "--asset", "档案")
    assert "there is no site" in jinshi(*drill, "--from", "nosuch", code=2).stderr
    assert "from a site" in jinshi(*drill, "--from", "primary", code=2).stderr
    assert "there is no mark" in jinshi(*drill, "--at", "nosuch", code=2).stderr
    assert "no option 'lsn'" in jinshi(*drill, "--set", "lsn=1", code=2).stderr
    assert "--from" in jinshi("drill", "run", code=2).stderr
    assert "about assets" in jinshi("drill", "run", "--from", "remote", "--to", "x", code=2).stderr
    assert "both" in jinshi(*drill, "--group", "office", code=2).stderr
    assert "passphrase" in jinshi.with_environment(JINSHI_PASSPHRASE="wrong")(*drill, code=2).stderr
    assert types_of(jinshi, "--type", "drill.completed.v1") == []
    assert not list(Path(tempfile.gettempdir()).glob("jinshi-drill-*/0"))


def test_the_doctor_asks_for_each_asset(jinshi: Jinshi, tmp_path: Path) -> None:
    protected(jinshi, tmp_path)
    jinshi("drill", "run", "--from", "remote")
    doctor = ("doctor", "--no-beside", "--json")
    assert jinshi(*doctor).json["passed"]
    jinshi("drill", "run", "--asset", "档案", "--from", "remote", "--rto", 0, code=1)
    (finding,) = (one for asset in jinshi(*doctor, code=1).json["assets"] for one in asset["findings"])
    assert (finding["check"], "its last drill from remote failed" in finding["what"]) == ("drill", True)
    assert "--asset 档案" in finding["todo"]
    jinshi("drill", "run", "--from", "remote")
    assert not jinshi(*doctor, code=1).json["passed"], "the ledger's own drill has not restored it"
    jinshi("drill", "run", "--asset", "档案", "--from", "remote")
    assert jinshi(*doctor).json["passed"]


def test_a_database_is_drilled_into_a_server_and_dropped_there(tmp_path: Path) -> None:
    with registered_database(tmp_path, 500) as (server, jinshi, address):
        jinshi("capture", "人口库")
        jinshi("replicate", "--once")
        before = sql(server, "SELECT datname FROM pg_database ORDER BY 1")
        drill = ("drill", "run", "--asset", "人口库", "--from", "remote", "--json")
        assert list(jinshi(*drill, code=1).json["not_drilled"]) == ["人口库"]
        assert types_of(jinshi, "--type", "drill.completed.v1") == [], "what was not drilled is no drill"
        refused = jinshi(*drill, "--to", f"{address}/population", code=2).stderr
        assert "is there already" in refused
        (report,) = jinshi(*drill, "--to", f"{address}/rehearsal").json["drills"]
        assert report["asset"]["compared"]["digests"] == 1
        assert sql(server, "SELECT datname FROM pg_database ORDER BY 1") == before
        assert sql(server, "SELECT count(*) FROM resident", database="population")
        assert "rehearsal" not in jinshi("log", "--type", "drill.completed.v1", "--json").out
        server.stop()
        away = jinshi(*drill, "--to", f"{address}/rehearsal", code=4).stderr
        assert "the server that --to names" in away
        server.start()


@pytest.mark.slow
def test_a_cluster_is_drilled_by_starting_it(tmp_path: Path) -> None:
    with private_postgres() as server, reachable_directory() as scratch:
        jinshi = ledger_in(tmp_path).with_environment(DSN=dsn_of(server))
        sql(server, "CREATE TABLE a (n int)")
        options = ("--set", f"bin={server.binaries}", "--set", "incremental=no", "--secret", "dsn=env:DSN")
        jinshi("asset", "add", "db", "--kind", "postgres-cluster", "--grade", 3, "--owner", "数据局", *options)
        jinshi("capture", "db")
        jinshi("replicate", "--once")
        run_as = ("--set", f"run_as={RUN_AS}") if RUN_AS else ()
        ran = jinshi("drill", "run", "--asset", "db", "--scratch", scratch, *run_as, "--json")
        assert ran.json["drills"][0]["asset"]["compared"]["positions"] == 1
        assert list(scratch.iterdir()) == []
