"""The trust service behind `jinshi serve`: every face of it as a real process, for clients that nobody here wrote."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import ssl
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from cli.config import read_environment
from cli.trust.opening import open_trust
from ledger.http.receive import STRUCTURED
from pki.access.base import service_permit
from pki.aggregates.certificate import Certificate
from tests.integration.test_trust_drill import HOLDER, request
from tests.support.certificates import Authority, Issued
from tests.support.cli import PASSPHRASE, Jinshi
from tests.support.http_api import structured
from tests.support.nameserver import Zone, name_server
from tests.support.roles import until
from tests.support.servers import free_ports
from tests.support.serving import serving
from tests.support.trust_acme import needs_lego

WANTED = {"authority": "issuing", "profile": "tls-server", "holder": HOLDER}
WHOSE = ("--authority", "issuing")
JSON_TYPE = {"content-type": STRUCTURED}
PKCS10 = {"content-type": "application/pkcs10"}


@pytest.fixture
def jinshi(tmp_path: Path) -> Jinshi:
    """The command, with authorities, a holder, a time-stamping authority, and an officer known by a certificate."""
    jinshi = Jinshi(tmp_path, tmp_path / "ledger")
    jinshi("init", tmp_path / "ledger")
    jinshi("ca", "init")
    for name in ("root", "issuing"):
        jinshi("ca", "export", name, "-o", tmp_path / f"{name}.pem")
    jinshi("ra", "identity", "add", HOLDER, "交通局")
    jinshi("ra", "identity", "vet", HOLDER, "--method", "seen in person", "--name", "dns:.roads.example")
    subject = "C=CN, O=某市数据局, CN=某市时间戳服务"
    jinshi("tsa", "init", "city", "--by", "issuing", "--policy", "1.3.6.1.4.1.99999.3.1", "--subject", subject)
    return jinshi


@pytest.fixture
def tls(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def of_server(tls: Authority) -> tuple[str, ...]:
    server = tls.issue("server", server=True)
    return ("--tls-cert", str(server.certificate), "--tls-key", str(server.key), "--client-ca", str(tls.file))


def client(url: str, tls: Authority, shown: Issued) -> httpx.Client:
    context = ssl.create_default_context(cafile=str(tls.file))
    context.load_cert_chain(shown.certificate, shown.key)
    return httpx.Client(base_url=url, verify=context, timeout=30)


def address(log: Path, what: str) -> str:
    """Where a listener is, as the server has logged it."""
    pattern = re.compile(rf"serving {what} on (\S+)")
    until(f"{what} is served", lambda: pattern.search(log.read_text()) is not None)
    return pattern.findall(log.read_text())[-1]


@pytest.mark.slow
def test_officers_ask_by_certificate_and_everybody_is_told_the_status(
    jinshi: Jinshi, tls: Authority, tmp_path: Path
) -> None:
    chen, machine, stranger = (tls.issue(name) for name in ("chen", "archive", "nobody"))
    jinshi("officer", "appoint", "chen", "--role", "ra-officer", "--certificate", chen.certificate)
    jinshi("officer", "appoint", "archive", "--role", "system", "--certificate", machine.certificate)
    log = tmp_path / "log"
    options = (*of_server(tls), "--trust", "--status-listen", "127.0.0.1:0")
    with serving(jinshi, *options, log=log) as (process, url):
        with client(url, tls, stranger) as somebody:
            refused = somebody.post("/ra/requests", params=WANTED, content=csr(tmp_path, "x"), headers=PKCS10)
            assert refused.status_code == 403, refused.text
        with client(url, tls, chen) as officer:
            answer = officer.post("/ra/requests", params=WANTED, content=csr(tmp_path, "a"), headers=PKCS10)
            assert answer.status_code == 201, answer.text
            (tmp_path / "a.pem").write_text(answer.json()["certificate"])
        with client(url, tls, machine) as archive:
            token = archive.post("/token", data={"grant_type": "client_credentials", "scope": "ledger.append"})
            assert token.status_code == 200, token.text
            bearer = {"authorization": f"Bearer {token.json()['access_token']}", **JSON_TYPE}
            assert archive.post("/events", content=structured("1"), headers=bearer).status_code == 201
            assert archive.get("/events", headers=bearer).status_code == 403, "the token is for appending"
        with client(url, tls, stranger) as somebody:
            assert somebody.post("/events", content=structured("2"), headers=bearer).status_code == 401
        public = address(log, "status and time stamps")
        assert b": good" in ocsp(tmp_path, public)
        stamp(tmp_path, public)
        # What another process records counts here, too: the command hands it to the server.
        serial = answer.json()["serial"]
        jinshi("cert", "revoke", serial, "--reason", "superseded")
        until("everybody is told", lambda: b": revoked" in ocsp(tmp_path, public))
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, log.read_text()
    shown = jinshi("log", "--actor", "chen", "--json").json_lines
    assert {"certificate.intended.v1", "certificate.issued.v1"} <= {one["entry"]["type"] for one in shown}
    refusals = jinshi("log", "--type", "access.refused.v1", "--json").json_lines
    assert "nobody" in str(refusals), "who was refused is in the log, in summary"
    jinshi("verify")


async def left_behind(jinshi: Jinshi) -> str:
    """What a server that was killed between intent and signature leaves; its serial."""
    assert jinshi.ledger is not None
    async with open_trust(jinshi.ledger, read_environment(jinshi.environ()), PASSPHRASE) as trust:
        serial, now = "7" * 40, trust.journal.clock.now()
        times = (int(now.timestamp()), int(now.timestamp()) + 86_400)
        meant = Certificate(
            *("issuing", 1, serial, "tls-server", "CN=x", [], "ab" * 32, *times, "cd" * 32, 0, "r", HOLDER),
            timestamp=now,
        )
        await trust.journal.save(meant, permit=service_permit("local:test", "certificate.issue"))
        return serial


@pytest.mark.slow
def test_an_officer_whose_certificate_we_revoke_is_nobody_and_what_a_crash_left_is_abandoned(
    jinshi: Jinshi, tls: Authority, tmp_path: Path
) -> None:
    """Over the real server, with two sites: what a crash left does not keep it from starting."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "chen.roads.example")])
    names = x509.SubjectAlternativeName([x509.DNSName("chen.roads.example")])
    asked = x509.CertificateSigningRequestBuilder().subject_name(name).add_extension(names, critical=False)
    (tmp_path / "chen.csr").write_bytes(asked.sign(key, SHA256()).public_bytes(Encoding.PEM))
    wanted = ("--authority", "issuing", "--profile", "tls-client", "--holder", HOLDER)
    jinshi("cert", "issue", "--csr", tmp_path / "chen.csr", *wanted, "--out", tmp_path / "chen.pem")
    (tmp_path / "chen.key").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )
    jinshi("officer", "appoint", "chen", "--role", "ra-officer", "--certificate", tmp_path / "chen.pem")
    serial = f"{x509.load_pem_x509_certificate((tmp_path / 'chen.pem').read_bytes()).serial_number:040x}"
    left = asyncio.run(left_behind(jinshi))
    (tmp_path / "clients.pem").write_bytes((tmp_path / "root.pem").read_bytes())
    server = tls.issue("server", server=True)
    files = ("--tls-cert", server.certificate, "--tls-key", server.key, "--client-ca", tmp_path / "clients.pem")
    shown = Issued(tmp_path / "chen.pem", tmp_path / "chen.key")
    with serving(jinshi, *map(str, files), "--trust", log=tmp_path / "log") as (_, url):
        with client(url, tls, shown) as officer:
            made = officer.post("/ra/requests", params=WANTED, content=csr(tmp_path, "a"), headers=PKCS10)
            assert made.status_code == 201, made.text
            jinshi("cert", "revoke", serial, "--reason", "keyCompromise")

            def refused() -> bool:
                return officer.get("/ra/requests").status_code == 403

            until("the officer is nobody", refused)
            answer = officer.post("/ra/requests", params=WANTED, content=csr(tmp_path, "b"), headers=PKCS10)
            assert (answer.status_code, answer.headers["content-type"]) == (403, "application/problem+json")
            assert "revoked" in answer.text
            assert officer.post("/token", data={"grant_type": "client_credentials"}).status_code == 401
        until("it is abandoned", lambda: jinshi("cert", "show", left, "--json").json["state"] == "abandoned")


