"""The content of one file of a tree, in order, holes as the zeros they are."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Final

from ledger.capture.base import View
from ledger.capture.files.record import Record

ZEROS: Final = bytes(2**18)


async def read_content(view: View, record: Record) -> AsyncIterator[bytes]:
    """All bytes of a file, part by part. Every part is proven; that it is all of them, at the end.

    Raises:
        InvalidRequest: the key to the content is not at hand.
        Tampered: some of it is missing or damaged.
        StoreUnavailable: the copy cannot be read.
    """
    at = 0
    ends = iter(record.extents or ())
    extent = next(ends, None)
    async for part in _stored(view, record):
        rest = memoryview(part)
        while rest:
            if extent is None:  # it is not sparse
                yield bytes(rest)
                at += len(rest)
                break
            for zeros in _zeros(extent.offset - at):
                yield zeros
            at = max(at, extent.offset)
            piece = rest[: extent.offset + extent.length - at]
            yield bytes(piece)
            at += len(piece)
            rest = rest[len(piece) :]
            if at == extent.offset + extent.length:
                extent = next(ends, None)
    for zeros in _zeros(record.size - at):
        yield zeros


async def _stored(view: View, record: Record) -> AsyncIterator[bytes]:
    if record.inline:
        yield record.inline
    if record.manifest is not None:
        reader = await (await view.content()).reading()
        async for part in reader.read(record.manifest):
            yield part


def _zeros(count: int) -> Iterator[bytes]:
    while count > 0:
        yield ZEROS[:count]
        count -= len(ZEROS)
