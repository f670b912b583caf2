"""Acts under dual control: somebody wants to do it, others confirm, then it is done once."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from eventsourcing.domain import event

from ledger.errors import Conflict
from pki.aggregates.base import TrustAggregate

PROPOSED, CONFIRMED, REJECTED, SPENT = "proposed", "confirmed", "rejected", "spent"
ACT_VALID_S: Final = 7 * 86_400
"""How long after it was proposed an act can be confirmed and done."""


class Act(TrustAggregate):
    """One act that its policy wants confirmed. `digest` is of everything that was asked (`pki.access.dual`)."""

    TOPIC = "pki.act"

    @event("Created", topic="act.proposed.v1")
    def __init__(
        self,
        number: str,
        proposer: str,
        action: str,
        kind: str,
        resource: str,
        attributes: dict[str, Any],
        digest: str,
        needed: int,
        *,
        timestamp: datetime,
    ) -> None:
        """`proposer` is an officer's name; `needed` how many others have to confirm."""
        self.number = number
        self.proposer = proposer
        self.action = action
        self.kind = kind
        self.resource = resource
        self.attributes = attributes
        self.digest = digest
        self.needed = needed
        self.proposed_at = int(timestamp.timestamp())
        self.state = PROPOSED
        self.confirmed_by: list[str] = []
        self.rejected_by = ""

    @staticmethod
    def create_id(number: str) -> str:
        return f"act:{number}"

    def is_open(self, now: datetime) -> bool:
        """Whether it can still be confirmed or done."""
        return self.state in (PROPOSED, CONFIRMED) and now.timestamp() < self.proposed_at + ACT_VALID_S

    @event("Confirmed", topic="act.confirmed.v1")
    def _confirmed(self, officer: str, timestamp: datetime) -> None:
        self.confirmed_by.append(officer)
        if len(self.confirmed_by) >= self.needed:
            self.state = CONFIRMED

    def confirm(self, officer: str, *, timestamp: datetime) -> None:
        """Another officer agrees. Raises Conflict: it is the proposer, or has confirmed it, or it is decided."""
        self._must_be_open(timestamp)
        if officer == self.proposer or officer in self.confirmed_by:
            raise Conflict(f"act {self.number} has to be confirmed by somebody else than {officer}")
        if self.state != PROPOSED:
            raise Conflict(f"act {self.number} is {self.state} already")
        self._confirmed(officer=officer, timestamp=timestamp)

    @event("Rejected", topic="act.rejected.v1")
    def _rejected(self, officer: str, timestamp: datetime) -> None:
        self.state = REJECTED
        self.rejected_by = officer

    def reject(self, officer: str, *, timestamp: datetime) -> None:
        """Another officer objects, or the proposer takes it back."""
        self._must_be_open(timestamp)
        self._rejected(officer=officer, timestamp=timestamp)

    @event("Spent", topic="act.spent.v1")
    def _spent(self, timestamp: datetime) -> None:
        self.state = SPENT

    def spend(self, *, timestamp: datetime) -> None:
        """It is about to be done: it counts once, whether that succeeds or not."""
        self._must_be_open(timestamp)
        if self.state != CONFIRMED:
            raise Conflict(f"act {self.number} is {self.state}, not {CONFIRMED}")
        self._spent(timestamp=timestamp)

    def _must_be_open(self, now: datetime) -> None:
        if not self.is_open(now):
            ended = self.state if self.state in (REJECTED, SPENT) else "too old"
            raise Conflict(f"act {self.number} is {ended}", hint="see: jinshi officer acts")
