"""The doctor beside a server: when an asset's alarm is raised, what leaves it standing, what `/metrics` says."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from cli.assets.coverage import Check, Finding
from cli.config import LedgerPaths, LedgerSettings, read_environment
from cli.serving.covering import Covering, reading_of, unchanged
from cli.serving.guarding import Guards
from cli.wiring.ledgers import OpenLedger, WritableLedger
from ledger.acknowledging import Acknowledging
from ledger.alarms import AlarmKind, Reading, changes
from ledger.asset_lag import AssetLagMeter
from ledger.assets import Asset, Registry, added, asset_source, retired
from ledger.core.acts import acts_source
from ledger.core.event import Event
from ledger.errors import SiteUnavailable, StoreUnavailable
from ledger.http.metrics import Metrics
from ledger.http.service import Service
from ledger.lag import LagMeter
from ledger.sources import Sources
from ledger.store.base import Head
from ledger.store.memory import MemoryEntryStore
from tests.support.ledgers import FixedClock, append

ORIGIN = "example.com/log"
PERMITS = Asset("permits", "events", asset_source("permits"), 1, "x", {"sources": ["urn:permits"]})
KEY = (AlarmKind.ASSET_UNCOVERED.value, "permits")


class Store(MemoryEntryStore):
    """May be away."""

    away = False

    async def head(self) -> Head:
        if self.away:
            raise StoreUnavailable("it is away")
        return await super().head()


class Ledger:
    """A ledger with one asset of grade 1 and one site, and what covers it."""

    def __init__(self, tmp_path: Path) -> None:
        self.store, clock = Store(), FixedClock()
        self.acknowledging = Acknowledging([("far", "remote")], clock, LagMeter(self.store, clock))
        self.lag, self.registry = AssetLagMeter(self.store, clock), Registry(self.store)
        service = SimpleNamespace(
            origin=ORIGIN,
            registry=self.registry,
            asset_lag=self.lag,
            sources=Sources(),
            acknowledging=self.acknowledging,
        )
        ledger = SimpleNamespace(
            searched=self.store,
            paths=LedgerPaths(tmp_path),
            settings=LedgerSettings(ORIGIN, "v"),
            environment=read_environment({}),
        )
        writable = SimpleNamespace(ledger=ledger)
        guards = Guards(cast(OpenLedger, ledger))
        self.covering = Covering(cast(WritableLedger, writable), cast(Service, service), guards, unreachable_s=60)

    async def begin(self) -> None:
        created = Event.of_json({"format": 1}, id="c", source=acts_source(ORIGIN), type="ledger.created.v1")
        await append(self.store, [created, added(ORIGIN, PERMITS, at=0)])

    async def known(self) -> Reading:
        """The reading once everything was looked at."""
        while True:
            (reading,) = await self.covering.readings({KEY})
            if reading.over or reading.fine:
                return reading
            await asyncio.sleep(0.01)


async def test_nothing_changes_before_everything_was_looked_at(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    await ledger.begin()
    (reading,) = await ledger.covering.readings(set())
    assert (reading.over, reading.fine) == (False, False), "no site was heard of yet"
    ledger.acknowledging.failed("far", SiteUnavailable("timed out"))
    reading = await ledger.known()
    assert (reading.over, reading.about, reading.value) == (True, "permits", 1)
    assert "site far" in reading.what
    await ledger.covering.close()


async def test_a_store_that_is_away_leaves_alarms_as_they_are(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    await ledger.begin()
    ledger.acknowledging.failed("far", SiteUnavailable("timed out"))
    assert (await ledger.known()).over
    ledger.store.away = True
    readings = await ledger.covering.readings({KEY, ("site-lag", "far")})
    assert readings == unchanged(AlarmKind.ASSET_UNCOVERED, {KEY})
    assert [reading.key for reading in readings] == [KEY]
    assert changes({KEY}, readings) == ([], [])
    ledger.store.away = False
    await append(ledger.store, [retired(ORIGIN, "permits", "x", at=1)])
    readings = await ledger.covering.readings({KEY})
    assert changes({KEY}, readings) == ([], [KEY]), "what is retired is watched no more"
    await ledger.covering.close()


def test_what_an_alarm_says() -> None:
    first, second = (Finding("permits", Check.COPIES, what, "do") for what in ("site far is away", "x"))
    assert reading_of(PERMITS, [], known=True).fine
    assert not reading_of(PERMITS, [first], known=False).over
    reading = reading_of(PERMITS, [first, second], known=True)
    assert (reading.over, reading.value, "and 1 more" in reading.what) == (True, 2, True)


async def test_metrics_say_how_far_each_site_is_with_each_asset(tmp_path: Path) -> None:
    ledger, metrics = Ledger(tmp_path), Metrics()
    await ledger.begin()
    await append(ledger.store, [Event(str(n), "urn:permits", "t.v1") for n in range(3)])
    size = len((await ledger.store.read(2, 1))[0].entry)

    async def measured() -> dict[str, Any]:
        await metrics.measure_assets(ledger.acknowledging, ledger.registry, ledger.lag)
        labels = {"site": "far", "asset": "permits"}
        names = ("entries", "bytes", "seconds")
        return {name: metrics.registry.get_sample_value(f"jinshi_asset_lag_{name}", labels) for name in names}

    ledger.acknowledging.remember("far", 3)
    found = await measured()
    assert (found["entries"], found["bytes"]) == (2.0, 2.0 * size)
    ledger.acknowledging.remember("far", 5)
    assert await measured() == {"entries": 0.0, "bytes": 0.0, "seconds": 0.0}
    await append(ledger.store, [retired(ORIGIN, "permits", "x", at=1)])
    assert (await measured())["entries"] is None, "of what is retired nothing is said"
