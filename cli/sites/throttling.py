"""The throttle of a site as settings and screens have it; what it does is replication/throttle.py's."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import datetime

from cli.config import LedgerPaths, SiteSettings, format_settings, read_settings
from cli.files import write_file
from cli.system import SystemClock
from cli.wiring.shipping import schedule_of
from ledger.core.event import format_moment
from ledger.errors import LockHeld
from ledger.files import hold_lock
from replication.schedule import FREE, OFF, format_rate


def set_throttle(paths: LedgerPaths, name: str, text: str, zone: str) -> SiteSettings:
    """Give a site another schedule ('': none); returns its settings.

    Raises:
        InvalidRequest: there is no such site.
        DiskFull, StoreUnavailable: the settings cannot be written.
    """
    with ExitStack() as stack:
        # Whoever else changes settings holds this lock; a server, which holds it all the time, changes none.
        with suppress(LockHeld):
            stack.enter_context(hold_lock(paths.lock))
        settings = read_settings(paths).with_throttle(name, text, zone)
        write_file(paths.config, format_settings(settings))
    return settings.site(name)


@dataclass(frozen=True, slots=True)
class ShownPhase:
    """What holds at a site now. `rate`: bytes a second; 0: nothing is sent; None: as fast as it goes.

    `until`: by the clocks of the schedule's own zone.
    """

    rate: int | None
    until: datetime | None

    @property
    def text(self) -> str:
        """For people."""
        if self.rate is FREE:
            what = "not throttled"
        else:
            what = "nothing is sent" if self.rate == OFF else f"throttled to {format_rate(self.rate)}/s"
        return what if self.until is None else f"{what} until {self.until:%H:%M} ({self.until.tzinfo})"

    @property
    def json(self) -> dict[str, str | int | None]:
        """For programs."""
        until = None if self.until is None else format_moment(self.until)
        return {"bytes_per_s": self.rate, "until": until}


def phase_of(site: SiteSettings) -> ShownPhase | None:
    """What a site's schedule says for now; None: it has none. Raises InvalidRequest."""
    schedule = schedule_of(site)
    if schedule is None:
        return None
    phase = schedule.at(SystemClock().now())
    return ShownPhase(phase.rate, phase.until and phase.until.astimezone(schedule.zone))
