"""The drill of the trust service: its site is lost, the ledger comes back from another, and it goes on issuing."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from tests.support.cli import Jinshi

HOLDER = "organisation:roads"
FIRST, SECOND = "the first one", "a new one"


def request(directory: Path, name: str) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    )
    csr = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False).sign(key, SHA256())
    path = directory / f"{name}.csr"
    path.write_bytes(csr.public_bytes(Encoding.PEM))
    return path


def issue(jinshi: Jinshi, directory: Path, name: str) -> str:
    wanted = ("--authority", "issuing", "--profile", "tls-server", "--holder", HOLDER)
    jinshi("cert", "issue", "--csr", request(directory, name), *wanted, "--out", directory / f"{name}.pem")
    certificate = x509.load_pem_x509_certificate((directory / f"{name}.pem").read_bytes())
    return f"{certificate.serial_number:040x}"


def everything(jinshi: Jinshi, serials: list[str], numbers: list[int]) -> dict[str, bytes]:
    """All that the service can be asked for."""
    found = {
        line: jinshi(*line.split()).stdout
        for line in (
            "ca list --json",
            "cert list --json",
            "ra list --json",
            "ra identity list --json",
            "crl list --json",
        )
    }
    found["officers"] = jinshi("officer", "list", "--json").stdout
    found["profile"] = jinshi("profile", "show", "tls-server").stdout
    for serial in serials:
        chain = jinshi.directory / "chain.pem"
        jinshi("cert", "export", serial, "--chain", "-o", chain)
        found[serial] = chain.read_bytes()
        assert found[serial].count(b"BEGIN CERTIFICATE") == 2
        chain.unlink()
    for number in numbers:
        file = jinshi.directory / "list.crl"
        jinshi("crl", "show", "issuing", "--number", number, "--out", file)
        found[f"crl {number}"] = file.read_bytes()
        file.unlink()
    return found


def folded(ledger: Path) -> list[tuple[str, list[tuple[object, ...]]]]:
    """Every table of the index, row by row."""
    with sqlite3.connect(ledger / "trust.sqlite") as database:
        names = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1")]
        tables = [(name, database.execute(f'SELECT * FROM "{name}"').fetchall()) for name in names if name != "reached"]
    database.close()
    return [(name, rows) for name, rows in tables if not name.startswith("sqlite_")]


def numbers_of(jinshi: Jinshi) -> list[int]:
    return [one["number"] for one in jinshi("crl", "list", "issuing", "--all", "--json").json_lines]


@pytest.mark.slow
def test_a_lost_authority_is_rebuilt_from_a_site_byte_for_byte_and_goes_on(tmp_path: Path) -> None:
    jinshi = Jinshi(tmp_path, tmp_path / "ledger").with_environment(JINSHI_PASSPHRASE=FIRST)
    jinshi("init", tmp_path / "ledger", "--origin", "ledger.test/trust")
    jinshi("ca", "init", "--status-url", "http://pki.city.example")
    jinshi("ra", "identity", "add", HOLDER, "交通局")
    jinshi("ra", "identity", "vet", HOLDER, "--method", "seen in person", "--name", "dns:.roads.example")
    serials = [issue(jinshi, tmp_path, f"{name}.roads.example") for name in ("a", "b", "c")]
    jinshi("crl", "issue", "issuing")
    jinshi("cert", "revoke", serials[0], "--reason", "keyCompromise")
    jinshi("cert", "hold", serials[1])
    jinshi("crl", "issue", "issuing")
    numbers = numbers_of(jinshi)
    before, index = everything(jinshi, serials, numbers), folded(jinshi.directory / "ledger")
    # Nothing was waited for but what each act itself waits for: a quorum of the copies had it before it was answered.
    shutil.copy(tmp_path / "ledger-keys" / "recovery.key", tmp_path / "recovery.key")
    shutil.copy(tmp_path / "ledger" / "trust.policy", tmp_path / "trust.policy")
    (tmp_path / "custodians").write_text(FIRST)
    sizes = {one["name"]: one["size"] for one in jinshi("status", "--json").json["sites"]}
    newest = max(sizes, key=lambda name: sizes[name])
    (tmp_path / "ledger-sites" / newest).rename(tmp_path / "survivor")
    for name in ("ledger", "ledger-keys", "ledger-sites"):
        shutil.rmtree(tmp_path / name)

    restored = jinshi.at(tmp_path / "restored").with_environment(JINSHI_PASSPHRASE=SECOND)
    recovery = ("--recovery-key", tmp_path / "recovery.key", "--recovery-passphrase-file", tmp_path / "custodians")
    place = ("--from", tmp_path / "survivor", "--policy", tmp_path / "trust.policy", "--to", tmp_path / "restored")
    restored.at(None)("restore", "ledger", *place, *recovery)
    assert everything(restored, serials, numbers) == before
    assert folded(tmp_path / "restored") == index

    assert "ca keys recover" in restored("crl", "issue", "issuing", code=2).stderr
    restored("ca", "keys", "recover", *recovery)
    another = issue(restored, tmp_path, "d.roads.example")
    assert another not in {one["serial"] for one in restored("cert", "list", "--json").json_lines} - {another}
    assert another not in serials
    restored("cert", "release", serials[1])
    restored("crl", "issue", "issuing")
    assert max(numbers_of(restored)) > max(numbers)
    file = tmp_path / "newest.crl"
    restored("crl", "show", "issuing", "--out", file)
    revoked = x509.load_der_x509_crl(file.read_bytes())
    assert [one.serial_number for one in revoked] == [int(serials[0], 16)]
    for name in ("root", "issuing"):
        restored("ca", "export", name, "-o", tmp_path / f"{name}.pem")
    (tmp_path / "newest.pem").write_bytes(revoked.public_bytes(Encoding.PEM))
    check = [
        "openssl",
        "verify",
        "-crl_check",
        "-CAfile",
        tmp_path / "root.pem",
        "-untrusted",
        tmp_path / "issuing.pem",
    ]
    check += ["-CRLfile", tmp_path / "newest.pem"]
    for name, good in (("a", False), ("b", True), ("d", True)):
        done = subprocess.run([*check, tmp_path / f"{name}.roads.example.pem"], capture_output=True, check=False)
        assert (done.returncode == 0) == good, done.stderr
