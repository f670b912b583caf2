"""The changes of a recorded transaction, out of its entry or out of the content store, in bounded memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Final

from ledger.capture.postgres.pgoutput import Relation
from ledger.capture.postgres.transactions import Change, Transaction, parse_change_line
from ledger.content import ContentReader
from ledger.core.manifest import Manifest
from ledger.errors import Malformed

LINE_SIZE_MAX: Final = 2**31
"""PostgreSQL bounds a row to 1 GiB; text in JSON or COPY has its escapes."""


async def changes_of(
    transaction: Transaction, reader: ContentReader | None
) -> AsyncIterator[tuple[Sequence[Relation], Change]]:
    """Each change in order, with the relations that it speaks of. Raises Malformed, Tampered."""
    if transaction.manifest is None:
        for change in transaction.changes:
            yield transaction.relations, change
        return
    assert reader is not None, "a large transaction is content"
    relations: list[Relation] = []
    async for line in lines_of(transaction.manifest, reader):
        found = parse_change_line(line, relations)
        if found is not None:
            yield relations, found


async def lines_of(manifest: Manifest, reader: ContentReader) -> AsyncIterator[bytes]:
    """The lines of content, each with its line feed. Memory: a chunk and a line. Raises Malformed, Tampered."""
    begun: list[bytes] = []
    size = 0
    async for part in reader.read(manifest):
        *lines, rest = part.split(b"\n")
        for line in lines:
            yield b"".join((*begun, line, b"\n"))
            begun, size = [], 0
        if rest:
            begun.append(rest)
            size += len(rest)
            if size > LINE_SIZE_MAX:
                raise Malformed(f"a line of more than {LINE_SIZE_MAX} bytes")
    if begun:
        raise Malformed("content ends within a line")
