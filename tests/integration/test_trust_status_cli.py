"""Status from the command line: real processes, a primary that goes away, and a site that goes on without it."""

from __future__ import annotations

import asyncio
import subprocess
import urllib.request
from pathlib import Path
from urllib.error import HTTPError

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cli.config import read_environment
from cli.trust.opening import open_trust
from cli.wiring.keystores import open_keystores
from ledger.core.encoding import encode_base64
from pki.access.base import Permit
from pki.aggregates.authority import Authority
from pki.ca import CertificateAuthority
from pki.core.algorithms import P256
from pki.core.crl import applied
from pki.core.settings import AuthoritySettings
from tests.support.cli import PASSPHRASE, Jinshi, ledger_in
from tests.support.roles import running, until
from tests.support.trust import HeldKey, HeldKeys, Permissive, SetClock, TrustBench
from tests.support.trust_authorities import STATUS_URL, ca_certificate, name_of
from tests.support.trust_requests import order


async def city_in(jinshi: Jinshi, settings: AuthoritySettings, count: int) -> tuple[bytes, list[x509.Certificate]]:
    """An authority `city` with its key in a file, and certificates of it; returns its own, and those."""
    assert jinshi.ledger is not None
    environment = read_environment(jinshi.environ())
    async with open_trust(jinshi.ledger, environment, PASSPHRASE) as trust:
        keys = open_keystores(trust.paths, environment, PASSPHRASE)
        reference = await keys.generate("city-1", P256)
        key = HeldKey((await keys.open(reference)).private)
        journal, clock = trust.journal, SetClock(trust.journal.clock.now())
        bench = TrustBench(None, None, journal, trust.index, clock, HeldKeys(), Permissive())  # type: ignore[arg-type]
        subject = name_of("某市证书颁发机构")
        certificate = ca_certificate(bench, subject, key, subject, key, days=3_650, path_length=0)
        authority = Authority("city", "", settings.recorded(), timestamp=clock.now())
        authority.add_key(reference, P256.name, encode_base64(key.public), timestamp=clock.now())
        authority.certify(1, encode_base64(certificate), timestamp=clock.now())
        permit = Permit(trust.caller, "certificate.issue", "tester", ("test",))
        await journal.save(authority, permit=permit)
        await trust.index.catch_up()
        ca = CertificateAuthority(journal, trust.index, keys)
        tokens = [
            await ca.prepare(order(names=[f"dns:host-{n}.example"], request_id=f"request:{n}"), permit=permit)
            for n in range(count)
        ]
        issued = await ca.issue_many(tokens)
        await keys.close()
    return certificate, [x509.load_der_x509_certificate(one.certificate) for one in issued]


def pem(path: Path, certificate: x509.Certificate) -> Path:
    path.write_bytes(certificate.public_bytes(Encoding.PEM))
    return path


