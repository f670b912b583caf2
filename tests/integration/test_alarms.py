"""Alarms of a real server: recorded, posted to a webhook that fails at first, shown by status, cleared."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import httpx

from tests.support.cli import Jinshi, events
from tests.support.receiving import Receiver, receiving
from tests.support.roles import until
from tests.support.serving import serving


def started(tmp_path: Path) -> Jinshi:
    jinshi = Jinshi(tmp_path)
    jinshi("init", tmp_path / "ledger", "--clear")
    return jinshi.at(tmp_path / "ledger")


def kinds(receiver: Receiver, count: int) -> list[tuple[str, str, str]]:
    return [(one["type"], one["data"]["kind"], one["data"]["about"]) for one in receiver.until(count)]


def until_standing(jinshi: Jinshi, *alarms: tuple[str, str]) -> None:
    """Wait until these stand, as is recorded: a receiver is told before."""
    until(
        f"what stands is {alarms}",
        lambda: [(one["kind"], one["about"]) for one in jinshi("status", "--json").json["alarms"]] == list(alarms),
    )


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
            until_standing(jinshi, ("site-unreachable", "remote"))
            assert "alarm since" in jinshi("status").stderr
            with httpx.Client(base_url=url) as client:
                assert 'jinshi_alarms{about="remote",kind="site-unreachable"} 1.0' in client.get("/metrics").text
            process.kill()
        with serving(jinshi, *options):  # it goes on where the killed one was, and does not raise it again
            remote.unlink()
            away.rename(remote)
            assert kinds(receiver, 2)[1:] == [("alarm.cleared.v1", "site-unreachable", "remote")]
            until_standing(jinshi)
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
        until_standing(jinshi, ("site-damaged", "same-city"))


def find(tmp_path: Path, site: str, key: str) -> Path:
    return next((tmp_path / "ledger-sites" / site).glob(f"*/{key}"))


def test_garbage_over_both_notes_of_a_site_is_mended_while_it_is_served(tmp_path: Path) -> None:
    """The alarm is told, the bytes are kept, and nobody has to delete anything; the other site goes on anyway."""
    jinshi = started(tmp_path)
    jinshi("append", stdin=events(3))
    jinshi("replicate", "--once")
    checkpoint, pending = find(tmp_path, "remote", "checkpoint"), find(tmp_path, "remote", "pending")
    shown = checkpoint.read_bytes()
    with receiving() as receiver:
        with serving(jinshi, "--every", "0.2", "--alarm-webhook", receiver.url):
            for file in (checkpoint, pending):
                file.write_bytes(b"somebody was here")
            jinshi("append", stdin=events(2, first=3))
            assert kinds(receiver, 1) == [("alarm.raised.v1", "site-damaged", "remote")]
            deadline_s = time.monotonic() + 30
            while b"somebody was here" in (checkpoint.read_bytes(), pending.read_bytes()):
                assert time.monotonic() < deadline_s
        assert "other bytes were put over it" in receiver.taken[0]["data"]["what"]
    assert checkpoint.read_bytes().startswith(shown.partition(b"\n")[0])
    kept = [file.read_bytes() for file in (tmp_path / "ledger" / "evidence").rglob("*.object")]
    assert kept == [b"somebody was here"]
    assert [file.read_bytes() for file in tmp_path.rglob("*-state/*/garbage/*/*.object")] == kept
    jinshi("replicate", "--once")
    jinshi("verify", "--site", "remote")


def test_what_a_scrub_finds_is_an_alarm_until_all_is_whole(tmp_path: Path) -> None:
    jinshi = started(tmp_path)
    jinshi("append", stdin=events(300))
    jinshi("replicate", "--once")
    copies = [find(tmp_path, site, "tile/entries/000") for site in ("remote", "same-city")]
    copies.append(next((tmp_path / "ledger" / "published").glob("*/tile/entries/000")))
    genuine = copies[0].read_bytes()
    for copy in copies:
        copy.write_bytes(genuine[:-1])
    jinshi("scrub", "--site", "remote", code=3)  # by itself
    (alarm,) = jinshi("status", "--json").json["alarms"]
    assert (alarm["kind"], alarm["about"]) == ("site-damaged", "remote")
    assert "tile/entries/000" in alarm["what"]
    jinshi("scrub", "--site", "remote", code=3)
    assert len(recorded(jinshi)) == 1, "it stands already"
    with receiving() as receiver, serving(jinshi, "--every", "0.2", "--alarm-webhook", receiver.url):
        copies[1].write_bytes(genuine)
        jinshi("scrub", "--site", "remote")  # healed from the other site; recorded through the server
        assert kinds(receiver, 1) == [("alarm.cleared.v1", "site-damaged", "remote")]
        copies[0].write_bytes(genuine[:-1])
        jinshi("scrub", "--site", "remote")  # found and healed at once: it is told all the same
        told = [("alarm.raised.v1", "site-damaged", "remote"), ("alarm.cleared.v1", "site-damaged", "remote")]
        assert kinds(receiver, 3)[1:] == told
    assert jinshi("status", "--json").json["alarms"] == []


def test_what_the_servers_own_scrub_finds_is_an_alarm_at_once(tmp_path: Path) -> None:
    jinshi = started(tmp_path)
    jinshi("append", stdin=events(300))
    jinshi("replicate", "--once")
    file = find(tmp_path, "remote", "tile/entries/000")
    file.write_bytes(file.read_bytes()[:-1])
    with (
        receiving() as receiver,
        serving(jinshi, "--every", "0.2", "--scrub-every", "1s", "--alarm-webhook", receiver.url),
    ):
        assert kinds(receiver, 2) == [
            ("alarm.raised.v1", "site-damaged", "remote"),
            ("alarm.cleared.v1", "site-damaged", "remote"),
        ]
