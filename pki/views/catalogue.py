"""Everything that is folded: which aggregates are in the book, and which tables the index has."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pki.aggregates.act import Act
from pki.aggregates.authority import Authority
from pki.aggregates.base import TrustAggregate
from pki.aggregates.ceremony import Ceremony
from pki.aggregates.key import Key
from pki.aggregates.officer import Credential, Officer
from pki.aggregates.policy import Policy
from pki.aggregates.profile import ProfileRecord
from pki.aggregates.publication import Publication
from pki.aggregates.responder import Responder
from pki.aggregates.token import TokenKey
from pki.aggregates.tsa import Tsa
from pki.journal import Journal
from pki.views.acme import AcmeTables
from pki.views.book import Book
from pki.views.certificates import Certificates
from pki.views.identities import Identities
from pki.views.index import Index
from pki.views.requests import Requests
from pki.views.status import Batches, Crls

BOOK_KINDS: Final[tuple[type[TrustAggregate], ...]] = (
    Authority,
    Key,
    Ceremony,
    ProfileRecord,
    Publication,
    Responder,
    Officer,
    Credential,
    Act,
    Policy,
    Tsa,
    TokenKey,
)
"""Small aggregates, of which there are thousands at most."""


class TrustIndex(Index):
    """The index of the trust service."""

    def __init__(self, journal: Journal, file: Path | None) -> None:
        self.certificates = Certificates()
        self.acme = AcmeTables()
        self.identities = Identities()
        self.requests = Requests()
        self.crls = Crls()
        self.batches = Batches()
        super().__init__(
            journal,
            file,
            Book(BOOK_KINDS),
            [self.certificates, self.acme, self.identities, self.requests, self.crls, self.batches],
        )