def openssl_says(url: str, directory: Path, certificate: x509.Certificate) -> str:
    """What `openssl ocsp` is told, verified."""
    done = subprocess.run(
        [
            *("openssl", "ocsp", "-issuer", directory / "city.pem", "-cert", pem(directory / "asked.pem", certificate)),
            *("-url", f"{url}/ocsp", "-CAfile", directory / "city.pem", "-no_nonce"),
        ],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    said = done.stdout + done.stderr
    if "Responder Error" in said:
        return said.split("Responder Error:")[1].split()[0]
    assert "Response verify OK" in said, said
    return said.split("asked.pem: ")[1].split()[0]


def fetched(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as answer:
        data: bytes = answer.read()
        return data


@pytest.fixture
def primary(tmp_path: Path) -> Jinshi:
    return ledger_in(tmp_path)


def test_a_site_answers_on_while_the_primary_is_gone(primary: Jinshi, tmp_path: Path) -> None:
    settings = AuthoritySettings(status_url=STATUS_URL, delta_every_s=600, ocsp_valid_s=3_600)
    authority, certificates = asyncio.run(city_in(primary, settings, 4))
    pem(tmp_path / "city.pem", x509.load_der_x509_certificate(authority))
    place = tmp_path / "remote"
    primary("crl", "publish-to", "remote", place)
    assert "1 place up to date" in primary("crl", "publish").out
    assert [one.get("waiting", one.get("state")) for one in primary("crl", "status", "--json").json_lines] == [
        0,
        "up to date",
    ]
    serials = [f"{one.serial_number:040x}" for one in certificates]
    elsewhere = Jinshi(tmp_path, None)
    log = tmp_path / "serve.log"
    with running(elsewhere, "crl", "serve", "--from", place, "--every", "0.2", log=log) as (process, url):
        assert [openssl_says(url, tmp_path, one) for one in certificates] == ["good"] * 4
        assert fetched(f"{url}/ca/city-1.cer") == authority

        # Revoked at the primary, known at the site once it is published.
        primary("cert", "revoke", serials[0], "--reason", "keyCompromise", "--since", "2026-11-01")
        primary("cert", "hold", serials[1])
        file = tmp_path / "many.txt"
        file.write_text("\n".join(serials[2:3]))
        assert "1 certificate revoked" in primary("cert", "revoke", "--file", file, "--authority", "city").out
        row, _ = primary("crl", "status", "--json").json_lines
        assert (row["waiting"], row["late"]) == (3, False)
        primary("crl", "issue", "city", "--delta")
        primary("cert", "release", serials[1])
        full = primary("crl", "issue", "city", "--out", tmp_path / "full.crl", "--json").json
        primary("crl", "publish")
        until(
            "the site has the newer list",
            lambda: fetched(f"{url}/crl/city-1-0.crl") == (tmp_path / "full.crl").read_bytes(),
        )
        crl = x509.load_der_x509_crl((tmp_path / "full.crl").read_bytes())
        assert applied(crl, None) == {int(serials[0], 16): "keyCompromise", int(serials[2], 16): "unspecified"}

        # The primary is lost, with its keys; the site goes on with what it has.
        shown = primary("crl", "show", "city", "--number", full["number"], "--out", tmp_path / "again.crl").out
        assert full["sha256"] in shown
        assert (tmp_path / "again.crl").read_bytes() == (tmp_path / "full.crl").read_bytes()
        assert len(primary("crl", "list", "city", "--all", "--json").json_lines) >= 3
        assert primary.ledger is not None
        primary.ledger.rename(tmp_path / "lost")
        assert [openssl_says(url, tmp_path, one) for one in certificates] == ["revoked", "good", "revoked", "good"]
        assert fetched(f"{url}/readyz")
        assert process.poll() is None


def test_what_cannot_be_done_is_said_in_a_line(primary: Jinshi, tmp_path: Path) -> None:
    asyncio.run(city_in(primary, AuthoritySettings(status_url=STATUS_URL), 1))
    primary("crl", "issue", "nobody", code=2)
    primary("crl", "list", "nobody", code=2)
    primary("crl", "issue", "city", "--delta", code=2)
    primary("crl", "show", "city", code=2)
    assert "late" in primary("crl", "status", code=1).stderr
    primary("crl", "publish-to", "x", code=2)
    primary("crl", "publish-to", "X Y", "/srv", code=2)
    primary("crl", "publish-to", "x", "ftp://nowhere", code=2)
    primary("crl", "publish-to", "x", "--none", code=2)
    primary("cert", "revoke", "12", "--reason", "superseded", code=2)
    primary("cert", "revoke", "--reason", "superseded", code=2)
    primary("cert", "hold", "no-serial", code=2)
    primary("crl", "publish-to", "away", tmp_path / "no" / "such" / "place")
    ran = primary("crl", "publish", code=1)
    assert "place away" in ran.stderr
    primary("crl", "publish-to", "away", "--none")
    primary("crl", "publish")
    primary("crl", "status")
    Jinshi(tmp_path, None)("crl", "serve", "--from", tmp_path / "nothing-there", "--listen", "nonsense", code=2)


def test_a_site_without_anything_published_says_so(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    with running(Jinshi(tmp_path, None), "crl", "serve", "--from", place, log=tmp_path / "log") as (_, url):
        for path in ("/crl/city-1-0.crl", "/readyz"):
            with pytest.raises(HTTPError) as refused:
                fetched(url + path)
            with refused.value as error:
                assert error.code == 503
