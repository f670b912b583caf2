"""The lint rules: what the template makes passes all of them, and each one is broken once and sees it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ledger.errors import IssuanceRefused
from pki.core import der
from pki.core.algorithms import P256, P384
from pki.core.authority_profile import key_id_of
from pki.core.builtin import BUILTIN
from pki.core.issuing import Issuing, issuing_of
from pki.core.lint import RULES, lint, must_pass
from pki.core.lint_issuer import ISSUER_RULES
from pki.core.profile import Profile
from pki.core.settings import AuthoritySettings
from pki.core.signatures import assembled, identifier
from pki.core.template import make_template
from tests.support.trust import trust_bench
from tests.support.trust_authorities import STATUS_URL, ca_certificate, key_of, name_of
from tests.support.trust_requests import address, new_key, order

NOW = datetime(2026, 12, 1, 8, 0, tzinfo=UTC)
SERVER = BUILTIN["tls-server"]
SERIAL = bytes(range(100, 120))

Extension = tuple[x509.ExtensionType, bool]


async def issuing(
    *extensions: Extension, days: int = 3_650, settings: AuthoritySettings | None = None, length: int | None = None
) -> Issuing:
    """The city's authority under a root that has these extensions; `length`: the root's path length."""
    async with trust_bench() as bench:
        root, city = key_of(P256, "root"), key_of(P256, "city")
        above = ca_certificate(
            *(bench, name_of("root"), root, name_of("root"), root),
            days=7_300,
            path_length=length,
            extensions=extensions,
        )
        own = ca_certificate(bench, name_of("city"), city, name_of("root"), root, days=days, path_length=0)
        chain = [x509.load_der_x509_certificate(one) for one in (own, above)]
        return issuing_of("city", 1, P256, settings or AuthoritySettings(status_url=STATUS_URL), chain)


def template_of(by: Issuing, profile: Profile = SERVER) -> bytes:
    asked = order(profile).request
    return make_template(by, profile, asked, SERIAL, now=int(NOW.timestamp())).tbs


@dataclass
class Changed:
    """A good certificate's content, to be spoiled."""

    subject: x509.Name
    issuer: x509.Name
    public: object
    serial: int
    begin: datetime
    end: datetime
    extensions: list[Extension]

    def without(self, kind: type[x509.ExtensionType]) -> Changed:
        return replace(self, extensions=[one for one in self.extensions if not isinstance(one[0], kind)])

    def having(self, value: x509.ExtensionType, critical: bool = False) -> Changed:
        return replace(self.without(type(value)), extensions=[*self.without(type(value)).extensions, (value, critical)])


def read(tbs: bytes) -> Changed:
    good = x509.load_der_x509_certificate(assembled(tbs, P256, bytes(64)))
    return Changed(
        good.subject,
        good.issuer,
        good.public_key(),
        good.serial_number,
        good.not_valid_before_utc,
        good.not_valid_after_utc,
        [(one.value, one.critical) for one in good.extensions],
    )


def built(content: Changed, key: ec.EllipticCurvePrivateKey | None = None) -> bytes:
    builder = (
        x509.CertificateBuilder()
        .subject_name(content.subject)
        .issuer_name(content.issuer)
        .public_key(content.public)  # type: ignore[arg-type]
        .serial_number(content.serial)
        .not_valid_before(content.begin)
        .not_valid_after(content.end)
    )
    for value, critical in content.extensions:
        builder = builder.add_extension(value, critical)
    key = key or ec.generate_private_key(ec.SECP256R1())
    hash_ = hashes.SHA384() if key.curve.name == "secp384r1" else hashes.SHA256()
    return builder.sign(key, hash_).tbs_certificate_bytes


def usage(*names: str) -> x509.KeyUsage:
    every = "digital_signature content_commitment key_encipherment data_encipherment key_agreement key_cert_sign"
    flags = {one: one in names for one in f"{every} crl_sign encipher_only decipher_only".split()}
    return x509.KeyUsage(**flags)


def name(*pairs: tuple[x509.ObjectIdentifier, str]) -> x509.Name:
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in pairs])


@cache
def rsa_key() -> rsa.RSAPublicKey:
    return rsa.generate_private_key(65_537, 1_024).public_key()  # noqa: S505


def with_key(content: Changed, kind: str) -> Changed:
    public = new_key(kind).public_key()
    info = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return replace(content, public=public).having(x509.SubjectKeyIdentifier(key_id_of(info)))


