"""OCSP, RFC 6960: requests as values, answers as bytes; nonces of RFC 9654. Nothing is looked up or signed here.

A request may ask for several certificates, of several issuers; how many is bounded. The signature of a request is not
looked at: everybody may ask.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ledger.errors import MalformedRequest
from pki.core import der
from pki.core.algorithms import Algorithm
from pki.core.crl import CODES
from pki.core.signatures import identifier

REQUEST_SIZE_MAX: Final = 8_192
ASKED_MAX: Final = 16
SERIAL_OCTETS_MAX: Final = 20
NONCE_OCTETS_MAX: Final = 128

GOOD, REVOKED, UNKNOWN = "good", "revoked", "unknown"

_SHA1: Final = bytes.fromhex("2b0e03021a")
_SHA256: Final = bytes.fromhex("608648016503040201")
_HASHES: Final = {_SHA1: "sha1", _SHA256: "sha256"}
_OIDS: Final = {name: oid for oid, name in _HASHES.items()}
HASHES: Final = tuple(_OIDS)
"""Of issuers' names and keys in requests. RFC 5019 asks for SHA-1, which is safe for this: nothing rests on it."""

_BASIC: Final = der.tlv(der.OID, bytes.fromhex("2b0601050507300101"))
_NONCE: Final = bytes.fromhex("2b0601050507300102")
_EXTENDED_REVOKE: Final = bytes.fromhex("2b0601050507300109")
_NULL: Final = b"\x05\x00"
_SUCCESSFUL: Final = b"\x0a\x01\x00"


class Failed(IntEnum):
    """Answers that say nothing of a certificate, RFC 6960 §4.2.1. They are not signed."""

    MALFORMED = 1
    INTERNAL = 2
    TRY_LATER = 3
    UNAUTHORIZED = 6


@dataclass(frozen=True, slots=True)
class CertId:
    """Which certificate: hashes of the issuer's name and key, and the serial in hexadecimal, 40 digits.

    `der` is the CertID as it was sent, which the answer repeats.
    """

    hash: str
    name_hash: bytes
    key_hash: bytes
    serial: str
    der: bytes


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked. `nonce` is repeated in the answer; None: the answer may be one that was made before."""

    asked: tuple[CertId, ...]
    nonce: bytes | None = None


@dataclass(frozen=True, slots=True)
class Status:
    """What is said of one certificate. Times are POSIX seconds; `reason` as in `pki.core.crl.CODES`."""

    status: str
    this_update: int
    next_update: int
    revoked_at: int = 0
    reason: str = "unspecified"


@dataclass(frozen=True, slots=True)
class IssuerHashes:
    """How requests name an issuer, by each hash."""

    names: dict[str, bytes]
    keys: dict[str, bytes]

    def all(self) -> list[tuple[str, bytes, bytes]]:
        """Each (hash, of the name, of the key)."""
        return [(one, self.names[one], self.keys[one]) for one in self.names]

    def cert_id(self, hash_: str, serial: str) -> bytes:
        """The CertID of one of its certificates, DER."""
        return der.sequence(_cert_id_head(hash_, self.names[hash_], self.keys[hash_]), der.integer(int(serial, 16)))


# -- requests --


def parse_ocsp_request(data: bytes) -> Request:
    """An OCSPRequest, RFC 6960 §4.1.1.

    Raises:
        MalformedRequest: it is none, asks for too much, or has a critical extension that is not known.
    """
    if len(data) > REQUEST_SIZE_MAX:
        raise MalformedRequest(f"an OCSP request of {len(data):,} bytes", hint=f"at most {REQUEST_SIZE_MAX:,}")
    outer = der.Reader(der.read(data, der.SEQUENCE))
    tbs = der.Reader(outer.take(der.SEQUENCE))
    if outer.next_is(0xA0):
        der.read(outer.take(0xA0), der.SEQUENCE)  # its signature
    outer.end()
    if tbs.next_is(0xA0) and der.read(tbs.take(0xA0), der.INTEGER) != b"\0":
        raise MalformedRequest("an OCSP request of a version that is not known")
    if tbs.next_is(0xA1):
        tbs.take(0xA1)  # requestorName
    asked = [_asked(one) for one in der.Reader(tbs.take(der.SEQUENCE)).all(der.SEQUENCE)]
    nonce = _nonce(tbs.take(0xA2)) if tbs.next_is(0xA2) else None
    tbs.end()
    if not 1 <= len(asked) <= ASKED_MAX:
        raise MalformedRequest(f"an OCSP request for {len(asked)} certificates", hint=f"1 to {ASKED_MAX}")
    return Request(tuple(asked), nonce)


def _asked(data: bytes) -> CertId:
    reader = der.Reader(data)
    whole = reader.take_whole(der.SEQUENCE)
    if reader.next_is(0xA0):
        _extensions(reader.take(0xA0))
    reader.end()
    fields = der.Reader(der.read(whole, der.SEQUENCE))
    hash_ = _hash_of(fields.take(der.SEQUENCE))
    name_hash, key_hash = fields.take(der.OCTET_STRING), fields.take(der.OCTET_STRING)
    serial = der.read_integer(fields.take(der.INTEGER), octets_max=SERIAL_OCTETS_MAX)
    fields.end()
    return CertId(hash_, name_hash, key_hash, f"{serial:040x}", whole)


@lru_cache(maxsize=64)
def _hash_of(algorithm: bytes) -> str:
    """The name of a hash that is known here, or ""."""
    reader = der.Reader(algorithm)
    oid = reader.take(der.OID)
    if reader.more:
        reader.take(der.NULL)
    reader.end()
    return _HASHES.get(oid, "")


def _nonce(data: bytes) -> bytes | None:
    value = _extensions(data).get(_NONCE)
    if value is None:
        return None
    nonce = der.read(value, der.OCTET_STRING)
    if not 1 <= len(nonce) <= NONCE_OCTETS_MAX:  # RFC 9654 §2.1
        raise MalformedRequest(f"a nonce of {len(nonce)} octets", hint=f"1 to {NONCE_OCTETS_MAX}")
    return nonce


def _extensions(data: bytes) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for one in der.Reader(der.read(data, der.SEQUENCE)).all(der.SEQUENCE):
        extension = der.Reader(one)
        oid = extension.take(der.OID)
        critical = extension.next_is(der.BOOLEAN) and extension.take(der.BOOLEAN) != b"\0"
        value = extension.take(der.OCTET_STRING)
        extension.end()
        if oid in found or (critical and oid != _NONCE):
            raise MalformedRequest("an extension of the OCSP request comes twice, or is critical and not known")
        found[oid] = value
    return found


def format_ocsp_request(asked: Sequence[bytes], nonce: bytes | None = None) -> bytes:
    """A request for these CertIDs, DER."""
    listed = der.sequence(*(der.sequence(one) for one in asked))
    extensions = der.tlv(0xA2, der.sequence(_nonce_extension(nonce))) if nonce is not None else b""
    return der.sequence(der.sequence(listed, extensions))


# -- answers --


def failed(why: Failed) -> bytes:
    """An answer that says nothing of a certificate."""
    return der.sequence(der.tlv(der.ENUMERATED, bytes((why,))))


def single(cert_id: bytes, said: Status) -> bytes:
    """A SingleResponse, RFC 6960 §4.2.1."""
    if said.status == GOOD:
        status = b"\x80\x00"
    elif said.status == REVOKED:
        why = b"" if said.reason == "unspecified" else b"\xa0\x03\x0a\x01" + bytes((CODES[said.reason],))
        status = der.tlv(0xA1, _time(said.revoked_at), why)
    else:
        status = b"\x82\x00"
    return der.sequence(cert_id, status, _time(said.this_update), der.tlv(0xA0, _time(said.next_update)))


def response_data(
    responder: bytes, produced_at: int, answers: Sequence[bytes], *, nonce: bytes | None = None, extended: bool = False
) -> bytes:
    """What a responder signs. `responder` is `by_key` or `by_name`; `extended`: one that was
    never issued is called revoked in it (RFC 6960 §4.4.8)."""
    extensions = []
    if nonce is not None:
        extensions.append(_nonce_extension(nonce))
    if extended:
        extensions.append(der.sequence(der.tlv(der.OID, _EXTENDED_REVOKE), der.tlv(der.OCTET_STRING, _NULL)))
    said = der.tlv(0xA1, der.sequence(*extensions)) if extensions else b""
    return der.sequence(responder, _time(produced_at), der.sequence(*answers), said)


def response(data: bytes, algorithm: Algorithm, signature: bytes, certificate: bytes) -> bytes:
    """A signed answer, with the responder's certificate (DER) in it."""
    basic = der.sequence(data, identifier(algorithm), der.tlv(der.BIT_STRING, b"\0", signature), _with(certificate))
    return der.sequence(_SUCCESSFUL, der.tlv(0xA0, der.sequence(_BASIC, der.tlv(der.OCTET_STRING, basic))))


