"""The policies that docs/sites.md writes out, taken from there and put on a real server: what each role can and cannot.

SeaweedFS takes them as one bucket policy, every statement with the role it is for as its principal.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from botocore.exceptions import ClientError

from ledger.core.checkpoint import CHECKPOINT, origin_prefix
from ledger.store.s3_client import make_client
from tests.support.buckets import client_of
from tests.support.cli import events, ledger_in
from tests.support.roles import running, until
from tests.support.servers import S3Server, private_seaweed

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

PAGE = Path(__file__).parents[2] / "docs" / "sites.md"
WRITER, MIRROR, READER = ROLES = ("writer", "mirror", "reader")
BUCKET, FOLDER = "backups", "jinshi"


def written_policies() -> dict[str, list[dict[str, Any]]]:
    """The statements of each role, as the page has them."""
    blocks = [json.loads(text) for text in re.findall(r"```json\n(.*?)```", PAGE.read_text(), re.DOTALL)]
    policies = [block["Statement"] for block in blocks if "Statement" in block]
    assert len(policies) == len(ROLES)
    return dict(zip(ROLES, policies, strict=True))


def as_bucket_policy() -> str:
    """All of them in one: the form a server without attached user policies takes (the page says so)."""
    statements = [
        {
            **statement,
            "Principal": {"AWS": f"arn:aws:iam::000000000000:user/{role}"},
            # A bucket's policy is about that bucket alone; attached to a user, "*" is every one.
            "Resource": [f"arn:aws:s3:::{BUCKET}", f"arn:aws:s3:::{BUCKET}/*"]
            if statement["Resource"] == "*"
            else statement["Resource"],
        }
        for role, policy in written_policies().items()
        for statement in policy
    ]
    return json.dumps({"Version": "2012-10-17", "Statement": statements})


@dataclass(frozen=True)
class Guarded:
    """A bucket under the policies, and the roles' credentials (the secret is the name with `-secret`)."""

    server: S3Server
    admin: S3Client

    def client(self, role: str) -> S3Client:
        return make_client(
            endpoint_url=self.server.endpoint, region="us-east-1", access_key=role, secret_key=f"{role}-secret"
        )


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    directory = tmp_path_factory.mktemp("guarded")
    admin = {"accessKey": "jinshi-test", "secretKey": "jinshi-test-secret"}
    identities = [{"name": "admin", "credentials": [admin], "actions": ["Admin"]}]
    for role in ROLES:
        secret = {"accessKey": role, "secretKey": f"{role}-secret"}
        identities.append({"name": role, "credentials": [secret], "actions": []})  # nothing but what the policy allows
    config = directory / "s3.json"
    config.write_text(json.dumps({"identities": identities}))
    with private_seaweed(directory / "weed", options=[f"-s3.config={config}"]) as seaweed:
        server = seaweed.start()
        with closing(client_of(server)) as client:
            client.create_bucket(Bucket=BUCKET, ObjectLockEnabledForBucket=True)
            client.put_bucket_policy(Bucket=BUCKET, Policy=as_bucket_policy())
            yield Guarded(server, client)


@pytest.mark.slow
def test_every_role_can_do_its_work_with_the_real_commands(guarded: Guarded, tmp_path: Path) -> None:
    variables = {}
    for role in ROLES:
        variables[f"{role.upper()}_ACCESS_KEY_ID"] = role
        variables[f"{role.upper()}_SECRET_ACCESS_KEY"] = f"{role}-secret"
    jinshi = ledger_in(tmp_path, "--no-sites").with_environment(**variables)
    place = f"s3://{BUCKET}/{FOLDER}?endpoint={guarded.server.endpoint}"
    roles = ("--credentials", "env:WRITER", "--mirror-credentials", "env:MIRROR", "--reader-credentials", "env:READER")
    jinshi("site", "add", "cloud", place, "--lock-days", 1, *roles)
    jinshi("append", stdin=events(100))
    jinshi("replicate", "--once")
    jinshi("append", stdin=events(300, first=100))  # a partial tile is cleared away
    jinshi("replicate", "--once")
    jinshi("verify", "--site", "cloud")
    jinshi("site", "extend", "cloud")
    jinshi("drill", "run", "--from", "cloud")
    key = next(tmp_path.glob("*-keys/cloud.mirror.key"))
    trust = next(tmp_path.glob("*/trust.policy"))
    origin = jinshi("status", "--json").json["origin"]
    jinshi("append", stdin=events(10, first=400))
    command = ("site", "serve", place, "--key", key, "--trust", trust, "--every", "0.1", "--lock-days", 1)
    with running(jinshi, *command, "--credentials", "env:MIRROR", log=tmp_path / "log") as (_, site):
        key.rename(key.with_suffix(".elsewhere"))  # so that replicate ships only
        jinshi("replicate", "--once")
        size = jinshi("status", "--json").json["tree_size"]
        shown = f"{site}/{origin_prefix(origin)}{CHECKPOINT}"
        until("it has cosigned", lambda: f"\n{size}\n" in httpx.get(shown).text)
    reader = jinshi.at(None).with_environment(AWS_ACCESS_KEY_ID=READER, AWS_SECRET_ACCESS_KEY=f"{READER}-secret")
    recovery = next(tmp_path.glob("*-recovery/*.key"), None) or next(tmp_path.rglob("recovery.key"))
    reader(
        "restore", "ledger", "--from", place, "--to", tmp_path / "again", "--policy", trust, "--recovery-key", recovery
    )
    jinshi.at(tmp_path / "again")("verify")


