"""Time stamps: requests read, tokens and answers made, RFC 3161 with RFC 5816. Pure: what is signed is handed out.

A token is CMS SignedData (RFC 5652) over a TSTInfo. All of it but the TSTInfo and the signature follows from the
signer's certificates, so these two are what has to be kept to make a token again, byte for byte.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from typing import Annotated, Final

from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ledger.errors import InvalidRequest, MalformedRequest
from pki.core import signatures
from pki.core.algorithms import ED25519, ML_DSA_65, P256, P384, RSA_3072, RSA_4096, Algorithm, algorithm_of
from pki.core.der import (
    BIT_STRING,
    GENERALIZED_TIME,
    INTEGER,
    OCTET_STRING,
    OID,
    SEQUENCE,
    Reader,
    integer,
    read_integer,
    sequence,
    tlv,
)

REQUEST_SIZE_MAX: Final = 4_096
TOKEN_SIZE_MAX: Final = 64 * 2**10
NONCE_BITS_MAX: Final = 512
SERIAL_OCTETS: Final = 20
"""RFC 3161 §2.4.2: 160 bits at most."""

SET, TRUE = 0x31, b"\x01\x01\xff"
EXPLICIT_0, EXPLICIT_1 = 0xA0, 0xA1


def _oid(dotted: str) -> bytes:
    return asn1.encode_der(x509.ObjectIdentifier(dotted))


HASHES: Final[Mapping[str, tuple[str, int]]] = {
    "2.16.840.1.101.3.4.2.1": ("SHA-256", 32),
    "2.16.840.1.101.3.4.2.2": ("SHA-384", 48),
    "2.16.840.1.101.3.4.2.3": ("SHA-512", 64),
    "1.2.156.10197.1.401": ("SM3", 32),
}
"""What an imprint may be made with, and its size in bytes. SHA-1 and older are refused."""

_SIGNED_DATA: Final = _oid("1.2.840.113549.1.7.2")
_TST_INFO: Final = _oid("1.2.840.113549.1.9.16.1.4")
_CONTENT_TYPE: Final = sequence(_oid("1.2.840.113549.1.9.3"), tlv(SET, _TST_INFO))
_MESSAGE_DIGEST: Final = _oid("1.2.840.113549.1.9.4")
_SIGNING_CERTIFICATE_V2: Final = _oid("1.2.840.113549.1.9.16.2.47")
_GRANTED: Final = sequence(integer(0))
_REJECTED: Final = 2


class Failure(IntEnum):
    """PKIFailureInfo, RFC 3161 §2.4.2: the number of the bit."""

    BAD_ALG = 0
    BAD_REQUEST = 2
    BAD_DATA_FORMAT = 5
    TIME_NOT_AVAILABLE = 14
    UNACCEPTED_POLICY = 15
    UNACCEPTED_EXTENSION = 16
    ADD_INFO_NOT_AVAILABLE = 17
    SYSTEM_FAILURE = 25


class StampRefused(MalformedRequest):
    """A request that is answered with a rejection; `failure` is what the answer says."""

    def __init__(self, what: str, failure: Failure, *, hint: str = "") -> None:
        super().__init__(what, hint=hint)
        self.failure = failure


# -- requests --


@asn1.sequence
class _AlgorithmIdentifier:
    algorithm: x509.ObjectIdentifier
    parameters: asn1.Null | None


@asn1.sequence
class _MessageImprint:
    algorithm: _AlgorithmIdentifier
    digest: bytes


@asn1.sequence
class _Extension:
    oid: x509.ObjectIdentifier
    critical: Annotated[bool, asn1.Default(False)]
    value: bytes


@asn1.sequence
class _TimeStampReq:
    version: int
    imprint: _MessageImprint
    policy: x509.ObjectIdentifier | None
    nonce: int | None
    certificates: Annotated[bool, asn1.Default(False)]
    extensions: Annotated[list[_Extension] | None, asn1.Implicit(0)]


@dataclass(frozen=True, slots=True)
class StampRequest:
    """What is to be stamped. `imprint` and `nonce` are DER, as the token repeats them ("": no nonce)."""

    imprint: bytes
    hash: str
    digest: bytes
    policy: str | None
    nonce: bytes
    certificates: bool


def parse_timestamp_request(data: bytes) -> StampRequest:
    """A TimeStampReq, RFC 3161 §2.4.1.

    Raises:
        StampRefused: it is none, or it asks for what is not done here (an old hash, extensions).
    """
    if len(data) > REQUEST_SIZE_MAX:
        raise StampRefused(f"a time-stamp request of {len(data)} bytes", Failure.BAD_DATA_FORMAT)
    try:
        request = asn1.decode_der(_TimeStampReq, data)
    except ValueError as error:
        raise StampRefused("that is no time-stamp request", Failure.BAD_DATA_FORMAT, hint="see RFC 3161") from error
    if request.version != 1:
        raise StampRefused(f"a time-stamp request of version {request.version}", Failure.BAD_REQUEST, hint="use 1")
    imprint = request.imprint
    known = HASHES.get(imprint.algorithm.algorithm.dotted_string)
    if known is None:
        raise StampRefused(
            f"imprints by {imprint.algorithm.algorithm.dotted_string} are not stamped",
            Failure.BAD_ALG,
            hint=f"use {', '.join(name for name, _ in HASHES.values())}",
        )
    name, size = known
    if len(imprint.digest) != size:
        raise StampRefused(f"a {name} imprint of {len(imprint.digest)} bytes", Failure.BAD_DATA_FORMAT)
    if request.extensions:
        raise StampRefused("extensions of time-stamp requests are not known here", Failure.UNACCEPTED_EXTENSION)
    if request.nonce is not None and not 0 <= request.nonce < 1 << NONCE_BITS_MAX:
        raise StampRefused(f"a nonce that is negative or has over {NONCE_BITS_MAX} bits", Failure.BAD_DATA_FORMAT)
    return StampRequest(
        imprint=asn1.encode_der(imprint),
        hash=name,
        digest=imprint.digest,
        policy=None if request.policy is None else request.policy.dotted_string,
        nonce=b"" if request.nonce is None else integer(request.nonce),
        certificates=request.certificates,
    )


# -- tokens --

_SHA256: Final = (sequence(_oid("2.16.840.1.101.3.4.2.1")), hashlib.sha256)
_SHA384: Final = (sequence(_oid("2.16.840.1.101.3.4.2.2")), hashlib.sha384)
_SHA512: Final = (sequence(_oid("2.16.840.1.101.3.4.2.3")), hashlib.sha512)
_RSA_ENCRYPTION: Final = sequence(_oid("1.2.840.113549.1.1.1"), b"\x05\x00")
_DIGESTS: Final = {
    P256.name: _SHA256,
    P384.name: _SHA384,
    RSA_3072.name: _SHA256,
    RSA_4096.name: _SHA256,
    ED25519.name: _SHA512,
    ML_DSA_65.name: _SHA512,
}
"""What goes with a key: RFC 5754 (no parameters), RFC 8419 §3.1 (Ed25519: SHA-512), RFC 9882 §3.3 (ML-DSA: SHA-512)."""
_SIGNATURE_SIZES: Final = {
    P256.name: 72,
    P384.name: 104,
    RSA_3072.name: 384,
    RSA_4096.name: 512,
    ED25519.name: 64,
    ML_DSA_65.name: 3_309,
}
"""The most bytes."""


def check_stamps_with(algorithm: Algorithm) -> None:
    """Raises InvalidRequest: CMS signatures of that algorithm are not made here."""
    if algorithm.name not in _DIGESTS:
        raise InvalidRequest(f"time stamps are not signed with {algorithm.name}", hint=f"one of {', '.join(_DIGESTS)}")


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How far a stamp's time may be from UTC; RFC 3161 §2.4.2."""

    ms: int

    def der(self) -> bytes:
        """The field of the TSTInfo; nothing where none is claimed."""
        if not self.ms:
            return b""
        seconds, millis = divmod(self.ms, 1_000)
        parts = [integer(seconds)] if seconds else []
        return sequence(*parts, tlv(0x80, integer(millis)[2:])) if millis else sequence(*parts)


