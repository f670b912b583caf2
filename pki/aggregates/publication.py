"""A place that status information is published to: a directory or a bucket."""

from __future__ import annotations

from datetime import datetime

from eventsourcing.domain import event

from ledger.errors import Conflict
from pki.aggregates.base import TrustAggregate


class Publication(TrustAggregate):
    """One place, by its name. It may be given up, and named again with another URL."""

    TOPIC = "pki.publication"

    @event("Created", topic="publication.named.v1")
    def __init__(self, name: str, url: str, *, timestamp: datetime) -> None:
        self.name = name
        self.url = url

    @staticmethod
    def create_id(name: str) -> str:
        return f"publication:{name}"

    @event("Moved", topic="publication.moved.v1")
    def _moved(self, url: str, timestamp: datetime) -> None:
        self.url = url

    def move(self, url: str, *, timestamp: datetime) -> None:
        """Publish to another URL from now on; "": nowhere any more. Raises Conflict: that is so already."""
        if url == self.url:
            raise Conflict(f"{self.name} is at {url} already" if url else f"{self.name} is given up already")
        self._moved(url=url, timestamp=timestamp)
