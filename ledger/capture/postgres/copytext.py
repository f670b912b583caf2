"""Rows as COPY has them (PostgreSQL documentation, COPY, "Text Format"), and the digest of a table. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Final

from ledger.capture.postgres.pgoutput import Row
from ledger.content.chunker import Readable
from ledger.errors import Malformed

DIGEST_SIZE: Final = 16
STREAM_SIZE: Final = 2**18
ORDERED: Final = "ordered:"
"""Before the digest of a table that was copied: SHA-256 of its rows as they came, in the order they lay in."""

_ESCAPED: Final = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_ESCAPES: Final = str.maketrans(
    {"\\": r"\\", "\b": r"\b", "\f": r"\f", "\n": r"\n", "\r": r"\r", "\t": r"\t", "\v": r"\v"}
)


def copy_line(row: Iterable[str | None]) -> bytes:
    """A row as COPY's text format has it (PostgreSQL documentation, COPY, "Text Format")."""
    return ("\t".join([r"\N" if value is None else value.translate(_ESCAPES) for value in row]) + "\n").encode()


def parse_copy_line(line: bytes) -> Row:
    """The inverse of `copy_line`. Raises Malformed."""
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise Malformed("a row of a copy is no UTF-8") from error
    if not text.endswith("\n") or "\n" in text[:-1]:
        raise Malformed("a row of a copy is not one line")
    return [None if part == r"\N" else _unescaped(part) for part in text[:-1].split("\t")]


def _unescaped(text: str) -> str:
    if "\\" not in text:
        return text
    return "".join(_pieces(text))


def _pieces(text: str) -> Iterator[str]:
    rest = iter(text)
    for character in rest:
        if character != "\\":
            yield character
            continue
        following = next(rest, None)
        if following is None:
            raise Malformed("a row of a copy ends within an escape")
        yield _ESCAPED.get(following, following)


class RowsDigest:
    """Of the rows of a table in any order: the sum of their hashes, and how many they are."""

    def __init__(self) -> None:
        self.rows = 0
        self._sum = 0
        self._begun: list[bytes] = []

    def add(self, rows: Iterable[bytes | memoryview]) -> None:
        """Rows, as COPY … TO STDOUT writes them: of each the first 128 bits of its hash."""
        count, total = 0, 0
        hashed, number = hashlib.sha256, int.from_bytes  # looked up once, not for every row of a large table
        for row in rows:
            total += number(hashed(row).digest()[:DIGEST_SIZE], "big")
            count += 1
        self.rows += count
        self._sum += total

    def add_stream(self, stream: Readable) -> None:
        """Rows that come as a stream. Memory: a block and a row. Raises Malformed: it ends within a row."""
        buffer = memoryview(bytearray(STREAM_SIZE))
        while count := stream.readinto(buffer):
            self.add_block(bytes(buffer[:count]))
        self.end()

    def add_block(self, block: bytes) -> None:
        """The next bytes of many rows, cut anywhere."""
        whole, found, rest = block.rpartition(b"\n")
        if not found:
            self._begun.append(rest)
            return
        self.add([line + b"\n" for line in b"".join((*self._begun, whole)).split(b"\n")])
        self._begun = [rest] if rest else []

    def end(self) -> None:
        """No more blocks come. Raises Malformed: the last one ended within a row."""
        if self._begun:
            raise Malformed("a copy ends within a row")

    @property
    def hex(self) -> str:
        """The sum modulo 2^128."""
        return f"{self._sum % 2 ** (8 * DIGEST_SIZE):032x}"


class OrderedDigest:
    """Of the rows of a table in the order they lie in; of a table that was loaded with a copy, that of the copy."""

    def __init__(self) -> None:
        self.rows = 0
        self._hash = hashlib.sha256()

    def add_stream(self, stream: Readable) -> None:
        """As `RowsDigest.add_stream`, for a fraction of its time."""
        block = bytearray(STREAM_SIZE)
        buffer = memoryview(block)
        while count := stream.readinto(buffer):
            self._hash.update(buffer[:count])
            self.rows += block.count(b"\n", 0, count)

    @property
    def hex(self) -> str:
        """As a copy's entry has it."""
        return ORDERED + self._hash.hexdigest()
