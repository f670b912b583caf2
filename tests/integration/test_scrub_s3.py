"""Three sites in buckets of a real S3 server rot, each in other places, and heal one another."""

from __future__ import annotations

import pytest

from ledger.core.checkpoint import origin_prefix
from ledger.store.base import Prefixed
from restore.fetch import verify_site
from tests.conftest import S3StoreFactory
from tests.support.replicas import ORIGIN
from tests.support.scrubbing import SITES, Rot, damage


@pytest.mark.slow
async def test_buckets_that_rot_heal_one_another(s3_store: S3StoreFactory) -> None:
    places = {name: Prefixed(s3_store(), origin_prefix(ORIGIN)) for name in SITES}
    rot = await Rot(places).begin(700, 3_000)
    pristine = await rot.all()
    damaged = await damage(rot, 0.2, seed=5)
    for name in SITES:
        assert len(damaged[name]) >= 5
        done = await rot.scrub(name)
        assert {one.key for one in done.findings} == set(damaged[name])
        assert done.whole
    assert await rot.all() == pristine
    for name in SITES:
        await verify_site(await rot.replicas.open(name))
