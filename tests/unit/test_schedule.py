"""Schedules: windows of the day on the clocks of a zone, over midnight and when the clocks are changed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.errors import InvalidRequest
from replication.schedule import (
    FREE,
    OFF,
    RATE_MAX,
    RATE_MIN,
    Phase,
    Schedule,
    Window,
    format_rate,
    parse_rate,
    parse_schedule,
)

SHANGHAI, BERLIN = ZoneInfo("Asia/Shanghai"), ZoneInfo("Europe/Berlin")
MBIT = 125_000


def test_a_schedule_holds_on_the_clocks_of_its_zone() -> None:
    schedule = parse_schedule("08:00-18:00 10Mbit, else 100Mbit", SHANGHAI)
    nine = datetime(2026, 11, 25, 1, 0, tzinfo=UTC)  # 09:00 in Shanghai
    assert schedule.at(nine) == Phase(10 * MBIT, datetime(2026, 11, 25, 10, 0, tzinfo=UTC))
    evening = datetime(2026, 11, 25, 18, 0, tzinfo=SHANGHAI)
    assert schedule.at(evening) == Phase(100 * MBIT, datetime(2026, 11, 26, 8, 0, tzinfo=SHANGHAI))
    assert schedule.rate_at(evening - timedelta(microseconds=1)) == 10 * MBIT


def test_a_window_passes_midnight_and_the_first_that_covers_counts() -> None:
    schedule = parse_schedule("23:00-01:00 free, 22:00-06:00 off, else 1MB", UTC)
    rates = [schedule.rate_at(datetime(2026, 1, 1, hour, 30, tzinfo=UTC)) for hour in (21, 22, 23, 0, 1, 5, 6)]
    assert rates == [1_000_000, OFF, FREE, FREE, OFF, OFF, 1_000_000]
    assert schedule.at(datetime(2026, 1, 1, 23, 59, 59, tzinfo=UTC)).until == datetime(2026, 1, 2, 1, tzinfo=UTC)


def test_what_is_the_same_all_day_never_changes() -> None:
    assert parse_schedule("10Mbit", UTC).at(datetime(2026, 1, 1, tzinfo=UTC)) == Phase(10 * MBIT, None)
    same = parse_schedule("08:00-18:00 10Mbit, else 10Mbit", UTC)
    assert same.at(datetime(2026, 1, 1, 9, tzinfo=UTC)) == Phase(10 * MBIT, None)


def test_when_the_clocks_are_set_forward_a_window_in_the_gap_is_left_out() -> None:
    """Berlin, 2026-03-29: 02:00 becomes 03:00."""
    inside = parse_schedule("02:15-02:45 off, else free", BERLIN)
    before = datetime(2026, 3, 28, 2, 50, tzinfo=BERLIN)
    assert inside.at(before) == Phase(FREE, datetime(2026, 3, 30, 2, 15, tzinfo=BERLIN))
    across = parse_schedule("02:30-05:00 off, else free", BERLIN)
    jump = datetime(2026, 3, 29, 1, 0, tzinfo=UTC)
    assert across.at(jump - timedelta(hours=1)) == Phase(FREE, jump)
    assert across.at(jump) == Phase(OFF, datetime(2026, 3, 29, 5, 0, tzinfo=BERLIN))


def test_when_the_clocks_are_set_back_the_hour_is_there_twice() -> None:
    """Berlin, 2026-10-25: 03:00 becomes 02:00, so that 02:15-02:45 comes twice and 01:00-04:00 has four hours."""
    twice = parse_schedule("02:15-02:45 off, else free", BERLIN)
    first = datetime(2026, 10, 25, 0, 15, tzinfo=UTC)
    assert twice.at(first) == Phase(OFF, first + timedelta(minutes=30))
    assert twice.at(first + timedelta(minutes=30)) == Phase(FREE, first + timedelta(hours=1))
    assert twice.rate_at(first + timedelta(hours=1)) == OFF
    long = parse_schedule("01:00-04:00 off, else free", BERLIN)
    begins = datetime(2026, 10, 24, 23, 0, tzinfo=UTC)
    assert long.at(begins) == Phase(OFF, begins + timedelta(hours=4))


MINUTES = st.integers(0, 24 * 60 - 1)
RATES = st.none() | st.just(OFF) | st.integers(RATE_MIN, RATE_MAX)
WINDOWS = st.builds(Window, MINUTES, MINUTES, RATES).filter(lambda one: one.start_min != one.end_min)


@given(st.builds(Schedule, st.lists(WINDOWS, max_size=4).map(tuple), RATES, st.just(BERLIN)))
def test_a_schedule_comes_back_from_its_text(schedule: Schedule) -> None:
    assert parse_schedule(str(schedule), BERLIN) == schedule


@given(
    st.lists(WINDOWS, max_size=3).map(lambda windows: Schedule(tuple(windows), FREE, BERLIN)),
    st.integers(0, 365 * 86_400).map(lambda seconds: datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)),
)
def test_nothing_changes_before_it_is_said_to(schedule: Schedule, moment: datetime) -> None:
    phase = schedule.at(moment)
    assert phase.rate == schedule.rate_at(moment)
    if phase.until is not None:
        assert moment < phase.until
        assert schedule.rate_at(phase.until) != phase.rate
        assert schedule.rate_at(phase.until - timedelta(microseconds=1)) == phase.rate
        assert schedule.rate_at(moment + (phase.until - moment) / 2) == phase.rate


@pytest.mark.parametrize(
    ("text", "rate"),
    [("10Mbit", 1_250_000), ("8kbit/s", 1_000), ("1.5 GB", 1_500_000_000), ("2MiB/s", 2 * 2**20), ("off", OFF)],
)
def test_rates_are_bits_or_bytes_a_second(text: str, rate: int) -> None:
    assert parse_rate(text) == rate
    assert parse_rate(format_rate(rate)) == rate


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "no rate"),
        ("10", "no rate"),
        ("10Mb", "no rate"),
        ("-1Mbit", "no rate"),
        ("1kbit", "out of range"),
        ("08:00-18:00 10Mbit", "at all other times"),
        ("08:00-18:00 10Mbit, 100Mbit", "at all other times"),
        ("8-18 10Mbit, else free", "no window"),
        ("08:00-24:00 off, else free", "no window"),
        ("08:00-08:00 off, else free", "ends where it begins"),
        ("else free, 08:00-09:00 off", "at all other times"),
        (", ".join(["08:00-18:00 off"] * 25 + ["else free"]), "more than 24"),
        ("x" * 501, "too long"),
    ],
)
def test_what_is_no_schedule_is_refused_in_words(text: str, what: str) -> None:
    with pytest.raises(InvalidRequest, match=what) as caught:
        parse_schedule(text, UTC)
    assert caught.value.hint