def csr(directory: Path, name: str) -> bytes:
    return request(directory, f"{name}.roads.example").read_bytes()


def ocsp(directory: Path, url: str) -> bytes:
    files = ["-issuer", directory / "issuing.pem", "-cert", directory / "a.pem", "-CAfile", directory / "root.pem"]
    done = subprocess.run(["openssl", "ocsp", "-url", f"{url}/ocsp", *files], capture_output=True, check=True)
    assert b"Response verify OK" in done.stderr, done
    return done.stdout


def stamp(directory: Path, url: str) -> None:
    query = ["openssl", "ts", "-query", "-data", directory / "a.pem", "-sha256", "-cert"]
    asked = subprocess.run(query, capture_output=True, check=True).stdout
    answer = httpx.post(f"{url}/tsa", content=asked, headers={"content-type": "application/timestamp-query"})
    (directory / "a.tsr").write_bytes(answer.content)
    trusted = ["-CAfile", directory / "root.pem", "-untrusted", directory / "issuing.pem"]
    check = ["openssl", "ts", "-verify", "-in", directory / "a.tsr", "-data", directory / "a.pem", *trusted]
    subprocess.run(check, capture_output=True, check=True)


@pytest.mark.slow
@needs_lego
def test_lego_enrols_at_the_served_ledger(jinshi: Jinshi, tls: Authority, tmp_path: Path) -> None:
    given = jinshi("acme", "eab", "new", "--holder", HOLDER, *WHOSE, "--name", "roads.example", "--json").json
    ports, log = free_ports(1), tmp_path / "log"
    binding = ["--eab", "--kid", given["kid"], "--hmac", given["hmac"]]
    who = ["--accept-tos", "--email", "web@roads.example", "--domains", "b.roads.example"]

    async def enrol() -> None:
        async with name_server(Zone("roads.example")) as resolver:
            acme = ("--acme-listen", "127.0.0.1:0", "--resolver", resolver, "--acme-network", "127.0.0.0/8")
            with serving(jinshi, *of_server(tls), *acme, "--acme-http-port", str(ports[0]), log=log):
                where = ["--server", f"{address(log, 'acme')}/acme/directory", "--path", tmp_path / "lego"]
                http = ["--http", "--http.port", f"127.0.0.1:{ports[0]}"]
                await ran([*where, *who, *binding, *http, "run"], tls)

    asyncio.run(enrol())
    pem = (tmp_path / "lego" / "certificates" / "b.roads.example.crt").read_bytes()
    certificate = x509.load_pem_x509_certificates(pem)[0]
    shown = jinshi("cert", "show", f"{certificate.serial_number:040x}", "--json").json
    assert (shown["state"], shown["holder"]) == ("issued", HOLDER)


async def ran(arguments: list[Any], tls: Authority) -> None:
    environment = {"PATH": os.environ["PATH"], "LEGO_CA_CERTIFICATES": str(tls.file), "HOME": str(tls.file.parent)}
    process = await asyncio.create_subprocess_exec(
        str(shutil.which("lego")),
        *map(str, arguments),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await asyncio.wait_for(process.communicate(), 90)
    assert process.returncode == 0, out.decode()
