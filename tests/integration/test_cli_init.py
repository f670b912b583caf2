"""`jinshi init` and the passphrase: all or nothing, and nothing is ever overwritten."""

from __future__ import annotations

import os
import pty
import subprocess
from pathlib import Path

import pytest

from cli.making.create import Place
from tests.support.cli import COMMAND, PASSPHRASE, Jinshi, contents, events, ledger_in


def test_init_alone_gives_a_working_ledger_with_two_sites(tmp_path: Path) -> None:
    jinshi = Jinshi(tmp_path, tmp_path / "台账")
    said = jinshi("init", jinshi.ledger).out
    for name in ("recovery.key", "*.mirror.key", "trust.policy"):
        assert str(tmp_path / "台账-keys" / name) in said, "a line on where each belongs"
    assert {path.name for path in (tmp_path / "台账-sites").iterdir()} == {"same-city", "remote"}
    assert {path.name for path in (tmp_path / "台账-keys").iterdir()} == {
        "recovery.key",
        "same-city.mirror.key",
        "remote.mirror.key",
        "trust.policy",
    }
    for key in [*(tmp_path / "台账-keys").glob("*.key"), tmp_path / "台账" / "keys" / "log.key"]:
        assert key.stat().st_mode & 0o777 == 0o600
    jinshi("append", stdin=events(3))
    jinshi("replicate", "--once")
    status = jinshi("status", "--json").json
    assert status["tree_size"] == status["published_size"] == 6
    assert [(site["name"], site["size"], site["lag_entries"]) for site in status["sites"]] == [
        ("same-city", 6, 0),
        ("remote", 6, 0),
    ]
    assert not any(path.name.startswith(".") for path in tmp_path.iterdir()), "nothing half made is left"


def test_the_options_of_init(tmp_path: Path) -> None:
    jinshi = Jinshi(tmp_path, tmp_path / "l")
    jinshi("init", tmp_path / "l", "--no-sites", "--keys", tmp_path / "usb", "--origin", "ledger.example.gov/2026")
    assert jinshi("status", "--json").json["origin"] == "ledger.example.gov/2026"
    assert (tmp_path / "usb" / "recovery.key").is_file()
    assert not (tmp_path / "l-sites").exists()
    assert "no sites: nothing protects this ledger" in jinshi("status").out
    for origin in ("", "a b", "a+b", "x" * 201, "a\nb"):
        jinshi("init", tmp_path / "other", "--origin", origin, code=2)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("taken", ["台账", "台账-keys", "台账-sites"])
def test_nothing_is_overwritten(taken: str, tmp_path: Path) -> None:
    (tmp_path / taken).mkdir()
    (tmp_path / taken / "mine").write_text("precious")
    jinshi = Jinshi(tmp_path)
    assert f"{tmp_path / taken} is there already" in jinshi("init", tmp_path / "台账", code=2).stderr
    visible = {name: data for name, data in contents(tmp_path).items() if not name.startswith(".")}
    assert visible == {f"{taken}/mine": b"precious"}


