"""What an organisation allows beyond and instead of what is shipped: the amended policies, version by version."""

from __future__ import annotations

from datetime import datetime

from eventsourcing.domain import event

from pki.aggregates.base import TrustAggregate


class Policy(TrustAggregate):
    """The organisation's policies, in Cedar. Each event holds the whole text; the last one counts."""

    TOPIC = "pki.policy"

    @event("Created", topic="policy.adopted.v1")
    def __init__(self, name: str, text: str, because: str, *, timestamp: datetime) -> None:
        self.name = name
        self.text = text
        self.because = because
        self.number = 1

    @staticmethod
    def create_id(name: str) -> str:
        return f"policy:{name}"

    @event("Amended", topic="policy.amended.v1")
    def _amended(self, text: str, because: str, timestamp: datetime) -> None:
        self.text = text
        self.because = because
        self.number += 1

    def amend(self, text: str, because: str, *, timestamp: datetime) -> None:
        """Another text from now on."""
        self._amended(text=text, because=because, timestamp=timestamp)
