"""`jinshi site serve` as a real process with nothing of the primary: it cosigns, erases, is killed, and sees forks."""

from __future__ import annotations

import base64
import json
import shutil
import signal
import ssl
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from ledger.core.checkpoint import origin_prefix, parse_checkpoint
from ledger.core.note import parse_vkey
from ledger.core.proof import parse_receipt
from ledger.core.tiles import ENTRIES, decode_bundle, needed
from ledger.http.receive import STRUCTURED
from pki.keystore import file as keyfile
from replication.site import Pending, format_pending
from tests.support.certificates import Authority
from tests.support.cli import PASSPHRASE, Jinshi, contents, events, ledger_in
from tests.support.http_api import structured
from tests.support.roles import running, until
from tests.support.servers import S3Server
from tests.support.serving import serving
from tests.support.tlog import Log

JSON_TYPE = {"content-type": STRUCTURED}


@dataclass(frozen=True)
class Elsewhere:
    """The site `remote` of a ledger, its key with whoever runs it, and none of it on the primary."""

    primary: Jinshi
    jinshi: Jinshi
    place: Path
    log: Path

    @property
    def origin(self) -> str:
        return str(self.primary("status", "--json").json["origin"])

    @property
    def objects(self) -> Path:
        return self.place / origin_prefix(self.origin)[:-1]

    @property
    def command(self) -> tuple[object, ...]:
        return ("site", "serve", self.place, "--key", "remote.mirror.key", "--trust", "trust.policy", "--every", "0.1")

    def run(self, *more: object) -> AbstractContextManager[tuple[subprocess.Popen[bytes], str]]:
        return running(self.jinshi, *self.command, *more, log=self.log)

    def size(self) -> int:
        try:
            return parse_checkpoint((self.objects / "checkpoint").read_bytes()).checkpoint.size
        except FileNotFoundError:
            return 0

    def errors(self) -> list[dict[str, object]]:
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [line for line in lines if line["level"] == "error"]


@pytest.fixture
def elsewhere(tmp_path: Path) -> Elsewhere:
    return apart(ledger_in(tmp_path))


def apart(primary: Jinshi) -> Elsewhere:
    """Give the key of `remote` to another directory, which knows nothing else."""
    home = primary.directory / "elsewhere"
    home.mkdir()
    (primary.directory / "台账-keys" / "remote.mirror.key").rename(home / "remote.mirror.key")
    shutil.copy(primary.directory / "台账-keys" / "trust.policy", home)
    return Elsewhere(primary, Jinshi(home), primary.directory / "台账-sites" / "remote", home / "log")


def ready(url: str) -> Callable[[], bool]:
    return lambda: httpx.get(f"{url}/readyz").status_code == 200


def test_the_primary_ships_and_the_site_cosigns_by_itself(elsewhere: Elsewhere, tmp_path: Path) -> None:
    policy = tmp_path / "台账" / "trust.policy"
    policy.write_bytes(policy.read_bytes().replace(b"group sites 1 ", b"group sites 2 "))
    with elsewhere.run() as (process, site), serving(elsewhere.primary) as (_, url):
        params = {"receipt": "cosigned"}
        with httpx.Client(base_url=url, timeout=60) as client:
            answer = client.post("/events", content=structured("1"), headers=JSON_TYPE, params=params)
            assert answer.status_code == 201, answer.text
            receipt = parse_receipt(answer.json()["receipt"].encode())
        (tmp_path / "r.tlog-proof").write_text(answer.json()["receipt"])
        (tmp_path / "r.entry").write_bytes(httpx.get(f"{url}/events/{answer.json()['index']}").content)
        elsewhere.primary("verify", tmp_path / "r.tlog-proof", "--entry", tmp_path / "r.entry", "--policy", policy)
        shown = httpx.get(f"{site}/{origin_prefix(elsewhere.origin)}checkpoint").content
        assert parse_checkpoint(shown).checkpoint.size >= parse_checkpoint(receipt.checkpoint).checkpoint.size
        until("it is ready", ready(site))
        assert httpx.get(f"{site}/healthz").status_code == 200
        metrics = httpx.get(f"{site}/metrics").text
        assert f'jinshi_mirror_size{{origin="{elsewhere.origin}"}} {float(elsewhere.size())}' in metrics
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert not elsewhere.errors()
    state = [name for name in contents(elsewhere.jinshi.directory) if "-state/" in name]
    assert any(name.endswith("/cosigned") for name in state), "it remembers beside its key, apart from the site"


