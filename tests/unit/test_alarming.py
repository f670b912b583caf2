"""Alarms: when they are raised and cleared, that each is once, and the webhook that is told of them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from cli.config import Environment, LedgerPaths
from cli.serving import webhook as webhook_module
from cli.serving.alarming import (
    DAY_S,
    Alarming,
    AlarmSettings,
    _end_of,
    certificate_reading,
    disk_reading,
    site_readings,
)
from cli.serving.webhook import QUEUE_MAX, Webhook
from cli.wiring.ledgers import WritableLedger
from ledger.acknowledging import Standing
from ledger.alarms import AlarmKind, Key, Reading, changes, cleared_event, raised_event, read_alarms
from ledger.assets import Registry
from ledger.core.acts import SCRUBBED, acts_source
from ledger.core.event import Event
from ledger.errors import InvalidRequest, StoreUnavailable, Tampered
from ledger.sequencer import Sequencer
from ledger.store.base import Selection, StoredEntry
from ledger.store.faulty import FaultyEntryStore, Outcome
from ledger.store.memory import MemoryEntryStore
from tests.support.certificates import Authority
from tests.support.http_api import served
from tests.support.ledgers import ACTOR, FixedClock, append
from tests.support.receiving import receiving

ORIGIN = "example.test/alarms"
TIME = "2026-11-25T00:00:00.000000Z"
SETTINGS = AlarmSettings(lag_s=100, unreachable_s=60)
FINE = Standing("far", "remote", size=5, asked=True)


def over(one: Standing, lag_s: float | None, now_s: float = 1_000.0) -> list[str]:
    return [reading.kind.value for reading in site_readings(one, lag_s, now_s, SETTINGS) if reading.over]


def test_what_raises_a_sites_alarms() -> None:
    assert over(FINE, 0.0) == []
    assert over(FINE, 100.0) == []
    assert over(FINE, 100.5) == ["site-lag"]
    away = replace(FINE, error="timed out", since_s=940.0)
    assert over(away, 0.0) == []
    assert over(away, 0.0, 1_000.5) == ["site-unreachable"]
    assert over(replace(FINE, error="a tile was edited", tampered=True, since_s=1.0), 0.0) == ["site-damaged"]
    assert over(replace(FINE, damage="tile/0/000: it was overwritten"), 0.0) == ["site-damaged"], "though it goes on"
    assert over(Standing("far", "remote"), None) == [], "not heard of yet"


def test_what_clears_them_and_what_leaves_them_standing() -> None:
    def fine(one: Standing, lag_s: float | None) -> set[str]:
        return {reading.kind.value for reading in site_readings(one, lag_s, 1_000.0, SETTINGS) if reading.fine}

    assert fine(FINE, 50.0) == {"site-lag", "site-unreachable", "site-damaged", "site-quota"}
    assert "site-lag" not in fine(FINE, 50.5), "not at the bound itself, so that it does not flap"
    assert "site-lag" not in fine(FINE, None)
    assert fine(replace(FINE, error="away", since_s=990.0), 0.0) == {"site-lag"}, "being away heals no damage"
    assert fine(Standing("far", "remote"), None) == set(), "a server that has just begun clears nothing"


def test_the_disk_and_the_certificate() -> None:
    def disk(free: int) -> Reading:
        return disk_reading(Path("/ledger"), 8, lambda _: (1000, 1000 - free, free))

    assert [(disk(free).over, disk(free).fine) for free in (79, 80, 99, 100)] == [
        (True, False),
        (False, False),
        (False, False),
        (False, True),
    ]
    assert certificate_reading(14 * DAY_S - 1, 14).over
    assert not certificate_reading(14 * DAY_S, 14).over
    assert "expired" in certificate_reading(-1, 14).what


def reading(kind: AlarmKind, about: str, *, is_over: bool, is_fine: bool) -> Reading:
    return Reading(kind, about, "what", 1, 1, over=is_over, fine=is_fine)


def test_an_alarm_is_raised_once_and_cleared_once() -> None:
    lag = reading(AlarmKind.SITE_LAG, "far", is_over=True, is_fine=False)
    assert changes([], [lag]) == ([lag], [])
    assert changes([lag.key], [lag]) == ([], [])
    assert changes([lag.key], [replace(lag, over=False)]) == ([], [])
    assert changes([lag.key], [replace(lag, over=False, fine=True)]) == ([], [lag.key])
    assert changes([], [replace(lag, over=False, fine=True)]) == ([], [])
    assert changes([("site-lag", "gone")], [lag]) == ([lag], [("site-lag", "gone")]), "a site that is no more"


async def test_the_ledger_says_which_alarms_stand_and_nobody_else_raises_one() -> None:
    store = MemoryEntryStore()
    lag = reading(AlarmKind.SITE_LAG, "far", is_over=True, is_fine=False)
    disk = reading(AlarmKind.DISK, "", is_over=True, is_fine=False)
    async with Sequencer(store, FixedClock()) as sequencer:

        async def record(*events: Event) -> set[Key]:
            await sequencer.append(events, actor=ACTOR)
            return set(await read_alarms(store))

        assert await record(raised_event(ORIGIN, lag, at="1"), raised_event(ORIGIN, disk, at="1")) == {
            ("site-lag", "far"),
            ("disk-nearly-full", ""),
        }
        assert await record(cleared_event(ORIGIN, lag.key, at="2")) == {("disk-nearly-full", "")}
        forged = replace(cleared_event(ORIGIN, disk.key, at="3"), source="urn:anybody")
        assert await record(forged) == {("disk-nearly-full", "")}
        assert await record(raised_event(ORIGIN, lag, at="4")) == {("disk-nearly-full", ""), ("site-lag", "far")}
        await record(raised_event(ORIGIN, lag, at="4"))
        assert (await store.head()).size == 5, "recorded again, it is the same entry"


async def test_an_alarm_that_cannot_be_recorded_is_recorded_as_soon_as_it_can_be(tmp_path: Path) -> None:
    full = [False]

    def hook(operation: str, key: str) -> Outcome:
        return Outcome.FAIL_NOT_PERSISTED if operation == "commit" and full[0] else Outcome.PASS

    async with served(sites=[("far", "remote")], wrap=lambda store: FaultyEntryStore(store, hook)) as ledger:
        open_ledger = SimpleNamespace(
            store=ledger.store, paths=LedgerPaths(tmp_path), environment=Environment(None, user="test")
        )
        writable = SimpleNamespace(ledger=open_ledger, sequencer=ledger.service.sequencer)
        settings = AlarmSettings(disk_free_percent=0)
        alarming = Alarming(cast(WritableLedger, writable), ledger.service, settings, None)
        ledger.service.acknowledging.failed("far", Tampered("a tile was edited"))
        full[0] = True
        await alarming.look()
        assert await read_alarms(ledger.store) == {}
        full[0] = False
        for _ in range(2):
            await alarming.look()
            assert list(await read_alarms(ledger.store)) == [("site-damaged", "far")]
        assert (await ledger.store.head()).size == 2
        ledger.service.acknowledging.cosigned("far", ledger.service.publishing.newest.checkpoint)
        await alarming.look()
        assert await read_alarms(ledger.store) == {}


def test_the_certificate_that_counts_is_the_servers_own(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    chain = authority.issue("server", server=True, ends_in=timedelta(days=90)).certificate
    chain.write_bytes(chain.read_bytes() + authority.file.read_bytes())  # whose own end is tomorrow
    left_days = (_end_of(chain) - datetime.now(UTC).timestamp()) / DAY_S
    assert 89 < left_days <= 90


def alarm(number: int) -> Event:
    raised = reading(AlarmKind.SITE_LAG, f"site-{number}", is_over=True, is_fine=False)
    return raised_event(ORIGIN, raised, at=str(number))


async def test_a_webhook_that_fails_gets_every_alarm_in_order_when_it_is_back() -> None:
    with receiving([500, 503, 429]) as receiver:
        webhook = Webhook(receiver.url, pause_s=0.01)
        sending = asyncio.create_task(webhook.run())
        for number in range(3):
            webhook.offer(alarm(number), TIME)
        taken = await asyncio.to_thread(receiver.until, 3)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
    assert receiver.refused == [500, 503, 429]
    assert receiver.content_types == {"application/cloudevents+json"}
    assert [one["data"]["about"] for one in taken] == ["site-0", "site-1", "site-2"]
    assert taken[0] == {
        "specversion": "1.0",
        "id": "alarm.raised.v1:site-lag/site-0:0",
        "source": acts_source(ORIGIN),
        "type": "alarm.raised.v1",
        "subject": "site-lag/site-0",
        "time": TIME,
        "datacontenttype": "application/json",
        "data": {"kind": "site-lag", "about": "site-0", "what": "what", "value": 1, "bound": 1},
    }


async def test_what_is_refused_for_good_does_not_hold_up_the_next(capsys: pytest.CaptureFixture[str]) -> None:
    with receiving([400, 302]) as receiver:
        webhook = Webhook(receiver.url, pause_s=0.01)
        sending = asyncio.create_task(webhook.run())
        for number in range(3):
            webhook.offer(alarm(number), TIME)
        taken = await asyncio.to_thread(receiver.until, 1)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
    assert [one["data"]["about"] for one in taken] == ["site-2"]
    said = capsys.readouterr().err
    assert "refuses" in said
    assert "secret" not in said


async def test_a_webhook_that_is_away_fills_no_memory_and_keeps_nobody_waiting() -> None:
    webhook = Webhook("http://127.0.0.1:9/never")
    for number in range(QUEUE_MAX + 5):
        webhook.offer(alarm(number), TIME)
    assert len(webhook._queue) == QUEUE_MAX
    assert b"site-5/" not in webhook._queue[0]
    assert b'"about":"site-5"' in webhook._queue[0]
    assert webhook_module.PAUSE_S_MAX < 3_600


@pytest.mark.parametrize("url", ["", "ftp://example.test/", "alarms", "https://"])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequest):
        Webhook(url)


class Away(MemoryEntryStore):
    """A store that cannot be searched for a while."""

    away = False

    async def select(self, what: Selection, *, limit: int) -> list[StoredEntry]:
        if self.away:
            raise StoreUnavailable("the database is away")
        return list(await super().select(what, limit=limit))


async def test_a_store_that_is_away_ends_no_watch_and_hides_no_result(tmp_path: Path) -> None:
    async with served(sites=[("far", "remote")]) as ledger:
        store = Away()
        open_ledger = SimpleNamespace(store=store, paths=LedgerPaths(tmp_path), environment=Environment(None, user="t"))
        writable = SimpleNamespace(ledger=open_ledger, sequencer=ledger.service.sequencer)
        alarming = Alarming(cast(WritableLedger, writable), ledger.service, AlarmSettings(disk_free_percent=0), None)
        found = Event.of_json(
            {"site": "far", "whole": False, "found": 2, "healed": 0, "findings": []},
            id="1", source=acts_source("example.test/log"), type=SCRUBBED, subject="far",
        )  # fmt: skip
        await append(store, [found], FixedClock())
        store.away = True
        await alarming.look()
        assert await read_alarms(ledger.store) == {}
        store.away = False
        await alarming.look()
        assert list(await read_alarms(ledger.store)) == [("site-damaged", "far")]


async def test_a_server_that_starts_while_the_assets_cannot_be_read_clears_none_of_their_alarms(tmp_path: Path) -> None:
    degraded = reading(AlarmKind.ASSET_DEGRADED, "www", is_over=True, is_fine=False)
    async with served() as ledger:
        await ledger.service.sequencer.append([raised_event(ledger.service.origin, degraded, at="1")], actor=ACTOR)
        away = Away()
        await append(away, [Event("1", "urn:x", "t.v1")], FixedClock())
        away.away, ledger.service.registry = True, Registry(away)
        open_ledger = SimpleNamespace(
            store=ledger.store, paths=LedgerPaths(tmp_path), environment=Environment(None, user="t")
        )
        writable = SimpleNamespace(ledger=open_ledger, sequencer=ledger.service.sequencer)
        alarming = Alarming(cast(WritableLedger, writable), ledger.service, AlarmSettings(disk_free_percent=0), None)
        running = asyncio.create_task(alarming.run())
        for _ in range(20):
            await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert list(await read_alarms(ledger.store)) == [degraded.key]
