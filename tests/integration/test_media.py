"""`jinshi media`: increments carried to a site that no line leads to, and receipts carried back, by real commands."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest

from ledger.core.checkpoint import origin_prefix
from replication.media.medium import HEAD, SUMS
from tests.support.cli import Jinshi, contents, events, ledger_in
from tests.support.disks import small_disk
from tests.support.media import SITE, Carried, carried, flipped
from tests.support.roles import until
from tests.support.serving import serving


@pytest.fixture
def way(tmp_path: Path) -> Carried:
    return carried(ledger_in(tmp_path))


@pytest.mark.slow
def test_three_increments_are_cosigned_there_and_count_here_once_their_receipts_are_back(way: Carried) -> None:
    size = 0
    for number in range(3):
        way.append(300, first=300 * number)
        assert f"{SITE}" in way.export().out
        before = size
        size = way.primary("status", "--json").json["published_size"]
        assert "verified and cosigned" in way.take_in().out
        assert way.cosigned() == size
        assert way.known()["size"] == before, "it counts by its receipts, and by nothing else"
        assert f"{size:,} entries verified and cosigned" in way.bring_back().out
        known = way.known()
        assert (known["size"], known["offline"], known["problem"]) == (size, True, None)
        assert known["lag_entries"] == 1, "the receipt itself is an entry now"
    taken = way.primary("log", "--all", "--json", "--type", "receipt.taken.v1").json_lines
    assert [json.dumps(one).count(SITE) > 0 for one in taken] == [True] * 3
    before_all = contents(way.vault)
    again = way.take_in(medium=way.media()[2]).out
    assert "were here already" in again
    assert contents(way.vault) == before_all, "taking the same in again changes nothing"
    assert "recorded as entry" in way.bring_back().out


def test_a_copy_there_restores_when_the_primary_is_lost(way: Carried, tmp_path: Path) -> None:
    way.append(40, first=0)
    way.export()
    way.take_in()
    assert way.primary.ledger
    policy = tmp_path / "kept.policy"
    shutil.copy(way.primary.ledger / "trust.policy", policy)
    size = way.cosigned()
    for path in (way.primary.ledger, tmp_path / "台账-keys", tmp_path / "台账-sites"):
        shutil.rmtree(path)
    restored = way.there.at(way.home / "restored")
    restored("restore", "ledger", "--from", way.vault, "--policy", policy, "--to", restored.ledger)
    assert restored("status", "--json").json["tree_size"] == size + 1
    assert f"{size + 1} of them signed" in restored("verify").out


def test_a_whole_medium_and_a_key_that_the_policy_lists_make_the_site_anew(way: Carried, tmp_path: Path) -> None:
    """A medium is no mirror's word: only a site whose mirror the policy lists makes a copy of it that restores."""
    way.append(40, first=0)
    way.export("--from", 0)
    way.take_in()
    medium = way.media()[0] / "part-1"
    assert way.primary.ledger
    policy = way.primary.ledger / "trust.policy"
    refused = way.there("restore", "ledger", "--from", medium, "--policy", policy, "--to", tmp_path / "r", code=3)
    assert "site.json is missing" in refused.stderr
    shutil.rmtree(way.vault)
    shutil.rmtree(way.home / f"{SITE}.mirror-state")
    way.there("media", "init", SITE, *way.import_command, "--receipt", tmp_path / "again.receipt")
    way.take_in()
    way.there("restore", "ledger", "--from", way.vault, "--policy", policy, "--to", tmp_path / "r")


