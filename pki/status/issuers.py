"""Which keys of which authorities speak about certificates, and how requests and names lead to them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from cryptography import x509

from ledger.core.encoding import decode_base64
from ledger.errors import InvalidRequest
from pki.aggregates.authority import Authority, Generation
from pki.core.algorithms import algorithm_named
from pki.core.crl import Issuer, issuer_of
from pki.core.locations import crl_url, delta_url
from pki.core.ocsp import IssuerHashes, hashes_of
from pki.core.settings import AuthoritySettings, read_authority_settings
from pki.keystore.base import SHARES
from pki.views.book import Book


@dataclass(frozen=True, slots=True)
class StatusIssuer:
    """A certified key of an authority. `reference` is "" where it is kept elsewhere: then nothing is signed here.

    `current`: it is the one that the authority issues with.
    """

    authority: str
    generation: int
    reference: str
    certificate: bytes
    issuer: Issuer
    hashes: IssuerHashes
    not_after: int
    current: bool
    settings: AuthoritySettings

    @property
    def name(self) -> str:
        """As it is published under."""
        return f"{self.authority}-{self.generation}"

    @property
    def is_here(self) -> bool:
        """Whether its key can be used without a ceremony."""
        return bool(self.reference) and not self.reference.startswith(f"{SHARES}:")

    @property
    def hint(self) -> str:
        """How a list comes about whose key is not here."""
        if self.reference:
            return f"hold a ceremony whose file says crl: jinshi ca ceremony run FILE (authority {self.authority})"
        return f"issue it where the key is; then: jinshi crl take-in {self.authority} FILE"

    def crl_url(self, shard: int, *, delta: bool = False) -> str:
        """Where a list of it is fetched; "" when the authority says nowhere."""
        of = delta_url if delta else crl_url
        return of(self.settings, self.authority, self.generation, shard)


def issuers_in(book: Book) -> Iterator[StatusIssuer]:
    """Every certified key there is."""
    for authority in book.all(Authority):
        certified = [one for one in authority.generations if one.certificates]
        for generation in certified:
            yield _issuer(authority, generation, current=generation is certified[-1])


def issuer_in(book: Book, authority: str, generation: int) -> StatusIssuer:
    """One of them. Raises InvalidRequest: there is none, or it is not certified."""
    found = book.get(Authority, Authority.create_id(authority))
    key = found.generation(generation)
    if not key.certificates:
        raise InvalidRequest(f"key {generation} of authority {authority} is not certified yet")
    certified = [one for one in found.generations if one.certificates]
    return _issuer(found, key, current=key is certified[-1])


def _issuer(authority: Authority, generation: Generation, *, current: bool) -> StatusIssuer:
    certificate, issuer, hashes, not_after = _read(generation.certificates[0], generation.algorithm)
    settings = read_authority_settings(authority.settings)
    return StatusIssuer(
        *(authority.name, generation.number, generation.reference, certificate, issuer, hashes),
        *(not_after, current, settings),
    )


@lru_cache(maxsize=8_192)
def _read(certificate: str, algorithm: str) -> tuple[bytes, Issuer, IssuerHashes, int]:
    data = decode_base64(certificate)
    parsed = x509.load_der_x509_certificate(data)
    not_after = int(parsed.not_valid_after_utc.timestamp())
    return data, issuer_of(parsed, algorithm_named(algorithm)), hashes_of(parsed), not_after
