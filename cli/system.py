"""The system's clock, user and randomness: what the pure rooms are handed instead of reaching for it."""

from __future__ import annotations

import gc
import secrets
from datetime import UTC, datetime


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
