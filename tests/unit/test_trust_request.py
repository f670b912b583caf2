"""Requests and keys: what is no request, proves nothing, or has a key that is anybody's, is refused."""

from __future__ import annotations

from collections.abc import Callable
from math import gcd, prod

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import AttributeOID, NameOID

from ledger.errors import MalformedRequest, WeakKey
from pki.core.der import BIT_STRING, OID, sequence, tlv
from pki.core.keys import check_key, is_roca
from pki.core.names import normalized
from pki.core.request import REQUEST_SIZE_MAX, parse_request
from tests.support.trust_requests import csr, new_key, request_builder

KEY = ec.generate_private_key(ec.SECP256R1())
SHA256 = hashes.SHA256()
Builder = x509.CertificateSigningRequestBuilder


def signed(builder: Builder, key: ec.EllipticCurvePrivateKey = KEY) -> bytes:
    return builder.sign(key, SHA256).public_bytes(Encoding.DER)


@pytest.mark.parametrize("kind", ["P-256", "P-384", "P-521", "RSA-2048", "Ed25519", "ML-DSA-44", "ML-DSA-65"])
def test_a_request_of_each_kind_of_key_is_read_from_der_and_pem(kind: str) -> None:
    data = csr(["dns:WWW.city.example", "dns:www.city.example", "ip:2001:DB8::1"], [("CN", "www")], new_key(kind))
    request = parse_request(data)
    assert request.key.name == kind
    assert request.names == ("dns:www.city.example", "ip:2001:db8::1")
    assert parse_request(x509.load_der_x509_csr(data).public_bytes(Encoding.PEM)) == request


def test_the_signature_has_to_be_the_keys_own() -> None:
    data = bytearray(csr(["dns:a.example"]))
    data[-1] ^= 1
    with pytest.raises(MalformedRequest, match="not its key's"):
        parse_request(bytes(data))
    # Somebody else's key, in a request that is signed with one's own.
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    spki = other.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    own = KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(MalformedRequest, match="not its key's"):
        parse_request(signed(request_builder(["dns:a.example"])).replace(own, spki))


USAGE = dict.fromkeys(
    (
        *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
        *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
    ),
    False,
)
FORBIDDEN: list[tuple[str, Callable[[Builder], Builder]]] = [
    ("become an authority", lambda it: it.add_extension(x509.BasicConstraints(True, None), True)),
    ("usage of an authority", lambda it: it.add_extension(x509.KeyUsage(**USAGE | {"key_cert_sign": True}), True)),
    ("asks for the extension", lambda it: it.add_extension(x509.NameConstraints([x509.DNSName("a")], None), True)),
    ("asks for the extension", lambda it: it.add_extension(x509.OCSPNoCheck(), False)),
    (
        "asks for the extension",
        lambda it: it.add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), True),
    ),
    ("the attribute", lambda it: it.add_attribute(x509.ObjectIdentifier("1.2.3.5"), b"x")),
    (
        "name of kind DirectoryName",
        lambda it: it.add_extension(x509.SubjectAlternativeName([x509.DirectoryName(x509.Name([]))]), False),
    ),
    ("no domain name", lambda it: it.add_extension(x509.SubjectAlternativeName([x509.DNSName("a b")]), False)),
    ("no domain name", lambda it: it.add_extension(x509.SubjectAlternativeName([x509.DNSName("xn--")]), False)),
    (
        "101 names",
        lambda it: it.add_extension(x509.SubjectAlternativeName([x509.DNSName(f"{n}.x") for n in range(101)]), False),
    ),
]


@pytest.mark.parametrize(("reason", "asking"), FORBIDDEN, ids=[f"{n}" for n in range(len(FORBIDDEN))])
def test_what_is_never_given_is_refused(reason: str, asking: Callable[[Builder], Builder]) -> None:
    with pytest.raises(MalformedRequest, match=reason):
        parse_request(signed(asking(Builder().subject_name(x509.Name([])))))


def test_what_the_profile_decides_is_passed_over() -> None:
    builder = request_builder(["dns:a.example"]).add_attribute(AttributeOID.CHALLENGE_PASSWORD, b"secret")
    builder = builder.add_extension(x509.TLSFeature([x509.TLSFeatureType.status_request]), critical=False)
    builder = builder.add_extension(x509.KeyUsage(**USAGE | {"digital_signature": True}), critical=True)
    builder = builder.add_extension(
        x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2"), b"\x1e\x02\x00a"), critical=False
    )
    assert parse_request(signed(builder)).names == ("dns:a.example",)


def test_a_request_that_is_too_large_or_malformed_is_refused() -> None:
    good = csr(["dns:a.example"])
    for bad in (b"", b"\x30\x00", good[:-1], good + b"\0", b"-----BEGIN CERTIFICATE REQUEST-----\n", b"\xff" * 100):
        with pytest.raises(MalformedRequest):
            parse_request(bad)
    with pytest.raises(MalformedRequest, match="the most is"):
        parse_request(good + bytes(REQUEST_SIZE_MAX))
    info = x509.load_der_x509_csr(good).tbs_certrequest_bytes
    sha1 = sequence(tlv(OID, bytes.fromhex("2a8648ce3d0401")))
    signature = KEY.sign(info, ec.ECDSA(hashes.SHA1()))  # noqa: S303
    with pytest.raises(MalformedRequest, match=r"SHA1|cannot be checked"):
        parse_request(sequence(info, sha1, tlv(BIT_STRING, b"\0", signature)))
    with pytest.warns(UserWarning, match="length must be"):
        long = x509.Name([x509.NameAttribute(NameOID.COUNTRY_NAME, "China", _validate=False)])
    with pytest.raises(MalformedRequest, match="part of the request's subject"):
        parse_request(signed(Builder().subject_name(long)))


