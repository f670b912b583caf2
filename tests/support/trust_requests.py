"""Certification requests to test with."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding

from pki.ca import Order
from pki.core.builtin import BUILTIN
from pki.core.names import general_name
from pki.core.profile import Profile
from pki.core.request import parse_request
from pki.core.subjects import subject_of

HOLDER = "organisation:a"

SUBJECTS = {
    "tls-server": (),
    "tls-client": (("CN", "网关 gateway-7"),),
    "person": (("C", "CN"), ("O", "某市数据局"), ("CN", "张三"), ("serialNumber", "110101-0007")),
    "officer": (("C", "CN"), ("O", "某市数据局"), ("CN", "李四"), ("serialNumber", "110101-0008")),
    "code-signing": (("C", "CN"), ("O", "某市数据局"), ("CN", "某市数据局软件发布")),
    "document-signing": (("C", "CN"), ("O", "某市数据局"), ("CN", "某市数据局电子签章")),
    "time-stamping": (("C", "CN"), ("O", "某市数据局"), ("CN", "某市时间戳服务")),
    "ocsp-responder": (("CN", "OCSP responder 1"),),
}
NAMES = {"tls-server": ("dns:www.city.example", "dns:city.example"), "person": ("email:zhang.san@city.example",)}


def new_key(kind: str = "P-256") -> CertificateIssuerPrivateKeyTypes:
    """A private key of a kind that can be certified."""
    match kind.partition("-"):
        case ("P", _, size):
            return ec.generate_private_key({"256": ec.SECP256R1(), "384": ec.SECP384R1(), "521": ec.SECP521R1()}[size])
        case ("RSA", _, size):
            return _rsa(int(size))
        case ("ML", _, size):
            kinds = {"DSA-44": mldsa.MLDSA44PrivateKey, "DSA-65": mldsa.MLDSA65PrivateKey}
            return kinds[size].generate()  # type: ignore[no-any-return]
    return ed25519.Ed25519PrivateKey.generate()


@cache
def _rsa(size: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65_537, size)


def request_builder(
    names: Sequence[str] = (), subject: Sequence[tuple[str, str]] = ()
) -> x509.CertificateSigningRequestBuilder:
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject_of(subject))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(map(general_name, names)), critical=False)
    return builder


def csr(
    names: Sequence[str] = (),
    subject: Sequence[tuple[str, str]] = (),
    key: CertificateIssuerPrivateKeyTypes | None = None,
) -> bytes:
    """A request in DER, of a new P-256 key by default."""
    key = key or new_key()
    hashed = isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey)
    return request_builder(names, subject).sign(key, hashes.SHA256() if hashed else None).public_bytes(Encoding.DER)


def order(
    profile: str | Profile = "tls-server",
    *,
    key: CertificateIssuerPrivateKeyTypes | None = None,
    names: Sequence[str] | None = None,
    subject: Sequence[tuple[str, str]] | None = None,
    holder: str | None = None,
    authority: str = "city",
    request_id: str = "request:1",
    not_after: int | None = None,
) -> Order:
    """An order as whoever vetted a request that fits the profile would make it."""
    profile = BUILTIN[profile] if isinstance(profile, str) else profile
    asked = parse_request(
        csr(
            NAMES.get(profile.name, ()) if names is None else names,
            SUBJECTS.get(profile.name, ()) if subject is None else subject,
            key,
        )
    )
    holder = holder or (f"{profile.holders[0]}:a" if profile.holders else HOLDER)
    return Order(authority, profile, asked, request_id, holder, not_after=not_after)


def address(text: str) -> x509.IPAddress:
    return x509.IPAddress(ipaddress.ip_address(text))