def test_a_call_wakes_it(elsewhere: Elsewhere) -> None:
    """It looks once an hour by itself: whatever is cosigned after the first look, was woken for."""
    with elsewhere.run("--every", "3600") as (_, site):
        until(
            "it has looked", lambda: "rounds_total" in (text := httpx.get(f"{site}/metrics").text) and "} 1.0" in text
        )
        with serving(elsewhere.primary, "--every", "0.2"):
            until("something is pending", (elsewhere.objects / "pending").is_file)
        assert elsewhere.size() == 0
        assert httpx.post(f"{site}/wake").status_code == 202
        until("it has cosigned", lambda: elsewhere.size() > 0)


def test_a_second_one_on_the_same_memory_is_refused(elsewhere: Elsewhere) -> None:
    with elsewhere.run() as (process, _):
        refused = elsewhere.jinshi.process(*elsewhere.command, "--listen", "127.0.0.1:0", code=4)
        assert str(process.pid) in refused.stderr
        assert "another process" in refused.stderr
    with elsewhere.run():
        pass


@pytest.mark.slow
def test_killed_again_and_again_it_carries_on_and_misses_nothing(elsewhere: Elsewhere) -> None:
    with serving(elsewhere.primary, "--every", "0.1") as (_, url), httpx.Client(base_url=url, timeout=60) as client:
        for number in range(6):
            before = elsewhere.size()
            with elsewhere.run() as (process, _):
                for step in range(20):
                    client.post("/events", content=structured(f"{number}-{step}"), headers=JSON_TYPE)
                if number % 2:
                    until("it has cosigned more", lambda before=before: elsewhere.size() > before)
                process.kill()
        with elsewhere.run():
            size = client.get("/readyz").json()["size"]
            until("it has caught up", lambda: elsewhere.size() >= size)
    elsewhere.primary("verify", "--site", "remote")


def test_erasures_are_carried_out_by_the_site_alone(tmp_path: Path) -> None:
    primary = ledger_in(tmp_path)
    source = "urn:city:residents"
    primary("source", "declare", source, "--personal")
    (tmp_path / "r.csv").write_text("编号,姓名\nr-1,王小明\nr-2,李小红\n")
    primary("import", tmp_path / "r.csv", "--source", source, "--key", "编号", "--edition", "2026")
    elsewhere = apart(primary)

    def keys() -> int:
        return len([name for name in contents(elsewhere.place) if "/keyring/subject-" in name])

    with elsewhere.run(), serving(primary, "--every", "0.1"):
        until("the keys are there", lambda: keys() > 0 and elsewhere.size() > 0)
        before = keys()
        primary("erase", "r-1", "--source", source, "--reason", "request 2026-17")
        primary.with_environment(LOGNAME="second", USER="second")("erase", "r-1", "--source", source, "--approve")
        until("the key is gone", lambda: keys() < before)
        until(
            "everybody has confirmed",
            lambda: [one["state"] for one in primary("erase", "--status", "--json").json_lines] == ["done"],
        )
    assert not elsewhere.errors()