class StampSigner:
    """What tokens under one certificate have in common. `chain`: what goes with it, without the root; all DER."""

    def __init__(self, certificate: bytes, chain: Sequence[bytes]) -> None:
        """Raises MalformedRequest: it is no certificate that time stamps can be signed under."""
        try:
            read = x509.load_der_x509_certificate(certificate)
            public, subject, issuer = read.public_key(), read.subject.public_bytes(), read.issuer.public_bytes()
        except ValueError as error:
            raise MalformedRequest("that is no certificate", hint="give one in DER") from error
        self.certificate = certificate
        self.algorithm = algorithm_of(public)
        check_stamps_with(self.algorithm)
        self.public = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.not_before, self.not_after = read.not_valid_before_utc, read.not_valid_after_utc
        self.signature_size_max = _SIGNATURE_SIZES[self.algorithm.name]
        digest, self._hash = _DIGESTS[self.algorithm.name]
        # RFC 5816 §2.2.1: ESSCertIDv2, whose hash is SHA-256 by default.
        named = sequence(sequence(sequence(tlv(OCTET_STRING, hashlib.sha256(certificate).digest()))))
        self._signing_certificate = sequence(_SIGNING_CERTIFICATE_V2, tlv(SET, named))
        self._digests = tlv(SET, digest)
        self._certificates = tlv(EXPLICIT_0, *sorted({certificate, *chain}))
        self._who = integer(1) + sequence(issuer, integer(read.serial_number)) + digest
        rsa = self.algorithm.name.startswith("RSA")
        self._how = _RSA_ENCRYPTION if rsa else signatures.identifier(self.algorithm)  # RFC 3370 §3.2
        self.tsa = tlv(EXPLICIT_0, tlv(0xA4, subject))
        """The field of the TSTInfo that names the subject."""

    def to_sign(self, tst_info: bytes) -> bytes:
        """What the signature of a token is over: the signed attributes, RFC 5652 §5.4."""
        return tlv(SET, self._attributes(tst_info))

    def token(self, tst_info: bytes, signature: bytes, *, certificates: bool) -> bytes:
        """The token: a ContentInfo. With its certificates where the request wanted them."""
        attributes = tlv(EXPLICIT_0, self._attributes(tst_info))
        signer = sequence(self._who, attributes, self._how, tlv(OCTET_STRING, signature))
        content = sequence(_TST_INFO, tlv(EXPLICIT_0, tlv(OCTET_STRING, tst_info)))
        shown = self._certificates if certificates else b""
        signed = sequence(integer(3), self._digests, content, shown, tlv(SET, signer))
        return sequence(_SIGNED_DATA, tlv(EXPLICIT_0, signed))

    def _attributes(self, tst_info: bytes) -> bytes:
        digest = sequence(_MESSAGE_DIGEST, tlv(SET, tlv(OCTET_STRING, self._hash(tst_info).digest())))
        return b"".join(sorted((_CONTENT_TYPE, digest, self._signing_certificate)))  # DER: a SET OF is sorted


