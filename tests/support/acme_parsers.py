"""The parsers of ACME, with their invariants, for tests/property/test_fuzz.py."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from pki.acme import messages
from pki.acme.challenges.alpn01 import ACME_IDENTIFIER, judge_certificate
from pki.acme.ids import format_certificate_id, parse_certificate_id
from pki.acme.jws import encode_base64url, parse_jwk, parse_jws, verify
from pki.acme.names import is_dns_name
from pki.acme.problems import Problem
from tests.support.acme_client import jwk_of, jws
from tests.support.content_parsers import Row

NAME = "a.city.example"
ONES = [ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP384R1())]
KEYS = [*ONES, rsa.generate_private_key(65_537, 2_048), ed25519.Ed25519PrivateKey.generate()]


def _jws(data: bytes) -> None:
    parsed = parse_jws(data)
    assert (parsed.jwk is None) != (parsed.kid is None)
    if parsed.jwk is not None:
        verify(parsed, parsed.jwk)


def _jwk(data: bytes) -> None:
    key = messages.parse_key(data)
    assert parse_jwk(dict(key.members)) == key
    assert len(key.thumbprint) == 43


def _account(data: bytes) -> None:
    for contact in messages.parse_account_message(data).contacts or ():
        assert contact.startswith("mailto:")
        assert contact.isascii()


def _order(data: bytes) -> None:
    message = messages.parse_order_message(data)
    assert message.names
    assert all(is_dns_name(one.removeprefix("*.")) for one in message.names)
    assert list(message.names) == sorted(set(message.names))


def _revocation(data: bytes) -> None:
    assert messages.parse_revocation_message(data).certificate


def _finalize(data: bytes) -> None:
    assert messages.parse_finalize_message(data)


def _certificate_id(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    parsed = parse_certificate_id(text)
    assert format_certificate_id(parsed.key_identifier, parsed.serial) == text


def _shown(data: bytes) -> None:
    judge_certificate(data, NAME, "key authorization")


def messages_signed() -> Iterator[bytes]:
    for key, algorithm in zip(KEYS, ("ES256", "ES384", "RS256", "EdDSA"), strict=True):
        header = {"alg": algorithm, "nonce": "AAAA", "url": "https://acme.test/acme/new-account", "jwk": jwk_of(key)}
        yield json.dumps(jws(key, header, {})).encode()


def shown_certificates() -> list[bytes]:
    """What a client of tls-alpn-01 shows."""
    key, now = ONES[0], datetime(2026, 12, 1, tzinfo=UTC)
    digest = hashes.Hash(hashes.SHA256())
    digest.update(b"key authorization")
    value = x509.UnrecognizedExtension(ACME_IDENTIFIER, b"\x04\x20" + digest.finalize())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(x509.Name([]))
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .add_extension(value, critical=True)
        .sign(key, hashes.SHA256())
    )
    return [certificate.public_bytes(Encoding.DER)]


def _json(*values: object) -> Callable[[], list[bytes]]:
    return lambda: [json.dumps(one).encode() for one in values]


ACME_PARSERS: list[Row] = [
    (
        "parse_jws",
        "one of jwk and kid, and a signature that holds or is refused",
        _jws,
        (Problem,),
        lambda: list(messages_signed()),
        "pki.acme.jws.parse_jws",
    ),
    (
        "parse_key",
        "a key that its own members give again",
        _jwk,
        (Problem,),
        lambda: [json.dumps(jwk_of(key)).encode() for key in KEYS],
        "pki.acme.messages.parse_key",
    ),
    (
        "parse_account_message",
        "contacts are mail addresses",
        _account,
        (Problem,),
        _json(
            {"contact": ["mailto:a.b+c@city.example"], "termsOfServiceAgreed": True, "onlyReturnExisting": False},
            {"status": "deactivated"},
        ),
        "pki.acme.messages.parse_account_message",
    ),
    (
        "parse_order_message",
        "names are DNS names, sorted, once each",
        _order,
        (Problem,),
        _json(
            {"identifiers": [{"type": "dns", "value": "*.A.city.example"}, {"type": "dns", "value": NAME}]},
            {
                "identifiers": [{"type": "dns", "value": NAME}],
                "notAfter": "2026-12-01T00:00:00Z",
                "replaces": "AA.AQ",
                "profile": "tls-server",
            },
        ),
        "pki.acme.messages.parse_order_message",
    ),
    (
        "parse_revocation_message",
        "a certificate and a reason",
        _revocation,
        (Problem,),
        _json({"certificate": encode_base64url(b"certificate"), "reason": 4}),
        "pki.acme.messages.parse_revocation_message",
    ),
    (
        "parse_finalize_message",
        "a request",
        _finalize,
        (Problem,),
        _json({"csr": encode_base64url(b"request")}),
        "pki.acme.messages.parse_finalize_message",
    ),
    (
        "parse_certificate_id",
        "the identifier has one spelling",
        _certificate_id,
        (Problem,),
        # The one of RFC 9773 §4.1
        lambda: [b"aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE", b"AA.AQ"],
        "pki.acme.ids.parse_certificate_id",
    ),
    (
        "judge_certificate",
        "nothing, or why it is not the one",
        _shown,
        (Problem,),
        shown_certificates,
        "",
    ),
]
