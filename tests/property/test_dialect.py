"""CSV files: whatever way they are written, they are taken apart and put together again byte for byte."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.capture.dialect import DELIMITERS, Dialect, Exceptional, parse_sheet, render
from ledger.capture.layout import in_later_order, in_order, order_of, runs_from_json
from ledger.core.canonical import JsonValue, canonicalize, parse_json
from ledger.errors import MalformedCsv
from tests.support.strategies import CsvFile, csv_files


@given(csv_files())
def test_a_file_is_put_together_again_byte_for_byte(file: CsvFile) -> None:
    sheet = parse_sheet(file.data, encoding=file.encoding, delimiter=file.delimiter)
    assert [list(row) for row in (sheet.columns, *sheet.rows)] == file.rows
    assert render(sheet.dialect, sheet.columns, sheet.rows, sheet.exceptions) == file.data
    assert len(sheet.lines) == len(sheet.rows)


@given(csv_files())
def test_the_dialect_alone_says_the_same_in_its_own_way(file: CsvFile) -> None:
    """Between two editions rows are written without exceptions: another file, the same rows."""
    sheet = parse_sheet(file.data, encoding=file.encoding, delimiter=file.delimiter)
    rows = [row for row in sheet.rows if any(row) or len(row) > 1]  # a lone empty value is a blank line
    if not any(sheet.columns) and len(sheet.columns) == 1:
        return
    regular = render(sheet.dialect, sheet.columns, rows)
    again = parse_sheet(regular, encoding=file.encoding, delimiter=file.delimiter)
    assert (again.columns, list(again.rows)) == (sheet.columns, rows)
    assert not again.exceptions


@given(csv_files())
def test_what_is_recorded_of_a_files_looks_is_read_back(file: CsvFile) -> None:
    sheet = parse_sheet(file.data, encoding=file.encoding, delimiter=file.delimiter)
    recorded = parse_json(canonicalize(sheet.dialect.to_json()))
    assert Dialect.from_json(recorded) == sheet.dialect
    for one in sheet.exceptions:
        row, raw, before = one.to_json()
        assert Exceptional(row, raw, before) == one  # type: ignore[arg-type]


@given(csv_files())
def test_lines_are_counted_as_an_editor_counts_them(file: CsvFile) -> None:
    """An error must name the line the operator will look at. A lone carriage return ends a line too."""
    assert list(parse_sheet(file.data, encoding=file.encoding, delimiter=file.delimiter).lines) == file.lines[1:]


@pytest.mark.parametrize("rows", [0, 1, 3])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
def test_the_delimiter_is_found_in_the_header_whatever_ends_the_lines(delimiter: str, newline: str, rows: int) -> None:
    others = "".join(mark * 5 for mark in DELIMITERS if mark != delimiter)
    lines = ["", f"code{delimiter}name", *([f"1{delimiter}a{others}b"] * rows), ""]
    sheet = parse_sheet(newline.join(lines).encode())
    assert sheet.dialect.delimiter == delimiter
    assert sheet.columns == ("code", "name")


@pytest.mark.parametrize("delimiter", ["", ",,", '"', "\n", "\r", "\0", "\ufeff", "\ud800", "tab"])
def test_what_cannot_delimit_fields_is_refused(delimiter: str) -> None:
    with pytest.raises(MalformedCsv):
        parse_sheet(b"a,b\n1,2\n", delimiter=delimiter)
    sheet = parse_sheet(b"a,b\n1,2\n")
    with pytest.raises(MalformedCsv):
        Dialect.from_json({**sheet.dialect.to_json(), "delimiter": delimiter})


@pytest.mark.parametrize(
    ("what", "data", "line"),
    [
        ("a short row", b"a,b\n1,2\n3\n", 3),
        ("a long row", b"a,b\n1,2\n3,4,5\n", 3),
        ("an open quote", b'a,b\n1,2\n"3,4\n', 3),
        ("something behind a quote", b'a,b\n1,2\n"3"x,4\n', 3),
        ("after a value of three lines", b'a,b\n"1\n\n1",2\n3\n', 5),
        ("after blank lines", b"a,b\n\n\n1,2\n\n3\n", 6),
        ("after carriage returns", b"a,b\r1,2\r3\r", 3),
        ("no UTF-8", b"a,b\n1,2\n3,\xff\n", 3),
    ],
)
def test_an_error_names_the_line(what: str, data: bytes, line: int) -> None:
    with pytest.raises(MalformedCsv, match=f"line {line} "):
        parse_sheet(data)


@pytest.mark.parametrize("data", [b"", b"\n\n", b"\xef\xbb\xbf", b"a,a\n", b"a\0b\n", "a,b\n".encode("utf-16")])
def test_a_file_without_a_usable_header_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedCsv):
        parse_sheet(data)


# -- the order of rows ------------------------------------------------------------------------------------------------

KEYS = st.lists(st.text(max_size=4), unique=True, max_size=30)


@given(KEYS)
def test_an_order_is_read_back(keys: list[str]) -> None:
    runs = order_of(keys)
    recorded = parse_json(canonicalize([list(run) for run in runs]))
    assert in_order(sorted(keys), runs_from_json(recorded)) == keys
    assert in_order(reversed(keys), runs) == keys
    assert len(order_of(sorted(keys))) == (1 if keys else 0)


@given(KEYS, KEYS, st.data())
def test_an_order_of_other_keys_is_refused(keys: list[str], others: list[str], data: st.DataObject) -> None:
    if len(keys) != len(others):
        with pytest.raises(MalformedCsv):
            in_order(others, order_of(keys))
    if keys:
        runs = order_of(keys)
        number = data.draw(st.integers(0, len(runs) - 1))
        start, count = runs[number]
        for wrong in ([*runs, runs[0]], runs[:-1], [*runs[:number], (start + 1, count), *runs[number + 1 :]]):
            with pytest.raises(MalformedCsv):
                in_order(keys, wrong)


def test_recorded_runs_that_multiply_the_keys_are_not_laid_out() -> None:
    """A hundred million items would be made of this before they were found to be too many."""
    with pytest.raises(MalformedCsv):
        in_order(map(str, range(10_000)), [(0, 10_000)] * 10_000)


@pytest.mark.parametrize(
    "value", [None, {}, [[0]], [[0, 0]], [[-1, 1]], [["0", 1]], [[0, 1, 2]], [[0, None]], "[[0,1]]", [[True, True]]]
)
def test_what_is_no_order_is_refused(value: JsonValue) -> None:
    with pytest.raises(MalformedCsv):
        runs_from_json(value)


@given(KEYS, st.data())
def test_between_editions_every_record_has_one_place(sealed: list[str], data: st.DataObject) -> None:
    now = data.draw(st.lists(st.sampled_from([*sealed, "new 1", "new 2"]), unique=True))
    ordered = in_later_order(now, sealed)
    assert sorted(ordered) == sorted(now)
    if sealed == sorted(sealed):
        assert ordered == sorted(now)
    else:
        assert [key for key in ordered if key in set(sealed)] == [key for key in sealed if key in set(now)]


@given(csv_files())
def test_a_dialect_of_other_columns_does_not_go_unnoticed(file: CsvFile) -> None:
    sheet = parse_sheet(file.data, encoding=file.encoding, delimiter=file.delimiter)
    with pytest.raises(ValueError, match="zip"):
        render(replace(sheet.dialect, header=(*sheet.dialect.header, "always")), sheet.columns, sheet.rows)