@lru_cache(maxsize=4_096)
def _with(certificate: bytes) -> bytes:
    return der.tlv(0xA0, der.sequence(certificate))


def by_key(certificate: x509.Certificate) -> bytes:
    """A ResponderID by the SHA-1 of its key."""
    return der.tlv(0xA2, der.tlv(der.OCTET_STRING, _key_hash(certificate, "sha1")))


def by_name(certificate: x509.Certificate) -> bytes:
    """A ResponderID by its name."""
    return der.tlv(0xA1, certificate.subject.public_bytes())


def hashes_of(issuer: x509.Certificate) -> IssuerHashes:
    """How requests name that issuer."""
    name = issuer.subject.public_bytes()
    return IssuerHashes(
        {one: hashlib.new(one, name, usedforsecurity=False).digest() for one in HASHES},
        {one: _key_hash(issuer, one) for one in HASHES},
    )


def _key_hash(certificate: x509.Certificate, hash_: str) -> bytes:
    """Of the key's bits alone: the content of the BIT STRING without the count of unused bits (RFC 6960 §4.1.1)."""
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    fields = der.Reader(der.read(spki, der.SEQUENCE))
    fields.take(der.SEQUENCE)
    return hashlib.new(hash_, fields.take(der.BIT_STRING)[1:], usedforsecurity=False).digest()


@lru_cache(maxsize=4_096)
def _cert_id_head(hash_: str, name_hash: bytes, key_hash: bytes) -> bytes:
    algorithm = der.sequence(der.tlv(der.OID, _OIDS[hash_]), _NULL)
    return algorithm + der.tlv(der.OCTET_STRING, name_hash) + der.tlv(der.OCTET_STRING, key_hash)


def _nonce_extension(nonce: bytes) -> bytes:
    return der.sequence(der.tlv(der.OID, _NONCE), der.tlv(der.OCTET_STRING, der.tlv(der.OCTET_STRING, nonce)))


@lru_cache(maxsize=4_096)
def _time(posix_s: int) -> bytes:
    return der.generalized_time(posix_s)
