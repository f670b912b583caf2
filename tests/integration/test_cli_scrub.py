"""`jinshi scrub` on real directories: damage is found, healed, kept, recorded; and `jinshi replicate --whole`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from ledger.files import hold_lock
from tests.support.cli import Jinshi, contents, events, ledger_in
from tests.support.serving import serving

SITES = ("same-city", "remote")


@pytest.fixture
def jinshi(tmp_path: Path) -> Jinshi:
    jinshi = ledger_in(tmp_path)
    jinshi("append", stdin=events(700))
    jinshi("replicate", "--once")
    return jinshi


def find(jinshi: Jinshi, site: str, key: str) -> Path:
    (file,) = (jinshi.directory / "台账-sites" / site).glob(f"*/{key}")
    return file


def keyring(jinshi: Jinshi, site: str, name: str) -> Path:
    """The first keyring object whose name begins so, and is no operating wrap."""
    return sorted(one for one in find(jinshi, site, "keyring").glob(f"{name}*") if "." not in one.name)[0]


def files(jinshi: Jinshi) -> dict[str, bytes]:
    return contents(jinshi.directory / "台账-sites")


def test_what_rots_is_healed_kept_and_recorded(jinshi: Jinshi) -> None:
    pristine = files(jinshi)
    bundle, tile = find(jinshi, "remote", "tile/entries/001"), find(jinshi, "same-city", "tile/0/000")
    bundle.write_bytes(rotten := bundle.read_bytes().replace(b"thing", b"thong", 1))
    tile.unlink()
    keyring(jinshi, "remote", "log-").write_bytes(b"")
    keyring(jinshi, "same-city", "asset-").unlink()
    seen = jinshi("scrub", "--no-heal", code=3)
    assert "NOT HEALED  damaged: tile/entries/001" in seen.out
    assert "NOT HEALED  missing: tile/0/000" in seen.out
    assert "site same-city: 2 objects not as signed for" in seen.stderr
    assert "site remote: 2 objects not as signed for" in seen.stderr
    assert bundle.read_bytes() == rotten
    reports = [json.loads(line) for line in jinshi("scrub", "--json").out.splitlines()]
    assert [(one["site"], one["found"], one["healed"], one["whole"]) for one in reports] == [
        (name, 2, 2, True) for name in SITES
    ]
    assert files(jinshi) == pristine
    assert jinshi.ledger
    kept = contents(jinshi.ledger / "evidence")
    (name,) = [name for name, data in kept.items() if data == rotten]
    about = json.loads(kept[name.removesuffix(".object") + ".json"])
    assert (about["site"], about["key"], about["size"]) == ("remote", "tile/entries/001", len(rotten))
    recorded = jinshi("log", "--type", "site.scrubbed.v1", "--json").json_lines
    assert [one["index"] for one in recorded][-2:] == [one["index"] for one in reports]
    data = recorded[-1]["entry"]["data"]
    assert (data["whole"], data["healing"], data["found"]) == (True, True, 2)
    assert {one["key"].partition("/")[0] for one in data["findings"]} == {"tile", "keyring"}
    jinshi("replicate", "--once")
    for name in SITES:
        jinshi("verify", "--site", name)
    assert "state     whole" in jinshi("scrub", "--site", "remote", "--rate", "1GB").out


def test_what_nobody_can_heal_is_said_and_the_exit_code_tells(jinshi: Jinshi) -> None:
    assert jinshi.ledger
    (published,) = (jinshi.ledger / "published").glob("*/tile/entries/001")
    for file in (published, *(find(jinshi, name, "tile/entries/001") for name in SITES)):
        file.write_bytes(file.read_bytes()[:-1])
    find(jinshi, "remote", "pending").write_bytes(b"pending")
    ran = jinshi("scrub", code=3)
    assert "no copy at hand has tile/entries/001" in ran.out
    assert "run jinshi replicate --once" in ran.out
    jinshi("log", "--type", "site.scrubbed.v1")


def test_a_site_that_is_down_keeps_no_other_from_being_scrubbed(jinshi: Jinshi) -> None:
    sites = jinshi.directory / "台账-sites"
    (sites / "same-city").rename(sites / "away")
    find(jinshi, "remote", "tile/0/000").unlink()
    ran = jinshi("scrub", code=4)
    assert "site same-city" in ran.stderr
    assert "healed  missing: tile/0/000" in ran.out


def test_a_scrub_is_recorded_through_the_server_that_holds_the_lock(jinshi: Jinshi) -> None:
    find(jinshi, "remote", "tile/0/000").write_bytes(b"rotten")
    with serving(jinshi, "--every", "0.2"):
        (report,) = jinshi("scrub", "--site", "remote", "--json").json_lines
        assert (report["found"], report["healed"]) == (1, 1)
        drilled = jinshi("drill", "run", "--from", "remote", "--json").json
        audited = jinshi("audit", "--site", "remote", "--record", "--json").json
        places = [report["index"], drilled["index"], audited["index"]]
        assert places == sorted(places)
    types = [jinshi("log", "--index", str(place), "--json").json["entry"]["type"] for place in places]
    assert types == ["site.scrubbed.v1", "drill.completed.v1", "ledger.audited.v1"]
    jinshi("verify")


def test_a_server_reads_every_site_again_and_again_and_heals_it(jinshi: Jinshi) -> None:
    file = find(jinshi, "remote", "tile/0/000")
    genuine = file.read_bytes()
    file.write_bytes(genuine[:-1])
    with serving(jinshi, "--every", "0.2", "--scrub-every", "1s") as (_, url):
        deadline_s = time.monotonic() + 60
        while 'jinshi_scrub_healed_total{site="remote"} 1.0' not in (shown := httpx.get(f"{url}/metrics").text):
            assert time.monotonic() < deadline_s, shown
            time.sleep(0.1)
        assert file.read_bytes() == genuine
        while "site.scrubbed.v1" not in jinshi("log", "--subject", "remote", "--json").out:
            assert time.monotonic() < deadline_s
            time.sleep(0.1)
        while 'jinshi_scrub_age_seconds{site="remote"} NaN' in (shown := httpx.get(f"{url}/metrics").text):
            assert time.monotonic() < deadline_s
            time.sleep(0.1)
        counts = dict(line.rsplit(" ", 1) for line in shown.splitlines() if line.startswith("jinshi_scrub_"))
        assert float(counts['jinshi_scrub_objects_total{site="same-city"}']) > 5
        assert float(counts['jinshi_scrub_damaged_total{site="remote"}']) == 1
    jinshi("replicate", "--once")  # the server was killed: what its mirror cosigned last may not be shown yet
    jinshi("verify", "--site", "remote")
    assert "no length of time" in jinshi("serve", "--scrub-every", "often", code=2).stderr


def test_one_site_is_scrubbed_by_one_process_at_a_time(jinshi: Jinshi) -> None:
    assert jinshi.ledger
    jinshi("scrub", "--site", "remote")
    with hold_lock(jinshi.ledger / "scrub" / "remote.lock"):
        assert "being scrubbed by another process" in jinshi("scrub", "--site", "remote", code=4).stderr
        jinshi("scrub", "--site", "same-city")


def test_a_result_that_could_not_be_recorded_is_recorded_by_the_next_run(jinshi: Jinshi, monkeypatch: Any) -> None:
    assert jinshi.ledger
    monkeypatch.setattr("cli.recording.LOCK_WAIT_S", 0.0)
    find(jinshi, "remote", "tile/0/000").unlink()
    with hold_lock(jinshi.ledger / "writer.lock"):
        jinshi("scrub", "--site", "remote", code=4)
    (report,) = jinshi("scrub", "--site", "remote", "--json").json_lines
    assert (report["found"], report["whole"]) == (0, True)
    recorded = [one["entry"]["data"] for one in jinshi("log", "--type", "site.scrubbed.v1", "--json").json_lines]
    assert [(one["found"], one["healed"]) for one in recorded] == [(1, 1), (0, 0)]


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--site", "remte"], "did you mean 'remote'?"),
        (["--rate", "fast"], "no rate"),
        (["--over", "7 weeks"], "no length of time"),
        (["--policy", "nothing"], "the trust policy"),
    ],
)
def test_wrong_usage_is_code_2(arguments: list[str], what: str, jinshi: Jinshi) -> None:
    assert what in jinshi("scrub", *arguments, code=2).stderr


def test_replicating_the_whole_brings_back_what_a_site_lost(jinshi: Jinshi) -> None:
    pristine = files(jinshi)
    for key in ("tile/entries/000", "tile/0/001"):
        find(jinshi, "remote", key).unlink()
    jinshi("replicate", "--once")
    jinshi("verify", "--site", "remote", code=3)
    assert "--once" in jinshi("replicate", "--whole", code=2).stderr
    jinshi("replicate", "--once", "--whole")
    assert files(jinshi) == pristine
    jinshi("verify", "--site", "remote")
