"""Registers: an edition's events lead from the last one to it, and what seals it gives its file back byte for byte."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.capture.describe import describe
from ledger.capture.dialect import Dialect, Exceptional, Sheet, parse_sheet, render
from ledger.capture.register import (
    DATA_SIZE_MAX,
    LAYOUT,
    SEALED,
    Edition,
    Register,
    Values,
    changes,
    records_of,
    sealing,
)
from ledger.core.entry import ENTRY_SIZE_MAX, Entry, decode_entry, encode_entry
from ledger.core.event import Event
from ledger.errors import MalformedCsv
from tests.support.strategies import CsvFile, csv_files

SOURCE = "urn:test:register"
RECORDED = "2026-11-24T00:00:00.000000Z"


def apply_all(register: Register, events: Iterable[Event], start: int = 0) -> Register:
    """The register after these events, each through an entry's bytes as in the log."""
    for index, event in enumerate(events, start):
        data = encode_entry(Entry(Event(**_timed(event)), 1, RECORDED, "local:test"))
        register.apply(index, decode_entry(data))
    return register


def _timed(event: Event) -> dict[str, object]:
    return {name: getattr(event, name) for name in ("id", "source", "type", "subject", "data")} | {"time": RECORDED}


def seal(sheet: Sheet, records: Mapping[str, Values], data: bytes, edition: str, key: str) -> list[Event]:
    """What closes an edition."""
    return sealing(
        SOURCE, edition, sheet, records, key=key, sha256=hashlib.sha256(data).hexdigest(), previous=None, time=None
    )


def rebuilt(register: Register, edition: Edition) -> bytes:
    """The edition's file, out of the register alone."""
    rows = [[register.records[key][name] for name in edition.columns] for key in register.sealed_keys]
    return render(edition.dialect, edition.columns, rows, edition.exceptions)


# -- changes ----------------------------------------------------------------------------------------------------------

VALUES = st.dictionaries(st.sampled_from("abcd"), st.text(st.characters(exclude_categories=("Cs",)), max_size=4))
REGISTERS = st.dictionaries(st.sampled_from([f"k{number}" for number in range(12)]), VALUES, max_size=12)


@given(REGISTERS, REGISTERS)
def test_the_changes_lead_from_the_old_register_to_the_new_one(
    old: dict[str, dict[str, str]], new: dict[str, dict[str, str]]
) -> None:
    register = apply_all(Register(), changes(SOURCE, "1", {}, old, time=None))
    assert register.records == old
    events = list(changes(SOURCE, "2", old, new, time=None))
    assert apply_all(register, events).records == new
    assert len(events) == sum(old.get(key) != new.get(key) for key in {*old, *new})
    assert list(changes(SOURCE, "2", new, new, time=None)) == []
    assert len({event.id for event in events}) == len(events)


@given(REGISTERS, REGISTERS)
def test_the_changes_can_be_told_field_by_field(old: dict[str, dict[str, str]], new: dict[str, dict[str, str]]) -> None:
    for event in changes(SOURCE, "2", old, new, time=None):
        assert event.subject is not None
        before, after = dict(old.get(event.subject, {})), dict(new.get(event.subject, {}))
        description = describe(event)
        assert description.edition == "2"
        for change in description.changes:
            assert before.pop(change.field, None) == change.old
            if change.new is not None:
                before[change.field] = change.new
        assert before == after


# -- whole files ------------------------------------------------------------------------------------------------------


def _has_keys(sheet: Sheet) -> bool:
    try:
        records_of(sheet, sheet.columns[0])
    except MalformedCsv:
        return False
    return True


@given(st.lists(csv_files(), min_size=1, max_size=3))
def test_every_edition_of_a_register_comes_back_byte_for_byte(files: list[CsvFile]) -> None:
    """However each is written: line ends, quotes, order, encoding and columns may change from one to the next."""
    register = Register()
    index = 0
    for number, file in enumerate(files):
        sheet, data = parse_sheet(file.data, encoding=file.encoding, delimiter=file.delimiter), file.data
        if not _has_keys(sheet):
            continue
        key = sheet.columns[0]
        records = records_of(sheet, key)
        name = f"edition {number}"
        events = [*changes(SOURCE, name, register.records, records, time=None)]
        events += seal(sheet, records, data, name, key)
        apply_all(register, events, index)
        index += len(events)
        edition = register.last
        assert edition is not None
        assert (edition.name, edition.index, edition.count) == (name, index - 1, len(records))
        assert rebuilt(register, edition) == data
        assert hashlib.sha256(data).hexdigest() == edition.sha256


def _large_file(rows: int) -> bytes:
    """In no order, with quotes where no rule expects them and blank lines: nearly nothing of it is regular."""
    chance = random.Random(rows)
    order = chance.sample(range(rows), rows)
    lines = ["代码,名称,说明"]
    for number in order:
        value = chance.choice(["{}", '"{}"', '"{},{}"', '"{}\n{}"', '"""{}"""']).replace("{}", f"名称{number}")
        lines.append(f"{number:06d},{value},{chance.choice(['', chr(34) * 2, 'x' * 40])}")
        if number % 10 == 0:
            lines.append("")
    return "\r\n".join(lines).encode("utf-8")


