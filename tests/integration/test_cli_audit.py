"""`audit`, `evidence` and the verification of a bundle, as an auditor uses them: another machine, other trust."""

from __future__ import annotations

import json
import shutil
import sqlite3
import zipfile
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from ledger.core.checkpoint import origin_prefix
from ledger.keyring.data import asset_key_name
from tests.support.cli import PASSPHRASE, SOURCE, Jinshi, contents, events, import_areas, ledger_in

VOID = {"meta"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Jinshi:
    """A replicated ledger; what changes it takes a copy."""
    jinshi = ledger_in(tmp_path_factory.mktemp("whole"))
    jinshi("append", stdin=events(300))
    import_areas(jinshi, small=True)
    jinshi("replicate", "--once")
    return jinshi


@pytest.fixture
def jinshi(whole: Jinshi, tmp_path: Path) -> Jinshi:
    shutil.copytree(whole.directory, tmp_path, dirs_exist_ok=True)
    settings = tmp_path / "台账" / "jinshi.json"
    settings.write_text(settings.read_text("utf-8").replace(str(whole.directory), str(tmp_path)), "utf-8")
    return Jinshi(tmp_path, tmp_path / "台账")


def site(jinshi: Jinshi) -> Path:
    return jinshi.directory / "台账-sites" / "remote"


def copy_of(jinshi: Jinshi) -> Path:
    origin = json.loads((jinshi.directory / "台账" / "jinshi.json").read_text("utf-8"))["origin"]
    return site(jinshi) / origin_prefix(origin)


def outcomes(report: dict[str, list[dict[str, str]]]) -> dict[str, str]:
    return {check["name"]: check["outcome"] for check in report["checks"]}


class Outline(HTMLParser):
    """The texts of a document whose every element is closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        assert not any(name.startswith("on") or name in ("src", "href") for name, _ in attrs), (
            "nothing is loaded or run"
        )
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def outline(file: Path) -> Outline:
    parsed = Outline()
    parsed.feed(file.read_text("utf-8"))
    parsed.close()
    assert parsed.open == []
    assert "script" not in parsed.seen
    return parsed


def test_a_whole_ledger_passes_and_says_what_was_not_checked_and_why(whole: Jinshi) -> None:
    report = whole("audit", "--open", "--registers", "--json").json
    assert report["passed"]
    found = outcomes(report)
    assert {name for name, outcome in found.items() if outcome == "not run"} == {
        "cosignatures", "content references", "released content", "successions", "erasure statements",
    }  # fmt: skip
    assert found["sealed data, opened"] == found["registers"] == found["database rows"] == "passed"
    assert all(check["detail"] for check in report["checks"])
    assert "not run  registers: " in whole("audit").out


def test_a_site_is_audited_with_a_trust_policy_alone(jinshi: Jinshi) -> None:
    policy = jinshi.directory / "auditor.policy"
    shutil.copy(jinshi.directory / "台账" / "trust.policy", policy)
    shutil.rmtree(jinshi.directory / "台账")
    auditor = jinshi.at(None).with_environment(JINSHI_PASSPHRASE=None)
    html = jinshi.directory / "报告.html"
    report = auditor("audit", "--from", site(jinshi), "--policy", policy, "--json", "--html", html).json
    assert outcomes(report)["cosignatures"] == outcomes(report)["pending"] == "passed"
    assert report["size"] > 400
    assert {"Audit report", "passed", "not run"} <= set(outline(html).texts)
    assert "--policy FILE" in auditor("audit", "--from", site(jinshi), code=2).stderr
    (copy_of_text,) = [path for path in site(jinshi).iterdir() if path.is_dir()]
    (copy_of_text / "checkpoint").unlink()
    refused = auditor("audit", "--from", site(jinshi), "--policy", policy, "--json", code=3).json
    assert outcomes(refused) == {"checkpoint": "failed", "everything else": "not run"}


def test_the_custodians_open_and_rebuild_a_site_with_nothing_else_left(jinshi: Jinshi) -> None:
    """No ledger, no passphrase of its own, no key-encryption key: a site, a policy and the recovery key."""
    policy, key = jinshi.directory / "auditor.policy", jinshi.directory / "台账-keys" / "recovery.key"
    shutil.copy(jinshi.directory / "台账" / "trust.policy", policy)
    shutil.rmtree(jinshi.directory / "台账")
    secret = jinshi.directory / "recovery.passphrase"
    secret.write_text(PASSPHRASE, "utf-8")
    auditor = jinshi.at(None).with_environment(JINSHI_PASSPHRASE=None)
    opening = ("--open", "--registers", "--recovery-key", key, "--recovery-passphrase-file", secret)
    place = ("audit", "--from", site(jinshi), "--policy", policy)
    before = contents(site(jinshi))
    report = auditor(*place, *opening, "--json").json
    assert outcomes(report)["sealed data, opened"] == outcomes(report)["registers"] == "passed"
    details = {check["name"]: check["detail"] for check in report["checks"]}
    assert details["registers"].startswith("2 editions rebuilt")
    assert contents(site(jinshi)) == before, "nothing is written to what is audited"
    closed = auditor(*place, "--registers", "--json").json
    assert outcomes(closed)["sealed data, opened"] == outcomes(closed)["registers"] == "not run"
    secret.write_text("wrong", "utf-8")
    assert "passphrase" in auditor(*place, *opening, code=2).stderr


def test_the_recovery_key_of_another_ledger_is_no_sign_of_tampering(jinshi: Jinshi, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    ledger_in(tmp_path / "other")
    other = tmp_path / "other" / "台账-keys" / "recovery.key"
    refused = jinshi("audit", "--site", "remote", "--open", "--recovery-key", other, code=2)
    assert "the recovery key is not this ledger's" in refused.stderr


def test_a_named_site_is_opened_with_the_ledgers_own_key_and_says_what_does_not_open(jinshi: Jinshi) -> None:
    report = jinshi("audit", "--site", "remote", "--open", "--registers", "--json").json
    assert outcomes(report)["sealed data, opened"] == outcomes(report)["registers"] == "passed"
    (wrap,) = (copy_of(jinshi) / "keyring").glob(f"{asset_key_name(SOURCE).name}-*.file-*")
    wrap.unlink()
    failed = jinshi("audit", "--site", "remote", "--open", "--json", code=3).json
    (check,) = [one for one in failed["checks"] if one["outcome"] == "failed"]
    assert check["name"] == "sealed data, opened"
    assert check["findings"][0]["what"] == "its key cannot be opened with what is at hand"
    assert check["more"] > 0
    key = jinshi.directory / "台账-keys" / "recovery.key"
    recovered = jinshi("audit", "--site", "remote", "--open", "--registers", "--recovery-key", key, "--json").json
    assert outcomes(recovered)["sealed data, opened"] == outcomes(recovered)["registers"] == "passed"


def test_what_cannot_be_rebuilt_is_not_said_to_open(jinshi: Jinshi) -> None:
    (copy_of(jinshi) / "tile" / "entries" / "000").unlink()
    report = jinshi("audit", "--site", "remote", "--open", "--registers", "--json", code=3).json
    assert outcomes(report)["entries"] == "failed"
    assert outcomes(report)["sealed data, opened"] == outcomes(report)["registers"] == "not run"


# -- recording --------------------------------------------------------------------------------------------------------


def recorded(jinshi: Jinshi, index: int) -> dict[str, Any]:
    (line,) = jinshi("log", "--type", "ledger.audited.v1", "--all", "--json").json_lines[-1:]
    assert line["index"] == index
    data: dict[str, Any] = line["entry"]["data"]
    return data


def test_an_audit_is_recorded_in_the_ledger_with_what_was_checked_and_what_was_not(jinshi: Jinshi) -> None:
    ran = jinshi("audit", "--record", "--json").json
    data = recorded(jinshi, ran["index"])
    assert ran["index"] == ran["size"], "it stands right after what it speaks of"
    assert (data["format"], data["site"], data["passed"]) == (1, None, True)
    assert (data["size"], data["root"]) == (ran["size"], ran["root"])
    assert outcomes(data) == outcomes(ran)
    assert "recorded  entry" in jinshi("audit", "--site", "remote", "--record").out
    assert jinshi("audit", "--json").json["passed"], "the record of an audit is an entry like any other"


def test_what_was_found_at_a_site_is_recorded_in_bounds(jinshi: Jinshi) -> None:
    for bundle in ("000", "001.p/170"):
        file = next((copy_of(jinshi) / "tile" / "entries").glob(f"{bundle.partition('.')[0]}*"))
        file = next(file.rglob("*")) if file.is_dir() else file
        file.write_bytes(file.read_bytes()[:-1] + b"x")
    ran = jinshi("audit", "--site", "remote", "--record", "--json", code=3).json
    data = recorded(jinshi, ran["index"])
    assert (data["site"], data["passed"]) == ("remote", False)
    (check,) = [one for one in data["checks"] if one["name"] == "entries"]
    assert {"tile/entries/000"} <= {one["key"] for one in check["findings"]}


def test_nothing_is_recorded_in_a_ledger_that_failed_its_own_audit(jinshi: Jinshi) -> None:
    database = sqlite3.connect(jinshi.directory / "台账" / "ledger.sqlite")
    database.execute("UPDATE record SET subject = 'forged' WHERE position = 5")
    database.commit()
    database.close()
    before = jinshi("status", "--json").json["tree_size"]
    ran = jinshi("audit", "--record", "--json", code=3)
    assert ran.json["index"] is None
    assert "it is not recorded" in ran.stderr
    assert jinshi("status", "--json").json["tree_size"] == before


def test_what_was_found_is_said_also_when_it_cannot_be_recorded(
    jinshi: Jinshi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cli.recording.LOCK_WAIT_S", 0.0)
    with jinshi.start("append", "--json") as writer:
        assert writer.stdin
        assert writer.stdout
        writer.stdin.write(events(1, first=1_000))
        writer.stdin.flush()
        assert writer.stdout.readline()
        refused = jinshi("audit", "--site", "remote", "--record", "--json", code=4)
        assert f"pid {writer.pid}" in refused.stderr
        assert refused.json["passed"]
        assert refused.json["index"] is None
        writer.stdin.close()
        assert writer.wait() == 0


def test_what_was_changed_at_a_site_is_named_in_every_form_of_the_report(jinshi: Jinshi) -> None:
    bundle = copy_of(jinshi) / "tile" / "entries" / "000"
    data = bytearray(bundle.read_bytes())
    data[1000] ^= 1
    bundle.write_bytes(bytes(data))
    html = jinshi.directory / "report.html"
    ran = jinshi("audit", "--site", "remote", "--html", html, code=3)
    assert "FAILED   entries" in ran.out
    assert "tile/entries/000" in ran.out
    assert "the audit of site remote failed: entries" in ran.stderr
    assert "tile/entries/000" in outline(html).texts
    checks = jinshi("audit", "--site", "remote", "--json", code=3).json["checks"]
    assert "tile/entries/000" in {one["key"] for check in checks for one in check["findings"]}
    assert jinshi("audit", "--site", "same-city", "--json").json["passed"]


def test_an_edited_row_is_named_with_what_was_edited(jinshi: Jinshi) -> None:
    database = sqlite3.connect(jinshi.directory / "台账" / "ledger.sqlite")
    database.execute("UPDATE record SET subject = 'forged', version = 99 WHERE position = 5")
    database.commit()
    database.close()
    html = jinshi.directory / "report.html"
    ran = jinshi("audit", "--html", html, code=3)
    assert "entry 5 was changed: it is found by another subject, stream version than it has" in ran.out
    outline(html)


def test_nothing_is_written_to_what_is_audited(jinshi: Jinshi) -> None:
    before = {path: path.stat().st_mtime_ns for path in jinshi.directory.rglob("*") if path.is_file()}
    jinshi("audit", "--open", "--registers")
    jinshi("audit", "--site", "remote")
    after = {path: path.stat().st_mtime_ns for path in jinshi.directory.rglob("*") if path.is_file()}
    assert {path: time for path, time in after.items() if ".sqlite-" not in path.name} == {
        path: time for path, time in before.items() if ".sqlite-" not in path.name
    }


def test_options_that_make_no_sense_together_are_refused(whole: Jinshi) -> None:
    policy = whole.directory / "台账" / "trust.policy"
    place = ["--from", site(whole), "--policy", policy]
    for wrong, why in (
        (["--site", "remote", "--from", "x"], "two places"),
        (["--origin", "x"], "--from PATH"),
        (["--from", site(whole)], "--policy FILE"),
        ([*place, "--record"], "there is no ledger to record it in"),
        ([*place, "--open"], "--recovery-key FILE"),
        (["--recovery-key", policy], "add --open"),
        (["--site", "remote", "--recovery-passphrase-file", policy], "add --open"),
        (["--open", "--recovery-key", whole.directory / "nothing.key"], "nothing.key"),
    ):
        assert why in whole("audit", *wrong, code=2).stderr
    wrong_passphrase = whole.with_environment(JINSHI_PASSPHRASE="wrong")
    for options in (["--open"], ["--record"], ["--site", "remote", "--open"]):
        assert "passphrase" in wrong_passphrase("audit", *options, code=2).stderr


# -- evidence ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def record(whole: Jinshi) -> str:
    """The key of a record that both editions have."""
    shown = whole("log", "--source", SOURCE, "--type", "record.amended.v1", "--all", "--json").json_lines
    added = shown or whole("log", "--source", SOURCE, "--type", "record.added.v1", "--all", "--json").json_lines
    entry = added[0]
    return str(entry.get("unsealed", {}).get("subject") or entry["entry"]["subject"])


def test_a_record_is_handed_over_and_verified_elsewhere_offline(jinshi: Jinshi, record: str) -> None:
    bundle = jinshi.directory / "record.zip"
    said = jinshi("evidence", record, "--source", SOURCE, "-o", bundle).out
    assert "each with its receipt" in said
    policy = jinshi.directory / "auditor.policy"
    shutil.move(jinshi.directory / "台账" / "trust.policy", policy)
    auditor = jinshi.at(None).with_environment(JINSHI_PASSPHRASE=None)
    checked = auditor("verify", bundle, "--policy", policy).out
    assert "none left out" in checked
    assert "cosigned by" in checked
    assert "no trust policy" in auditor("verify", bundle, code=2).stderr
    inside = auditor("verify", bundle, "--policy-inside")
    assert "warning" in inside.stderr
    auditor("verify", bundle, "--policy", policy, "--policy-inside", code=2)
    auditor("verify", bundle, "--policy", policy, "--entry", policy, code=2)
    with zipfile.ZipFile(bundle) as packed:
        assert not [name for name in packed.namelist() if name.startswith("opened/")]


def test_a_bundle_that_was_changed_is_refused(jinshi: Jinshi, record: str) -> None:
    bundle, changed = jinshi.directory / "record.zip", jinshi.directory / "changed.zip"
    jinshi("evidence", record, "--source", SOURCE, "-o", bundle)
    with zipfile.ZipFile(bundle) as old, zipfile.ZipFile(changed, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, data.replace(b"local:", b"lokal:", 1) if name.startswith("entries/") else data)
    assert "not the one that was signed for" in jinshi("verify", changed, code=3).stderr
    (jinshi.directory / "nonsense.zip").write_bytes(b"nonsense")
    assert "no evidence bundle" in jinshi("verify", jinshi.directory / "nonsense.zip", code=2).stderr


def test_what_is_sealed_is_in_the_clear_only_when_asked_for(jinshi: Jinshi, record: str) -> None:
    closed, opened = jinshi.directory / "closed.zip", jinshi.directory / "opened.zip"
    jinshi("evidence", record, "--source", SOURCE, "-o", closed)
    warned = jinshi("evidence", record, "--source", SOURCE, "-o", opened, "--open").stderr
    assert "in the clear" in warned
    jinshi("verify", closed)
    jinshi("verify", opened)
    texts = {}
    for file in (closed, opened):
        with zipfile.ZipFile(file) as packed:
            texts[file] = b"".join(packed.read(name) for name in packed.namelist())
    assert b'"values"' in texts[opened]
    assert b'"values"' not in texts[closed]
    assert "(sealed)" in texts[closed].decode("utf-8")
    assert "the ledger's word" in " ".join(texts[opened].decode("utf-8", "replace").split())


def test_a_record_nobody_knows_or_several_have_is_not_guessed(jinshi: Jinshi) -> None:
    assert "nothing is recorded" in jinshi("evidence", "nobody", "-o", jinshi.directory / "x.zip", code=2).stderr
    jinshi("append", stdin=events(3, source="urn:other"))
    ran = jinshi("evidence", "s1", "-o", jinshi.directory / "x.zip", code=2)
    assert "--source URI" in ran.stderr
    assert not (jinshi.directory / "x.zip").exists()
    uncosigned = jinshi("evidence", "s1", "--source", "urn:other", "-o", jinshi.directory / "x.zip")
    assert "no site has cosigned" in uncosigned.stderr
