"""A sealed ledger restored with nothing of the primary left: one site, and the offline recovery key."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ledger.core.checkpoint import origin_prefix
from tests.support.cli import Jinshi, contents, events

ORIGIN = "ledger.test/sealed"
SOURCE, PERSONAL = "urn:test", "urn:residents"
CUSTODIANS = "the custodians' own passphrase"


@pytest.fixture
def lost(tmp_path: Path) -> Jinshi:
    """What is left of a ledger with sealed and personal entries: its remote site, its policy, its recovery key."""
    jinshi = Jinshi(tmp_path, tmp_path / "ledger").with_environment(JINSHI_PASSPHRASE=CUSTODIANS)
    jinshi("init", tmp_path / "ledger", "--origin", ORIGIN, "--sealed")
    jinshi("source", "declare", PERSONAL, "--personal")
    jinshi("append", stdin=events(5) + events(9, source=PERSONAL))
    jinshi("replicate", "--once")
    shutil.copy(tmp_path / "ledger-keys" / "recovery.key", tmp_path / "recovery.key")
    shutil.copy(tmp_path / "ledger" / "trust.policy", tmp_path / "trust.policy")
    (tmp_path / "custodians").write_text(CUSTODIANS)
    (tmp_path / "ledger-sites" / "remote").rename(tmp_path / "remote")
    for name in ("ledger", "ledger-keys", "ledger-sites"):
        shutil.rmtree(tmp_path / name)
    return jinshi.at(tmp_path / "restored").with_environment(JINSHI_PASSPHRASE="a new one")


def restore(lost: Jinshi, *more: object, code: int = 0) -> str:
    root = lost.directory
    place = ("--from", root / "remote", "--policy", root / "trust.policy", "--to", root / "restored")
    ran = lost.at(None)("restore", "ledger", *place, *more, code=code)
    return ran.out + ran.stderr


def custodians(lost: Jinshi) -> tuple[object, ...]:
    root = lost.directory
    return "--recovery-key", root / "recovery.key", "--recovery-passphrase-file", root / "custodians"


def read(jinshi: Jinshi, source: str) -> list[int]:
    lines = jinshi("log", "--source", source, "--all", "--json").json_lines
    return [line["unsealed"]["data"]["n"] for line in lines]


def test_one_site_and_the_recovery_key_bring_everything_back(lost: Jinshi) -> None:
    assert "cannot be opened" not in restore(lost, *custodians(lost))
    assert (read(lost, SOURCE), read(lost, PERSONAL)) == (list(range(5)), list(range(9)))
    lost("append", stdin=events(7) + events(10, source=PERSONAL))
    assert (read(lost, SOURCE), read(lost, PERSONAL)) == (list(range(7)), list(range(10))), "nothing is recorded twice"
    lost("verify")
    lost("site", "add", "remote", lost.directory / "remote")
    lost("replicate", "--once")
    assert "17 sealed entries opened" in lost("drill", "run", "--from", "remote").out
    lost("keys", "rotate")
    assert read(lost, PERSONAL) == list(range(10))


def test_without_it_everything_is_there_and_opens_once_the_custodians_come(lost: Jinshi) -> None:
    assert "cannot be opened yet" in restore(lost)
    lost("verify")
    assert "<sealed>" in lost("log").out
    assert "keys recover" in lost("append", code=2, stdin=events(7)).stderr
    recover = ("keys", "recover", *custodians(lost))
    wrong = ("keys", "recover", "--recovery-key", lost.directory / "recovery.key")
    assert "does not open" in lost(*wrong, code=2).stderr
    lost(*recover)
    lost(*recover)
    assert (read(lost, SOURCE), read(lost, PERSONAL)) == (list(range(5)), list(range(9)))
    lost("append", stdin=events(7))
    assert read(lost, SOURCE) == list(range(7))


def test_a_wrong_recovery_key_restores_nothing_half(lost: Jinshi) -> None:
    other = lost.at(lost.directory / "other")
    other("init", lost.directory / "other", "--sealed")
    key = lost.directory / "other-keys" / "recovery.key"
    assert "does not open with this recovery key" in restore(lost, "--recovery-key", key, code=3)
    assert not (lost.directory / "restored").exists()
    restore(lost, *custodians(lost))
    assert read(lost, SOURCE) == list(range(5))


@pytest.mark.parametrize("how", ["missing", "another"])
def test_a_site_whose_data_key_is_missing_or_another_is_refused(lost: Jinshi, how: str) -> None:
    keyring = lost.directory / "remote" / origin_prefix(ORIGIN) / "keyring"
    victim = next(path for path in sorted(keyring.iterdir()) if path.name.startswith("subject-") and not path.suffix)
    data = victim.read_bytes()
    victim.unlink()
    if how == "another":
        victim.write_bytes(data.replace(PERSONAL.encode(), b"urn:strangers"))
    before = contents(lost.directory / "remote")
    if how == "another":
        assert victim.name in restore(lost, *custodians(lost), code=3)
    else:
        restore(lost, *custodians(lost))
        assert victim.name in lost("verify", code=3).stderr
    assert contents(lost.directory / "remote") == before
