"""Rules every certificate of an authority keeps to, checked on its bytes before it is signed. Pure.

RFC 5280, and the Baseline Requirements §7.1 as far as a private hierarchy has them; pkilint judges the same in tests.
"""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.x509.oid import ExtensionOID

from ledger.errors import InvalidRequest
from pki.core.algorithms import Algorithm, algorithm_of
from pki.core.authority_profile import extension, key_id_of, public_of

SERIAL_BITS = (64, 159)
_CRITICAL = {ExtensionOID.BASIC_CONSTRAINTS, ExtensionOID.KEY_USAGE, ExtensionOID.NAME_CONSTRAINTS}
_KNOWN = {
    *_CRITICAL,
    ExtensionOID.SUBJECT_KEY_IDENTIFIER,
    ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
    ExtensionOID.CERTIFICATE_POLICIES,
    ExtensionOID.CRL_DISTRIBUTION_POINTS,
    ExtensionOID.AUTHORITY_INFORMATION_ACCESS,
}


def lint_authority(certificate: x509.Certificate, issuer_key_id: bytes, algorithm: Algorithm) -> list[str]:
    """What is wrong with it; mostly nothing. `algorithm` is what its issuer signs with; no signature is looked at."""
    return [
        *_envelope(certificate, algorithm),
        *_extensions(certificate),
        *_identifiers(certificate, issuer_key_id),
        *_urls(certificate),
    ]


def _envelope(certificate: x509.Certificate, algorithm: Algorithm) -> Iterator[str]:
    if certificate.version is not x509.Version.v3:
        yield "it is no certificate of version 3"
    if not SERIAL_BITS[0] <= certificate.serial_number.bit_length() <= SERIAL_BITS[1]:
        yield "its serial number is not of 64 to 159 bits"
    if certificate.not_valid_after_utc <= certificate.not_valid_before_utc:
        yield "it ends before it begins"
    if not list(certificate.subject):
        yield "it has no subject"
    signature_hash = certificate.signature_hash_algorithm
    if (signature_hash and signature_hash.name) != (algorithm.hash and algorithm.hash.name):
        yield f"it is not signed as {algorithm.name} keys sign"
    try:
        algorithm_of(certificate.public_key())
    except InvalidRequest as error:
        yield error.what


def _extensions(certificate: x509.Certificate) -> Iterator[str]:
    for one in certificate.extensions:
        if one.oid not in _KNOWN:
            yield f"it has the extension {one.oid.dotted_string}, which is not of an authority"
        elif one.critical != (one.oid in _CRITICAL):
            yield f"its extension {one.oid.dotted_string} is {'' if one.critical else 'not '}critical"
    basic, usage = extension(certificate, x509.BasicConstraints), extension(certificate, x509.KeyUsage)
    if basic is None or not basic.ca:
        yield "it does not say that it is an authority's"
    if usage is None or not usage.key_cert_sign or not usage.crl_sign:
        yield "its key usage is not keyCertSign and cRLSign"
    names = extension(certificate, x509.NameConstraints)
    if names is not None and not names.permitted_subtrees and not names.excluded_subtrees:
        yield "its name constraints are empty"


def _identifiers(certificate: x509.Certificate, issuer_key_id: bytes) -> Iterator[str]:
    subject, issuer = (
        extension(certificate, x509.SubjectKeyIdentifier),
        extension(certificate, x509.AuthorityKeyIdentifier),
    )
    if subject is None:
        yield "it has no subject key identifier"
    if issuer is None or issuer.key_identifier != issuer_key_id:
        yield "its authority key identifier is not its issuer's"
    itself = subject is not None and subject.digest == issuer_key_id
    if itself and key_id_of(public_of(certificate)) != issuer_key_id and certificate.subject != certificate.issuer:
        yield "two keys have the same identifier"


def _urls(certificate: x509.Certificate) -> Iterator[str]:
    points = extension(certificate, x509.CRLDistributionPoints) or ()
    names = [name for point in points for name in point.full_name or ()]
    names += [one.access_location for one in extension(certificate, x509.AuthorityInformationAccess) or ()]
    for name in names:
        text = name.value if isinstance(name, x509.UniformResourceIdentifier) else ""
        try:
            parts = urlsplit(text)
        except ValueError:
            parts = urlsplit("")
        # RFC 5280 §8: status must not hang from a connection that has to be validated itself.
        if parts.scheme != "http" or not parts.hostname or any(character.isspace() for character in text):
            yield f"{str(name.value)[:120]!r} is no http URL"
