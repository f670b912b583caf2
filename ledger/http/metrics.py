"""What is counted, in a registry of its own (Prometheus text format)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from ledger.acknowledging import Acknowledging
from ledger.asset_lag import AssetLagMeter
from ledger.assets import Registry
from ledger.errors import Unavailable

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
_APPEND_ENTRIES = (1, 2, 5, 10, 50, 100, 500, 1_000)


class Metrics:
    """The counters of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "jinshi_http_requests", "Requests answered.", ("method", "route", "status"), registry=self.registry
        )
        self._answered: dict[tuple[str, str, int], tuple[Counter, Histogram | None]] = {}
        """The counters of the requests answered before, which the library would look up under a lock."""
        self.request_seconds = Histogram(
            "jinshi_http_request_seconds", "Time to answer, streams excepted.", ("route",), registry=self.registry
        )
        self.append_entries = Histogram(
            "jinshi_append_entries", "Events in an append call.", buckets=_APPEND_ENTRIES, registry=self.registry
        )
        self.entries = Counter("jinshi_entries", "Entries recorded by this server.", registry=self.registry)
        self.duplicates = Counter(
            "jinshi_duplicates", "Events that were recorded already when they were sent.", registry=self.registry
        )
        self.publish_seconds = Histogram("jinshi_publish_seconds", "Time to publish.", registry=self.registry)
        self.streams = Gauge("jinshi_streams", "Event streams that are open.", registry=self.registry)
        self.slow_readers = Counter(
            "jinshi_slow_readers", "Event streams ended because nobody read them.", registry=self.registry
        )
        self.streamed = Counter("jinshi_streamed_entries", "Entries sent in event streams.", registry=self.registry)
        self.unacknowledged = Counter(
            "jinshi_unacknowledged_appends",
            "Appends that were recorded, but not at as many sites in time as their policy demands.",
            registry=self.registry,
        )
        self.site_size = self._of_site("size", "Entries verified and cosigned at a site.")
        self.site_lag_entries = self._of_site("lag_entries", "Entries that a site has not cosigned.")
        self.site_lag_bytes = self._of_site("lag_bytes", "Their canonical bytes; NaN: too many to be added up.")
        self.site_lag_seconds = self._of_site("lag_seconds", "The age of the oldest of them; 0: there is none.")
        self.site_reachable = self._of_site("reachable", "1: the site answered the last time; 0: it did not.")
        self.asset_lag_entries = self._of_asset("entries", "Entries of an asset that a site has not cosigned.")
        self.asset_lag_bytes = self._of_asset("bytes", "Their canonical bytes; NaN: too many to be counted.")
        self.asset_lag_seconds = self._of_asset("seconds", "The age of the oldest of them; 0: there is none.")
        self.alarms = Gauge("jinshi_alarms", "1 for each alarm that stands.", ("kind", "about"), registry=self.registry)

    def answered(self, method: str, route: str, status: int, seconds: float | None) -> None:
        """Count a request, and how long it took."""
        counters = self._answered.get((method, route, status))
        if counters is None:
            counters = self._counters(method, route, status, timed=seconds is not None)
            self._answered[method, route, status] = counters
        counters[0].inc()
        if counters[1] is not None and seconds is not None:
            counters[1].observe(seconds)

    def _counters(self, method: str, route: str, status: int, *, timed: bool) -> tuple[Counter, Histogram | None]:
        return self.requests.labels(method, route, status), self.request_seconds.labels(route) if timed else None

    def _of_site(self, name: str, about: str) -> Gauge:
        return Gauge(f"jinshi_site_{name}", about, ("site",), registry=self.registry)

    def _of_asset(self, name: str, about: str) -> Gauge:
        return Gauge(f"jinshi_asset_lag_{name}", about, ("site", "asset"), registry=self.registry)

    async def measure(self, acknowledging: Acknowledging) -> None:
        """Set what is said of the sites; of whatever cannot be measured nothing is said."""
        for gauge in (self.site_lag_entries, self.site_lag_bytes, self.site_lag_seconds):
            gauge.clear()
        for one in sorted(acknowledging.standings, key=lambda one: one.has):
            self.site_size.labels(one.name).set(one.has)
            self.site_reachable.labels(one.name).set(one.reachable)
            with suppress(Unavailable):
                lag = await acknowledging.lag.of(one.has)
                self.site_lag_entries.labels(one.name).set(lag.entries)
                self.site_lag_bytes.labels(one.name).set(float("nan") if lag.bytes is None else lag.bytes)
                self.site_lag_seconds.labels(one.name).set(lag.seconds)

    async def measure_assets(self, acknowledging: Acknowledging, registry: Registry, lag: AssetLagMeter) -> None:
        """Set what is said of the sites and assets; of whatever cannot be measured nothing is said."""
        gauges = (self.asset_lag_entries, self.asset_lag_bytes, self.asset_lag_seconds)
        for gauge in gauges:
            gauge.clear()
        standings = acknowledging.standings
        with suppress(Unavailable):
            assets = (await registry.assets()).active()
            lags = await lag.of(assets, {one.has for one in standings})
            for one in standings:
                for asset in assets:
                    found = lags[one.has, asset.name]
                    for gauge, value in zip(gauges, (found.entries, found.bytes, found.seconds), strict=True):
                        gauge.labels(one.name, asset.name).set(float("nan") if value is None else value)

    def watch(self, name: str, about: str, value: Callable[[], float]) -> None:
        """A gauge that is read when it is asked for."""
        Gauge(name, about, registry=self.registry).set_function(value)

    def render(self) -> bytes:
        """The text that /metrics answers."""
        return generate_latest(self.registry)
