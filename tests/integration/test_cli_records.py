"""`import`, `append`, `log`, `history` and `export`, option by option."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from cli.config import read_environment
from tests.support.cli import DIVISIONS, EDITIONS, SOURCE, Jinshi, contents, events, import_areas, ledger_in


@pytest.fixture
def jinshi(tmp_path: Path) -> Jinshi:
    return ledger_in(tmp_path, "--no-sites")


def size(jinshi: Jinshi) -> int:
    tree_size: int = jinshi("status", "--json").json["tree_size"]
    return tree_size


def write(jinshi: Jinshi, name: str, data: bytes) -> Path:
    file = jinshi.directory / name
    file.write_bytes(data)
    return file


NOISE = b"".join(hashlib.sha256(b"%d" % number).hexdigest().encode() for number in range(1_600))
"""More than fits an entry, however it is packed."""
SMALL = "编号,名称\n1,甲\n2,乙\n".encode()
REGISTER = ("--source", "urn:登记", "--key", "编号")


# -- import -----------------------------------------------------------------------------------------------------------


def test_import_says_what_changed_in_words_and_as_json(jinshi: Jinshi) -> None:
    file = write(jinshi, "台账.csv", SMALL)
    said = jinshi("import", file, *REGISTER, "--edition", "一").out
    assert said == "edition 一: 2 records, 2 added, 0 amended, 0 retired; sealed by entry 3\n"
    file.write_bytes("编号,名称\n2,新乙\n3,丙\n".encode())
    done = jinshi("import", file, *REGISTER, "--edition", "二", "--time", "2020-02-27T08:00:00+08:00", "--json").json
    assert done == {
        "edition": "二",
        "index": 7,
        "count": 2,
        "added": 1,
        "amended": 1,
        "retired": 1,
        "repeated": False,
    }
    again = jinshi("import", file, *REGISTER, "--edition", "二")
    assert again.out == "edition 二 is recorded already (entry 7); nothing was added\n"
    assert jinshi("import", file, *REGISTER, "--edition", "二", "--json").json["repeated"]
    assert size(jinshi) == 8


def test_import_reads_other_encodings_delimiters_and_pipes(jinshi: Jinshi) -> None:
    gb = "编号;名称\n1;甲\n".encode("gb18030")
    file = write(jinshi, "gb.csv", gb)
    assert "--encoding gb18030" in jinshi("import", file, *REGISTER, code=2).stderr
    jinshi("import", file, *REGISTER, "--encoding", "gb18030", "--edition", "gb")
    assert jinshi("export", "--source", "urn:登记").stdout == gb
    odd = write(jinshi, "odd.csv", b"a^b,c\n1^2,3\n")
    jinshi("import", odd, "--source", "urn:odd", "--key", "a", "--delimiter", "^")
    assert jinshi("export", "--source", "urn:odd").stdout == odd.read_bytes()
    jinshi.process("import", "/dev/stdin", "--source", "urn:pipe", "--key", "编号", stdin=SMALL)
    assert jinshi("export", "--source", "urn:pipe").stdout == SMALL


@pytest.mark.parametrize(
    ("data", "options", "what"),
    [
        ("编号,名称\n1,甲\n".encode("gb18030"), (), "say so: --encoding gb18030"),
        (SMALL, ("--encoding", "latin-1"), "use utf-8 or gb18030"),
        (SMALL, ("--delimiter", ",,"), "cannot delimit"),
        (SMALL, ("--delimiter", '"'), "cannot delimit"),
        (SMALL, ("--delimiter", ""), "cannot delimit"),
        (SMALL, ("--time", "2020"), "no RFC 3339 time"),
        (SMALL, ("--edition", ""), "edition's name"),
        (SMALL, ("--edition", "a\nb"), "edition's name"),
        (SMALL, ("--source", ""), "the source"),
        (SMALL, ("--key", "没有"), "there is no column '没有'; the columns are 编号, 名称"),
        ("编号,名称\n1,甲\n1,乙\n".encode(), (), "choose another with --key"),
        ("编号,名称\n1,甲\n2".encode(), (), "the file may have been cut"),
        ('编号,名称\n1,"甲\n2,乙\n'.encode(), (), "may have been cut"),
        ("编号,名称\n1,甲\n\0".encode(), (), "no text at all"),
        (b"", (), "no header line"),
    ],
)
def test_an_edition_that_cannot_be_used_is_code_2_and_nothing_is_recorded(
    data: bytes, options: tuple[str, ...], what: str, jinshi: Jinshi
) -> None:
    file = write(jinshi, "bad.csv", data)
    before = size(jinshi)
    assert what in jinshi("import", file, *REGISTER, *options, code=2).stderr
    assert size(jinshi) == before


def test_a_file_that_cannot_be_read_is_named(jinshi: Jinshi) -> None:
    for place in (jinshi.directory / "nothing.csv", jinshi.directory):
        assert str(place) in jinshi("import", place, *REGISTER, code=2).stderr


def test_a_cut_file_and_a_changed_edition_are_refused(jinshi: Jinshi) -> None:
    file = write(jinshi, "a.csv", SMALL)
    jinshi("import", file, *REGISTER, "--edition", "一")
    file.write_bytes(SMALL + "3,丙".encode())
    assert "--accept-cut" in jinshi("import", file, *REGISTER, "--edition", "二", code=2).stderr
    assert "recorded with other content" in jinshi("import", file, *REGISTER, "--edition", "一", code=1).stderr
    other_key = ("--source", "urn:登记", "--key", "名称")
    assert "has the key" in jinshi("import", file, *other_key, "--edition", "二", code=1).stderr
    assert size(jinshi) == 4
    jinshi("import", file, *REGISTER, "--edition", "二", "--accept-cut")
    assert jinshi("export", "--source", "urn:登记").stdout == file.read_bytes()


# -- append -----------------------------------------------------------------------------------------------------------


def test_append_answers_with_places_and_repeats_the_first_ones(jinshi: Jinshi) -> None:
    assert jinshi("append", stdin=events(3)).out == "3 events\n"
    assert jinshi("append", stdin=events(4)).out == "4 events, 3 of them had been recorded before\n"
    places = jinshi("append", "--json", stdin=events(5)).json_lines
    assert [(one["line"], one["id"], one["index"], one["repeated"]) for one in places] == [
        (1, "e0", 1, True),
        (2, "e1", 2, True),
        (3, "e2", 3, True),
        (4, "e3", 4, True),
        (5, "e4", 5, False),
    ]
    assert places[-1].keys() == {"line", "id", "index", "streamversion", "recordedtime", "repeated"}


def test_append_takes_blank_lines_line_ends_of_windows_and_no_input(jinshi: Jinshi) -> None:
    assert jinshi("append").out == "0 events\n"
    assert jinshi("append", stdin=b"\n\r\n" + events(2).replace(b"\n", b"\r\n") + b"\n").out == "2 events\n"
    assert jinshi("append", stdin=events(3)[:-1]).out == "3 events, 2 of them had been recorded before\n"


@pytest.mark.parametrize(
    ("line", "code", "what"),
    [
        (b"not json", 2, "line 2"),
        (b"[]", 2, "line 2"),
        (b"\xff\xfe", 2, "line 2"),
        (b'{"specversion":"1.0","source":"urn:x","type":"a.v1"}', 2, "line 2"),
        (b'{"specversion":"0.3","id":"1","source":"urn:x","type":"a.v1"}', 2, "line 2"),
        (b'{"specversion":"1.0","id":"1","source":"urn:x","type":"a.v1","time":"noon"}', 2, "line 2"),
        (b'{"specversion":"1.0","id":"1","source":"urn:x","type":"a.v1","actor":"mallory"}', 2, "line 2"),
        (b'{"specversion":"1.0","id":"1","source":"urn:x","type":"a.v1","data":"' + NOISE + b'"}', 2, "line"),
        (
            b'{"specversion":"1.0","id":"1","source":"urn:x","type":"a.v1","data":"' + b"x" * 2_000_000 + b'"}',
            2,
            "line",
        ),
        (b"[" * 100_000, 2, "line 2"),
        (b'{"specversion":"1.0","id":"e0","source":"urn:test","type":"other.v1"}', 1, "e0"),
    ],
)
def test_a_line_that_cannot_be_recorded_is_named_and_its_batch_is_not(
    line: bytes, code: int, what: str, jinshi: Jinshi
) -> None:
    refused = jinshi("append", stdin=events(1) + line + b"\n" + events(1, first=1), code=code)
    assert what in refused.stderr
    assert size(jinshi) == 1
    jinshi("verify")


def test_a_bad_line_far_down_leaves_the_batches_before_it_recorded(jinshi: Jinshi) -> None:
    refused = jinshi("append", stdin=events(1_500) + b"broken\n", code=2)
    assert "line 1501" in refused.stderr
    assert "nothing is recorded twice" in refused.stderr
    assert size(jinshi) == 1_001
    assert "1,501 events, 1,000 of them" in jinshi("append", stdin=events(1_501)).out
    assert "1,502 of them signed" in jinshi("verify").out


# -- log, history -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def divisions(tmp_path_factory: pytest.TempPathFactory) -> Jinshi:
    """One ledger for all who only read."""
    jinshi = ledger_in(tmp_path_factory.mktemp("divisions"), "--no-sites")
    import_areas(jinshi, EDITIONS[3], EDITIONS[4])
    jinshi("append", stdin=events(3))
    return jinshi


def indexes(jinshi: Jinshi, *options: str) -> list[int]:
    return [one["index"] for one in jinshi("log", *options, "--json").json_lines]


def test_log_finds_entries_by_every_attribute(divisions: Jinshi) -> None:
    end = size(divisions)
    renamed = indexes(divisions, "--subject", "130502")
    assert len(renamed) == 2
    assert indexes(divisions, "--subject", "130502", "--type", "record.amended.v1") == renamed[1:]
    assert indexes(divisions, "--source", "urn:test") == [end - 3, end - 2, end - 1]
    assert indexes(divisions, "--source", "urn:test", "--limit", "2") == [end - 2, end - 1]
    assert indexes(divisions, "--index", "5") == [5]
    assert indexes(divisions, "--index", "5..8", "--all") == [5, 6, 7, 8]
    assert len(indexes(divisions)) == 50
    assert indexes(divisions, "--all") == list(range(end))
    actor = read_environment({}).actor
    assert indexes(divisions, "--actor", actor, "--limit", "1") == [end - 1]
    assert indexes(divisions, "--actor", "local:nobody") == []
    second = f"{EDITIONS[4]}T00:00:00Z"
    later = indexes(divisions, "--source", SOURCE, "--since", second, "--all")
    earlier = indexes(divisions, "--source", SOURCE, "--until", second, "--all")
    assert later
    assert earlier + later == indexes(divisions, "--source", SOURCE, "--all")
    known = divisions("log", "--index", str(end - 3), "--json").json["entry"]["recordedtime"]
    assert indexes(divisions, "--recorded-until", known, "--all")[-1] == end - 4


def test_log_as_a_table_is_aligned_and_says_so_when_there_is_nothing(divisions: Jinshi) -> None:
    title, *lines = divisions("log", "--subject", "130502").out.splitlines()
    assert title.split() == ["INDEX", "RECORDED", "TYPE", "SUBJECT", "ACTOR", "DATA"]
    assert len(lines) == 2
    assert all(line[title.index("SUBJECT") :].startswith("130502") for line in lines)
    nothing = divisions("log", "--subject", "nothing")
    assert (nothing.out, nothing.stderr) == ("", "no entry matches\n")


def test_log_json_holds_the_entry_as_it_was_recorded(divisions: Jinshi) -> None:
    shown = divisions("log", "--source", "urn:test", "--limit", "1", "--json").json
    assert shown["unsealed"]["data"] == {"n": 2}
    assert {"specversion", "id", "source", "type", "subject", "time", "recordedtime", "actor", "streamversion"} <= set(
        shown["entry"]
    )


def test_data_that_is_no_json_is_shown_as_text_or_by_its_length(jinshi: Jinshi) -> None:
    lines = (
        '{"specversion":"1.0","id":"1","source":"urn:x","type":"a.v1","subject":"甲","datacontenttype":"text/plain",'
        '"data":"十二点"}\n'
        '{"specversion":"1.0","id":"2","source":"urn:x","type":"a.v1","subject":"甲","datacontenttype":"image/png",'
        '"data_base64":"//79"}\n'
        '{"specversion":"1.0","id":"3","source":"urn:x","type":"a.v1","subject":"甲"}\n'
    )
    jinshi("append", stdin=lines.encode())
    assert [line.split()[-1] for line in jinshi("log", "--subject", "甲").out.splitlines()[1:3]] == ["十二点", "bytes>"]
    assert "十二点" in jinshi("history", "甲").out
    assert len(jinshi("log", "--subject", "甲", "--json").json_lines) == 3


def test_history_says_what_changed_when_and_by_whom(divisions: Jinshi) -> None:
    said = divisions("history", "130502").out
    assert "2020-02-27 00:00:00Z  added in edition 2020-02-27\n" in said
    assert "2020-11-09 00:00:00Z  amended in edition 2020-11-09\n" in said
    assert "name: 桥东区 -> 襄都区" in said
    assert f"recorded by {read_environment({}).actor}" in said
    added, amended = divisions("history", "130502", "--source", SOURCE, "--json").json_lines
    assert (added["what"], amended["what"], amended["edition"]) == ("added", "amended", "2020-11-09")
    assert amended["changes"] == [{"field": "name", "old": "桥东区", "new": "襄都区"}]
    assert "name: 邢台县 (no more)" in divisions("history", "130521").out
    assert "n: 2" in divisions("history", "s2").out, "of any event, its data"
    assert "nothing is recorded of 'nobody'" in divisions("history", "nobody", code=2).stderr
    divisions("history", "130502", "--source", "urn:other", code=2)


# -- export -----------------------------------------------------------------------------------------------------------


def test_export_writes_what_was_imported_to_stdout_or_a_file(divisions: Jinshi) -> None:
    first, second = ((DIVISIONS / name / "areas.csv").read_bytes() for name in EDITIONS[3:5])
    by_name = divisions("export", "--source", SOURCE, "--at", EDITIONS[3])
    assert by_name.stdout == first
    assert by_name.stderr == f"2,995 records: edition {EDITIONS[3]}, byte for byte\n"
    file = divisions.directory / "导出.csv"
    done = divisions("export", "--source", SOURCE, "-o", file)
    assert done.stdout == b""
    assert file.read_bytes() == second
    sealed = indexes(divisions, "--source", SOURCE, "--type", "edition.sealed.v1")
    assert divisions("export", "--source", SOURCE, "--at", sealed[0]).stdout == first
    recorded: Any = divisions("log", "--index", sealed[0], "--json").json["entry"]["recordedtime"]
    assert divisions("export", "--source", SOURCE, "--at", recorded).stdout == first
    between = divisions("export", "--source", SOURCE, "--at", sealed[0] + 1)
    assert between.stderr == f"2,994 records: after edition {EDITIONS[3]}\n"


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (("--source", SOURCE, "--at", "2017"), "there is no entry 2017"),
        (("--source", SOURCE, "--at", "nope"), "editions: one"),
        (("--source", SOURCE, "--at", "2001-01-01T00:00:00Z"), "was sealed by then"),
        (("--source", "urn:nothing"), "nothing is recorded of urn:nothing"),
    ],
)
def test_an_export_of_what_there_is_not_is_code_2(options: tuple[str, ...], what: str, jinshi: Jinshi) -> None:
    jinshi("import", write(jinshi, "a.csv", SMALL), "--source", SOURCE, "--key", "编号", "--edition", "one")
    before = contents(jinshi.directory)
    refused = jinshi("export", *options, "-o", jinshi.directory / "out.csv", code=2)
    assert what in refused.stderr
    assert contents(jinshi.directory).keys() == before.keys(), "no file is made"


def test_an_export_never_leaves_half_a_file(jinshi: Jinshi) -> None:
    jinshi("import", write(jinshi, "a.csv", SMALL), "--source", SOURCE, "--key", "编号", "--edition", "one")
    (jinshi.directory / "folder").mkdir()
    for place in (jinshi.directory / "folder", jinshi.directory / "no" / "out.csv", jinshi.directory / "a.csv" / "x"):
        assert "cannot be written" in jinshi("export", "--source", SOURCE, "-o", place, code=4).stderr
    assert not [name for name in contents(jinshi.directory) if name.endswith(".partial")]


def test_every_json_line_is_json(divisions: Jinshi) -> None:
    for line in divisions("log", "--all", "--json").out.splitlines():
        assert isinstance(json.loads(line)["index"], int)
