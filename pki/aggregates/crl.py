"""A certificate revocation list: intended, then issued. Its bytes come back out of these two events and the log.

One that was issued elsewhere, where the authority's key is, is taken in with its bytes.
"""

from __future__ import annotations

from datetime import datetime

from eventsourcing.domain import event

from ledger.errors import Conflict
from pki.aggregates.base import TrustAggregate
from pki.core.crl import Intended


class Crl(TrustAggregate):
    """One list of a series: of an authority's key (`generation`) and a shard. Full ones and deltas share the series.

    `ordinal` counts the lists of a series from 1: whoever intends the next one meets a Conflict when somebody else has.
    """

    TOPIC = "pki.crl"

    @event("Created", topic="crl.intended.v1")
    def __init__(
        self,
        authority: str,
        generation: int,
        shard: int,
        ordinal: int,
        number: int,
        this_update: int,
        next_update: int,
        at: int,
        base: int,
        base_at: int,
        ends_after: int,
        points: list[str],
        freshest: list[str],
        *,
        timestamp: datetime,
    ) -> None:
        """Before anything is signed. From `number` on as `pki.core.crl.Intended`."""
        self.authority = authority
        self.generation = generation
        self.shard = shard
        self.ordinal = ordinal
        self.intended = Intended(
            number, this_update, next_update, at, base, base_at, ends_after, tuple(points), tuple(freshest)
        )
        self.signature = ""
        self.sha256 = ""
        self.der = ""

    @staticmethod
    def create_id(authority: str, generation: int, shard: int, ordinal: int) -> str:
        return f"crl:{authority}-{generation}-{shard}:{ordinal}"

    @event("TakenIn", topic="crl.taken-in.v1")
    def _taken_in(self, der: str, timestamp: datetime) -> None:
        self.der = der

    def take_in(self, der: str, sha256: str, *, timestamp: datetime) -> None:
        """It was issued elsewhere: the whole list (DER) in base64, and its SHA-256 in hexadecimal.

        Raises Conflict: it is issued already.
        """
        self._must_be_open()
        self._taken_in(der=der, timestamp=timestamp)
        self._issued(signature="", sha256=sha256, timestamp=timestamp)

    @event("Issued", topic="crl.issued.v1")
    def _issued(self, signature: str, sha256: str, timestamp: datetime) -> None:
        self.signature = signature
        self.sha256 = sha256

    def issue(self, signature: str, sha256: str, *, timestamp: datetime) -> None:
        """It was signed: the signature in base64, and the SHA-256 of the whole list (DER) in hexadecimal.

        Raises Conflict: it was already.
        """
        self._must_be_open()
        self._issued(signature=signature, sha256=sha256, timestamp=timestamp)

    def _must_be_open(self) -> None:
        if self.sha256:
            raise Conflict(f"CRL {self.intended.number} of {self.authority} is issued already")
