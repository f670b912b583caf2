"""Where content is cut: FastCDC (Xia et al., 2020), through a buffer that is used again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from pyfastcdc import FastCDC


class Readable(Protocol):
    """What can be read into a buffer: files opened in binary mode, `io.BytesIO`, pipes."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """How many bytes were read; 0 at the end."""
        ...


@dataclass(frozen=True, slots=True)
class Chunking:
    """Lengths of chunks in bytes. Any choice can be read back; another one than before finds fewer duplicates."""

    size_min: int = 2**16
    size_avg: int = 2**18
    size_max: int = 2**20


class Chunker:
    """Cuts one stream after another. Not for several threads at once."""

    def __init__(self, chunking: Chunking, seed: int) -> None:
        self._chunking = chunking
        self._cut = FastCDC(
            chunking.size_avg,
            min_size=chunking.size_min,
            max_size=chunking.size_max,
            seed=seed,
        )
        self._buffer = bytearray(2 * chunking.size_max)

    def cut(self, stream: Readable) -> Iterator[memoryview]:
        """The chunks of a stream, in order. Each is valid until the next one is asked for."""
        whole = memoryview(self._buffer)
        filled, ended = 0, False
        while not ended:
            filled, ended = _fill(stream, whole, filled)
            start = 0
            for chunk in self._cut.cut_buf(whole[:filled]) if filled else ():
                if not ended and chunk.offset + self._chunking.size_max > filled:
                    break  # what is still to be read may move this boundary
                start = chunk.offset + chunk.length
                yield whole[chunk.offset : start]
            whole[: filled - start] = bytes(whole[start:filled])
            filled -= start


def _fill(stream: Readable, whole: memoryview, filled: int) -> tuple[int, bool]:
    while filled < len(whole):
        count = stream.readinto(whole[filled:])
        if not count:
            return filled, True
        filled += count
    return filled, False
