"""A province's hierarchy under a root in a vault: its lists and responder, before programs of other hands."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from cli.system import SystemClock
from ledger.store.directory import DirectoryStore
from pki.core.algorithms import P384
from pki.core.crl import issuer_of
from pki.core.ocsp import format_ocsp_request, hashes_of
from pki.status.remote import RemoteStatus
from tests.integration.test_cli_ca import ROOT
from tests.support.cli import Jinshi
from tests.support.trust_status import told

URL = "http://pki.province.example"
ROOT = ROOT.replace("path_length: 1", f"path_length: 2\n  status_url: {URL}")
SIGN = """
format: 1
ceremony: NAME
title: An authority of the province
authority: root
sign:
  - {request: NAME.csr, sha256: DIGEST, days: 3650, path_length: 1}
"""
LISTS = """
format: 1
ceremony: NAME
title: The root's list
authority: root
crl: {days: 365}
"""


@pytest.fixture
def jinshi(tmp_path: Path) -> Jinshi:
    found = Jinshi(tmp_path, tmp_path / "ledger")
    found("init", tmp_path / "ledger")
    return found


class House:
    """The ledger online, and the one in the vault, whose custodians come."""

    def __init__(self, jinshi: Jinshi, folder: Path) -> None:
        self.online, self.folder, self.out = jinshi, folder, folder / "out"
        self.vault = jinshi.at(folder / "vault")

    def ceremony(self, name: str, script: str) -> str:
        file = self.folder / f"{name}.yaml"
        file.write_text(script.replace("NAME", name))
        if "revoke:" in script:
            assert "names" in self.vault("ca", "ceremony", "plan", file).out
        given = [part for share in sorted((self.folder / "shares").glob("*"))[:2] for part in ("--share", share)]
        to = () if given else ("--shares-to", self.folder / "shares")
        return self.vault("ca", "ceremony", "run", file, "--out", self.out, *to, *given).out

    def certified(self, name: str) -> None:
        """An authority below the root."""
        request = self.folder / f"{name}.csr"
        subject = ("--subject", f"C=CN, O=某省, CN={name}", "--status-url", URL)
        self.online("ca", "request", name, "--parent", "root", *subject, "-o", request)
        self.ceremony(name, SIGN.replace("DIGEST", digest(request)))
        self.online("ca", "take-in", name, self.out / f"{name}-1.pem")

    def pem(self, name: str) -> Path:
        file = self.folder / f"{name}.pem"
        self.online("ca", "export", name, "-o", file)
        return file

    def lists(self) -> Path:
        """Every newest list, as whoever relies on them fetches them."""
        together = self.folder / "lists.pem"
        parts = []
        for name in ("root", "province", "city"):
            file = self.folder / f"{name}.crl"
            self.online("crl", "show", name, "--out", file)
            parts.append(x509.load_der_x509_crl(file.read_bytes()).public_bytes(Encoding.PEM))
        together.write_bytes(b"".join(parts))
        return together


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def judged(*command: object) -> str:
    """What a program says, whether it is content or not."""
    texts = [str(one) for one in command]
    done = subprocess.run(texts, capture_output=True, text=True, timeout=30, check=False)
    return done.stdout + done.stderr


def test_a_root_in_the_vault_revokes_a_province_and_everybody_sees_it(jinshi: Jinshi, tmp_path: Path) -> None:
    at = House(jinshi, tmp_path)
    at.vault("init", tmp_path / "vault")
    at.ceremony("root-2027", ROOT + "crl: {days: 365}\n")
    (first,) = at.out.glob("root-1-0-*.crl")
    jinshi("ca", "import", "root", at.out / "root-2027-1.pem", "--status-url", URL)
    assert "root-1-0 is taken in" in jinshi("crl", "take-in", "root", first).out
    assert "there already" in jinshi("crl", "take-in", "root", first, code=1).stderr
    at.certified("province")
    subject = ("--subject", "C=CN, O=某市, CN=City", "--path-length", 0, "--status-url", URL)
    jinshi("ca", "create", "city", "--parent", "province", *subject)
    leaf = tmp_path / "leaf.pem"
    holder = "organisation:parks"
    jinshi("ra", "identity", "add", holder, "Parks")
    jinshi("ra", "identity", "vet", holder, "--method", "seen in person", "--name", "dns:.parks.example")
    issue = ("cert", "issue", "--authority", "city", "--profile", "tls-server", "--holder", holder)
    jinshi(*issue, "--csr", csr(tmp_path, "a"), "--out", leaf)

    jinshi("crl", "responder", "root", "--request", tmp_path / "responder.csr")
    asked = f"responder: {{request: responder.csr, sha256: {digest(tmp_path / 'responder.csr')}, days: 380}}\n"
    at.ceremony("responder", LISTS + asked)
    jinshi("crl", "responder", "root", "--certificate", at.out / "responder-1.pem")
    (second,) = set(at.out.glob("root-1-0-*.crl")) - {first}
    jinshi("crl", "take-in", "root", second)
    place = tmp_path / "place"
    jinshi("crl", "publish-to", "district", place)
    jinshi("crl", "publish")
    assert status_of(at, place) == "good"
    check = ("openssl", "verify", "-crl_check_all", "-CAfile", at.pem("root"), "-untrusted", at.pem("province"))
    check += ("-untrusted", at.pem("city"), "-CRLfile", at.lists(), leaf)
    assert judged(*check).endswith("leaf.pem: OK\n")
    gnutls = ("certtool", "--verify", "--load-ca-certificate", tmp_path / "root.pem", "--infile", leaf)
    gnutls += ("--load-crl", tmp_path / "lists.pem")
    has_gnutls = shutil.which("certtool") is not None
    if has_gnutls:
        assert "Chain verification output: Verified." in judged(*gnutls)

    serial = x509.load_pem_x509_certificate((tmp_path / "province.pem").read_bytes()).serial_number
    revoke = f"revoke:\n  - {{serial: {serial:x}, reason: cACompromise}}\n"
    at.ceremony("lost", LISTS + revoke)
    (third,) = set(at.out.glob("root-1-0-*.crl")) - {first, second}
    shown = judged("openssl", "crl", "-in", third, "-inform", "DER", "-noout", "-text")
    assert f"{serial:X}" in shown
    assert "CA Compromise" in shown
    taken = jinshi("crl", "take-in", "root", third, "--json").json
    assert taken["revoked"] == [f"{serial:040x}"]
    jinshi("crl", "publish")
    assert "certificate revoked" in judged(*check[:-2], at.lists(), leaf)
    if has_gnutls:
        assert "revoked" in judged(*gnutls)
    assert status_of(at, place) == "revoked"
    assert "issues nothing" in jinshi(*issue, "--csr", csr(tmp_path, "b"), code=1).stderr
    jinshi("verify")


def csr(folder: Path, name: str) -> Path:
    file = folder / f"{name}.csr"
    builder = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Parks")]))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(f"{name}.parks.example")]), critical=False)
    )
    file.write_bytes(builder.sign(ec.generate_private_key(ec.SECP256R1()), SHA256()).public_bytes(Encoding.DER))
    return file


def status_of(at: House, place: Path) -> str:
    """What a district without keys and without the ledger says of the province's certificate."""
    root, province = (x509.load_pem_x509_certificate(at.pem(name).read_bytes()) for name in ("root", "province"))
    assert issuer_of(root, P384).name == province.issuer.public_bytes()
    asked = format_ocsp_request([hashes_of(root).cert_id("sha256", f"{province.serial_number:040x}")], None)

    async def ask() -> bytes:
        remote = RemoteStatus(DirectoryStore(place), SystemClock())
        await remote.look()
        assert (await remote.crl("root", 1, 0, delta=False)).data == (at.folder / "newest.crl").read_bytes()
        return (await remote.ocsp(asked)).data

    at.online("crl", "show", "root", "--out", at.folder / "newest.crl")
    return told(asyncio.run(ask()))
