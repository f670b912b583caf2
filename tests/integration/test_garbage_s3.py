"""Garbage over `checkpoint` and `pending` in a real bucket that keeps versions: mended, and no way in for anybody."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from ledger.core.checkpoint import CHECKPOINT, origin_prefix
from ledger.errors import Fenced, StoreUnavailable
from ledger.store.base import Prefixed
from ledger.store.faulty import FaultyObjectStore, Outcome
from ledger.store.s3 import S3Store
from replication.locks import lock_of
from replication.site import PENDING, Site
from restore.fetch import verify_site
from tests.support.buckets import client_of, new_bucket
from tests.support.garbling import NOISE, assert_mended, garble
from tests.support.replicas import NEAR, ORIGIN, Replicas
from tests.support.servers import S3Server

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


@pytest.fixture
def client(seaweed: S3Server) -> Iterator[S3Client]:
    client = client_of(seaweed)
    yield client
    client.close()


@pytest.fixture
async def replicas(client: S3Client) -> Replicas:
    """A ledger whose one site lies in a bucket with Object Lock, so that it keeps every version."""
    store = S3Store(client, new_bucket(client, lock=True), "site", lock=lambda key: lock_of(key.partition("/")[2], 30))
    replicas = Replicas(sites=[])
    replicas.places[NEAR] = replicas.place(NEAR, Prefixed(store, origin_prefix(ORIGIN)))
    await replicas.begin()
    for size in (1, 300):
        await replicas.advance_to(size)
    return replicas


async def test_both_are_put_back_over_the_garbage(replicas: Replicas) -> None:
    place = replicas.places[NEAR]
    shown = (await place.objects.get(CHECKPOINT)).data
    for key in (CHECKPOINT, PENDING):
        await garble(place.objects, key)
    await assert_mended(replicas, NEAR, place, shown=shown, size=300)
    await replicas.advance_to(700)
    copy = await replicas.open(NEAR)
    await verify_site(copy)
    assert not copy.alarms, "nothing lies over anything any more"


async def test_a_mirror_reads_nothing_again_where_an_older_version_says_what_it_had_shown(replicas: Replicas) -> None:
    place = replicas.places[NEAR]
    await garble(place.objects, CHECKPOINT)
    read: list[str] = []

    class Watched(FaultyObjectStore):
        async def get(self, key):  # type: ignore[no-untyped-def]
            read.append(key)
            return await super().get(key)

    watched = Watched(place.objects, lambda operation, key: Outcome.PASS)
    await replicas.mirror(NEAR, objects=watched).advance()
    assert not [key for key in read if key.startswith("tile/entries/")]
    await verify_site(await replicas.open(NEAR))


async def test_killed_between_evidence_and_swap_it_is_finished_by_the_next_round(replicas: Replicas) -> None:
    place = replicas.places[NEAR]
    shown = (await place.objects.get(CHECKPOINT)).data
    for key in (CHECKPOINT, PENDING):
        await garble(place.objects, key)
    for outcome in (Outcome.FAIL_NOT_PERSISTED, Outcome.FAIL_PERSISTED):

        def hook(operation: str, key: str, outcome: Outcome = outcome) -> Outcome:
            return outcome if operation == "replace" else Outcome.PASS

        objects = FaultyObjectStore(place.objects, hook)
        with pytest.raises(StoreUnavailable):
            await replicas.mirror(NEAR, objects=objects).advance()
        with pytest.raises(StoreUnavailable):
            await replicas.follower(NEAR, site=Site(NEAR, objects, place.site.mirror)).run_once()
    await replicas.replicate(NEAR)
    assert (await place.objects.get(CHECKPOINT)).data == shown
    await verify_site(await replicas.open(NEAR))


async def test_an_older_writer_is_fenced_by_the_version_below_the_garbage(replicas: Replicas) -> None:
    """The newer writer's `pending` was garbled before its mirror, or anybody else, had ever looked at it."""
    place, older = replicas.places[NEAR], replicas.epoch
    await replicas.follower(NEAR, epoch=older + 1).run_once()
    for number in range(3):
        await garble(place.objects, PENDING, NOISE + b"%d" % number)
    with pytest.raises(Fenced, match=f"written by epoch {older + 1}"):
        await replicas.follower(NEAR, epoch=older).run_once()
    assert (await place.objects.get(PENDING)).data.startswith(NOISE), "it has touched nothing"
    await replicas.follower(NEAR, epoch=older + 1).run_once()
    await replicas.mirror(NEAR).advance()
    await verify_site(await replicas.open(NEAR))


async def test_where_versions_cannot_be_looked_at_nobody_is_let_in(replicas: Replicas) -> None:
    place = replicas.places[NEAR]
    await garble(place.objects, PENDING)

    class Blind(FaultyObjectStore):
        def list_versions(self, prefix):  # type: ignore[no-untyped-def]
            raise StoreUnavailable("s3:ListBucketVersions is not allowed")

    blind = Blind(place.objects, lambda operation, key: Outcome.PASS)
    with pytest.raises(StoreUnavailable):
        await replicas.follower(NEAR, site=Site(NEAR, blind, place.site.mirror)).run_once()
    assert (await place.objects.get(PENDING)).data == NOISE
