"""Single zstd frames (RFC 8878), as sealed data and chunks are packed. Pure."""

from __future__ import annotations

import threading

import zstandard
from zstandard import ZstdError as FrameError

__all__ = ["FrameError", "unpack"]

_own = threading.local()


def unpack(frame: bytes, size_max: int) -> bytes:
    """What is in a frame that has nothing behind it.

    Each thread has a context that it uses again: making one takes longer than to unpack an entry.

    Raises:
        FrameError: it is no whole frame, or has more than `size_max` bytes in it, of which no more are unpacked.
    """
    size = zstandard.get_frame_parameters(frame).content_size
    if size_max < size != zstandard.CONTENTSIZE_UNKNOWN:
        raise FrameError(f"it holds {size} bytes; the most is {size_max}")
    found: zstandard.ZstdDecompressor | None = getattr(_own, "unpacker", None)
    if found is None:
        found = _own.unpacker = zstandard.ZstdDecompressor()
    return found.decompress(frame, max_output_size=size_max, allow_extra_data=False)
