"""Lists and OCSP answers, of the primary and of a place, before programs that nobody here wrote."""

from __future__ import annotations

import asyncio
import base64
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import quote

import anyio.to_thread
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from pki.ca import CertificateAuthority
from pki.core.algorithms import ED25519, P256, RSA_3072, Algorithm
from pki.core.crl import applied
from pki.core.settings import AuthoritySettings
from pki.http.status import StatusService, routes
from pki.status.certifying import certifying
from pki.status.issuers import issuer_in
from pki.status.remote import RemoteStatus
from tests.support.servers import free_ports
from tests.support.trust import SetClock, trust_bench
from tests.support.trust_authorities import CITY, STATUS_URL
from tests.support.trust_requests import new_key, order
from tests.support.trust_served import serving
from tests.support.trust_status import StatusBench, ask, status_bench, told
from tests.support.trust_status_lint import answer_errors, crl_errors

SETTINGS = AuthoritySettings(status_url=STATUS_URL, delta_every_s=600, shards=2)


@dataclass
class Served:
    """A primary and a place, both serving; certificates that are good, revoked and on hold."""

    status: StatusBench
    directory: Path
    live: str
    remote: str
    certificates: dict[str, Path]

    async def run(self, *command: object, code: int = 0) -> str:
        """A program's output, whatever stream it went to."""
        texts = [str(one) for one in command]

        def run() -> subprocess.CompletedProcess[str]:
            return subprocess.run(texts, capture_output=True, text=True, timeout=30, check=False)

        done = await anyio.to_thread.run_sync(run)
        shown = f"{' '.join(texts)}\n{done.stdout}\n{done.stderr}"
        assert done.returncode == code, shown
        return done.stdout + done.stderr

    async def get(self, url: str, data: bytes | None = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(url, data, named)

        def run() -> tuple[int, dict[str, str], bytes]:
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    return answer.status, {k.lower(): v for k, v in answer.headers.items()}, answer.read()
            except HTTPError as error:
                return error.code, {k.lower(): v for k, v in error.headers.items()}, error.read()

        return await anyio.to_thread.run_sync(run)


@asynccontextmanager
async def served(directory: Path, algorithm: Algorithm = P256) -> AsyncIterator[Served]:
    clock = SetClock(datetime.now(UTC).replace(microsecond=0))
    async with trust_bench(clock=clock) as bench, status_bench(SETTINGS, algorithm=algorithm, bench=bench) as status:
        authority = CertificateAuthority(bench.journal, bench.index, bench.keys)
        status.rounds.responders.certify = certifying(bench.journal, bench.index, authority)
        certificates = {}
        for name in ("good", "revoked", "held"):
            key = new_key()
            (directory / f"{name}.key").write_bytes(key_pem(key))
            given = order("tls-client" if name == "revoked" else "tls-server", key=key)
            done = await authority.issue(await authority.prepare(given, permit=bench.permit()))
            certificates[name] = _written(directory / f"{name}.pem", done.certificate)
            if name == "revoked":
                await status.revocation.revoke(CITY, done.serial, "keyCompromise", permit=bench.permit())
        await status.name_place("remote")
        assert not (await status.rounds.once()).wrong
        clock.pass_s(30)
        await status.revocation.hold(CITY, done.serial, permit=bench.permit())
        assert not (await status.rounds.once()).wrong
        for name, generation in (("root", 1), (CITY, 1)):
            _written(directory / f"{name}.pem", issuer_in(bench.index.book, name, generation).certificate)
        remote = RemoteStatus(status.places["remote"], clock)
        await remote.look()
        async with (
            serving(routes(StatusService(status.live, clock))) as live,
            serving(routes(StatusService(remote, clock))) as place,
        ):
            yield Served(status, directory, live, place, certificates)


def _written(path: Path, der: bytes) -> Path:
    path.write_bytes(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM))
    return path


def key_pem(key: CertificateIssuerPrivateKeyTypes) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def shard_of(certificate: Path) -> int:
    return x509.load_pem_x509_certificate(certificate.read_bytes()).serial_number % 2


@pytest.mark.parametrize("algorithm", [P256, RSA_3072, ED25519], ids=lambda one: one.name)
async def test_openssl_asks_and_verifies(tmp_path: Path, algorithm: Algorithm) -> None:
    async with served(tmp_path, algorithm) as at:
        for url in (at.live, at.remote):
            for name, expected in (("good", "good"), ("revoked", "revoked"), ("held", "revoked")):
                for digest in ("-sha1", "-sha256"):
                    said = await at.run(
                        *("openssl", "ocsp", "-issuer", tmp_path / "city.pem", digest),
                        *("-cert", at.certificates[name], "-url", f"{url}/ocsp", "-CAfile", tmp_path / "root.pem"),
                        *("-verify_other", tmp_path / "city.pem", *(["-no_nonce"] if url == at.remote else [])),
                    )
                    assert "Response verify OK" in said
                    assert f"{name}.pem: {expected}" in said
                    assert "nonce" not in said.lower()
                if name == "revoked":
                    assert "Reason: keyCompromise" in said


