"""Content in a real bucket: packs are locked, a capture that finds them again locks them anew, no thief loses one."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from ledger.content.references import Gone
from ledger.core.checkpoint import origin_prefix
from ledger.core.manifest import INDEX, PACKS, pack_key
from ledger.store.base import Prefixed
from ledger.store.memory import MemoryObjectStore
from ledger.store.s3 import S3Store
from ledger.verify import verify_copy
from replication.collect import GRACE_DAYS
from replication.locks import extend_all
from restore.fetch import fetch_content, verify_site
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
from tests.support.content import SMALL, bytes_under, collect, keys_under, noise, refer, release
from tests.support.replicas import NEAR, ORIGIN
from tests.support.scrubbing import Rot
from tests.support.servers import S3Server

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


@pytest.fixture
def client(seaweed: S3Server) -> Iterator[S3Client]:
    client = client_of(seaweed)
    yield client
    client.close()


@pytest.fixture
def bucket(client: S3Client) -> str:
    return new_bucket(client, lock=True)


def left(client: S3Client, bucket: str, key: str) -> timedelta:
    found = client.head_object(Bucket=bucket, Key=f"site/{origin_prefix(ORIGIN)}{key}")
    assert found["ObjectLockMode"] == "COMPLIANCE"
    return found["ObjectLockRetainUntilDate"] - datetime.now(UTC)


async def test_stolen_writer_credentials_lose_no_pack(client: S3Client, bucket: str) -> None:
    replicas = await near_in(locked(client, bucket)).begin()
    await refer(replicas, noise(1, 3 * SMALL.pack_size))
    await replicas.replicate()
    objects = replicas.places[NEAR].objects
    there = {folder: await keys_under(objects, folder) for folder in (PACKS, INDEX)}
    assert all(there.values())
    for keys in there.values():
        assert left(client, bucket, keys[0]) > timedelta(days=DAYS - 1)
    everything = set(every_version(client, bucket))
    deny_deleting_versions(client, bucket)
    assert set(attack(client, bucket)) == everything, "no version went"
    copy = await replicas.open(NEAR)
    await verify_site(copy)
    assert set(there[PACKS]) & {alarm.key for alarm in copy.alarms.found}, "it is seen"
    back = MemoryObjectStore("restored")
    await fetch_content(copy, back, Gone())
    assert await keys_under(back, PACKS) == there[PACKS]
    assert await bytes_under(back, PACKS) == await bytes_under(replicas.published, PACKS)


async def test_what_was_released_goes_with_every_version_and_a_thief_makes_nobody_miss_it(client: S3Client) -> None:
    bucket = new_bucket(client, versions=True)
    replicas = await near_in(S3Store(client, bucket, "site")).begin()
    await refer(replicas, noise(5, 3 * SMALL.pack_size))
    kept = await refer(replicas, noise(6, SMALL.pack_size))
    await replicas.replicate()
    await release(replicas, 1)
    await collect(replicas)
    await replicas.replicate()
    for _ in range(2):
        done = await replicas.mirror(NEAR).collect()
        replicas.clock.advance(timedelta(days=GRACE_DAYS).total_seconds())
    assert done.removed == done.unneeded > 2
    prefix = f"site/{origin_prefix(ORIGIN)}"
    left = {key for key, _ in every_version(client, bucket) if key.startswith(f"{prefix}{PACKS}")}
    assert left == {f"{prefix}{pack_key(pack)}" for pack in kept.packs}
    # The entry that says so, too, is under what somebody has put over its bundle, or deleted.
    for number, key in enumerate(sorted({key for key, _ in every_version(client, bucket) if "/tile/" in key})):
        client.put_object(Bucket=bucket, Key=key, Body=b"somebody else's bytes")
        if number % 2:
            client.delete_object(Bucket=bucket, Key=key)
    copy = await replicas.open(NEAR)
    await verify_site(copy)
    assert copy.alarms.found


async def test_a_pack_that_is_referred_to_again_is_locked_anew_and_all_are_when_it_is_asked_for(
    client: S3Client, bucket: str
) -> None:
    replicas = await near_in(locked(client, bucket, days=2)).begin()
    data = noise(3, 3 * SMALL.pack_size)
    (pack, *_) = (await refer(replicas, data)).packs
    await replicas.replicate()
    assert left(client, bucket, pack_key(pack)) < timedelta(days=2)
    longer = replicas.place(NEAR, Prefixed(locked(client, bucket), origin_prefix(ORIGIN)))
    replicas.places[NEAR] = type(longer)(longer.site, longer.cosigner, replicas.places[NEAR].memory)
    await replicas.advance_to(3)
    assert left(client, bucket, pack_key(pack)) < timedelta(days=2)
    again = await refer(replicas, data + b"more")
    assert pack in again.packs
    await replicas.replicate()
    assert left(client, bucket, pack_key(pack)) > timedelta(days=DAYS - 1)
    longest = Prefixed(locked(client, bucket, days=2 * DAYS), origin_prefix(ORIGIN))
    await extend_all(longest, (await replicas.open(NEAR)).checkpoint)
    assert all(left(client, bucket, pack_key(one)) > timedelta(days=2 * DAYS - 1) for one in again.packs)


async def test_a_bucket_is_scrubbed_and_healed_of_what_was_put_over_its_packs(client: S3Client, bucket: str) -> None:
    store = Prefixed(locked(client, bucket), origin_prefix(ORIGIN))
    rot = Rot({"bucket": store, "other": MemoryObjectStore("other")})
    await rot.begin(2)
    await refer(rot.replicas, noise(4, 6 * SMALL.pack_size))
    await rot.replicas.replicate()
    packs = await keys_under(store, PACKS)
    await store.replace(packs[0], b"somebody else's bytes", expected=(await store.get(packs[0])).tag)
    await store.delete(packs[1])
    done = await rot.scrub("bucket")
    assert ({one.key for one in done.findings}, done.whole) == ({packs[0], packs[1]}, True)
    await verify_copy(store, (await rot.replicas.open("bucket")).checkpoint)
