"""`jinshi status`: what is behind, what the sources demand, and whether it can be had; also while a site is away."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.cli import Jinshi, events

STRICT = "urn:city:permits"


@pytest.fixture
def jinshi(tmp_path: Path) -> Jinshi:
    """The command, with a new ledger whose source STRICT demands every site."""
    command = Jinshi(tmp_path)
    command("init", tmp_path / "ledger", "--clear")
    command = command.at(tmp_path / "ledger")
    command("source", "declare", STRICT, "--ack", "all")
    return command


def test_lag_is_exact_while_a_site_is_cut_off(jinshi: Jinshi, tmp_path: Path) -> None:
    jinshi("append", stdin=events(2, source=STRICT))
    size = jinshi("status", "--json").json["tree_size"]
    remote = tmp_path / "ledger-sites" / "remote"
    remote.rename(tmp_path / "away")
    jinshi("append", "--ack-timeout", "0.5", stdin=events(3, source=STRICT, first=2), code=5)
    jinshi("append", stdin=events(1, source="urn:other", first=5))
    jinshi("replicate", "--once", "--site", "same-city")

    shown = jinshi("status", "--json").json
    near, far = shown["sites"]
    entries = [line["entry"] for line in jinshi("log", "--json", "--all").json_lines][size:]
    missing = sum(len(json.dumps(one, separators=(",", ":"), sort_keys=True)) for one in entries)
    assert (near["size"], near["lag_entries"], near["lag_bytes"], near["lag_s"]) == (size + 4, 0, 0, 0)
    assert (far["reachable"], far["size"], far["lag_entries"], far["role"]) == (False, size, 4, "remote")
    assert far["lag_bytes"] == missing
    assert far["lag_s"] > 0
    assert shown["sources"] == [{"source": STRICT, "ack": "all", "possible": False, "waiting": 3}]
    text = jinshi("status").out
    assert [line.split()[-3:] for line in text.splitlines() if line.startswith(STRICT)] == [["NO", "3", "entries"]]

    (tmp_path / "away").rename(remote)
    jinshi("replicate", "--once")
    shown = jinshi("status", "--json").json
    assert shown["sources"] == [{"source": STRICT, "ack": "all", "possible": True, "waiting": 0}]
    assert [site["lag_s"] for site in shown["sites"]] == [0, 0]


def test_watching_shows_it_again_and_again(jinshi: Jinshi) -> None:
    process = jinshi.start("status", "--watch", "--json")
    assert process.stdout is not None
    try:
        first = json.loads(process.stdout.readline())
        jinshi("append", stdin=events(1))
        while (later := json.loads(process.stdout.readline()))["tree_size"] == first["tree_size"]:
            pass
        assert later["tree_size"] == first["tree_size"] + 1
    finally:
        process.kill()
        process.communicate()


def test_a_role_is_a_setting_and_a_wrong_one_is_said(jinshi: Jinshi, tmp_path: Path) -> None:
    jinshi("site", "add", "archive", tmp_path / "archive", "--role", "same-city")
    assert {one["name"]: one["role"] for one in jinshi("site", "list", "--json").json_lines} == {
        "same-city": "same-city",
        "remote": "remote",
        "archive": "same-city",
    }
    assert "no role" in jinshi("site", "add", "x", tmp_path / "x", "--role", "near", code=2).stderr
    config = tmp_path / "ledger" / "jinshi.json"
    config.write_text(config.read_text().replace('"role": "same-city"', '"role": "near"'))
    assert "its role is 'near'" in jinshi("status", code=2).stderr
