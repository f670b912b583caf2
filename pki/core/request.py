"""Certification requests (PKCS#10, RFC 2986): bytes in, a value out whose key is proven and strong. Pure."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import AttributeOID, ExtensionOID, SignatureAlgorithmOID

from ledger.errors import MalformedRequest
from pki.core.der import INTEGER, OID, SEQUENCE, Reader, read
from pki.core.keys import SubjectKey, check_key
from pki.core.names import name_of

REQUEST_SIZE_MAX: Final = 32 * 1024
NAMES_MAX: Final = 100
EXTENSIONS_MAX: Final = 20
ATTRIBUTES_MAX: Final = 10

EXTENSION_REQUEST: Final = x509.ObjectIdentifier("1.2.840.113549.1.9.14")
_MICROSOFT: Final = "1.3.6.1.4.1.311."
"""What certreq adds of itself: the system's version, the user, the template it asks for."""

_PASSED_OVER: Final = {
    ExtensionOID.KEY_USAGE,
    ExtensionOID.EXTENDED_KEY_USAGE,
    ExtensionOID.BASIC_CONSTRAINTS,
    ExtensionOID.SUBJECT_KEY_IDENTIFIER,
    ExtensionOID.CERTIFICATE_POLICIES,
    ExtensionOID.TLS_FEATURE,
    ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
}
"""Extensions that may be asked for. But for the names, the profile says what a certificate has."""

SET: Final = 0x31
TEXT_SIZE_MAX: Final = 512
_TEXT_TAGS: Final = (0x0C, 0x13, 0x16, 0x14, 0x1E, 0x1C)
"""UTF8String, PrintableString, IA5String; TeletexString, BMPString and UniversalString of older programs."""
_TEXT_SIZES: Final = {bytes.fromhex("550406"): (2, 2), bytes.fromhex("2b0601040182373c020103"): (2, 2)}
"""countryName and jurisdictionCountryName; the profile's rules bound the others more closely."""

_WEAK_HASHES: Final = ("md5", "sha1")
_ECDSA: Final = {
    SignatureAlgorithmOID.ECDSA_WITH_SHA256: ec.ECDSA(hashes.SHA256()),
    SignatureAlgorithmOID.ECDSA_WITH_SHA384: ec.ECDSA(hashes.SHA384()),
    SignatureAlgorithmOID.ECDSA_WITH_SHA512: ec.ECDSA(hashes.SHA512()),
}

_UNREADABLE: Final = (
    *(ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion),
    *(x509.DuplicateExtension, x509.UnsupportedGeneralNameType),
)


@dataclass(frozen=True, slots=True)
class CertificationRequest:
    """What is asked for, by whoever has the private key.

    `public` is the SubjectPublicKeyInfo (DER, points uncompressed), `key_id` its SHA-256 in hexadecimal; `names` are
    the subjectAltName's, as `pki.core.names` writes them. Nothing of `subject` and `names` has been vetted.
    """

    der: bytes
    public: bytes
    key_id: str
    key: SubjectKey
    subject: x509.Name
    names: tuple[str, ...]


def parse_request(data: bytes) -> CertificationRequest:
    """A request in DER or PEM.

    Raises:
        MalformedRequest: it is none, its signature is not its key's (RFC 2986 §3), or it asks for what is never given:
            to be an authority, extensions or attributes that are not known here, names of other kinds.
        WeakKey: its key must not be certified (`pki.core.keys`).
    """
    if len(data) > REQUEST_SIZE_MAX:
        raise MalformedRequest(f"the request has {len(data)} bytes; the most is {REQUEST_SIZE_MAX}")
    request = _loaded(data)
    try:
        public = request.public_key()
    except _UNREADABLE as error:
        raise MalformedRequest(f"the request's key cannot be read ({error})"[:300]) from error
    key = check_key(public)
    signed = request.tbs_certrequest_bytes
    _check_signature(request, public, signed)
    _check_attributes(request)
    _check_subject(signed)
    try:
        names = _names(request)
        subject = request.subject
    except _UNREADABLE as error:
        raise MalformedRequest(f"the request cannot be read ({error})"[:300]) from error
    info = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    der = request.public_bytes(Encoding.DER)
    return CertificationRequest(der, info, key_id(info), key, subject, names)


def key_id(public: bytes) -> str:
    """What a public key (SubjectPublicKeyInfo, DER) is known by: its SHA-256 in hexadecimal."""
    return hashlib.sha256(public).hexdigest()


