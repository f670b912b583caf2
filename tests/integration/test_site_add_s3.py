"""`jinshi site add` for a bucket: what it finds out, what it refuses, whose credentials it takes; one line each."""

from __future__ import annotations

import datetime
import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from botocore import auth
from botocore.exceptions import ClientError

from ledger.errors import StoreUnavailable
from ledger.store import s3_probe
from ledger.store.s3_client import explain
from ledger.store.s3_probe import LOCK, PROBES, VERSIONS, probe
from tests.support.buckets import client_of, every_version, new_bucket
from tests.support.cli import Jinshi, ledger_in
from tests.support.receiving import receiving
from tests.support.roles import until
from tests.support.servers import S3Server, free_ports
from tests.support.serving import serving

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


@pytest.fixture
def client(seaweed: S3Server) -> Iterator[S3Client]:
    client = client_of(seaweed)
    yield client
    client.close()


@pytest.fixture
def jinshi(seaweed: S3Server, tmp_path: Path) -> Jinshi:
    return ledger_in(tmp_path, "--no-sites").with_environment(
        AWS_ACCESS_KEY_ID=seaweed.access_key, AWS_SECRET_ACCESS_KEY=seaweed.secret_key
    )


def url(server: S3Server, bucket: str, *, endpoint: str | None = None) -> str:
    return f"s3://{bucket}/site?endpoint={endpoint or server.endpoint}"


def deny(client: S3Client, bucket: str, action: str) -> None:
    statement = {"Effect": "Deny", "Principal": "*", "Action": [action], "Resource": [f"arn:aws:s3:::{bucket}/*"]}
    client.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [statement]}))


# -- what it finds out --------------------------------------------------------------------------------------------


async def test_a_bucket_with_lock_passes_every_probe_and_keeps_one_small_object_for_seconds(client: S3Client) -> None:
    bucket = new_bucket(client, lock=True)
    probed = await probe(client, bucket, "site", name="cloud")
    assert [one.name for one in probed.probes if not one.holds] == []
    left = {f"s3://{bucket}/{key}" for key, _ in every_version(client, bucket)}
    assert left == {one.partition(" (until ")[0] for one in probed.left}, "all that is left is named"
    (one,) = left
    assert one.startswith(f"s3://{bucket}/site/{PROBES}/")


async def test_what_a_bucket_lacks_is_found_and_nothing_is_left_in_it(client: S3Client) -> None:
    plain, versioned = new_bucket(client), new_bucket(client, versions=True)
    probed = await probe(client, plain, "", name="cloud")
    assert [one.name for one in probed.probes if not one.holds] == [VERSIONS, LOCK]
    assert every_version(client, plain) == []
    probed = await probe(client, versioned, "", name="cloud")
    assert [one.name for one in probed.probes if not one.holds] == [LOCK]
    assert every_version(client, versioned) == []


def test_a_bucket_without_what_was_asked_is_refused_or_accepted_with_a_warning(
    client: S3Client, seaweed: S3Server, jinshi: Jinshi
) -> None:
    place = url(seaweed, new_bucket(client))
    refused = jinshi("site", "add", "cloud", place, "--lock-days", 30, code=1)
    assert "site 'cloud': versions: versioning is off" in refused.stderr
    assert "--accept versions" in refused.stderr
    assert jinshi("site", "list", "--json").out == "", "nothing was added"
    assert "'conditional writes' cannot be done without" in jinshi(
        "site", "add", "cloud", place, "--accept", "conditional writes", code=2
    ).stderr  # fmt: skip
    added = jinshi("site", "add", "cloud", place, "--lock-days", 30, "--accept", "versions", "--accept", "lock")
    assert "LACKS  lock: " in added.out
    assert "it does without versions, as accepted" in added.stderr
    assert json.loads((jinshi.directory / "台账" / "jinshi.json").read_text())["sites"][0]["lock_days"] == 0
    directory = jinshi("site", "add", "there", jinshi.directory / "there", "--lock-days", 30, code=2)
    assert "site 'there': a directory has no Object Lock" in directory.stderr


# -- what is wrong with it -----------------------------------------------------------------------------------------


