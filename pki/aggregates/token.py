"""Keys that access tokens are signed with, and each token that was given out."""

from __future__ import annotations

from datetime import datetime

from eventsourcing.domain import event

from ledger.errors import Conflict
from pki.aggregates.base import TrustAggregate


class TokenKey(TrustAggregate):
    """One key. `kid` names it in tokens; `public` is its SubjectPublicKeyInfo in base64 of DER."""

    TOPIC = "pki.tokenkey"

    @event("Created", topic="token.key-made.v1")
    def __init__(self, kid: str, reference: str, algorithm: str, public: str, *, timestamp: datetime) -> None:
        self.kid = kid
        self.reference = reference
        self.algorithm = algorithm
        self.public = public
        self.retired = False

    @staticmethod
    def create_id(kid: str) -> str:
        return f"tokenkey:{kid}"

    @event("Retired", topic="token.key-retired.v1")
    def _retired(self, timestamp: datetime) -> None:
        self.retired = True

    def retire(self, *, timestamp: datetime) -> None:
        """No token that it signed counts any more."""
        if self.retired:
            raise Conflict(f"token key {self.kid} is retired already")
        self._retired(timestamp=timestamp)


class Token(TrustAggregate):
    """That a token was given out: to whom, for what, until when (POSIX seconds). Not the token itself."""

    TOPIC = "pki.token"

    @event("Created", topic="token.issued.v1")
    def __init__(
        self, jti: str, officer: str, certificate: str, scope: str, kid: str, expires: int, *, timestamp: datetime
    ) -> None:
        self.jti = jti
        self.officer = officer
        self.certificate = certificate
        self.scope = scope
        self.kid = kid
        self.expires = expires

    @staticmethod
    def create_id(jti: str) -> str:
        return f"token:{jti}"
