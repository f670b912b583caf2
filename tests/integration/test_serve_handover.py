"""Commands that record while `jinshi serve` holds the ledger's lock, and erasures that are settled meanwhile."""

from __future__ import annotations

import os
import signal
import stat
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from cli.serving.messages import SOCKET
from ledger.files import hold_lock
from ledger.http.receive import STRUCTURED
from tests.support.cli import Jinshi, contents, events, ledger_in
from tests.support.http_api import structured
from tests.support.serving import serving

SOURCE = "urn:city:residents"
REGISTER = "编号,姓名\nr-1,王小明\nr-2,李小红\n"
DEADLINE_S = 60


@pytest.fixture
def jinshi(tmp_path: Path) -> Jinshi:
    return ledger_in(tmp_path)


def another(jinshi: Jinshi) -> Jinshi:
    return jinshi.with_environment(LOGNAME="second", USER="second")


def ledger_of(jinshi: Jinshi) -> Path:
    assert jinshi.ledger is not None
    return jinshi.ledger


def keys_at(root: Path) -> int:
    """How many subjects' keys there are, however often wrapped."""
    return len({Path(name).name.partition(".")[0] for name in contents(root) if "/keyring/subject-" in f"/{name}"})


def until_done(jinshi: Jinshi) -> dict[str, Any]:
    deadline_s = time.monotonic() + DEADLINE_S
    while (shown := jinshi("erase", "--status", "--json").json_lines[-1])["state"] != "done":
        assert time.monotonic() < deadline_s, shown
        time.sleep(0.2)
    return dict(shown)


@pytest.mark.slow
def test_a_subject_is_declared_recorded_held_and_erased_while_the_ledger_is_served(jinshi: Jinshi) -> None:
    sites = jinshi.directory / "台账-sites"
    (jinshi.directory / "residents.csv").write_text(REGISTER)
    ask = ("erase", "r-1", "--source", SOURCE)
    with serving(jinshi, "--every", "0.2") as (_, url):
        jinshi("source", "declare", SOURCE, "--personal")
        jinshi("import", jinshi.directory / "residents.csv", "--source", SOURCE, "--key", "编号", "--edition", "2026")
        jinshi("erase", "--source", SOURCE, "--hold", "--reason", "case 4711")
        assert "legal hold" in jinshi(*ask, "--reason", "request", code=1).stderr
        jinshi("erase", "--source", SOURCE, "--lift", "--reason", "over")
        jinshi(*ask, "--reason", "request")
        assert "second person" in jinshi(*ask, "--approve", code=1).stderr
        another(jinshi)(*ask, "--approve")
        assert until_done(jinshi)["pending"] == []
        assert [keys_at(place) for place in (sites / "same-city", sites / "remote", ledger_of(jinshi))] == [1, 1, 1]
        answer = httpx.get(f"{url}/healthz")
        assert answer.status_code == 200
    assert "<erased>" in jinshi("history", "r-1", "--source", SOURCE).out
    assert "李小红" in jinshi("history", "r-2", "--source", SOURCE).out
    jinshi("verify")
    jinshi("audit")


def test_a_site_that_comes_back_is_settled_without_anybody_asking(jinshi: Jinshi) -> None:
    sites = jinshi.directory / "台账-sites"
    jinshi("source", "declare", SOURCE, "--personal")
    (jinshi.directory / "residents.csv").write_text(REGISTER)
    jinshi("import", jinshi.directory / "residents.csv", "--source", SOURCE, "--key", "编号", "--edition", "2026")
    jinshi("replicate", "--once")
    jinshi("erase", "r-1", "--source", SOURCE, "--reason", "request")
    another(jinshi)("erase", "r-1", "--source", SOURCE, "--approve")
    (sites / "remote").rename(sites / "away")
    with serving(jinshi, "--every", "0.2"):
        deadline_s = time.monotonic() + DEADLINE_S
        while jinshi("erase", "--status", "--json").json_lines[-1]["pending"] != ["remote"]:
            assert time.monotonic() < deadline_s
            time.sleep(0.2)
        (sites / "away").rename(sites / "remote")
        until_done(jinshi)
    assert keys_at(sites / "remote") == 1