# -- weak keys --


def rsa_numbers(p: int, q: int, e: int = 65_537) -> rsa.RSAPublicKey:
    return rsa.RSAPublicNumbers(e, p * q).public_key()


def test_weak_rsa_keys_are_refused() -> None:
    good = rsa.generate_private_key(65_537, 2_048)
    p, q = good.private_numbers().p, good.private_numbers().q
    modulus = p * q
    check_key(good.public_key())
    with pytest.raises(WeakKey, match="RSA-1024"):
        check_key(rsa.generate_private_key(65_537, 1_024).public_key())  # noqa: S505
    with pytest.raises(WeakKey, match="exponent"):
        check_key(rsa.RSAPublicNumbers(3, modulus).public_key())
    with pytest.raises(WeakKey, match="exponent"):
        check_key(rsa.RSAPublicNumbers(2**256 + 1, modulus).public_key())
    with pytest.raises(WeakKey, match="small factor"):
        check_key(rsa.RSAPublicNumbers(65_537, (modulus // 751 | 1) * 751).public_key())
    close = _next_without_small_factors(p)
    with pytest.raises(WeakKey, match="close together"):
        check_key(rsa_numbers(p, close))


def _next_without_small_factors(number: int) -> int:
    small = prod(n for n in range(3, 752) if all(n % d for d in range(2, n)))
    number += 2
    while gcd(number, small) != 1:
        number += 2
    return number


def test_roca_is_known_by_its_fingerprint() -> None:
    primorial = 1
    for prime in (3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101, 103,
                  107, 109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167):  # fmt: skip
        primorial *= prime
    # As the library made its primes: k * M + (65537^a mod M).
    made = [(1 << 900 | n) * primorial + pow(65_537, 1_000 + n, primorial) for n in range(2)]
    assert is_roca(made[0] * made[1])
    assert not is_roca(rsa.generate_private_key(65_537, 2_048).public_key().public_numbers().n)


def test_weak_elliptic_keys_are_refused() -> None:
    for curve in (ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()):
        check_key(ec.generate_private_key(curve).public_key())
        for scalar in (1, 2, 255):
            with pytest.raises(WeakKey, match="is known"):
                check_key(ec.derive_private_key(scalar, curve).public_key())
    with pytest.raises(WeakKey, match="secp256k1"):
        check_key(ec.generate_private_key(ec.SECP256K1()).public_key())
    check_key(ed25519.Ed25519PrivateKey.generate().public_key())
    for point in (bytes(32), bytes([1, *bytes(31)]), bytes([*bytes(31), 0x80]), b"\xec" + b"\xff" * 30 + b"\x7f"):
        with pytest.raises(WeakKey, match="small order"):
            check_key(ed25519.Ed25519PublicKey.from_public_bytes(point))
    with pytest.raises(WeakKey, match="Ed448"):
        check_key(ed448.Ed448PrivateKey.generate().public_key())
    with pytest.raises(WeakKey, match="DSA"):
        check_key(dsa.generate_private_key(2_048).public_key())


def test_a_weak_key_is_refused_in_a_request() -> None:
    with pytest.raises(WeakKey, match="is known"):
        parse_request(csr(["dns:a.example"], key=ec.derive_private_key(7, ec.SECP256R1())))
    with pytest.raises(WeakKey, match="RSA-1024"):
        parse_request(csr(["dns:a.example"], key=rsa.generate_private_key(65_537, 1_024)))  # noqa: S505


# -- names --


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ("dns:WWW.Example.COM.", "dns:www.example.com"),
        ("dns:*.Example.com", "dns:*.example.com"),
        ("dns:政府.中国", "dns:xn--mxtq1m.xn--fiqs8s"),
        ("dns:xn--mxtq1m.xn--fiqs8s", "dns:xn--mxtq1m.xn--fiqs8s"),
        ("ip:2001:0DB8:0:0::1", "ip:2001:db8::1"),
        ("ip:10.0.0.1", "ip:10.0.0.1"),
        ("email:Zhang.San@City.Example", "email:Zhang.San@city.example"),
        ("uri:HTTPS://A.Example:8443/x?y", "uri:https://a.example:8443/x?y"),
        ("uri:https://[2001:DB8::1]/", "uri:https://[2001:db8::1]/"),
        ("uri:urn:oid:1.2.3", "uri:urn:oid:1.2.3"),
    ],
)
def test_a_name_is_written_in_one_way(given: str, written: str) -> None:
    assert normalized(given) == written
    assert normalized(written) == written


@pytest.mark.parametrize(
    "name",
    [
        *("a.example", "cn:a", "dns:", "dns:a..b", "dns:-a.b", "dns:a_b.c", "dns:10.0.0.1", "dns:a.*.b", "dns:*"),
        *("dns:**.a", "dns:a.b/", "dns:" + "a." * 200, "dns:" + "a" * 64 + ".b", "dns:xn--a.b", "dns:ab--c.d"),
        *("ip:10.0.0.0/8", "ip:fe80::1%eth0", "ip:1.2.3", "email:a", "email:@b", "email:张@b.c", "email:a@b@c"),
        *("uri:/x", "uri:https://", "uri:https://user@a.example/", "uri:https://a b/", "uri:http://[::1", "uri:x:"),
        *("dns:a\x00.b", "dns:a.b\n", "email:a\n@b.c", "uri:https://a:99999/"),
    ],
)
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(MalformedRequest):
        normalized(name)
