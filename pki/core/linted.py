"""What the lint rules look at, and what they give. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeVar

from cryptography import x509

from ledger.errors import MalformedRequest
from pki.core import der
from pki.core.issuing import Issuing
from pki.core.keys import SubjectKey, subject_key_of
from pki.core.profile import KEY_USAGES, Profile

E = TypeVar("E", bound=x509.ExtensionType)


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule that does not hold, and how."""

    rule: str
    source: str
    what: str

    def __str__(self) -> str:
        return f"{self.what} ({self.rule}: {self.source})"


class Linted(NamedTuple):
    """What the rules look at, each read once. `algorithm` to `public` are DER; `period` and `now`: POSIX seconds.

    `subject` and `parts` are its subject, whole and one by one, `alternatives` its alternative names, `usages` those
    that its key usage names.
    """

    algorithm: bytes
    issuer: bytes
    validity: bytes
    public: bytes
    certificate: x509.Certificate
    period: tuple[int, int]
    subject: x509.Name
    parts: list[x509.NameAttribute[str | bytes]]
    alternatives: list[x509.GeneralName]
    usages: frozenset[str]
    extensions: list[x509.Extension[x509.ExtensionType]]
    values: dict[type[x509.ExtensionType], x509.ExtensionType]
    key: SubjectKey
    issuing: Issuing
    profile: Profile
    now: int

    def find(self, kind: type[E]) -> E | None:
        """An extension's value."""
        return self.values.get(kind)  # type: ignore[return-value]


class Rule(NamedTuple):
    """One rule: what it is called, where it is from, and what it finds."""

    name: str
    source: str
    check: Callable[[Linted], Iterator[str]]


_USAGES: Final = (*KEY_USAGES.values(), "key_cert_sign", "crl_sign")


def linted(
    tbs: bytes,
    certificate: x509.Certificate,
    issuing: Issuing,
    profile: Profile,
    now: int,
) -> Linted:
    """A certificate, read for the rules. Raises ValueError, TypeError, MalformedRequest, WeakKey: it cannot be."""
    extensions = list(certificate.extensions)
    algorithm, issuer, validity, public = _parts(tbs)
    key, subject = subject_key_of(certificate.public_key()), certificate.subject
    values = {type(one.value): one.value for one in extensions}
    usage, alternatives = values.get(x509.KeyUsage), values.get(x509.SubjectAlternativeName)
    return Linted(
        algorithm,
        issuer,
        validity,
        public,
        certificate,
        (int(certificate.not_valid_before_utc.timestamp()), int(certificate.not_valid_after_utc.timestamp())),
        subject,
        list(subject),
        [] if alternatives is None else list(alternatives),
        frozenset() if usage is None else frozenset(name for name in _USAGES if getattr(usage, name)),
        extensions,
        values,
        key,
        issuing,
        profile,
        now,
    )


def _parts(tbs: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    """The signature algorithm, the issuer, the validity and the public key of a TBSCertificate, each whole."""
    reader = der.Reader(der.read(tbs, der.SEQUENCE))
    if reader.take(0xA0) != der.integer(2):
        raise MalformedRequest("it is not of version 3")
    reader.take(der.INTEGER)
    algorithm, issuer, validity, _, public = (reader.take_whole(der.SEQUENCE) for _ in range(5))
    return algorithm, issuer, validity, public
