"""What an authority's certificate says: its template, and what may not be in it below a given issuer. Pure.

End-entity templates are in profile.py and template.py.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from cryptography.x509.oid import AuthorityInformationAccessOID

from ledger.errors import InvalidRequest, MalformedRequest
from pki.core.der import BIT_STRING, SEQUENCE, Reader, read
from pki.core.name_constraints import outside, widened
from pki.core.names import domain
from pki.core.subjects import subject_line, subject_of, written

E = TypeVar("E", bound=x509.ExtensionType)

ROOT, SUBORDINATE, CROSS, LINK = "ca-root", "ca-subordinate", "ca-cross", "ca-link"
AUTHORITY_PROFILES: Final = (ROOT, SUBORDINATE, CROSS, LINK)
"""What the profile of an authority's certificate is recorded as."""

ANY_POLICY: Final = "2.5.29.32.0"
CERTIFICATE_SIZE_MAX: Final = 32 * 1024
PATH_LENGTH_MAX: Final = 8
_PAIR = re.compile(r"\s*([A-Za-z]+)\s*=\s*((?:[^,\\]|\\.)*)(?:,|$)")
_OID = re.compile(r"[0-2](\.(0|[1-9][0-9]{0,9})){1,20}")
_UNREADABLE: Final = (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion)


@dataclass(frozen=True, slots=True)
class AuthorityProfile:
    """What is wished of an authority's certificate. `path_length`: how many authorities may be below it, one another.

    `names` are its name constraints; `policies` the object identifiers of what it may issue under, `cps` where that is
    explained.
    """

    subject: x509.Name
    path_length: int | None = None
    names: x509.NameConstraints | None = None
    policies: tuple[str, ...] = ()
    cps: str = ""

    def __post_init__(self) -> None:
        if not list(self.subject):
            raise InvalidRequest("an authority without a subject", hint="--subject 'C=CN,O=…,CN=…'")
        if self.path_length is not None and not 0 <= self.path_length <= PATH_LENGTH_MAX:
            raise InvalidRequest(f"a path length of {self.path_length}", hint=f"0 to {PATH_LENGTH_MAX}")
        for policy in self.policies:
            if not _OID.fullmatch(policy):
                raise InvalidRequest(f"{policy[:80]!r} is no policy", hint="give an object identifier: 2.16.156.…")


@dataclass(frozen=True, slots=True)
class Signing:
    """Who signs a certificate: subject and key as they go into it, and where its status is told ("": nowhere)."""

    subject: x509.Name
    public: bytes
    key_id: bytes
    crl_url: str = ""
    ocsp_url: str = ""
    certificate_url: str = ""


def signing_of(certificate: x509.Certificate, *, crl: str = "", ocsp: str = "", issuer: str = "") -> Signing:
    """The holder of a certificate as an issuer."""
    return Signing(certificate.subject, public_of(certificate), key_id_in(certificate), crl, ocsp, issuer)


def builder_for(
    profile: AuthorityProfile,
    public: bytes,
    key_id: bytes,
    issuer: Signing,
    serial: int,
    not_before: int,
    not_after: int,
) -> x509.CertificateBuilder:
    """The certificate, unsigned (RFC 5280 §4). Times are POSIX seconds, `public` a SubjectPublicKeyInfo."""
    key = load_der_public_key(public)
    builder = (
        x509.CertificateBuilder()
        .subject_name(profile.subject)
        .issuer_name(issuer.subject)
        .public_key(key)  # type: ignore[arg-type]
        .serial_number(serial)
        .not_valid_before(_moment(not_before))
        .not_valid_after(_moment(not_after))
        .add_extension(x509.BasicConstraints(ca=True, path_length=profile.path_length), critical=True)
        .add_extension(_KEY_USAGE, critical=True)
        .add_extension(x509.SubjectKeyIdentifier(key_id), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier(issuer.key_id, None, None), critical=False)
    )
    if profile.policies:
        builder = builder.add_extension(_policies(profile), critical=False)
    if profile.names is not None:
        builder = builder.add_extension(profile.names, critical=True)
    if issuer.crl_url:
        point = x509.DistributionPoint([x509.UniformResourceIdentifier(issuer.crl_url)], None, None, None)
        builder = builder.add_extension(x509.CRLDistributionPoints([point]), critical=False)
    access = [
        x509.AccessDescription(method, x509.UniformResourceIdentifier(url))
        for method, url in (
            (AuthorityInformationAccessOID.OCSP, issuer.ocsp_url),
            (AuthorityInformationAccessOID.CA_ISSUERS, issuer.certificate_url),
        )
        if url
    ]
    return builder.add_extension(x509.AuthorityInformationAccess(access), critical=False) if access else builder


