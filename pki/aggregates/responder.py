"""Who answers OCSP requests for an authority: the keys that it has certified for that, one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from eventsourcing.domain import event

from ledger.errors import Conflict
from pki.aggregates.base import TrustAggregate

KEPT_MAX = 4


@dataclass(slots=True)
class ResponderKey:
    """A key of a responder, kept at `reference`; `certificate` is base64 of DER, "" until there is one."""

    ordinal: int
    reference: str
    algorithm: str
    certificate: str = ""
    not_after: int = 0


class Responder(TrustAggregate):
    """The delegated responder of one key of an authority (RFC 6960 §4.2.2.2: the same key has to certify it)."""

    TOPIC = "pki.responder"

    @event("Created", topic="responder.named.v1")
    def __init__(self, authority: str, generation: int, *, timestamp: datetime) -> None:
        self.authority = authority
        self.generation = generation
        self.keys: list[ResponderKey] = []

    @staticmethod
    def create_id(authority: str, generation: int) -> str:
        return f"responder:{authority}-{generation}"

    @property
    def next_ordinal(self) -> int:
        """Of the key after the last."""
        return self.keys[-1].ordinal + 1 if self.keys else 1

    @property
    def unfinished(self) -> ResponderKey | None:
        """A key that waits for its certificate."""
        return self.keys[-1] if self.keys and not self.keys[-1].certificate else None

    @property
    def current(self) -> ResponderKey | None:
        """The newest that is certified."""
        return next((one for one in reversed(self.keys) if one.certificate), None)

    @event("KeyMade", topic="responder.key-made.v1")
    def _key_made(self, ordinal: int, reference: str, algorithm: str, timestamp: datetime) -> None:
        self.keys = [*self.keys[-KEPT_MAX + 1 :], ResponderKey(ordinal, reference, algorithm)]

    def add_key(self, reference: str, algorithm: str, *, timestamp: datetime) -> None:
        """A key is there that is to be certified. Raises Conflict: another one still waits for that."""
        if self.unfinished is not None:
            raise Conflict(f"the responder of {self.authority} has a key that is not certified yet")
        self._key_made(ordinal=self.next_ordinal, reference=reference, algorithm=algorithm, timestamp=timestamp)

    @event("Certified", topic="responder.certified.v1")
    def _certified(self, certificate: str, not_after: int, timestamp: datetime) -> None:
        self.keys[-1].certificate = certificate
        self.keys[-1].not_after = not_after

    def certify(self, certificate: str, not_after: int, *, timestamp: datetime) -> None:
        """The authority has certified the key that waits. Raises Conflict: none does."""
        if self.unfinished is None:
            raise Conflict(f"no key of the responder of {self.authority} waits for a certificate")
        self._certified(certificate=certificate, not_after=not_after, timestamp=timestamp)
