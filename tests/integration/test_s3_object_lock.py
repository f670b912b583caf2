"""Object Lock on a real server: what a thief of credentials cannot destroy, and how it is restored and told."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ledger.core.checkpoint import CHECKPOINT, origin_prefix
from ledger.core.tiles import Tile
from ledger.errors import ObjectMissing, StoreUnavailable, Tampered
from ledger.keyring import KEYRING
from ledger.store.base import Prefixed
from ledger.store.memory import MemoryEntryStore
from ledger.store.s3 import S3Store
from replication.locks import PARTIAL_DAYS, extend_all
from replication.site import PENDING, SITE
from restore.fetch import verify_site
from restore.rebuild.ledger import rebuild
from tests.support.buckets import (
    DAYS,
    attack,
    client_of,
    deny_deleting_versions,
    every_version,
    locked,
    near_in,
    new_bucket,
)
from tests.support.cli import events, ledger_in
from tests.support.replicas import NEAR, ORIGIN, Replicas
from tests.support.servers import S3Server

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

SIZE = 300
UNLOCKED = {KEYRING, PENDING}


@pytest.fixture
def client(seaweed: S3Server) -> Iterator[S3Client]:
    client = client_of(seaweed)
    yield client
    client.close()


@pytest.fixture
def bucket(client: S3Client) -> str:
    return new_bucket(client, lock=True)


async def replicated(store: S3Store) -> Replicas:
    replicas = near_in(store)
    await replicas.begin()
    for size in (1, SIZE):
        await replicas.advance_to(size)
    return replicas


async def assert_restored(replicas: Replicas) -> set[str]:
    """Every row comes back; returns what was alarmed about."""
    copy, store = await replicas.open(NEAR), MemoryEntryStore()
    assert await rebuild(copy, store) == SIZE
    assert list(await store.rows(0, SIZE + 1)) == list(await replicas.store.rows(0, SIZE + 1))
    return {alarm.key for alarm in copy.alarms.found}


def retained(client: S3Client, bucket: str, replicas: Replicas, key: str) -> timedelta | None:
    found = client.head_object(Bucket=bucket, Key=f"site/{origin_prefix(ORIGIN)}{key}")
    until = found.get("ObjectLockRetainUntilDate")
    assert until is None or found["ObjectLockMode"] == "COMPLIANCE"
    return None if until is None else until - datetime.now(UTC)


async def test_each_object_is_locked_for_as_long_as_the_page_says(client: S3Client, bucket: str) -> None:
    replicas = await replicated(locked(client, bucket))
    for key, days in {
        Tile(-1, 0).path: DAYS,
        Tile(0, 0).path: DAYS,
        Tile(0, 1, 44).path: PARTIAL_DAYS,
        Tile(-1, 1, 44).path: PARTIAL_DAYS,
        CHECKPOINT: PARTIAL_DAYS,
        SITE: DAYS,
    }.items():
        left = retained(client, bucket, replicas, key)
        assert left is not None, key
        assert timedelta(days=days, hours=-1) < left <= timedelta(days=days), key
    for key in (PENDING, KEYRING + replicas.keyid):
        assert retained(client, bucket, replicas, key) is None, key


async def test_a_lock_is_extended_and_never_shortened(client: S3Client, bucket: str) -> None:
    replicas = await replicated(locked(client, bucket))
    key = Tile(0, 0).path
    copy = await replicas.open(NEAR)
    longer = Prefixed(locked(client, bucket, days=2 * DAYS), origin_prefix(ORIGIN))
    await extend_all(longer, copy.checkpoint)
    left = retained(client, bucket, replicas, key)
    assert left is not None
    assert left > timedelta(days=2 * DAYS - 1)
    shorter = Prefixed(locked(client, bucket, days=1), origin_prefix(ORIGIN))
    await extend_all(shorter, copy.checkpoint)
    after = retained(client, bucket, replicas, key)
    assert after is not None
    assert after > timedelta(days=2 * DAYS - 1)
    with pytest.raises(ObjectMissing):
        await longer.extend_lock("tile/0/999")


async def test_a_locked_version_is_neither_deleted_nor_purged(client: S3Client, bucket: str) -> None:
    objects = S3Store(client, bucket, lock=lambda _: timedelta(days=1))
    await objects.put_immutable("tile/0/000", b"genuine")
    await objects.delete("tile/0/000")
    with pytest.raises(StoreUnavailable, match="refused"):
        await objects.purge("tile/0/000")
    kept = [one async for one in objects.list_versions("") if not one.removed]
    assert [await objects.get_version(one.key, one.id) for one in kept] == [b"genuine"]


async def test_stolen_writer_credentials_lose_nothing_and_are_seen(client: S3Client, bucket: str) -> None:
    """Under the policy of docs/sites.md, which leaves the deletion of versions to the site's role."""
    replicas = await replicated(locked(client, bucket))
    there = set(every_version(client, bucket))
    deny_deleting_versions(client, bucket)
    assert set(attack(client, bucket)) == there, "no version went"
    assert there < set(every_version(client, bucket))
    copy = await replicas.open(NEAR)
    await verify_site(copy)
    store = MemoryEntryStore()
    assert await rebuild(copy, store) == SIZE
    assert list(await store.rows(0, SIZE + 1)) == list(await replicas.store.rows(0, SIZE + 1))
    alarmed = {alarm.key for alarm in copy.alarms.found}
    partials_of_before = {key for key in alarmed ^ _keys(there) if ".p/" in key}
    assert alarmed | partials_of_before == _keys(there)
    assert {CHECKPOINT, SITE, PENDING, KEYRING + replicas.keyid, "tile/0/000", "tile/0/001.p/44"} <= alarmed


