"""An authority as its certificates go by it: one generation, with the chain above. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from pki.core.algorithms import Algorithm
from pki.core.authority_profile import extension, key_id_in, public_of
from pki.core.settings import AuthoritySettings
from pki.core.subjects import subject_line


class Above(NamedTuple):
    """An authority's certificate, as far as it bears on those below. Times are POSIX seconds; None: it does not say."""

    certificate: x509.Certificate
    begin: int
    end: int
    constraints: x509.BasicConstraints | None
    usage: x509.KeyUsage | None
    names: x509.NameConstraints | None
    extended: frozenset[x509.ObjectIdentifier] | None
    policies: frozenset[str] | None
    demands_policy: bool

    @property
    def shown(self) -> str:
        """Its subject."""
        return subject_line(self.certificate.subject)


@dataclass(frozen=True, slots=True)
class Issuing:
    """One generation of an authority, as far as its certificates go by it.

    `chain` is its own certificate, then those above it, the root's last where it is known here; `given` the same in
    DER, without a root above. `public` is its SubjectPublicKeyInfo, DER.
    """

    authority: str
    generation: int
    algorithm: Algorithm
    settings: AuthoritySettings
    chain: tuple[Above, ...]
    given: tuple[bytes, ...]
    public: bytes
    subject: bytes
    key_identifier: bytes

    @property
    def certificate(self) -> x509.Certificate:
        """Its own."""
        return self.chain[0].certificate


def issuing_of(
    authority: str,
    generation: int,
    algorithm: Algorithm,
    settings: AuthoritySettings,
    chain: Iterable[x509.Certificate],
) -> Issuing:
    """What certificates of an authority go by."""
    certificates = tuple(chain)
    own = certificates[0]
    return Issuing(
        authority,
        generation,
        algorithm,
        settings,
        tuple(map(_above, certificates)),
        tuple(one.public_bytes(Encoding.DER) for one in certificates if one is own or one.subject != one.issuer),
        public_of(own),
        own.subject.public_bytes(),
        key_id_in(own),
    )


def _above(certificate: x509.Certificate) -> Above:
    extended, policies = extension(certificate, x509.ExtendedKeyUsage), extension(certificate, x509.CertificatePolicies)
    demanded = extension(certificate, x509.PolicyConstraints)
    return Above(
        certificate,
        int(certificate.not_valid_before_utc.timestamp()),
        int(certificate.not_valid_after_utc.timestamp()),
        extension(certificate, x509.BasicConstraints),
        extension(certificate, x509.KeyUsage),
        extension(certificate, x509.NameConstraints),
        None if extended is None else frozenset(extended),
        None if policies is None else frozenset(one.policy_identifier.dotted_string for one in policies),
        demanded is not None and demanded.require_explicit_policy is not None,
    )
