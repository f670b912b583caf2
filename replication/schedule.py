"""How fast may be sent to a site, by the time of day there: a schedule out of its text. Pure.

`08:00-18:00 10Mbit, 22:00-06:00 off, else 100Mbit`: windows in the order in which they count, on the clocks of one time
zone; a window may pass midnight. A rate is in bits a second (kbit, Mbit, Gbit) or bytes a second (kB, MB, GB, KiB, MiB,
GiB), `off`, or `free`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final

from ledger.errors import InvalidRequest

TEXT_LENGTH_MAX: Final = 500
WINDOWS_MAX: Final = 24
RATE_MIN: Final = 1_000
"""Bytes a second; a full bundle would take minutes at less, and `off` says what is meant."""
RATE_MAX: Final = 10**12
OFF: Final = 0
FREE: Final = None

_WINDOW: Final = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])-([01][0-9]|2[0-3]):([0-5][0-9]) +(\S.*)")
_RATE: Final = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?) ?([A-Za-z]+)(?:/s)?")
_UNITS: Final = {
    "kbit": 125,
    "Mbit": 125_000,
    "Gbit": 125_000_000,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
}
"""Bytes. Written exactly so: Mb may mean either."""
_LOOKED_AHEAD_MIN: Final = 50 * 60
"""A window may be left out for a day, where the clocks are set forward over it; what has not changed by then never
does."""

HINT: Final = "write '08:00-18:00 10Mbit, 22:00-06:00 off, else 100Mbit'"


@dataclass(frozen=True, slots=True)
class Window:
    """From one minute of the day up to another, which may be on the next day. `rate`: bytes a second, OFF or FREE."""

    start_min: int
    end_min: int
    rate: int | None

    def covers(self, minute: int) -> bool:
        """Whether a minute of the day lies in it."""
        if self.start_min < self.end_min:
            return self.start_min <= minute < self.end_min
        return minute >= self.start_min or minute < self.end_min


@dataclass(frozen=True, slots=True)
class Phase:
    """What holds at a moment: a rate, and until when (UTC); None: for good."""

    rate: int | None
    until: datetime | None


@dataclass(frozen=True, slots=True)
class Schedule:
    """The windows, the first that covers a moment counts; `otherwise` holds at all other times."""

    windows: tuple[Window, ...]
    otherwise: int | None
    zone: tzinfo

    def rate_at(self, moment: datetime) -> int | None:
        """Bytes a second at a moment (timezone-aware), by the clocks of the zone; OFF or FREE."""
        local = moment.astimezone(self.zone)
        minute = local.hour * 60 + local.minute
        return next((one.rate for one in self.windows if one.covers(minute)), self.otherwise)

    def at(self, moment: datetime) -> Phase:
        """What holds at a moment, and when it changes next.

        It goes by minutes of real time: whatever the clocks do in between (set forward over the beginning of a window,
        set back into one that had ended), the change is where a clock on the wall shows it.
        """
        rate = self.rate_at(moment)
        if not self.windows:
            return Phase(rate, None)
        minute = moment.astimezone(UTC).replace(second=0, microsecond=0)
        for _ in range(_LOOKED_AHEAD_MIN):
            minute += timedelta(minutes=1)
            if self.rate_at(minute) != rate:
                return Phase(rate, minute)
        return Phase(rate, None)

    def __str__(self) -> str:
        windows = [f"{_clock(one.start_min)}-{_clock(one.end_min)} {format_rate(one.rate)}" for one in self.windows]
        return ", ".join([*windows, f"else {format_rate(self.otherwise)}"])


def parse_schedule(text: str, zone: tzinfo) -> Schedule:
    """A schedule, from its text. Raises InvalidRequest."""
    if len(text) > TEXT_LENGTH_MAX:
        raise InvalidRequest(f"a schedule of {len(text)} characters is too long", hint=HINT)
    *parts, last = [part.strip() for part in text.split(",")]
    if not last.startswith("else "):
        if parts or _WINDOW.fullmatch(last):
            raise InvalidRequest(f"{text!r} does not say what holds at all other times", hint="end it with: else RATE")
        return Schedule((), parse_rate(last), zone)
    if len(parts) > WINDOWS_MAX:
        raise InvalidRequest(f"{len(parts)} windows are more than {WINDOWS_MAX}", hint="join some")
    return Schedule(tuple(_window(part) for part in parts), parse_rate(last.removeprefix("else ")), zone)


def _window(text: str) -> Window:
    found = _WINDOW.fullmatch(text)
    if found is None:
        raise InvalidRequest(f"{text!r} is no window of the day with a rate", hint=HINT)
    start_min, end_min = int(found[1]) * 60 + int(found[2]), int(found[3]) * 60 + int(found[4])
    if start_min == end_min:
        raise InvalidRequest(f"the window {text!r} ends where it begins", hint="for the whole day, write: else RATE")
    return Window(start_min, end_min, parse_rate(found[5]))


def parse_rate(text: str) -> int | None:
    """Bytes a second, OFF or FREE. Raises InvalidRequest."""
    word = text.strip()
    if word in ("off", "free"):
        return OFF if word == "off" else FREE
    found = _RATE.fullmatch(word)
    unit = None if found is None else _UNITS.get(found[2])
    if found is None or unit is None:
        raise InvalidRequest(f"{word!r} is no rate", hint="write 10Mbit or 2MB (a second), off, or free")
    rate = round(float(found[1]) * unit)
    if not RATE_MIN <= rate <= RATE_MAX:
        raise InvalidRequest(f"{word!r} is out of range", hint="give 8kbit to 8000Gbit a second, off, or free")
    return rate


def format_rate(rate: int | None) -> str:
    """As `parse_rate` reads it, in bits where it comes out even."""
    if rate is FREE:
        return "free"
    if rate == OFF:
        return "off"
    for unit in ("Gbit", "Mbit", "kbit"):
        if rate >= _UNITS[unit] and (rate * 1_000) % _UNITS[unit] == 0:
            return f"{rate / _UNITS[unit]:.15g}{unit}"
    return f"{rate / 1_000:.15g}kB"


def _clock(minute: int) -> str:
    return f"{minute // 60:02d}:{minute % 60:02d}"
