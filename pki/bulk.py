"""Bulk enrolment: rows of a CSV become requests, each on its own; what became of each row is told with its line.

The name of a request follows from the batch and the row's `id`, so that the same file again asks for nothing twice.
"""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Final

from ledger.core.encoding import decode_base64
from ledger.errors import Conflict, InvalidRequest, JinshiError, Malformed, MalformedCsv
from pki.access.base import Caller
from pki.core.subjects import ATTRIBUTES
from pki.ra import Registration
from pki.wishes import CLIENT_ID_LENGTH_MAX, Wish

REQUIRED: Final = ("id", "authority", "profile", "holder", "csr")
OPTIONAL: Final = ("names",)
OUTCOME: Final = ("line", "id", "request", "state", "serial", "fault")
"""The columns of the outcomes."""
ROW_LENGTH_MAX: Final = 131_072
BATCH_LENGTH_MAX: Final = 40


@dataclass(frozen=True, slots=True)
class Row:
    """One row. `csr` is PEM, base64 of DER, or `@FILE`; names stand apart by spaces; other columns are the subject's.

    `fault`: why it cannot be asked for, "" where it can.
    """

    line: int
    id: str
    wish: Wish | None
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a row."""

    line: int
    id: str
    request: str
    state: str
    serial: str
    fault: str

    def row(self) -> tuple[str, ...]:
        """As a row of the outcome's CSV."""
        return (str(self.line), self.id, self.request, self.state, self.serial, self.fault)


def parse_rows(text: str, batch: str, read: Callable[[str], bytes]) -> Iterator[Row]:
    """The rows of a CSV, one at a time; `read` gives the bytes of a file that a row names.

    Raises:
        MalformedCsv: the columns are not those; a row that cannot be used is none of that, it says so itself.
        InvalidRequest: the batch has no usable name.
    """
    if not batch or len(batch) > BATCH_LENGTH_MAX or not batch.isprintable():
        raise InvalidRequest(f"a batch cannot be called {batch[:40]!r}", hint=f"1 to {BATCH_LENGTH_MAX} characters")
    reader = csv.reader(io.StringIO(text), strict=True)
    try:
        columns = next(reader, [])
    except csv.Error as error:
        raise MalformedCsv(f"line 1: {error}") from error
    _check_columns(columns)
    seen: dict[str, int] = {}
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            # What follows a quote that was never closed cannot be told from it.
            raise MalformedCsv(f"line {reader.line_num}: {error}", hint="the rows before it were read") from error
        if cells is None:
            return
        if cells:
            yield _row(reader.line_num, columns, cells, batch, seen, read)


def _check_columns(columns: list[str]) -> None:
    missing = [name for name in REQUIRED if name not in columns]
    unknown = [name for name in columns if name not in (*REQUIRED, *OPTIONAL, *ATTRIBUTES)]
    if missing or unknown or len(set(columns)) != len(columns):
        what = f"lacks {', '.join(missing)}" if missing else f"has {', '.join(unknown)[:80]} or a column twice"
        raise MalformedCsv(f"line 1: the table {what}", hint=f"{', '.join(REQUIRED)}; names; subject attributes")


def _row(
    line: int, columns: list[str], cells: list[str], batch: str, seen: dict[str, int], read: Callable[[str], bytes]
) -> Row:
    given = dict(zip(columns, cells, strict=False))
    id_ = given.get("id", "")
    if len(cells) != len(columns) or sum(map(len, cells)) > ROW_LENGTH_MAX:
        return Row(line, id_, None, f"{len(cells)} cells instead of {len(columns)}, or too long")
    if not id_ or len(f"{batch}/{id_}") > CLIENT_ID_LENGTH_MAX:
        return Row(line, id_, None, "its id is missing or too long")
    if id_ in seen:
        return Row(line, id_, None, f"line {seen[id_]} has the same id")
    seen[id_] = line
    try:
        csr = _csr(given["csr"].strip(), read)
    except (JinshiError, ValueError) as error:
        return Row(line, id_, None, str(error)[:200])
    names = tuple(given["names"].split()) if given.get("names", "").strip() else None
    subject = tuple((name, given[name]) for name in columns if name in ATTRIBUTES and given[name])
    wish = Wish(given["authority"], given["profile"], given["holder"], csr, f"{batch}/{id_}", subject or None, names)
    return Row(line, id_, wish)


def _csr(given: str, read: Callable[[str], bytes]) -> bytes:
    if given.startswith("@"):
        return read(given[1:])
    return given.encode() if given.startswith("-----BEGIN ") else decode_base64(given)


async def enrol(registration: Registration, caller: Caller, rows: Iterator[Row]) -> AsyncIterator[Outcome]:
    """Submit each row, and say what became of it. A row that is refused does not stop the others.

    Raises:
        Unavailable: it cannot go on now; the same again goes on where it ended.
    """
    for row in rows:
        if row.wish is None:
            yield Outcome(row.line, row.id, "", "invalid", "", row.fault)
            continue
        try:
            standing = await registration.submit(caller, row.wish)
        except (InvalidRequest, Malformed, Conflict) as error:
            yield Outcome(row.line, row.id, "", "refused", "", str(error))
        else:
            yield Outcome(row.line, row.id, standing.name, standing.state, standing.serial, standing.waiting)
