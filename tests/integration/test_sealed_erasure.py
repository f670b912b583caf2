"""Erasing a subject of a ledger with two directory sites: two people, every site's own role, pending until all."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.cli import Jinshi, Ran, contents, ledger_in

SOURCE = "urn:city:residents"
REGISTER = "编号,姓名,住址\nr-1,王小明,长安街一号\nr-2,李小红,平安里二号\nr-3,赵大山,和平路三号\n"
NAMES = ("王小明", "李小红", "赵大山", "长安街", "编号", "r-1", "r-2")


@pytest.fixture
def jinshi(tmp_path: Path) -> Jinshi:
    """A personal register of three, at both sites."""
    jinshi = ledger_in(tmp_path)
    jinshi("source", "declare", SOURCE, "--personal")
    (tmp_path / "residents.csv").write_text(REGISTER)
    import_register(jinshi, "2026")
    jinshi("replicate", "--once")
    return jinshi


def import_register(jinshi: Jinshi, edition: str) -> Ran:
    file = jinshi.directory / "residents.csv"
    return jinshi("import", file, "--source", SOURCE, "--key", "编号", "--edition", edition)


def another(jinshi: Jinshi) -> Jinshi:
    """Another person at the same ledger."""
    return jinshi.with_environment(LOGNAME="second", USER="second")


def erase(jinshi: Jinshi, subject: str) -> None:
    jinshi("erase", subject, "--source", SOURCE, "--reason", "request 2026-17")
    another(jinshi)("erase", subject, "--source", SOURCE, "--approve")


def sites(jinshi: Jinshi) -> Path:
    return jinshi.directory / "台账-sites"


def keys_at(root: Path) -> set[str]:
    return {Path(name).name.partition(".")[0] for name in contents(root) if "/keyring/subject-" in f"/{name}"}


def test_an_erasure_is_pending_until_the_primary_and_every_site_have_confirmed(jinshi: Jinshi) -> None:
    away, remote = jinshi.directory / "unmounted", sites(jinshi) / "remote"
    jinshi("prove", 4, "-o", jinshi.directory / "before.tlog-proof")
    assert len(keys_at(remote)) == 3
    erase(jinshi, "r-1")
    (status,) = jinshi("erase", "--status", "--json").json_lines
    assert (status["state"], status["pending"]) == ("pending", ["primary", "same-city", "remote"])
    remote.rename(away)
    jinshi("replicate", "--once", code=4)
    (status,) = jinshi("erase", "--status", "--json").json_lines
    assert (status["state"], status["pending"]) == ("pending", ["remote"])
    assert (len(keys_at(sites(jinshi) / "same-city")), len(keys_at(away))) == (2, 3)
    assert len(keys_at(jinshi.directory / "台账")) == 2
    away.rename(remote)
    jinshi("replicate", "--once")
    (status,) = jinshi("erase", "--status", "--json").json_lines
    assert (status["state"], status["pending"], status["approved_by"]) == ("done", [], "local:second")
    jinshi("replicate", "--once")
    for place in (remote, sites(jinshi) / "same-city", jinshi.directory / "台账"):
        assert len(keys_at(place)) == 2, "and nobody ships it again"

    jinshi("verify")
    jinshi("verify", "--site", "remote")
    receipt = jinshi.directory / "before.tlog-proof"
    jinshi("verify", receipt, "--entry", f"{receipt}.entry")
    jinshi("drill", "run", "--from", "remote")
    assert "<erased>" in jinshi("history", "r-1", "--source", SOURCE).out
    assert "李小红" in jinshi("history", "r-2", "--source", SOURCE).out
    assert "王小明" not in jinshi("log", "--all").out
    exported = jinshi("export", "--source", SOURCE)
    assert exported.out == REGISTER.replace("r-1,王小明,长安街一号\n", "")
    assert "without 1 erased record" in exported.stderr

    import_register(jinshi, "2027")  # whoever comes back is recorded under a new key
    assert jinshi("export", "--source", SOURCE, "--at", "2027").out == REGISTER
    assert "王小明" in jinshi("history", "r-1", "--source", SOURCE).out


def test_a_restored_ledger_knows_what_is_erased(jinshi: Jinshi) -> None:
    erase(jinshi, "r-1")
    jinshi("replicate", "--once")
    jinshi("replicate", "--once")
    ledger = jinshi.directory / "台账"
    trusted = ("--policy", ledger / "trust.policy", "--recovery-key", jinshi.directory / "台账-keys" / "recovery.key")
    place = ("--from", sites(jinshi) / "remote", "--to", jinshi.directory / "again")
    jinshi.at(None)("restore", "ledger", *place, *trusted)
    again = jinshi.at(jinshi.directory / "again")
    assert "<erased>" in again("history", "r-1", "--source", SOURCE).out
    assert "李小红" in again("history", "r-2", "--source", SOURCE).out
    again("verify")


def test_nobody_erases_alone_nor_what_is_held(jinshi: Jinshi) -> None:
    ask = ("erase", "r-1", "--source", SOURCE)
    assert "nobody has asked" in jinshi(*ask, "--approve", code=2).stderr
    jinshi(*ask, "--reason", "request")
    assert "second person" in jinshi(*ask, "--approve", code=1).stderr
    assert "already" in jinshi(*ask, "--reason", "again", code=1).stderr
    jinshi("erase", "--source", SOURCE, "--hold", "--reason", "case 4711")
    assert "legal hold" in another(jinshi)(*ask, "--approve", code=1).stderr
    assert "legal hold" in jinshi("erase", "r-2", "--source", SOURCE, "--reason", "x", code=1).stderr
    jinshi("replicate", "--once")
    assert len(keys_at(sites(jinshi) / "remote")) == 3
    jinshi("erase", "--source", SOURCE, "--lift", "--reason", "over")
    another(jinshi)(*ask, "--approve")
    jinshi("replicate", "--once")
    assert len(keys_at(sites(jinshi) / "remote")) == 2
    assert "nothing is kept" in jinshi(*ask, "--reason", "again", code=2).stderr


def test_bad_requests_are_refused_in_a_line(jinshi: Jinshi) -> None:
    jinshi("source", "declare", "urn:cases", "--sealed")
    for arguments in (
        ("erase",),
        ("erase", "r-1", "--source", SOURCE),
        ("erase", "nobody", "--source", SOURCE, "--reason", "x"),
        ("erase", "r-1", "--source", "urn:cases", "--reason", "x"),
        ("erase", "--status", "--hold"),
        ("erase", "--source", SOURCE, "--lift", "--reason", "x"),
        ("source", "declare", SOURCE),
        ("source", "declare", "urn:a b", "--public"),
    ):
        jinshi(*arguments, code=2)
    jinshi("source", "declare", SOURCE, "--public", "--reveal", code=1)


# -- personal registers --------------------------------------------------------------------------------------------


def test_nothing_of_the_subjects_is_in_any_byte_of_a_site(jinshi: Jinshi) -> None:
    for place in (sites(jinshi), jinshi.directory / "台账"):
        for name, data in contents(place).items():
            for text in NAMES:
                assert text.encode() not in data, f"{text} is in {name}"
                assert text not in name


@pytest.mark.parametrize("mode", ["--personal", "--sealed", "--public"])
def test_a_register_comes_back_byte_for_byte_however_it_is_stored(tmp_path: Path, mode: str) -> None:
    jinshi = ledger_in(tmp_path)
    jinshi("source", "declare", SOURCE, mode)
    editions = {
        "2025": REGISTER.encode(),
        # a quoted value that need not be, a blank line: what only the raw text reproduces
        "2026": REGISTER.replace("r-2,李小红", 'r-2,"李小红"').replace("r-3", "\nr-3").replace("一号", "九号").encode(),
        "2027": REGISTER.replace("r-2,李小红,平安里二号\n", "").encode(),
    }
    for edition, data in editions.items():
        (tmp_path / "residents.csv").write_bytes(data)
        import_register(jinshi, edition)
        assert "recorded already" in import_register(jinshi, edition).out
    for edition, data in editions.items():
        assert jinshi("export", "--source", SOURCE, "--at", edition).stdout == data
    jinshi("replicate", "--once")
    out = jinshi("drill", "run", "--from", "same-city").out
    assert "3 editions of 1 registers" in out


def test_the_raw_text_of_an_erased_record_goes_with_it(tmp_path: Path) -> None:
    jinshi = ledger_in(tmp_path)
    jinshi("source", "declare", SOURCE, "--personal")
    (tmp_path / "residents.csv").write_text(REGISTER.replace("王小明", '"王小明"'))
    import_register(jinshi, "2026")
    erase(jinshi, "r-1")
    jinshi("replicate", "--once")
    assert "王小明" not in jinshi("log", "--all", "--json").out
    assert "李小红" in jinshi("log", "--all", "--json").out


def test_without_the_right_passphrase_what_is_sealed_stays_closed(jinshi: Jinshi) -> None:
    nobody = jinshi.with_environment(JINSHI_PASSPHRASE=None)
    assert "<sealed>" in nobody("log").out
    assert "王小明" not in nobody("log", "--all", "--json").out
    assert "no passphrase" in nobody("export", "--source", SOURCE, code=2).stderr
    wrong = jinshi.with_environment(JINSHI_PASSPHRASE="wrong")
    for arguments in (("export", "--source", SOURCE), ("log",), ("keys", "rotate")):
        assert "does not open" in wrong(*arguments, code=2).stderr
    jinshi("verify")
    assert jinshi("export", "--source", SOURCE).out == REGISTER


def test_an_audit_holds_a_site_to_what_it_says_of_an_erasure(jinshi: Jinshi) -> None:
    remote = sites(jinshi) / "remote"
    (keyring,) = remote.glob("*/keyring")
    before = {path.name: path.read_bytes() for path in keyring.iterdir()}
    erase(jinshi, "r-1")
    jinshi("replicate", "--once")
    jinshi("replicate", "--once")  # what the sites said has been recorded, and is shipped now
    for options in (["--site", "remote"], []):
        report = jinshi("audit", *options, "--open", "--registers", "--json").json
        checks = {check["name"]: check for check in report["checks"]}
        assert checks["erasure statements"]["outcome"] == "passed"
        assert checks["erasure statements"]["detail"].startswith("2 recorded")
        assert "1 more are erased" in checks["sealed data, opened"]["detail"]
        assert "1 more hold erased records and cannot be compared" in checks["registers"]["detail"]
    (gone,) = {name for name in before if name.startswith("subject-") and "." not in name} - keys_at(remote)
    (keyring / gone).write_bytes(before[gone])
    report = jinshi("audit", "--site", "remote", "--json", code=3).json
    (failed,) = [check for check in report["checks"] if check["outcome"] == "failed"]
    assert failed["name"] == "erasure statements"
    assert failed["findings"] == [{"key": f"keyring/{gone}", "what": "the site says that it is gone, and it is there"}]
