"""A copy of a table with changes taken in on the way, so that a server is given each row once. Pure.

Rows are compared as COPY writes them: what a server says of a row's key is the same text as in the copy, or it says
what the key was before.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence, Set
from itertools import islice
from typing import Final

from ledger.capture.postgres.copytext import copy_line
from ledger.capture.postgres.pgoutput import UNCHANGED, Row
from ledger.errors import Malformed
from restore.rebuild.postgres_rows import line_of

BLOCK_ROWS: Final = 1_000
LINE_SIZE_MAX: Final = 2**31
"""PostgreSQL bounds a row to 1 GiB; as text it has its escapes."""

Take = Callable[[list[bytes]], list[bytes]]
"""What becomes of some lines, without their line feeds."""


async def merge_keyed(
    blocks: AsyncIterator[bytes],
    places: Sequence[int],
    gone: Set[bytes],
    partly: Mapping[bytes, Row],
    whole: Iterable[bytes],
) -> AsyncIterator[bytes]:
    """The rows of a copy but for those whose values at `places` are among `gone`; then the lines `whole`.

    Keys are as a line of COPY has them, without its line feed. Rows in `partly` are changed where they stand: they have
    UNCHANGED for what the copy has. Raises Malformed: the copy is none.
    """
    keys_of = _keys_of(places)

    def take(lines: list[bytes]) -> list[bytes]:
        keys = keys_of(lines)
        if partly and not partly.keys().isdisjoint(keys):
            lines = [
                _completed(line, partly[key]) if key in partly else line for line, key in zip(lines, keys, strict=True)
            ]
        if gone.isdisjoint(keys):
            return lines
        return [line for line, key in zip(lines, keys, strict=True) if key not in gone]

    async for block in _filtered(blocks, take):
        yield block
    async for block in blocks_of_lines(whole):
        yield block


async def merge_counted(
    blocks: AsyncIterator[bytes], counts: Mapping[tuple[str | None, ...], int]
) -> AsyncIterator[bytes]:
    """The rows of a copy, with so many more of some, or fewer. Raises Malformed: the copy is none."""
    fewer = {copy_line(row)[:-1]: -count for row, count in counts.items() if count < 0}

    def take(lines: list[bytes]) -> list[bytes]:
        if fewer.keys().isdisjoint(lines):
            return lines
        kept: list[bytes] = []
        for line in lines:
            if fewer.get(line, 0) > 0:
                fewer[line] -= 1
            else:
                kept.append(line)
        return kept

    async for block in _filtered(blocks, take):
        yield block
    async for block in blocks_of([*row] for row, count in counts.items() for _ in range(max(0, count))):
        yield block


def _keys_of(places: Sequence[int]) -> Callable[[list[bytes]], list[bytes]]:
    """The values at some places of each line, as they stand there."""
    if not places:
        raise Malformed("a table without a key has no row that could be told apart by it")
    last = max(places)
    if [*places] == [0]:
        return lambda lines: [line.split(b"\t", 1)[0] for line in lines]

    def key_of(line: bytes) -> bytes:
        values = line.split(b"\t", last + 1)
        if len(values) <= last:
            raise Malformed("a row of a copy has too few values")
        return b"\t".join([values[place] for place in places])

    return lambda lines: list(map(key_of, lines))


def _completed(line: bytes, row: Row) -> bytes:
    old, new = line.split(b"\t"), line_of([None if value is UNCHANGED else value for value in row])
    values = new[:-1].split(b"\t")
    if len(old) != len(row):
        raise Malformed("a row of a copy has another number of values than its table")
    return b"\t".join(
        [before if value is UNCHANGED else after for before, after, value in zip(old, values, row, strict=True)]
    )


async def _filtered(blocks: AsyncIterator[bytes], take: Take) -> AsyncIterator[bytes]:
    """The lines of blocks that are cut anywhere, a block at a time. Memory: a block and a line."""
    begun: list[bytes] = []
    size = 0
    async for block in blocks:
        whole, found, rest = block.rpartition(b"\n")
        if not found:
            begun.append(block)
            size += len(block)
            if size > LINE_SIZE_MAX:
                raise Malformed(f"a row of more than {LINE_SIZE_MAX} bytes")
            continue
        lines = take(b"".join((*begun, whole)).split(b"\n"))
        if lines:
            yield b"\n".join((*lines, b""))
        begun, size = ([rest], len(rest)) if rest else ([], 0)
    if begun:
        raise Malformed("a copy ends within a row")


def blocks_of(rows: Iterable[Row]) -> AsyncIterator[bytes]:
    """Rows as COPY takes them, some at a time."""
    return blocks_of_lines(map(line_of, rows))


async def blocks_of_lines(lines: Iterable[bytes]) -> AsyncIterator[bytes]:
    """Lines of COPY, some at a time."""
    left = iter(lines)
    while block := b"".join(islice(left, BLOCK_ROWS)):
        yield block
