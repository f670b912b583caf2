"""`site`, `replicate`, `prove` and `verify`: copies, what keeps them from being made, and what is found in them."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger.core.checkpoint import origin_prefix
from tests.support.cli import Jinshi, contents, events, ledger_in
from tests.support.servers import S3Server


@pytest.fixture
def jinshi(tmp_path: Path) -> Jinshi:
    made = ledger_in(tmp_path)
    made("append", stdin=events(300))
    return made


def site_of(jinshi: Jinshi, name: str) -> Path:
    """Where a default site's copy of the ledger is."""
    origin = jinshi("status", "--json").json["origin"]
    return jinshi.directory / "台账-sites" / name / origin_prefix(origin).rstrip("/")


def sites(jinshi: Jinshi) -> dict[str, tuple[int, bool]]:
    return {one["name"]: (one["size"], one["reachable"]) for one in jinshi("site", "status", "--json").json_lines}


# -- site -------------------------------------------------------------------------------------------------------------


def test_a_site_is_added_listed_and_replicated_to(jinshi: Jinshi) -> None:
    place = jinshi.directory / "第三处"
    jinshi(
        "site", "add", "third", place, "--classification", "机密", "--network", "政务内网", "--retention-days", "3650"
    )
    listed = jinshi("site", "list", "--json").json_lines
    assert [one["name"] for one in listed] == ["same-city", "remote", "third"]
    assert listed[2].keys() == {"name", "url", "role", "mirror", "mirror_key", "classification", "network"}
    assert "jimi" in jinshi("site", "list").out
    jinshi("replicate", "--once", "--site", "third")
    assert sites(jinshi) == {"same-city": (0, True), "remote": (0, True), "third": (304, True)}
    assert "third is whole" in jinshi("verify", "--site", "third").out
    policy = jinshi.directory / "台账" / "trust.policy"
    assert "third" in policy.read_text("utf-8")
    assert policy.read_bytes() == (jinshi.directory / "台账-keys" / "trust.policy").read_bytes()


