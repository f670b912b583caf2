"""A key ceremony: the file it went by, who was there, every step with its digests, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from eventsourcing.domain import event

from ledger.errors import Conflict
from pki.aggregates.base import TrustAggregate

BEGUN, ENDED = "begun", "ended"


@dataclass(frozen=True, slots=True)
class Step:
    """One step: what was done, to what, the SHA-256 of what came of it, and when (POSIX seconds)."""

    what: str
    to: str
    digest: str
    at: int


class Ceremony(TrustAggregate):
    """One ceremony, whose name stands for it for ever."""

    TOPIC = "pki.ceremony"

    @event("Created", topic="ceremony.begun.v1")
    def __init__(self, name: str, title: str, script: str, present: list[str], *, timestamp: datetime) -> None:
        """`script` is the SHA-256 of its file; `present` are the custodians who get or brought a share."""
        self.name = name
        self.title = title
        self.script = script
        self.present = present
        self.steps: list[Step] = []
        self.state = BEGUN

    @staticmethod
    def create_id(name: str) -> str:
        """One id for each name."""
        return f"ceremony:{name}"

    @event("Resumed", topic="ceremony.resumed.v1")
    def _resumed(self, present: list[str], timestamp: datetime) -> None:
        self.present = sorted({*self.present, *present})

    def resume(self, script: str, present: list[str], *, timestamp: datetime) -> None:
        """Go on after it was interrupted. Raises Conflict: it has ended, or went by another file."""
        if self.state != BEGUN:
            raise Conflict(f"the ceremony {self.name} has ended", hint="give the next one another name")
        if script != self.script:
            raise Conflict(
                f"the ceremony {self.name} was begun with another file", hint="go on with that file, or choose a name"
            )
        self._resumed(present=present, timestamp=timestamp)

    @event("Stepped", topic="ceremony.stepped.v1")
    def _stepped(self, what: str, to: str, digest: str, timestamp: datetime) -> None:
        self.steps.append(Step(what, to, digest, int(timestamp.timestamp())))

    def step(self, what: str, to: str, digest: str, *, timestamp: datetime) -> None:
        """Something was done."""
        self._must_be_begun()
        self._stepped(what=what, to=to, digest=digest, timestamp=timestamp)

    @event("Ended", topic="ceremony.ended.v1")
    def _ended(self, timestamp: datetime) -> None:
        self.state = ENDED

    def end(self, *, timestamp: datetime) -> None:
        """All of it is done."""
        self._must_be_begun()
        self._ended(timestamp=timestamp)

    def _must_be_begun(self) -> None:
        if self.state != BEGUN:
            raise Conflict(f"the ceremony {self.name} has ended")
