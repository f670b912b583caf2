"""What is counted, in a registry of its own (Prometheus text format)."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
_APPEND_ENTRIES = (1, 2, 5, 10, 50, 100, 500, 1_000)


class Metrics:
    """The counters of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "jinshi_http_requests", "Requests answered.", ("method", "route", "status"), registry=self.registry
        )
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
        self.replicated = Gauge(
            "jinshi_site_size", "Entries verified and cosigned at a site.", ("site",), registry=self.registry
        )

    def watch(self, name: str, about: str, value: Callable[[], float]) -> None:
        """A gauge that is read when it is asked for."""
        Gauge(name, about, registry=self.registry).set_function(value)

    def render(self) -> bytes:
        """The text that /metrics answers."""
        return generate_latest(self.registry)