def tst_info(request: StampRequest, policy: bytes, serial: bytes, time: datetime, accuracy: bytes, tsa: bytes) -> bytes:
    """A TSTInfo, RFC 3161 §2.4.2: to the millisecond, with no order claimed.

    `policy` is the OID in DER, `serial` big endian with its top bit clear, `accuracy` and `tsa` the fields as
    `Accuracy.der` and `StampSigner.tsa` give them.
    """
    return sequence(
        integer(1), policy, request.imprint, integer(int.from_bytes(serial)), _time(time), accuracy, request.nonce, tsa
    )


def policy_der(dotted: str) -> bytes:
    """A policy's OID in DER. Raises InvalidRequest: it is none."""
    try:
        return _oid(dotted)
    except ValueError as error:
        raise InvalidRequest(f"{dotted!r} is no object identifier", hint="such as 1.3.6.1.4.1.99999.1") from error


def _time(time: datetime) -> bytes:
    """RFC 3161: a fraction has no trailing zeros, and is left out when it is none."""
    millis = time.microsecond // 1_000
    fraction = f".{millis:03}".rstrip("0") if millis else ""
    return tlv(GENERALIZED_TIME, f"{time:%Y%m%d%H%M%S}{fraction}Z".encode())


# -- answers --


def granted(token: bytes) -> bytes:
    """A TimeStampResp with a token."""
    return sequence(_GRANTED, token)


