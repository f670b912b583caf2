"""`jinshi site throttle`: set, shown, obeyed by replicate, serve and appends, and taken over while they run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.cli import Jinshi, events
from tests.support.serving import serving

STRICT = "urn:city:permits"


@pytest.fixture
def jinshi(tmp_path: Path) -> Jinshi:
    """The command, with a new ledger and its two sites."""
    command = Jinshi(tmp_path)
    command("init", tmp_path / "ledger", "--clear")
    return command.at(tmp_path / "ledger")


def test_a_schedule_is_set_shown_and_taken_away(jinshi: Jinshi) -> None:
    said = jinshi("site", "throttle", "remote", "08:00-18:00 10Mbit, else 100Mbit", "--zone", "Asia/Shanghai").out
    assert "remote: 08:00-18:00 10Mbit, else 100Mbit, on the clocks of Asia/Shanghai" in said
    assert "now: throttled to 1" in said
    assert "until" in said
    far = jinshi("status", "--json").json["sites"][1]["throttle"]
    assert far["bytes_per_s"] in (1_250_000, 12_500_000)
    assert far["until"].endswith(":00:00.000000Z")
    assert "site remote: throttled to 1" in jinshi("status").out
    jinshi("append", stdin=events(3))
    jinshi("replicate", "--once")
    assert jinshi("site", "throttle", "remote", "--none").out == "site remote: not throttled at any time\n"
    assert jinshi("status", "--json").json["sites"][1]["throttle"] is None


def test_the_machines_own_zone_is_written_down(jinshi: Jinshi) -> None:
    jinshi.with_environment(TZ="Europe/Berlin")("site", "throttle", "remote", "1MB")
    assert "on the clocks of Europe/Berlin" in jinshi("site", "throttle", "remote").out


def test_off_keeps_one_site_from_being_sent_anything_and_says_so(jinshi: Jinshi) -> None:
    jinshi("source", "declare", STRICT, "--ack", "all")
    jinshi("replicate", "--once")
    jinshi("site", "throttle", "remote", "off")
    failed = jinshi("append", "--ack-timeout", "0.5", stdin=events(2, source=STRICT), code=5).stderr
    assert "remote: nothing is sent there at any time, by its schedule" in failed
    assert "nothing is sent there" in jinshi("replicate", "--once", code=4).stderr
    shown = jinshi("status", "--json").json
    near, far = shown["sites"]
    assert near["lag_entries"] == 0
    assert far["reachable"], "it is asked how far it is all the same"
    assert far["lag_entries"] == 2
    assert shown["sources"][0]["possible"] is False
    assert "site remote: nothing is sent" in jinshi("status").out
    jinshi("site", "throttle", "remote", "--none")
    jinshi("append", stdin=events(2, source=STRICT))


def test_a_server_takes_over_a_schedule_while_it_runs(jinshi: Jinshi) -> None:
    jinshi("source", "declare", STRICT, "--ack", "all")
    jinshi("site", "throttle", "remote", "off")
    with serving(jinshi, "--every", "0.2"):
        refused = jinshi("append", "--ack-timeout", "0.5", stdin=events(1, source=STRICT), code=5).stderr
        assert "remote: nothing is sent there" in refused
        jinshi("site", "throttle", "remote", "100MB")
        jinshi("append", "--ack-timeout", "30", stdin=events(1, source=STRICT))


def test_a_server_that_ships_seldom_ships_at_once_when_somebody_waits(jinshi: Jinshi, tmp_path: Path) -> None:
    jinshi("source", "declare", STRICT, "--ack", "all")
    with serving(jinshi, "--ship-every", "3600"):
        jinshi("append", stdin=events(1, source=STRICT))
        for number in range(1, 7):  # each is published, and nobody waits for the sites
            jinshi("append", stdin=events(1, source="urn:other", first=number))
        jinshi("append", stdin=events(1, source=STRICT, first=7))
        size = jinshi("status", "--json").json["tree_size"]
        assert [site["size"] for site in jinshi("site", "status", "--json").json_lines] == [size, size]
    shipped = {file.name for file in (tmp_path / "ledger-sites" / "remote").glob("*/tile/entries/000.p/*")}
    assert str(size) in shipped
    assert len(shipped) <= 4, "as the server began, and for the two that waited; once more where it began late"


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["nowhere", "10Mbit"], "no site 'nowhere'"),
        (["remote", "10Mb"], "no rate"),
        (["remote", "8-18 10Mbit, else free"], "no window"),
        (["remote", "10Mbit", "--zone", "Asia/Nowhere"], "not known here"),
        (["remote", "10Mbit", "--zone", "../etc"], "not known here"),
        (["remote", "10Mbit", "--none"], "contradict"),
        (["remote", "--zone", "UTC"], "give the schedule"),
    ],
)
def test_what_is_no_schedule_is_refused_and_nothing_changed(jinshi: Jinshi, arguments: list[str], what: str) -> None:
    assert jinshi.ledger is not None
    before = (jinshi.ledger / "jinshi.json").read_bytes()
    assert what in jinshi("site", "throttle", *arguments, code=2).stderr
    assert (jinshi.ledger / "jinshi.json").read_bytes() == before


def test_a_schedule_that_was_damaged_in_the_settings_is_named_with_its_site(jinshi: Jinshi) -> None:
    assert jinshi.ledger is not None
    file = jinshi.ledger / "jinshi.json"
    settings = json.loads(file.read_text())
    settings["sites"][1]["throttle"] = "08:00-18:00"
    file.write_text(json.dumps(settings))
    jinshi("append", stdin=events(1))
    failed = jinshi("replicate", "--once", code=2).stderr
    assert "site 'remote': its throttle" in failed
    assert jinshi("verify", "--site", "same-city").out, "the other site has gone on"
