"""What was refused in a while, in one entry: counted, with the first few in detail. Its size and rate are bounded."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from eventsourcing.domain import event

from pki.aggregates.base import TrustAggregate


class Refusals(TrustAggregate):
    """One summary. Nothing ever changes it."""

    TOPIC = "pki.refusals"

    @event("Created", topic="access.refused.v1")
    def __init__(
        self,
        number: str,
        since: int,
        until: int,
        counts: list[dict[str, Any]],
        others: int,
        first: list[dict[str, Any]],
        *,
        timestamp: datetime,
    ) -> None:
        """`counts`: by actor, action, kind and reason; `others`: refusals that found no room there; `first`: details.

        Times are POSIX seconds.
        """
        self.number = number
        self.since = since
        self.until = until
        self.counts = counts
        self.others = others
        self.first = first

    @staticmethod
    def create_id(number: str) -> str:
        return f"refusals:{number}"
