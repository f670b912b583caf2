"""A request for a certificate, and the maker-checker rule: who asks never approves, and enough others have to."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Any, Final

from eventsourcing.domain import event

from ledger.errors import Conflict, InvalidRequest, NotPermitted
from pki.aggregates.base import TrustAggregate
from pki.aggregates.certificate import Certificate

SUBMITTED, APPROVED, ISSUING, ISSUED = "submitted", "approved", "issuing", "issued"
REJECTED, WITHDRAWN, EXPIRED, FAILED = "rejected", "withdrawn", "expired", "failed"
STATES: Final = (SUBMITTED, APPROVED, ISSUING, ISSUED, REJECTED, WITHDRAWN, EXPIRED, FAILED)
OPEN: Final = (SUBMITTED, APPROVED, ISSUING)
"""States that something still has to become of."""

APPROVALS_MAX: Final = 16
REASON_LENGTH_MAX: Final = 500


def request_name(requester: str, client_id: str) -> str:
    """The name of the request that a requester calls `client_id`: the same again is the same request."""
    return hashlib.sha256(f"{requester}\0{client_id}".encode()).hexdigest()[:32]


class CertificateRequest(TrustAggregate):
    """One request. What it needs of approvals is fixed when it is submitted, and checked here, whoever calls.

    Officers are named by whoever answers for the act, never by the certificate they showed: one that was renewed is
    the same officer.
    """

    TOPIC = "pki.request"

    @event("Created", topic="request.submitted.v1")
    def __init__(
        self,
        name: str,
        requester: str,
        authority: str,
        profile: str,
        profile_version: int,
        holder: str,
        csr: str,
        key: str,
        subject: list[list[str]] | None,
        names: list[str] | None,
        not_after: int,
        renews: str,
        approvals: int,
        role: str,
        barred: list[str],
        expires: int,
        reference: str,
        *,
        timestamp: datetime,
    ) -> None:
        """It is asked for.

        `csr` is the request in base64 of DER, `key` the SHA-256 of its public key; `subject` (pairs of attribute and
        value) and `names` are what is to be certified, None: as the CSR says; `not_after` 0: as long as the profile
        says; `renews` the serial that it takes the place of. `approvals`: how many officers of `role` have to approve,
        none of whom is `barred`, before `expires`; 0: it is as good as approved, and `reference`, where it is given,
        is what `begin` says. Raises InvalidRequest: that cannot be.
        """
        if not 0 <= approvals <= APPROVALS_MAX or (approvals and reference):
            raise InvalidRequest(f"a request that needs {approvals} approvals", hint=f"0 to {APPROVALS_MAX}")
        self.name = name
        self.requester = requester
        self.authority = authority
        self.profile = profile
        self.profile_version = profile_version
        self.holder = holder
        self.csr = csr
        self.key = key
        self.subject = subject
        self.names = names
        self.not_after = not_after
        self.renews = renews
        self.required = approvals
        self.role = role
        self.barred = barred
        self.expires = expires
        self.approvals: list[dict[str, Any]] = []
        self.state = SUBMITTED if approvals else ISSUING if reference else APPROVED
        self.begun_at = int(timestamp.timestamp())
        self.reference = reference
        self.serial = ""
        self.reason = ""

    @staticmethod
    def create_id(name: str) -> str:
        """A name stands for one request."""
        return f"request:{name}"

    @property
    def missing(self) -> int:
        """How many approvals are still needed."""
        return max(0, self.required - len(self.approvals))

    # -- the checkers --

    @event("Approved", topic="request.approved.v1")
    def _approved(self, officer: str, role: str, comment: str, timestamp: datetime) -> None:
        self.approvals.append({"officer": officer, "role": role, "at": int(timestamp.timestamp())})
        if not self.missing:
            self.state = APPROVED

    def approve(self, officer: str, role: str, *, timestamp: datetime, comment: str = "") -> None:
        """One more approval.

        Raises:
            NotPermitted: it is the requester's own, the officer is barred or has approved before, or has another role.
            Conflict: nothing is to be approved any more.
        """
        self._must_be(SUBMITTED)
        if self.expires <= int(timestamp.timestamp()):
            raise Conflict(f"request {self.name} has expired", hint="submit it again")
        if officer == self.requester:
            raise NotPermitted(f"{officer} has asked for {self.name} and cannot approve it", hint="ask another officer")
        if officer in self.barred:
            raise NotPermitted(
                f"{officer} has vetted the holder of {self.name} or is the holder, and cannot approve it",
                hint="ask another officer",
            )
        if any(one["officer"] == officer for one in self.approvals):
            raise NotPermitted(f"{officer} has approved {self.name} already", hint="ask another officer")
        if role != self.role:
            raise NotPermitted(f"{officer} acts as {role}; request {self.name} is approved by: {self.role}")
        _check_text(comment)
        self._approved(officer=officer, role=role, comment=comment, timestamp=timestamp)

    @event("Rejected", topic="request.rejected.v1")
    def _rejected(self, officer: str, reason: str, timestamp: datetime) -> None:
        self.state = REJECTED
        self.reason = reason

    def reject(self, officer: str, reason: str, *, timestamp: datetime) -> None:
        """It is refused, for good. Raises Conflict: it is decided already; InvalidRequest: without a reason."""
        self._must_be(SUBMITTED, APPROVED)
        _check_text(reason, needed=True)
        self._rejected(officer=officer, reason=reason, timestamp=timestamp)

    @event("Withdrawn", topic="request.withdrawn.v1")
    def _withdrawn(self, by: str, timestamp: datetime) -> None:
        self.state = WITHDRAWN

    def withdraw(self, by: str, *, timestamp: datetime) -> None:
        """Its requester does not want it any more. Raises NotPermitted: it is somebody else's; Conflict."""
        self._must_be(SUBMITTED, APPROVED)
        if by != self.requester:
            raise NotPermitted(f"request {self.name} is not {by}'s to withdraw", hint="an approver can reject it")
        self._withdrawn(by=by, timestamp=timestamp)

    @event("Expired", topic="request.expired.v1")
    def _expired(self, timestamp: datetime) -> None:
        self.state = EXPIRED

    def expire(self, *, timestamp: datetime) -> None:
        """Nobody has decided in time."""
        self._must_be(SUBMITTED)
        if self.expires > int(timestamp.timestamp()):
            raise Conflict(f"request {self.name} has not expired yet")
        self._expired(timestamp=timestamp)

    # -- issuing --

    @event("Begun", topic="request.begun.v1")
    def _begun(self, reference: str, timestamp: datetime) -> None:
        self.state = ISSUING
        self.reference = reference
        self.begun_at = int(timestamp.timestamp())

    def begin(self, reference: str, *, timestamp: datetime) -> None:
        """Whoever issues is about to sign. `reference`: the serial it will have; a nonce, where another CA chooses it.

        Raises Conflict: it is not approved, or somebody else has begun.
        """
        self._must_be(APPROVED)
        if self.missing:
            raise Conflict(f"request {self.name} lacks {self.missing} approvals")
        self._begun(reference=reference, timestamp=timestamp)

    @event("Issued", topic="request.issued.v1")
    def _issued(self, serial: str, timestamp: datetime) -> None:
        self.state = ISSUED
        self.serial = serial

    def issue(self, serial: str, *, timestamp: datetime) -> None:
        """It has led to a certificate."""
        self._must_be(ISSUING)
        self._issued(serial=serial, timestamp=timestamp)

    @event("Failed", topic="request.failed.v1")
    def _failed(self, reason: str, again: bool, timestamp: datetime) -> None:
        self.state = APPROVED if again else FAILED
        self.reason = reason

    def fail(self, reason: str, *, timestamp: datetime, again: bool = False) -> None:
        """It was not issued; `again`: it is as good as approved once more, since nothing was signed."""
        self._must_be(APPROVED, ISSUING)
        self._failed(reason=reason[:REASON_LENGTH_MAX], again=again, timestamp=timestamp)

    def _must_be(self, *states: str) -> None:
        if self.state not in states:
            raise Conflict(
                f"request {self.name} is {self.state}, not {' or '.join(states)}",
                hint=f"see: jinshi ra show {self.name}",
            )


def asked_with(certificate: Certificate) -> CertificateRequest | None:
    """The request that was recorded with the intent of its certificate, being issued; None: it has entries of its own.

    Nothing of it is recorded under its own name: saved with a command, its submission is, too.
    """
    asked = certificate.asked
    if asked is None:
        return None
    return CertificateRequest(
        name=certificate.request,
        authority=certificate.authority,
        profile=certificate.profile,
        profile_version=certificate.profile_version,
        holder=certificate.holder,
        key=certificate.key,
        approvals=0,
        role="",
        barred=[],
        reference=certificate.serial,
        timestamp=certificate.created_on,
        **asked,
    )


def _check_text(text: str, *, needed: bool = False) -> None:
    if (needed and not text.strip()) or len(text) > REASON_LENGTH_MAX:
        raise InvalidRequest("the reason is missing or too long", hint=f"give 1 to {REASON_LENGTH_MAX} characters")
