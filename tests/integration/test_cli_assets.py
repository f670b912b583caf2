"""`jinshi asset` over the real command: the register, grades that acknowledge, gaps, and a server beside it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import httpx
import pytest

from ledger.assets import asset_source
from ledger.http.receive import STRUCTURED
from tests.integration.test_acknowledging import broken, site
from tests.support.cli import Jinshi, Ran, events
from tests.support.http_api import structured
from tests.support.serving import serving

PERMITS = "urn:city:permits"


@pytest.fixture
def jinshi(tmp_path: Path) -> Jinshi:
    """The command, with a new ledger and its two sites."""
    command = Jinshi(tmp_path)
    command("init", tmp_path / "ledger")
    return command.at(tmp_path / "ledger")


def add(jinshi: Jinshi, name: str, grade: int, *more: str, source: str = PERMITS, code: int = 0) -> Ran:
    arguments = ("--kind", "events", "--grade", grade, "--owner", "service hall", "--set", f"sources={source}")
    return jinshi("asset", "add", name, *arguments, *more, code=code)


def append(jinshi: Jinshi, count: int, *more: str, source: str = PERMITS, first: int = 0, code: int = 0) -> Ran:
    return jinshi("append", "--json", *more, stdin=events(count, source=source, first=first), code=code)


def acks(jinshi: Jinshi) -> dict[str, str]:
    return {line["source"]: line["ack"] for line in jinshi("source", "list", "--json").json_lines}


def size(jinshi: Jinshi) -> int:
    return int(jinshi("status", "--json").json["tree_size"])


def test_a_grade_decides_what_acknowledges_and_a_site_that_is_away_stops_grade_6_alone(jinshi: Jinshi) -> None:
    add(jinshi, "permits", 6)
    add(jinshi, "sensors", 1, source="urn:city:sensors")
    assert {PERMITS: "all", "urn:city:sensors": "local", asset_source("permits"): "all"}.items() <= acks(jinshi).items()
    append(jinshi, 2)
    assert [one["lag_entries"] for one in jinshi("status", "--json").json["sites"]] == [0, 0], "grade 6 waits for all"
    append(jinshi, 2, source="urn:city:sensors")
    assert [one["lag_entries"] for one in jinshi("status", "--json").json["sites"]] == [2, 2], "grade 1 for none"
    with broken(site(jinshi, "remote")):
        failed = append(jinshi, 1, "--ack-timeout", "1", first=5, code=5)
        assert failed.stdout == b""
        lines = [line for line in failed.stderr.splitlines() if line.startswith("site ")]
        assert [line.split(":")[0] for line in lines] == ["site same-city", "site remote"]
        assert "since" in lines[1]
        append(jinshi, 1, source="urn:city:sensors", first=5)
        jinshi("asset", "amend", "permits", "--grade", "5")
        assert acks(jinshi)[PERMITS] == "any:1", "amending the grade declares its sources again"
        append(jinshi, 1, first=6)
    assert [line["repeated"] for line in append(jinshi, 1, first=5).json_lines] == [True]


def test_an_asset_and_its_declaration_are_one_append(jinshi: Jinshi) -> None:
    before = size(jinshi)
    made = jinshi(
        *("asset", "add", "人口库", "--kind", "postgres", "--grade", "6", "--owner", "数据局", "--json"),
        *("--secret", "dsn=env:POPULATION_DSN", "--group", "registers", "--set", "databases=人口"),
    ).json
    assert (made["ack"], made["index"], size(jinshi)) == ("all", before, before + 2)
    added, declared = jinshi("log", "--index", f"{before}..{before + 1}", "--json").json_lines
    assert (added["entry"]["type"], declared["entry"]["type"]) == ("asset.added.v1", "source.declared.v1")
    assert added["entry"]["recordedtime"] == declared["entry"]["recordedtime"]
    assert declared["entry"]["data"] == {"source": asset_source("人口库"), "mode": "sealed", "ack": "all"}
    shown = jinshi("asset", "show", "人口库").out
    for part in ("数据局", "registers", "dsn", "env:POPULATION_DSN", "数据零丢失", "all"):
        assert part in shown
    assert "人口库" in jinshi("asset", "list", "--group", "registers").out
    assert "asset.added.v1" in jinshi("history", "人口库").out
    again = (
        *("asset", "add", "人口库", "--kind", "postgres", "--grade", "6", "--owner", "数据局"),
        *("--secret", "dsn=env:POPULATION_DSN", "--group", "registers", "--set", "databases=人口"),
    )
    assert "nothing was recorded" in jinshi(*again).out
    assert (
        "in another way" in jinshi(*again[:5], "--grade", "5", "--owner", "x", "--secret", "dsn=env:X", code=1).stderr
    )
    assert size(jinshi) == before + 2


def test_a_secret_itself_never_enters_the_ledger(jinshi: Jinshi) -> None:
    before = size(jinshi)
    for secret in ("dsn=postgres://u:hunter2@db/x", "hunter2", "dsn=hunter2"):
        refused = jinshi(
            *("asset", "add", "db", "--kind", "postgres", "--grade", "2", "--owner", "x", "--secret", secret), code=2
        )
        assert "hunter2" not in refused.stderr
        assert "env:" in refused.stderr
    assert size(jinshi) == before


def test_the_register_changes_and_says_so(jinshi: Jinshi, tmp_path: Path) -> None:
    options = ("--set", f"path={tmp_path}", "--set", "exclude=*.tmp", "--set", "every_s=60")
    jinshi("asset", "add", "www", "--kind", "files", "--grade", "3", "--owner", "portal", *options, "--group", "a")
    jinshi("asset", "amend", "www", "--unset", "every_s", "--set", "exclude=*.bak", "--owner", "x", "--group", "b")
    (one,) = jinshi("asset", "list", "--json").json_lines
    assert one["options"] == {"path": str(tmp_path), "exclude": ["*.bak"]}
    assert (one["owner"], one["groups"], one["grade"], one["paused"]) == ("x", ["b"], 3, False)
    jinshi("asset", "pause", "www", "--reason", "moving")
    assert "nothing was recorded" in jinshi("asset", "pause", "www", "--reason", "moving").out
    assert "paused" in jinshi("asset", "list").out
    jinshi("asset", "amend", "www", "--no-group")
    assert jinshi("asset", "show", "www", "--json").json["paused"]
    jinshi("asset", "resume", "www")
    jinshi("asset", "retire", "www", "--reason", "switched off")
    assert jinshi("asset", "list", "--json").json_lines == []
    assert [one["retired"] for one in jinshi("asset", "list", "--all", "--json").json_lines] == [True]
    assert "is retired" in jinshi("asset", "pause", "www", "--reason", "x", code=2).stderr
    again = ("--kind", "files", "--owner", "portal", "--set", f"path={tmp_path}", "--grade")
    jinshi("asset", "add", "www", *again, "6")
    jinshi("asset", "retire", "www", "--reason", "once more")
    assert jinshi("asset", "add", "www", *again, "1", "--json").json["ack"] == "local"
    assert acks(jinshi)[asset_source("www")] == "local", "what it was declared as before does not bind it"
    jinshi("asset", "retire", "www", "--reason", "for good")
    assert "did you mean" in add_files(jinshi, "pth=/x").stderr
    assert "another name" in add(jinshi, "www", 1, code=1).stderr


def add_files(jinshi: Jinshi, option: str) -> Ran:
    arguments = ("--kind", "files", "--grade", "1", "--owner", "x", "--set", option)
    return jinshi("asset", "add", "files", *arguments, code=2)


def test_a_grade_whose_sites_are_missing_is_refused_or_recorded_as_a_gap(tmp_path: Path) -> None:
    command = Jinshi(tmp_path)
    command("init", tmp_path / "ledger", "--no-sites")
    jinshi = command.at(tmp_path / "ledger")
    before = size(jinshi)
    refused = add(jinshi, "permits", 6, code=2).stderr
    for part in ("1 same-city site, there are 0", "1 remote site, there are 0", "--accept-gap"):
        assert part in " ".join(refused.split())
    assert size(jinshi) == before
    accepted = add(jinshi, "permits", 6, "--accept-gap")
    assert "accepted" in accepted.stderr
    assert acks(jinshi)[PERMITS] == "local", "what no site can acknowledge would be acknowledged never"
    append(jinshi, 1)
    shown = jinshi("asset", "show", "permits", "--json").json
    assert len(shown["gaps"]) == 3
    jinshi("site", "add", "same-city", tmp_path / "near")
    jinshi("site", "add", "remote", tmp_path / "far")
    jinshi("asset", "amend", "permits", "--grade", "6")
    assert (acks(jinshi)[PERMITS], jinshi("asset", "show", "permits", "--json").json["gaps"]) == ("all", [])


def test_a_source_is_protected_once_and_keeps_what_is_stricter(jinshi: Jinshi) -> None:
    jinshi("source", "declare", PERMITS, "--ack", "any:2")
    add(jinshi, "permits", 2)
    assert acks(jinshi)[PERMITS] == "any:2"
    assert "as permits already" in add(jinshi, "again", 2, code=1).stderr
    jinshi("asset", "amend", "permits", "--owner", "somebody else")
    assert acks(jinshi)[PERMITS] == "any:2", "nobody asked for less"
    jinshi("asset", "amend", "permits", "--grade", "1")
    assert acks(jinshi)[PERMITS] == "local", "what is asked for is done"


def test_what_is_restored_protects_what_was_protected(jinshi: Jinshi, tmp_path: Path) -> None:
    add(jinshi, "permits", 6)
    jinshi("asset", "pause", "permits", "--reason", "x")
    jinshi("replicate", "--once")
    shutil.rmtree(tmp_path / "ledger")
    policy, restored = tmp_path / "ledger-keys" / "trust.policy", jinshi.at(tmp_path / "restored")
    jinshi("restore", "ledger", "--from", site(jinshi, "remote"), "--policy", policy, "--to", restored.ledger)
    (one,) = restored("asset", "list", "--json").json_lines
    assert (one["name"], one["grade"], one["paused"], one["ack"]) == ("permits", 6, True, "all")
    restored("asset", "resume", "permits")
    assert not restored("asset", "show", "permits", "--json").json["paused"], "acts of both origins count"
    findings = restored("doctor", "--json", code=1).json["assets"][0]["findings"]
    assert {finding["check"] for finding in findings} == {"sites"}, "it has no sites yet"


def test_all_of_it_works_while_a_server_holds_the_lock(jinshi: Jinshi) -> None:
    with (
        serving(jinshi, "--every", "0.2", "--ack-timeout", "1") as (_, url),
        httpx.Client(base_url=url, timeout=30) as client,
    ):
        add(jinshi, "permits", 6)
        body, headers = structured("1", source=PERMITS), {"content-type": STRUCTURED}
        assert client.post("/events", content=body, headers=headers).status_code == 201
        with broken(site(jinshi, "remote")):
            body = structured("2", source=PERMITS)
            refused = client.post("/events", content=body, headers=headers)
            assert refused.status_code == 503
            assert [one["reachable"] for one in refused.json()["sites"]] == [True, False]
            jinshi("asset", "amend", "permits", "--grade", "1")
            assert client.post("/events", content=body, headers=headers).json()["duplicate"]
        jinshi("asset", "pause", "permits", "--reason", "x")
        assert json.loads(jinshi("asset", "list", "--json").out)["paused"]
        jinshi("asset", "resume", "permits")
        jinshi("asset", "retire", "permits", "--reason", "x")
        assert "no assets" in jinshi("asset", "list").out