CN, O, OU = NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME, NameOID.ORGANIZATIONAL_UNIT_NAME  # noqa: E741
EKU = ExtendedKeyUsageOID
BROKEN: list[tuple[str, Callable[[Changed], Changed]]] = [
    ("serial", lambda it: replace(it, serial=7)),
    ("validity", lambda it: replace(it, end=it.begin + timedelta(days=91))),
    ("validity", lambda it: replace(it, begin=it.begin + timedelta(hours=3), end=it.end)),
    ("validity", lambda it: replace(it, begin=it.begin - timedelta(hours=3), end=it.end - timedelta(hours=3))),
    ("subject-text", lambda it: replace(it, subject=name((O, "a" * 65)))),
    ("subject-text", lambda it: replace(it, subject=name((O, " a")))),
    ("subject-text", lambda it: replace(it, subject=name((O, "-")))),
    ("subject-text", lambda it: replace(it, subject=name((O, "某\u202e市")))),
    ("subject-text", lambda it: replace(it, subject=name((O, "a"), (O, "b")))),
    ("subject-text", lambda it: replace(it, subject=name((NameOID.PSEUDONYM, "a")))),
    (
        "subject-text",
        lambda it: replace(it, subject=x509.Name([x509.NameAttribute(O, "a", _ASN1Type.PrintableString)])),
    ),
    ("subject-profile", lambda it: replace(it, subject=name((NameOID.SURNAME, "张")))),
    ("names", lambda it: it.having(x509.SubjectAlternativeName([x509.DNSName("a_b.example")]), True)),
    ("names", lambda it: it.having(x509.SubjectAlternativeName([x509.DNSName("UPPER.example")]), True)),
    ("names", lambda it: it.having(x509.SubjectAlternativeName([x509.DNSName("*.city.example")]), True)),
    ("names", lambda it: it.having(x509.SubjectAlternativeName([x509.DNSName("10.0.0.1")]), True)),
    ("names", lambda it: it.having(x509.SubjectAlternativeName([x509.DNSName("a.example")] * 2), True)),
    ("names", lambda it: it.having(x509.SubjectAlternativeName([x509.RFC822Name("a@b.example")]), True)),
    ("names", lambda it: it.having(x509.SubjectAlternativeName([address("10.0.0.1")]), True)),
    ("common-name", lambda it: replace(it, subject=name((CN, "other.example")))),
    ("whom", lambda it: it.having(x509.SubjectAlternativeName([x509.DNSName("a.example")]), False)),
    ("whom", lambda it: it.without(x509.SubjectAlternativeName)),
    ("extensions", lambda it: it.having(x509.TLSFeature([x509.TLSFeatureType.status_request]))),
    ("extensions", lambda it: it.having(usage("digital_signature"), False)),
    ("key-identifiers", lambda it: it.having(x509.SubjectKeyIdentifier(bytes(20)))),
    ("key-identifiers", lambda it: it.having(x509.AuthorityKeyIdentifier(bytes(20), None, None))),
    ("not-an-authority", lambda it: it.having(x509.BasicConstraints(ca=True, path_length=None), True)),
    ("not-an-authority", lambda it: it.without(x509.BasicConstraints)),
    ("not-an-authority", lambda it: it.having(usage("digital_signature", "key_cert_sign"), True)),
    ("key-usage", lambda it: it.without(x509.KeyUsage)),
    ("key-usage", lambda it: it.having(usage("digital_signature", "key_encipherment"), True)),
    ("key-usage", lambda it: it.having(usage("digital_signature", "content_commitment"), True)),
    ("key-usage", lambda it: with_key(it, "Ed25519").having(usage("key_agreement"), True)),
    ("extended-key-usage", lambda it: it.without(x509.ExtendedKeyUsage)),
    ("extended-key-usage", lambda it: it.having(x509.ExtendedKeyUsage([EKU.ANY_EXTENDED_KEY_USAGE]))),
    ("extended-key-usage", lambda it: it.having(x509.ExtendedKeyUsage([EKU.SERVER_AUTH]), True)),
    ("extended-key-usage", lambda it: it.having(x509.ExtendedKeyUsage([EKU.SERVER_AUTH, EKU.TIME_STAMPING]))),
    ("extended-key-usage", lambda it: it.having(usage("content_commitment"), True)),
    ("ocsp-no-check", lambda it: it.having(x509.OCSPNoCheck())),
    ("key-strength", lambda it: with_key(it, "P-521")),
    ("readable", lambda it: replace(it, public=rsa_key())),
    ("status", lambda it: it.without(x509.CRLDistributionPoints)),
    ("status", lambda it: it.without(x509.AuthorityInformationAccess)),
    (
        "status",
        lambda it: it.having(
            x509.CRLDistributionPoints(
                [x509.DistributionPoint([x509.UniformResourceIdentifier("https://a.example/1.crl")], None, None, None)]
            )
        ),
    ),
    ("issuer-name", lambda it: replace(it, issuer=name((CN, "somebody else")))),
    (
        "policies",
        lambda it: it.having(
            x509.CertificatePolicies([x509.PolicyInformation(x509.ObjectIdentifier("1.2.156.1"), None)])
        ),
    ),
]


async def test_what_the_template_makes_passes_every_rule() -> None:
    by = await issuing()
    for profile in BUILTIN.values():
        assert lint(template_of(by, profile), by, profile, now=int(NOW.timestamp())) == []