def _loaded(data: bytes) -> x509.CertificateSigningRequest:
    try:
        if data.lstrip()[:11] == b"-----BEGIN ":
            return x509.load_pem_x509_csr(data)
        return x509.load_der_x509_csr(data)
    except _UNREADABLE as error:
        raise MalformedRequest("it is no certification request", hint="send PKCS#10, in DER or PEM") from error


def _check_signature(request: x509.CertificateSigningRequest, public: CertificatePublicKeyTypes, signed: bytes) -> None:
    try:
        ecdsa = _ECDSA.get(request.signature_algorithm_oid)
        if ecdsa is not None and isinstance(public, ec.EllipticCurvePublicKey):
            hash_, valid = None, _is_signed(public, request.signature, signed, ecdsa)
        else:
            hash_ = request.signature_hash_algorithm
            valid = request.is_signature_valid
    except _UNREADABLE as error:
        raise MalformedRequest(f"the request's signature cannot be checked ({error})"[:300]) from error
    if hash_ is not None and hash_.name in _WEAK_HASHES:
        raise MalformedRequest(f"the request is signed with {hash_.name.upper()}", hint="sign it with SHA-256")
    if not valid:
        raise MalformedRequest(
            "the request's signature is not its key's: nothing proves that whoever asks has the private key"
        )


def _is_signed(public: ec.EllipticCurvePublicKey, signature: bytes, signed: bytes, ecdsa: ec.ECDSA) -> bool:
    """What `is_signature_valid` says, with the key that was loaded before: it would load it once more."""
    try:
        public.verify(signature, signed, ecdsa)
    except InvalidSignature:
        return False
    return True


def _check_subject(info: bytes) -> None:
    """That every part of the subject is one text of a length that RFC 5280 allows; the library only warns."""
    reader = Reader(read(info, SEQUENCE))
    reader.take(INTEGER)
    for relative in Reader(reader.take(SEQUENCE)).all(SET):
        part = Reader(relative)
        attribute = Reader(part.take(SEQUENCE))
        if part.more:
            raise MalformedRequest(
                "the request's subject has several attributes in one place", hint="one after the other"
            )
        oid = attribute.take(OID)
        if not any(map(attribute.next_is, _TEXT_TAGS)):
            raise MalformedRequest("the request's subject holds what is no text")
        size = len(attribute.take(next(filter(attribute.next_is, _TEXT_TAGS))))
        least, most = _TEXT_SIZES.get(oid, (1, TEXT_SIZE_MAX))
        if not least <= size <= most:
            raise MalformedRequest(f"a part of the request's subject has {size} bytes", hint=f"{least} to {most}")


def _check_attributes(request: x509.CertificateSigningRequest) -> None:
    try:
        oids = [one.oid for one in request.attributes]
    except _UNREADABLE as error:
        raise MalformedRequest(f"the request's attributes cannot be read ({error})"[:300]) from error
    if len(oids) > ATTRIBUTES_MAX or len(set(oids)) != len(oids):
        raise MalformedRequest("the request has too many attributes, or one twice")
    for oid in oids:
        # RFC 2985 §5.4: challengePassword is for who revokes; nobody here looks at it.
        known = oid in (EXTENSION_REQUEST, AttributeOID.CHALLENGE_PASSWORD, AttributeOID.UNSTRUCTURED_NAME)
        if not known and not oid.dotted_string.startswith(_MICROSOFT):
            raise MalformedRequest(f"the request has the attribute {oid.dotted_string}, which is not known here")


def _names(request: x509.CertificateSigningRequest) -> tuple[str, ...]:
    """The names asked for; whatever else is asked for is looked at, too."""
    names: tuple[str, ...] = ()
    extensions = list(request.extensions)
    if len(extensions) > EXTENSIONS_MAX:
        raise MalformedRequest(f"the request asks for {len(extensions)} extensions; the most is {EXTENSIONS_MAX}")
    for extension in extensions:
        value = extension.value
        if extension.oid not in _PASSED_OVER and not extension.oid.dotted_string.startswith(_MICROSOFT):
            raise MalformedRequest(f"the request asks for the extension {extension.oid.dotted_string}")
        if isinstance(value, x509.BasicConstraints) and value.ca:
            raise MalformedRequest("the request asks to become an authority", hint="see: jinshi ca")
        if isinstance(value, x509.KeyUsage) and (value.key_cert_sign or value.crl_sign):
            raise MalformedRequest("the request asks for the key usage of an authority", hint="see: jinshi ca")
        if isinstance(value, x509.SubjectAlternativeName):
            general = list(value)
            if len(general) > NAMES_MAX:
                raise MalformedRequest(f"the request has {len(general)} names; the most is {NAMES_MAX}")
            names = tuple(dict.fromkeys(name_of(one) for one in general))
    return names
