"""The system's clock, user and randomness: what the pure rooms are handed instead of reaching for it."""

from __future__ import annotations

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
