"""Acknowledgement policies over real processes: the command alone, a server, sites that go away and fill up."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from ledger.http.receive import STRUCTURED
from tests.support.cli import Jinshi, Ran, events
from tests.support.disks import small_disk
from tests.support.http_api import structured
from tests.support.serving import serving

STRICT = "urn:city:permits"
JSON_TYPE = {"content-type": STRUCTURED}


@pytest.fixture
def jinshi(tmp_path: Path) -> Jinshi:
    """The command, with a new ledger whose source STRICT is in the clear."""
    command = Jinshi(tmp_path)
    command("init", tmp_path / "ledger", "--clear")
    return command.at(tmp_path / "ledger")


def site(jinshi: Jinshi, name: str) -> Path:
    assert jinshi.ledger is not None
    return jinshi.ledger.with_name("ledger-sites") / name


@contextmanager
def broken(path: Path) -> Iterator[None]:
    """A site that cannot be read or written, for root either: a file stands where its directory was."""
    away = path.with_name(path.name + ".away")
    path.rename(away)
    path.write_text("no directory")
    try:
        yield
    finally:
        path.unlink()
        away.rename(path)


def restored(jinshi: Jinshi, name: str, to: Path) -> list[str]:
    """The ids of STRICT's events that come back from one site alone, the primary gone."""
    assert jinshi.ledger is not None
    policy = jinshi.ledger.with_name("ledger-keys") / "trust.policy"
    shutil.rmtree(jinshi.ledger)
    jinshi("restore", "ledger", "--from", site(jinshi, name), "--policy", policy, "--to", to)
    lines = jinshi.at(to)("log", "--source", STRICT, "--json", "--all").json_lines
    return [line["entry"]["id"] for line in lines]


def append(jinshi: Jinshi, count: int, *options: str, first: int = 0, code: int = 0) -> Ran:
    return jinshi("append", "--json", *options, stdin=events(count, source=STRICT, first=first), code=code)


def test_what_the_command_acknowledged_comes_back_from_the_sites_alone(jinshi: Jinshi, tmp_path: Path) -> None:
    jinshi("source", "declare", STRICT, "--ack", "all")
    assert {"source": STRICT, "mode": "public", "ack": "all"} in jinshi("source", "list", "--json").json_lines
    ids = [line["id"] for line in append(jinshi, 5).json_lines]
    assert len(ids) == 5
    shutil.copytree(tmp_path / "ledger", tmp_path / "kept")
    assert restored(jinshi, "same-city", tmp_path / "restored-1") == ids
    (tmp_path / "kept").rename(tmp_path / "ledger")
    assert restored(jinshi, "remote", tmp_path / "restored-2") == ids


def test_a_site_that_is_away_stops_what_needs_it_and_nothing_else(jinshi: Jinshi, tmp_path: Path) -> None:
    jinshi("source", "declare", STRICT, "--ack", "all")
    with broken(site(jinshi, "remote")):
        failed = append(jinshi, 2, "--ack-timeout", "1", code=5)
        assert failed.stdout == b"", "nothing that is not acknowledged is answered as if it were"
        lines = [line for line in failed.stderr.splitlines() if line.startswith("site ")]
        assert [line.split(":")[0] for line in lines] == ["site same-city", "site remote"]
        assert "since" in lines[1]
        assert "remote" in failed.stderr.splitlines()[-1]
        said = jinshi("--log-format", "json", "append", "--ack-timeout", "0.5", stdin=events(2, source=STRICT), code=5)
        (line,) = [line for line in map(json.loads, said.stderr.splitlines()) if "sites" in line]
        assert [(one["name"], one["reachable"]) for one in line["sites"]] == [("same-city", True), ("remote", False)]
        jinshi("append", stdin=events(1, source="urn:other"))
        jinshi("source", "declare", STRICT, "--ack", "any:1")
        assert len(append(jinshi, 2).json_lines) == 2, "the same events: one site is enough now"
        append(jinshi, 2, "--ack", "all", "--ack-timeout", "1", code=5)
        assert len(append(jinshi, 1, "--ack", "same-city", first=2).json_lines) == 1
    again = append(jinshi, 3, "--ack", "all").json_lines
    assert [line["repeated"] for line in again] == [True] * 3
    assert len(restored(jinshi, "remote", tmp_path / "restored")) == 3


def test_less_than_is_declared_is_refused_before_anything_is_recorded(jinshi: Jinshi) -> None:
    jinshi("source", "declare", STRICT, "--ack", "any:2")
    before = jinshi("status", "--json").json["tree_size"]
    assert "weaker" in append(jinshi, 1, "--ack", "any:1", code=2).stderr
    assert jinshi("status", "--json").json["tree_size"] == before
    assert "cannot be met" in jinshi("source", "declare", STRICT, "--ack", "any:3", code=2).stderr


