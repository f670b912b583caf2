"""A certification authority: its keys, generation by generation, the certificates of each, and how it issues."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from eventsourcing.domain import event

from ledger.errors import Conflict, InvalidRequest
from pki.aggregates.base import TrustAggregate

ACTIVE, RETIRED = "active", "retired"


@dataclass(slots=True)
class Generation:
    """One key of an authority. `reference` says where it is kept (`pki.keystore.base`), "" for one kept elsewhere.

    `public` is its SubjectPublicKeyInfo and `certificates` are what was certified of it, all in base64 of DER: issuing
    goes by the first, others are cross certificates.
    """

    number: int
    reference: str
    algorithm: str
    public: str
    certificates: list[str] = field(default_factory=list)


class Authority(TrustAggregate):
    """One authority. Generations count from 1; the last one that is certified issues."""

    TOPIC = "pki.authority"

    @event("Created", topic="authority.created.v1")
    def __init__(self, name: str, parent: str, settings: dict[str, Any], *, timestamp: datetime) -> None:
        """`parent`: the authority above it; "" for a root or one that somebody else certifies.

        `settings`: how it issues, as `pki.core.settings` reads them.
        """
        self.name = name
        self.parent = parent
        self.settings = settings
        self.generations: list[Generation] = []
        self.superiors: list[str] = []
        self.state = ACTIVE

    @staticmethod
    def create_id(name: str) -> str:
        """A name stands for one authority, for ever."""
        return f"authority:{name}"

    @property
    def current(self) -> Generation:
        """The generation that issues. Raises Conflict: there is none yet, or the authority is retired."""
        certified = [one for one in self.generations if one.certificates]
        if self.state != ACTIVE or not certified:
            raise Conflict(
                f"authority {self.name} is {'retired' if self.state != ACTIVE else 'not certified yet'}",
                hint="see: jinshi ca list",
            )
        return certified[-1]

    def generation(self, number: int) -> Generation:
        """One of its keys. Raises InvalidRequest: there is none of that number."""
        for one in self.generations:
            if one.number == number:
                return one
        raise InvalidRequest(f"authority {self.name} has no key {number}", hint="see: jinshi ca show " + self.name)

    @event("KeyAdded", topic="authority.key-added.v1")
    def _key_added(self, reference: str, algorithm: str, public: str, timestamp: datetime) -> None:
        self.generations.append(Generation(len(self.generations) + 1, reference, algorithm, public))

    def add_key(self, reference: str, algorithm: str, public: str, *, timestamp: datetime) -> None:
        """A new key is made; it issues once it is certified."""
        self._must_be_active()
        self._key_added(reference=reference, algorithm=algorithm, public=public, timestamp=timestamp)

    @event("Certified", topic="authority.certified.v1")
    def _certified(self, generation: int, certificate: str, timestamp: datetime) -> None:
        self.generation(generation).certificates.append(certificate)

    def certify(self, generation: int, certificate: str, *, timestamp: datetime) -> None:
        """A certificate of one of its keys is there."""
        self._must_be_active()
        if certificate in self.generation(generation).certificates:
            raise Conflict(f"authority {self.name} has that certificate already")
        self._certified(generation=generation, certificate=certificate, timestamp=timestamp)

    @event("Chained", topic="authority.chained.v1")
    def _chained(self, certificates: list[str], timestamp: datetime) -> None:
        self.superiors = certificates

    def chain(self, certificates: list[str], *, timestamp: datetime) -> None:
        """The certificates (base64 of DER) of authorities above it that are not kept here, up to a root."""
        self._must_be_active()
        self._chained(certificates=certificates, timestamp=timestamp)

    @event("Amended", topic="authority.amended.v1")
    def _amended(self, settings: dict[str, Any], timestamp: datetime) -> None:
        self.settings = settings

    def amend(self, settings: dict[str, Any], *, timestamp: datetime) -> None:
        """Issue otherwise from now on."""
        self._must_be_active()
        self._amended(settings=settings, timestamp=timestamp)

    @event("Retired", topic="authority.retired.v1")
    def _retired(self, timestamp: datetime) -> None:
        self.state = RETIRED

    def retire(self, *, timestamp: datetime) -> None:
        """Issue nothing more; what was issued can still be revoked, and its status is still told."""
        self._must_be_active()
        self._retired(timestamp=timestamp)

    def _must_be_active(self) -> None:
        if self.state != ACTIVE:
            raise Conflict(f"authority {self.name} is {self.state}")