@pytest.mark.parametrize(("rule", "spoil"), BROKEN, ids=[f"{n}-{one[0]}" for n, one in enumerate(BROKEN)])
async def test_a_broken_rule_is_seen(rule: str, spoil: Callable[[Changed], Changed]) -> None:
    by = await issuing()
    good = read(template_of(by))
    assert lint(built(good), by, SERVER, now=int(NOW.timestamp())) == []
    found = {one.rule for one in lint(built(spoil(good)), by, SERVER, now=int(NOW.timestamp()))}
    assert rule in found


def glued(tbs: bytes, part: int, value: bytes) -> bytes:
    """A TBSCertificate with one of its parts replaced: 0 is the version, 2 the algorithm, 4 the validity."""
    reader = der.Reader(der.read(tbs, der.SEQUENCE))
    tags = (0xA0, der.INTEGER, *(der.SEQUENCE,) * 5, 0xA3)
    parts = [reader.take_whole(tag) for tag in tags]
    parts[part] = value
    return der.sequence(*parts)


async def test_bytes_that_no_builder_makes_are_seen() -> None:
    by = await issuing()
    good = template_of(by)
    begin, end = (int(one.timestamp()) for one in (read(good).begin, read(good).end))
    fraction = der.tlv(der.UTC_TIME, b"2612010700Z")
    cases = {
        "signature-algorithm": (2, identifier(P384)),
        "time-encoding": (4, der.sequence(der.time(begin), der.generalized_time(end))),
        "readable": (4, der.sequence(fraction, der.time(end))),
    }
    for rule, (part, value) in cases.items():
        assert rule in {one.rule for one in lint(glued(good, part, value), by, SERVER, now=int(NOW.timestamp()))}
    for spoiled in (b"", good[:-1], good + b"\0", glued(good, 0, der.tlv(0xA0, der.integer(1)))):
        assert {one.rule for one in lint(spoiled, by, SERVER, now=0)} == {"readable"}


async def test_an_authority_that_may_not_certify_it_is_seen() -> None:
    dns = x509.NameConstraints([x509.DNSName("county.example")], None)
    excluded = x509.NameConstraints(None, [x509.DNSName("www.city.example")])
    policies = x509.CertificatePolicies([x509.PolicyInformation(x509.ObjectIdentifier("1.2.156.2"), None)])
    cases: list[tuple[str, Issuing]] = [
        ("name-constraints", await issuing((dns, True))),
        ("name-constraints", await issuing((excluded, True))),
        ("nested-usages", await issuing((x509.ExtendedKeyUsage([EKU.CODE_SIGNING]), False))),
        ("policies", await issuing((x509.PolicyConstraints(0, None), True), (policies, False))),
        ("authorities", await issuing(length=0)),
    ]
    for rule, by in cases:
        with pytest.raises(IssuanceRefused, match=rule):
            must_pass(template_of(by), by, SERVER, now=int(NOW.timestamp()))


async def test_a_wildcard_does_not_get_around_an_excluded_name() -> None:
    by = await issuing((x509.NameConstraints(None, [x509.DNSName("secret.city.example")]), True))
    profile = replace(SERVER, wildcards=True)
    asked = order(profile, names=["dns:*.city.example"]).request
    made = make_template(by, profile, asked, SERIAL, now=int(NOW.timestamp()))
    assert "name-constraints" in {one.rule for one in lint(made.tbs, by, profile, now=int(NOW.timestamp()))}


async def test_a_certificate_does_not_outlive_its_authority() -> None:
    by = await issuing(days=30)
    made = make_template(by, SERVER, order().request, SERIAL, now=int(NOW.timestamp()))
    assert made.not_after == by.chain[0].end
    assert lint(made.tbs, by, SERVER, now=int(NOW.timestamp())) == []
    longer = replace(read(made.tbs), end=NOW + timedelta(days=40))
    assert "within-the-authority" in {one.rule for one in lint(built(longer), by, SERVER, now=int(NOW.timestamp()))}
    later = int((NOW + timedelta(days=31)).timestamp())
    assert "within-the-authority" in {one.rule for one in lint(made.tbs, by, SERVER, now=later)}
    with pytest.raises(IssuanceRefused, match="has ended"):
        make_template(by, SERVER, order().request, SERIAL, now=later)


async def test_the_authoritys_own_key_is_not_certified() -> None:
    by = await issuing()
    own = order(key=key_of(P256, "city").private).request
    made = make_template(by, SERVER, own, SERIAL, now=int(NOW.timestamp()))
    assert {one.rule for one in lint(made.tbs, by, SERVER, now=int(NOW.timestamp()))} == {"own-key"}


def test_every_rule_is_broken_in_a_test() -> None:
    elsewhere = {
        *("time-encoding", "signature-algorithm", "within-the-authority", "authorities"),
        *("name-constraints", "nested-usages", "own-key"),
    }
    assert {one.name for one in (*RULES, *ISSUER_RULES)} == ({rule for rule, _ in BROKEN} - {"readable"}) | elsewhere