def test_a_fork_stops_it_for_good_and_is_seen_from_outside(elsewhere: Elsewhere) -> None:
    with serving(elsewhere.primary, "--every", "0.1") as (_, url), elsewhere.run():
        httpx.post(f"{url}/events", content=structured("1"), headers=JSON_TYPE)
        until("it has cosigned", lambda: elsewhere.size() > 0)
    elsewhere.primary("append", stdin=events(5))
    signer = keyfile.load(elsewhere.primary.directory / "台账" / "keys" / "log.key", PASSPHRASE)
    assert isinstance(signer, keyfile.LogSigner)
    shown = parse_checkpoint((elsewhere.objects / "checkpoint").read_bytes())
    size = shown.checkpoint.size
    text = f"{elsewhere.origin}\n{size}\n{'A' * 43}=\n"
    key = parse_vkey(signer.vkey)
    line = base64.b64encode(key.key_id + signer.sign(text.encode())).decode()
    note = f"{text}\n— {elsewhere.origin} {line}\n".encode()
    (elsewhere.objects / "pending").write_bytes(format_pending(Pending(99, "0" * 32, note)))
    for _ in range(2):  # also when it is started anew
        with elsewhere.run() as (process, site):
            until("it says so", lambda: httpx.get(f"{site}/readyz").status_code == 503 and bool(elsewhere.errors()))
            until("it says why", lambda site=site: "signed two histories" in httpx.get(f"{site}/readyz").text)
            assert httpx.get(f"{site}/healthz").status_code == 200
            metrics = httpx.get(f"{site}/metrics").text
            assert f'jinshi_mirror_forked{{origin="{elsewhere.origin}"}} 1.0' in metrics
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
    (first, *_), count = elsewhere.errors(), len(elsewhere.errors())
    assert "signed two histories" in str(first["event"])
    assert first["forked"] is True
    assert count == 2, "one line each time it was started, not one a round"
    kept = [data for name, data in contents(elsewhere.jinshi.directory).items() if "/forks/" in name]
    assert note in kept
    assert len(kept) == 2
    assert elsewhere.size() == size


def test_trouble_with_one_ledger_keeps_no_other_waiting(elsewhere: Elsewhere, tmp_path: Path) -> None:
    other = Jinshi(tmp_path, tmp_path / "other")
    other("init", tmp_path / "other")
    other("site", "add", "shared", elsewhere.place)
    key = (tmp_path / "other-keys" / "shared.mirror.key").rename(elsewhere.jinshi.directory / "shared.mirror.key")
    shutil.copy(tmp_path / "other" / "trust.policy", elsewhere.jinshi.directory / "other.policy")
    origin = other("status", "--json").json["origin"]
    damaged = elsewhere.objects / "pending"
    damaged.write_bytes(b"nonsense")
    with (
        elsewhere.run("--key", key, "--trust", "other.policy") as (_, site),
        serving(other, "--every", "0.1") as (_, url),
    ):
        httpx.post(f"{url}/events", content=structured("1"), headers=JSON_TYPE)
        until(
            "the other is mirrored", lambda: httpx.get(f"{site}/{origin_prefix(origin)}checkpoint").status_code == 200
        )
        until("trouble is said", lambda: httpx.get(f"{site}/readyz").status_code == 503)
        assert elsewhere.origin in httpx.get(f"{site}/readyz").text
        assert len([line for line in elsewhere.errors() if line["origin"] == elsewhere.origin]) == 1
        damaged.unlink()
        until("all is well", ready(site))


