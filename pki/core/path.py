"""Certification path validation, RFC 5280 §6.1, with paths found among the certificates at hand. Pure.

`cryptography.x509.verification` is for TLS: it knows no policies, no directory names in constraints and no ML-DSA, and
compares names byte by byte; signatures, certificates and extensions are that library's here, too. Whether one was
revoked is said by whoever has lists, answers or the log. What is tried is bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, TypeAlias

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from ledger.errors import InvalidRequest, MalformedRequest
from pki.core.authority_profile import ANY_POLICY, extension
from pki.core.name_constraints import ComparedName, alternative_names, compared, outside
from pki.core.path_policies import PolicyGraph, PolicyWish, mappings_in
from pki.core.path_signatures import signature_holds
from pki.core.subjects import subject_line

LENGTH_MAX: Final = 12
"""Certificates in a path, the anchor's not counted."""
CANDIDATES_MAX: Final = 1_024
ATTEMPTS_MAX: Final = 64
_ANY_USAGE: Final = ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE
_UNREADABLE: Final = (
    *(ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension),
    *(x509.UnsupportedGeneralNameType, MalformedRequest),
)
_PROCESSED: Final = {
    ExtensionOID.BASIC_CONSTRAINTS,
    ExtensionOID.KEY_USAGE,
    ExtensionOID.EXTENDED_KEY_USAGE,
    ExtensionOID.NAME_CONSTRAINTS,
    ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
    ExtensionOID.CERTIFICATE_POLICIES,
    ExtensionOID.POLICY_MAPPINGS,
    ExtensionOID.POLICY_CONSTRAINTS,
    ExtensionOID.INHIBIT_ANY_POLICY,
}
"""Critical extensions that are looked at; any other refuses the path (§6.1.4 (o), §6.1.5 (f))."""


Revoked: TypeAlias = Callable[[x509.Certificate], str]
"""What keeps a certificate from being relied on although its time has not ended: "revoked", "held"; "": nothing."""


class PathRefused(InvalidRequest):
    """No valid path leads from a certificate to a root that is trusted."""


@dataclass(frozen=True, slots=True)
class Anchors:
    """Roots that are trusted, as certificates. Their own path lengths and name constraints hold, too (RFC 5937)."""

    certificates: tuple[x509.Certificate, ...]


@dataclass(frozen=True, slots=True)
class Path:
    """A valid path, the target first and the anchor last; `policies` are those it holds under, for the user."""

    certificates: tuple[x509.Certificate, ...]
    policies: frozenset[str]


def validate(
    target: x509.Certificate,
    intermediates: Sequence[x509.Certificate],
    anchors: Anchors,
    *,
    at: datetime,
    policies: PolicyWish | None = None,
    purpose: x509.ObjectIdentifier | None = None,
    authority: bool = False,
    revoked: Revoked | None = None,
) -> Path:
    """A valid path from `target` to an anchor.

    `purpose` is an extended key usage that it must be good for (one without that extension is); `authority`: it has to
    be an authority's. `revoked` is asked of every certificate below the anchor (§6.1.3 (a) (3)).

    Raises:
        PathRefused: there is none; said is what is wrong with the first that reaches an anchor.
    """
    if len(intermediates) + len(anchors.certificates) > CANDIDATES_MAX:
        raise PathRefused(f"more than {CANDIDATES_MAX} certificates to build a path from")
    wish = policies or PolicyWish()
    first: PathRefused | None = None
    for attempt, path in enumerate(_paths(target, intermediates, anchors)):
        if attempt == ATTEMPTS_MAX:
            break
        try:
            return _Validation(path, at, wish, purpose, authority, revoked).run()
        except PathRefused as error:
            first = first or error
    raise first or PathRefused(
        f"no path leads from {_shown(target)} to a root that is trusted",
        hint="give the certificates above it, and trust its root",
    )


