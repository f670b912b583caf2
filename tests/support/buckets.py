"""Buckets of a real S3 server for tests: with versions, with Object Lock, and in the hands of a thief."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

from botocore.exceptions import ClientError

from ledger.core.checkpoint import origin_prefix
from ledger.store.base import Prefixed
from ledger.store.s3 import S3Store
from ledger.store.s3_client import make_client
from replication.locks import lock_of
from tests.support.replicas import NEAR, ORIGIN, Replicas
from tests.support.servers import S3Server

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

DAYS = 30
"""How long what is `locked` stays so."""


def client_of(server: S3Server) -> S3Client:
    """A client with the server's own credentials."""
    return make_client(
        endpoint_url=server.endpoint, region="us-east-1", access_key=server.access_key, secret_key=server.secret_key
    )


def new_bucket(client: S3Client, *, versions: bool = False, lock: bool = False) -> str:
    """A new bucket; one with Object Lock has versions."""
    name = f"bucket-{uuid4().hex}"
    client.create_bucket(Bucket=name, ObjectLockEnabledForBucket=lock)
    if versions:
        client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    return name


def locked(client: S3Client, bucket: str, *, days: int = DAYS) -> S3Store:
    """A bucket as the store of a site, which locks what `lock_of` says."""
    return S3Store(client, bucket, "site", lock=lambda key: lock_of(key.partition("/")[2], days))


def near_in(store: S3Store) -> Replicas:
    """Replicas whose only site is in that store; still to be begun."""
    replicas = Replicas(sites=[])
    replicas.places[NEAR] = replicas.place(NEAR, Prefixed(store, origin_prefix(ORIGIN)))
    return replicas


def deny_deleting_versions(client: S3Client, bucket: str) -> None:
    """As the policy of docs/sites.md denies it to everybody but the site's role."""
    statement = {"Effect": "Deny", "Principal": "*", "Action": ["s3:DeleteObjectVersion"]}
    policy = {"Version": "2012-10-17", "Statement": [{**statement, "Resource": [f"arn:aws:s3:::{bucket}/*"]}]}
    client.put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))


def every_version(client: S3Client, bucket: str) -> list[tuple[str, str]]:
    """(key, version) of everything with bytes that a bucket holds."""
    pages = client.get_paginator("list_object_versions").paginate(Bucket=bucket)
    return [(one["Key"], one["VersionId"]) for page in pages for one in page.get("Versions", [])]


def attack(client: S3Client, bucket: str) -> list[tuple[str, str]]:
    """What a thief of credentials does: shorten, delete, overwrite everything. What would not go is returned."""
    soon = datetime.now(UTC) + timedelta(seconds=1)
    refused = [one for one in every_version(client, bucket) if not _deleted(client, bucket, one)]
    for key, version in refused:
        for retention in ({"Mode": "COMPLIANCE", "RetainUntilDate": soon}, {"Mode": "GOVERNANCE"}, {}):
            with suppress(ClientError):
                client.put_object_retention(
                    Bucket=bucket,
                    Key=key,
                    VersionId=version,
                    Retention=retention,  # type: ignore[arg-type]
                    BypassGovernanceRetention=True,
                )
    refused = [one for one in refused if not _deleted(client, bucket, one)]
    for number, key in enumerate(sorted({key for key, _ in refused})):
        if number % 3 != 0:
            client.put_object(Bucket=bucket, Key=key, Body=b"somebody else's bytes")
        if number % 3 != 1:
            client.delete_object(Bucket=bucket, Key=key)
    return refused


def _deleted(client: S3Client, bucket: str, one: tuple[str, str]) -> bool:
    try:
        client.delete_object(Bucket=bucket, Key=one[0], VersionId=one[1], BypassGovernanceRetention=True)
    except ClientError:
        return False
    return True