async def test_openssl_builds_paths_with_full_and_delta_lists(tmp_path: Path) -> None:
    async with served(tmp_path) as at:
        for url in (at.live, at.remote):
            for name, code in (("good", 0), ("revoked", 2), ("held", 2)):
                shard = shard_of(at.certificates[name])
                files = []
                for kind in ("", "-delta"):
                    status, headers, data = await at.get(f"{url}/crl/city-1-{shard}{kind}.crl")
                    if kind and status == 404:  # nothing has changed in that shard
                        continue
                    assert (status, headers["content-type"]) == (200, "application/pkix-crl")
                    file = tmp_path / f"list{kind}.der"
                    file.write_bytes(data)
                    said = await at.run(
                        *("openssl", "crl", "-inform", "DER", "-in", file, "-noout", "-text"),
                        *("-CAfile", tmp_path / "city.pem"),
                    )
                    assert "verify OK" in said
                    await at.run("openssl", "crl", "-inform", "DER", "-in", file, "-out", file.with_suffix(".pem"))
                    files.append(file.with_suffix(".pem"))
                lists = [part for file in files for part in ("-CRLfile", file)]
                said = await at.run(
                    *("openssl", "verify", "-crl_check", "-extended_crl", "-use_deltas", *lists),
                    *("-CAfile", tmp_path / "root.pem", "-untrusted", tmp_path / "city.pem", at.certificates[name]),
                    code=code,
                )
                assert ("certificate revoked" in said) == bool(code)


@pytest.mark.skipif(not shutil.which("ocsptool"), reason="gnutls-bin is not installed")
async def test_gnutls_asks_and_verifies(tmp_path: Path) -> None:
    async with served(tmp_path) as at:
        for url in (at.live, at.remote):
            for name, expected in (("good", "good"), ("revoked", "revoked")):
                said = await at.run(
                    *("ocsptool", f"--ask={url}/ocsp", "--load-cert", at.certificates[name]),
                    *("--load-issuer", tmp_path / "city.pem", "--load-trust", tmp_path / "city.pem"),
                    *(["--nonce"] if url == at.live else ["--no-nonce"]),
                )
                assert f"Certificate Status: {expected}" in said, said
                assert "Verifying OCSP Response: Success" in said, said
            _, _, data = await at.get(f"{url}/crl/city-1-{shard_of(at.certificates['revoked'])}.crl")
            file = tmp_path / "list.pem"
            file.write_bytes(x509.load_der_x509_crl(data).public_bytes(Encoding.PEM))
            said = await at.run(
                *("certtool", "--verify-crl", "--infile", file, "--load-ca-certificate", tmp_path / "city.pem")
            )
            assert "Verified" in said, said


@pytest.mark.parametrize("algorithm", [P256, RSA_3072, ED25519], ids=lambda one: one.name)
async def test_pkilint_finds_no_error_in_lists_and_answers(algorithm: Algorithm) -> None:
    async with status_bench(replace(SETTINGS, shards=1), algorithm=algorithm) as status:
        authority = CertificateAuthority(status.bench.journal, status.bench.index, status.bench.keys)
        status.rounds.responders.certify = certifying(status.bench.journal, status.bench.index, authority)
        serials = []
        for number in range(3):
            given = order(names=[f"dns:host-{number}.city.example"])
            serials.append((await authority.issue(await authority.prepare(given, permit=status.bench.permit()))).serial)
        permit = status.bench.permit()
        await status.revocation.revoke(CITY, serials[0], "keyCompromise", permit=permit, invalid_since=1_700_000_000)
        await status.revocation.hold(CITY, serials[1], permit=permit)
        await status.rounds.once()
        status.bench.clock.pass_s(60)
        await status.revocation.release(CITY, serials[1], permit=permit)
        await status.rounds.once()
        for delta in (False, True):
            crl = (await status.live.crl(CITY, 1, 0, delta=delta)).data
            assert applied(x509.load_der_x509_crl(crl), None)
            assert crl_errors(crl) == []
        for serial in (*serials, "77"):
            for nonce in (None, b"n" * 32):
                answer = (await status.live.ocsp(ask(status.issuer, int(serial, 16), nonce=nonce))).data
                assert answer_errors(answer) == []