@pytest.mark.parametrize("rows", [3, 1_000, 6_000])
def test_a_layout_too_large_for_one_event_is_put_together_from_parts(rows: int) -> None:
    data = _large_file(rows)
    sheet = parse_sheet(data)
    records = records_of(sheet, "代码")
    closing = seal(sheet, records, data, "2026", "代码")
    parts = [event for event in closing if event.type == LAYOUT]
    assert closing[-1].type == SEALED
    assert (len(parts) > 0) is (rows >= 1_000)
    assert all(event.data is not None and len(event.data) <= DATA_SIZE_MAX for event in closing)
    register = Register(records=dict(records))
    apply_all(register, closing)
    assert register.last is not None
    assert rebuilt(register, register.last) == data
    if parts:  # a part that is missing, doubled or another edition's is not passed over
        other = seal(sheet, records, data, "2025", "代码")[0]
        for wrong in (closing[1:], [closing[0], *closing], [other, *closing[1:]]):
            with pytest.raises(MalformedCsv):
                apply_all(Register(records=dict(records)), wrong)


def test_parts_that_a_killed_import_left_are_used_when_it_is_finished() -> None:
    """The parts have the same ids, so they stand before the seal once, however often the import was begun."""
    data = _large_file(2_000)
    sheet = parse_sheet(data)
    records = records_of(sheet, "代码")
    first, second = seal(sheet, records, data, "2026", "代码"), seal(sheet, records, data, "2026", "代码")
    assert [(event.id, event.data) for event in first] == [(event.id, event.data) for event in second]
    assert len({event.id for event in first}) == len(first)


# -- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value_size", [DATA_SIZE_MAX - 3_000, 10_000, 10])
def test_a_record_that_passes_the_check_fits_an_entry(value_size: int) -> None:
    """The largest key that is let through, made of what takes most room: the entry still fits, whatever the sizes."""
    fits, fails = 0, 40_000
    while fails - fits > 1:
        key_size = (fits + fails) // 2
        key = '"' * key_size
        new = {key: {"k": key, "v": "x" * value_size}}
        try:
            (event,) = changes("urn:" + "s" * 200, "e" * 200, {}, new, time=RECORDED)
        except MalformedCsv:
            fails = key_size
            continue
        fits = key_size
        entry = Entry(Event(**_timed(event)), 2**53 - 1, RECORDED, "local:" + "u" * 250)
        assert len(encode_entry(entry)) <= ENTRY_SIZE_MAX
    assert fits > 0


def test_a_layout_that_does_not_fit_is_refused_by_its_name() -> None:
    header = ",".join(f"{number:05d}{'c' * 60}" for number in range(1_000))
    data = f"{header}\n".encode()
    sheet = parse_sheet(data)
    with pytest.raises(MalformedCsv, match="the layout of edition '2026'"):
        seal(sheet, {}, data, "2026", sheet.columns[0])


@pytest.mark.parametrize("key", ["", "a\x00", "a\nb", "\x85", "\ufffe"])
def test_a_key_that_cannot_be_a_subject_is_refused_with_its_line(key: str) -> None:
    sheet = Sheet(
        Dialect("utf-8", False, ",", "\n", True, ("minimal",), ("minimal",)), ("k",), (("1",), (key,)), (2, 3), ()
    )
    with pytest.raises(MalformedCsv, match="line 3"):
        records_of(sheet, "k")


@pytest.mark.parametrize("key", ["a b", "\u3000", "\u00a0", "𠀀", "\U000323b0", "a,b", '"', "㐀\u200d"])
def test_a_key_of_any_other_characters_is_taken(key: str) -> None:
    """Rare ideographs too, which the interpreter's Unicode tables may not know yet."""
    sheet = parse_sheet(b'k,v\n"' + key.replace('"', '""').encode() + b'",1\n')
    (event,) = changes(SOURCE, "1", {}, records_of(sheet, "k"), time=None)
    assert apply_all(Register(), [event]).records == {key: {"k": key, "v": "1"}}


def test_a_key_that_stands_twice_is_refused_with_both_lines() -> None:
    with pytest.raises(MalformedCsv, match=r"line 4: k '1' stands on line 2 already"):
        records_of(parse_sheet(b"k\n1\n2\n1\n"), "k")


def _replaced(closing: Sequence[Event], **members: object) -> list[Event]:
    assert closing[-1].data is not None
    value = {**json.loads(closing[-1].data), **members}
    return [*closing[:-1], Event(id="x", source=SOURCE, type=SEALED, data=json.dumps(value).encode())]


@pytest.mark.parametrize(
    "members",
    [
        {"count": 1},
        {"count": True},
        {"columns": ["k"]},
        {"columns": ["k", "v", "w"]},
        {"order": [[0, 1]]},
        {"order": [[0, 1], [0, 1]]},
        {"order": [[1, 2]]},
        {"layout_parts": 1},
        {"exceptions": [[0, "x"]]},
        {"exceptions": [["0", None, ""]]},
        {"exceptions": [[0, "\ud800", ""]]},
        {"dialect": {}},
        {"edition": None},
        {"previous": 1},
        {"key": None},
    ],
)
def test_a_seal_that_does_not_fit_its_records_is_refused(members: dict[str, object]) -> None:
    data = b"k,v\n1,a\n2,b\n"
    sheet = parse_sheet(data)
    records = records_of(sheet, "k")
    closing = seal(sheet, records, data, "2026", "k")
    apply_all(Register(records=dict(records)), _replaced(closing))
    with pytest.raises(MalformedCsv, match="entry 0"):
        apply_all(Register(records=dict(records)), _replaced(closing, **members))


def test_an_exception_is_as_it_was_written() -> None:
    data = b'k,v\n\n1,"a"\n2,b\r\n\n'
    sheet = parse_sheet(data)
    assert sheet.exceptions == (
        Exceptional(0, None, "\n") if sheet.dialect.quoting[1] == "always" else Exceptional(0, '1,"a"\n', "\n"),
        Exceptional(1, "2,b\r\n"),
        Exceptional(2, None, "\n"),
    )
