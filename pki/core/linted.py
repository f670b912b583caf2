"""What the lint rules look at, and what they give. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from cryptography import x509

from pki.core.issuing import Issuing
from pki.core.keys import SubjectKey
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
    """What the rules look at. `algorithm` to `public` are DER; `now`: POSIX seconds."""

    algorithm: bytes
    issuer: bytes
    validity: bytes
    public: bytes
    certificate: x509.Certificate
    extensions: list[x509.Extension[x509.ExtensionType]]
    values: dict[type[x509.ExtensionType], x509.ExtensionType]
    key: SubjectKey
    issuing: Issuing
    profile: Profile
    now: int

    def find(self, kind: type[E]) -> E | None:
        """An extension's value."""
        return self.values.get(kind)  # type: ignore[return-value]

    @property
    def alternatives(self) -> list[x509.GeneralName]:
        """Its alternative names."""
        return list(self.find(x509.SubjectAlternativeName) or ())


class Rule(NamedTuple):
    """One rule: what it is called, where it is from, and what it finds."""

    name: str
    source: str
    check: Callable[[Linted], Iterator[str]]


def usages_of(usage: x509.KeyUsage) -> set[str]:
    names = (*KEY_USAGES.values(), "key_cert_sign", "crl_sign")
    return {name for name in names if getattr(usage, name)}


def times_of(certificate: x509.Certificate) -> tuple[int, int]:
    return int(certificate.not_valid_before_utc.timestamp()), int(certificate.not_valid_after_utc.timestamp())