@pytest.mark.parametrize(
    ("name", "place", "code", "what"),
    [
        ("remote", "elsewhere", 2, "there is a site 'remote' already"),
        ("third", "台账-sites/remote", 2, "is a site of this ledger already"),
        ("third", "ftp://x/y", 2, "neither a directory nor s3://"),
        ("third", "s3://", 2, "neither a directory nor s3://"),
        ("third", "s3://key:secret@bucket/x", 2, "credentials do not belong"),
        ("third", "s3://bucket/x?endpont=http://x", 2, "did you mean 'endpoint'?"),
        ("third", "s3://bucket/x", 2, "AWS_ACCESS_KEY_ID"),
        ("第三", "elsewhere", 2, "cannot name a site"),
        ("", "elsewhere", 2, "cannot name a site"),
        ("third", "file/below", 4, "file/below"),
    ],
)
def test_a_site_that_cannot_be_added_changes_nothing(
    name: str, place: str, code: int, what: str, jinshi: Jinshi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(jinshi.directory)
    (jinshi.directory / "file").write_text("x")
    before = jinshi("site", "list", "--json").out
    assert what in jinshi("site", "add", name, place, code=code).stderr
    assert jinshi("site", "list", "--json").out == before
    assert jinshi("status", "--json").json["tree_size"] == 303


def test_one_directory_can_be_the_site_of_two_ledgers(jinshi: Jinshi, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = ledger_in(tmp_path / "other", "--no-sites")
    other("append", stdin=events(5))
    other("site", "add", "shared", tmp_path / "台账-sites" / "remote")
    other("replicate", "--once")
    jinshi("replicate", "--once")
    jinshi("verify", "--site", "remote")
    other("verify", "--site", "shared")


def test_a_place_that_is_another_mirrors_site_is_a_conflict(jinshi: Jinshi, tmp_path: Path) -> None:
    (site_of(jinshi, "remote")).rename(tmp_path / "kept")
    stolen = tmp_path / "new" / origin_prefix(jinshi("status", "--json").json["origin"]).rstrip("/")
    shutil.copytree(tmp_path / "kept", stolen)
    assert "another mirror's site already" in jinshi("site", "add", "third", tmp_path / "new", code=1).stderr
    assert contents(stolen) == contents(tmp_path / "kept")


def test_a_site_of_another_ledger_is_recognised(jinshi: Jinshi, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = ledger_in(tmp_path / "other")
    other("append", stdin=events(5))
    other("replicate", "--once")
    own, theirs = tmp_path / "台账-sites" / "remote", tmp_path / "other" / "台账-sites" / "remote"
    own.rename(tmp_path / "kept")
    shutil.copytree(theirs, own)
    before = contents(own)
    refused = jinshi("replicate", "--once", code=2)
    assert "it is another ledger's site, or none" in refused.stderr
    assert refused.out.startswith("site same-city: 303 entries"), "the other site has everything all the same"
    assert "holds nothing of" in jinshi("verify", "--site", "remote", code=2).stderr
    assert contents(own) == before, "nothing was written there"
    assert sites(jinshi) == {"same-city": (303, True), "remote": (0, False)}


# -- replicate --------------------------------------------------------------------------------------------------------


def test_a_site_that_is_away_or_cannot_be_written_does_not_keep_the_others_waiting(jinshi: Jinshi) -> None:
    jinshi("replicate", "--once")
    jinshi("append", stdin=events(300, first=300))
    remote = jinshi.directory / "台账-sites" / "remote"
    remote.rename(jinshi.directory / "away")  # not mounted
    refused = jinshi("replicate", "--once", code=4)
    assert "site remote" in refused.stderr
    assert refused.out == "site same-city: 603 entries, verified and cosigned\n"
    assert sites(jinshi) == {"same-city": (603, True), "remote": (303, False)}, "what it has is known all the same"
    assert not remote.exists(), "a site that is not mounted is not taken for an empty one"
    assert "not reachable" in jinshi("status").out
    (jinshi.directory / "away").rename(remote)
    same_city = site_of(jinshi, "same-city")
    shutil.rmtree(same_city / "tile" / "0")
    (same_city / "tile" / "0").write_text("a file where a directory should be")
    jinshi("append", stdin=events(300, first=600))
    refused = jinshi("replicate", "--once", code=4)
    assert "same-city" in refused.stderr
    assert refused.out == "site remote: 903 entries, verified and cosigned\n"
    jinshi("verify", "--site", "remote")


def test_all_sites_that_fail_are_reported_and_the_gravest_decides_the_code(jinshi: Jinshi) -> None:
    jinshi("replicate", "--once")
    jinshi("append", stdin=events(10, first=300))
    (jinshi.directory / "台账-sites" / "same-city").rename(jinshi.directory / "away")
    described = site_of(jinshi, "remote") / "site.json"
    flip(described, at=60)
    refused = jinshi("replicate", "--once", code=3)
    assert "warning: site same-city" in refused.stderr
    assert "site.json" in refused.stderr.splitlines()[-1]


def test_replicating_carries_on_where_it_was_interrupted(jinshi: Jinshi) -> None:
    jinshi("replicate", "--once")
    jinshi("append", stdin=events(600, first=300))
    remote = site_of(jinshi, "remote")
    before = contents(remote)
    jinshi("replicate", "--once", "--site", "remote")
    after = contents(remote)
    for name in set(after) - set(before):  # as if it had been killed before the mirror's turn, with half of it shipped
        if name.startswith("tile/") and hash(name) % 2:
            (remote / name).unlink()
    (remote / "checkpoint").write_bytes(before["checkpoint"])
    shutil.rmtree(jinshi.directory / "台账-keys" / "remote.mirror-state")
    jinshi("replicate", "--once")
    jinshi("verify", "--site", "remote")
    assert sites(jinshi)["remote"] == (903, True)


def test_an_unknown_site_stops_before_any_work(jinshi: Jinshi) -> None:
    refused = jinshi("replicate", "--once", "--site", "same-city", "--site", "remot", code=2)
    assert "did you mean 'remote'?" in refused.stderr
    assert sites(jinshi)["same-city"] == (0, True)


def test_replicate_goes_on_by_itself_and_leaves_the_lock_to_writers(jinshi: Jinshi) -> None:
    with jinshi.start("--log-format", "json", "replicate", "--every", "0.1") as process:
        assert process.stderr
        for size in (303, 313, 323):
            seen = {}
            while seen != {"same-city": size, "remote": size}:
                line = json.loads(process.stderr.readline())
                assert (line["event"], line["level"]) == ("replicated", "info"), line
                seen[line["site"]] = line["size"]
            jinshi("append", stdin=events(10, first=size))  # never told that the lock is held
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130


# -- prove, verify ----------------------------------------------------------------------------------------------------


def flip(file: Path, *, at: int | None = None) -> None:
    """Flip one bit of a file, in its middle when not told where."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2 if at is None else at] ^= 1
    file.chmod(0o644)
    file.write_bytes(data)


def test_a_receipt_is_verified_with_nothing_else_at_hand(jinshi: Jinshi, tmp_path: Path) -> None:
    jinshi("replicate", "--once")
    jinshi("prove", "42", "-o", tmp_path / "收据.tlog-proof")
    audit = tmp_path / "audit"
    audit.mkdir()
    for name in ("收据.tlog-proof", "收据.tlog-proof.entry"):
        (tmp_path / name).rename(audit / name)
    (tmp_path / "台账-keys" / "trust.policy").rename(audit / "trust.policy")
    for name in ("台账", "台账-keys", "台账-sites"):
        shutil.rmtree(tmp_path / name)
    auditor = Jinshi(audit).with_environment(JINSHI_PASSPHRASE=None)
    receipt, entry = audit / "收据.tlog-proof", audit / "收据.tlog-proof.entry"
    checks = ("verify", receipt, "--entry", entry, "--policy", audit / "trust.policy")
    said = auditor(*checks).out
    assert "is entry 42 of" in said
    assert said.count("cosigned by") == 2, "by both sites"
    assert "no trust policy is given" in auditor("verify", receipt, "--entry", entry, code=2).stderr
    good = entry.read_bytes()
    for position in range(0, len(good), 37):
        flip(entry, at=position)
        auditor(*checks, code=3)
        entry.write_bytes(good)
    entry.unlink()
    assert "the entry" in auditor(*checks, code=2).stderr


def test_a_changed_receipt_is_never_accepted(jinshi: Jinshi, tmp_path: Path) -> None:
    jinshi("replicate", "--once")
    receipt = tmp_path / "r.tlog-proof"
    jinshi("prove", "42", "-o", receipt)
    good = receipt.read_bytes()
    arguments = ("verify", receipt, "--entry", f"{receipt}.entry")
    signatures = good.index("\n— ".encode())  # one of the two mirrors is enough, so the rest is not in question
    for position in range(0, signatures, 29):
        flip(receipt, at=position)
        jinshi(*arguments, code=(2, 3))  # it is no receipt any more, or one of something else
        receipt.write_bytes(good)
    jinshi(*arguments)
    receipt.write_bytes(good[: signatures + 1])
    jinshi(*arguments, code=2)


def test_a_receipt_without_cosigner_comes_with_a_warning_and_the_policy_refuses_it(
    jinshi: Jinshi, tmp_path: Path
) -> None:
    receipt = tmp_path / "r.tlog-proof"
    warned = jinshi("prove", "42", "-o", receipt)
    assert "warning: no site has cosigned this entry yet" in warned.stderr
    assert "quorum" in jinshi("verify", receipt, "--entry", f"{receipt}.entry", code=3).stderr
    jinshi("replicate", "--once")
    assert jinshi("prove", "42", "-o", receipt).stderr == ""
    jinshi("verify", receipt, "--entry", f"{receipt}.entry")
    jinshi("append", stdin=events(5, first=300))
    assert "against a tree of 303 entries" in jinshi("prove", "42", "-o", receipt).out, "the newest cosigned one"
    assert "warning" in jinshi("prove", "305", "-o", receipt).stderr


def test_a_ledger_without_sites_proves_by_the_logs_signature_alone(tmp_path: Path) -> None:
    jinshi = ledger_in(tmp_path, "--no-sites")
    jinshi("append", stdin=events(3))
    assert jinshi("prove", "1", "-o", tmp_path / "r").stderr == ""
    said = jinshi("verify", tmp_path / "r", "--entry", tmp_path / "r.entry")
    assert "signed by the log alone" in said.stderr
    assert "no sites" in jinshi("status").out
    assert jinshi("replicate", "--once").out == ""


def test_prove_writes_both_files_or_says_why_not(
    jinshi: Jinshi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    jinshi("prove", "7")
    assert (tmp_path / "7.tlog-proof").is_file()
    assert (tmp_path / "7.tlog-proof.entry").is_file()
    assert "the ledger has 303; ask for 0 to 302" in jinshi("prove", "303", code=2).stderr
    jinshi("prove", "7", "-o", tmp_path / "no" / "r", code=4)


def tiles(site: Path) -> Iterator[Path]:
    for file in sorted(site.rglob("*")):
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(site).parts):
            yield file


def test_a_flipped_bit_in_any_object_of_a_site_is_tampering_and_the_object_is_named(jinshi: Jinshi) -> None:
    jinshi("replicate", "--once")
    remote = site_of(jinshi, "remote")
    named = 0
    for file in tiles(remote):
        key = str(file.relative_to(remote))
        # `pending` is only what comes next, and a data key wrapped for daily use is found out by opening it: what
        # stands for both, the checkpoint and the same key wrapped to the recovery key, is flipped here.
        if key == "pending" or ".file-" in key:
            continue
        good = file.read_bytes()
        flip(file)
        refused = jinshi("verify", "--site", "remote", code=3)
        named += key in refused.stderr
        file.write_bytes(good)
        file.unlink()
        jinshi("verify", "--site", "remote", code=3)
        file.write_bytes(good)
    assert named >= 6
    jinshi("verify", "--site", "remote")
    jinshi("verify", "--site", "same-city")


def test_a_copy_that_falls_behind_is_found_by_what_else_is_known(jinshi: Jinshi, tmp_path: Path) -> None:
    jinshi("replicate", "--once")
    remote = site_of(jinshi, "remote")
    shutil.copytree(remote, tmp_path / "older")
    jinshi("append", stdin=events(10, first=300))
    jinshi("replicate", "--once")
    jinshi("prove", "1", "-o", tmp_path / "r")
    shutil.rmtree(remote)
    shutil.copytree(tmp_path / "older", remote)  # rolled back, and genuine
    assert "313" in jinshi("verify", "--site", "remote", code=3).stderr, "its mirror remembers"
    shutil.rmtree(tmp_path / "台账-keys" / "remote.mirror-state")
    assert "site remote is behind" in jinshi("verify", "--site", "remote", code=1).stderr, "the other site shows more"
    jinshi("verify", "--site", "remote", "--against", tmp_path / "r", code=3)
    jinshi("verify", "--site", "remote", "--at-least", "304", code=3)
    jinshi("verify", "--site", "remote", "--at-least", "303", code=1)


def test_verify_finds_what_was_altered_in_the_ledger_itself(jinshi: Jinshi) -> None:
    assert jinshi.ledger
    assert "the ledger is whole: 303 entries, 303 of them signed" in jinshi("verify").out
    store = jinshi.ledger / "ledger.sqlite"
    data = store.read_bytes()
    at = data.rindex(b'"id":"e42"')
    store.write_bytes(data[: at + 7] + b"24" + data[at + 9 :])
    assert "entry 45" in jinshi("verify", code=3).stderr
    store.write_bytes(data)
    jinshi("verify")
    flip(next(path for path in (jinshi.ledger / "published").rglob("tile/0/**/*") if path.is_file()))
    jinshi("verify", code=3)


# -- S3 ---------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_s3_bucket_is_a_site_like_any_other(seaweed: S3Server, tmp_path: Path) -> None:
    jinshi = ledger_in(tmp_path, "--no-sites").with_environment(
        AWS_ACCESS_KEY_ID=seaweed.access_key, AWS_SECRET_ACCESS_KEY=seaweed.secret_key
    )
    jinshi("append", stdin=events(300))
    url = f"s3://{seaweed.bucket}/cli/{tmp_path.name}?endpoint={seaweed.endpoint}"
    jinshi("site", "add", "cloud", url)
    assert jinshi("replicate", "--once").out == "site cloud: 302 entries, verified and cosigned\n"
    jinshi("append", stdin=events(300, first=300))
    jinshi("replicate", "--once")
    jinshi("verify", "--site", "cloud")
    report = jinshi("drill", "run", "--from", "cloud", "--json").json
    assert report["passed"]
    assert report["rpo_entries"] == 0
    (tmp_path / "台账" / "trust.policy").rename(tmp_path / "trust.policy")
    shutil.rmtree(tmp_path / "台账")
    shutil.rmtree(tmp_path / "台账-keys")
    policy = ("--policy", tmp_path / "trust.policy")
    jinshi("restore", "ledger", "--from", url, *policy, "--to", tmp_path / "新")
    restored = jinshi.at(tmp_path / "新")
    assert restored("status", "--json").json["tree_size"] == 603
    wrong = jinshi.with_environment(AWS_SECRET_ACCESS_KEY="wrong")
    wrong("restore", "ledger", "--from", url, *policy, "--to", tmp_path / "x", code=4)
    gone = f"s3://{seaweed.bucket}-none/x?endpoint={seaweed.endpoint}"
    jinshi("restore", "ledger", "--from", gone, *policy, "--to", tmp_path / "x", code=4)
    empty = f"s3://{seaweed.bucket}/nothing-here?endpoint={seaweed.endpoint}"
    assert (
        "holds nothing of"
        in jinshi("restore", "ledger", "--from", empty, *policy, "--to", tmp_path / "x", code=2).stderr
    )
    assert not (tmp_path / "x").exists()
