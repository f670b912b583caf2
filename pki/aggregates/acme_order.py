"""ACME's orders, with their authorizations and challenges inside: from names to a certificate."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from eventsourcing.domain import event

from ledger.errors import Conflict, InvalidRequest
from pki.aggregates.acme import DEACTIVATED, VALID
from pki.aggregates.base import TrustAggregate

PENDING, READY, PROCESSING, INVALID = "pending", "ready", "processing", "invalid"


@dataclass(slots=True)
class Challenge:
    """One way to prove control of a name. `thumbprint` is that of the key which answered it."""

    kind: str
    token: str
    state: str = PENDING
    thumbprint: str = ""
    validated_at: int = 0
    error: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Authorization:
    """A name, and whether its control is proven; `until` (POSIX seconds) is how long that holds.

    `proven` names the authorization `<order>/<number>` whose proof it is: its own, or an older one's that is reused.
    """

    name: str
    wildcard: bool
    challenges: list[Challenge]
    state: str
    until: int
    proven: str


class Order(TrustAggregate):
    """An order: names to be proven, then a request to be finalized, then a certificate."""

    TOPIC = "pki.order"

    @event("Created", topic="order.created.v1")
    def __init__(
        self,
        name: str,
        account: str,
        eab: str,
        holder: str,
        authority: str,
        profile: str,
        authorizations: list[dict[str, Any]],
        not_after: int,
        replaces: str,
        expires: int,
        *,
        timestamp: datetime,
    ) -> None:
        """Each of `authorizations` has `name`, `wildcard`, and `challenges` as [kind, token] pairs; one that reuses a
        proof has `proven` and `until` as well. `not_after` is what the client wishes, 0: nothing; `replaces` is the
        certificate (RFC 9773 §4.1) it renews, "" for none.
        """
        self.name = name
        self.account = account
        self.eab = eab
        self.holder = holder
        self.authority = authority
        self.profile = profile
        self.not_after = not_after
        self.replaces = replaces
        self.expires = expires
        self.created_at = int(timestamp.timestamp())
        self.authorizations = [
            Authorization(
                one["name"],
                one["wildcard"],
                [Challenge(kind, token) for kind, token in one["challenges"]],
                VALID if one.get("proven") else PENDING,
                one.get("until", expires),
                one.get("proven", ""),
            )
            for one in authorizations
        ]
        self.state = PENDING
        self.csr = ""
        self.caa_at = 0
        self.serial = ""
        self.chain: list[str] = []
        self.error: dict[str, Any] = {}
        self._look_again()

    @staticmethod
    def create_id(name: str) -> str:
        """By its random name, which stands in its URL."""
        return f"order:{name}"

    @property
    def names(self) -> list[str]:
        """What is to be certified, with the asterisks of wildcards."""
        return ["*." + one.name if one.wildcard else one.name for one in self.authorizations]

    def status(self, now: int) -> str:
        """As RFC 8555 §7.1.6 names it: an order that nothing came of in time is invalid."""
        return INVALID if self.state in (PENDING, READY) and now >= self.expires else self.state

    def authorization_status(self, number: int, now: int) -> str:
        """The same for one of its authorizations: what was not proven in time, or too long ago, is expired."""
        one = self.authorizations[number]
        if one.state == VALID and now >= one.until:
            return "expired"
        return INVALID if one.state == PENDING and self.status(now) == INVALID else one.state

    # -- proofs --

    @event("Answered", topic="order.challenge-answered.v1")
    def _answered(self, authorization: int, challenge: int, thumbprint: str, timestamp: datetime) -> None:
        answered = self.authorizations[authorization].challenges[challenge]
        answered.state = PROCESSING
        answered.thumbprint = thumbprint

    def answer(self, authorization: int, challenge: int, thumbprint: str, *, timestamp: datetime) -> None:
        """The client says that it is ready to be looked at; from now on it is."""
        self._must_be(PENDING)
        if self.authorizations[authorization].state != PENDING or any(
            one.state != PENDING for one in self.authorizations[authorization].challenges
        ):
            raise Conflict("the authorization is being decided, or is decided already")
        self._answered(authorization=authorization, challenge=challenge, thumbprint=thumbprint, timestamp=timestamp)

    @event("Authorized", topic="order.authorized.v1")
    def _authorized(
        self, authorization: int, challenge: int, findings: list[list[str]], until: int, timestamp: datetime
    ) -> None:
        one = self.authorizations[authorization]
        one.state = VALID
        one.until = max(until, self.expires)  # its own order may use it to its end
        one.proven = f"{self.name}/{authorization}"
        one.challenges[challenge].state = VALID
        one.challenges[challenge].validated_at = int(timestamp.timestamp())
        self._look_again()

    def authorize(
        self, authorization: int, challenge: int, findings: list[list[str]], until: int, *, timestamp: datetime
    ) -> None:
        """Control is proven, and may be taken as proven by other orders `until` then (POSIX seconds).

        `findings` are [perspective, what it saw] pairs.
        """
        self._must_be_looked_at(authorization, challenge)
        self._authorized(
            authorization=authorization, challenge=challenge, findings=findings, until=until, timestamp=timestamp
        )

    @event("AuthorizationFailed", topic="order.authorization-failed.v1")
    def _authorization_failed(
        self,
        authorization: int,
        challenge: int,
        kind: str,
        detail: str,
        findings: list[list[str]],
        timestamp: datetime,
    ) -> None:
        one = self.authorizations[authorization]
        one.state = INVALID
        one.challenges[challenge].state = INVALID
        one.challenges[challenge].error = {"kind": kind, "detail": detail}
        self.state = INVALID
        self.error = {"kind": kind, "detail": detail, "name": one.name}

    def fail_authorization(
        self,
        authorization: int,
        challenge: int,
        kind: str,
        detail: str,
        findings: list[list[str]],
        *,
        timestamp: datetime,
    ) -> None:
        """Control was not proven, and the order fails with it. `kind`: the type of ACME's error."""
        self._must_be_looked_at(authorization, challenge)
        self._authorization_failed(
            authorization=authorization,
            challenge=challenge,
            kind=kind,
            detail=detail,
            findings=findings,
            timestamp=timestamp,
        )

    @event("AuthorizationDeactivated", topic="order.authorization-deactivated.v1")
    def _authorization_deactivated(self, authorization: int, timestamp: datetime) -> None:
        self.authorizations[authorization].state = DEACTIVATED
        if self.state in (PENDING, READY):
            self.state = INVALID
            self.error = {"kind": "unauthorized", "detail": "an authorization was deactivated", "name": ""}

    def deactivate_authorization(self, authorization: int, *, timestamp: datetime) -> None:
        """The client gives it up (RFC 8555 §7.5.2); its proof is not reused, and an order that needs it fails."""
        if self.authorizations[authorization].state not in (PENDING, VALID):
            raise Conflict(f"the authorization is {self.authorizations[authorization].state}")
        self._authorization_deactivated(authorization=authorization, timestamp=timestamp)

    # -- issuance --

    @event("Finalized", topic="order.finalized.v1")
    def _finalized(self, csr: str, timestamp: datetime) -> None:
        self.csr = csr
        self.state = PROCESSING

    def finalize(self, csr: str, *, timestamp: datetime) -> None:
        """A certificate is wanted for this request (base64 of DER)."""
        self._must_be(READY)
        self._finalized(csr=csr, timestamp=timestamp)

    @event("CaaChecked", topic="order.caa-checked.v1")
    def _caa_checked(self, findings: list[list[str]], timestamp: datetime) -> None:
        self.caa_at = int(timestamp.timestamp())

    def check_caa(self, findings: list[list[str]], *, timestamp: datetime) -> None:
        """The owners of its names let them be certified; `findings` are [name, what was seen] pairs."""
        self._must_be(PROCESSING)
        self._caa_checked(findings=findings, timestamp=timestamp)

    @event("Issued", topic="order.issued.v1")
    def _issued(self, serial: str, chain: list[str], timestamp: datetime) -> None:
        self.serial = serial
        self.chain = chain
        self.state = VALID

    def issue(self, serial: str, chain: list[str], *, timestamp: datetime) -> None:
        """It is there: its serial in hexadecimal; the chain from it up, in base64 of DER."""
        self._must_be(PROCESSING)
        self._issued(serial=serial, chain=chain, timestamp=timestamp)

    @event("Failed", topic="order.failed.v1")
    def _failed(self, kind: str, detail: str, timestamp: datetime) -> None:
        self.state = INVALID
        self.error = {"kind": kind, "detail": detail, "name": ""}

    def fail(self, kind: str, detail: str, *, timestamp: datetime) -> None:
        """What was wanted is not issued."""
        self._must_be(PROCESSING)
        self._failed(kind=kind, detail=detail, timestamp=timestamp)

    # -- rules --

    def _look_again(self) -> None:
        if self.state == PENDING and all(one.state == VALID for one in self.authorizations):
            self.state = READY

    def _must_be(self, state: str) -> None:
        if self.state != state:
            raise Conflict(f"order {self.name} is {self.state}, not {state}")

    def _must_be_looked_at(self, authorization: int, challenge: int) -> None:
        if not 0 <= authorization < len(self.authorizations):
            raise InvalidRequest(f"order {self.name} has no authorization {authorization}")
        one = self.authorizations[authorization]
        if one.state != PENDING or one.challenges[challenge].state != PROCESSING:
            raise Conflict(f"{one.name} is not being looked at")
