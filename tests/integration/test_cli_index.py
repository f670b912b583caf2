"""`index`, `show` and `--at`: searching by the record index; looking back by index, time, checkpoint and receipt."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.cli import EDITIONS, SOURCE, Jinshi, contents, events, import_areas, ledger_in


@pytest.fixture
def jinshi(tmp_path: Path) -> Jinshi:
    return ledger_in(tmp_path, "--no-sites")


def root(jinshi: Jinshi) -> Path:
    assert jinshi.ledger is not None
    return jinshi.ledger


def indexes(jinshi: Jinshi, *options: object) -> list[int]:
    return [one["index"] for one in jinshi("log", *options, "--json").json_lines]


# -- index ------------------------------------------------------------------------------------------------------------


def test_an_index_is_built_used_kept_up_to_date_and_dropped(jinshi: Jinshi) -> None:
    jinshi("append", stdin=events(30))
    assert "there is no record index" in jinshi("index", "status").out
    assert jinshi("index", "status", "--json").json == {"built": None, "size": 31, "bytes": 0}
    questions: tuple[tuple[str, ...], ...] = (
        ("--type", "thing.happened.v1"),
        ("--subject", "s3"),
        ("--actor", "local:nobody"),
        ("--since", "2020-01-01T00:00:00Z", "--limit", "3"),
    )
    before = contents(jinshi.directory)
    expected = [indexes(jinshi, *one) for one in questions]
    assert contents(jinshi.directory).keys() == before.keys(), "asking made nothing"
    assert jinshi("index", "build").out == "the record index covers 31 entries\n"
    assert [indexes(jinshi, *one) for one in questions] == expected
    jinshi("append", stdin=events(5, first=30))
    assert jinshi("index", "status", "--json").json["built"] == 31, "an append does not wait for it"
    assert indexes(jinshi, "--type", "thing.happened.v1")[-1] == 35
    assert jinshi("index", "status", "--json").json["built"] == 36
    assert "it says what the log says" in jinshi("index", "status", "--check").out
    jinshi("verify")
    assert jinshi("index", "drop").out == "the record index is dropped\n"
    assert jinshi("index", "drop").out == "there is no record index\n"
    assert not list(root(jinshi).glob("index*"))
    assert "there is no record index" in jinshi("index", "status", "--check", code=1).stderr


def test_a_damaged_index_costs_one_line_and_no_answer(jinshi: Jinshi) -> None:
    jinshi("append", stdin=events(30))
    jinshi("index", "build")
    expected = indexes(jinshi, "--type", "thing.happened.v1")
    file = root(jinshi) / "index.sqlite"
    file.write_bytes(b"x" * file.stat().st_size)
    assert "jinshi index build" in jinshi("index", "status", code=4).stderr
    ran = jinshi("--log-format", "json", "log", "--type", "thing.happened.v1", "--json")
    assert [one["index"] for one in ran.json_lines] == expected
    (line,) = ran.stderr.splitlines()
    assert json.loads(line)["level"] == "warning"
    assert str(file) in json.loads(line)["event"]
    assert jinshi("index", "status", "--json").json["built"] == 31
    file.write_bytes(b"x" * 10_000)
    assert jinshi("index", "build").out == "the record index covers 31 entries\n"


def test_an_index_that_was_forged_is_code_3(jinshi: Jinshi) -> None:
    import sqlite3

    jinshi("append", stdin=events(30))
    jinshi("index", "build")
    with sqlite3.connect(root(jinshi) / "index.sqlite") as db:
        db.execute("UPDATE record SET subject = 'nobody' WHERE position = 5")
    db.close()
    assert "entries 0 to 30" in jinshi("index", "status", "--check", code=3).stderr


@pytest.mark.parametrize("command", ["build", "status", "drop"])
def test_a_directory_that_is_no_ledger_gets_no_index(command: str, tmp_path: Path) -> None:
    assert "is no ledger" in Jinshi(tmp_path, tmp_path)("index", command, code=2).stderr
    assert list(tmp_path.iterdir()) == []


# -- looking back -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def divisions(tmp_path_factory: pytest.TempPathFactory) -> Jinshi:
    """Two editions and a few events, with a checkpoint of the first edition; for all who only read."""
    jinshi = ledger_in(tmp_path_factory.mktemp("divisions"), "--no-sites")
    import_areas(jinshi, EDITIONS[3])
    (checkpoint,) = (root(jinshi) / "published").rglob("checkpoint")
    (jinshi.directory / "then").write_bytes(checkpoint.read_bytes())
    import_areas(jinshi, EDITIONS[4])
    jinshi("append", stdin=events(3))
    jinshi("index", "build")
    return jinshi


def sealed(jinshi: Jinshi) -> int:
    return indexes(jinshi, "--type", "edition.sealed.v1")[0]


def moments(jinshi: Jinshi) -> list[str]:
    """The end of the first edition, as everything `--at` takes."""
    last = sealed(jinshi)
    recorded = jinshi("log", "--index", last, "--json").json["entry"]["recordedtime"]
    receipt = jinshi.directory / "receipt"
    if not receipt.exists():
        jinshi("prove", last, "-o", receipt)
    return [str(last), recorded, str(jinshi.directory / "then")]


def test_every_moment_means_the_same_to_log_history_show_and_export(divisions: Jinshi) -> None:
    last = sealed(divisions)
    for at in moments(divisions):
        ran = divisions("log", "--source", SOURCE, "--at", at, "--all", "--json")
        assert ran.json_lines[-1]["index"] == last
        assert ran.stderr == f"as of {at}: the first {last + 1:,} entries\n"
        assert "襄都区" not in divisions("history", "130502", "--at", at).out
        assert divisions("show", "130502", "--at", at, "--json").json["values"]["name"] == "桥东区"
        exported = divisions("export", "--source", SOURCE, "--at", at)
        assert exported.stderr == f"2,995 records: edition {EDITIONS[3]}, byte for byte\n"
    assert "襄都区" in divisions("history", "130502").out
    assert divisions("show", "130502", "--json").json["values"]["name"] == "襄都区"
    whole = divisions("log", "--at", divisions.directory / "receipt", "--limit", "1", "--json").json
    assert whole["index"] == indexes(divisions, "--limit", "1")[0], "the receipt is against the whole ledger"


def test_a_checkpoint_that_is_not_this_ledgers_is_no_moment(divisions: Jinshi, tmp_path: Path) -> None:
    other = ledger_in(tmp_path, "--no-sites")
    (checkpoint,) = (root(other) / "published").rglob("checkpoint")
    text = (divisions.directory / "then").read_text("utf-8")
    forged = tmp_path / "forged"
    forged.write_text(text.replace(f"\n{sealed(divisions) + 1}\n", "\n7\n", 1), "utf-8")
    for file, code in ((checkpoint, 3), (forged, 3), (root(divisions) / "jinshi.json", 2)):
        for command in (("log",), ("history", "130502"), ("show", "130502"), ("export", "--source", SOURCE)):
            divisions(*command, "--at", file, code=code)


def test_a_checkpoint_of_another_history_signed_by_the_same_log_is_told(tmp_path: Path) -> None:
    """The same key signed two histories: the one that is not here is refused, however genuine its signature."""
    import shutil

    jinshi = ledger_in(tmp_path, "--no-sites")
    other = jinshi.at(tmp_path / "other")
    shutil.copytree(root(jinshi), root(other))
    other("append", stdin=events(1, source="urn:other"))
    jinshi("append", stdin=events(2))
    (checkpoint,) = (root(other) / "published").rglob("checkpoint")
    assert "does not extend" in jinshi("log", "--at", checkpoint, code=3).stderr
    other("append", stdin=events(5))
    assert "is newer than the published one" in jinshi("log", "--at", checkpoint, code=2).stderr


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("log", "--at", "nonsense"), "'nonsense' is no index, no time and no checkpoint file"),
        (("log", "--at", "x" * 5_000), "is no index, no time and no checkpoint file"),
        (("log", "--at", "99999999"), "there is no entry 99999999"),
        (("log", "--at", "3", "--follow"), "--follow has no end"),
        (("history", "130502", "--at", "0"), "nothing is recorded of '130502' by then"),
        (("show", "130502", "--at", "2001-01-01T00:00:00Z"), "nothing is recorded of '130502' by then"),
        (("show", "nobody"), "nothing is recorded of 'nobody'"),
        (("show", "--source", "urn:nothing"), "nothing is recorded of urn:nothing"),
        (("show",), "neither a record nor a source"),
        (("export", "--source", SOURCE, "--at", "nonsense"), "no edition of urn:cn:divisions:areas, no index"),
    ],
)
def test_a_moment_that_is_none_is_code_2(arguments: tuple[str, ...], what: str, divisions: Jinshi) -> None:
    assert what in divisions(*arguments, code=2).stderr


# -- show -------------------------------------------------------------------------------------------------------------


def test_show_puts_a_record_together_at_any_point(jinshi: Jinshi) -> None:
    file = jinshi.directory / "a.csv"
    for edition, text in (("1", "k,v,w\na,1,x\nb,1,x\n"), ("2", "k,v,w\na,2,x\n"), ("3", "k,v\na,2\nb,9\n")):
        file.write_text(text)
        jinshi("import", file, "--source", "urn:r", "--key", "k", "--edition", edition)
    jinshi("append", stdin=events(1).replace(b"s0", b"a") + events(1, first=1).replace(b"s1", b"a"))
    first, second, third = indexes(jinshi, "--type", "edition.sealed.v1")
    by_subject = {
        at: {
            (one["source"], one["subject"]): one.get("values")
            for one in jinshi("show", "--source", "urn:r", "--at", at, "--json").json_lines
        }
        for at in (first, second, third)
    }
    assert by_subject == {
        first: {("urn:r", "a"): {"k": "a", "v": "1", "w": "x"}, ("urn:r", "b"): {"k": "b", "v": "1", "w": "x"}},
        second: {("urn:r", "a"): {"k": "a", "v": "2", "w": "x"}, ("urn:r", "b"): None},
        third: {("urn:r", "a"): {"k": "a", "v": "2"}, ("urn:r", "b"): {"k": "b", "v": "9"}},
    }
    assert "retired" in jinshi("show", "b", "--at", second).out
    register, stream = jinshi("show", "a", "--json").json_lines
    assert (register["source"], register["entries"]) == ("urn:r", 3)
    assert (stream["source"], stream["data"], stream["entries"]) == ("urn:test", {"n": 1}, 2)
    said = jinshi("show", "a").out
    assert "a of urn:r\n" in said
    assert "    v: 2\n" in said
    assert "    thing.happened.v1: n: 1\n" in said
    title, *lines = jinshi("show", "--source", "urn:r").out.splitlines()
    assert title.split() == ["SUBJECT", "ENTRY", "RECORDED", "ACTOR", "STATE"]
    assert [line.split()[0] for line in lines] == ["a", "b"]


def test_who_touched_a_record_between_two_moments_and_what_somebody_did(jinshi: Jinshi) -> None:
    jinshi("append", stdin=events(8))
    recorded = [one["entry"]["recordedtime"] for one in jinshi("log", "--all", "--json").json_lines]
    jinshi("append", stdin=events(8, first=8))
    touched = indexes(jinshi, "--subject", "s0")
    assert touched == [1, 8, 15]
    later = jinshi("log", "--all", "--json").json_lines[9]["entry"]["recordedtime"]
    assert indexes(jinshi, "--subject", "s0", "--recorded-until", later) == [1, 8]
    assert indexes(jinshi, "--subject", "s0", "--recorded-since", later) == [15]
    assert indexes(jinshi, "--subject", "s0", "--recorded-since", recorded[1], "--recorded-until", later) == [1, 8]
    actor = jinshi("log", "--index", "8", "--json").json["entry"]["actor"]
    assert indexes(jinshi, "--actor", actor, "--subject", "s0") == touched
    assert indexes(jinshi, "--actor", "local:nobody") == []


def test_a_person_is_shown_by_name_until_erased_and_again_when_they_come_back(jinshi: Jinshi) -> None:
    source = ("--source", "urn:residents")
    jinshi("source", "declare", "urn:residents", "--personal")
    file = jinshi.directory / "residents.csv"
    file.write_text("k,name\nr-1,王小明\nr-2,李小红\n", "utf-8")
    jinshi("import", file, *source, "--key", "k", "--edition", "1")
    jinshi("index", "build")
    last = indexes(jinshi, "--limit", "1")[0]
    assert jinshi("show", "r-1", "--json").json["values"]["name"] == "王小明"
    assert [one["subject"] for one in jinshi("show", *source, "--json").json_lines] == ["r-1", "r-2"]
    assert "r-1" not in (root(jinshi) / "index.sqlite").read_bytes().decode("latin-1"), "it holds pseudonyms only"
    second = jinshi.with_environment(LOGNAME="second", USER="second")
    jinshi("erase", "r-1", *source, "--reason", "request 2026-17")
    second("erase", "r-1", *source, "--approve")
    for at in ((), ("--at", last)):
        shown = jinshi("show", "r-1", *at)
        assert "r-1 of urn:residents\n  erased; last recorded" in shown.out
        assert "王小明" not in shown.out
        assert (jinshi("show", "r-1", *at, "--json").json["closed"], shown.code) == ("erased", 0)
    assert jinshi("show", "r-2", "--json").json["values"]["name"] == "李小红"
    jinshi("import", file, *source, "--key", "k", "--edition", "2")
    back = jinshi("show", "r-1", "--json").json
    assert (back["values"]["name"], back["entries"]) == ("王小明", 2)
