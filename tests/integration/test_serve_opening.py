"""`open=true`: what is sealed is shown over HTTP to whom the operator opens it, and to nobody else."""

from __future__ import annotations

import hashlib
import json
import ssl
from pathlib import Path

import httpx
import pytest

from ledger.http.receive import STRUCTURED
from tests.support.certificates import Authority, Issued
from tests.support.cli import Jinshi
from tests.support.http_api import structured
from tests.support.serving import serving

JSON_TYPE = {"content-type": STRUCTURED}
MARK = "a flat in 桥东区"
PERSONAL = "urn:residents"


@pytest.fixture
def jinshi(tmp_path: Path) -> Jinshi:
    """The command, with a new ledger that seals, and a personal source."""
    command = Jinshi(tmp_path)
    command("init", tmp_path / "ledger", "--no-sites")
    command = command.at(tmp_path / "ledger")
    command("source", "declare", PERSONAL, "--personal")
    return command


def fill(client: httpx.Client) -> tuple[int, int]:
    """One entry of a sealed source and one of a personal one; their indexes."""
    data = json.dumps({"note": MARK}, ensure_ascii=False, separators=(",", ":"))  # canonical: it is shown as JSON
    sealed = client.post("/events", content=structured("1", source="urn:cases", data=data), headers=JSON_TYPE)
    hidden = structured("r-17/1", source=PERSONAL, subject="r-17", data=data)
    return sealed.json()["index"], client.post("/events", content=hidden, headers=JSON_TYPE).json()["index"]


def test_what_is_sealed_is_shown_opened_on_every_way_of_reading(jinshi: Jinshi) -> None:
    with serving(jinshi, "--open-to", "all") as (_, url), httpx.Client(base_url=url) as client:
        sealed, personal = fill(client)
        assert MARK not in client.get("/events").text
        stored = client.get(f"/events/{personal}").json()
        assert stored["subject"].startswith("p-")
        assert "keyid" in stored

        opened = client.get(f"/events/{personal}", params={"open": "true"})
        assert opened.headers["cache-control"] == "no-store"
        found = opened.json()
        assert (found["id"], found["subject"], found["data"]) == ("r-17/1", "r-17", {"note": MARK})
        assert "keyid" not in found
        assert {name: found[name] for name in ("time", "streamversion")} == {
            name: stored[name] for name in ("time", "streamversion")
        }

        page = client.get("/events", params={"open": "true", "source": PERSONAL, "subject": "r-17"}).json()["events"]
        assert [(one["index"], one["event"]["data"]["note"]) for one in page] == [(personal, MARK)]
        everything = client.get("/events", params={"open": "true"}).json()["events"]
        assert [one["index"] for one in everything if one["event"].get("data") == {"note": MARK}] == [sealed, personal]
        stream = client.get("/events/stream", params={"open": "true", "follow": "false", "from": str(sealed)}).text
        assert stream.count(MARK) == 2
        assert MARK not in client.get("/events/stream", params={"follow": "false"}).text


def test_what_is_erased_stays_closed(jinshi: Jinshi) -> None:
    with serving(jinshi, "--open-to", "all") as (_, url), httpx.Client(base_url=url) as client:
        sealed, _ = fill(client)
        jinshi("erase", "r-17", "--source", PERSONAL, "--reason", "request 2026-17")
        second = jinshi.with_environment(LOGNAME="second", USER="second")
        second("erase", "r-17", "--source", PERSONAL, "--approve")
        page = client.get("/events", params={"open": "true", "from": str(sealed), "limit": "2"}).json()["events"]
        assert page[0]["event"]["data"] == {"note": MARK}
        assert "keyid" in page[1]["event"]
        assert MARK not in json.dumps(page[1], ensure_ascii=False)


def test_nobody_is_shown_what_is_sealed_unless_it_was_said(jinshi: Jinshi) -> None:
    with serving(jinshi) as (_, url), httpx.Client(base_url=url) as client:
        sealed, _ = fill(client)
        for path in ("/events", "/events/stream", f"/events/{sealed}"):
            answer = client.get(path, params={"open": "true"})
            assert (answer.status_code, answer.json()["type"]) == (403, "urn:jinshi:problem:not-permitted")
            assert "--open-to" in answer.text
        assert client.get(f"/events/{sealed}", params={"open": "false"}).json()["keyid"]


def test_over_tls_the_certificate_decides_who_is_shown_it(jinshi: Jinshi, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    server, clerk, other = (authority.issue("server", server=True), authority.issue("clerk"), authority.issue("other"))
    options = ("--tls-cert", server.certificate, "--tls-key", server.key, "--client-ca", authority.file)
    spelt = ":".join(f"{byte:02X}" for byte in hashlib.sha256(clerk.der).digest())  # as openssl writes it

    def caller(who: Issued) -> httpx.Client:
        context = ssl.create_default_context(cafile=str(authority.file))
        context.load_cert_chain(who.certificate, who.key)
        return httpx.Client(base_url=url, verify=context)

    with serving(jinshi, *map(str, options), "--open-to", spelt) as (_, url):
        with caller(other) as client:
            sealed, _ = fill(client)
            assert client.get(f"/events/{sealed}", params={"open": "true"}).status_code == 403
        with caller(clerk) as client:
            assert client.get(f"/events/{sealed}", params={"open": "true"}).json()["data"] == {"note": MARK}


def test_a_fingerprint_that_is_none_is_refused(jinshi: Jinshi) -> None:
    ran = jinshi("serve", "--open-to", "the clerk", code=2)
    assert "openssl x509" in ran.stderr