def test_it_is_a_tlog_mirror_for_a_client_of_another_make(elsewhere: Elsewhere) -> None:
    """Over real sockets: what the ledger has published, sent by a client written from the specification."""
    elsewhere.primary("source", "declare", "urn:test", "--public")
    elsewhere.primary("append", stdin=events(600))
    published = elsewhere.primary.directory / "台账" / "published" / origin_prefix(elsewhere.origin)[:-1]
    note = (published / "checkpoint").read_bytes()
    size = parse_checkpoint(note).checkpoint.size
    entries = [
        entry
        for tile in needed(size, ENTRIES)
        for entry in decode_bundle((published / tile.path).read_bytes(), tile.width)
    ]
    log = Log(elsewhere.origin, entries)
    with elsewhere.run() as (_, site), httpx.Client(base_url=site, timeout=60) as client:
        assert client.post("/add-checkpoint", content=b"old 0\n\n" + note).status_code == 200
        binary = {"content-type": "application/octet-stream"}
        first = client.post("/add-entries", content=log.upload(0, size, packages=1), headers=binary)
        assert first.status_code == 202
        answer = client.post("/add-entries", content=log.upload(256, size), headers=binary)
        assert answer.status_code == 500, "its key cannot be sent this way"
        assert "keyring/" in answer.text
        assert elsewhere.size() == 0
        shutil.copytree(published / "keyring", elsewhere.objects / "keyring")
        answer = client.post("/add-entries", content=log.upload(size, size), headers=binary)
        assert answer.status_code == 200, answer.text
        assert elsewhere.size() == size
        until("it is ready", ready(site))
    elsewhere.primary("verify", "--site", "remote")
    assert "its mirror, which runs elsewhere, has cosigned" not in elsewhere.primary("replicate", "--once").out
    elsewhere.primary("append", stdin=events(5, first=700))
    said = elsewhere.primary("replicate", "--once", "--site", "remote").out
    assert f"its mirror, which runs elsewhere, has cosigned {size} entries" in said


def test_a_bucket_is_mirrored_with_credentials_of_its_own(tmp_path: Path, seaweed: S3Server) -> None:
    primary = ledger_in(tmp_path).with_environment(
        AWS_ACCESS_KEY_ID=seaweed.access_key, AWS_SECRET_ACCESS_KEY=seaweed.secret_key
    )
    place = f"s3://{seaweed.bucket}/{uuid4().hex}?endpoint={seaweed.endpoint}"
    primary("site", "add", "bucket", place)
    home = tmp_path / "elsewhere"
    home.mkdir()
    (tmp_path / "台账-keys" / "bucket.mirror.key").rename(home / "bucket.mirror.key")
    shutil.copy(tmp_path / "台账" / "trust.policy", home)
    secrets = {"access_key": seaweed.access_key, "secret_key": seaweed.secret_key}
    (home / "credentials").write_text(json.dumps(secrets))
    primary("append", stdin=events(300))
    command = ("site", "serve", place, "--key", "bucket.mirror.key", "--trust", "trust.policy", "--every", "0.1")
    with running(Jinshi(home), *command, "--credentials", f"file:{home}/credentials", log=home / "log") as (_, site):
        primary("replicate", "--once", "--site", "bucket")
        origin = primary("status", "--json").json["origin"]
        url = f"{site}/{origin_prefix(origin)}checkpoint"
        until("it has cosigned", lambda: httpx.get(url).status_code == 200)
        assert parse_checkpoint(httpx.get(url).content).checkpoint.size == primary("status", "--json").json["tree_size"]
    primary("verify", "--site", "bucket")
    assert seaweed.secret_key not in (home / "log").read_text()


def test_over_tls_only_certified_callers_come_in(elsewhere: Elsewhere, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    server, client = authority.issue("mirror", server=True), authority.issue("primary")
    tls = ("--tls-cert", server.certificate, "--tls-key", server.key, "--client-ca", authority.file)
    with elsewhere.run(*tls) as (_, site):
        assert site.startswith("https://")
        context = ssl.create_default_context(cafile=str(authority.file))
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{site}/healthz", verify=context)
        context.load_cert_chain(client.certificate, client.key)
        assert httpx.get(f"{site}/healthz", verify=context).status_code == 200


@pytest.mark.parametrize(
    ("more", "what"),
    [
        (("--listen", "0.0.0.0:0"), "without TLS"),
        (("--tls-cert", "x.pem"), "TLS needs three files"),
        (("--key", "none.key"), "none.key is not there"),
        (("--trust", "remote.mirror.key"), "neither a trust policy nor"),
        (("--trust", "none"), "cannot be read"),
        (("--key", "remote.mirror.key"), "share their memory"),
    ],
)
def test_what_it_cannot_start_with_is_said_in_one_line(
    more: tuple[str, ...], what: str, elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(elsewhere.jinshi.directory)
    assert what in elsewhere.jinshi(*elsewhere.command, *more, code=2).stderr
