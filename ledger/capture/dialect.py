"""How a register's CSV file is written, told apart from what it says: rows in, dialect and exceptions out, and back.

A row that the dialect does not reproduce byte for byte is kept as an exception, so that `render` gives the file again.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from ledger.core.canonical import JsonValue
from ledger.errors import MalformedCsv

Quoting = Literal["minimal", "nonempty", "always"]

BOM: Final = "\ufeff"
ENCODINGS: Final = ("utf-8", "gb18030")
DELIMITERS: Final = (",", "\t", ";", "|")
_NEWLINES: Final = ("\n", "\r\n", "\r")
_UNFIT = re.compile(r'["\r\n]')
_LINE_END = re.compile(r"\r\n?|\n")


@dataclass(frozen=True, slots=True)
class Dialect:
    """How the rows of one edition are written. `quoting` holds one rule for each column, `header` those of line 1."""

    encoding: str
    bom: bool
    delimiter: str
    newline: str
    final_newline: bool
    quoting: tuple[Quoting, ...]
    header: tuple[Quoting, ...]

    def to_json(self) -> dict[str, JsonValue]:
        """As `edition.sealed.v1` holds it."""
        return {
            "encoding": self.encoding,
            "bom": self.bom,
            "delimiter": self.delimiter,
            "newline": self.newline,
            "final_newline": self.final_newline,
            "quoting": list(self.quoting),
            "header": list(self.header),
        }

    @classmethod
    def from_json(cls, value: JsonValue) -> Dialect:
        """The inverse of `to_json`. Raises MalformedCsv."""
        match value:
            case {
                "encoding": "utf-8" | "gb18030" as encoding,
                "bom": bool(bom),
                "delimiter": str(delimiter),
                "newline": "\n" | "\r\n" | "\r" as newline,
                "final_newline": bool(final_newline),
                "quoting": list(quoting),
                "header": list(header),
            } if _can_delimit(delimiter):
                return cls(encoding, bom, delimiter, newline, final_newline, _rules_from(quoting), _rules_from(header))
        raise MalformedCsv("the recorded dialect of the edition cannot be read")


def _can_delimit(mark: str) -> bool:
    return len(mark) == 1 and (mark == "\t" or mark.isprintable()) and mark not in ('"', BOM)


def _rules_from(values: list[JsonValue]) -> tuple[Quoting, ...]:
    known: dict[JsonValue, Quoting] = {"minimal": "minimal", "nonempty": "nonempty", "always": "always"}
    if not all(isinstance(value, str) and value in known for value in values):
        raise MalformedCsv("the recorded dialect of the edition has a quoting rule that is unknown here")
    return tuple(known[str(value)] for value in values)


@dataclass(frozen=True, slots=True)
class Exceptional:
    """What the dialect does not reproduce: the raw text that stands for row `row` (-1: the header).

    `before` holds raw lines that carry no row (blank ones) and stand before it; `raw` None: the row itself is regular.
    """

    row: int
    raw: str | None
    before: str = ""

    def to_json(self) -> list[JsonValue]:
        """[row, raw or null, before]."""
        return [self.row, self.raw, self.before]


@dataclass(frozen=True, slots=True)
class Sheet:
    """A CSV file taken apart: `rows[i]` has one value for each column, `lines[i]` is the line it begins on."""

    dialect: Dialect
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    lines: tuple[int, ...]
    exceptions: tuple[Exceptional, ...]


@dataclass(frozen=True, slots=True)
class _Raw:
    """One row as read: its fields, its text without the line end, its line end, and blank lines before it."""

    fields: tuple[str, ...]
    text: str
    end: str
    before: str
    line: int


def parse_sheet(data: bytes, *, encoding: str | None = None, delimiter: str | None = None) -> Sheet:
    """Take a CSV file (RFC 4180 and its usual variations) apart; `render` puts exactly these bytes together again.

    Raises:
        MalformedCsv: the encoding is wrong, the file is cut or has rows of different lengths; names the line.
    """
    if delimiter is not None and not _can_delimit(delimiter):
        raise MalformedCsv(f"{delimiter!r} cannot delimit fields", hint="give one character: a comma, a semicolon, ...")
    text, known_encoding, bom = _decode(data, encoding)
    mark = delimiter or _sniff(text)
    raws, rest = _read(text, mark)
    if not raws:
        raise MalformedCsv("the file has no header line", hint="the first line must name the columns")
    header, *body = raws
    _check_columns(header.fields)
    for raw in body:
        if len(raw.fields) != len(header.fields):
            raise MalformedCsv(
                f"line {raw.line} has {len(raw.fields)} fields, the header has {len(header.fields)}",
                hint="the file may have been cut while it was written; get it again",
            )
    newline = Counter(raw.end for raw in raws if raw.end).most_common(1)
    dialect = Dialect(
        encoding=known_encoding,
        bom=bom,
        delimiter=mark,
        newline=newline[0][0] if newline else "\n",
        final_newline=raws[-1].end != "",
        quoting=_rules(body, mark, len(header.fields)),
        header=_rules([header], mark, len(header.fields)),
    )
    exceptions = list(_exceptions(dialect, raws))
    if rest:
        exceptions.append(Exceptional(len(body), None, rest))
    sheet = Sheet(
        dialect,
        header.fields,
        tuple(raw.fields for raw in body),
        tuple(raw.line for raw in body),
        tuple(exceptions),
    )
    if render(dialect, sheet.columns, sheet.rows, sheet.exceptions) != data:
        raise MalformedCsv(
            f"the file cannot be reproduced byte for byte in {known_encoding}", hint="save it as UTF-8 and import that"
        )
    return sheet


def render(
    dialect: Dialect, columns: Sequence[str], rows: Sequence[Sequence[str]], exceptions: Sequence[Exceptional] = ()
) -> bytes:
    """The file: header and rows as the dialect writes them, exceptions as they were."""
    special = {one.row: one for one in exceptions}
    parts: list[str] = [BOM] if dialect.bom else []
    for number, (values, rules) in enumerate(_lines(dialect, columns, rows), -1):
        last = number == len(rows) - 1
        text = dialect.delimiter.join(_field(value, rule, dialect) for value, rule in zip(values, rules, strict=True))
        text += dialect.newline if dialect.final_newline or not last else ""
        if (one := special.get(number)) is not None:
            text = one.before + (text if one.raw is None else one.raw)
        parts.append(text)
    if (trailing := special.get(len(rows))) is not None:
        parts.append(trailing.before)
    return "".join(parts).encode(dialect.encoding)


def _lines(
    dialect: Dialect, columns: Sequence[str], rows: Sequence[Sequence[str]]
) -> Iterator[tuple[Sequence[str], Sequence[Quoting]]]:
    yield columns, dialect.header
    for row in rows:
        yield row, dialect.quoting


def _field(value: str, rule: Quoting, dialect: Dialect) -> str:
    quoted = rule == "always" or (rule == "nonempty" and value != "")
    if quoted or dialect.delimiter in value or _UNFIT.search(value):
        return '"' + value.replace('"', '""') + '"'
    return value


# -- reading ----------------------------------------------------------------------------------------------------------


def _decode(data: bytes, encoding: str | None) -> tuple[str, str, bool]:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in data:
        raise MalformedCsv("the file is UTF-16, or no text at all", hint="save it as UTF-8 or GB18030")
    name = (encoding or "utf-8").lower().replace("_", "-")
    name = {"utf8": "utf-8", "utf-8-sig": "utf-8", "gbk": "gb18030", "gb2312": "gb18030"}.get(name, name)
    if name not in ENCODINGS:
        raise MalformedCsv(f"the encoding {encoding!r} is not one that is read here", hint="use utf-8 or gb18030")
    try:
        text = data.decode(name)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        other = "gb18030" if name == "utf-8" else "utf-8"
        raise MalformedCsv(
            f"line {line} is not {name} (byte {data[error.start]:#04x} at offset {error.start})",
            hint=f"if the file is {other}, say so: --encoding {other}",
        ) from error
    return text.removeprefix(BOM), name, text.startswith(BOM)


def _sniff(text: str) -> str:
    """The delimiter that stands most often in the header line."""
    header = _LINE_END.split(text.lstrip("\r\n"), maxsplit=1)[0]
    counts = {mark: header.count(mark) for mark in DELIMITERS}
    return max(DELIMITERS, key=lambda mark: counts[mark])


def _read(text: str, delimiter: str) -> tuple[list[_Raw], str]:
    """Every row with its raw text, and blank lines after the last one."""
    taken: list[str] = []

    def lines() -> Iterator[str]:
        for line in io.StringIO(text, newline=""):  # line ends as they are; a quoted field may span several
            taken.append(line)
            yield line

    reader = csv.reader(lines(), delimiter=delimiter, strict=True)
    raws: list[_Raw] = []
    before, first = "", 1
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return raws, before
        except csv.Error as error:
            raise MalformedCsv(
                f"line {first} cannot be read ({error})",
                hint="a quote is open or misplaced; the file may have been cut while it was written",
            ) from error
        raw = "".join(taken)
        line, first = first, first + len(taken)
        taken.clear()
        if not fields:
            before += raw
            continue
        stripped = raw.rstrip("\r\n") if raw.endswith(("\r", "\n")) else raw
        end = raw[len(stripped) :]
        if end not in ("", *_NEWLINES):  # more than one line end: blank lines are rows of their own
            stripped, end = raw[: -len("\n")], "\n"
        raws.append(_Raw(tuple(fields), stripped, end, before, line))
        before = ""


def _check_columns(columns: Sequence[str]) -> None:
    twice = [name for name, count in Counter(columns).items() if count > 1]
    if twice:
        raise MalformedCsv(f"column {twice[0]!r} stands twice in the header", hint="column names must be unique")


def _rules(raws: Sequence[_Raw], delimiter: str, width: int) -> tuple[Quoting, ...]:
    """For each column the rule that most of its values were written by."""
    votes = [Counter[Quoting]() for _ in range(width)]
    split = re.compile(r'"(?:[^"]|"")*"|[^' + re.escape(delimiter) + "]*")
    for raw in raws:
        position = 0
        for column, value in enumerate(raw.fields):
            match = split.match(raw.text, position)
            assert match is not None
            position = match.end() + 1
            if delimiter in value or _UNFIT.search(value):
                continue  # quoted by every rule
            quoted = match[0].startswith('"')
            votes[column]["nonempty"] += quoted == (value != "")
            votes[column]["always"] += quoted
            votes[column]["minimal"] += not quoted
    preferred: tuple[Quoting, ...] = ("minimal", "always", "nonempty")
    return tuple(max(preferred, key=lambda rule: vote[rule]) for vote in votes)


def _exceptions(dialect: Dialect, raws: Sequence[_Raw]) -> Iterator[Exceptional]:
    for number, raw in enumerate(raws, -1):
        rules = dialect.header if number < 0 else dialect.quoting
        text = dialect.delimiter.join(
            _field(value, rule, dialect) for value, rule in zip(raw.fields, rules, strict=True)
        )
        end = dialect.newline if dialect.final_newline or raw is not raws[-1] else ""
        regular = text == raw.text and end == raw.end
        if not regular or raw.before:
            yield Exceptional(number, None if regular else raw.text + raw.end, raw.before)
