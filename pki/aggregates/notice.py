"""That a certificate is about to end was noticed, once for each certificate and threshold."""

from __future__ import annotations

from datetime import datetime

from eventsourcing.domain import event

from pki.aggregates.base import TrustAggregate


class Notice(TrustAggregate):
    """One notice. It has one event only, so that two who notice at the same time record it once."""

    TOPIC = "pki.notice"

    @event("Created", topic="notice.expiring.v1")
    def __init__(
        self, authority: str, serial: str, days: int, holder: str, not_after: int, *, timestamp: datetime
    ) -> None:
        """The certificate ends at `not_after` (POSIX seconds), in no more than `days` days; `holder` is to be told."""
        self.authority = authority
        self.serial = serial
        self.days = days
        self.holder = holder
        self.not_after = not_after

    @staticmethod
    def create_id(authority: str, serial: str, days: int) -> str:
        """One for each certificate and threshold."""
        return f"notice:{authority}:{serial}:{days}"