async def test_http_is_as_the_rfcs_say(tmp_path: Path) -> None:
    async with served(tmp_path) as at:
        serial = x509.load_pem_x509_certificate(at.certificates["good"].read_bytes()).serial_number
        request = ask(at.status.issuer, serial)
        for url in (at.live, at.remote):
            status, headers, data = await at.get(f"{url}/ocsp/{quote(base64.b64encode(request), safe='')}")
            assert (status, told(data)) == (200, "good")
            assert headers["content-type"] == "application/ocsp-response"
            assert headers["cache-control"] == "max-age=300,public,no-transform,must-revalidate"
            again, _, _ = await at.get(f"{url}/ocsp/{quote(base64.b64encode(request))}", if_none_match=headers["etag"])
            assert again == 304
            status, headers, data = await at.get(f"{url}/ocsp", request, content_type="application/ocsp-request")
            assert (status, told(data), headers["content-type"]) == (200, "good", "application/ocsp-response")
            for body in (b"", b"x" * 9_000, request[:-1]):
                status, _, data = await at.get(f"{url}/ocsp", body, content_type="application/ocsp-request")
                assert (status, told(data)) == (200, "malformed_request")
            assert told((await at.get(f"{url}/ocsp/no-base64!"))[2]) == "malformed_request"
            assert (await at.get(f"{url}/ocsp", request, content_type="text/plain"))[0] == 415
            status, headers, data = await at.get(f"{url}/ca/city-1.cer")
            assert (status, headers["content-type"]) == (200, "application/pkix-cert")
            assert data == at.status.issuer.certificate
            for path in ("/crl/city-1-9.crl", "/crl/nobody-1-0.crl", "/crl/x.crl", "/ca/city-9.cer", "/ca/x.cer"):
                assert (await at.get(url + path))[0] == 404


NGINX = shutil.which("nginx") or "/usr/sbin/nginx"


@pytest.mark.skipif(
    not (Path(NGINX).exists() and shutil.which("curl")), reason="nginx or curl is not installed (Debian: nginx, curl)"
)
async def test_nginx_staples_our_answers_and_turns_away_who_is_on_our_lists(tmp_path: Path) -> None:
    async with served(tmp_path) as at:
        lists = b""
        for name in ("root-1-0", "city-1-0", "city-1-1"):
            _, _, data = await at.get(f"{at.live}/crl/{name}.crl")
            lists += x509.load_der_x509_crl(data).public_bytes(Encoding.PEM)
        (tmp_path / "lists.pem").write_bytes(lists)
        chain = (tmp_path / "city.pem").read_bytes()
        (tmp_path / "trusted.pem").write_bytes(chain + (tmp_path / "root.pem").read_bytes())
        (tmp_path / "server.pem").write_bytes(at.certificates["good"].read_bytes() + chain)
        (tmp_path / "client.pem").write_bytes(at.certificates["revoked"].read_bytes() + chain)
        with nginx(tmp_path, f"{at.remote}/ocsp") as port:
            ask_it = (
                *("openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-status", "-servername", "localhost"),
                *("-CAfile", tmp_path / "root.pem", "-verify_return_error"),
            )
            for _ in range(100):  # the first who connect come before nginx has asked
                said = await at.run(*ask_it)
                if "OCSP Response Status: successful" in said:
                    break
                await asyncio.sleep(0.1)
            assert "Cert Status: good" in said, said + (tmp_path / "error.log").read_text()
            said = await at.run(
                *("curl", "-s", "--cacert", tmp_path / "root.pem", "--resolve", f"www.city.example:{port}:127.0.0.1"),
                *("--cert", tmp_path / "client.pem", "--key", tmp_path / "revoked.key"),
                f"https://www.city.example:{port}/",
            )
            assert "SUCCESS" not in said
            assert "certificate revoked" in said


@contextmanager
def nginx(directory: Path, responder: str) -> Iterator[int]:
    """A server that staples what `responder` says, and looks its clients up in lists."""
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
    ssl_certificate {directory}/server.pem; ssl_certificate_key {directory}/good.key;
    ssl_stapling on; ssl_stapling_verify on; ssl_stapling_responder {responder};
    ssl_trusted_certificate {directory}/trusted.pem;
    ssl_client_certificate {directory}/trusted.pem; ssl_crl {directory}/lists.pem;
    ssl_verify_client optional; ssl_verify_depth 3;
    location / {{ return 200 "$ssl_client_verify"; }}
    error_page 495 =200 @refused;
    location @refused {{ return 200 "$ssl_client_verify"; }}
  }}
}}
"""
    )
    process = subprocess.Popen([NGINX, "-p", directory, "-c", directory / "nginx.conf"], stderr=subprocess.DEVNULL)
    try:
        for _ in range(500):
            with suppress(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port), timeout=5).close()
                break
            assert process.poll() is None, (directory / "error.log").read_text()
            time.sleep(0.02)
        yield port
    finally:
        process.terminate()
        process.wait(timeout=30)
