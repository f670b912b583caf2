"""A private key of the trust service: where it is, how it comes back, and who shares it; never the key itself."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from eventsourcing.domain import event

from ledger.errors import Conflict
from pki.aggregates.base import TrustAggregate

IN_USE, RETIRED = "in use", "retired"


class Key(TrustAggregate):
    """One key. `reference` says where it is kept (`pki.keystore.base`)."""

    TOPIC = "pki.key"

    @event("Created", topic="key.made.v1")
    def __init__(self, label: str, reference: str, algorithm: str, public: str, *, timestamp: datetime) -> None:
        """`public` is its SubjectPublicKeyInfo in base64 of DER."""
        self.label = label
        self.reference = reference
        self.algorithm = algorithm
        self.public = public
        self.wrapped = ""
        self.shared: dict[str, Any] = {}
        self.state = IN_USE

    @staticmethod
    def create_id(label: str) -> str:
        """A label stands for one key, for ever."""
        return f"key:{label}"

    @event("Wrapped", topic="key.wrapped.v1")
    def _wrapped(self, recovery: str, wrapped: str, timestamp: datetime) -> None:
        self.wrapped = wrapped

    def wrap(self, recovery: str, wrapped: str, *, timestamp: datetime) -> None:
        """Its private part, encrypted to the offline recovery key (base64); `recovery` is the SHA-256 of that key's
        public part."""
        self._must_be_in_use()
        self._wrapped(recovery=recovery, wrapped=wrapped, timestamp=timestamp)

    @event("Shared", topic="key.shared.v1")
    def _shared(self, record: dict[str, Any], timestamp: datetime) -> None:
        self.shared = record

    def share(self, record: dict[str, Any], *, timestamp: datetime) -> None:
        """Its private part, encrypted under a secret that custodians share, as `pki.ceremony.shares` reads it."""
        self._must_be_in_use()
        if self.shared:
            raise Conflict(f"the key {self.label} is shared already")
        self._shared(record=record, timestamp=timestamp)

    @event("Recovered", topic="key.recovered.v1")
    def _recovered(self, timestamp: datetime) -> None:
        pass

    def recover(self, *, timestamp: datetime) -> None:
        """It is about to be opened with the offline recovery key."""
        if not self.wrapped:
            raise Conflict(f"the key {self.label} is not wrapped to the recovery key")
        self._recovered(timestamp=timestamp)

    @event("Retired", topic="key.retired.v1")
    def _retired(self, timestamp: datetime) -> None:
        self.state = RETIRED

    def retire(self, *, timestamp: datetime) -> None:
        """Nothing needs it any more: nothing brings it back, and its keeper may destroy it."""
        self._must_be_in_use()
        self._retired(timestamp=timestamp)

    def _must_be_in_use(self) -> None:
        if self.state != IN_USE:
            raise Conflict(f"the key {self.label} is {self.state}")