Act = Callable[["S3Client", str], Any]


def put(client: S3Client, key: str) -> Any:
    return client.put_object(Bucket=BUCKET, Key=key, Body=b"bytes")


def put_locked(client: S3Client, key: str) -> Any:
    until_ = datetime.now(UTC) + timedelta(seconds=2)
    return client.put_object(
        Bucket=BUCKET, Key=key, Body=b"bytes", ObjectLockMode="COMPLIANCE", ObjectLockRetainUntilDate=until_
    )


def get(client: S3Client, key: str) -> Any:
    return client.get_object(Bucket=BUCKET, Key=key)


def delete(client: S3Client, key: str) -> Any:
    return client.delete_object(Bucket=BUCKET, Key=key)


def delete_version(client: S3Client, key: str) -> Any:
    newest = client.list_object_versions(Bucket=BUCKET, Prefix=key)["Versions"][0]
    return client.delete_object(Bucket=BUCKET, Key=key, VersionId=newest["VersionId"])


def retain(client: S3Client, key: str) -> Any:
    retention: Any = {"Mode": "COMPLIANCE", "RetainUntilDate": datetime.now(UTC) + timedelta(seconds=2)}
    return client.put_object_retention(Bucket=BUCKET, Key=key, Retention=retention)


def set_policy(client: S3Client, key: str) -> Any:
    return client.put_bucket_policy(Bucket=BUCKET, Policy=as_bucket_policy())


def set_lifecycle(client: S3Client, key: str) -> Any:
    rule: Any = {"ID": "all", "Status": "Enabled", "Filter": {"Prefix": key}, "Expiration": {"Days": 1}}
    return client.put_bucket_lifecycle_configuration(Bucket=BUCKET, LifecycleConfiguration={"Rules": [rule]})


def suspend_versions(client: S3Client, key: str) -> Any:
    return client.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Suspended"})


def make_multipart(client: S3Client, key: str) -> Any:
    return client.create_multipart_upload(Bucket=BUCKET, Key=key)


SHIPPED = ("tile/0/000", "tile/entries/000", "keyring/asset-0", "pending")
SAID = (CHECKPOINT, "site.json", "notice", "erased/0000000000000001")
EVERYTHING = (*SHIPPED, *SAID)
ALLOWED: dict[tuple[str, Act], tuple[str, ...]] = {
    (WRITER, put): SHIPPED,
    (WRITER, put_locked): SHIPPED,
    (WRITER, make_multipart): SHIPPED,
    (WRITER, retain): EVERYTHING,
    (MIRROR, put): SAID,
    (MIRROR, put_locked): SAID,
    (MIRROR, make_multipart): SAID,
    (MIRROR, retain): EVERYTHING,
    (MIRROR, delete): ("tile/0/000", "tile/entries/000", "keyring/asset-0"),
    (MIRROR, delete_version): ("keyring/asset-0",),
    **{(role, get): EVERYTHING for role in ROLES},
}
ACTS: tuple[Act, ...] = (put, put_locked, make_multipart, get, delete, delete_version, retain)
ACTS_ON_THE_BUCKET: tuple[Act, ...] = (set_policy, set_lifecycle, suspend_versions)


def refused(act: Act, client: S3Client, key: str) -> bool:
    try:
        act(client, key)
    except ClientError as error:
        if error.response["Error"]["Code"] != "AccessDenied":
            raise
        return True
    return False


@pytest.mark.parametrize("role", ROLES)
def test_no_role_can_do_more_than_the_page_says(role: str, guarded: Guarded) -> None:
    folder = f"{FOLDER}/{role}"
    with closing(guarded.client(role)) as client:
        for act in ACTS:
            for name in EVERYTHING:
                key = f"{folder}/{act.__name__}/{name}"
                put(guarded.admin, key)
                can = name in ALLOWED.get((role, act), ())
                assert refused(act, client, key) is not can, f"{role}: {act.__name__} {name}"
            other = f"other/{act.__name__}/tile/0/000"
            put(guarded.admin, other)
            assert refused(act, client, other), f"{role}: {act.__name__} outside of {FOLDER}/"
        for act in ACTS_ON_THE_BUCKET:
            assert refused(act, client, folder), f"{role}: {act.__name__}"
        client.list_objects_v2(Bucket=BUCKET, Prefix=folder)
        client.list_object_versions(Bucket=BUCKET, Prefix=folder)