async def test_whoever_may_delete_versions_still_loses_no_locked_one(client: S3Client, bucket: str) -> None:
    replicas = await replicated(locked(client, bucket))
    kept = _keys(set(attack(client, bucket)))
    assert not any(key.startswith(tuple(UNLOCKED)) for key in kept)
    assert await assert_restored(replicas) >= {CHECKPOINT, SITE, "tile/entries/000", "tile/0/000", "tile/0/001.p/44"}
    with pytest.raises(Tampered) as caught:  # what is not locked is gone, and named
        await verify_site(await replicas.open(NEAR))
    assert caught.value.key == PENDING


def _keys(versions: set[tuple[str, str]]) -> set[str]:
    return {key.removeprefix(f"site/{origin_prefix(ORIGIN)}") for key, _ in versions}


@pytest.mark.slow
def test_the_commands_restore_from_a_bucket_under_attack_and_warn(
    client: S3Client, bucket: str, seaweed: S3Server, tmp_path: Path
) -> None:
    jinshi = ledger_in(tmp_path, "--no-sites").with_environment(
        AWS_ACCESS_KEY_ID=seaweed.access_key, AWS_SECRET_ACCESS_KEY=seaweed.secret_key
    )
    jinshi("append", stdin=events(300))
    url = f"s3://{bucket}/site?endpoint={seaweed.endpoint}"
    added = jinshi("site", "add", "cloud", url, "--lock-days", "30")
    assert "holds  lock: the deletion of a locked version was refused" in added.out
    assert "what is written there is locked for 30 days" in added.out
    jinshi("replicate", "--once")
    assert jinshi("verify", "--site", "cloud").stderr == ""
    deny_deleting_versions(client, bucket)
    attack(client, bucket)
    assert "of the copy are locked anew" in jinshi("site", "extend", "cloud").out
    for command in (("verify", "--site", "cloud"), ("audit", "--site", "cloud"), ("drill", "run", "--from", "cloud")):
        done = jinshi(*command)
        assert "tile/0/000: " in done.stderr, command
        assert "an older version is what was signed for, and counts" in done.stderr, command
        assert "find out whose credentials those were" in done.stderr, command
        assert len(done.stderr.splitlines()) < 60
    policy = jinshi.directory / "台账" / "trust.policy"
    restored = tmp_path / "restored"
    done = jinshi.at(None)("restore", "ledger", "--from", url, "--policy", str(policy), "--to", str(restored))
    assert "restored, every one verified" in done.out
    assert "find out whose credentials those were" in done.stderr


def test_the_store_is_asked_for_nothing_it_does_not_do(client: S3Client) -> None:
    """A bucket without Object Lock refuses a locked write, in one line, and stores nothing."""
    bucket = new_bucket(client)
    objects = locked(client, bucket)
    with pytest.raises(StoreUnavailable) as refused:
        asyncio.run(objects.put_immutable("x/tile/0/000", b"1"))
    assert str(refused.value).isprintable()
    assert every_version(client, bucket) == []


async def test_a_version_whose_lock_was_changed_since_is_no_newer_than_it_was(client: S3Client, bucket: str) -> None:
    """SeaweedFS lists it with the time of that change: a thief would choose which `pending` counts."""
    for data in (b"1", b"22"):
        client.put_object(Bucket=bucket, Key="site/a", Body=data)
    (older,) = [one for one in client.list_object_versions(Bucket=bucket)["Versions"] if not one["IsLatest"]]
    await asyncio.sleep(1.1)  # times are of whole seconds
    until = datetime.now(UTC) + timedelta(seconds=1)
    client.put_object_retention(
        Bucket=bucket,
        Key="site/a",
        VersionId=older["VersionId"],
        Retention={"Mode": "GOVERNANCE", "RetainUntilDate": until},
    )
    client.put_object(Bucket=bucket, Key="site/a", Body=b"333")
    objects = S3Store(client, bucket, "site")
    assert [one.size async for one in objects.list_versions("a")] == [3, 2, 1]
