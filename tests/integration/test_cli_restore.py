"""`restore` and `drill`: back from one site alone, and what stands in the way."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from cli.making.staging import Place
from ledger.core.checkpoint import origin_prefix
from tests.support.cli import DIVISIONS, EDITIONS, SOURCE, Jinshi, contents, events, import_areas, ledger_in


@pytest.fixture
def jinshi(tmp_path: Path) -> Jinshi:
    """A replicated ledger with a small register and 300 events."""
    made = ledger_in(tmp_path, "--origin", "test.example/台账")
    import_areas(made, EDITIONS[0], EDITIONS[4], small=True)
    made("append", stdin=events(300))
    made("replicate", "--once")
    for name in ("trust.policy", "recovery.key"):
        shutil.copy(tmp_path / "台账-keys" / name, tmp_path / name)
    return made


@pytest.fixture
def lost(jinshi: Jinshi) -> Jinshi:
    """The same with nothing of the primary left, only its sites, the policy and the offline recovery key."""
    shutil.rmtree(jinshi.directory / "台账")
    shutil.rmtree(jinshi.directory / "台账-keys")
    return jinshi.at(None)


def options(jinshi: Jinshi, site: str = "remote", to: str = "新") -> tuple[object, ...]:
    place = jinshi.directory / "台账-sites" / site
    kept = ("--policy", jinshi.directory / "trust.policy", "--recovery-key", jinshi.directory / "recovery.key")
    return "--from", place, *kept, "--to", jinshi.directory / to


def copy_in(jinshi: Jinshi, site: str = "remote", origin: str = "test.example/台账") -> Path:
    return jinshi.directory / "台账-sites" / site / origin_prefix(origin).rstrip("/")


def size(jinshi: Jinshi) -> int:
    tree_size: int = jinshi("status", "--json").json["tree_size"]
    return tree_size


# -- restore ledger ---------------------------------------------------------------------------------------------------


def test_everything_comes_back_with_nothing_of_the_primary_left(lost: Jinshi) -> None:
    said = lost("restore", "ledger", *options(lost)).out
    assert "every one verified" in said
    assert "It goes on as test.example/台账/2" in said
    restored = lost.at(lost.directory / "新")
    published = (lost.directory / f"{EDITIONS[0]}.csv").read_bytes()
    assert restored("export", "--source", SOURCE, "--at", EDITIONS[0]).stdout == published
    assert restored("append", stdin=events(301)).out == "301 events, 300 of them had been recorded before\n"
    succession = restored("log", "--type", "ledger.succeeded.v1", "--json").json["entry"]["data"]
    assert succession["predecessor"] == "test.example/台账"
    restored("verify")
    evidence = contents(lost.directory / "新" / "evidence")
    assert evidence["predecessor.policy"] == (lost.directory / "trust.policy").read_bytes()
    assert evidence["predecessor.checkpoint"] == (copy_in(lost) / "checkpoint").read_bytes()
    restored("site", "add", "remote", lost.directory / "台账-sites" / "remote")
    restored("replicate", "--once")
    restored("verify", "--site", "remote")
    # And once more, from the successor's copy in the same place: the policy says which of the two ledgers is meant.
    again = ("--from", lost.directory / "台账-sites" / "remote", "--policy", lost.directory / "新" / "trust.policy")
    lost("restore", "ledger", *again, "--to", lost.directory / "again")
    assert lost.at(lost.directory / "again")("status", "--json").json["origin"] == "test.example/台账/3"


def test_without_the_recovery_key_everything_comes_back_and_what_is_sealed_is_opened_later(lost: Jinshi) -> None:
    place = ("--from", lost.directory / "台账-sites" / "remote", "--policy", lost.directory / "trust.policy")
    said = lost("restore", "ledger", *place, "--to", lost.directory / "新")
    assert "every one verified" in said.out
    assert "jinshi keys recover --recovery-key FILE" in said.stderr
    restored = lost.at(lost.directory / "新")
    restored("verify")
    assert "jinshi keys recover" in restored("export", "--source", SOURCE, "--at", EDITIONS[0], code=(2, 4)).stderr
    restored("keys", "recover", "--recovery-key", lost.directory / "recovery.key")
    published = (lost.directory / f"{EDITIONS[0]}.csv").read_bytes()
    assert restored("export", "--source", SOURCE, "--at", EDITIONS[0]).stdout == published


def test_a_site_can_be_named_by_its_name_while_the_ledgers_settings_are_there(jinshi: Jinshi) -> None:
    policy = ("--policy", jinshi.directory / "trust.policy")
    jinshi("restore", "ledger", "--from", "same-city", *policy, "--to", jinshi.directory / "新")
    refused = jinshi("restore", "ledger", "--from", "same-cty", *policy, "--to", jinshi.directory / "x", code=2)
    assert "did you mean 'same-city'?" in refused.stderr


def test_nothing_is_overwritten_by_a_restore(lost: Jinshi) -> None:
    (lost.directory / "新").mkdir()
    assert "is there already" in lost("restore", "ledger", *options(lost), code=2).stderr
    assert list((lost.directory / "新").iterdir()) == []
    assert "is not there" in lost("restore", "ledger", *options(lost, to="no/新"), code=2).stderr


@pytest.mark.parametrize(
    ("place", "policy", "code", "what"),
    [
        ("no-such-place", "trust.policy", 4, "no-such-place"),
        ("empty", "trust.policy", 2, "holds nothing of test.example/台账"),
        ("trust.policy", "trust.policy", (2, 4), "trust.policy"),
        ("台账-sites/remote", "no.policy", 2, "the trust policy no.policy cannot be read"),
        ("台账-sites/remote", "台账-sites/remote", 2, "the trust policy"),
        ("台账-sites/remote", "other.policy", 2, "other.example"),
        ("台账-sites/remote", "cut.policy", 2, "may have been cut"),
    ],
)
def test_a_place_or_policy_that_cannot_be_used_is_named_and_nothing_is_made(
    place: str, policy: str, code: int | tuple[int, ...], what: str, lost: Jinshi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(lost.directory)
    (lost.directory / "empty").mkdir()
    text = (lost.directory / "trust.policy").read_bytes()
    (lost.directory / "cut.policy").write_bytes(text[:-5])
    ledger_in(lost.directory / "empty", "--origin", "other.example", "--no-sites")
    shutil.copy(lost.directory / "empty" / "台账" / "trust.policy", lost.directory / "other.policy")
    before = contents(lost.directory)
    refused = lost("restore", "ledger", "--from", place, "--policy", policy, "--to", lost.directory / "新", code=code)
    assert what in refused.stderr
    assert contents(lost.directory) == before


def test_a_damaged_copy_is_refused_and_the_object_named(lost: Jinshi) -> None:
    bundle = copy_in(lost) / "tile" / "entries" / "000"
    good = bundle.read_bytes()
    bundle.chmod(0o644)
    bundle.write_bytes(good.replace(b"record.added", b"record.adder", 1))
    assert "tile/entries/000" in lost("restore", "ledger", *options(lost), code=3).stderr
    assert not (lost.directory / "新").exists()
    bundle.unlink()
    assert "tile/entries/000" in lost("restore", "ledger", *options(lost), code=3).stderr
    lost("restore", "ledger", *options(lost, site="same-city"))
    lost.at(lost.directory / "新")("verify")


def test_a_copy_older_than_what_is_known_is_refused(jinshi: Jinshi, tmp_path: Path) -> None:
    old = size(jinshi)
    shutil.copytree(tmp_path / "台账-sites" / "remote", tmp_path / "older")
    jinshi("append", stdin=events(10, first=300))
    jinshi("replicate", "--once")
    jinshi("prove", "0", "-o", tmp_path / "r")
    arguments = ("--from", tmp_path / "older", "--policy", tmp_path / "trust.policy", "--to", tmp_path / "新")
    for known in (
        ("--against", tmp_path / "r"),
        ("--at-least", old + 1),
        ("--against", copy_in(jinshi) / "checkpoint"),
    ):
        jinshi("restore", "ledger", *arguments, *known, code=3)
        assert not (tmp_path / "新").exists()
    jinshi("restore", "ledger", *arguments, "--at-least", old)  # genuine, and old enough to say so
    assert size(jinshi.at(tmp_path / "新")) == old + 1


def test_an_interrupted_restore_is_finished_by_repeating_it(lost: Jinshi, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("restore.rebuild.ledger.COMMIT_ENTRIES", 100)
        patched.setattr("cli.making.recreate.sync_tree", interrupted)
        lost("restore", "ledger", *options(lost), code=130)
    with monkeypatch.context() as patched:  # it has recorded whom it succeeds, and why: that stands
        patched.setattr("cli.making.recreate.sync_tree", interrupted)
        lost("restore", "ledger", *options(lost), "--reason", "another", code=130)
    with monkeypatch.context() as patched:
        patched.setattr(Place, "settle", interrupted)
        lost("restore", "ledger", *options(lost), code=130)
    assert not (lost.directory / "新").exists()
    lost("restore", "ledger", *options(lost))
    restored = lost.at(lost.directory / "新")
    restored("verify")
    assert len(restored("log", "--type", "ledger.succeeded.v1", "--json").json_lines) == 1
    assert not any(path.name.startswith(".") for path in lost.directory.iterdir())


def test_several_ledgers_in_one_place_are_told_apart_by_origin(lost: Jinshi) -> None:
    other = Jinshi(lost.directory, lost.directory / "other")
    other("init", other.ledger, "--no-sites", "--origin", "other.example")
    other("site", "add", "shared", lost.directory / "台账-sites" / "remote")
    other("replicate", "--once")
    policies = lost.directory / "both.policy"
    mine, theirs = (
        path.read_text("utf-8").replace("group sites", f"group {name}").replace("quorum sites", "").splitlines()
        for name, path in (
            ("mine", lost.directory / "trust.policy"),
            ("theirs", lost.directory / "other" / "trust.policy"),
        )
    )
    both = [line for line in [*mine, *theirs] if line.strip()] + ["group either any mine theirs", "quorum either"]
    policies.write_text("\n".join(both) + "\n", "utf-8")
    arguments = (
        "--from",
        lost.directory / "台账-sites" / "remote",
        "--policy",
        policies,
        "--to",
        lost.directory / "新",
    )
    assert "--origin" in lost("restore", "ledger", *arguments, code=2).stderr
    lost("restore", "ledger", *arguments, "--origin", "other.example")
    assert lost.at(lost.directory / "新")("status", "--json").json["origin"] == "other.example/2"


# -- continuing, and the predecessor ----------------------------------------------------------------------------------


def test_a_ledger_continues_under_its_own_origin_only_when_that_is_proven(jinshi: Jinshi, tmp_path: Path) -> None:
    entries = size(jinshi)
    (tmp_path / "台账").rename(tmp_path / "found")
    continued = (*options(jinshi), "--continue-from", tmp_path / "found")
    said = jinshi.at(None)("restore", "ledger", *continued).out
    assert "It goes on under its own origin" in said
    restored = jinshi.at(tmp_path / "新")
    status = restored("status", "--json").json
    assert (status["origin"], status["tree_size"]) == ("test.example/台账", entries)
    restored("append", stdin=events(1, first=900))
    restored("replicate", "--once")
    restored("verify", "--site", "remote")
    # The old primary has been overtaken: it may write no more where the new one has.
    found = jinshi.at(tmp_path / "found")
    found("append", stdin=events(1, first=901))
    found("replicate", "--once", code=(3, 4))


def test_continuing_is_refused_where_the_old_ledger_signed_more(jinshi: Jinshi, tmp_path: Path) -> None:
    jinshi("append", stdin=events(1, first=900))  # signed, and never replicated
    refused = jinshi("restore", "ledger", *options(jinshi), "--continue-from", jinshi.ledger, code=1)
    assert "go on under a successor origin" in refused.stderr
    assert not (tmp_path / "新").exists()


def test_continuing_with_the_recovery_key_when_the_log_key_is_lost(jinshi: Jinshi, tmp_path: Path) -> None:
    assert jinshi.ledger
    (jinshi.ledger / "keys" / "log.key").unlink()
    kept = ("--policy", tmp_path / "trust.policy", "--continue-from", jinshi.ledger)
    arguments = ("--from", tmp_path / "台账-sites" / "remote", *kept, "--to", tmp_path / "新")
    assert "--recovery-key" in jinshi("restore", "ledger", *arguments, code=2).stderr
    wrong = tmp_path / "台账-keys" / "remote.mirror.key"
    assert "not a recovery key" in jinshi("restore", "ledger", *arguments, "--recovery-key", wrong, code=2).stderr
    jinshi("restore", "ledger", *arguments, "--recovery-key", tmp_path / "台账-keys" / "recovery.key")
    restored = jinshi.at(tmp_path / "新")
    restored("append", stdin=events(1, first=900))
    restored("replicate", "--once")


def test_what_a_found_predecessor_had_beyond_is_kept_as_evidence(jinshi: Jinshi, tmp_path: Path) -> None:
    jinshi("append", stdin=events(1_200, first=300))  # lost with the primary
    jinshi("restore", "ledger", *options(jinshi), "--reason", "水灾")
    restored = jinshi.at(tmp_path / "新")
    assert "水灾" in restored("log", "--type", "ledger.succeeded.v1", "--json").out
    said = restored("restore", "predecessor", jinshi.ledger).out
    assert "had 1,200 entries that were not restored" in said
    (evidence,) = [path for path in (tmp_path / "新" / "evidence").iterdir() if path.suffix == ".jsonl"]
    assert [json.loads(line)["id"] for line in evidence.read_bytes().splitlines()] == [
        f"e{n}" for n in range(300, 1500)
    ]
    recorded = restored("log", "--type", "predecessor.found.v1", "--json").json["entry"]["data"]
    assert (recorded["count"], recorded["evidence"]) == (1_200, evidence.name)
    before = size(restored)
    restored("restore", "predecessor", jinshi.ledger)
    assert size(restored) == before, "found once is found"
    restored("verify")


def test_a_directory_that_is_not_the_predecessor_is_refused(jinshi: Jinshi, tmp_path: Path) -> None:
    jinshi("restore", "ledger", *options(jinshi))
    restored = jinshi.at(tmp_path / "新")
    (tmp_path / "other").mkdir()
    other = ledger_in(tmp_path / "other", "--no-sites")
    assert "was succeeded" in restored("restore", "predecessor", other.ledger, code=2).stderr
    assert "succeeded no other" in jinshi("restore", "predecessor", other.ledger, code=2).stderr
    assert "is no ledger" in restored("restore", "predecessor", tmp_path / "trust.policy", code=2).stderr
    jinshi("restore", "ledger", *options(jinshi, to="twin"))
    assert contents(tmp_path / "新" / "evidence").keys() == {"predecessor.policy", "predecessor.checkpoint"}


# -- drill ------------------------------------------------------------------------------------------------------------


def test_a_drill_restores_compares_measures_and_records(jinshi: Jinshi) -> None:
    entries = size(jinshi)
    said = jinshi("drill", "run", "--from", "remote").out
    for line in ("passed  restore", "passed  identical", "passed  registers: 2 editions", "passed  writable"):
        assert line in said
    assert f"recorded  entry {entries}" in said
    report = jinshi("drill", "run", "--from", "remote", "--rpo", "3600", "--rto", "600", "--json").json
    assert report["passed"]
    assert (report["rpo_entries"], report["size"], report["head_size"]) == (1, entries, entries + 1)
    assert report["rpo_ms"] >= 0
    assert report["rto_ms"] > 0
    assert {"RPO", "RTO"} <= {check["name"] for check in report["checks"]}
    recorded = jinshi("log", "--type", "drill.completed.v1", "--json").json_lines
    assert [one["index"] for one in recorded] == [entries, entries + 1]
    assert recorded[1]["entry"]["data"] == {name: value for name, value in report.items() if name != "index"}


def test_a_drill_beyond_its_limits_is_code_1_and_is_recorded(jinshi: Jinshi) -> None:
    jinshi("append", stdin=events(1, first=900))
    failed = jinshi("drill", "run", "--from", "remote", "--rto", "0", "--rpo", "0", "--json", code=1)
    assert "the drill from remote failed: RPO, RTO" in failed.stderr
    assert not failed.json["passed"]
    recorded = jinshi("log", "--type", "drill.completed.v1", "--json").json["entry"]["data"]
    assert not recorded["passed"]
    assert recorded["rpo_entries"] == 1


def test_a_drill_from_a_damaged_copy_is_code_3_and_is_recorded(jinshi: Jinshi) -> None:
    bundle = copy_in(jinshi) / "tile" / "entries" / "000"
    bundle.chmod(0o644)
    bundle.write_bytes(bundle.read_bytes().replace(b"record.added", b"record.adder", 1))
    failed = jinshi("drill", "run", "--from", "remote", code=3)
    assert "FAILED  restore" in failed.out
    assert "tile/entries/000" in failed.out
    assert jinshi("log", "--type", "drill.completed.v1", "--json").json["entry"]["data"]["passed"] is False


def test_a_drill_from_a_site_that_is_away_fails_and_is_recorded(jinshi: Jinshi, tmp_path: Path) -> None:
    (tmp_path / "台账-sites" / "remote").rename(tmp_path / "away")
    failed = jinshi("drill", "run", "--from", "remote", "--json", code=1)
    assert not failed.json["passed"]
    assert failed.json["rpo_entries"] == failed.json["head_size"]


def test_a_drill_says_what_it_found_also_when_it_cannot_be_recorded(
    jinshi: Jinshi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cli.recording.LOCK_WAIT_S", 0.0)
    with jinshi.start("append", "--json") as writer:
        assert writer.stdin
        assert writer.stdout
        writer.stdin.write(events(1))
        writer.stdin.flush()
        assert writer.stdout.readline()
        refused = jinshi("drill", "run", "--from", "remote", "--json", code=4)
        assert f"pid {writer.pid}" in refused.stderr
        assert refused.json["passed"]
        assert refused.json["index"] is None
        writer.stdin.close()
        assert writer.wait() == 0


def test_the_scratch_place_of_a_drill_is_left_empty(jinshi: Jinshi, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    jinshi("drill", "run", "--from", "remote", "--scratch", scratch)
    assert list(scratch.iterdir()) == []
    assert (
        "cannot be written" in jinshi("drill", "run", "--from", "remote", "--scratch", tmp_path / "no", code=4).stderr
    )
    jinshi("drill", "run", "--from", "remot", code=2)
    other = tmp_path / "other.policy"
    other.write_text("quorum none\n")
    jinshi("drill", "run", "--from", "remote", "--policy", other, code=3)


def test_the_whole_of_the_divisions_comes_back(tmp_path: Path) -> None:
    jinshi = ledger_in(tmp_path)
    import_areas(jinshi, EDITIONS[0], EDITIONS[-1])
    jinshi("replicate", "--once", "--site", "remote")
    for name in ("trust.policy", "recovery.key"):
        shutil.copy(tmp_path / "台账-keys" / name, tmp_path / name)
    for name in ("台账", "台账-keys"):
        shutil.rmtree(tmp_path / name)
    jinshi.at(None)("restore", "ledger", *options(jinshi))
    restored = jinshi.at(tmp_path / "新")
    for name in (EDITIONS[0], EDITIONS[-1]):
        exported = restored("export", "--source", SOURCE, "--at", name).stdout
        assert exported == (DIVISIONS / name / "areas.csv").read_bytes()
