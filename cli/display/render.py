"""How things look on a terminal: aligned lines, safe text, readable times. What is shown is the commands' business."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size

from cli.display.progress import stderr, stdout
from ledger.core.entry import Entry
from ledger.errors import Malformed

SIZED_ROWS = 1_000
"""Column widths come from this many first rows, so that a log of any length streams."""

SUMMARY_CELLS_MAX = 60
_COLUMN_CELLS_MAX = 60

# What a producer sent must not steer the reader's terminal: control characters, and the bidirectional overrides that
# make one text look like another.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


def one_line(text: str) -> str:
    """`text` as one line that cannot steer a terminal: control characters are shown as escapes."""
    return _UNSAFE.sub(lambda found: found.group().encode("unicode_escape", "surrogatepass").decode("ascii"), text)


def shorten(text: str, cells: int) -> str:
    """`text` cut to so many terminal cells (a Chinese character takes two), with an ellipsis where it was cut."""
    return text if cell_len(text) <= cells else set_cell_size(text, cells - 1).rstrip() + "…"


def say(text: str = "", *, style: str | None = None) -> None:
    """A line for people, on stdout. `text` is shown as it is; no markup."""
    stdout.print(text, style=style, markup=False, highlight=False)


def note(text: str, *, style: str | None = None) -> None:
    """A line for people, on stderr: what must not disturb a pipe."""
    stderr.print(text, style=style, markup=False, highlight=False)


def warn(text: str) -> None:
    """A line on stderr that should be read."""
    stderr.print("[bold yellow]warning:[/] ", end="")
    stderr.print(one_line(text), markup=False, highlight=False)


def print_json(value: object) -> None:
    """One line of JSON on stdout, non-ASCII as it is."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n")


def facts(pairs: Mapping[str, str]) -> None:
    """`name  value` lines, aligned."""
    width = max((cell_len(name) for name in pairs), default=0)
    for name, value in pairs.items():
        say(f"{set_cell_size(name, width)}  {one_line(value)}".rstrip())


@dataclass(slots=True)
class Columns:
    """A table printed as its rows come; the first rows of `add` decide the widths. Call `end` after the last."""

    titles: Sequence[str]
    _waiting: list[Sequence[str]]
    _widths: list[int] | None = None

    @classmethod
    def of(cls, *titles: str) -> Columns:
        """An empty table."""
        return cls(titles, [])

    def add(self, *cells: str) -> None:
        """One row; cells are made safe and single-line here."""
        row = [one_line(cell) for cell in cells]
        if self._widths is None:
            self._waiting.append(row)
            if len(self._waiting) >= SIZED_ROWS:
                self.end()
        else:
            self._print(row)

    def end(self) -> None:
        """Print what is still held back for the widths."""
        if self._widths is None:
            rows = [self.titles, *self._waiting]
            self._widths = [
                min(max(cell_len(row[column]) for row in rows), _COLUMN_CELLS_MAX) for column in range(len(self.titles))
            ]
            if self._waiting:
                self._print(self.titles, style="bold")
        for row in self._waiting:
            self._print(row)
        self._waiting.clear()

    def _print(self, row: Sequence[str], *, style: str | None = None) -> None:
        assert self._widths is not None
        *firsts, last = row
        cells = [
            cell if cell_len(cell) > width else set_cell_size(cell, width)
            for cell, width in zip(firsts, self._widths, strict=False)
        ]
        line = "  ".join([*cells, last]).rstrip()
        if stdout.is_terminal:
            stdout.print(shorten(line, stdout.width), style=style, markup=False, highlight=False)
        else:
            sys.stdout.write(line + "\n")


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A whole table of strings, aligned."""
    columns = Columns.of(*titles)
    for row in rows:
        columns.add(*row)
    columns.end()


def moment(text: str) -> str:
    """A time of ours for people: to the second (2026-11-24T01:53:35.123456Z -> 2026-11-24 01:53:35Z)."""
    return re.sub(r"^(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(\.\d+)?Z$", r"\1 \2Z", text)


def duration(seconds: float) -> str:
    """A length of time, with the one or two units that matter: 42 s, 3 min, 5 h 10 min, 12 days."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{round(hours / 24)} days"


def size(number: int) -> str:
    """A number of bytes: 412 B, 3.1 KiB, 120 MiB."""
    value, unit = float(number), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1000 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"


def count(number: int, one: str, many: str | None = None) -> str:
    """`1 entry`, `2,000 entries`."""
    word = one if number == 1 else (many or (f"{one[:-1]}ies" if re.search("[^aeiou]y$", one) else f"{one}s"))
    return f"{number:,} {word}"


def summary(entry: Entry) -> str:
    """The data of any entry in a few words: its JSON, its text, or how long it is."""
    event = entry.event
    if event.data is None:
        return f"-> {event.dataref}" if event.dataref else ""
    try:
        value = event.json_data
    except Malformed:
        return data_text(event.data)
    return value_text(value)


def data_text(data: bytes) -> str:
    """Bytes as received: as text where they are text, else their length."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return f"<{count(len(data), 'byte')}>"


def value_text(value: object) -> str:
    """A JSON value for people: an object as `name: value, ...`."""
    if isinstance(value, dict):
        return ", ".join(f"{name}: {value_text(part) if part is not None else '-'}" for name, part in value.items())
    if isinstance(value, list):
        return "[" + ", ".join(value_text(part) for part in value) + "]"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
