"""`jinshi cert` and `jinshi profile` over a real ledger: what was issued is shown, exported, and proven offline."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from cryptography import x509

from cli.config import read_environment
from cli.trust.opening import open_trust
from pki.access.base import Permit
from pki.ca import CertificateAuthority, Issued
from pki.core.profile import parse_profile
from pki.views.profiles import find_profile
from tests.support.cli import PASSPHRASE, Jinshi, ledger_in
from tests.support.trust import HeldKeys, Permissive, SetClock, TrustBench
from tests.support.trust_authorities import city_authority
from tests.support.trust_requests import order


def issued_in(jinshi: Jinshi, *profiles: str) -> list[Issued]:
    """A root, a city's authority, and a certificate of each profile, in the ledger of the commands."""
    return asyncio.run(_issue(jinshi, *profiles))


async def _issue(jinshi: Jinshi, *profiles: str) -> list[Issued]:
    assert jinshi.ledger is not None
    async with open_trust(jinshi.ledger, read_environment(jinshi.environ()), PASSPHRASE) as trust:
        journal = trust.journal
        bench = TrustBench(
            *(None, None, journal, trust.index, SetClock(journal.clock.now()), HeldKeys(), Permissive())  # type: ignore[arg-type]
        )
        await city_authority(bench)
        ca = CertificateAuthority(journal, trust.index, bench.keys)
        permit = Permit(trust.caller, "certificate.issue", "tester", ("test",))
        tokens = [
            await ca.prepare(order(find_profile(trust.index.book, name), request_id=f"request:{name}"), permit=permit)
            for name in profiles
        ]
        return await ca.issue_many(tokens)


@pytest.fixture
def jinshi(tmp_path: Path) -> Jinshi:
    return ledger_in(tmp_path)


def test_what_was_issued_is_shown_listed_and_exported_with_its_proofs(jinshi: Jinshi, tmp_path: Path) -> None:
    server, person = issued_in(jinshi, "tls-server", "person")
    shown = jinshi("cert", "show", server.serial).out
    assert "www.city.example" in shown
    assert "built in" in shown
    found = jinshi("cert", "show", ":".join(person.serial[n : n + 2].upper() for n in range(0, 40, 2)), "--json").json
    assert (found["state"], found["holder"], found["names"]) == (
        "issued",
        "person:a",
        ["email:zhang.san@city.example"],
    )
    assert [one["serial"] for one in jinshi("cert", "list", "--holder", "person:a", "--json").json_lines] == [
        person.serial
    ]
    assert len(jinshi("cert", "list", "--authority", "city", "--json").json_lines) == 2
    assert [one["serial"] for one in jinshi("cert", "list", "--expiring", "91", "--json").json_lines] == [server.serial]
    assert server.serial in jinshi("cert", "list").out

    file = tmp_path / "www.pem"
    jinshi("replicate", "--once")
    jinshi("cert", "export", server.serial, "-o", file, "--chain", "--receipt")
    exported = x509.load_pem_x509_certificates(file.read_bytes())
    assert exported[0] == x509.load_der_x509_certificate(server.certificate)
    exported[0].verify_directly_issued_by(exported[1])
    assert server.serial in jinshi("cert", "show", file).out
    assert jinshi.ledger is not None
    for name in ("intended", "issued"):
        proof = tmp_path / f"www.pem.{name}.tlog-proof"
        policy = jinshi.ledger / "trust.policy"
        jinshi.at(None)("verify", proof, "--entry", f"{proof}.entry", "--policy", policy)

    jinshi("cert", "show", "00" * 20, code=2)
    jinshi("cert", "show", "nonsense", code=2)
    other = tmp_path / "other.pem"
    other.write_bytes(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    jinshi("cert", "show", other, code=2)


def test_a_profile_is_recorded_in_versions_and_a_mistake_is_named(jinshi: Jinshi, tmp_path: Path) -> None:
    assert {"tls-server", "officer", "time-stamping"} <= {
        one["name"] for one in jinshi("profile", "list", "--json").json_lines
    }
    file = tmp_path / "profile.json"
    profile = jinshi("profile", "show", "tls-server", "--json").json
    file.write_text(json.dumps(profile | {"validity_day": 30}))
    assert "did you mean 'validity_days'" in jinshi("profile", "set", file, code=2).stderr
    file.write_text("name: tls-server\ntitle: 短期\nkeys: [P-256]\nvalidity_days: 7\nrenew_before_days: 2\n"
                    "key_usage: [digitalSignature]\nextended_key_usage: [serverAuth]\n"
                    "names: [dns]\nnames_required: [dns]\n")  # fmt: skip
    assert "version 1" in jinshi("profile", "set", file).out
    jinshi("profile", "set", file, code=1)
    assert "7" in jinshi("profile", "show", "tls-server").out
    assert jinshi("profile", "show", "tls-server", "--version", "0", "--json").json == profile
    jinshi("profile", "show", "tls-servr", code=2)
    (issued,) = issued_in(jinshi, "tls-server")
    assert jinshi("cert", "show", issued.serial, "--json").json["profile_version"] == 1
    assert parse_profile(file.read_bytes()).title == "短期"
