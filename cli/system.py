"""The system's clock, user and randomness: what the pure rooms are handed instead of reaching for it."""

from __future__ import annotations

import ctypes
import gc
import secrets
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

MMAP_THRESHOLD_SIZE: Final = 2_200_000
TRIM_THRESHOLD_SIZE: Final = 8_000_000
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8  # malloc.h


class SystemClock:
    """The wall clock, in UTC (`ledger.protocols.Clock`)."""

    def now(self) -> datetime:
        """The current time."""
        return datetime.now(UTC)


def nonce() -> str:
    """32 random hexadecimal digits."""
    return secrets.token_hex(16)


def calm_collector() -> None:
    """Look for reference cycles less often, in this whole process.

    A ledger at work makes many small objects, hardly ever in cycles: looking through them at Python's default pace
    takes a tenth of the time.
    """
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def calm_allocator() -> None:
    """Have the C library give large buffers back at once, in this whole process; where it is not glibc's, nothing.

    Packs and chunks are buffers of megabytes. After the first few, glibc would keep room for them in its heaps, one
    for each thread: a capture then takes half as much again as it uses. So there is one heap, of which a few megabytes
    stay: chunks come and go, and asking the kernel for the same pages again took up to a third of a restore. Called
    before there are threads.
    """
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_M_ARENA_MAX, 1)
        library.mallopt(_M_MMAP_THRESHOLD, MMAP_THRESHOLD_SIZE)
        library.mallopt(_M_TRIM_THRESHOLD, TRIM_THRESHOLD_SIZE)
