"""The changes of a recorded transaction, out of its entry or out of the content store, in bounded memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Final

from ledger.capture.postgres.messages import LENGTH, Actor, Change, Decoder, parse_messages, whole_messages
from ledger.capture.postgres.pgoutput import Relation
from ledger.capture.postgres.transactions import Transaction, parse_change_line
from ledger.content import ContentReader
from ledger.core.manifest import Manifest
from ledger.errors import Malformed

LINE_SIZE_MAX: Final = 2**31
"""PostgreSQL bounds a row to 1 GiB; text in JSON or COPY has its escapes."""


async def changes_of(
    transaction: Transaction, reader: ContentReader | None
) -> AsyncIterator[tuple[Sequence[Relation], Change, Actor | None]]:
    """Each change in order, with the relations that it speaks of, and who made it where the source says so.

    Raises Malformed, Tampered.
    """
    if transaction.format == 1 and transaction.manifest is None:
        for recorded in transaction.changes:
            yield transaction.relations, recorded, None
        return
    decoder = Decoder()
    if transaction.manifest is None:
        for message in whole_messages(transaction.messages):
            if (found := decoder.take(message)) is not None:
                yield decoder.relations, found, decoder.actor
        return
    assert reader is not None, "a large transaction is content"
    if transaction.format == 1:
        relations: list[Relation] = []
        async for line in lines_of(transaction.manifest, reader):
            found = parse_change_line(line, relations)
            if found is not None:
                yield relations, found, None
        return
    async for messages in messages_of(transaction.manifest, reader):
        for message in messages:
            if (found := decoder.take(message)) is not None:
                yield decoder.relations, found, decoder.actor


async def messages_of(manifest: Manifest, reader: ContentReader) -> AsyncIterator[list[bytes]]:
    """The messages of a large transaction, some at a time. Memory: a chunk and a message. Raises as `changes_of`."""
    rest = b""
    begun: list[bytes] = []
    wanted = 0
    async for part in reader.read(manifest):
        begun.append(part)
        wanted -= len(part)
        if wanted > 0:
            continue  # a long message is put together once
        messages, rest = parse_messages(b"".join(begun))
        yield messages
        begun = [rest]
        wanted = LENGTH.unpack_from(rest)[0] + LENGTH.size - len(rest) if len(rest) >= LENGTH.size else 0
    if rest or wanted > 0:
        raise Malformed("content ends within a message")


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
