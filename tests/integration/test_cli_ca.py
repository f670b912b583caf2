"""`jinshi ca`: a first authority in one command, an offline root, other houses, and everything back at another site."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    pkcs12,
)

from pki.core.algorithms import P256, RSA_3072, generate
from pki.keystore.openbao import open_client
from tests.support.cli import PASSPHRASE, Jinshi
from tests.support.hsm import PIN, hsm_module, hsm_tokens
from tests.support.openbao import openbao

ROOT = """
format: 1
ceremony: root-2027
title: The root of 某省
custodians: {needed: 2, names: [zhang, li, wang]}
root:
  name: root
  subject: C=CN, O=某省, CN=Root 2027
  algorithm: P-384
  days: 7300
  path_length: 1
"""
SIGN = """
format: 1
ceremony: city-2027
title: The city
authority: root
sign:
  - {request: city.csr, sha256: DIGEST, days: 3650, path_length: 0, permitted: ["dns:city.example"]}
"""


@pytest.fixture
def jinshi(tmp_path: Path) -> Jinshi:
    made = Jinshi(tmp_path, tmp_path / "ledger")
    made("init", tmp_path / "ledger")
    return made


def verified(jinshi: Jinshi, name: str) -> bool:
    """By OpenSSL, against the exported root."""
    folder = jinshi.directory
    jinshi("ca", "export", name, "--chain", "-o", folder / "chain.pem")
    jinshi("ca", "export", "root", "-o", folder / "root.pem")
    command = ["openssl", "verify", "-x509_strict", "-CAfile", "root.pem", "-untrusted", "chain.pem", "chain.pem"]
    return subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode == 0


def test_one_command_makes_what_a_first_certificate_needs(jinshi: Jinshi) -> None:
    assert "ca init" in jinshi("ca", "list").out
    jinshi("ca", "init", "--organization", "某市, 数据局", "--status-url", "http://pki.city.example")
    assert verified(jinshi, "issuing")
    listed = jinshi("ca", "list", "--json").json_lines
    assert [(one["name"], one["parent"], one["state"]) for one in listed] == [
        ("root", None, "active"),
        ("issuing", "root", "active"),
    ]
    assert "CN=某市\\, 数据局 Issuing" in jinshi("ca", "show", "issuing").out
    assert "already" in jinshi("ca", "init", code=1).stderr
    subject = ("--subject", "C=CN, CN=X")
    assert "path length 0" in jinshi("ca", "create", "x", "--parent", "issuing", *subject, code=2).stderr
    assert "no algorithm" in jinshi("ca", "create", "x", *subject, "--algorithm", "SM2", code=2).stderr
    assert "how long" in jinshi("ca", "create", "x", *subject, code=2).stderr
    assert (
        "JINSHI_PKCS11_MODULE"
        in jinshi("ca", "create", "x", *subject, "--days", 9, "--at", "pkcs11:token=t", code=2).stderr
    )
    assert "no place" in jinshi("ca", "create", "x", *subject, "--days", 9, "--at", "gopher:", code=2).stderr
    jinshi("ca", "rollover", "root", "--algorithm", "ML-DSA-65")
    assert jinshi("ca", "export", "root", "--all").out.count("BEGIN") == 4
    assert verified(jinshi, "issuing") is False, "under the root before"
    assert jinshi("ca", "export", "issuing", "--chain").out.count("BEGIN") == 2
    jinshi("ca", "amend", "issuing", "--set", "shards=4")
    assert jinshi("ca", "show", "issuing", "--json").json["settings"]["shards"] == 4
    assert "no setting" in jinshi("ca", "amend", "issuing", "--set", "shrds=4", code=2).stderr
    labels = [one["label"] for one in jinshi("ca", "keys", "list", "--json").json_lines]
    assert "uses the key" in jinshi("ca", "keys", "retire", labels[1], code=1).stderr
    assert "file:" in jinshi("ca", "keys", "retire", labels[0]).out
    assert "retired" in jinshi("ca", "keys", "retire", labels[0], code=1).stderr
    jinshi("ca", "retire", "issuing")
    assert "retired" in jinshi("ca", "rollover", "issuing", code=1).stderr
    assert jinshi("ca", "show", "nobody", code=2).stderr


def test_what_is_asked_for_on_stdout_is_alone_there(jinshi: Jinshi, tmp_path: Path) -> None:
    jinshi("ca", "init", "--organization", "x")
    root = jinshi("ca", "export", "root").stdout
    assert root.startswith(b"-----BEGIN CERTIFICATE")
    assert jinshi("ca", "export", "root", "-o", "-").stdout == root
    piped = jinshi.process("ca", "export", "root", "-o", "/dev/stdout").stdout
    assert (piped.removesuffix(b"/dev/stdout is written\n"), Path("/dev/stdout").is_symlink()) == (root, True)
    crl = jinshi("crl", "issue", "issuing", "--out", "-").stdout
    assert x509.load_der_x509_crl(crl).issuer.rfc4514_string().startswith("CN=x Issuing")
    serial = x509.load_pem_x509_certificate(root).serial_number
    assert jinshi("cert", "export", f"{serial:x}", "-o", "-").stdout == root
    assert "beside" in jinshi("cert", "export", f"{serial:x}", "-o", "-", "--receipt", code=2).stderr
    assert "two files" in jinshi("prove", 0, "-o", "-", code=2).stderr
    assert not list(tmp_path.glob("-*"))


def test_an_offline_root_signs_for_an_authority_online(jinshi: Jinshi, tmp_path: Path) -> None:
    vault = jinshi.at(tmp_path / "vault")
    vault("init", tmp_path / "vault")
    (tmp_path / "root.yaml").write_text(ROOT)
    assert "Root 2027" in vault("ca", "ceremony", "plan", tmp_path / "root.yaml").out
    assert "go somewhere" in vault("ca", "ceremony", "run", tmp_path / "root.yaml", code=2).stderr
    assert "there were none" in vault("ca", "ceremony", "list").out
    out = tmp_path / "signed"
    vault("ca", "ceremony", "run", tmp_path / "root.yaml", "--shares-to", tmp_path / "shares", "--out", out)
    shares = sorted((tmp_path / "shares").iterdir())
    assert [one.name.partition(".")[0] for one in shares] == ["li", "wang", "zhang"]
    assert {one.stat().st_mode & 0o777 for one in shares} == {0o600}
    assert not list((tmp_path / "vault" / "keys").glob("ca/*")), "the root's key lies nowhere"

    jinshi("ca", "import", "root", out / "root-2027-1.pem")
    subject = ("--subject", "C=CN, O=某市, CN=City")
    jinshi("ca", "request", "city", "--parent", "root", *subject, "-o", tmp_path / "city.csr")
    assert "elsewhere" in jinshi("ca", "create", "x", "--parent", "root", *subject, "--path-length", 0, code=2).stderr

    digest = hashlib.sha256((tmp_path / "city.csr").read_bytes()).hexdigest()
    (tmp_path / "city.yaml").write_text(SIGN.replace("DIGEST", digest))
    vault("ca", "ceremony", "plan", tmp_path / "city.yaml")
    run = ("ca", "ceremony", "run", tmp_path / "city.yaml", "--out", out)
    assert "1 of 2 custodians" in vault(*run, "--share", shares[0], code=2).stderr
    torn = tmp_path / "torn.share"
    torn.write_bytes(shares[1].read_bytes()[:-20])
    assert "word" in vault(*run, "--share", shares[0], "--share", torn, code=2).stderr
    vault(*run, "--share", shares[0], "--share", shares[2])
    jinshi("ca", "take-in", "city", out / "city-2027-1.pem")
    assert verified(jinshi, "city")
    transcript = vault("ca", "ceremony", "show", "city-2027", "--json").json
    assert (transcript["state"], transcript["present"]) == ("ended", ["zhang", "li"])
    assert transcript["file"] == hashlib.sha256((tmp_path / "city.yaml").read_bytes()).hexdigest()
    assert "certificate signed" in vault("ca", "ceremony", "show", "city-2027").out
    vault("verify")
    assert "2 of 3 shares" in vault("ca", "keys", "list").out


def test_keys_of_another_house_come_in_encrypted_only(jinshi: Jinshi, tmp_path: Path) -> None:
    key, name = generate(RSA_3072), x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Old CA")])
    config = ["-subj", "/CN=Old CA", "-days", "900", "-addext", "keyUsage=critical,keyCertSign,cRLSign"]
    plain = tmp_path / "plain.pem"
    plain.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    subprocess.run(
        ["openssl", "req", "-x509", "-key", plain, "-out", tmp_path / "old.pem", *config],
        check=True,
        capture_output=True,
    )
    certificate = x509.load_pem_x509_certificate((tmp_path / "old.pem").read_bytes())
    assert certificate.subject == name
    encryption = BestAvailableEncryption(PASSPHRASE.encode())
    (tmp_path / "old.p12").write_bytes(
        pkcs12.serialize_key_and_certificates(b"old", key, certificate, None, encryption)  # type: ignore[arg-type]
    )
    (tmp_path / "old.p8").write_bytes(key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, encryption))
    other = generate(P256).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    (tmp_path / "other.p8").write_bytes(other)
    old = ("ca", "import", "old", tmp_path / "old.pem")
    assert "not encrypted" in jinshi(*old, "--key", plain, code=2).stderr
    assert "not the one" in jinshi(*old, "--key", tmp_path / "other.p8", code=2).stderr
    (tmp_path / "wrong").write_text("wrong")
    wrong = ("--key-passphrase-file", tmp_path / "wrong")
    assert "does not open" in jinshi(*old, "--key", tmp_path / "old.p8", *wrong, code=2).stderr
    assert "no certificate" in jinshi("ca", "import", "x", "--key", tmp_path / "old.p8", code=2).stderr
    assert jinshi("ca", "list", "--json").out == ""
    jinshi("ca", "import", "old", "--key", tmp_path / "old.p12")
    jinshi("ca", "import", "again", tmp_path / "old.pem", "--key", tmp_path / "old.p8")
    jinshi("ca", "create", "city", "--parent", "old", "--subject", "CN=City", "--path-length", 0)
    jinshi("ca", "export", "city", "--chain", "-o", tmp_path / "chain.pem")
    command = ["openssl", "verify", "-CAfile", tmp_path / "old.pem", "-partial_chain", tmp_path / "chain.pem"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    jinshi("ca", "cross-certify", "old", tmp_path / "city.csr", "--days", 9, "-o", tmp_path / "x.pem", code=2)


def test_an_hsm_keeps_an_authoritys_key(jinshi: Jinshi, tmp_path: Path) -> None:
    tokens = hsm_tokens()
    environment = {"JINSHI_PKCS11_MODULE": hsm_module(), "SOFTHSM2_CONF": str(tokens.parent / "softhsm2.conf")}
    hsm = jinshi.with_environment(**environment, JINSHI_PKCS11_PIN=PIN)
    hsm.process("ca", "init", "--at", "pkcs11:token=contract")
    assert verified(hsm, "issuing")
    assert "as its keeper is backed up" in hsm.process("ca", "keys", "list").out
    create = ("ca", "create", "more", "--parent", "root", "--subject", "CN=More", "--days", 9, "--path-length", 0)
    wrong = jinshi.with_environment(**environment, JINSHI_PKCS11_PIN="0000")
    assert "PIN" in wrong.process(*create, code=2).stderr
    pin = tmp_path / "contract.pin"
    pin.write_text(PIN + "\n")
    pin.chmod(0o600)
    each = wrong.with_environment(JINSHI_PKCS11_PINS=f"locked=env:NOBODYS contract=file:{pin}")
    each.process("ca", "create", "each", *create[3:])
    gone = hsm.with_environment(SOFTHSM2_CONF=str(tokens.parent / "nothing"))
    assert "cannot be" in gone.process(*create, code=4).stderr


def test_openbao_keeps_keys_and_sealed_in_the_middle_leaves_nothing_half(jinshi: Jinshi, tmp_path: Path) -> None:
    with openbao(tmp_path / "bao") as server:
        place = f"openbao+{server.address}/transit"
        jinshi.with_environment(BAO_TOKEN=server.token)("ca", "init", "--at", place, "--algorithm", "P-384")
        rights = (("transit/sign/ca-*", ["update"]), ("transit/keys/ca-*", ["read"]))
        role, secret = server.app_role("signer", *rights)
        signer = jinshi.with_environment(BAO_ROLE_ID=role, BAO_SECRET_ID=secret)
        create = ("ca", "create", "city", "--parent", "root", "--subject", "CN=City", "--path-length", 0)
        assert "refuses" in signer(*create, "--at", place, code=4).stderr, "what signs makes no keys"
        server.seal()
        for more in ((), ("--at", place)):
            assert "sealed" in signer(*create, *more, code=4).stderr
        assert [one["name"] for one in signer("ca", "list", "--json").json_lines] == ["root", "issuing"]
        server.unseal()
        signer(*create)
        assert verified(signer, "city")
        server.stop()
        assert "cannot be used" in signer("ca", "rollover", "city", code=4).stderr
        assert len(signer("ca", "show", "city", "--json").json["keys"]) == 1


def test_everything_comes_back_at_another_site_and_issues_again(tmp_path: Path) -> None:
    jinshi = Jinshi(tmp_path, tmp_path / "ledger").with_environment(JINSHI_PASSPHRASE="the first one")
    jinshi("init", tmp_path / "ledger", "--origin", "ledger.test/ca")
    jinshi("ca", "init", "--algorithm", "ML-DSA-65")
    jinshi("ca", "create", "city", "--parent", "root", "--subject", "CN=City", "--path-length", 0)
    before = [jinshi("ca", "export", name, "--all").out for name in ("root", "issuing", "city")]
    shown = jinshi("ca", "show", "city", "--json").json
    jinshi("replicate", "--once")
    shutil.copy(tmp_path / "ledger-keys" / "recovery.key", tmp_path / "recovery.key")
    shutil.copy(tmp_path / "ledger" / "trust.policy", tmp_path / "trust.policy")
    (tmp_path / "custodians").write_text("the first one")
    (tmp_path / "ledger-sites" / "remote").rename(tmp_path / "remote")
    for name in ("ledger", "ledger-keys", "ledger-sites"):
        shutil.rmtree(tmp_path / name)

    restored = jinshi.at(tmp_path / "restored").with_environment(JINSHI_PASSPHRASE="a new one")
    recovery = ("--recovery-key", tmp_path / "recovery.key", "--recovery-passphrase-file", tmp_path / "custodians")
    place = ("--from", tmp_path / "remote", "--policy", tmp_path / "trust.policy", "--to", tmp_path / "restored")
    restored.at(None)("restore", "ledger", *place, *recovery)
    assert [restored("ca", "export", name, "--all").out for name in ("root", "issuing", "city")] == before
    assert restored("ca", "show", "city", "--json").json == shown
    create = ("ca", "create", "town", "--parent", "root", "--subject", "CN=Town", "--path-length", 0)
    assert "ca keys recover" in restored(*create, code=2).stderr
    assert "3 keys brought back" in restored("ca", "keys", "recover", *recovery).out
    assert "3 there already" in restored("ca", "keys", "recover", *recovery).out
    restored(*create)
    serials = [restored("ca", "show", name, "--json").json["keys"][0]["serial"] for name in ("city", "town")]
    assert len(set(serials)) == 2


def test_what_an_issuer_outside_has_made_behind_the_ledgers_back(jinshi: Jinshi, tmp_path: Path) -> None:
    assert "JINSHI_ISSUERS" in jinshi("ca", "strays", code=2).stderr
    with openbao(tmp_path / "bao") as server:
        server.enable_pki("pki")
        client = open_client(server.address, server.token, None)
        outside = jinshi.with_environment(
            JINSHI_ISSUERS=f"province=openbao+{server.address}/pki/ra", BAO_TOKEN=server.token
        )
        assert "there are none" in outside("ca", "strays").stderr
        made = client.write("pki/issue/ra", common_name="www.parks.example", key_type="ec", ttl="1h")["data"]
        serial = made["serial_number"].replace(":", "").rjust(40, "0")
        (found,) = outside("ca", "strays", "province", "--json", code=1).json_lines
        assert (found["authority"], found["serial"], found["request"]) == ("province", serial, None)
        assert "CN=www.parks.example" in outside("ca", "strays", code=1).out
        for wrong in (("ff", "--reason", "superseded"), (serial, "--reason", "boredom")):
            outside("ca", "strays", "province", "--revoke", *wrong, code=2)
        outside("ca", "strays", "province", "--revoke", made["serial_number"], "--reason", "privilegeWithdrawn")
        assert "there are none" in outside("ca", "strays").stderr
        assert outside("cert", "show", serial, "--json").json["state"] == "revoked"
        told = client.read(f"pki/cert/{made['serial_number'].replace(':', '-')}")["data"]
        assert told["revocation_time"]