def rejection(failure: Failure, why: str) -> bytes:
    """A TimeStampResp without one, RFC 3161 §2.4.2."""
    octets = failure // 8 + 1
    bits = (1 << (8 * octets - 1 - failure)).to_bytes(octets)
    unused = 7 - failure % 8  # DER: a named bit list ends with its last one bit
    text = sequence(tlv(0x0C, why[:200].encode("utf-8", "replace")))
    return sequence(sequence(integer(_REJECTED), text, tlv(BIT_STRING, bytes((unused,)), bits)))


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a token says. `serial` is big endian, 20 bytes; `time` as it is written, `token` the whole ContentInfo."""

    token: bytes
    serial: bytes
    time: str
    hash: str
    digest: bytes
    policy: str


def parse_timestamp(data: bytes) -> Stamp:
    """A token, or an answer that holds one, as far as it says what was stamped; no signature is looked at.

    Raises:
        MalformedRequest: it is neither, or the answer is a rejection.
    """
    if len(data) > TOKEN_SIZE_MAX:
        raise MalformedRequest(f"a time stamp of {len(data)} bytes")
    reader = Reader(data)
    content = Reader(reader.take(SEQUENCE))
    reader.end()
    if content.next_is(SEQUENCE):
        status = Reader(content.take(SEQUENCE))
        said = read_integer(status.take(INTEGER), octets_max=1)
        if said > 1 or not content.more:
            raise MalformedRequest(f"the answer holds no time stamp: its status is {said}")
        token = content.take_whole(SEQUENCE)
        content.end()
        content = Reader(Reader(token).take(SEQUENCE))
    else:
        token = data
    if content.take_whole(OID) != _SIGNED_DATA:
        raise MalformedRequest("that is no CMS SignedData")
    signed = Reader(Reader(content.take(EXPLICIT_0)).take(SEQUENCE))
    content.end()
    signed.take(INTEGER)
    signed.take(SET)
    held = Reader(signed.take(SEQUENCE))
    if held.take_whole(OID) != _TST_INFO:
        raise MalformedRequest("that is signed, but no time stamp")
    return _parse_tst_info(token, Reader(held.take(EXPLICIT_0)).take(OCTET_STRING))


def _parse_tst_info(token: bytes, info: bytes) -> Stamp:
    fields = Reader(Reader(info).take(SEQUENCE))
    fields.take(INTEGER)
    policy = fields.take_whole(OID)
    try:
        imprint = asn1.decode_der(_MessageImprint, fields.take_whole(SEQUENCE))
        dotted = asn1.decode_der(x509.ObjectIdentifier, policy).dotted_string
        serial = read_integer(fields.take(INTEGER), octets_max=SERIAL_OCTETS)
        time = fields.take(GENERALIZED_TIME).decode("ascii")
    except ValueError as error:
        raise MalformedRequest("that is no time stamp") from error
    name, _ = HASHES.get(imprint.algorithm.algorithm.dotted_string, (imprint.algorithm.algorithm.dotted_string, 0))
    return Stamp(token, serial.to_bytes(SERIAL_OCTETS), time, name, imprint.digest, dotted)
