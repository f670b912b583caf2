"""A bucket that keeps versions: what is purged is gone with all of them, what is deleted is only hidden."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from ledger.errors import ImmutableConflict, ObjectMissing
from ledger.store.s3 import S3Store
from ledger.store.s3_client import make_client
from tests.support.servers import S3Server

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


@pytest.fixture
def client(seaweed: S3Server) -> Iterator[S3Client]:
    client = make_client(
        endpoint_url=seaweed.endpoint, region="us-east-1", access_key=seaweed.access_key, secret_key=seaweed.secret_key
    )
    yield client
    client.close()


@pytest.fixture
def bucket(client: S3Client) -> str:
    """A new bucket with versioning."""
    name = f"versions-{uuid4().hex}"
    client.create_bucket(Bucket=name)
    client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    return name


def versions_of(client: S3Client, bucket: str, key: str) -> list[str]:
    found = client.list_object_versions(Bucket=bucket)
    every = [*found.get("Versions", []), *found.get("DeleteMarkers", [])]
    return [one["VersionId"] for one in every if one["Key"] == key]


async def test_purging_leaves_no_version_of_the_object_and_every_version_of_the_others(
    client: S3Client, bucket: str
) -> None:
    objects = S3Store(client, bucket, "site")
    for key in ("keyring/a", "keyring/a-b"):
        tag = await objects.replace(key, b"1", expected=None)
        for data in (b"2", b"3"):
            tag = await objects.replace(key, data, expected=tag)
    await objects.delete("keyring/a")
    assert len(versions_of(client, bucket, "site/keyring/a")) >= 3, "deleting only hides"
    await objects.purge("keyring/a")
    assert versions_of(client, bucket, "site/keyring/a") == []
    assert len(versions_of(client, bucket, "site/keyring/a-b")) == 3
    assert (await objects.get("keyring/a-b")).data == b"3"
    assert [key async for key in objects.list_keys("")] == ["keyring/a-b"]
    await objects.purge("keyring/a-b")
    assert versions_of(client, bucket, "site/keyring/a-b") == []


async def test_the_guarantees_hold_where_versions_are_kept(client: S3Client, bucket: str) -> None:
    objects = S3Store(client, bucket, "site")
    for _ in range(2):
        await objects.put_immutable("tile/0/000", b"1")
    with pytest.raises(ImmutableConflict):
        await objects.put_immutable("tile/0/000", b"2")
    await objects.delete("tile/0/000")
    with pytest.raises(ObjectMissing):
        await objects.get("tile/0/000")
    assert [key async for key in objects.list_keys("")] == []
    await objects.put_immutable("tile/0/000", b"2")
    assert (await objects.get("tile/0/000")).data == b"2"
