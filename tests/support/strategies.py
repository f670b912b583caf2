"""Hypothesis strategies: JSON values, events and entries, trees, CSV files, and mutations of valid bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from hypothesis import strategies as st

from ledger.core.canonical import INTEGER_MAX, JsonValue, canonicalize
from ledger.core.entry import Entry
from ledger.core.event import Event, Extension
from ledger.core.merkle import leaf_hash

# -- text and JSON ----------------------------------------------------------------------------------------------------

CHARACTERS = st.one_of(
    st.characters(exclude_categories=("Cs",)),
    st.sampled_from(
        'ab"\\/<\t\n\r\b\f\x00\x1f\x7f\x80é中金石，。\u2028\ud7ff\ue000\ufb33\uffff\U00010000\U0001f600\U0010ffff'
    ),
)
TEXTS = st.text(CHARACTERS, max_size=20)
INTEGERS = st.one_of(st.integers(-INTEGER_MAX, INTEGER_MAX), st.sampled_from([0, INTEGER_MAX, -INTEGER_MAX]))


def json_values() -> st.SearchStrategy[JsonValue]:
    """Values that have canonical JSON here."""
    return st.recursive(
        st.one_of(st.none(), st.booleans(), INTEGERS, TEXTS),
        lambda children: st.one_of(st.lists(children, max_size=5), st.dictionaries(TEXTS, children, max_size=6)),
        max_leaves=20,
    )


@st.composite
def json_texts(draw: st.DrawFn) -> str:
    """JSON as producers write it: floats, white space, escapes, any order of keys; mostly not canonical."""
    value = draw(
        st.recursive(
            st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), TEXTS),
            lambda children: st.one_of(st.lists(children, max_size=4), st.dictionaries(TEXTS, children, max_size=4)),
            max_leaves=10,
        )
    )
    text = json.dumps(value, ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, 0, 2])))
    return draw(
        st.sampled_from([text, text, '{"a":1,"a":2}', "9" * 5_000, "-0", "1e999", r'"\ud800"', "[" * 300 + "]" * 300])
    )


# -- events and entries -----------------------------------------------------------------------------------------------

_SEEN = st.sampled_from('ab:/-. "\\é中石，。\u00a0\u3000\ud7ff\ue000\ufb33\U00010000\U0001f600\U0010fffd')
_FITTING = _SEEN | st.characters(exclude_categories=("Cs", "Cc", "Cn"))
ATTRIBUTES = st.text(_FITTING, min_size=1, max_size=12)
SOURCES = st.text(_FITTING.filter(lambda char: not char.isspace()), min_size=1, max_size=12)
TYPES = st.sampled_from(["record.added.v1", "thing.happened.v1", "x"])
TIMES = st.builds(
    "{:04d}-{:02d}-{:02d}T{:02d}:{:02d}:{:02d}{}{}".format,
    st.integers(1, 9999),
    st.integers(1, 12),
    st.integers(1, 28),
    st.integers(0, 23),
    st.integers(0, 59),
    st.integers(0, 60),
    st.sampled_from(["", ".0", ".123456", ".999999999999999999"]),
    st.sampled_from(["Z", "z", "+08:00", "-23:59", "+00:00"]),
)
RECORDED_TIMES = st.datetimes().map(lambda moment: moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ").rjust(27, "0"))
_RESERVED = {
    *("specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataref", "keyid", "data"),
    *("streamversion", "recordedtime", "actor"),
}
EXTENSIONS: st.SearchStrategy[dict[str, Extension]] = st.dictionaries(
    st.from_regex(r"[a-z0-9]{1,20}", fullmatch=True).filter(lambda name: name not in _RESERVED),
    st.one_of(st.booleans(), INTEGERS, ATTRIBUTES, st.just("")),
    max_size=4,
)


@st.composite
def events(draw: st.DrawFn, *, timed: bool = False, keyid: bool = True) -> Event:
    """Any event that can be recorded, with any data."""
    data = draw(
        st.one_of(
            st.none(),
            st.binary(max_size=100),
            json_values().map(canonicalize),
            json_texts().map(lambda text: text.encode("utf-8")),
        )
    )
    return Event(
        id=draw(ATTRIBUTES),
        source=draw(SOURCES),
        type=draw(TYPES),
        subject=draw(st.none() | ATTRIBUTES),
        time=draw(TIMES if timed else st.none() | TIMES),
        datacontenttype=draw(
            st.sampled_from([None, "application/json", "text/plain", "application/xml", "x/y+json; a=b"])
        ),
        data=data,
        dataref=draw(st.none() | ATTRIBUTES),
        keyid=draw(st.none() | ATTRIBUTES) if keyid else None,
        extensions=MappingProxyType(draw(EXTENSIONS)),
    )


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    """Any entry the sequencer could write."""
    return Entry(draw(events(timed=True)), draw(st.integers(1, INTEGER_MAX)), draw(RECORDED_TIMES), draw(ATTRIBUTES))


# -- trees ------------------------------------------------------------------------------------------------------------


def leaf_entry(index: int) -> bytes:
    """The entry at an index of every tree in these tests; all are distinct."""
    return b"entry %d" % index


LEAF_HASHES = [leaf_hash(leaf_entry(index)) for index in range(2_000)]


@st.composite
def steps(draw: st.DrawFn, size: int) -> list[int]:
    """How a tree of that size may have grown: sizes, ascending, from 0 to `size`."""
    between = draw(st.lists(st.integers(0, size), max_size=6))
    return sorted({0, size, *between})


@st.composite
def bit_flips(draw: st.DrawFn, parts: Sequence[bytes]) -> list[bytes]:
    """These parts with one bit of one of them changed."""
    changed = list(parts)
    which = draw(st.sampled_from([number for number, part in enumerate(parts) if part]))
    changed[which] = flip(changed[which], draw(st.integers(0, 8 * len(changed[which]) - 1)))
    return changed


def flip(data: bytes, bit: int) -> bytes:
    """`data` with one bit changed."""
    return bytes(byte ^ (1 << bit % 8) if number == bit // 8 else byte for number, byte in enumerate(data))


def seed_of(name: str) -> bytes:
    """32 bytes that are always the same for a name."""
    return hashlib.sha256(name.encode()).digest()


# -- CSV files --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CsvFile:
    """A file as somebody may have written it, and what it says."""

    data: bytes
    encoding: str
    delimiter: str
    rows: list[list[str]]
    """With the header."""
    lines: list[int]
    """On which line each begins."""


_CSV_CHARACTERS = st.one_of(
    st.sampled_from("ab01 ,;|\t\"'\r\n\u3000\x85\u2028金石區囧𠀀😀é\ufeff"),
    st.characters(min_codepoint=0x20, max_codepoint=0x9FA5, exclude_categories=("Cs",)),
)
NEWLINES = ("\n", "\r\n", "\r")


@st.composite
def csv_files(draw: st.DrawFn) -> CsvFile:
    """Mixed quoting, mixed line ends, blank lines, a byte order mark, UTF-8 or GB18030, with or without a last end."""
    delimiter = draw(st.sampled_from([",", "\t", ";", "|"]))
    width = draw(st.integers(1, 4))
    columns = draw(st.lists(st.text(_CSV_CHARACTERS, max_size=6), min_size=width, max_size=width, unique=True))
    body = draw(st.lists(st.lists(st.text(_CSV_CHARACTERS, max_size=8), min_size=width, max_size=width), max_size=8))
    rows = [columns, *body]
    usual = draw(st.sampled_from(NEWLINES))
    habit = draw(st.booleans())
    parts: list[str] = []
    lines: list[int] = []
    for row in rows:
        parts.append(
            "".join(draw(st.lists(st.sampled_from(NEWLINES), max_size=2))) if draw(st.integers(0, 9)) == 0 else ""
        )
        lines.append(1 + "".join(parts).replace("\r\n", "\n").replace("\r", "\n").count("\n"))
        fields = [
            _written(value, delimiter, draw(st.booleans()) if draw(st.integers(0, 4)) == 0 else habit) for value in row
        ]
        parts.append(delimiter.join(fields) or '""')
        parts.append(usual if draw(st.integers(0, 4)) else draw(st.sampled_from(NEWLINES)))
    if draw(st.booleans()):
        parts.pop()
    text = "".join(parts)
    encoding = draw(st.sampled_from(["utf-8", "gb18030"]))
    # A text that begins with the mark is one with a byte order mark, so the header's first name cannot.
    bom = "\ufeff" if draw(st.booleans()) or text.startswith("\ufeff") else ""
    return CsvFile((bom + text).encode(encoding), encoding, delimiter, rows, lines)


def _written(value: str, delimiter: str, quoted: bool) -> str:
    must = any(mark in value for mark in (delimiter, "\r", "\n")) or value.startswith('"')
    return '"' + value.replace('"', '""') + '"' if quoted or must else value


# -- mutations --------------------------------------------------------------------------------------------------------

NASTY = [
    b"\0",
    b"\r",
    b"\n\n",
    b"\x7f",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\xed\xa0\x80",
    b'"\\ud800"',
    b"\\u0000",
    b"[" * 5_000,
    b'{"a":' * 5_000,
    b"[" * 120 + b"]" * 120,
    b"9" * 5_000,
    b"-0",
    b"1e999",
    b"1.0",
    b"NaN",
    b"null",
    b"true",
    b"[]",
    b"{}",
    b'""',
    b"-1",
    b"9007199254740992",
    b"18446744073709551616",
    "— ".encode(),
    "\u202e\u2028".encode(),
    b"x999/" * 2_000,
    b"%00",
    b"://[",
]


@st.composite
def mutations(draw: st.DrawFn, examples: Sequence[bytes]) -> bytes:
    """Arbitrary bytes, or a valid example with bits flipped, pieces cut out, doubled, moved in from elsewhere."""
    if draw(st.integers(0, 4)) == 0:
        return draw(st.one_of(st.binary(max_size=200), TEXTS.map(str.encode), st.sampled_from(NASTY)))
    data = draw(st.sampled_from(examples))
    for _ in range(draw(st.integers(1, 4))):
        data = draw(_MUTATIONS)(draw, data, examples)
    return data


Mutate = Callable[[st.DrawFn, bytes, Sequence[bytes]], bytes]


def _place(draw: st.DrawFn, data: bytes) -> int:
    return draw(st.integers(0, len(data)))


def _flipped(draw: st.DrawFn, data: bytes, examples: Sequence[bytes]) -> bytes:
    return flip(data, draw(st.integers(0, 8 * len(data) - 1))) if data else data


def _cut(draw: st.DrawFn, data: bytes, examples: Sequence[bytes]) -> bytes:
    return data[: _place(draw, data)]


def _without(draw: st.DrawFn, data: bytes, examples: Sequence[bytes]) -> bytes:
    first = _place(draw, data)
    return data[:first] + data[first + draw(st.integers(1, 40)) :]


def _doubled(draw: st.DrawFn, data: bytes, examples: Sequence[bytes]) -> bytes:
    first = _place(draw, data)
    last = first + draw(st.integers(1, 200))
    return data[:last] + data[first:last] + data[last:]


def _spliced(draw: st.DrawFn, data: bytes, examples: Sequence[bytes]) -> bytes:
    other = draw(st.sampled_from(examples))
    return data[: _place(draw, data)] + other[_place(draw, other) :]


def _poisoned(draw: st.DrawFn, data: bytes, examples: Sequence[bytes]) -> bytes:
    first = _place(draw, data)
    return data[:first] + draw(st.sampled_from(NASTY)) + data[first + draw(st.sampled_from([0, 0, 1, 2, 8])) :]


_MUTATIONS: st.SearchStrategy[Mutate] = st.sampled_from([_flipped, _cut, _without, _doubled, _spliced, _poisoned])
