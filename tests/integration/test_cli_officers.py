"""`jinshi officer` and `jinshi log --actor`: from the founder to three administrators, and everything somebody did."""

from __future__ import annotations

from pathlib import Path

import pytest

from pki.access.policy import shipped
from tests.support.certificates import Authority
from tests.support.cli import Jinshi, events, ledger_in

STAFF = {"wang": "system-administrator", "zhao": "audit-administrator", "qian": "security-administrator"}


@pytest.fixture
def founded(tmp_path: Path) -> Jinshi:
    jinshi = ledger_in(tmp_path)
    for name, role in STAFF.items():
        jinshi("officer", "appoint", name, "--role", role, "--local", name)
    return jinshi


def as_(jinshi: Jinshi, user: str) -> Jinshi:
    return jinshi.with_environment(LOGNAME=user)


def test_the_three_administrators_are_appointed_and_the_founder_is_one_no_more(founded: Jinshi) -> None:
    assert "may not officer.list" in founded("officer", "list", code=2).stderr
    qian = as_(founded, "qian")
    listed = {one["officer"]: one["roles"] for one in qian("officer", "list", "--json").json_lines}
    assert listed == {name: [role] for name, role in STAFF.items()}
    refused = qian("officer", "grant", "wang", "audit-administrator", code=1).stderr
    assert "kept apart" in refused


def test_what_is_done_to_an_administrator_waits_for_a_second_one(founded: Jinshi) -> None:
    qian, zhao = as_(founded, "qian"), as_(founded, "zhao")
    asked = ["officer", "appoint", "sun", "--role", "security-administrator", "--local", "sun"]
    assert "has to be confirmed by 1 more" in qian(*asked, code=2).stderr
    [act] = qian("officer", "acts", "--json").json_lines
    assert "requester-never-approves" in qian("officer", "approve", act["act"], code=2).stderr
    assert "qian can do it now" in zhao("officer", "approve", act["act"]).out
    assert qian(*asked).out == "sun is security-administrator\n"
    assert "spent" in zhao("officer", "acts", "--all").out


def test_everything_an_officer_did_is_shown_by_name_whatever_was_shown_then(founded: Jinshi, tmp_path: Path) -> None:
    qian = as_(founded, "qian")
    authority = Authority(tmp_path)
    certificate = authority.issue("chen").certificate
    qian("officer", "appoint", "chen", "--role", "ra-officer", "--local", "chen", "--certificate", certificate)
    chen = as_(founded, "chen")
    chen("append", stdin=events(1))
    qian("officer", "certificate", "chen", "--remove", "local:chen")
    assert "is not officer chen's any more" in chen("officer", "list", code=2).stderr
    shown = founded("log", "--actor", "chen", "--all", "--json").json_lines
    # The summary of what was refused is recorded by whoever ran the process.
    assert [one["entry"]["type"] for one in shown] == ["thing.happened.v1", "access.refused.v1"]
    assert "no officer 'nobody'" in founded("log", "--actor", "nobody", code=2).stderr
    unsealed = founded.with_environment(JINSHI_PASSPHRASE=None)
    assert "is sealed" in unsealed("log", "--actor", "chen", code=2).stderr
    by_qian = [one["entry"]["type"] for one in founded("log", "--actor", "qian", "--all", "--json").json_lines]
    assert by_qian[:1] == ["officer.appointed.v1"]
    assert by_qian[-1] == "officer.identity-removed.v1"
    assert "known by x509:" in qian("officer", "show", "chen").out


def test_policies_are_shown_checked_and_amended_by_two(founded: Jinshi, tmp_path: Path) -> None:
    qian, zhao, sun = as_(founded, "qian"), as_(founded, "zhao"), as_(founded, "sun")
    asked = ["officer", "appoint", "sun", "--role", "security-administrator", "--local", "sun"]
    qian(*asked, code=2)
    zhao("officer", "approve", qian("officer", "acts", "--json").json["act"])
    qian(*asked)
    file = tmp_path / "policies.cedar"
    file.write_text(
        shipped("roles.cedar") + '@id("none") forbid (principal, action == Action::"key.destroy", resource);'
    )
    amend = ["officer", "policy", "amend", file, "--because", "keys stay"]
    qian(*amend, code=2)
    [act] = qian("officer", "acts", "--json").json_lines
    assert "no policy allows it" in zhao("officer", "approve", act["act"], code=2).stderr
    sun("officer", "approve", act["act"])
    assert qian(*amend).out == "version 1 of the policies counts from now on\n"
    assert '@id("none")' in zhao("officer", "policy", "show").out
    file.write_text("permit (")
    assert "are not Cedar" in qian(*amend, code=2).stderr


def test_what_is_refused_on_the_command_line_is_recorded(founded: Jinshi) -> None:
    stranger = as_(founded, "stranger")
    for _ in range(2):
        stranger("officer", "list", code=2)
    shown = founded("log", "--type", "access.refused.v1", "--json").json_lines
    assert [one["entry"]["actor"] for one in shown] == ["local:stranger"] * 2
