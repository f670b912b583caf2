"""A certificate profile as it was recorded, version by version."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from eventsourcing.domain import event

from ledger.errors import Conflict
from pki.aggregates.base import TrustAggregate


class ProfileRecord(TrustAggregate):
    """A profile under its name. Versions count from 1; certificates say which one they were issued by."""

    TOPIC = "pki.profile"

    @event("Created", topic="profile.recorded.v1")
    def __init__(self, name: str, profile: dict[str, Any], *, timestamp: datetime) -> None:
        """`profile`: as `Profile.recorded` gives it."""
        self.name = name
        self.versions = [profile]

    @staticmethod
    def create_id(name: str) -> str:
        """A name stands for one profile."""
        return f"profile:{name}"

    @event("Amended", topic="profile.amended.v1")
    def _amended(self, profile: dict[str, Any], timestamp: datetime) -> None:
        self.versions.append(profile)

    def amend(self, profile: dict[str, Any], *, timestamp: datetime) -> None:
        """Issue by this one from now on. Raises Conflict: it is the same as before."""
        if profile == self.versions[-1]:
            raise Conflict(f"profile {self.name} is recorded like that already")
        self._amended(profile=profile, timestamp=timestamp)