@pytest.mark.slow
def test_one_damaged_byte_anywhere_is_refused_naming_the_object_and_nothing_is_written(way: Carried) -> None:
    way.append(20, first=0)
    way.export()
    (medium,) = way.media()
    there = contents(way.vault)
    files = [path for path in (medium / "part-1").rglob("*") if path.is_file()]
    names = {path.relative_to(medium / "part-1").parts[0 if path.parent.name == "part-1" else 1] for path in files}
    assert names >= {HEAD, SUMS, "tile", "keyring"}
    for file in files:
        key = str(file.relative_to(medium / "part-1"))
        for position in (0, file.stat().st_size // 2, file.stat().st_size - 1):
            with flipped(file, position):
                refused = way.take_in(code=3).stderr
                assert key.removeprefix(origin_prefix(way.origin)) in refused, (key, position)
        with flipped(file, file.stat().st_size // 3):
            way.there("media", "check", way.usb, "--trust", way.trust, code=3)
        kept = file.read_bytes()
        file.unlink()
        assert key.removeprefix(origin_prefix(way.origin)) in way.take_in(code=(2, 3)).stderr or key == HEAD
        file.write_bytes(kept[:-1])
        way.take_in(code=3)
        file.write_bytes(kept)
    assert contents(way.vault) == there
    way.take_in()


def test_an_increment_that_is_missing_is_named(way: Carried) -> None:
    way.append(20, first=0)
    way.export()
    first = way.primary("status", "--json").json["published_size"]
    way.append(20, first=20)
    assert "takes this in after" in way.export("--from", first).stderr
    refused = way.take_in(code=2, medium=way.media()[1]).stderr
    assert f"entries 0 to {first} is missing" in refused
    assert "--from 0" in refused
    assert way.cosigned() == 0
    way.take_in()  # both are there: in their order
    assert way.cosigned() == first + 20


def test_what_is_older_than_what_the_site_has_is_refused(way: Carried) -> None:
    for number in range(2):
        way.append(5, first=5 * number)
        way.export()
        way.take_in()
        way.bring_back()
    assert "there is nothing to do with it" in way.take_in(code=3, medium=way.media()[0]).stderr
    assert "passed over: 1 medium" in way.take_in().out, "beside a newer one it is no error"


def test_media_of_another_ledger_or_site_and_what_is_none_are_refused(way: Carried, tmp_path: Path) -> None:
    way.append(5, first=0)
    way.export()
    (tmp_path / "other").mkdir()
    other = carried(ledger_in(tmp_path / "other"))
    other.append(5, first=0)
    other.export()
    assert f"holds a medium of {other.origin}" in way.take_in(code=3, medium=other.usb).stderr
    assert (
        "for the site"
        in other.there(
            *("media", "import", way.usb, "--site", other.vault, "--key", other.key, "--trust", way.trust), code=2
        ).stderr
    )
    (tmp_path / "empty").mkdir()
    assert "holds no medium" in way.take_in(code=2, medium=tmp_path / "empty").stderr
    assert "is no directory" in way.take_in(code=2, medium=tmp_path / "nothing").stderr
    assert way.cosigned() == 0
    other.take_in()
    assert "is a receipt for" in way.primary("media", "receipt", other.receipt, code=2).stderr
    for text in (b"", b"{}", b"[" * 100_000, way.trust.read_bytes()):
        (tmp_path / "file").write_bytes(text)
        assert "is no receipt" in way.primary("media", "receipt", tmp_path / "file", code=2).stderr


def test_a_medium_of_a_fork_is_refused_for_good_and_both_checkpoints_are_kept(way: Carried, tmp_path: Path) -> None:
    """The primary's directory is copied, and both go on with the same key."""
    assert way.primary.ledger
    way.append(5, first=0)
    way.export()
    way.take_in()
    way.bring_back()
    twin = Carried(way.primary.at(tmp_path / "twin"), way.there, tmp_path / "usb-twin")
    twin.usb.mkdir()
    shutil.copytree(way.primary.ledger, tmp_path / "twin")
    way.append(5, first=5)
    twin.append(5, first=1_000)
    way.export()
    twin.export()
    way.take_in()
    size, there = way.cosigned(), contents(way.vault)
    twin.append(5, first=2_000)
    shutil.rmtree(twin.media()[0])
    twin.export()
    assert "signed two histories" in way.take_in(code=3, medium=twin.usb).stderr
    forks = [name for name in contents(way.home) if "/forks/" in name]
    assert len(forks) == 2
    way.append(5, first=10)
    way.export("--from", size)
    assert "signed two histories" in way.take_in(code=3).stderr, "the genuine one, too, from now on"
    assert contents(way.vault) == there


def test_a_receipt_of_another_history_is_refused_and_kept(way: Carried, tmp_path: Path) -> None:
    assert way.primary.ledger
    shutil.copytree(way.primary.ledger, tmp_path / "twin")
    twin = Carried(way.primary.at(tmp_path / "twin"), way.there, way.usb)
    way.append(5, first=0)
    way.export()
    way.take_in()
    assert "published only" in twin.bring_back(code=3).stderr
    twin.append(8, first=1_000)
    assert "another history" in twin.bring_back(code=3).stderr
    assert list((tmp_path / "twin" / "evidence").glob("fork-*.checkpoint"))
    receipt = json.loads(way.receipt.read_text())
    edited = {**receipt, "checkpoint": receipt["checkpoint"].replace("\n", "\n1", 1)}
    way.receipt.write_text(json.dumps(edited, ensure_ascii=False, separators=(",", ":"), sort_keys=True) + "\n")
    way.bring_back(code=3)
    assert way.known()["size"] == 0


@pytest.mark.slow
def test_parts_are_taken_in_order_and_the_last_is_cosigned(way: Carried, tmp_path: Path) -> None:
    way.append(2_000, first=0)
    assert "must hold all of them" in way.export("--max-bytes", "60KB", code=2).stderr
    assert not list(way.usb.iterdir())
    way.export("--max-bytes", "250KB")
    (set_,) = way.media()
    parts = sorted(set_.iterdir())
    assert len(parts) >= 3
    for part in parts:
        assert sum(len(data) for data in contents(part).values()) <= 250_000
    assert "import the parts in their order" in way.take_in(code=2, medium=parts[1]).stderr
    for part in parts[:-1]:
        assert "cosigned with the last part" in way.take_in(medium=part).out
        assert way.cosigned() == 0
        if part is parts[0]:
            assert f"part {len(parts) - 1}, which ends" in way.take_in(code=2, medium=parts[-1]).stderr
    way.take_in(medium=parts[0])  # again is fine
    with flipped(next(path for path in parts[-1].rglob("*") if path.is_file() and "/entries/" in str(path)), 100):
        way.take_in(code=3, medium=parts[-1])
    assert "verified and cosigned" in way.take_in(medium=parts[-1]).out
    assert way.cosigned() == way.primary("status", "--json").json["published_size"]
    assert way.primary.ledger
    way.there("audit", "--from", way.vault, "--policy", way.primary.ledger / "trust.policy")
    way.there("media", "check", set_, "--trust", way.trust)


def test_a_medium_checks_without_jinshi(way: Carried) -> None:
    way.append(20, first=0)
    way.export()
    (medium,) = way.media()
    checked = subprocess.run(["sha256sum", "-c", SUMS], cwd=medium / "part-1", capture_output=True, check=True)
    assert checked.stdout.count(b": OK") == len(contents(medium)) - 2


def test_a_full_medium_leaves_nothing_and_says_what_to_do(way: Carried, tmp_path: Path) -> None:
    way.append(2_000, first=0)
    with small_disk(tmp_path / "disk", 256 * 1024) as disk:
        refused = way.export(code=4, to=disk.root).stderr
        assert "is too small" in refused
        assert "larger medium" in refused
        assert not list(disk.root.iterdir())
    way.export()


def test_a_read_only_medium_is_imported_with_a_receipt_elsewhere(way: Carried, tmp_path: Path) -> None:
    way.append(5, first=0)
    way.export()
    with small_disk(tmp_path / "disc") as disk:
        shutil.copytree(way.media()[0], disk.root / "copied")
        subprocess.run(["mount", "-o", "remount,ro", disk.root], check=True)
        assert "--receipt" in way.take_in(code=4, medium=disk.root).stderr
        assert way.cosigned() == 0
        assert "read-only" in way.export(code=4, to=disk.root).stderr
        way.take_in("--receipt", way.usb / "a.receipt", medium=disk.root)
    way.bring_back()
    assert way.known()["size"] == way.cosigned() > 0


def test_what_needs_a_line_says_that_there_is_none(way: Carried, tmp_path: Path) -> None:
    assert "no line leads there" in way.primary("replicate", "--once").out
    assert SITE not in way.primary("scrub").out
    for command in (
        ("verify", "--site", SITE),
        ("scrub", "--site", SITE),
        ("restore", "ledger", "--from", SITE, "--policy", way.trust, "--to", tmp_path / "new"),
        ("drill", "run", "--from", SITE),
        ("audit", "--site", SITE),
    ):
        assert "no line leads to site" in way.primary(*command, code=(2, 4)).stderr
    way.primary("verify")
    assert "is from the site" in way.primary("site", "add", "other", _asked(way, tmp_path), "--offline", code=2).stderr


def _asked(way: Carried, tmp_path: Path) -> Path:
    file = tmp_path / "asked.receipt"
    way.there("media", "init", SITE, *way.import_command, "--receipt", file)
    return file


def test_an_append_that_wants_every_site_waits_for_the_receipt(way: Carried) -> None:
    way.primary("source", "declare", "urn:test", "--public", "--ack", "all")
    failed = way.primary("append", "--ack-timeout", "1", stdin=events(1), code=5)
    assert f"site {SITE}: 0 entries" in failed.stderr
    (source,) = [one for one in way.primary("status", "--json").json["sources"] if one["source"] == "urn:test"]
    assert (source["possible"], source["waiting"]) == (False, 1)
    way.export()
    way.take_in()
    way.bring_back()
    assert way.primary("append", "--json", "--ack-timeout", "1", stdin=events(1)).json_lines[0]["repeated"]


def test_a_server_counts_a_receipt_that_is_taken_in_beside_it(way: Carried) -> None:
    with serving(way.primary, "--every", "0.2") as (_, url):
        way.append(5, first=0)
        way.export()
        way.take_in()
        assert "recorded as entry" in way.bring_back().out
        until("it is known", lambda: way.known()["size"] == way.cosigned())
        until("the server knows", lambda: f'jinshi_site_size{{site="{SITE}"}} {float(way.cosigned())}' in metrics(url))


def test_a_classified_ledger_goes_to_a_site_on_no_network_and_to_no_other(tmp_path: Path) -> None:
    primary = ledger_in(tmp_path, "--classification", "jimi", "--no-sites")
    assert primary.ledger
    for number, described in enumerate([(), ("--network", "isolated"), ("--network", "internet")]):
        receipt, site = tmp_path / "r", tmp_path / f"site-{number}"
        trust = ("--site", site, "--key", tmp_path / f"k{number}", "--trust", primary.ledger / "trust.policy")
        code = 2 if "internet" in described else 0  # not even for what every site may hold by default
        primary.at(None)("media", "init", SITE, *trust, "--receipt", receipt, *described, code=code)
        if not code:
            assert "may not hold" in primary("site", "add", SITE, receipt, "--offline", code=2).stderr
    way = carried(primary, "--classification", "jimi", "--network", "isolated")
    way.append(5, first=0)
    way.export()
    way.take_in()
    way.bring_back()
    assert way.known()["size"] == way.cosigned() > 0


def metrics(url: str) -> str:
    return httpx.get(f"{url}/metrics").text


# -- erasures ---------------------------------------------------------------------------------------------------------

PEOPLE = "urn:city:residents"


def subject_keys(root: Path) -> set[str]:
    return {Path(name).name for name in contents(root) if "/keyring/subject-" in f"/{name}"}


def erase(jinshi: Jinshi, subject: str) -> None:
    jinshi("erase", subject, "--source", PEOPLE, "--reason", "request 2026-17")
    second = jinshi.with_environment(LOGNAME="second", USER="second")
    second("erase", subject, "--source", PEOPLE, "--approve")


def test_an_erasure_is_carried_out_there_and_pending_until_its_receipt_is_back(way: Carried) -> None:
    jinshi = way.primary
    jinshi("source", "declare", PEOPLE, "--personal")
    (jinshi.directory / "p.csv").write_text("编号,姓名\nr-1,王小明\nr-2,李小红\nr-3,赵大山\n")
    jinshi("import", jinshi.directory / "p.csv", "--source", PEOPLE, "--key", "编号", "--edition", "2026")
    way.export()
    assert len(subject_keys(way.usb)) == 3
    assert not any(".file-" in name for name in contents(way.usb)), "nothing under the operating key leaves"
    way.take_in()
    way.bring_back()
    erase(jinshi, "r-1")
    jinshi("replicate", "--once")
    (status,) = jinshi("erase", "--status", "--json").json_lines
    assert (status["state"], status["pending"]) == ("pending", [SITE])
    assert len(subject_keys(way.vault)) == 3
    for medium in way.media():
        shutil.rmtree(medium)
    way.export("--from", 0)
    assert len(subject_keys(way.usb)) == 2, "the key of who was erased is never exported again"
    way.take_in()
    assert subject_keys(way.vault) == subject_keys(way.usb)
    jinshi("replicate", "--once")
    assert jinshi("erase", "--status", "--json").json_lines[0]["state"] == "pending"
    assert "the keys are gone there" in way.bring_back().out
    assert jinshi("erase", "--status", "--json").json_lines[0]["state"] != "pending"
    way.export()
    way.take_in()
    assert json.loads(way.receipt.read_text())["erased"] == [], "what has arrived is not sent again"