def _paths(
    target: x509.Certificate, intermediates: Sequence[x509.Certificate], anchors: Anchors
) -> Iterator[tuple[x509.Certificate, ...]]:
    """Paths by names, the target first and an anchor last; those whose key identifiers fit come first."""
    if target in anchors.certificates:
        yield (target,)
        return
    by_name: dict[object, list[x509.Certificate]] = {}
    for one in dict.fromkeys(intermediates):
        if (subject := _subject(one)) is not None:
            by_name.setdefault(subject, []).append(one)
    steps = 0
    stack: list[tuple[x509.Certificate, ...]] = [(target,)]
    while stack and steps < CANDIDATES_MAX * LENGTH_MAX:
        steps += 1
        path = stack.pop()
        if (issuer := _issuer(path[-1])) is None:
            continue
        yield from ((*path, one) for one in anchors.certificates if _subject(one) == issuer)
        if len(path) < LENGTH_MAX:
            fits = [one for one in by_name.get(issuer, ()) if one not in path and one not in anchors.certificates]
            stack += [(*path, one) for one in sorted(fits, key=lambda one: _key_fits(path[-1], one))]


def _subject(certificate: x509.Certificate) -> ComparedName | None:
    try:
        return compared(certificate.subject)
    except _UNREADABLE:
        return None


def _issuer(certificate: x509.Certificate) -> ComparedName | None:
    try:
        return compared(certificate.issuer)
    except _UNREADABLE:
        return None


def _shown(certificate: x509.Certificate) -> str:
    """Whose it is, for a message."""
    try:
        return f"the certificate of {subject_line(certificate.subject)[:200]}"
    except _UNREADABLE:
        return "a certificate whose subject cannot be read"


