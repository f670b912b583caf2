"""Hosting for other centres with real commands: keys stay with the host, labels and quotas bound what is held."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from tests.support.buckets import client_of, new_bucket
from tests.support.centres import Centre, import_register, wake
from tests.support.cli import contents, events, ledger_in
from tests.support.roles import running, until
from tests.support.servers import S3Server


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Centre, Centre]:
    """Two centres; the second hosts nothing yet."""
    a, b = (Centre(name, tmp_path / name, tmp_path / "vaults" / name) for name in ("city-a", "city-b"))
    a.begin("--no-sites")
    b.home.mkdir()
    return a, b


def test_a_hosted_site_is_added_without_its_key_and_the_place_says_whose_copies_it_holds(
    pair: tuple[Centre, Centre],
) -> None:
    a, b = pair
    bounds = ("--quota", "50MB", "--retention-days", "3650", "--network", "政务外网")
    mirror = b.host(a, *bounds)
    assert b.host(a) == mirror, "repeating it changes nothing"
    assert "up to 47.7 MiB" in a.add(b, mirror).out
    assert not [name for name in contents(a.home) if "mirror.key" in name], "the primary never has it"
    listed = a.jinshi("site", "list", "--json").json
    assert (listed["classification"], listed["network"]) == ("internal", "government-external")
    a.jinshi("append", stdin=events(5))
    assert "its mirror, which runs elsewhere, has cosigned 0 entries" in a.jinshi("replicate", "--once").out
    with b.serve([a]):
        until("it has cosigned", lambda: b.cosigned(a) == a.size())
    a.keep_policy()
    for options, verified in (((), None), (("--trust", a.policy), True)):
        shown = b.jinshi.at(None)("site", "holdings", b.hosted, "--json", *options).json
        assert shown | {"cosigned_at": "", "stored_bytes": 0, "objects": 0, "folder": ""} == {
            "folder": "",
            "origin": "city-a.example/log",
            "site": "city-b",
            "mirror": mirror,
            "size": a.size(),
            "cosigned_at": "",
            "log_verified": verified,
            "objects": 0,
            "stored_bytes": 0,
            "quota_bytes": 50_000_000,
            "room": "fine",
            "classification": "internal",
            "network": "government-external",
            "retention_days": 3650,
            "lock_days": 0,
            "problem": None,
        }
        assert shown["stored_bytes"] == sum(len(data) for data in contents(b.hosted).values())
    table = b.jinshi.at(None)("site", "holdings", b.hosted).out
    assert "city-a.example/log" in table
    checkpoint = b.hosted / shown["folder"] / "checkpoint"
    checkpoint.write_bytes(checkpoint.read_bytes().replace(b"\n7\n", b"\n8\n"))
    refused = b.jinshi.at(None)("site", "holdings", b.hosted, "--json", code=3)
    assert "/checkpoint: the cosignature of" in refused.stderr
    assert refused.json["size"] == 0


def test_what_does_not_fit_is_refused_with_the_reason(pair: tuple[Centre, Centre]) -> None:
    a, b = pair
    mirror = b.host(a)
    for options, what in (
        (("--quota", "lots"), "no number of bytes"),
        (("--network", "internet"), "nothing above public (公开) may be on internet (互联网)"),
        (("--classification", "secret"), "is no classification"),
        (("--classification", "机密"), "may be on a network that is not stated"),
        (("--origin", "elsewhere"), "no trust file names elsewhere"),
    ):
        command = ("site", "host", b.name, b.hosted, "--trust", a.policy, "--key", b.key_for(a), *options)
        assert what in b.jinshi(*command, code=2).stderr
    assert "holds nothing of" in a.jinshi("site", "add", b.name, b.vault.parent, "--mirror", mirror, code=2).stderr
    assert "said by whoever hosts it" in a.add(b, mirror, "--classification", "public", code=2).stderr
    wrong = mirror[:-8] + "AAAAAAA="
    assert a.add(b, wrong, code=(2, 3)).stderr
    assert "not 'city-x'" in a.jinshi("site", "add", "city-x", b.hosted, "--mirror", mirror, code=2).stderr
    assert a.jinshi("site", "list", "--json").json_lines == []


@pytest.mark.slow
def test_secrets_stay_off_the_net_at_every_step(tmp_path: Path) -> None:
    a, b, c = (Centre(name, tmp_path / name, tmp_path / "vaults" / name) for name in ("a", "b", "c"))
    a.begin("--no-sites", "--classification", "秘密")
    for host in (b, c):
        host.home.mkdir()
    assert a.jinshi("status", "--json").json["classification"] == "mimi"
    open_net = b.host(a, "--network", "政务外网")
    refused = a.add(b, open_net, code=2).stderr
    assert "site 'b' may not hold this ledger: nothing above internal (内部) may be on government-external" in refused
    assert "may not hold" in a.jinshi("site", "add", "own", a.home / "own", code=2).stderr
    assert a.jinshi("site", "list", "--json").json_lines == []
    assert not (a.home / "own").exists()
    a.add(c, c.host(a, "--network", "政务内网", "--classification", "机密"))
    a.jinshi("classify", "机密", "--reason", "case files")
    refused = a.jinshi("classify", "绝密", "--reason", "more", code=2).stderr
    assert "c (nothing above jimi (机密) may be on government-internal (政务内网)" in refused
    said = a.jinshi("classify", "internal", "--reason", "released, decision 2026-113").out
    assert "internal (内部) from now on, jimi (机密) before" in said
    entries = [one["entry"] for one in a.jinshi("log", "--json", "--all").json_lines]
    recorded = [one for one in entries if one["type"] == "ledger.classified.v1"]
    assert [one["data"] for one in recorded] == [
        {"classification": "jimi", "reason": "case files"},
        {"classification": "internal", "reason": "released, decision 2026-113"},
    ]
    assert all(one["actor"].startswith("local:") for one in recorded)
    assert "already" in a.jinshi("classify", "internal", "--reason", "again").out
    a.add(b, open_net)
    with b.serve([a]), c.serve([a]):
        a.jinshi("replicate", "--once")
        until("both have it", lambda: b.cosigned(a) == c.cosigned(a) == a.size())
    a.keep_policy()
    copy = ("--from", c.hosted, "--policy", a.policy, "--recovery-key", a.recovery_key)
    again = a.jinshi.at(tmp_path / "again")
    again.at(None)("restore", "ledger", *copy, "--to", again.ledger)
    assert again("status", "--json").json["classification"] == "internal", "a successor is what its predecessor was"


def test_a_label_that_a_site_may_no_longer_hold_is_refused_also_by_the_follower(tmp_path: Path) -> None:
    """The default sites may hold `internal`; a host lowers its bound: nothing more is shipped there, others go on."""
    jinshi = ledger_in(tmp_path)
    refused = jinshi("classify", "秘密", "--reason", "x", code=2).stderr
    assert "same-city (" in refused
    assert "remote (" in refused
    a, b = (Centre(name, tmp_path / name, tmp_path / "vaults" / name) for name in ("a", "b"))
    a.begin("--no-sites")
    b.home.mkdir()
    a.add(b, b.host(a))
    a.jinshi("site", "add", "own", a.home / "own")
    b.host(a, "--classification", "public")
    before = contents(b.hosted)
    a.jinshi("append", stdin=events(3))
    stopped = a.jinshi("replicate", "--once", code=2)
    assert "site 'b' may not hold this ledger: it may hold public (公开) at most" in stopped.stderr
    assert contents(b.hosted) == before, "not a byte was shipped"
    assert "site own: 6 entries, verified and cosigned" in stopped.out


@pytest.mark.slow
def test_over_its_quota_one_ledger_is_cosigned_no_more_and_the_others_are(tmp_path: Path) -> None:
    a, c, host = (Centre(name, tmp_path / name, tmp_path / "vaults" / name) for name in ("a", "c", "host"))
    for one in (a, c):
        one.begin("--no-sites")
    host.home.mkdir()
    a.add(host, host.host(a, "--quota", "150kB"))
    c.add(host, host.host(c))
    with host.serve([a, c]) as (_, url):
        a.jinshi("replicate", "--once")
        until("the first of it is cosigned", lambda: host.cosigned(a) == a.size())
        import_register(a, 0)
        a.jinshi("append", stdin=events(900, source="urn:big"))
        a.jinshi("replicate", "--once", code=(0, 4))
        import_register(c, 1)
        c.jinshi("replicate", "--once")
        until("the other ledger is cosigned", lambda: host.cosigned(c) == c.size())
        until("it is full", lambda: 'over_quota{origin="a.example/log"} 1.0' in httpx.get(f"{url}/metrics").text)
        until("it says so", lambda: a.jinshi("status", "--json").json["sites"][0]["full"])
        refused = a.jinshi("replicate", "--once", code=4).stderr
        assert "site 'host' is over its quota and cosigns nothing more" in refused
        assert "jinshi site host --quota" in refused
        assert "FULL" in a.jinshi("status").out
        stands = host.cosigned(a)  # how much is looked at now and then, so that this may be more than fits
        a.jinshi("append", stdin=events(10, source="urn:more"))
        a.jinshi("replicate", "--once", code=4)
        assert host.cosigned(a) == stands < a.size()
        assert "over its quota" in httpx.get(f"{url}/readyz").text
        lines = [json.loads(line) for line in (host.home / "serve.log").read_text().splitlines()]
        errors = [line for line in lines if line["level"] == "error"]
        assert 1 <= len(errors) <= 3, "not one a round"
        host.host(a, "--quota", "50MB")
        wake(url)
        until("there is room", lambda: not a.jinshi("status", "--json").json["sites"][0]["full"])
        a.jinshi("replicate", "--once")
        until("the rest is cosigned", lambda: host.cosigned(a) == a.size())
    assert [name for name in contents(host.hosted) if name.endswith("/notice")]
    a.jinshi("scrub", "--site", "host")  # which ends with another code where it finds what belongs to no site


@pytest.mark.slow
def test_a_bucket_is_hosted_too_and_its_deleted_versions_count(tmp_path: Path, seaweed: S3Server) -> None:
    """With credentials by reference for each of both ends, and nothing of the host's on the primary."""
    a, b = (Centre(name, tmp_path / name, tmp_path / "vaults" / name) for name in ("a", "b"))
    a.begin("--no-sites")
    b.home.mkdir()
    client = client_of(seaweed)
    bucket = new_bucket(client, lock=True)
    place = f"s3://{bucket}/copies?endpoint={seaweed.endpoint}"
    secrets = {"access_key": seaweed.access_key, "secret_key": seaweed.secret_key}
    for one in (a, b):
        (one.home / "credentials").write_text(json.dumps(secrets))
    at_host, at_primary = (("--credentials", f"file:{one.home}/credentials") for one in (b, a))
    accepted = ("--lock-days", "1", "--accept", "ports")
    host = ("site", "host", "b", place, "--trust", a.policy, "--key", b.key_for(a), "--quota", "10MB", *at_host)
    said = b.jinshi(*host, *accepted).out
    mirror = said.rpartition("--mirror ")[2].strip().strip("'")
    a.jinshi("site", "add", "b", place, "--mirror", mirror, *at_primary)
    a.jinshi("append", stdin=events(5))
    a.jinshi("replicate", "--once")

    def holding() -> dict[str, object]:
        return dict(b.jinshi.at(None)("site", "holdings", place, "--json", *at_host).json)

    serve = ("site", "serve", place, "--key", b.key_for(a), "--trust", a.policy, "--every", "0.2", *at_host)
    with running(b.jinshi, *serve, log=b.home / "log"):
        until("it has cosigned", lambda: holding()["size"] == a.size())
        before = holding()
        a.jinshi("append", stdin=events(5, first=10))
        a.jinshi("replicate", "--once")
        until("it has cosigned more", lambda: holding()["size"] == a.size())
    after = holding()
    assert (after["lock_days"], after["room"], after["problem"]) == (1, "fine", None)
    names, stored = int(str(after["objects"])), int(str(after["stored_bytes"]))
    assert stored > int(str(before["stored_bytes"]))
    pages = client.list_object_versions(Bucket=bucket, Prefix="copies/")
    sizes = [one["Size"] for one in pages["Versions"] if "/jinshi-probe/" not in one["Key"]]
    assert stored == sum(sizes)
    assert len(sizes) > names, "older versions of what was replaced are there, and are counted"
