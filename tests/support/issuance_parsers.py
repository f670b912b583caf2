"""The parsers of issuance with their invariants, for tests/property/test_fuzz.py."""

from __future__ import annotations

import json

import yaml
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import AttributeOID

from ledger.core.canonical import canonicalize
from ledger.errors import InvalidRequest, Malformed, MalformedRequest, WeakKey
from pki.core.algorithms import P256
from pki.core.builtin import BUILTIN
from pki.core.documents import parse_document
from pki.core.names import normalized
from pki.core.profile import parse_profile, read_profile
from pki.core.request import NAMES_MAX, parse_request
from pki.core.signatures import assembled, sign
from tests.support.content_parsers import Row
from tests.support.trust_requests import csr, new_key, request_builder

KEY = new_key()
NAMES = ("dns:a.example", "dns:*.b.example", "ip:2001:db8::1", "email:a@b.example", "uri:https://a.example:8443/x")
SUBJECT = (("C", "CN"), ("O", "某市数据局"), ("CN", "a.example"))


def _request(data: bytes) -> None:
    request = parse_request(data)
    assert parse_request(request.der) == request
    assert len(request.names) <= NAMES_MAX
    assert all(normalized(name) == name for name in request.names)


def _signed_request(data: bytes) -> None:
    """Whatever it says, well signed: what is behind the check of the signature is reached."""
    _request(assembled(data, P256, sign(KEY, P256, data)))


def _document(data: bytes) -> None:
    value = parse_document(data)
    assert parse_document(canonicalize([value])) == [value]


def _profile(data: bytes) -> None:
    profile = parse_profile(data)
    assert read_profile(profile.recorded()) == profile


def _name(data: bytes) -> None:
    name = normalized(data.decode("utf-8", "replace"))
    assert normalized(name) == name


def request_examples() -> list[bytes]:
    made = [csr(NAMES, SUBJECT, new_key(kind)) for kind in ("P-256", "RSA-2048", "Ed25519", "ML-DSA-44")]
    return [*made, x509.load_der_x509_csr(made[0]).public_bytes(Encoding.PEM)]


def signed_examples() -> list[bytes]:
    builder = request_builder(NAMES, SUBJECT).add_attribute(AttributeOID.CHALLENGE_PASSWORD, b"secret")
    return [_info(builder), _info(request_builder(NAMES))]


def _info(builder: x509.CertificateSigningRequestBuilder) -> bytes:
    return builder.sign(KEY, P256.hash).tbs_certrequest_bytes  # type: ignore[arg-type]


def profile_examples() -> list[bytes]:
    recorded = [one.recorded() for one in BUILTIN.values()]
    written = [yaml.safe_dump(one, allow_unicode=True).encode() for one in recorded]
    return [*written, *(json.dumps(one, ensure_ascii=False).encode() for one in recorded)]


ISSUANCE_PARSERS: list[Row] = [
    (
        "parse_request",
        "what is in it is the request; every name is normal",
        _request,
        (MalformedRequest, WeakKey),
        request_examples,
        "pki.core.request.parse_request",
    ),
    (
        "parse_request, whatever was signed",
        "what is in it is the request; every name is normal",
        _signed_request,
        (MalformedRequest, WeakKey),
        signed_examples,
        "pki.core.request.parse_request",
    ),
    (
        "parse_document",
        "the value, as JSON, is the same value",
        _document,
        (Malformed,),
        profile_examples,
        "pki.core.documents.parse_document",
    ),
    (
        "parse_profile",
        "what is recorded of it is the same profile",
        _profile,
        (Malformed, InvalidRequest),
        profile_examples,
        "pki.core.profile.parse_profile",
    ),
    (
        "pki.core.names.normalized",
        "a normal name stays as it is",
        _name,
        (MalformedRequest,),
        lambda: [*(name.encode() for name in NAMES), "dns:政府.中国".encode(), b"uri:urn:oid:1.2.3"],
        "",
    ),
]
