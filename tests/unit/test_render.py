"""What goes onto a terminal: one line, safe, aligned, in the reader's units."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from cli.display import render
from ledger.core.entry import Entry
from ledger.core.event import Event


@given(st.text())
def test_whatever_was_sent_is_one_line_that_steers_nothing(text: str) -> None:
    shown = render.one_line(text)
    assert len((shown + "x").splitlines()) == 1
    assert not any(char < " " or char in "\x7f\x85\u2028\u202e\u2066\ufeff" for char in shown)
    shown.encode("utf-8")


def test_text_in_any_script_is_left_alone() -> None:
    for text in ("东城区 Район 区画", "a\\nb", "ü‐–", "👩‍👩‍👧"):
        assert render.one_line(text) == text


@given(st.text(st.characters(categories=["L", "N", "P"])), st.integers(2, 30))
def test_shortening_keeps_within_the_cells(text: str, cells: int) -> None:
    short = render.shorten(text, cells)
    assert cell_len(short) <= cells
    assert short == text or short.endswith("…")
    assert text.startswith(short.removesuffix("…").rstrip() if short != text else text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (89, "89 s"),
        (90, "2 min"),
        (3600, "60 min"),
        (5400, "1 h 30 min"),
        (7200, "2 h"),
        (864_000, "10 days"),
    ],
)
def test_durations_have_the_units_that_matter(seconds: float, text: str) -> None:
    assert render.duration(seconds) == text


def test_counts_have_their_plural() -> None:
    assert [render.count(n, "entry") for n in (0, 1, 2, 12345)] == [
        "0 entries",
        "1 entry",
        "2 entries",
        "12,345 entries",
    ]
    assert render.count(2, "event") == "2 events"


def test_moments_are_to_the_second() -> None:
    assert render.moment("2026-11-24T01:53:35.123456Z") == "2026-11-24 01:53:35Z"
    assert render.moment("never") == "never"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b'{"a":1,"b":{"c":null,"d":["x",true]}}', "a: 1, b: c: -, d: [x, true]"),
        (b'"text"', "text"),
        (b"{broken", "{broken"),
        (b"\xff\xfe", "<2 bytes>"),
    ],
)
def test_any_data_has_a_summary(data: bytes, text: str) -> None:
    event = Event(id="1", source="urn:x", type="a.v1", data=data)
    assert render.summary(Entry(event, 1, "2026-11-24T00:00:00.000000Z", "local:x")) == text


def test_a_table_of_chinese_names_is_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    render.table(("NAME", "N"), [("东城区", "1"), ("a", "2"), ("x" * 80, "3")])
    lines = capsys.readouterr().out.splitlines()
    assert [cell_len(line[: line.rindex(" ")]) for line in lines[:3]] == [61, 61, 61]
    assert lines[3] == "x" * 80 + "  3", "too long a cell is shown whole"


def test_a_table_streams_once_its_widths_are_known(capsys: pytest.CaptureFixture[str]) -> None:
    columns = render.Columns.of("A", "B")
    for number in range(render.SIZED_ROWS):
        columns.add(str(number), "x")
    assert len(capsys.readouterr().out.splitlines()) == render.SIZED_ROWS + 1
    columns.add("late", "y")
    assert capsys.readouterr().out == "late  y\n"
    columns.end()
    assert capsys.readouterr().out == ""