def test_a_place_that_cannot_be_a_site_is_one_line_that_names_the_site(
    client: S3Client, seaweed: S3Server, jinshi: Jinshi
) -> None:
    readable = new_bucket(client, versions=True)
    deny(client, readable, "s3:PutObject")
    (port,) = free_ports(1)
    secure = seaweed.endpoint.replace("http:", "https:")
    wrong = jinshi.with_environment(AWS_SECRET_ACCESS_KEY="wrong")
    for run, place, said in (
        (jinshi, url(seaweed, "b-1", endpoint=f"http://127.0.0.1:{port}"), "check the network and the site"),
        (jinshi, url(seaweed, "no-such-bucket"), "the bucket no-such-bucket is not there"),
        (jinshi, url(seaweed, readable), "check the credentials and what they may do"),
        (jinshi, url(seaweed, readable, endpoint=secure), "no trusted TLS connection"),
        (wrong, url(seaweed, readable), "check the credentials"),
    ):
        ended = run("site", "add", "cloud", place, code=4)
        assert "site 'cloud'" in ended.stderr, place
        assert said in ended.stderr, ended.stderr
    assert jinshi("site", "list", "--json").out == ""
    assert every_version(client, readable) == []


def test_a_clock_that_is_wrong_is_told_as_such(
    client: S3Client, seaweed: S3Server, jinshi: Jinshi, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = new_bucket(client)

    class Late(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:  # type: ignore[override]
            return late

    late = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=2)
    monkeypatch.setattr(auth, "get_current_datetime", lambda **_: late.replace(tzinfo=None))
    monkeypatch.setattr(s3_probe, "datetime", Late)
    ended = jinshi("site", "add", "cloud", url(seaweed, bucket), code=4)
    assert "site 'cloud'" in ended.stderr
    assert "the server's clock is 7" in ended.stderr, "7200 s, or a second more"
    assert "set this machine's clock" in ended.stderr


@pytest.mark.parametrize(
    ("code", "status", "hint"),
    [
        ("ExpiredToken", 400, "has expired"),
        ("RequestTimeTooSkewed", 403, "clock"),
        ("AuthorizationHeaderMalformed", 400, "region"),
        ("PermanentRedirect", 301, "region"),
        ("AccessDenied", 403, "credentials"),
        ("SlowDown", 503, "try again"),
        ("BadDigest", 400, "not what was sent"),
    ],
)
def test_what_a_server_says_becomes_what_to_do(code: str, status: int, hint: str) -> None:
    """As AWS answers; the real server at hand says some of it never."""
    response = {"Error": {"Code": code, "Message": f"{code}\nin two lines"}}
    error = ClientError({**response, "ResponseMetadata": {"HTTPStatusCode": status}}, "PutObject")  # type: ignore[typeddict-item]
    told = explain(error, where="s3://b", bucket="b", key="k")
    assert type(told) is StoreUnavailable
    assert hint in told.hint
    assert str(told).isprintable()


# -- whose credentials ---------------------------------------------------------------------------------------------


def test_each_role_has_credentials_of_its_own_by_reference_and_no_secret_is_written(
    client: S3Client, seaweed: S3Server, jinshi: Jinshi, tmp_path: Path
) -> None:
    bucket = new_bucket(client)
    file = tmp_path / "mirror.json"
    file.write_text(json.dumps({"access_key": seaweed.access_key, "secret_key": seaweed.secret_key}))
    file.chmod(stat.S_IRUSR)
    without = jinshi.with_environment(AWS_ACCESS_KEY_ID=None, AWS_SECRET_ACCESS_KEY=None)
    run = without.with_environment(
        CLOUD_ACCESS_KEY_ID=seaweed.access_key,
        CLOUD_SECRET_ACCESS_KEY=seaweed.secret_key,
        AUDITOR_ACCESS_KEY_ID="nobody",
        AUDITOR_SECRET_ACCESS_KEY="wrong",
    )
    options = ("--credentials", "env:CLOUD", "--mirror-credentials", f"file:{file}")
    run("site", "add", "cloud", url(seaweed, bucket), *options, "--reader-credentials", "env:AUDITOR")
    run("replicate", "--once")
    settings = (jinshi.directory / "台账" / "jinshi.json").read_text()
    assert seaweed.secret_key not in settings
    refused = run("verify", "--site", "cloud", code=4)  # a reader has the reader's, and these are wrong
    assert "check the credentials" in refused.stderr
    run.with_environment(AUDITOR_ACCESS_KEY_ID=seaweed.access_key, AUDITOR_SECRET_ACCESS_KEY=seaweed.secret_key)(
        "verify", "--site", "cloud"
    )
    run("site", "add", "there", tmp_path / "there")
    ended = without("replicate", "--once", code=4)
    assert "no credentials in CLOUD_ACCESS_KEY_ID and CLOUD_SECRET_ACCESS_KEY (site 'cloud')" in ended.stderr
    without("verify", "--site", "there")  # the other site went on
    assert "no credentials in CLOUD_ACCESS_KEY_ID" in without("status").stderr


def test_a_reference_that_leads_nowhere_is_one_line_and_shows_no_secret(
    seaweed: S3Server, jinshi: Jinshi, tmp_path: Path
) -> None:
    (tmp_path / "odd.json").write_text('{"access_key": "a", "secret": "b"}')
    place = url(seaweed, "b-1")
    for reference, said in (
        ("wJalrXUtnFEMI/K7MDENG", "that says not where credentials are"),
        ("env:NOT A NAME", "that says not where credentials are"),
        ("file:relative", "that says not where credentials are"),
        ("env:NOBODY", "no credentials in NOBODY_ACCESS_KEY_ID"),
        (f"file:{tmp_path}/none.json", "none.json"),
        (f"file:{tmp_path}/odd.json", "holds no credentials"),
    ):
        ended = jinshi("site", "add", "cloud", place, "--credentials", reference, code=(2, 4))
        assert said in ended.stderr, ended.stderr
        assert "wJalr" not in ended.stderr


def test_a_lock_that_is_gone_afterwards_is_found(client: S3Client, seaweed: S3Server, jinshi: Jinshi) -> None:
    """What `site add` has found out need not stay so: the doctor asks the bucket again."""
    bucket, other = new_bucket(client, lock=True), new_bucket(client, versions=True)
    jinshi("site", "add", "remote", url(seaweed, bucket), "--lock-days", 400, "--accept", "ports")
    registered = ("--kind", "events", "--grade", "3", "--owner", "hall", "--set", "sources=urn:permits")
    jinshi("asset", "add", "permits", *registered)
    jinshi("replicate", "--once")
    assert found(jinshi) == ["site remote locks what it holds for 400 days; grade 3 demands 730 days"]
    move(client, jinshi, bucket, other)
    assert found(jinshi)[0] == f"site remote does not lock what is written there: Object Lock of s3://{other} is off"
    client.put_bucket_versioning(Bucket=other, VersioningConfiguration={"Status": "Suspended"})
    assert f"versioning of s3://{other} is off" in found(jinshi)[0]


def test_a_lock_that_is_gone_is_an_alarm_until_it_is_back(client: S3Client, seaweed: S3Server, jinshi: Jinshi) -> None:
    bucket, other = new_bucket(client, lock=True), new_bucket(client, versions=True)
    jinshi("site", "add", "remote", url(seaweed, bucket), "--lock-days", 400, "--accept", "ports")
    jinshi("replicate", "--once")
    whole = settings_of(jinshi).read_text()
    with receiving() as receiver:
        options = ("--every", "0.2", "--alarm-webhook", receiver.url)
        move(client, jinshi, bucket, other)
        with serving(jinshi, *options):
            (raised,) = receiver.until(1)
            until("it is recorded, too", lambda: bool(jinshi("status", "--json").json["alarms"]))
        settings_of(jinshi).write_text(whole)
        with serving(jinshi, *options):
            _, cleared = receiver.until(2)
            until("that is recorded, too", lambda: not jinshi("status", "--json").json["alarms"])
    told = [(one["type"], one["data"]["kind"], one["data"]["about"]) for one in (raised, cleared)]
    assert told == [(f"alarm.{how}.v1", "site-unlocked", "remote") for how in ("raised", "cleared")]
    what = f"site remote does not lock what is written there: Object Lock of s3://{other} is off"
    assert raised["data"]["what"] == what
    recorded = {one["entry"]["id"] for one in jinshi("log", "--json", "--all").json_lines}
    assert {raised["id"], cleared["id"]} <= recorded


def settings_of(jinshi: Jinshi) -> Path:
    assert jinshi.ledger is not None
    return jinshi.ledger / "jinshi.json"


def move(client: S3Client, jinshi: Jinshi, bucket: str, other: str) -> None:
    """Move the site to another bucket, as an operator may: SeaweedFS takes no lock from a bucket that has one."""
    for key in {key for key, _ in every_version(client, bucket)}:
        client.copy_object(Bucket=other, Key=key, CopySource={"Bucket": bucket, "Key": key})
    settings = settings_of(jinshi)
    settings.write_text(settings.read_text().replace(bucket, other))


def found(jinshi: Jinshi) -> list[str]:
    """What the doctor says of the one asset."""
    (asset,) = jinshi("doctor", "--no-beside", "--json", code=1).json["assets"]
    return [one["what"] for one in asset["findings"]]
