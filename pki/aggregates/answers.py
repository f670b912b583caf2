"""OCSP answers in the log: batches that are signed beforehand, and how many were given to whom asked."""

from __future__ import annotations

from datetime import datetime

from eventsourcing.domain import event

from ledger.errors import Conflict
from pki.aggregates.base import TrustAggregate

INTENDED, SIGNED, ABANDONED = "intended", "signed", "abandoned"


class AnswerBatch(TrustAggregate):
    """Answers for the certificates of one key of an authority, signed beforehand. `ordinal` counts from 1."""

    TOPIC = "pki.ocspbatch"

    @event("Created", topic="ocsp.batch-intended.v1")
    def __init__(
        self,
        authority: str,
        generation: int,
        ordinal: int,
        since: int,
        at: int,
        this_update: int,
        next_update: int,
        responder: str,
        *,
        timestamp: datetime,
    ) -> None:
        """Before anything is signed: for what changed from entry `since` on (0: for all), as of the first `at` entries.

        `responder` is the SHA-256 of the certificate whose key signs.
        """
        self.authority = authority
        self.generation = generation
        self.ordinal = ordinal
        self.since = since
        self.at = at
        self.this_update = this_update
        self.next_update = next_update
        self.responder = responder
        self.state = INTENDED
        self.count = 0
        self.digest = ""

    @staticmethod
    def create_id(authority: str, generation: int, ordinal: int) -> str:
        return f"ocspbatch:{authority}-{generation}:{ordinal}"

    @event("Signed", topic="ocsp.batch-signed.v1")
    def _signed(self, count: int, digest: str, timestamp: datetime) -> None:
        self.count = count
        self.digest = digest
        self.state = SIGNED

    def sign(self, count: int, digest: str, *, timestamp: datetime) -> None:
        """So many answers are signed; `digest` is the SHA-256 of their manifest. Raises Conflict: it is decided."""
        self._must_be_intended()
        self._signed(count=count, digest=digest, timestamp=timestamp)

    @event("Abandoned", topic="ocsp.batch-abandoned.v1")
    def _abandoned(self, why: str, timestamp: datetime) -> None:
        self.state = ABANDONED

    def abandon(self, why: str, *, timestamp: datetime) -> None:
        """It was never published: whoever signed it crashed. Raises Conflict: it is decided."""
        self._must_be_intended()
        self._abandoned(why=why, timestamp=timestamp)

    def _must_be_intended(self) -> None:
        if self.state != INTENDED:
            raise Conflict(f"batch {self.ordinal} of OCSP answers of {self.authority} is {self.state}")


class AnswerCount(TrustAggregate):
    """How many answers were given in a while; nothing ever changes it. What was counted since goes with a crash."""

    TOPIC = "pki.ocspcount"

    @event("Created", topic="ocsp.answered.v1")
    def __init__(
        self, number: str, since: int, until: int, counts: dict[str, dict[str, int]], *, timestamp: datetime
    ) -> None:
        """`counts`: by authority, by what was said. Times are POSIX seconds."""
        self.number = number
        self.since = since
        self.until = until
        self.counts = counts

    @staticmethod
    def create_id(number: str) -> str:
        return f"ocspcount:{number}"
