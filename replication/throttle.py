"""Keeps what goes to and from a site within its schedule (schedule.py): a token bucket each way, a store that waits.

Everything in one process that reaches the site goes through one `Throttle`: shipping, the mirror where it runs here,
scrub and heal.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Final

from ledger.errors import Paused
from ledger.protocols import Clock
from ledger.store.base import ObjectStore, Stored, Tag, Version, VersionId
from ledger.store.forwarding import ForwardingObjectStore
from replication.schedule import FREE, OFF, Phase, Schedule

Sleep = Callable[[float], Awaitable[None]]

BURST_S: Final = 1.0
"""What was not used is saved for so long, so that an idle line answers at once."""
_NEVER: Final = datetime.max.replace(tzinfo=UTC)
LOOK_EVERY_S: Final = 5.0
"""Whoever waits looks at the clock at least so often: it may be set, and the schedule may be changed."""
SLEEP_S_MIN: Final = 0.001


class Bucket:
    """Tokens are bytes. Its level may fall below zero, by what was taken last: an object goes as a whole. Pure."""

    def __init__(self, now_s: float) -> None:
        """As empty as can be, at `now_s` (POSIX seconds)."""
        self._level = 0.0
        self._at_s = now_s

    def fill(self, rate: int, now_s: float) -> None:
        """Let in what has come since the last call, at `rate` bytes a second; nothing when the clock went back."""
        self._level = min(self._level + rate * max(0.0, now_s - self._at_s), rate * BURST_S)
        self._at_s = now_s

    def wait_s(self, rate: int) -> float:
        """How long until something may be taken, at that rate; 0: now."""
        return max(0.0, -self._level / rate)

    def take(self, size: int) -> None:
        """Take so many bytes, which may leave it in debt."""
        self._level -= size


class Throttle:
    """The schedule of one site, and how much of it is used up. None: nothing is throttled. For one event loop."""

    def __init__(self, schedule: Schedule | None, clock: Clock, *, sleep: Sleep = asyncio.sleep) -> None:
        self._schedule = schedule
        self._clock = clock
        self._sleep = sleep
        now = clock.now()
        self._phase: tuple[datetime, Phase] | None = None
        self._sending = _Turn(now)
        self._reading = _Turn(now)

    @property
    def schedule(self) -> Schedule | None:
        """What holds at which time of day."""
        return self._schedule

    def change(self, schedule: Schedule | None) -> None:
        """Another schedule holds from now on, also for those who wait."""
        if schedule != self._schedule:
            self._schedule, self._phase = schedule, None

    def now(self) -> Phase:
        """What holds now."""
        if self._schedule is None:
            return Phase(FREE, None)
        now = self._clock.now()
        if self._phase is None or not self._phase[0] <= now < (self._phase[1].until or _NEVER):
            self._phase = now, self._schedule.at(now)
        return self._phase[1]

    def check(self) -> None:
        """Raises Paused: nothing may be sent now."""
        phase = self.now()
        if phase.rate == OFF:
            raise Paused(f"nothing is sent there {self._until(phase)}", hint="it goes on by itself")

    def _until(self, phase: Phase) -> str:
        if self._schedule is None or phase.until is None:
            return "at any time, by its schedule"
        local = phase.until.astimezone(self._schedule.zone)
        return f"until {local:%H:%M} ({self._schedule.zone}), by its schedule"

    async def sending(self, size: int) -> None:
        """Return when so many bytes may be sent. Raises Paused."""
        await self._wait(self._sending, size)

    async def reading(self, size: int) -> None:
        """So many bytes were read: return when the next may be. Raises Paused."""
        await self._wait(self._reading, size)

    async def _wait(self, turn: _Turn, size: int) -> None:
        if self._schedule is None:
            return
        async with turn.lock:  # in the order in which they asked
            while True:
                self.check()
                rate = self.now().rate
                if rate is FREE:
                    return
                now = self._clock.now()
                turn.bucket.fill(rate, now.timestamp())
                wait_s = turn.bucket.wait_s(rate)
                if not wait_s:
                    turn.bucket.take(size)
                    return
                await self._sleep(max(SLEEP_S_MIN, min(wait_s, LOOK_EVERY_S, self._left_s(now))))

    def _left_s(self, now: datetime) -> float:
        """Until the next change."""
        until = self.now().until
        return LOOK_EVERY_S if until is None else (until - now).total_seconds()


class _Turn:
    """One direction: who is next, and how much there is."""

    def __init__(self, now: datetime) -> None:
        self.lock = asyncio.Lock()
        self.bucket = Bucket(now.timestamp())


class ThrottledStore(ForwardingObjectStore):
    """A site's objects within its schedule. Deleting and locking, which send next to nothing, always go through.

    Besides what `ObjectStore` says, reading, writing and listing raise Paused.
    """

    def __init__(self, inner: ObjectStore, throttle: Throttle) -> None:
        super().__init__(inner)
        self._throttle = throttle

    async def get(self, key: str) -> Stored:
        self._throttle.check()
        stored = await super().get(key)
        await self._throttle.reading(len(stored.data))
        return stored

    async def get_version(self, key: str, version: VersionId) -> bytes:
        self._throttle.check()
        data = await super().get_version(key, version)
        await self._throttle.reading(len(data))
        return data

    async def put_immutable(self, key: str, data: bytes) -> None:
        await self._throttle.sending(len(data))
        await super().put_immutable(key, data)

    async def replace(self, key: str, data: bytes, *, expected: Tag | None) -> Tag:
        await self._throttle.sending(len(data))
        return await super().replace(key, data, expected=expected)

    def list_keys(self, prefix: str) -> AsyncIterator[str]:
        self._throttle.check()
        return super().list_keys(prefix)

    def list_versions(self, prefix: str) -> AsyncIterator[Version]:
        self._throttle.check()
        return super().list_versions(prefix)
