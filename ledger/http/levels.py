"""A number that only rises, and those who wait until it has: how far the log is committed, and how far published."""

from __future__ import annotations

import asyncio


class Level:
    """Starts at `value`. For one event loop."""

    def __init__(self, value: int = 0) -> None:
        self._value = value
        self._risen = asyncio.Event()

    @property
    def value(self) -> int:
        """How high it stands."""
        return self._value

    def rise(self, value: int) -> None:
        """Rise to `value`; wakes everybody who waits. Lower values change nothing."""
        if value > self._value:
            self._value = value
            self.wake()

    def wake(self) -> None:
        """Let everybody who waits look again, for another reason than a rise."""
        self._risen.set()
        self._risen = asyncio.Event()

    async def changed(self) -> None:
        """Return after the next `rise` or `wake`."""
        await self._risen.wait()

    async def above(self, value: int, timeout_s: float | None = None) -> bool:
        """Wait until it stands above `value`; False when `timeout_s` passed before."""
        try:
            async with asyncio.timeout(timeout_s):
                while self._value <= value:
                    await self._risen.wait()
        except TimeoutError:
            return False
        return True