def profile_of(certificate: x509.Certificate) -> AuthorityProfile:
    """What a certificate says, to be certified again. Raises MalformedRequest: it is no authority's."""
    constraints = extension(certificate, x509.BasicConstraints)
    if constraints is None or not constraints.ca:
        raise MalformedRequest(f"the certificate of {subject_line(certificate.subject)} is no authority's")
    policies = extension(certificate, x509.CertificatePolicies) or ()
    cps = [one for policy in policies for one in policy.policy_qualifiers or () if isinstance(one, str)]
    return AuthorityProfile(
        certificate.subject,
        constraints.path_length,
        extension(certificate, x509.NameConstraints),
        tuple(one.policy_identifier.dotted_string for one in policies),
        cps[0] if cps else "",
    )


def refusals(
    profile: AuthorityProfile, issuer: x509.Certificate, not_before: int, not_after: int, *, self_issued: bool = False
) -> list[str]:
    """Why the issuer may not certify that, so that every path through it would fail (RFC 5280 §6.1); mostly nothing."""
    found: list[str] = []
    above = profile_of(issuer)
    usage = extension(issuer, x509.KeyUsage)
    if usage is not None and not usage.key_cert_sign:
        found.append("its issuer's key may not sign certificates")
    if above.path_length is not None and not self_issued:
        if above.path_length == 0:
            found.append("its issuer may have no authority below it (path length 0)")
        elif profile.path_length is None or profile.path_length >= above.path_length:
            found.append(f"its path length must be below the {above.path_length} of its issuer")
    if above.names is not None:
        found += outside(above.names, profile.subject, ())
        found += widened(above.names, profile.names)
    if above.policies and ANY_POLICY not in above.policies:
        beyond = [one for one in profile.policies if one not in above.policies]
        found += [f"its issuer does not issue under the policy {one}" for one in beyond]
    if not_before < int(issuer.not_valid_before_utc.timestamp()):
        found.append("it would hold before its issuer's certificate does")
    if not_after > int(issuer.not_valid_after_utc.timestamp()):
        found.append(f"it would hold longer than its issuer's certificate, which ends {issuer.not_valid_after_utc:%F}")
    return found


# -- certificates and keys as bytes ----------------------------------------------------------------------------------


def parse_certificate(data: bytes) -> x509.Certificate:
    """A certificate in DER or PEM. Raises MalformedRequest."""
    found = parse_certificates(data)
    if len(found) != 1:
        raise MalformedRequest(f"there are {len(found)} certificates where one is wanted")
    return found[0]


