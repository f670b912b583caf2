"""A time-stamping authority, and the time stamps it gave: a batch in each entry, with what makes each token again."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from eventsourcing.domain import event

from ledger.errors import Conflict, InvalidRequest
from pki.aggregates.base import TrustAggregate

ACTIVE, RETIRED = "active", "retired"


@dataclass(slots=True)
class StampKey:
    """One key. `certificate` and `chain` (base64 of DER) are there once it is certified."""

    number: int
    reference: str
    algorithm: str
    public: str
    certificate: str = ""
    chain: list[str] = field(default_factory=list)


class Tsa(TrustAggregate):
    """A time-stamping authority. Its newest certified key stamps."""

    TOPIC = "pki.tsa"

    @event("Created", topic="tsa.created.v1")
    def __init__(self, name: str, settings: dict[str, Any], *, timestamp: datetime) -> None:
        """`settings`: as `pki.core.stamping.StampSettings.recorded`."""
        self.name = name
        self.settings = settings
        self.keys: list[StampKey] = []
        self.state = ACTIVE

    @staticmethod
    def create_id(name: str) -> str:
        return f"tsa:{name}"

    @property
    def current(self) -> StampKey:
        """The key that stamps. Raises Conflict: there is none yet, or the authority is retired."""
        certified = [one for one in self.keys if one.certificate]
        if self.state != ACTIVE or not certified:
            raise Conflict(
                f"time-stamping authority {self.name} is {'retired' if self.state != ACTIVE else 'not certified yet'}",
                hint=f"see: jinshi tsa show {self.name}",
            )
        return certified[-1]

    def key(self, number: int) -> StampKey:
        """One of its keys. Raises InvalidRequest: there is none of that number."""
        for one in self.keys:
            if one.number == number:
                return one
        raise InvalidRequest(f"time-stamping authority {self.name} has no key {number}")

    @event("KeyAdded", topic="tsa.key-added.v1")
    def _key_added(self, reference: str, algorithm: str, public: str, timestamp: datetime) -> None:
        self.keys.append(StampKey(len(self.keys) + 1, reference, algorithm, public))

    def add_key(self, reference: str, algorithm: str, public: str, *, timestamp: datetime) -> None:
        """A new key; it stamps once it is certified."""
        self._must_be_active()
        self._key_added(reference=reference, algorithm=algorithm, public=public, timestamp=timestamp)

    @event("Certified", topic="tsa.certified.v1")
    def _certified(self, number: int, certificate: str, chain: list[str], timestamp: datetime) -> None:
        key = self.key(number)
        key.certificate, key.chain = certificate, list(chain)

    def certify(self, number: int, certificate: str, chain: list[str], *, timestamp: datetime) -> None:
        """A key's certificate, for good: tokens are made again from it. Raises Conflict: it has one."""
        self._must_be_active()
        if self.key(number).certificate:
            raise Conflict(f"key {number} of {self.name} is certified already", hint="add a key, and certify that")
        self._certified(number=number, certificate=certificate, chain=chain, timestamp=timestamp)

    @event("Amended", topic="tsa.amended.v1")
    def _amended(self, settings: dict[str, Any], timestamp: datetime) -> None:
        self.settings = settings

    def amend(self, settings: dict[str, Any], *, timestamp: datetime) -> None:
        """Stamp otherwise from now on."""
        self._must_be_active()
        self._amended(settings=settings, timestamp=timestamp)

    @event("Retired", topic="tsa.retired.v1")
    def _retired(self, timestamp: datetime) -> None:
        self.state = RETIRED

    def retire(self, *, timestamp: datetime) -> None:
        """Stamp nothing more."""
        self._must_be_active()
        self._retired(timestamp=timestamp)

    def _must_be_active(self) -> None:
        if self.state != ACTIVE:
            raise Conflict(f"time-stamping authority {self.name} is {self.state}")


class StampBatch(TrustAggregate):
    """Tokens that were signed together. Its number is the first 16 bytes of their serials, the place the last 4."""

    TOPIC = "pki.timestamps"

    @event("Created", topic="timestamps.issued.v1")
    def __init__(self, number: str, tsa: str, key: int, tokens: list[str], *, timestamp: datetime) -> None:
        """`tokens`: `pki.core.stamping.pack` of each, in base64; `key` is which of the authority's signed them."""
        self.number = number
        self.tsa = tsa
        self.key = key
        self.tokens = tokens

    @staticmethod
    def create_id(number: str) -> str:
        return f"timestamps:{number}"
