"""How fast a scrub may read: so many bytes a second, or spread over the length of a cycle."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from ledger.protocols import Clock

Sleep = Callable[[float], Awaitable[None]]


class Pace:
    """Slows a reader down: `bytes_per_s`, and `cycle_s` for everything from the moment the cycle began; 0: no limit.

    `on_read` is told the size of every object that was read.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        bytes_per_s: float = 0.0,
        cycle_s: float = 0.0,
        sleep: Sleep = asyncio.sleep,
        on_read: Callable[[int], None] | None = None,
    ) -> None:
        self._clock = clock
        self._bytes_per_s = bytes_per_s
        self._cycle_s = cycle_s
        self._sleep = sleep
        self._on_read = on_read
        self._free_s = 0.0

    async def spent(self, size: int) -> None:
        """So many bytes were read: wait until as many may be read again."""
        if self._on_read is not None:
            self._on_read(size)
        if not self._bytes_per_s:
            return
        now_s = self._clock.now().timestamp()
        self._free_s = max(self._free_s, now_s) + size / self._bytes_per_s
        if (ahead_s := self._free_s - now_s) > 0:
            await self._sleep(ahead_s)

    async def reached(self, done: int, total: int, started_s: float) -> None:
        """So much of the cycle that began at `started_s` (POSIX) is done: wait until it is due."""
        if self._cycle_s and total:
            due_s = started_s + self._cycle_s * done / total
            if (ahead_s := due_s - self._clock.now().timestamp()) > 0:
                await self._sleep(ahead_s)
