"""A time-stamping authority to test with, under the city's authority, and what `openssl ts` says of its tokens."""

from __future__ import annotations

import shutil
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ledger.core.encoding import decode_base64, encode_base64
from pki.aggregates.authority import Authority
from pki.aggregates.tsa import Tsa
from pki.core.algorithms import P256, Algorithm
from pki.core.stamping import StampSettings
from tests.support.trust import TrustBench
from tests.support.trust_authorities import city_authority, key_of

POLICY = "1.3.6.1.4.1.99999.3.1"
NAME = "city"


async def stamp_authority(bench: TrustBench, algorithm: Algorithm = P256, *, days: int = 365) -> Tsa:
    """`tsa:city`, certified by the city's authority; its key is `held:tsa`. The index has caught up on return."""
    city = bench.index.book.find(Authority, "authority:city") or await city_authority(bench)
    key = bench.keys.keys["held:tsa"] = key_of(algorithm, "tsa")
    issuer_key = bench.keys.keys[city.current.reference]
    now = bench.clock.now()
    chain = [decode_base64(city.current.certificates[0])]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "某市时间戳服务")]))
        .issuer_name(x509.load_der_x509_certificate(chain[0]).subject)
        .public_key(key.private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING]), critical=True)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.private.public_key()), critical=False
        )
        .sign(issuer_key.private, issuer_key.algorithm.hash)
        .public_bytes(Encoding.DER)
    )
    tsa = Tsa(NAME, StampSettings(POLICY).recorded(), timestamp=now)
    tsa.add_key("held:tsa", key.algorithm.name, encode_base64(key.public), timestamp=now)
    tsa.certify(1, encode_base64(certificate), [encode_base64(one) for one in chain], timestamp=now)
    await bench.journal.save(tsa, permit=bench.permit("tsa.create"))
    await bench.index.catch_up()
    return tsa


def roots(bench: TrustBench) -> list[x509.Certificate]:
    """The root over it."""
    root = bench.index.book.get(Authority, "authority:root")
    return [x509.load_der_x509_certificate(decode_base64(one)) for one in root.current.certificates]


def openssl_query(file: Path, *options: str) -> bytes:
    """A request for a file, as `openssl ts` makes it."""
    return _openssl("ts", "-query", "-data", str(file), *(options or ("-sha256", "-cert")))


def openssl_verify(bench: TrustBench, answer: bytes, directory: Path, *checked: str) -> None:
    """Raises CalledProcessError: `openssl ts -verify` does not accept it. `checked`: what it is held against."""
    (directory / "root.pem").write_bytes(b"".join(one.public_bytes(Encoding.PEM) for one in roots(bench)))
    (directory / "answer.tsr").write_bytes(answer)
    at = str(int(bench.clock.now().timestamp()))
    trust = ("-CAfile", str(directory / "root.pem"), "-attime", at)
    _openssl("ts", "-verify", "-in", str(directory / "answer.tsr"), *checked, *trust)


def openssl_text(answer: bytes, directory: Path) -> str:
    """What `openssl ts` reads in an answer."""
    (directory / "answer.tsr").write_bytes(answer)
    return _openssl("ts", "-reply", "-in", str(directory / "answer.tsr"), "-text").decode()


def _openssl(*arguments: str) -> bytes:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    return subprocess.run(["openssl", *arguments], check=True, capture_output=True).stdout  # noqa: S603, S607
