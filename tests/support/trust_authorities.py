"""Authorities to test with: a root and an issuing authority under it, certified with `cryptography`'s own builder."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from ledger.core.encoding import decode_base64, encode_base64
from pki.aggregates.authority import Authority
from pki.core.algorithms import P256, Algorithm, IssuerKey, algorithm_named, generate
from pki.core.settings import AuthoritySettings
from pki.keystore.base import SigningKey
from tests.support.trust import HeldKey, TrustBench

STATUS_URL = "http://pki.city.example"
ROOT, CITY = "root", "city"
CITY_DAYS, ROOT_DAYS = 3_650, 7_300

CA_USAGE = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


def key_of(algorithm: Algorithm, which: str) -> HeldKey:
    """The same key for the same name within a process: RSA keys take seconds to make."""
    return _key(algorithm.name, which)


@cache
def _key(algorithm: str, _which: str) -> HeldKey:
    return HeldKey(generate(algorithm_named(algorithm)))


def name_of(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "CN"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "某市数据局"),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def ca_certificate(
    bench: TrustBench,
    subject: x509.Name,
    key: SigningKey,
    issuer: x509.Name,
    signer: HeldKey,
    *,
    days: int,
    path_length: int | None,
    extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
) -> bytes:
    """A CA certificate, DER. `extensions` come with whether they are critical."""
    public = key.private.public_key()
    now = bench.clock.now()
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(CA_USAGE, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.private.public_key()),
            critical=False,
        )
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    private: IssuerKey = signer.private
    return builder.sign(private, signer.algorithm.hash).public_bytes(Encoding.DER)


async def root_authority(bench: TrustBench, algorithm: Algorithm = P256, *, name: str = ROOT) -> Authority:
    """A self-signed root, saved; its key is `held:<name>-1`."""
    key, subject = key_of(algorithm, name), name_of("某市根证书颁发机构")
    bench.keys.keys[f"held:{name}-1"] = key
    certificate = ca_certificate(bench, subject, key, subject, key, days=ROOT_DAYS, path_length=None)
    return await _saved(bench, name, "", AuthoritySettings(), f"held:{name}-1", key, certificate)


async def city_authority(
    bench: TrustBench,
    algorithm: Algorithm = P256,
    settings: AuthoritySettings | None = None,
    *,
    name: str = CITY,
    root: str = ROOT,
    days: int = CITY_DAYS,
    extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
    kept: tuple[str, SigningKey] | None = None,
) -> Authority:
    """An issuing authority under `root` (made where there is none yet), saved; its key is `held:<name>-1`.

    `kept`: another key, elsewhere, with its reference. The default settings say `STATUS_URL` and one shard. The index
    has caught up on return.
    """
    above = bench.index.book.find(Authority, Authority.create_id(root)) or await root_authority(
        bench, algorithm, name=root
    )
    signer = bench.keys.keys[above.current.reference]
    issuer = x509.load_der_x509_certificate(decode_base64(above.current.certificates[0])).subject
    if kept is None:
        kept = f"held:{name}-1", key_of(algorithm, name)
        bench.keys.keys[kept[0]] = key_of(algorithm, name)
    reference, key = kept
    certificate = ca_certificate(
        bench, name_of("某市证书颁发机构"), key, issuer, signer, days=days, path_length=0, extensions=extensions
    )
    settings = settings or AuthoritySettings(status_url=STATUS_URL)
    return await _saved(bench, name, root, settings, reference, key, certificate)


async def _saved(
    bench: TrustBench,
    name: str,
    parent: str,
    settings: AuthoritySettings,
    reference: str,
    key: SigningKey,
    certificate: bytes,
) -> Authority:
    now = bench.clock.now()
    authority = Authority(name, parent, settings.recorded(), timestamp=now)
    authority.add_key(reference, key.algorithm.name, encode_base64(key.public), timestamp=now)
    authority.certify(1, encode_base64(certificate), timestamp=now)
    await bench.journal.save(authority, permit=bench.permit("authority.create"))
    await bench.index.catch_up()
    return authority
