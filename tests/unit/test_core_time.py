"""RFC 3339 times as events carry them: every edge that decides which of two events was first."""

from __future__ import annotations

import pytest

from ledger.core.entry import Entry, decode_entry, encode_entry
from ledger.core.event import Event, event_time_us, format_time
from ledger.errors import MalformedEntry, MalformedEvent

SECOND = 1_000_000
EPOCH = "1970-01-01T00:00:00Z"
RECORDED = "2026-11-24T00:00:00.000000Z"


@pytest.mark.parametrize(
    ("text", "us"),
    [
        (EPOCH, 0),
        ("1970-01-01T00:00:00.000001Z", 1),
        ("1969-12-31T23:59:59.999999Z", -1),
        # RFC 3339 §5.8's own examples.
        ("1985-04-12T23:20:50.52Z", 482_196_050_520_000),
        ("1996-12-19T16:39:57-08:00", 851_042_397 * SECOND),
        ("1996-12-20T00:39:57Z", 851_042_397 * SECOND),
        ("1937-01-01T12:00:27.87+00:20", -1_041_337_172_130_000),
        # A leap second counts as the next second, in whatever offset it is written.
        ("1990-12-31T23:59:60Z", 662_688_000 * SECOND),
        ("1990-12-31T15:59:60-08:00", 662_688_000 * SECOND),
        ("1991-01-01T00:00:00Z", 662_688_000 * SECOND),
        ("1990-12-31T23:59:60.5Z", 662_688_000 * SECOND + 500_000),
        ("1990-12-31T23:59:60.500000Z", 662_688_000 * SECOND + 500_000),
        ("9999-12-31T23:59:60Z", 253_402_300_800 * SECOND),
        # Finer digits are cut, not rounded: an event is never moved into a second that it was before.
        ("1970-01-01T00:00:00.9999999999Z", 999_999),
        ("1970-01-01T00:00:00.1Z", 100_000),
        ("1969-12-31T23:59:59.9999999Z", -1),
        # Offsets, to the ends of the calendar and beyond.
        ("1970-01-01T08:00:00+08:00", 0),
        ("1969-12-31T18:30:00-05:30", 0),
        ("1970-01-01T00:00:00-00:00", 0),
        ("1970-01-01T23:59:00+23:59", 0),
        ("0001-01-01T00:00:00+23:59", -62_135_596_800 * SECOND - 86_340 * SECOND),
        ("9999-12-31T23:59:59-23:59", 253_402_300_799 * SECOND + 86_340 * SECOND),
        ("2000-02-29t00:00:00z", 951_782_400 * SECOND),
    ],
)
def test_a_time_is_this_many_microseconds(text: str, us: int) -> None:
    assert event_time_us(text) == us


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-11-24",
        "2026-11-24T01:53:35",
        "2026-11-24 01:53:35Z",
        "2026-11-24T01:53Z",
        "2026-11-24T01:53:35.Z",
        "2026-11-24T01:53:35,5Z",
        "2026-11-24T01:53:35+0800",
        "2026-11-24T01:53:35+8:00",
        "2026-11-24T01:53:35+24:00",
        "2026-11-24T01:53:35+08:60",
        "2026-11-24T01:53:61Z",
        "2026-11-24T01:60:00Z",
        "2026-11-24T24:00:00Z",
        "2026-02-29T00:00:00Z",
        "2026-00-01T00:00:00Z",
        "2026-13-01T00:00:00Z",
        "0000-01-01T00:00:00Z",
        "10000-01-01T00:00:00Z",
        "-2026-01-01T00:00:00Z",
        "26-01-01T00:00:00Z",
        " 2026-11-24T01:53:35Z",
        "2026-11-24T01:53:35Z\n",
        "2026-11-24T01:53:35ZZ",
        "\uff12\uff10\uff12\uff16-11-24T01:53:35Z",
        "2026-11-24T01:53:35." + "9" * 10_000 + "Z",
        "2026-11-24T01:60:00.000000Z",
        "2026-11-24T01:53:35.00000\u00b2Z",
        "2026-11-24T01:53:35\u2212" + "08:00",
    ],
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(MalformedEvent) as caught:
        event_time_us(text)
    assert len(str(caught.value)) < 200


def test_the_sequencers_own_time_has_six_digits() -> None:
    assert format_time(0) == "1970-01-01T00:00:00.000000Z"
    assert format_time(482_196_050_520_001) == "1985-04-12T23:20:50.520001Z"


@pytest.mark.parametrize(
    "recordedtime",
    [
        "2026-11-24T00:00:00Z",
        "2026-11-24T00:00:00.0000000Z",
        "2026-11-24T00:00:00.000000+00:00",
        "2026-02-30T00:00:00.000000Z",
    ],
)
def test_a_recorded_time_in_another_form_is_no_entry(recordedtime: str) -> None:
    """One form alone: recorded times are compared as texts in the store's index."""
    good = encode_entry(Entry(Event("1", "s", "t", time=EPOCH), 1, RECORDED, "local:test"))
    assert decode_entry(good).recordedtime == RECORDED
    with pytest.raises(MalformedEntry):
        decode_entry(good.replace(RECORDED.encode(), recordedtime.encode()))
