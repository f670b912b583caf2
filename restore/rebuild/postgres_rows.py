"""Changes as a server sent them, turned into lines of COPY without being taken apart. Pure.

Values are text in both, and both have them in the order of the columns: most changes need nothing else. What is
unusual is left to who decodes messages, who also says what is wrong with one.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from ledger.capture.postgres.copytext import copy_line
from ledger.capture.postgres.pgoutput import UNCHANGED, Insert, Row, Update, decode_message
from ledger.errors import Malformed

# Of messages (PostgreSQL documentation, "Logical Replication Message Formats").
_COUNT: Final = struct.Struct(">H")
_LENGTH: Final = struct.Struct(">I").unpack_from
_UPDATED, DELETED = b"UD"
_TEXT, _NULL, _UNCHANGED = b"tnu"
_VALUES_AT: Final = 8
_FIRST: Final = [True]

_ESCAPED: Final = b"\\\b\f\n\r\t\v"
_PLACEHOLDER: Final = b"\0"
"""For NULL until a line is whole: no text of PostgreSQL has one."""


class Messages:
    """The changes of one table whose rows are told apart by the columns at `places`, of `columns` in all."""

    def __init__(self, places: Sequence[int], columns: int) -> None:
        self._columns = columns
        width = _COUNT.pack(columns)
        self._new, self._gone = b"N" + width, b"K" + width
        ordered = [*places] == sorted(places)
        # Of each column up to the last one of the key, whether it belongs to it.
        self._walk = [place in places for place in range(max(places) + 1)] if ordered else []

    def key(self, data: bytes) -> bytes | None:
        """The key of the row that a change is of, as in a line of COPY.

        None: the row does not come as a whole, changes its key, or is not as expected; decode it.
        """
        kind = data[0]
        if data[5:8] != (self._gone if kind == DELETED else self._new) or not self._walk:
            return None
        try:
            if kind == _UPDATED and _UNCHANGED in data and not _is_whole(data):
                return None
            if self._walk == _FIRST and data[8] == _TEXT:  # the key that most tables have
                key = data[13 : 13 + _LENGTH(data, 9)[0]]
                if key.isalnum():
                    return key
            return self._key_in(data)
        except (IndexError, struct.error, UnicodeDecodeError):
            return None

    def _key_in(self, data: bytes) -> bytes | None:
        values: list[bytes] = []
        at = _VALUES_AT
        for is_key in self._walk:
            if data[at] == _TEXT:
                start = at + 5
                at = start + _LENGTH(data, at + 1)[0]
                if is_key:
                    values.append(data[start:at])
            elif is_key:
                return None
            else:
                at += 1
        key = b"\t".join(values)
        if len(key.translate(None, _ESCAPED)) != len(key) - len(values) + 1:
            return copy_line([value.decode() for value in values])[:-1]
        return key if _is_text(key) else None

    def line(self, data: bytes) -> bytes:
        """The row that an insert or an update comes to. Raises Malformed."""
        values: list[bytes] = []
        nulls, at, size = 0, _VALUES_AT, len(data)
        while at < size:
            kind = data[at]
            if kind == _TEXT and at + 5 <= size:
                start = at + 5
                at = start + _LENGTH(data, at + 1)[0]
                values.append(data[start:at])
            elif kind == _NULL:
                values.append(_PLACEHOLDER)
                nulls += 1
                at += 1
            else:
                break
        line = b"\t".join(values)
        escaped = len(line) - len(line.translate(None, _ESCAPED + _PLACEHOLDER))
        if at != size or len(values) != self._columns or escaped != len(values) - 1 + nulls or not _is_text(line):
            return self._decoded(data)
        return (line.replace(_PLACEHOLDER, rb"\N") if nulls else line) + b"\n"

    def _decoded(self, data: bytes) -> bytes:
        row = row_of(data)
        if len(row) != self._columns or UNCHANGED in row:
            raise Malformed("a row does not come as a whole")
        return line_of(row)


def row_of(message: bytes) -> Row:
    """What an insert or an update makes of a row. Raises Malformed."""
    decoded = decode_message(message)
    if not isinstance(decoded, Insert | Update):
        raise Malformed("a message is neither an insert nor an update")
    return decoded.new


def line_of(row: Row) -> bytes:
    """A row in which nothing is UNCHANGED, as COPY has it."""
    return copy_line([None if value is None else str(value) for value in row])


def _is_text(data: bytes) -> bool:
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_whole(data: bytes) -> bool:
    """Whether no value of an update is left out. Raises IndexError, struct.error."""
    at, size = _VALUES_AT, len(data)
    while at < size:
        kind = data[at]
        if kind == _TEXT:
            at += 5 + _LENGTH(data, at + 1)[0]
        elif kind == _UNCHANGED:
            return False
        else:
            at += 1
    return True
