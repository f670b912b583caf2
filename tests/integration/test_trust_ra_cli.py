"""`jinshi ra` and `cert issue`: from an identity to a certificate, makers and checkers, a batch, what ends."""

from __future__ import annotations

import csv
from base64 import b64encode
from pathlib import Path

import pytest
from cryptography import x509

from tests.support.cli import Jinshi, ledger_in
from tests.support.trust_registration import csr


@pytest.fixture
def jinshi(tmp_path: Path) -> Jinshi:
    made = ledger_in(tmp_path)
    made("ca", "init", "--organization", "City", "--status-url", "http://pki.city.example")
    return made


def test_from_an_identity_to_a_certificate(jinshi: Jinshi, tmp_path: Path) -> None:
    deed = tmp_path / "deed.txt"
    deed.write_text("signed and sealed")
    jinshi("ra", "identity", "add", "organisation:parks", "公园管理处")
    asked = ("--authority", "issuing", "--holder", "organisation:parks")
    request = tmp_path / "www.csr"
    request.write_bytes(csr("dns:www.parks.example"))
    refused = jinshi("cert", "issue", "--csr", request, *asked, "--profile", "tls-server", code=2)
    assert "not vetted" in refused.stderr
    vetting = ("--method", "seen in person", "--name", "dns:.parks.example", "--evidence", deed)
    jinshi("ra", "identity", "vet", "organisation:parks", *vetting)
    shown = jinshi("ra", "identity", "show", "organisation:parks", "--json").json
    assert shown["names"] == ["dns:.parks.example"]

    out = tmp_path / "www.pem"
    jinshi("cert", "issue", "--csr", request, *asked, "--profile", "tls-server", "--id", "1", "--out", out)
    leaf, issuing = x509.load_pem_x509_certificates(out.read_bytes())[:2]
    leaf.verify_directly_issued_by(issuing)
    again = jinshi("ra", "request", request, *asked, "--profile", "tls-server", "--id", "1", "--json").json
    assert again["serial"] == f"{leaf.serial_number:040x}"
    (listed,) = jinshi("ra", "list", "--json").json_lines
    assert (listed["state"], listed["serial"]) == ("issued", again["serial"])
    assert again["serial"] in jinshi("ra", "show", listed["request"]).out
    assert [one["serial"] for one in jinshi("ra", "expiring", "--days", "91", "--json").json_lines] == [again["serial"]]
    assert jinshi("ra", "expiring", "--json").json_lines == []

    jinshi("ra", "identity", "suspend", "organisation:parks", "--because", "under investigation")
    assert jinshi("cert", "show", again["serial"], "--json").json["state"] == "held"
    jinshi("ra", "identity", "resume", "organisation:parks")
    assert jinshi("cert", "show", again["serial"], "--json").json["state"] == "issued"
    # What the founder has asked for, the founder cannot approve.
    code = tmp_path / "code.csr"
    code.write_bytes(csr(key="code", subject={"C": "CN", "O": "Parks", "CN": "Parks"}))
    waiting = jinshi("ra", "request", code, *asked, "--profile", "code-signing", "--json").json
    assert waiting["missing_approvals"] == 2
    assert "requester-never-approves" in jinshi("ra", "approve", waiting["request"], code=2).stderr
    jinshi("ra", "withdraw", waiting["request"])
    jinshi("ra", "reject", waiting["request"], "--because", "late", code=1)


def test_a_batch_is_enrolled_once_and_names_its_bad_rows(jinshi: Jinshi, tmp_path: Path) -> None:
    jinshi("ra", "identity", "add", "organisation:parks", "Parks")
    jinshi("ra", "identity", "vet", "organisation:parks", "--method", "known", "--name", "dns:.parks.example")
    (tmp_path / "b.csr").write_bytes(csr("dns:b.parks.example", key="b"))
    table = tmp_path / "spring.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "authority", "profile", "holder", "csr"])
        where = ("issuing", "tls-server", "organisation:parks")
        writer.writerow(["a", *where, b64encode(csr("dns:a.parks.example", key="a")).decode()])
        writer.writerow(["b", *where, "@b.csr"])
        writer.writerow(["c", *where, "@missing.csr"])
    for _ in range(2):
        ran = jinshi("ra", "bulk", table, code=1)
        assert "1 row led to no request" in ran.stderr
        with (tmp_path / "spring.csv.outcomes.csv").open() as file:
            found = list(csv.DictReader(file))
        assert [(one["line"], one["state"]) for one in found] == [("2", "issued"), ("3", "issued"), ("4", "invalid")]
    assert len(jinshi("ra", "list", "--state", "issued", "--json").json_lines) == 2
