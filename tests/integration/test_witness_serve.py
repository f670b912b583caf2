"""`jinshi witness` as real processes: its keys, its service, and the primary that asks it."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import httpx
import pytest

from ledger.core.checkpoint import origin_prefix, parse_checkpoint
from ledger.core.note import SignatureType, parse_vkey
from ledger.core.policy import parse_policy
from ledger.core.proof import parse_receipt
from ledger.http.receive import STRUCTURED
from pki.keystore import file as keyfile
from tests.support.cli import PASSPHRASE, Jinshi, events, ledger_in
from tests.support.http_api import structured
from tests.support.roles import running, until
from tests.support.serving import serving
from tests.support.tlog import Log, cosigned_at

NAME = "witness.example/w1"
JSON_TYPE = {"content-type": STRUCTURED}
SERVE = ("witness", "serve", "--key", "w1.key", "--key", "w2.key", "--trust", "trust", "--state", "state")


@pytest.fixture
def witness(tmp_path: Path) -> Jinshi:
    """Somewhere else, with two keys of its own."""
    home = tmp_path / "witness"
    home.mkdir()
    jinshi = Jinshi(home)
    jinshi("witness", "init", NAME, "--key", home / "w1.key")
    jinshi("witness", "init", NAME, "--key", home / "w2.key", "--algorithm", "ed25519")
    return jinshi


def vkey_of(witness: Jinshi, key: str) -> str:
    loaded = keyfile.load(witness.directory / key, PASSPHRASE)
    assert isinstance(loaded, keyfile.WitnessCosigner)
    return loaded.vkey


def test_init_makes_a_key_of_its_kind_and_overwrites_nothing(witness: Jinshi, tmp_path: Path) -> None:
    shown = witness("witness", "init", "witness.example/w3", "--key", tmp_path / "w3.key").out.strip()
    assert parse_vkey(shown).type is SignatureType.COSIGNATURE_ML_DSA_44
    assert parse_vkey(vkey_of(witness, "w2.key")).type is SignatureType.COSIGNATURE_ED25519
    before = (tmp_path / "w3.key").read_bytes()
    assert "never overwritten" in witness("witness", "init", NAME, "--key", tmp_path / "w3.key", code=2).stderr
    assert (tmp_path / "w3.key").read_bytes() == before
    for name in ("two words", "a+b", "x" * 300, ""):
        witness("witness", "init", name, "--key", tmp_path / "none.key", code=2)
        assert not (tmp_path / "none.key").exists()


def test_a_ledger_asks_it_again_and_again(witness: Jinshi, tmp_path: Path) -> None:
    ledger = ledger_in(tmp_path)
    shutil.copy(tmp_path / "台账" / "trust.policy", witness.directory / "trust")
    out = tmp_path / "checkpoint"
    with running(witness, *SERVE, log=witness.directory / "log") as (_, url):
        for key in ("w1.key", "w2.key"):
            vkey = vkey_of(witness, key)
            for number in range(2):
                ledger("append", stdin=events(300, first=number * 300, source=f"urn:{key[:2]}"))
                said = ledger("witness", "submit", "--url", url, "--vkey", vkey, "-o", out).out
                opened = parse_checkpoint(out.read_bytes())
                assert f"{opened.checkpoint.size:,} entries" in said
                line = out.read_text().splitlines()[-1] + "\n"
                cosigned_at(vkey, out.read_bytes().rpartition(b"\xe2\x80\x94")[0], line.encode())
        origin = opened.checkpoint.origin
        shown = httpx.get(f"{url}/{origin_prefix(origin)}checkpoint")
        assert parse_checkpoint(shown.content).checkpoint == opened.checkpoint
        another = keyfile.create_witness_key(
            tmp_path / "another.key", NAME, SignatureType.COSIGNATURE_ML_DSA_44, PASSPHRASE, work_factor=10
        )
        refused = ledger("witness", "submit", "--url", url, "--vkey", another.vkey, code=3)
        assert "has not cosigned as" in refused.stderr
        shutil.copy(tmp_path / "台账" / "trust.policy", tmp_path / "policy")
    unreachable = ledger("witness", "submit", "--url", url, "--vkey", vkey, code=4)
    assert "cannot be reached" in unreachable.stderr
    assert "no URL" in ledger("witness", "submit", "--url", "w1.example", "--vkey", vkey, code=2).stderr
    log_key = ledger("status", "--json").json.get("vkey") or (tmp_path / "policy").read_text().split()[1]
    assert "log's key" in ledger("witness", "submit", "--url", url, "--vkey", log_key, code=2).stderr


def test_a_ledger_put_back_from_an_older_copy_is_told_so(witness: Jinshi, tmp_path: Path) -> None:
    ledger = ledger_in(tmp_path)
    shutil.copy(tmp_path / "台账" / "trust.policy", witness.directory / "trust")
    ledger("append", stdin=events(20))
    shutil.copytree(tmp_path / "台账", tmp_path / "older")
    ledger("append", stdin=events(20, first=20))
    with running(witness, *SERVE, log=witness.directory / "log") as (_, url):
        vkey = vkey_of(witness, "w1.key")
        ledger("witness", "submit", "--url", url, "--vkey", vkey)
        older = ledger.at(tmp_path / "older")
        assert "an older copy" in older("witness", "submit", "--url", url, "--vkey", vkey, code=3).stderr
        older("append", stdin=events(200, first=1_000))
        refused = older("witness", "submit", "--url", url, "--vkey", vkey, code=2)
        assert "another history" in refused.stderr


def test_those_that_were_added_are_asked_by_replicate_and_count_for_policies(witness: Jinshi, tmp_path: Path) -> None:
    ledger = ledger_in(tmp_path)
    policy = tmp_path / "台账" / "trust.policy"
    shutil.copy(policy, witness.directory / "trust")
    vkey = vkey_of(witness, "w1.key")
    with running(witness, *SERVE, log=witness.directory / "log") as (process, url):
        ledger("witness", "add", "w1", "--url", url, "--vkey", vkey)
        listed = parse_policy(policy.read_bytes())
        assert [one.name for one in listed.witnesses] == [b"same-city", b"remote", b"w1"]
        assert listed.quorum == b"sites", "the quorum stays what it is"
        assert policy.read_bytes() == (tmp_path / "台账-keys" / "trust.policy").read_bytes()
        (added,) = ledger("log", "--type", "witness.added.v1", "--json").json_lines
        assert "is known already" in ledger("witness", "add", "w1", "--url", url, "--vkey", vkey, code=2).stderr
        text = policy.read_text().replace("quorum sites", "group both all sites w1\nquorum both")
        policy.write_text(text)  # now the witness is asked for as well
        ledger("append", stdin=events(30))
        assert "witness w1: 34 entries, cosigned" in ledger("replicate", "--once").out
        receipt = tmp_path / "r.tlog-proof"
        ledger("prove", added["index"], "-o", receipt)
        ledger("verify", receipt, "--entry", f"{receipt}.entry", "--policy", policy)
        assert "witness w1: 34 entries" in ledger("witness", "submit").out, "nothing new, and fine"
        ledger("site", "add", "third", tmp_path / "third")
        assert b"w1" in policy.read_bytes(), "another site does not make the policy forget it"
        process.kill()
    failed = ledger("replicate", "--once", code=4)
    assert "cannot be reached" in failed.stderr
    assert "site remote: " in failed.out, "the sites are served all the same"


def test_a_served_ledger_asks_it_and_a_receipt_waits_for_it(witness: Jinshi, tmp_path: Path) -> None:
    ledger = ledger_in(tmp_path)
    policy = tmp_path / "台账" / "trust.policy"
    shutil.copy(policy, witness.directory / "trust")
    with running(witness, *SERVE, log=witness.directory / "log") as (_, url):
        ledger("witness", "add", "w1", "--url", url, "--vkey", vkey_of(witness, "w1.key"))
        policy.write_text(policy.read_text().replace("quorum sites", "group both all sites w1\nquorum both"))
        with serving(ledger) as (_, served), httpx.Client(base_url=served, timeout=30) as client:
            for number in range(3):
                answer = client.post(
                    "/events", params={"receipt": "cosigned"}, content=structured(str(number)), headers=JSON_TYPE
                )
                assert answer.status_code == 201, answer.text
                receipt = parse_receipt(answer.json()["receipt"].encode())
                signers = {one.name for one in parse_checkpoint(receipt.checkpoint).note.signatures}
                assert NAME in signers
                assert any("/mirror/" in name for name in signers)


@pytest.mark.parametrize(
    ("name", "url", "what"),
    [
        ("remote", "http://w.example", "known already"),
        ("none", "http://w.example", "cannot name a witness"),
        ("两", "http://w.example", "cannot name a witness"),
        ("w1", "ftp://w.example", "no URL"),
        ("w1", "http://user@w.example", "no URL"),
        ("w1", "http://w.example/a b", "no URL"),
    ],
)
def test_a_witness_that_cannot_be_added_changes_nothing(
    name: str, url: str, what: str, witness: Jinshi, tmp_path: Path
) -> None:
    ledger = ledger_in(tmp_path)
    before = (tmp_path / "台账" / "trust.policy").read_bytes()
    size = ledger("status", "--json").json["tree_size"]
    vkey = vkey_of(witness, "w1.key")
    assert what in ledger("witness", "add", name, "--url", url, "--vkey", vkey, code=2).stderr
    assert (tmp_path / "台账" / "trust.policy").read_bytes() == before
    assert ledger("status", "--json").json["tree_size"] == size


def test_it_ends_cleanly_and_after_a_kill_it_goes_on_where_it_was(witness: Jinshi) -> None:
    log = Log("example.com/log", [b"%d" % number for number in range(50)])
    (witness.directory / "trust").write_text(f"# who is watched\n{log.vkey}\n")
    with running(witness, *SERVE, log=witness.directory / "log") as (process, url):
        refused = witness.process(*SERVE, "--listen", "127.0.0.1:0", code=4)
        assert str(process.pid) in refused.stderr
        assert httpx.post(f"{url}/add-checkpoint", content=log.add_checkpoint(0, 20)).status_code == 200
        process.kill()
    with running(witness, *SERVE, log=witness.directory / "log") as (process, url):
        answer = httpx.post(f"{url}/add-checkpoint", content=log.add_checkpoint(0, 30))
        assert (answer.status_code, answer.content) == (409, b"20\n")
        answer = httpx.post(f"{url}/add-checkpoint", content=log.add_checkpoint(20, 30))
        for key in ("w1.key", "w2.key"):
            cosigned_at(vkey_of(witness, key), log.checkpoint(30), answer.content)
        until("it is ready", lambda: httpx.get(f"{url}/readyz").status_code == 200)
        assert 'jinshi_witness_size{origin="example.com/log"} 30.0' in httpx.get(f"{url}/metrics").text
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def test_keys_are_used_for_what_they_are_made_for_only(witness: Jinshi, tmp_path: Path) -> None:
    ledger_in(tmp_path)
    keys, home = tmp_path / "台账-keys", witness.directory
    shutil.copy(tmp_path / "台账" / "trust.policy", home / "trust")
    options = ("--trust", home / "trust", "--listen", "127.0.0.1:0")
    mirror = keys / "remote.mirror.key"
    refused = witness("witness", "serve", "--key", mirror, "--state", home / "s", *options, code=2)
    assert "not a witness's key" in refused.stderr
    refused = witness("site", "serve", home, "--key", home / "w1.key", *options, code=2)
    assert "not a mirror's key" in refused.stderr
    (home / "own").write_text(vkey_of(witness, "w2.key") + "\n")
    refused = witness(
        "witness", "serve", "--key", home / "w1.key", "--state", home / "s", "--trust", home / "own", code=2
    )
    assert "not of a log" in refused.stderr
