"""Every bound of the HTTP API, in one place."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Bounds of one server. Sizes in bytes; what is full is answered with 503 and Retry-After."""

    event_size_max: int = 1_000_000
    batch_size_max: int = 8 * 2**20
    batch_events_max: int = 1_000
    head_size_max: int = 256 * 2**10
    """Request line and headers: binary mode carries every attribute there, and an entry may have 64 KiB of them."""

    requests_max: int = 512
    bodies_size_max: int = 256 * 2**20
    """All request bodies that are being received, together."""

    body_timeout_s: float = 30.0

    page_entries_default: int = 100
    page_entries_max: int = 1_000
    page_size_max: int = 4 * 2**20
    scan_entries_max: int = 200_000
    """How far one request looks for entries that no index leads to."""

    streams_max: int = 128
    stream_page_entries: int = 64
    stream_send_timeout_s: float = 30.0
    stream_life_s_max: float = 3_600.0
    keep_alive_s: float = 15.0

    receipt_timeout_s: float = 10.0
    ack_timeout_s: float = 30.0
    """How long an append waits for the sites that its acknowledgement policy demands."""

    publish_every_s: float = 1.0
    """At the latest, when nobody waits for a receipt."""

    store_timeout_s: float = 5.0
    retry_after_s: float = 1.0
