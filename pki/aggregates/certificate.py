"""A certificate's life: intended, issued or abandoned; then revoked, or held and released."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from eventsourcing.domain import event

from ledger.errors import Conflict
from pki.aggregates.base import TrustAggregate

INTENDED, ISSUED, ABANDONED, REVOKED, HELD = "intended", "issued", "abandoned", "revoked", "held"

REASONS: Final = {
    "unspecified": 0,
    "keyCompromise": 1,
    "cACompromise": 2,
    "affiliationChanged": 3,
    "superseded": 4,
    "cessationOfOperation": 5,
    "privilegeWithdrawn": 9,
    "aACompromise": 10,
}
"""Final reasons and their codes, RFC 5280 §5.3.1. certificateHold (6) is `hold`; removeFromCRL (8) is of delta CRLs."""


class Certificate(TrustAggregate):
    """One serial number of one authority, whatever became of it. Serials are hexadecimal, lower case, 40 digits."""

    TOPIC = "pki.certificate"

    @event("Created", topic="certificate.intended.v1")
    def __init__(
        self,
        authority: str,
        generation: int,
        serial: str,
        profile: str,
        subject: str,
        names: list[str],
        key: str,
        not_before: int,
        not_after: int,
        tbs: str,
        shard: int,
        request: str,
        holder: str,
        profile_version: int = 0,
        asked: dict[str, Any] | None = None,
        *,
        timestamp: datetime,
    ) -> None:
        """Before anything is signed.

        `generation` is which of the authority's keys signs; `key` the SHA-256 of the certified public key
        (SubjectPublicKeyInfo, DER) in hexadecimal; times are POSIX seconds; `tbs` the SHA-256 of the template as it was
        linted; `shard` which of the authority's CRLs will name it; `request` and `holder` whose it is;
        `profile_version` which version of the profile it was (0: the built-in one); `asked` what its request said,
        where that has no entry of its own (`pki.aggregates.request.asked_with`).
        """
        self.authority = authority
        self.generation = generation
        self.serial = serial
        self.profile = profile
        self.profile_version = profile_version
        self.subject = subject
        self.names = names
        self.key = key
        self.not_before = not_before
        self.not_after = not_after
        self.tbs = tbs
        self.shard = shard
        self.request = request
        self.holder = holder
        self.asked = asked
        self.state = INTENDED
        self.der = ""
        self.reason = ""
        self.revoked_at = 0
        self.invalid_since = 0

    @staticmethod
    def create_id(authority: str, serial: str) -> str:
        """A serial names one certificate of an authority."""
        return f"certificate:{authority}:{serial}"

    @event("Issued", topic="certificate.issued.v1")
    def _issued(self, der: str, timestamp: datetime) -> None:
        self.der = der
        self.state = ISSUED

    def issue(self, der: str, *, timestamp: datetime) -> None:
        """It was signed: `der` in base64. Raises Conflict: that is decided already."""
        self._must_be(INTENDED)
        self._issued(der=der, timestamp=timestamp)

    @event("Abandoned", topic="certificate.abandoned.v1")
    def _abandoned(self, why: str, timestamp: datetime) -> None:
        self.state = ABANDONED
        self.reason = why

    def abandon(self, why: str, *, timestamp: datetime) -> None:
        """It was never given out: whoever meant to sign it crashed or was refused. Its serial is spent."""
        self._must_be(INTENDED)
        self._abandoned(why=why, timestamp=timestamp)

    @event("Revoked", topic="certificate.revoked.v1")
    def _revoked(self, reason: str, invalid_since: int, timestamp: datetime) -> None:
        self.state = REVOKED
        self.reason = reason
        self.revoked_at = int(timestamp.timestamp())
        self.invalid_since = invalid_since

    def revoke(self, reason: str, *, timestamp: datetime, invalid_since: int = 0) -> None:
        """For good. `invalid_since` (POSIX seconds, 0: unknown) is the invalidityDate of RFC 5280 §5.3.2.

        An abandoned one can be revoked, too: should it exist after all, nobody may rely on it.
        """
        if reason not in REASONS:
            raise Conflict(f"{reason!r} is no reason to revoke a certificate", hint=f"one of {', '.join(REASONS)}")
        self._must_be(ISSUED, HELD, ABANDONED)
        self._revoked(reason=reason, invalid_since=invalid_since, timestamp=timestamp)

    @event("Held", topic="certificate.held.v1")
    def _held(self, timestamp: datetime) -> None:
        self.state = HELD
        self.reason = "certificateHold"
        self.revoked_at = int(timestamp.timestamp())

    def hold(self, *, timestamp: datetime) -> None:
        """Suspend it."""
        self._must_be(ISSUED)
        self._held(timestamp=timestamp)

    @event("Released", topic="certificate.released.v1")
    def _released(self, timestamp: datetime) -> None:
        self.state = ISSUED
        self.reason = ""
        self.revoked_at = 0

    def release(self, *, timestamp: datetime) -> None:
        """End the suspension."""
        self._must_be(HELD)
        self._released(timestamp=timestamp)

    def _must_be(self, *states: str) -> None:
        if self.state not in states:
            raise Conflict(
                f"certificate {self.serial} of {self.authority} is {self.state}, not {' or '.join(states)}",
                hint=f"see: jinshi cert show {self.serial}",
            )
