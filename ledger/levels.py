"""A number that only rises, and those who wait until it has: how far the log is committed, and how far published.

`CommitSignal` is the same for those who wait for the next commit, whatever it leads to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Level:
    """Starts at `value`. For one event loop."""

    def __init__(self, value: int = 0) -> None:
        self._value = value
        self._risen = asyncio.Event()
        self._waiting: dict[int, set[asyncio.Future[None]]] = {}

    @property
    def value(self) -> int:
        """How high it stands."""
        return self._value

    @property
    def awaited(self) -> bool:
        """Whether somebody waits for it to rise above some height."""
        return bool(self._waiting)

    def rise(self, value: int) -> None:
        """Rise to `value`; wakes whoever waits for that. Lower values change nothing."""
        if value > self._value:
            self._value = value
            for height in [height for height in self._waiting if height < value]:
                for waiter in self._waiting.pop(height):
                    if not waiter.done():
                        waiter.set_result(None)
            self.wake()

    def wake(self) -> None:
        """Let everybody who waits for a change look again, for another reason than a rise."""
        self._risen.set()
        self._risen = asyncio.Event()

    async def changed(self) -> None:
        """Return after the next `rise` or `wake`."""
        await self._risen.wait()

    async def above(self, value: int, timeout_s: float | None = None) -> bool:
        """Wait until it stands above `value`; False when `timeout_s` passed before.

        Hundreds of requests may wait, each for its own height: a rise wakes those it is enough for, and no others.
        """
        if self._value > value:
            return True
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(value, set()).add(waiter)
        try:
            async with asyncio.timeout(timeout_s):
                await waiter
        except TimeoutError:
            pass
        finally:
            waiters = self._waiting.get(value)
            if waiters is not None:
                waiters.discard(waiter)
                if not waiters:
                    del self._waiting[value]
        return self._value > value


class CommitSignal:
    """Wakes live readers in this process after each commit. `commits` counts them; `size` is what they led to.

    `told` are called with the size at each of them, before anybody who waits has the loop.
    """

    def __init__(self) -> None:
        self.told: list[Callable[[int], None]] = []
        self._waiters: set[asyncio.Future[None]] = set()
        self.commits = 0
        self.size = 0

    def set(self, size: int = 0) -> None:
        self.commits += 1
        self.size = max(self.size, size)
        for tell in self.told:
            tell(self.size)
        for waiter in self._waiters:
            _wake(waiter)
        self._waiters.clear()

    async def wait(self, timeout_s: float, *, seen: int | None = None) -> None:
        """Return at the next commit, or after `timeout_s` (another process may have committed).

        `seen` is the count of commits before the caller last looked: where there were more since, it returns at once.
        """
        if seen is not None and self.commits != seen:
            return
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        self._waiters.add(waiter)
        timer = loop.call_later(timeout_s, _wake, waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiters.discard(waiter)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
