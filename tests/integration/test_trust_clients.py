"""What other people's software says of issued certificates: pkilint, OpenSSL, GnuTLS, nginx, Python's ssl."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ledger.core.encoding import decode_base64
from pki.aggregates.authority import Authority
from pki.ca import CertificateAuthority, Issued
from pki.core.algorithms import ED25519, ML_DSA_65, P256, P384, RSA_3072, RSA_4096, Algorithm
from pki.core.builtin import BUILTIN
from pki.core.profile import Profile
from pki.core.settings import AuthoritySettings
from tests.support.servers import free_ports
from tests.support.trust import SetClock, TrustBench, trust_bench
from tests.support.trust_authorities import STATUS_URL, city_authority
from tests.support.trust_lint import baseline_errors, pkilint_errors
from tests.support.trust_requests import new_key, order

NGINX = shutil.which("nginx") or "/usr/sbin/nginx"
PURPOSES = {
    "tls-server": "sslserver",
    "tls-client": "sslclient",
    "person": "smimesign",
    "time-stamping": "timestampsign",
}
SECONDS = 10


@dataclass(frozen=True)
class City:
    bench: TrustBench
    ca: CertificateAuthority

    async def issue(self, name: str, key: CertificateIssuerPrivateKeyTypes | None = None, **wanted: object) -> Issued:
        profile = replace(BUILTIN[name], reuse_keys="anybody")  # RSA keys take seconds to make
        return await self.issue_by(profile, key, **wanted)

    async def issue_by(
        self, profile: Profile, key: CertificateIssuerPrivateKeyTypes | None = None, **wanted: object
    ) -> Issued:
        asked = order(profile, key=key, **wanted)  # type: ignore[arg-type]
        return await self.ca.issue(await self.ca.prepare(asked, permit=self.bench.permit("certificate.issue")))

    @property
    def root(self) -> bytes:
        return decode_base64(self.bench.index.book.get(Authority, "authority:root").current.certificates[0])


@asynccontextmanager
async def city(algorithm: Algorithm = P256, status_url: str = STATUS_URL) -> AsyncIterator[City]:
    """An authority of today: other people's software has no other time."""
    async with trust_bench(clock=SetClock(datetime.now(UTC))) as bench:
        await city_authority(bench, algorithm, AuthoritySettings(status_url=status_url))
        yield City(bench, CertificateAuthority(bench.journal, bench.index, bench.keys))


def pem(*certificates: bytes) -> bytes:
    return b"".join(x509.load_der_x509_certificate(one).public_bytes(Encoding.PEM) for one in certificates)


def key_pem(key: CertificateIssuerPrivateKeyTypes) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.parametrize("algorithm", [P256, P384, RSA_3072, RSA_4096, ED25519, ML_DSA_65], ids=lambda one: one.name)
async def test_pkilint_finds_no_error_in_any_profiles_certificates(algorithm: Algorithm) -> None:
    async with city(algorithm) as it:
        for name, profile in BUILTIN.items():
            for kind in profile.keys if algorithm is P256 else profile.keys[:1]:
                issued = await it.issue(name, new_key(kind), holder=f"{(profile.holders or ('service',))[0]}:{kind}")
                assert pkilint_errors(issued.certificate) == [], f"{name} with {kind}"


async def test_pkilint_finds_no_error_against_the_baseline_requirements_of_browsers() -> None:
    """A server's certificate for a public name; the policy says that it is held against these requirements."""
    async with city(status_url="http://pki.beijing.gov.cn") as it:
        profile = replace(BUILTIN["tls-server"], policies=("2.23.140.1.2.1",))
        issued = await it.issue_by(profile, names=["dns:www.beijing.gov.cn"], subject=(("CN", "www.beijing.gov.cn"),))
        assert baseline_errors(issued.certificate) == []