def _key_fits(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        stated = extension(certificate, x509.AuthorityKeyIdentifier)
        own = extension(issuer, x509.SubjectKeyIdentifier)
    except _UNREADABLE:
        return False
    return stated is None or own is None or stated.key_identifier in (None, own.digest)


@dataclass(slots=True)
class _Validation:
    """The state of §6.1.2, going from the anchor to the target."""

    path: tuple[x509.Certificate, ...]
    at: datetime
    wish: PolicyWish
    purpose: x509.ObjectIdentifier | None
    authority: bool
    revoked: Revoked | None
    graph: PolicyGraph = field(default_factory=PolicyGraph)
    constraints: list[x509.NameConstraints] = field(default_factory=list)
    explicit: int = 0
    any_inhibited: int = 0
    mapping: int = 0
    length: int = LENGTH_MAX

    def run(self) -> Path:
        anchor, *below = reversed(self.path)
        count = len(below)
        self.explicit = 0 if self.wish.explicit else count + 1
        self.any_inhibited = 0 if self.wish.any_inhibited else count + 1
        self.mapping = 0 if self.wish.mapping_inhibited else count + 1
        self._anchor(anchor)
        issuer = anchor
        for number, certificate in enumerate(below, 1):
            try:
                self._basic(certificate, issuer, last=number == count)
                if number < count:
                    self._prepare_for_next(certificate)
                else:
                    self._wrap_up(certificate)
            except _UNREADABLE as error:
                raise self._refused(certificate, f"cannot be read ({error})"[:300]) from error
            issuer = certificate
        if self.authority and not below:
            self._must_be_authority(anchor)
        constrained = self.graph.constrained(self.wish.initial)
        if not self.explicit and not constrained:
            raise self._refused(self.path[0], "holds under none of the policies that are asked for")
        return Path(self.path, constrained)

    def _anchor(self, anchor: x509.Certificate) -> None:
        try:
            self._must_hold_now(anchor)
            basic, names = extension(anchor, x509.BasicConstraints), extension(anchor, x509.NameConstraints)
        except _UNREADABLE as error:
            raise self._refused(anchor, f"cannot be read ({error})"[:300]) from error
        if basic is not None and basic.path_length is not None:
            self.length = min(self.length, basic.path_length)
        if names is not None:
            self.constraints.append(names)

    def _basic(self, certificate: x509.Certificate, issuer: x509.Certificate, *, last: bool) -> None:
        """§6.1.3."""
        if not signature_holds(certificate, issuer.public_key()):
            raise self._refused(certificate, "has no valid signature of the one above it")
        self._must_hold_now(certificate)
        if self.revoked is not None and (state := self.revoked(certificate)):
            raise self._refused(certificate, f"is {state}")
        self_issued = compared(certificate.subject) == compared(certificate.issuer)
        if last or not self_issued:
            names = list(alternative_names(certificate))
            for one in self.constraints:
                for reason in outside(one, certificate.subject, names):
                    raise self._refused(certificate, f"cannot hold: {reason}")
        found = extension(certificate, x509.CertificatePolicies)
        stated = None if found is None else [one.policy_identifier.dotted_string for one in found]
        self.graph.descend(stated, any_allowed=self.any_inhibited > 0 or (not last and self_issued))
        if not self.explicit and self.graph.empty:
            raise self._refused(certificate, "leaves no policy that all above it allow")
        for known in certificate.extensions:
            if known.critical and known.oid not in _PROCESSED:
                raise self._refused(certificate, f"has the critical extension {known.oid.dotted_string}, unknown here")
        usages = extension(certificate, x509.ExtendedKeyUsage)
        if self.purpose is not None and usages is not None and not {self.purpose, _ANY_USAGE} & set(usages):
            raise self._refused(certificate, f"is not for the purpose {self.purpose.dotted_string}")

    def _prepare_for_next(self, certificate: x509.Certificate) -> None:
        """§6.1.4."""
        mappings = mappings_in(certificate)
        if any(ANY_POLICY in pair for pair in mappings):
            raise self._refused(certificate, "maps the policy that stands for any")
        self.graph.map(mappings, allowed=self.mapping > 0)
        names = extension(certificate, x509.NameConstraints)
        if names is not None:
            self.constraints.append(names)
        if compared(certificate.subject) != compared(certificate.issuer):
            self.explicit = max(0, self.explicit - 1)
            self.mapping = max(0, self.mapping - 1)
            self.any_inhibited = max(0, self.any_inhibited - 1)
            if not self.length:
                raise self._refused(certificate, "is one authority more than the path length above it allows")
            self.length -= 1
        limits = extension(certificate, x509.PolicyConstraints)
        if limits is not None:
            self.explicit = _lower(self.explicit, limits.require_explicit_policy)
            self.mapping = _lower(self.mapping, limits.inhibit_policy_mapping)
        inhibited = extension(certificate, x509.InhibitAnyPolicy)
        if inhibited is not None:
            self.any_inhibited = _lower(self.any_inhibited, inhibited.skip_certs)
        basic = self._must_be_authority(certificate)
        self.length = _lower(self.length, basic.path_length)
        usage = extension(certificate, x509.KeyUsage)
        if usage is not None and not usage.key_cert_sign:
            raise self._refused(certificate, "may not sign certificates")

    def _wrap_up(self, certificate: x509.Certificate) -> None:
        """§6.1.5."""
        self.explicit = max(0, self.explicit - 1)
        limits = extension(certificate, x509.PolicyConstraints)
        if limits is not None and limits.require_explicit_policy == 0:
            self.explicit = 0
        if self.authority:
            self._must_be_authority(certificate)

    def _must_be_authority(self, certificate: x509.Certificate) -> x509.BasicConstraints:
        basic = extension(certificate, x509.BasicConstraints)
        if certificate.version is not x509.Version.v3 or basic is None or not basic.ca:
            raise self._refused(certificate, "is no authority's")
        return basic

    def _must_hold_now(self, certificate: x509.Certificate) -> None:
        if not certificate.not_valid_before_utc <= self.at <= certificate.not_valid_after_utc:
            span = f"{certificate.not_valid_before_utc:%F} to {certificate.not_valid_after_utc:%F}"
            raise self._refused(certificate, f"does not hold at this time (it holds from {span})")

    @staticmethod
    def _refused(certificate: x509.Certificate, why: str) -> PathRefused:
        return PathRefused(f"{_shown(certificate)} {why}", hint="give another certificate or path")


def _lower(now: int, limit: int | None) -> int:
    return now if limit is None else min(now, limit)
