"""Replication over a real S3 server: shipped, cosigned, tampered with, fought over, and restored from."""

from __future__ import annotations

import asyncio

import pytest

from ledger.core.checkpoint import CHECKPOINT, origin_prefix
from ledger.errors import CompareFailed, Fenced, StoreUnavailable, Tampered
from ledger.keyring import KEYRING
from ledger.store.base import Prefixed
from ledger.store.memory import MemoryEntryStore
from ledger.store.s3 import S3Store
from ledger.store.s3_client import make_client
from replication.site import PENDING, SITE, read_pending
from restore.fetch import verify_site
from restore.rebuild.ledger import rebuild
from tests.conftest import S3StoreFactory
from tests.support.ledgers import contents
from tests.support.replicas import NEAR, ORIGIN, Replicas, overwrite
from tests.support.servers import SeaweedFS


async def begin(bucket: S3Store) -> Replicas:
    """A ledger whose one site lies in a bucket."""
    replicas = Replicas(sites=[])
    replicas.places[NEAR] = replicas.place(NEAR, Prefixed(bucket, origin_prefix(ORIGIN)))
    return await replicas.begin()


async def assert_restored(replicas: Replicas) -> None:
    copy = await replicas.open(NEAR)
    await verify_site(copy)
    store, size = MemoryEntryStore(), (await replicas.store.head()).size
    assert await rebuild(copy, store) == size
    assert list(await store.rows(0, size + 1)) == list(await replicas.store.rows(0, size + 1))


async def test_a_ledger_is_shipped_cosigned_and_restored_in_growing_parts(s3_store: S3StoreFactory) -> None:
    replicas = await begin(s3_store())
    for size in (1, 300, 310, 700):
        await replicas.advance_to(size)
        await assert_restored(replicas)
    at_site = await contents(replicas.places[NEAR].objects)
    published = await contents(replicas.published)
    assert {key: at_site[key] for key in published if key != CHECKPOINT} == {
        key: data for key, data in published.items() if key != CHECKPOINT
    }
    await replicas.replicate()
    assert await contents(replicas.places[NEAR].objects) == at_site, "there was nothing to do"


async def test_what_is_changed_in_the_bucket_is_named(s3_store: S3StoreFactory) -> None:
    replicas = await begin(s3_store())
    await replicas.advance_to(700)
    objects = replicas.places[NEAR].objects
    for key in ("tile/entries/001", "tile/0/002.p/188", CHECKPOINT, SITE, PENDING, KEYRING + replicas.keyid):
        genuine = (await objects.get(key)).data
        position = len(genuine) - 10
        await overwrite(objects, key, genuine[:position] + bytes([genuine[position] ^ 1]) + genuine[position + 1 :])
        with pytest.raises(Tampered) as caught:
            await verify_site(await replicas.open(NEAR))
        assert caught.value.key == key
        assert "s3://" in str(caught.value)
        await overwrite(objects, key, genuine)
    await assert_restored(replicas)


async def test_of_racing_writers_the_newest_epoch_has_pending(s3_store: S3StoreFactory) -> None:
    replicas = await begin(s3_store())
    await replicas.grow(300)
    await replicas.publish()
    epochs = [1, 2, 3, 3, 3, 4]
    done = await asyncio.gather(
        *(replicas.follower(NEAR, epoch=epoch).run_once() for epoch in epochs), return_exceptions=True
    )
    assert done[-1] == 300, "nobody is newer"
    assert all(one == 300 or isinstance(one, Fenced) for one in done), done
    found = await read_pending(replicas.places[NEAR].site, replicas.log)
    assert found is not None
    assert found[0].epoch == 4
    with pytest.raises(Fenced):
        await replicas.follower(NEAR, epoch=3).run_once()
    await replicas.mirror(NEAR).advance()
    await assert_restored(replicas)


async def test_racing_mirrors_say_one_thing(s3_store: S3StoreFactory) -> None:
    replicas = await begin(s3_store())
    await replicas.grow(300)
    await replicas.publish()
    await replicas.follower(NEAR).run_once()
    memory = s3_store()
    done = await asyncio.gather(
        *(replicas.mirror(NEAR, memory=memory).advance() for _ in range(4)), return_exceptions=True
    )
    assert all(not isinstance(one, BaseException) or isinstance(one, CompareFailed) for one in done), done
    assert (await replicas.places[NEAR].objects.get(CHECKPOINT)).data == (await memory.get("cosigned")).data


@pytest.mark.slow
async def test_a_site_that_goes_away_is_carried_on_with_when_it_is_back(own_seaweed: SeaweedFS) -> None:
    server = own_seaweed.start()
    client = make_client(
        endpoint_url=server.endpoint,
        region="us-east-1",
        access_key=server.access_key,
        secret_key=server.secret_key,
        timeout_s=20.0,
        attempts_max=1,
    )
    try:
        replicas = await begin(S3Store(client, server.bucket))
        await replicas.advance_to(300)
        await replicas.grow(3_000)
        await replicas.publish()

        def killed(done: int, of: int) -> None:
            own_seaweed.kill()  # bundles are there, tiles and pending are not

        with pytest.raises(StoreUnavailable):
            await replicas.follower(NEAR).run_once(killed)
        with pytest.raises(StoreUnavailable):
            await replicas.open(NEAR)
        own_seaweed.start()
        await verify_site(await replicas.open(NEAR))  # what was cosigned still is
        await replicas.replicate()
        await assert_restored(replicas)
    finally:
        client.close()
