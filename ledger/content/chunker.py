"""Where content is cut: FastCDC (Xia et al., 2020), through a buffer that is used again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from pyfastcdc import FastCDC


class Readable(Protocol):
    """What can be read into a buffer: files opened in binary mode, `io.BytesIO`, pipes."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """How many bytes were read; 0 at the end."""
        ...


@dataclass(frozen=True, slots=True)
class Chunking:
    """Lengths of chunks in bytes. Any choice can be read back; another one than before finds fewer duplicates.

    `size_first`: the first chunk of a content has at least so many, and at most twice as many; 0: it is as the others.
    """

    size_min: int = 2**16
    size_avg: int = 2**18
    size_max: int = 2**20
    size_first: int = 0


WHOLE_UP_TO: Final = 2**20
"""What is no longer is one chunk, which packs better than several; what is longer is cut finely behind its beginning,
as its next version will be nearly the same (docs/adr/0017)."""


class Chunker:
    """Cuts one stream after another. Not for several threads at once."""

    def __init__(self, chunking: Chunking, seed: int) -> None:
        first = chunking.size_first
        self._cut = _Cut(chunking.size_min, chunking.size_avg, chunking.size_max, seed)
        self._cut_first = _Cut(first, first * 3 // 2, first * 2, seed) if first else self._cut
        self._buffer = bytearray(max(self._cut.size_max, self._cut_first.size_max) + self._cut.size_max)

    def cut(self, stream: Readable) -> Iterator[memoryview]:
        """The chunks of a stream, in order. Each is valid until the next one is asked for."""
        whole = memoryview(self._buffer)
        filled, ended = 0, False
        cut = self._cut_first
        while not ended:
            filled, ended = _fill(stream, whole, filled)
            start = 0
            while (end := cut.end(whole[start:filled], ended=ended)) > 0:
                yield whole[start : start + end]
                start += end
                cut = self._cut
            whole[: filled - start] = whole[start:filled]
            filled -= start


class _Cut:
    """Chunks of these lengths."""

    def __init__(self, size_min: int, size_avg: int, size_max: int, seed: int) -> None:
        self.size_min, self.size_max = size_min, size_max
        self._cut = FastCDC(size_avg, min_size=size_min, max_size=size_max, seed=seed)

    def end(self, data: memoryview, *, ended: bool) -> int:
        """Where the first chunk ends; 0: what is still to be read may move that, or there is nothing.

        A boundary depends on nothing behind it, so any that is not forced by the end of the buffer stays.
        """
        if ended and len(data) <= self.size_min:
            return len(data)
        if len(data) <= self.size_min:
            return 0
        end: int = next(iter(self._cut.cut_buf(data[: self.size_max]))).length
        return end if ended or end < len(data) else 0


def _fill(stream: Readable, whole: memoryview, filled: int) -> tuple[int, bool]:
    while filled < len(whole):
        count = stream.readinto(whole[filled:])
        if not count:
            return filled, True
        filled += count
    return filled, False
