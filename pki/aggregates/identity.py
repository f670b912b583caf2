"""Whoever certificates are issued to: an organisation, a person, a system; who vetted it, on what evidence."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from eventsourcing.domain import event

from ledger.core.encoding import encode_base64
from ledger.errors import Conflict, InvalidRequest
from pki.aggregates.base import TrustAggregate
from pki.core.permitted import check_patterns

ORGANISATION, PERSON, SYSTEM = "organisation", "person", "system"
KINDS: Final = (ORGANISATION, PERSON, SYSTEM)
ACTIVE, SUSPENDED, WITHDRAWN = "active", "suspended", "withdrawn"

EVIDENCE_MAX: Final = 16
EVIDENCE_SIZE_MAX: Final = 24_576
"""What is attached whole, of one vetting in all; of what is larger, the digest is recorded."""

TITLE_LENGTH_MAX: Final = 200
REASON_LENGTH_MAX: Final = 500

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a vetting goes by: a scan, an extract from a register. `content` is kept with it, None: elsewhere."""

    name: str
    media_type: str
    sha256: str
    content: bytes | None = None

    def recorded(self) -> dict[str, str]:
        """As events record it."""
        said = {"name": self.name, "media_type": self.media_type, "sha256": self.sha256}
        return said if self.content is None else {**said, "content": encode_base64(self.content)}


def evidence_of(name: str, media_type: str, content: bytes) -> Evidence:
    """Evidence out of its bytes; of what is too large to attach only the digest is kept. Raises InvalidRequest."""
    if not name or len(name) > TITLE_LENGTH_MAX or not re.fullmatch(r"[!-.0-~]{1,60}/[!-.0-~]{1,60}", media_type):
        raise InvalidRequest(f"evidence {name[:40]!r} of type {media_type[:40]!r}", hint="give a name and a media type")
    kept = content if len(content) <= EVIDENCE_SIZE_MAX else None
    return Evidence(name, media_type, hashlib.sha256(content).hexdigest(), kept)


def identity_id(kind: str, name: str) -> str:
    """`organisation:<name>`, `person:<name>` or `system:<name>`. Raises InvalidRequest: it is none."""
    if kind not in KINDS or not _NAME.fullmatch(name):
        raise InvalidRequest(
            f"{kind[:20]}:{name[:80]} is no identity",
            hint=f"one of {', '.join(KINDS)}, and a name of letters, digits, dots, dashes and underscores",
        )
    return f"{kind}:{name}"


class Identity(TrustAggregate):
    """One identity. What may be certified of it is what its last vetting says, for as long as that holds."""

    TOPIC = "pki.identity"

    @event("Created", topic="identity.registered.v1")
    def __init__(self, kind: str, name: str, title: str, organisation: str, by: str, *, timestamp: datetime) -> None:
        """`title` is what people call it; `organisation` the one it belongs to ("" for one itself); `by` who did."""
        self.kind = kind
        self.name = name
        self.title = title
        self.organisation = organisation
        self.registered_by = by
        self.state = ACTIVE
        self.reason = ""
        self.names: list[str] = []
        self.vetter = ""
        self.vetted_until = 0

    @staticmethod
    def create_id(kind: str, name: str) -> str:
        """A name stands for one identity of a kind, for ever."""
        return identity_id(kind, name)

    @event("Vetted", topic="identity.vetted.v1")
    def _vetted(
        self,
        vetter: str,
        method: str,
        names: list[str],
        evidence: list[dict[str, str]],
        until: int,
        timestamp: datetime,
    ) -> None:
        self.vetter = vetter
        self.names = names
        self.vetted_until = until

    def vet(
        self,
        vetter: str,
        method: str,
        names: Sequence[str],
        evidence: Sequence[Evidence],
        until: int,
        *,
        timestamp: datetime,
    ) -> None:
        """It is who it says it is, and may have these names certified (`pki.core.permitted`), until then.

        `method`: how that was found out. Takes the place of an earlier vetting. Raises Conflict, InvalidRequest.
        """
        self._must_be(ACTIVE, SUSPENDED)
        if until <= int(timestamp.timestamp()):
            raise InvalidRequest("a vetting that has ended already", hint="give a time to come")
        _check_reason(method, "how it was vetted")
        attached = sum(len(one.content or b"") for one in evidence)
        if len(evidence) > EVIDENCE_MAX or attached > EVIDENCE_SIZE_MAX:
            raise InvalidRequest(
                f"{len(evidence)} pieces of evidence with {attached} bytes attached",
                hint=f"at most {EVIDENCE_MAX}, with {EVIDENCE_SIZE_MAX} bytes; of the rest give the digests",
            )
        said = [one.recorded() for one in evidence]
        permitted = check_patterns(names)
        self._vetted(vetter=vetter, method=method, names=permitted, evidence=said, until=until, timestamp=timestamp)

    @event("Suspended", topic="identity.suspended.v1")
    def _suspended(self, reason: str, by: str, timestamp: datetime) -> None:
        self.state = SUSPENDED
        self.reason = reason

    def suspend(self, reason: str, by: str, *, timestamp: datetime) -> None:
        """Nothing is issued to it until it is resumed."""
        self._must_be(ACTIVE)
        _check_reason(reason, "a reason")
        self._suspended(reason=reason, by=by, timestamp=timestamp)

    @event("Resumed", topic="identity.resumed.v1")
    def _resumed(self, by: str, timestamp: datetime) -> None:
        self.state = ACTIVE
        self.reason = ""

    def resume(self, by: str, *, timestamp: datetime) -> None:
        """End the suspension."""
        self._must_be(SUSPENDED)
        self._resumed(by=by, timestamp=timestamp)

    @event("Withdrawn", topic="identity.withdrawn.v1")
    def _withdrawn(self, reason: str, by: str, timestamp: datetime) -> None:
        self.state = WITHDRAWN
        self.reason = reason

    def withdraw(self, reason: str, by: str, *, timestamp: datetime) -> None:
        """For good: it has ceased, or was never what it said."""
        self._must_be(ACTIVE, SUSPENDED)
        _check_reason(reason, "a reason")
        self._withdrawn(reason=reason, by=by, timestamp=timestamp)

    def _must_be(self, *states: str) -> None:
        if self.state not in states:
            raise Conflict(f"{self.kind} {self.name} is {self.state}", hint="see: jinshi ra identity show " + self.id)


def check_title(title: str) -> str:
    """What an identity is called. Raises InvalidRequest."""
    if not title.strip() or len(title) > TITLE_LENGTH_MAX or not title.isprintable():
        raise InvalidRequest(f"the title is {title[:40]!r}", hint=f"give 1 to {TITLE_LENGTH_MAX} printable characters")
    return title


def _check_reason(reason: str, what: str) -> None:
    if not reason.strip() or len(reason) > REASON_LENGTH_MAX:
        raise InvalidRequest(f"{what} is missing or too long", hint=f"give 1 to {REASON_LENGTH_MAX} characters")