@pytest.mark.parametrize("algorithm", [P256, P384, RSA_3072, ED25519], ids=lambda one: one.name)
async def test_openssl_and_gnutls_verify_every_profile(algorithm: Algorithm, tmp_path: Path) -> None:
    async with city(algorithm) as it:
        (tmp_path / "root.pem").write_bytes(pem(it.root))
        for name in BUILTIN:
            issued = await it.issue(name)
            leaf, chain, whole = (tmp_path / f"{name}-{part}.pem" for part in ("leaf", "chain", "whole"))
            leaf.write_bytes(pem(issued.certificate))
            chain.write_bytes(pem(*issued.chain))
            whole.write_bytes(pem(issued.certificate, *issued.chain, it.root))
            purpose = ["-purpose", PURPOSES[name]] if name in PURPOSES else []
            run(
                "openssl",
                "verify",
                "-x509_strict",
                *purpose,
                "-CAfile",
                tmp_path / "root.pem",
                "-untrusted",
                chain,
                leaf,
            )
            if shutil.which("certtool"):
                said = run("certtool", "--verify", "--load-ca-certificate", tmp_path / "root.pem", "--infile", whole)
                assert "Chain verification output: Verified." in said
        server = tmp_path / "tls-server-leaf.pem"
        options = ("-CAfile", tmp_path / "root.pem", "-untrusted", tmp_path / "tls-server-chain.pem")
        run("openssl", "verify", "-verify_hostname", "www.city.example", *options, server)
        run("openssl", "verify", "-verify_hostname", "other.example", *options, server, code=2)


@pytest.mark.skipif(not Path(NGINX).exists(), reason="nginx is not installed (Debian: nginx)")
async def test_nginx_serves_with_one_certificate_and_asks_for_another(tmp_path: Path) -> None:
    async with city() as it:
        keys = {name: new_key() for name in ("server", "client", "other")}
        server = await it.issue("tls-server", keys["server"], names=["dns:localhost"], subject=())
        client = await it.issue("tls-client", keys["client"])
        other = await it.issue("tls-server", keys["other"])
        for name, issued in (("server", server), ("client", client), ("other", other)):
            (tmp_path / f"{name}.pem").write_bytes(pem(issued.certificate, *issued.chain))
            (tmp_path / f"{name}.key").write_bytes(key_pem(keys[name]))
        (tmp_path / "root.pem").write_bytes(pem(it.root))
    with nginx(tmp_path) as port:
        assert "gateway-7" in await asyncio.to_thread(get, tmp_path, port, "client")
        assert "400" in await asyncio.to_thread(get, tmp_path, port, "")
        # One for servers is not taken for a client's.
        assert "400" in await asyncio.to_thread(get, tmp_path, port, "other")


def run(*command: object, code: int = 0) -> str:
    done = subprocess.run([str(one) for one in command], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


@contextmanager
def nginx(directory: Path) -> Iterator[int]:
    (port,) = free_ports(1)
    (directory / "nginx.conf").write_text(
        f"""daemon off; master_process off; pid {directory}/nginx.pid; error_log {directory}/error.log;
events {{}}
http {{
  access_log off;
  client_body_temp_path {directory}; proxy_temp_path {directory}; fastcgi_temp_path {directory};
  uwsgi_temp_path {directory}; scgi_temp_path {directory};
  server {{
    listen 127.0.0.1:{port} ssl;
    ssl_certificate {directory}/server.pem; ssl_certificate_key {directory}/server.key;
    ssl_client_certificate {directory}/root.pem; ssl_verify_client on; ssl_verify_depth 3;
    location / {{ return 200 "$ssl_client_s_dn"; }}
  }}
}}
"""
    )
    process = subprocess.Popen([NGINX, "-p", directory, "-c", directory / "nginx.conf"], stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except ConnectionRefusedError:
                assert process.poll() is None, (directory / "error.log").read_text()
                assert time.monotonic() < until
                time.sleep(0.02)
        yield port
    finally:
        process.terminate()
        process.wait(timeout=SECONDS)


def get(directory: Path, port: int, client: str) -> str:
    """What nginx says to a client with that certificate, of which Python's ssl checks nginx's own."""
    context = ssl.create_default_context(cafile=str(directory / "root.pem"))
    if client:
        context.load_cert_chain(directory / f"{client}.pem", directory / f"{client}.key")
    with (
        socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as secured,
    ):
        secured.sendall(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")
        answer = b""
        while part := secured.recv(65_536):
            answer += part
    return answer.decode()
