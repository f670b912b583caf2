"""What every command has in common: help, completion, exit codes, one readable line, pipes, locales."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.cli import COMMAND, EDITIONS, SOURCE, Jinshi, events, import_areas, ledger_in

COMMANDS = (
    "init",
    "classify",
    "asset add",
    "asset add-host",
    "asset list",
    "asset show",
    "asset amend",
    "asset pause",
    "asset resume",
    "asset retire",
    "doctor",
    "import",
    "append",
    "log",
    "history",
    "export",
    "show",
    "index build",
    "index status",
    "index drop",
    "browse",
    "cat",
    "rows",
    "content status",
    "content collect",
    "content release",
    "prove",
    "verify",
    "site add",
    "site list",
    "site status",
    "site serve",
    "site host",
    "site holdings",
    "site throttle",
    "witness init",
    "witness serve",
    "witness add",
    "witness submit",
    "replicate",
    "media init",
    "media export",
    "media import",
    "media receipt",
    "media check",
    "scrub",
    "status",
    "drill run",
    "capture",
    "mark",
    "restore asset",
    "restore group",
    "restore ledger",
    "restore predecessor",
    "profile list",
    "profile show",
    "profile set",
    "officer appoint",
    "officer list",
    "officer show",
    "officer grant",
    "officer withdraw",
    "officer certificate",
    "officer suspend",
    "officer reinstate",
    "officer dismiss",
    "officer acts",
    "officer approve",
    "officer reject",
    "officer policy show",
    "officer policy amend",
    "tsa init",
    "tsa renew",
    "tsa show",
    "tsa amend",
    "tsa retire",
    "tsa verify",
    "cert show",
    "cert list",
    "cert export",
    "ca init",
    "ca create",
    "ca list",
    "ca show",
    "ca export",
    "ca rollover",
    "ca retire",
    "ca amend",
    "ca request",
    "ca take-in",
    "ca cross-certify",
    "ca import",
    "ca strays",
    "ca ceremony plan",
    "ca ceremony run",
    "ca ceremony show",
    "ca ceremony list",
    "ca keys list",
    "ca keys recover",
    "ca keys retire",
    "cert revoke",
    "cert hold",
    "cert release",
    "cert issue",
    "ra request",
    "ra approve",
    "ra reject",
    "ra withdraw",
    "ra list",
    "ra show",
    "ra bulk",
    "ra expiring",
    "ra recover",
    "ra identity add",
    "ra identity vet",
    "ra identity list",
    "ra identity show",
    "ra identity suspend",
    "ra identity resume",
    "ra identity withdraw",
    "crl issue",
    "crl list",
    "crl show",
    "crl take-in",
    "crl responder",
    "crl status",
    "crl publish-to",
    "crl publish",
    "crl serve",
    "acme eab new",
    "acme eab list",
    "acme eab revoke",
    "acme accounts list",
    "acme accounts show",
    "acme accounts deactivate",
)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_every_command_has_examples(command: str, tmp_path: Path) -> None:
    shown = Jinshi(tmp_path)(*command.split(), "--help").out
    _, found, examples = shown.partition("Examples")
    assert found
    assert f"jinshi {command}" in " ".join(examples.split()).replace("jinshi --ledger /srv/restored", "jinshi")


def test_the_help_lists_every_command(tmp_path: Path) -> None:
    shown = Jinshi(tmp_path)("--help").out
    listed = {line.split()[1] for line in shown.splitlines() if line.startswith("│ ") and line[2] != " "}
    assert {command.split()[0] for command in COMMANDS} <= listed


@pytest.mark.parametrize("arguments", [[], ["asset"], ["site"], ["media"], ["drill"], ["restore"]])
def test_a_group_alone_shows_its_help_and_is_a_usage_error(arguments: list[str], tmp_path: Path) -> None:
    assert "Usage" in Jinshi(tmp_path)(*arguments, code=2).out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_produced_and_completes(shell: str, tmp_path: Path) -> None:
    script = Jinshi(tmp_path, environment={"_JINSHI_COMPLETE": f"source_{shell}"}).process().out
    assert "_JINSHI_COMPLETE" in script
    if shell == "bash":
        asked = {"_JINSHI_COMPLETE": "complete_bash", "COMP_WORDS": "jinshi re", "COMP_CWORD": "1"}
        assert Jinshi(tmp_path, environment=asked).process().out.split() == ["replicate", "restore"]


def test_show_completion_works_from_a_shell(tmp_path: Path) -> None:
    shell = subprocess.run(
        ["bash", "-c", f'"{COMMAND}" --show-completion; exit $?'], capture_output=True, text=True, check=False
    )
    assert shell.returncode == 0, shell.stderr
    assert "complete" in shell.stdout


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["nosuch"], "No such command 'nosuch'"),
        (["log", "--nope"], "No such option: --nope"),
        (["log", "--limit", "0"], "--limit"),
        (["prove", "x"], "INDEX"),
        (["import"], "Missing argument 'FILE'"),
        (["status", "extra"], "unexpected extra argument"),
        (["--log-format", "xml", "status"], "--log-format"),
        (["drill", "run"], "--from"),
        (["restore", "ledger", "--from", "x"], "--policy"),
        (["log", "--index", "1..x"], "is no index"),
        (["log", "--since", "yesterday"], "no RFC 3339 time"),
        (["log", "--follow", "--index", "3"], "--follow has no end"),
        (["verify", "--entry", "x"], "with its receipt"),
        (["verify", "--at-least", "3"], "--site NAME"),
        (["verify", "x.tlog-proof", "--site", "remote"], "by itself"),
        (["verify", "x.tlog-proof"], "no entry is given"),
    ],
)
def test_wrong_usage_is_code_2_and_says_what_is_wrong(arguments: list[str], what: str, tmp_path: Path) -> None:
    assert what in Jinshi(tmp_path, tmp_path / "ledger")(*arguments, code=2).stderr


@pytest.mark.parametrize("arguments", [["status"], ["log"], ["verify"], ["site", "list"], ["replicate", "--once"]])
def test_a_directory_that_is_no_ledger_is_named(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for place in (tmp_path, tmp_path / "nothing", tmp_path / "file", tmp_path / "file" / "below"):
        assert f"{place} is no ledger" in Jinshi(tmp_path, place)(*arguments, code=2).stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"], "asking made nothing"


def test_no_ledger_at_all_says_how_to_name_one(tmp_path: Path) -> None:
    assert "JINSHI_LEDGER" in Jinshi(tmp_path)("status", code=2).stderr


def test_an_error_as_json_is_one_json_line(tmp_path: Path) -> None:
    jinshi = Jinshi(tmp_path, tmp_path)
    for arguments, kind in ((["status"], "InvalidRequest"), (["nosuch"], "InvalidRequest")):
        (line,) = jinshi("--log-format", "json", *arguments, code=2).stderr.splitlines()
        error = json.loads(line)
        assert (error["level"], error["kind"]) == ("error", kind)
        assert error["event"]
        assert error["hint"]


def test_a_broken_settings_file_is_explained(tmp_path: Path) -> None:
    jinshi = ledger_in(tmp_path, "--no-sites")
    assert jinshi.ledger
    file = jinshi.ledger / "jinshi.json"
    good = file.read_text("utf-8")
    for text, what in (
        (good[:-20], "is not JSON"),
        ("[]", "is not a JSON object"),
        (good.replace('"origin"', '"orign"'), "did you mean 'origin'?"),
        (good.replace('"format": 1', '"format": 2'), "has format 2"),
        (good.replace('"sites": []', '"sites": [{"name": "x"}]'), "'url' is missing"),
        (good.replace('"sites": []', '"sites": 5'), "'sites' is not a list"),
    ):
        file.write_text(text, "utf-8")
        assert what in jinshi("status", code=2).stderr


def test_the_reader_of_a_pipe_may_leave(tmp_path: Path) -> None:
    jinshi = ledger_in(tmp_path, "--no-sites")
    import_areas(jinshi, EDITIONS[0])
    for arguments in (["log", "--all"], ["log", "--all", "--json"], ["export", "--source", SOURCE]):
        with jinshi.start(*arguments) as process:
            assert process.stdout
            assert process.stderr
            assert process.stdout.readline()
            process.stdout.close()
            assert process.stderr.read() in (b"", b"2,856 records: edition 2018-02-04, byte for byte\n")
            assert process.wait() == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize(
    "arguments", [["status"], ["status", "--json"], ["log"], ["export", "--source", SOURCE], ["--help"]]
)
def test_an_output_that_is_full_is_code_4(arguments: list[str], tmp_path: Path) -> None:
    jinshi = ledger_in(tmp_path, "--no-sites")
    import_areas(jinshi, EDITIONS[0], small=True)
    with Path("/dev/full").open("wb") as full:
        ran = jinshi.process(*arguments, code=4, stdout=full)
    assert os.strerror(errno.ENOSPC) in ran.stderr


@pytest.mark.parametrize("language", ["C", "POSIX", "zh_CN.GB18030", ""])
def test_chinese_data_and_paths_are_shown_in_any_locale(language: str, tmp_path: Path) -> None:
    jinshi = ledger_in(tmp_path).with_environment(LANG=language, LC_ALL=language)
    import_areas(jinshi, EDITIONS[0], small=True)
    file = tmp_path / "登记.csv"
    file.write_text("编号,名称\n一,甲\n", "utf-8")
    jinshi.process("import", file, "--source", "urn:登记", "--key", "编号", "--edition", "二〇一八年")
    assert "东城区" in jinshi.process("history", "110101").out
    assert "甲" in jinshi.process("log", "--source", "urn:登记").out
    assert jinshi.process("export", "--source", "urn:登记", "--at", "二〇一八年").stdout == file.read_bytes()
    assert str(jinshi.ledger) in jinshi.process("status").out
    assert "'二号'" in jinshi.process("history", "二号", code=2).stderr


def test_arguments_that_are_no_text_are_refused_in_words(tmp_path: Path) -> None:
    jinshi = ledger_in(tmp_path, "--no-sites")
    import_areas(jinshi, EDITIONS[0], small=True)
    bad = os.fsdecode(b"\xff\xfe")
    file = tmp_path / f"{EDITIONS[0]}.csv"
    for arguments in (
        ["history", bad],
        ["log", "--subject", bad],
        ["export", "--source", bad],
        ["export", "--source", SOURCE, "--at", bad],
        ["import", str(file), "--source", bad, "--key", "code"],
        ["import", str(file), "--source", SOURCE, "--key", bad],
        ["import", str(file), "--source", "urn:x", "--key", "code", "--edition", bad],
        ["import", bad, "--source", SOURCE, "--key", "code"],
        ["site", "add", bad, str(tmp_path / "site")],
        ["restore", "ledger", "--from", bad, "--policy", bad, "--to", str(tmp_path / "new")],
    ):
        jinshi.process(*arguments, code=2)


def test_what_a_producer_sent_cannot_steer_the_terminal(tmp_path: Path) -> None:
    jinshi = ledger_in(tmp_path, "--no-sites")
    line = {
        "specversion": "1.0",
        "id": "1",
        "source": "urn:x",
        "type": "a.v1",
        "subject": "s",
        "data": "\x1b[2J\u202eevil\n",
    }
    jinshi("append", stdin=json.dumps(line, ensure_ascii=False).encode() + b"\n")
    for shown in (jinshi("log", "--subject", "s").out, jinshi("history", "s").out):
        assert "\x1b" not in shown
        assert "\u202e" not in shown
        assert "\\x1b[2J\\u202eevil\\n" in shown
    assert jinshi("log", "--subject", "s", "--json").json["unsealed"]["data"] == "\x1b[2J\u202eevil\n"


def test_two_processes_writing_one_ledger_the_second_is_told_who_the_first_is(tmp_path: Path) -> None:
    jinshi = ledger_in(tmp_path)
    import_areas(jinshi, EDITIONS[0], small=True)
    with jinshi.start("append", "--json") as first:
        assert first.stdin
        assert first.stdout
        first.stdin.write(events(1))
        first.stdin.flush()
        assert json.loads(first.stdout.readline())["index"] > 0  # from here on it holds the lock
        file = tmp_path / f"{EDITIONS[0]}.csv"
        for arguments in (
            ["append"],
            ["import", file, "--source", "urn:again", "--key", "code"],
            ["site", "add", "third", tmp_path / "third"],
        ):
            refused = jinshi(*arguments, code=4, stdin=events(1, first=5))
            assert f"being written by another process (pid {first.pid})" in refused.stderr
        jinshi("log")
        jinshi("verify")
        jinshi("replicate", "--once")  # ships what the writer has published
        first.stdin.close()
        assert first.wait() == 0
    assert not (tmp_path / "third").exists()
    assert jinshi("append", "--json", stdin=events(2)).json_lines[0]["repeated"]


def test_a_writer_that_was_killed_holds_nothing(tmp_path: Path) -> None:
    jinshi = ledger_in(tmp_path, "--no-sites")
    with jinshi.start("append", "--json") as first:
        assert first.stdin
        assert first.stdout
        first.stdin.write(events(3))
        first.stdin.flush()
        acknowledged = [json.loads(first.stdout.readline())["index"] for _ in range(3)]
        first.kill()
        assert first.wait() == -signal.SIGKILL
    again = jinshi("append", "--json", stdin=events(4)).json_lines
    assert [one["index"] for one in again[:3]] == acknowledged
    assert [one["repeated"] for one in again] == [True, True, True, False]
    assert "5 of them signed" in jinshi("verify").out


def test_an_interrupt_ends_an_append_that_waits_for_input(tmp_path: Path) -> None:
    jinshi = ledger_in(tmp_path, "--no-sites")
    with jinshi.start("append", "--json") as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        process.stdin.write(events(1))
        process.stdin.flush()
        assert process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130
        assert process.stderr.read() == b"jinshi: interrupted; nothing acknowledged is lost, the next run carries on\n"
    assert "2 of them signed" in jinshi("verify").out


def test_an_append_whose_places_nobody_reads_is_no_success(tmp_path: Path) -> None:
    jinshi = ledger_in(tmp_path, "--no-sites")
    with jinshi.start("append", "--json") as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        process.stdin.write(events(3))
        process.stdin.close()
        assert b"nobody reads the places any more" in process.stderr.read()
        assert process.wait() == 4
    assert all(one["repeated"] for one in jinshi("append", "--json", stdin=events(3)).json_lines)


def test_following_the_log_shows_what_is_recorded_from_now_on(tmp_path: Path) -> None:
    jinshi = ledger_in(tmp_path, "--no-sites")
    jinshi("append", stdin=events(2))
    with jinshi.start("log", "--follow", "--json", "--source", "urn:test", "--limit", "1") as process:
        assert process.stdout
        assert json.loads(process.stdout.readline())["index"] == 2
        jinshi("append", stdin=events(1, source="urn:other"))
        jinshi("append", stdin=events(2, first=2))
        assert [json.loads(process.stdout.readline())["index"] for _ in range(2)] == [4, 5]
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130