def parse_certificates(data: bytes, *, count_max: int = 16) -> list[x509.Certificate]:
    """Certificates in PEM, one after the other, or one in DER. Raises MalformedRequest."""
    if len(data) > CERTIFICATE_SIZE_MAX * count_max:
        raise MalformedRequest(f"{len(data)} bytes are more than certificates have")
    try:
        if b"-----BEGIN " in data[:8_192]:
            found = x509.load_pem_x509_certificates(data)
        else:
            found = [x509.load_der_x509_certificate(data)]
        for one in found:
            list(one.extensions)
            one.public_key()
            subject_line(one.subject)
    except (*_UNREADABLE, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise MalformedRequest("it is no certificate", hint="give X.509 in PEM or DER") from error
    if len(found) > count_max:
        raise MalformedRequest(f"there are {len(found)} certificates; the most is {count_max}")
    return found


def parse_foreign(data: bytes) -> x509.Certificate | x509.CertificateSigningRequest:
    """What another house shows of its authority: a request (PKCS#10) or a certificate. Raises MalformedRequest."""
    if len(data) > CERTIFICATE_SIZE_MAX:
        raise MalformedRequest(f"{len(data)} bytes are more than a request has")
    for load in (x509.load_pem_x509_csr, x509.load_der_x509_csr):
        with suppress(*_UNREADABLE):
            request = load(data)
            request.public_key()
            subject_line(request.subject)
            return request
    return parse_certificate(data)


def key_id_of(public: bytes) -> bytes:
    """A key identifier: the leftmost 160 bits of SHA-256 of the key's own bits (RFC 7093 §2, method 1)."""
    info = Reader(read(public, SEQUENCE))
    info.take(SEQUENCE)
    return hashlib.sha256(info.take(BIT_STRING)[1:]).digest()[:20]


def key_id_in(certificate: x509.Certificate) -> bytes:
    """The key identifier a certificate states; what `key_id_of` says where it states none."""
    stated = extension(certificate, x509.SubjectKeyIdentifier)
    return key_id_of(public_of(certificate)) if stated is None else stated.digest


def public_of(certificate: x509.Certificate | x509.CertificateSigningRequest) -> bytes:
    """The certified key (SubjectPublicKeyInfo, DER)."""
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def extension(certificate: x509.Certificate | x509.CertificateSigningRequest, kind: type[E]) -> E | None:
    """The value of an extension, or None."""
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


# -- as people write it ----------------------------------------------------------------------------------------------


def parse_subject(text: str) -> x509.Name:
    """`C=CN, O=某省数据局, CN=…` (a comma within a value is written \\,). Raises InvalidRequest, MalformedRequest."""
    pairs: list[tuple[str, str]] = []
    place = 0
    while place < len(text):
        found = _PAIR.match(text, place)
        if found is None or found.end() == place:
            raise InvalidRequest(f"the subject {text[:120]!r} cannot be read", hint="write C=CN,O=…,CN=…")
        pairs.append((found[1], re.sub(r"\\(.)", r"\1", found[2]).strip()))
        place = found.end()
    try:
        return written(subject_of(pairs))
    except ValueError as error:
        raise InvalidRequest(f"the subject {text[:120]!r} cannot be written ({error})"[:300]) from error


def parse_constraints(permitted: Iterable[str], excluded: Iterable[str]) -> x509.NameConstraints | None:
    """Name constraints out of `dns:city.example`, `email:city.example`, `uri:.city.example`, `ip:10.0.0.0/8`, and
    `dir:C=CN, O=某省`; None without any. Raises InvalidRequest, MalformedRequest."""
    allowed, refused = ([_subtree(one) for one in texts] for texts in (permitted, excluded))
    return x509.NameConstraints(allowed or None, refused or None) if allowed or refused else None


def _subtree(text: str) -> x509.GeneralName:
    kind, _, value = text.partition(":")
    try:
        if kind == "dns":
            return x509.DNSName(domain(value))
        if kind == "email":
            return x509.RFC822Name(_mailbox_or_host(value))
        if kind == "uri":
            return x509.UniformResourceIdentifier(_host(value))
        if kind == "ip":
            return x509.IPAddress(ipaddress.ip_network(value))
    except ValueError as error:
        raise InvalidRequest(f"{text[:120]!r} is no network ({error})"[:300], hint=_SUBTREES) from error
    if kind == "dir":
        return x509.DirectoryName(parse_subject(value))
    raise InvalidRequest(f"{text[:120]!r} constrains nothing", hint=_SUBTREES)


_SUBTREES: Final = "dns:city.example, email:city.example, uri:.city.example, ip:10.0.0.0/8, or dir:C=CN,O=…"


def _host(value: str) -> str:
    return f".{domain(value[1:])}" if value.startswith(".") else domain(value)


def _mailbox_or_host(value: str) -> str:
    local, at, host = value.rpartition("@")
    return f"{local}@{domain(host)}" if at else _host(value)


_KEY_USAGE: Final = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


def _policies(profile: AuthorityProfile) -> x509.CertificatePolicies:
    return x509.CertificatePolicies(
        [
            x509.PolicyInformation(
                x509.ObjectIdentifier(one), [profile.cps] if profile.cps and one != ANY_POLICY else None
            )
            for one in profile.policies
        ]
    )


def _moment(posix_s: int) -> datetime:
    return datetime.fromtimestamp(posix_s, UTC)
