"""The parsers of time stamps, with their invariants, for tests/property/test_fuzz.py."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from functools import cache

from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from rfc3161_client import TimestampRequestBuilder
from rfc3161_client.base import HashAlgorithm

from ledger.errors import MalformedRequest
from pki.core import signatures
from pki.core.algorithms import P256, generate
from pki.core.der import integer, sequence
from pki.core.stamping import pack, parse_packed, serial_of
from pki.core.timestamp import (
    HASHES,
    NONCE_BITS_MAX,
    SERIAL_OCTETS,
    Accuracy,
    StampSigner,
    granted,
    parse_timestamp,
    parse_timestamp_request,
    policy_der,
    tst_info,
)
from tests.support.content_parsers import Row


def requests() -> list[bytes]:
    """As rfc3161-client makes them, and by hand with a policy."""
    made = []
    for algorithm in (HashAlgorithm.SHA256, HashAlgorithm.SHA512):
        for certificates in (True, False):
            builder = TimestampRequestBuilder().data(b"of the city").hash_algorithm(algorithm)
            made.append(builder.cert_request(cert_request=certificates).nonce(nonce=certificates).build().as_bytes())
    imprint = parse_timestamp_request(made[0]).imprint
    return [*made, sequence(integer(1), imprint, policy_der("1.2.3.4"), integer(2**300), b"\x01\x01\xff")]


@cache
def kept() -> tuple[bytes, bytes]:
    """A token and what is kept of it."""
    private, now = generate(P256), datetime(2026, 12, 1, 8, 0, 0, 120_000, tzinfo=UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "时间戳")])
    builder = x509.CertificateBuilder(name, name, private.public_key(), 1, now, now + timedelta(days=1))
    signer = StampSigner(builder.sign(private, P256.hash).public_bytes(Encoding.DER), [])
    request, accuracy = parse_timestamp_request(requests()[0]), Accuracy(1_250).der()
    info = tst_info(request, policy_der("1.2.3.4"), serial_of(b"\x41" * 16, 7), now, accuracy, signer.tsa)
    signature = signatures.sign(private, P256, signer.to_sign(info))
    token = signer.token(info, signature, certificates=True)
    return token, pack(info, signature, certificates=True)


def _request(data: bytes) -> None:
    request = parse_timestamp_request(data)
    assert request.imprint in data
    assert request.digest in request.imprint
    assert len(request.digest) == dict(HASHES.values())[request.hash]
    assert len(request.nonce) <= NONCE_BITS_MAX // 8 + 4
    assert request.nonce in data
    if request.policy is not None:
        assert asn1.encode_der(x509.ObjectIdentifier(request.policy)) in data


def _stamp(data: bytes) -> None:
    stamp = parse_timestamp(data)
    assert stamp.token in data
    assert len(stamp.serial) == SERIAL_OCTETS
    assert stamp.digest in data
    if hashlib.sha256(data).digest() == hashlib.sha256(stamp.token).digest():
        assert parse_timestamp(granted(data)) == stamp


def _packed(data: bytes) -> None:
    info, signature, certificates = parse_packed(data)
    assert pack(info, signature, certificates=certificates) == data


ACCESS_PARSERS: list[Row] = [
    (
        "parse_timestamp_request",
        "what the token repeats are bytes of the request, and within bounds",
        _request,
        (MalformedRequest,),
        requests,
        "pki.core.timestamp.parse_timestamp_request",
    ),
    (
        "parse_timestamp",
        "an answer says what its token says",
        _stamp,
        (MalformedRequest,),
        lambda: [kept()[0], granted(kept()[0])],
        "pki.core.timestamp.parse_timestamp",
    ),
    (
        "parse_packed",
        "what is kept is kept in one way",
        _packed,
        (MalformedRequest,),
        lambda: [kept()[1]],
        "pki.core.stamping.parse_packed",
    ),
]
