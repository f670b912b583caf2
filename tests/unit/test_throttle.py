"""Throttles: the rate holds over any time, it changes at the boundary of a window, and `off` says so at once."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.acknowledging import Acknowledging
from ledger.core.acknowledgement import parse_ack
from ledger.errors import ObjectMissing, Paused, Unacknowledged
from ledger.lag import LagMeter
from ledger.store.memory import MemoryObjectStore
from replication.schedule import Schedule, parse_schedule
from replication.site import Site
from replication.throttle import BURST_S, Bucket, Throttle, ThrottledStore
from tests.support.ledgers import FixedClock, contents
from tests.support.replicas import NEAR, Replicas

NOON = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
OFF_NOW = parse_schedule("11:00-14:00 off, else free", UTC)


class Slept:
    """A clock that moves when somebody sleeps."""

    def __init__(self, time: datetime = NOON) -> None:
        self.clock = FixedClock(time)

    async def sleep(self, seconds: float) -> None:
        self.clock.advance(seconds)
        await asyncio.sleep(0)

    def throttle(self, schedule: Schedule | None) -> Throttle:
        return Throttle(schedule, self.clock, sleep=self.sleep)

    @property
    def seconds(self) -> float:
        return (self.clock.time - NOON).total_seconds()


@given(
    st.integers(1_000, 10**8),
    st.lists(st.tuples(st.floats(-5, 5), st.integers(1, 10**6)), min_size=1, max_size=50),
)
def test_no_more_than_the_rate_goes_through_whatever_the_clock_does(rate: int, takes: list[tuple[float, int]]) -> None:
    bucket, now_s, real_s, sent, last = Bucket(1_000.0), 1_000.0, 0.0, 0, 0
    for moved_s, size in takes:
        now_s += moved_s
        real_s += max(0.0, moved_s)
        bucket.fill(rate, now_s)
        if (wait_s := bucket.wait_s(rate)) > 0:
            now_s += wait_s * 1.000001
            real_s += wait_s * 1.000001
            bucket.fill(rate, now_s)
        bucket.take(size)
        sent, last = sent + size, size
        assert sent - last <= rate * (real_s + BURST_S) + 1


async def test_many_who_send_at_once_share_the_rate() -> None:
    slept = Slept()
    throttle = slept.throttle(parse_schedule("100kB", UTC))
    await asyncio.gather(*(throttle.sending(50_000) for _ in range(101)))
    assert slept.seconds == pytest.approx(50, abs=1)


async def test_what_is_read_does_not_hold_up_what_is_sent() -> None:
    slept = Slept()
    throttle = slept.throttle(parse_schedule("100kB", UTC))
    await throttle.reading(10**7)
    await throttle.sending(1)
    assert slept.seconds == 0


async def test_the_rate_changes_at_the_boundary_while_somebody_waits() -> None:
    slept = Slept()
    throttle = slept.throttle(parse_schedule("11:00-12:01 10kB, else 100MB", UTC))
    for _ in range(20):
        await throttle.sending(10_000_000)  # 1,000 s each at the first rate
    assert 60 <= slept.seconds <= 63


async def test_a_schedule_that_is_set_anew_holds_for_those_who_wait() -> None:
    slept = Slept()
    throttle = slept.throttle(parse_schedule("10kB", UTC))
    await throttle.sending(10**9)

    async def faster() -> None:
        throttle.change(None)

    await asyncio.gather(throttle.sending(1), faster())
    assert slept.seconds < 10


async def test_off_refuses_at_once_and_says_until_when() -> None:
    objects = MemoryObjectStore()
    store = ThrottledStore(objects, Slept().throttle(OFF_NOW))
    with pytest.raises(Paused, match=r"nothing is sent there until 14:00 \(UTC\)"):
        await store.put_immutable("tile/0/000", b"x")
    with pytest.raises(Paused):
        await store.replace("pending", b"x", expected=None)
    with pytest.raises(Paused):
        await store.get("tile/0/000")
    with pytest.raises(Paused):
        [key async for key in store.list_keys("")]
    assert await contents(objects) == {}
    await store.delete("tile/0/000")


async def test_a_window_that_begins_while_shipping_pauses_it_and_the_next_run_carries_on() -> None:
    replicas = await Replicas(sites=[NEAR]).begin()
    await replicas.grow(3_000, size=300)
    await replicas.publish()
    slept = Slept()
    place = replicas.places[NEAR]
    throttle = slept.throttle(parse_schedule("12:00-12:01 10kB, 12:01-13:00 off, else free", UTC))
    site = Site(NEAR, ThrottledStore(place.objects, throttle), place.site.mirror)
    follower = replicas.follower(NEAR, site=site)
    with pytest.raises(Paused, match="until 13:00"):
        await follower.run_once()
    there = sum([1 async for _ in place.objects.list_keys("tile/")])
    assert 0 < there < 20
    slept.clock.time = datetime(2026, 11, 25, 13, 0, tzinfo=UTC)
    assert await follower.run_once() == 3_000


async def test_an_append_that_waits_for_a_paused_site_says_why() -> None:
    replicas = await Replicas(sites=[NEAR]).begin()
    known = Acknowledging([(NEAR, "remote")], replicas.clock, LagMeter(replicas.store, replicas.clock))
    with pytest.raises(Paused) as paused:
        Slept().throttle(OFF_NOW).check()
    known.failed(NEAR, paused.value)
    assert known.standings[0].since_s is None, "it is as it was told to be: nothing to be alarmed at"
    with pytest.raises(Unacknowledged, match="near: nothing is sent there until 14:00") as caught:
        await known.acknowledge(0, [parse_ack("any:1")], 0.0)
    assert "until 14:00" in str(caught.value.sites[0]["error"])


async def test_without_a_schedule_nothing_is_held_up() -> None:
    slept = Slept()
    store = ThrottledStore(MemoryObjectStore(), slept.throttle(None))
    await store.put_immutable("tile/0/000", bytes(10**6))
    assert len((await store.get("tile/0/000")).data) == 10**6
    with pytest.raises(ObjectMissing):
        await store.get("tile/0/001")
    assert slept.seconds == 0