def test_a_parent_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert f"{tmp_path / 'no'} is not there" in Jinshi(tmp_path)("init", tmp_path / "no" / "l", code=2).stderr
    (tmp_path / "file").write_text("x")
    Jinshi(tmp_path)("init", tmp_path / "file" / "l", code=2)


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_an_init_killed_at_its_renames_is_finished_by_repeating_it(
    renames: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle, done = Place.settle, 0

    def settle_some(place: Place) -> None:
        nonlocal done
        if done == renames:
            raise KeyboardInterrupt
        done += 1
        settle(place)

    jinshi = Jinshi(tmp_path, tmp_path / "l")
    with monkeypatch.context() as patched:
        patched.setattr(Place, "settle", settle_some)
        assert jinshi("init", tmp_path / "l", "--origin", "a/b", code=130).stderr.startswith("jinshi: interrupted;")
    assert not (tmp_path / "l").exists(), "what is not finished is no ledger"
    assert "an interrupted init has built a/b" in jinshi("init", tmp_path / "l", "--origin", "c", code=2).stderr
    assert "does not open" in jinshi.with_environment(JINSHI_PASSPHRASE="other")("init", tmp_path / "l", code=2).stderr
    assert "an interrupted init was finished" in jinshi("init", tmp_path / "l").out
    assert jinshi("status", "--json").json["origin"] == "a/b"
    jinshi("replicate", "--once")
    jinshi("init", tmp_path / "l", code=2)


def test_an_init_killed_half_way_is_begun_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jinshi = Jinshi(tmp_path, tmp_path / "l")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("cli.making.create.sync_tree", interrupted)
        jinshi("init", tmp_path / "l", code=130)
    jinshi("init", tmp_path / "l")
    jinshi("replicate", "--once")
    assert not any(path.name.startswith(".") for path in tmp_path.iterdir())


# -- the passphrase ---------------------------------------------------------------------------------------------------


def test_the_passphrase_comes_from_a_file_before_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "口令"
    file.write_text("from the file\n", "utf-8")
    jinshi = Jinshi(tmp_path, tmp_path / "l")
    jinshi("--passphrase-file", file, "init", tmp_path / "l")
    assert "does not open" in jinshi("append", code=2).stderr
    jinshi.with_environment(JINSHI_PASSPHRASE="from the file")("append")
    file.write_text("from the file\r\n", "utf-8")
    jinshi("--passphrase-file", file, "append")


@pytest.mark.parametrize("command", [["append"], ["replicate", "--once"], ["drill", "run", "--from", "remote"]])
def test_a_wrong_passphrase_is_code_2_and_changes_nothing(command: list[str], tmp_path: Path) -> None:
    jinshi = ledger_in(tmp_path)
    jinshi("append", stdin=events(1))
    before = jinshi("status", "--json").json["tree_size"]
    refused = jinshi.with_environment(JINSHI_PASSPHRASE="wrong")(*command, code=2, stdin=events(5))
    assert "the passphrase is wrong" in refused.stderr
    assert jinshi("status", "--json").json["tree_size"] == before


def test_no_passphrase_and_no_terminal_says_how_to_give_one(tmp_path: Path) -> None:
    jinshi = ledger_in(tmp_path, "--no-sites").with_environment(JINSHI_PASSPHRASE=None)
    assert "JINSHI_PASSPHRASE" in jinshi("append", code=2).stderr
    assert "empty" in jinshi.with_environment(JINSHI_PASSPHRASE="")("append", code=2).stderr
    assert "cannot be read" in jinshi("--passphrase-file", tmp_path / "no", "append", code=2).stderr
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    assert "not UTF-8" in jinshi("--passphrase-file", tmp_path / "binary", "append", code=2).stderr
    bad = os.fsdecode(b"\xff")
    assert "not UTF-8" in jinshi.with_environment(JINSHI_PASSPHRASE=bad).process("append", code=2).stderr
    jinshi("log")
    jinshi("verify")
    jinshi("status")


@pytest.mark.parametrize(("again", "code"), [(PASSPHRASE, 0), ("another", 2)])
def test_on_a_terminal_the_passphrase_is_asked_for_twice(again: str, code: int, tmp_path: Path) -> None:
    jinshi = Jinshi(tmp_path).with_environment(JINSHI_PASSPHRASE=None)
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [COMMAND, "init", tmp_path / "l"],
        env=jinshi.environ(),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        preexec_fn=lambda: os.login_tty(theirs) if hasattr(os, "login_tty") else _take_terminal(theirs),
    ) as process:
        os.close(theirs)
        seen = _until(ours, b"keys: ")
        os.write(ours, PASSPHRASE.encode() + b"\n")
        seen += _until(ours, b"Again: ")
        os.write(ours, again.encode() + b"\n")
        seen += _until(ours, None)
        assert process.wait() == code, seen
    os.close(ours)
    assert PASSPHRASE.encode() not in seen, "it is never shown"
    if code:
        assert b"the two passphrases differ" in seen
        assert not (tmp_path / "l").exists()
    else:
        Jinshi(tmp_path, tmp_path / "l")("append")


def _take_terminal(descriptor: int) -> None:
    import fcntl
    import termios

    os.setsid()
    fcntl.ioctl(descriptor, termios.TIOCSCTTY, 0)


def _until(descriptor: int, text: bytes | None) -> bytes:
    """What the terminal shows up to `text`; None: up to its end."""
    seen = b""
    while text is None or text not in seen:
        try:
            data = os.read(descriptor, 4096)
        except OSError:  # Linux reports the end of a terminal as EIO
            data = b""
        if not data:
            assert text is None, seen
            return seen
        seen += data
    return seen


def test_status_json_has_what_a_monitor_needs(tmp_path: Path) -> None:
    jinshi = ledger_in(tmp_path)
    jinshi("append", stdin=events(2))
    status = jinshi("status", "--json").json
    assert {"origin", "tree_size", "root_hash", "published_size", "sites"} <= status.keys()
    assert len(bytes.fromhex(status["root_hash"])) == 32
    for site in status["sites"]:
        assert {"name", "size", "lag_entries", "lag_s", "last_cosigned", "reachable", "problem"} <= site.keys()
        assert (site["size"], site["lag_entries"], site["last_cosigned"]) == (0, 5, None)
        assert site["lag_s"] >= 0
    jinshi("replicate", "--once", "--site", "remote")
    same_city, remote = jinshi("status", "--json").json["sites"]
    assert (same_city["lag_entries"], remote["lag_entries"], remote["lag_s"]) == (5, 0, 0)
    assert remote["last_cosigned"]
    shown = jinshi("status").out
    assert "behind" in shown
    assert "fine" in shown
    listed = jinshi("site", "status", "--json").json_lines
    assert [{**one, "lag_s": 0} for one in listed] == [{**one, "lag_s": 0} for one in (same_city, remote)]
