"""A hosted ledger's quota: what counts, who is told, what stays, and that nobody else is kept waiting."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cli.serving.alarming import AlarmSettings, site_readings
from ledger.acknowledging import Acknowledging
from ledger.alarms import AlarmKind
from ledger.core.checkpoint import CHECKPOINT, parse_checkpoint
from ledger.errors import OverQuota, StoreUnavailable, Tampered
from ledger.lag import LagMeter
from ledger.store.base import ObjectStore
from ledger.store.memory import MemoryObjectStore
from replication.http.common import Face
from replication.http.mirror import MirrorFace, make_mirror_app
from replication.quota import (
    Notice,
    Room,
    format_notice,
    parse_notice,
    read_notice,
    room_of,
    used_bytes,
)
from replication.role import MirrorKey, SiteRole
from replication.site import NOTICE, describe_anew, read_description
from tests.support.ledgers import contents
from tests.support.replicas import FAR, NEAR, Replicas, overwrite


async def quota(replicas: Replicas, name: str, allowed: int | None) -> None:
    """What `jinshi site host --quota` does."""
    place = replicas.places[name]
    found = await read_description(place.site, replicas.origin)
    await describe_anew(place.site, place.cosigner, replace(found, quota_bytes=allowed))


def role(replicas: Replicas, name: str) -> SiteRole:
    place = replicas.places[name]
    keys = {place.cosigner.vkey: MirrorKey(place.cosigner, place.memory)}
    return SiteRole(place.objects, replicas.log, keys, replicas.clock, replicas.nonce)


async def cosigned_size(objects: ObjectStore) -> int:
    return parse_checkpoint((await objects.get(CHECKPOINT)).data).checkpoint.size


async def test_over_its_quota_a_site_cosigns_no_more_and_says_so_to_whoever_ships() -> None:
    replicas = await Replicas(sites=[NEAR, FAR]).begin()
    near, far = role(replicas, NEAR), role(replicas, FAR)
    await replicas.advance_to(300)
    objects = replicas.places[NEAR].objects
    used = await used_bytes(objects)
    await quota(replicas, NEAR, used + 500)  # what the next growth adds is beyond it
    assert await near.round() is not None
    assert near.quota is not None
    assert (near.quota.room, near.trouble) == (Room.NEAR, None)
    await replicas.grow(400)
    await replicas.publish()
    await replicas.follower(NEAR).run_once()
    for _ in range(2):
        assert await near.round() is None
        assert isinstance(near.trouble, OverQuota)
    assert await cosigned_size(objects) == near.size == 300, "what is cosigned stays"
    kept = await contents(objects)
    with pytest.raises(OverQuota, match="over its quota and cosigns nothing more"):
        await replicas.follower(NEAR).run_once()
    assert await contents(objects) == kept, "nothing was sent"
    await replicas.follower(FAR).run_once()
    await far.round()
    assert (far.size, far.trouble) == (400, None), "another site goes on"

    await quota(replicas, NEAR, 4 * used)
    assert await near.round() is not None
    assert (near.size, near.trouble) == (400, None)
    notice = await read_notice(replicas.places[NEAR].site, replicas.origin)
    assert notice is not None
    assert notice.room is Room.FINE
    await replicas.follower(NEAR).run_once()


async def test_every_version_counts_and_so_does_what_was_deleted() -> None:
    objects = MemoryObjectStore("site", versioned=True)
    await objects.put_immutable("tile/0/000", b"x" * 100)
    await overwrite(objects, "tile/0/000", b"y" * 50)
    await objects.delete("tile/0/000")
    assert [version.size async for version in objects.list_versions("")] == [0, 50, 0, 100]
    assert await used_bytes(objects) == 150


def test_it_is_near_from_nine_tenths_on_and_over_beyond_the_last_byte() -> None:
    assert [room_of(used, 1_000) for used in (0, 899, 900, 1_000, 1_001)] == [
        Room.FINE,
        Room.FINE,
        Room.NEAR,
        Room.NEAR,
        Room.OVER,
    ]


async def test_what_somebody_else_says_of_the_room_is_no_notice_and_is_put_right() -> None:
    replicas = await Replicas(sites=[NEAR]).begin()
    await replicas.advance_to(10)
    place = replicas.places[NEAR]
    await quota(replicas, NEAR, 10**9)
    await overwrite(place.objects, NOTICE, b"over\n")
    with pytest.raises(Tampered, match="near/notice"):
        await replicas.follower(NEAR).run_once()
    await role(replicas, NEAR).round()
    await replicas.follower(NEAR).run_once()


async def test_a_site_without_a_quota_measures_nothing_and_says_nothing() -> None:
    replicas = await Replicas(sites=[NEAR]).begin()
    await replicas.advance_to(10)
    one = role(replicas, NEAR)
    await one.round()
    assert one.quota is not None
    assert one.quota.quota_bytes is None
    assert NOTICE not in await contents(replicas.places[NEAR].objects)
    one.quota.check(10**15)


@pytest.mark.parametrize("room", Room)
def test_a_notice_is_read_as_it_was_written(room: Room) -> None:
    notice = Notice("o", "near", room, 5, 7, "2026-01-01T00:00:00Z")
    assert parse_notice(format_notice(notice)) == notice


async def test_the_room_is_measured_in_numbers_that_can_be_watched() -> None:
    replicas = await Replicas(sites=[NEAR]).begin()
    await replicas.advance_to(10)
    await quota(replicas, NEAR, 5)
    one = role(replicas, NEAR)
    await one.round()
    own = MirrorFace([one])
    face = Face(own.troubles)
    make_mirror_app(own, face)
    found = {sample.name: sample.value for metric in own.collect() for sample in metric.samples}
    assert found["jinshi_mirror_quota_bytes"] == 5
    assert found["jinshi_mirror_over_quota"] == 1
    assert found["jinshi_mirror_used_bytes"] > 5
    assert "over its quota" in "".join(await own.troubles())


async def test_a_full_site_is_an_alarm_of_its_own_and_not_one_that_cannot_be_reached() -> None:
    """The reason is the alarm's text; it clears when a round goes well again."""
    replicas = await Replicas(sites=[NEAR]).begin()
    clock, settings = replicas.clock, AlarmSettings()
    acknowledging = Acknowledging([(NEAR, "remote")], clock, LagMeter(replicas.store, clock))

    def over() -> dict[str, str]:
        now_s = clock.now().timestamp() + 100_000
        readings = site_readings(acknowledging.standings[0], 0.0, now_s, settings)
        return {reading.kind.value: reading.what for reading in readings if reading.over}

    notice = Notice(replicas.origin, NEAR, Room.OVER, 200, 100, "2026-01-01T00:00:00Z")
    acknowledging.failed(NEAR, StoreUnavailable("it is away"))
    with pytest.raises(OverQuota) as refused:
        notice.refuse()
    acknowledging.failed(NEAR, refused.value)
    assert over() == {AlarmKind.SITE_QUOTA.value: notice.what}
    acknowledging.cosigned(NEAR, None)
    assert over() == {}
    fine = {one.kind for one in site_readings(acknowledging.standings[0], 0.0, 0.0, settings) if one.fine}
    assert AlarmKind.SITE_QUOTA in fine