@pytest.mark.parametrize("sites", [True, False], ids=["replicated by another process", "without sites"])
def test_an_erasure_is_settled_whoever_replicates(tmp_path: Path, sites: bool) -> None:
    jinshi = ledger_in(tmp_path, *([] if sites else ["--no-sites"]))
    (tmp_path / "residents.csv").write_text(REGISTER)
    with serving(jinshi, *(["--no-replicate"] if sites else [])):
        jinshi("source", "declare", SOURCE, "--personal")
        jinshi("import", tmp_path / "residents.csv", "--source", SOURCE, "--key", "编号", "--edition", "2026")
        jinshi("erase", "r-1", "--source", SOURCE, "--reason", "request")
        another(jinshi)("erase", "r-1", "--source", SOURCE, "--approve")
        if sites:
            jinshi("replicate", "--once")
        until_done(jinshi)
    assert keys_at(ledger_of(jinshi)) == 1
    jinshi("verify")


def test_events_are_appended_beside_the_server_as_they_would_be_alone(jinshi: Jinshi) -> None:
    jinshi("source", "declare", "urn:test", "--public")
    with serving(jinshi, "--no-replicate") as (_, url):
        mode = (ledger_of(jinshi) / SOCKET).stat().st_mode
        assert (stat.S_ISSOCK(mode), stat.S_IMODE(mode)) == (True, 0o600)
        places = jinshi("append", "--json", stdin=events(2_500)).json_lines
        assert [place["index"] for place in places] == list(range(places[0]["index"], places[0]["index"] + 2_500))
        again = jinshi("append", "--json", stdin=events(3)).json_lines
        assert [(one["index"], one["repeated"]) for one in again] == [(one["index"], True) for one in places[:3]]
        other = events(1).replace(b'"n":0', b'"n":9')
        assert "other content" in jinshi("append", stdin=other, code=1).stderr
        assert "line 1" in jinshi("append", stdin=b"{}", code=2).stderr
        # What the command answered is published, and the server goes on.
        jinshi("prove", places[-1]["index"], "-o", jinshi.directory / "r.tlog-proof")
        answer = httpx.post(f"{url}/events", content=structured("1"), headers={"content-type": STRUCTURED})
        assert answer.status_code == 201
    jinshi("verify")


def test_a_ledger_with_a_long_path_is_served_and_handed_to_as_well(tmp_path: Path) -> None:
    folder = tmp_path.joinpath(*["a-folder-with-a-long-name"] * 5)
    folder.mkdir(parents=True)
    jinshi = Jinshi(folder)
    jinshi("init", folder / "ledger", "--no-sites")
    jinshi = jinshi.at(folder / "ledger")
    assert len(os.fsencode(folder / "ledger" / SOCKET)) > 108
    with serving(jinshi):
        jinshi("append", stdin=events(3))
    assert len(jinshi("log", "--source", "urn:test", "--json").json_lines) == 3


def test_the_socket_of_a_killed_server_is_in_nobodys_way(jinshi: Jinshi) -> None:
    jinshi("source", "declare", "urn:test", "--public")
    with serving(jinshi, "--no-replicate") as (process, _):
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert (ledger_of(jinshi) / SOCKET).exists()
        jinshi("append", stdin=events(3))
        with hold_lock(ledger_of(jinshi) / "writer.lock"):
            assert "another process" in jinshi("append", stdin=events(4), code=4).stderr
    with serving(jinshi, "--no-replicate") as (process, _):
        jinshi("append", stdin=events(5))
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert not (ledger_of(jinshi) / SOCKET).exists()
    assert len(jinshi("log", "--source", "urn:test", "--json").json_lines) == 5