def test_an_edition_is_acknowledged_as_a_whole(jinshi: Jinshi, tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("id,name\n1,a\n2,b\n")
    arguments = ("import", tmp_path / "r.csv", "--source", STRICT, "--key", "id", "--edition", "1", "--ack", "all")
    with broken(site(jinshi, "same-city")):
        jinshi(*arguments, "--ack-timeout", "1", code=5)
    assert "recorded already" in jinshi(*arguments).out
    assert [one["lag_entries"] for one in jinshi("status", "--json").json["sites"]] == [0, 0]


def post(client: httpx.Client, id_: str, **params: str) -> httpx.Response:
    return client.post("/events", content=structured(id_, source=STRICT), headers=JSON_TYPE, params=params)


@pytest.mark.parametrize("ack", ["any:1", "same-city", "all"])
def test_what_a_server_acknowledged_is_at_the_sites_when_it_is_killed(jinshi: Jinshi, ack: str, tmp_path: Path) -> None:
    jinshi("source", "declare", STRICT, "--ack", ack)
    options = ("--every", "0.2", "--ack-timeout", "1")
    with (
        serving(jinshi, *options) as (process, url),
        httpx.Client(base_url=url, timeout=30) as client,
        broken(site(jinshi, "remote")),
    ):
        answers = [post(client, str(number)) for number in range(3)]
        acknowledged = [number for number, answer in enumerate(answers) if answer.status_code == 201]
        assert acknowledged == ([] if ack == "all" else [0, 1, 2])
        for answer in answers:
            if answer.status_code != 201:
                problem = answer.json()
                assert (answer.status_code, problem["type"]) == (503, "urn:jinshi:problem:not-acknowledged")
                assert [one["reachable"] for one in problem["sites"]] == [True, False]
        process.kill()
    if ack == "all":
        with serving(jinshi, *options) as (process, url), httpx.Client(base_url=url, timeout=30) as client:
            again = [post(client, str(number)) for number in range(3)]
            assert [answer.status_code for answer in again] == [200] * 3
            process.kill()
    name = "remote" if ack == "all" else "same-city"
    assert restored(jinshi, name, tmp_path / "restored") == ["0", "1", "2"]


def test_a_command_that_hands_over_waits_for_the_servers_sites(jinshi: Jinshi) -> None:
    jinshi("source", "declare", STRICT, "--ack", "all")
    with serving(jinshi, "--every", "0.2"):
        assert len(append(jinshi, 2).json_lines) == 2
        assert [one["lag_entries"] for one in jinshi("status", "--json").json["sites"]] == [0, 0]
        with broken(site(jinshi, "remote")):
            failed = append(jinshi, 1, "--ack-timeout", "0.5", first=2, code=5)
            assert [line.split(":")[0] for line in failed.stderr.splitlines()[:2]] == ["site same-city", "site remote"]
        assert [line["repeated"] for line in append(jinshi, 1, first=2).json_lines] == [True]


def test_where_others_replicate_the_server_sees_how_far_they_are(jinshi: Jinshi) -> None:
    jinshi("source", "declare", STRICT, "--ack", "all")
    with (
        serving(jinshi, "--no-replicate", "--every", "0.1", "--ack-timeout", "0.5") as (_, url),
        httpx.Client(base_url=url, timeout=30) as client,
    ):
        assert post(client, "1").status_code == 503
        jinshi("replicate", "--once")
        for _ in range(20):
            if (status := post(client, "1").status_code) == 200:
                break
        assert status == 200


def test_a_full_site_is_named_and_what_waits_for_it_is_not_lost(jinshi: Jinshi, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        jinshi("site", "add", "full", disk.root / "site", "--role", "same-city")
        jinshi("source", "declare", STRICT, "--ack", "same-city")
        with serving(jinshi, "--every", "0.2", "--ack-timeout", "1") as (process, url):
            with httpx.Client(base_url=url, timeout=30) as client:
                assert post(client, "0").status_code == 201
                disk.fill(4096)
                problem = post(client, "1")
                assert problem.status_code == 503
                (full,) = [one for one in problem.json()["sites"] if one["name"] == "full"]
                assert (full["role"], full["reachable"]) == ("same-city", False)
                assert "no space" in full["error"].lower() or "full" in full["error"]
                disk.free()
                assert post(client, "1").json()["duplicate"]
            process.kill()
        assert restored(jinshi, "same-city", tmp_path / "restored") == ["0", "1"]
