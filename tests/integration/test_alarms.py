"""Alarms of a real server: recorded, posted to a webhook that fails at first, shown by status, cleared."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import httpx

from tests.support.cli import Jinshi, events
from tests.support.receiving import Receiver, receiving
from tests.support.serving import serving


def started(tmp_path: Path) -> Jinshi:
    jinshi = Jinshi(tmp_path)
    jinshi("init", tmp_path / "ledger", "--clear")
    return jinshi.at(tmp_path / "ledger")


def kinds(receiver: Receiver, count: int) -> list[tuple[str, str, str]]:
    return [(one["type"], one["data"]["kind"], one["data"]["about"]) for one in receiver.until(count)]


def recorded(jinshi: Jinshi) -> list[Any]:
    lines = jinshi("log", "--json", "--all").json_lines
    return [line["entry"] for line in lines if line["entry"]["type"].startswith("alarm.")]


def test_a_site_that_is_away_raises_an_alarm_once_and_clears_it_when_it_is_back(tmp_path: Path) -> None:
    jinshi = started(tmp_path)
    remote, away = tmp_path / "ledger-sites" / "remote", tmp_path / "away"
    with receiving([500, 500]) as receiver:
        options = ("--every", "0.2", "--alarm-unreachable", "0.5", "--alarm-webhook", receiver.url)
        with serving(jinshi, *options) as (process, url):
            remote.rename(away)
            remote.write_text("no directory")
            assert kinds(receiver, 1) == [("alarm.raised.v1", "site-unreachable", "remote")]
            shown = jinshi("status", "--json").json
            assert [(one["kind"], one["about"]) for one in shown["alarms"]] == [("site-unreachable", "remote")]
            assert "alarm since" in jinshi("status").stderr
            with httpx.Client(base_url=url) as client:
                assert 'jinshi_alarms{about="remote",kind="site-unreachable"} 1.0' in client.get("/metrics").text
            process.kill()
        with serving(jinshi, *options):  # it goes on where the killed one was, and does not raise it again
            remote.unlink()
            away.rename(remote)
            assert kinds(receiver, 2)[1:] == [("alarm.cleared.v1", "site-unreachable", "remote")]
            deadline_s = time.monotonic() + 30
            while jinshi("status", "--json").json["alarms"]:
                assert time.monotonic() < deadline_s
        assert len(receiver.taken) == 2
    assert [entry["type"] for entry in recorded(jinshi)] == ["alarm.raised.v1", "alarm.cleared.v1"]
    assert [entry["id"] for entry in recorded(jinshi)] == [one["id"] for one in receiver.taken]


def test_damage_at_a_site_raises_an_alarm(tmp_path: Path) -> None:
    jinshi = started(tmp_path)
    jinshi("append", stdin=events(3))
    jinshi("replicate", "--once")
    checkpoint = next((tmp_path / "ledger-sites" / "same-city").glob("*/checkpoint"))
    data = bytearray(checkpoint.read_bytes())
    data[len(data) // 2] ^= 1
    checkpoint.write_bytes(data)
    with receiving() as receiver, serving(jinshi, "--every", "0.2", "--alarm-webhook", receiver.url):
        assert kinds(receiver, 1) == [("alarm.raised.v1", "site-damaged", "same-city")]
        assert [one["kind"] for one in jinshi("status", "--json").json["alarms"]] == ["site-damaged"]
