"""Keeps one asset captured: once, then on schedule or as it changes, with growing pauses after failures."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final, TypeVar

from cli.capturing.health import Health
from cli.display.logs import get_logger
from ledger.assets import Asset
from ledger.capture.base import Capture, Captured
from ledger.errors import CaptureFailed, Fenced, JinshiError
from ledger.tasks import Report

T = TypeVar("T")

PAUSE_S: Final = 1.0
PAUSE_S_MAX: Final = 300.0
GRACE_S: Final = 10.0
"""So long a capture that is at work may still take to come to a consistent point when the server ends."""
SLOT_WAIT_S: Final = 300.0
"""So long a capture waits for those that are at work: ones that hang must not hold up all the others for good."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """`every_s`: captured so often; None: it watches for changes by itself."""

    every_s: int | None
    pause_s: float = PAUSE_S


class Minder:
    """Of one asset as it is registered. Whoever asks for a capture right now gets one, and the watch goes on behind.

    `make` makes its capture anew each time, as what it needs may have come back in between. `at_once` bounds how many
    assets are captured side by side.
    """

    def __init__(
        self,
        asset: Asset,
        make: Callable[[], Awaitable[Capture]],
        health: Health,
        at_once: asyncio.Semaphore,
        schedule: Schedule,
    ) -> None:
        self.asset = asset
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._make = make
        self._health = health
        self._at_once = at_once
        self._schedule = schedule
        self._asked = asyncio.Event()
        self._news = asyncio.Event()
        self._sealed: Captured | None = None
        self._said = ""

    async def run(self) -> None:
        """Until it is cancelled; a failure is recorded, logged, and tried again. Raises Fenced."""
        pause_s = self._schedule.pause_s
        while True:
            wait_s: float = self._schedule.every_s or 0
            try:
                async with self._turn:
                    capture = await self._once(None)
                    pause_s = self._schedule.pause_s
                    self._log_sealed()
                    if self._schedule.every_s is None:
                        await self._watch(capture)
            except Fenced:
                raise
            except JinshiError as error:
                self._log(error)
                wait_s, pause_s = pause_s, min(2 * pause_s, PAUSE_S_MAX)
            await asyncio.sleep(wait_s)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """The time of whoever asks for a capture: a watch lets go, and nothing is captured but by `now`."""
        self._waiting += 1
        self._asked.set()
        try:
            await self._turn.acquire()
        finally:
            self._waiting -= 1
            if not self._waiting:  # others may still wait, behind a capture that comes before theirs
                self._asked.clear()
        try:
            yield
        finally:
            self._turn.release()

    async def now(self, report: Report | None = None) -> Captured:
        """Capture it now; the caller has the `turn`. Raises as `Capture.once`."""
        await self._once(report)
        assert self._sealed is not None
        return self._sealed

    async def _once(self, report: Report | None) -> Capture:
        async with self._failing(), self._slot():
            capture = await self._make()
            self._sealed = await _finished(capture.once(report))
        await self._health.captured(self.asset.name, self._sealed)
        return capture

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        held = False
        with suppress(TimeoutError):
            async with asyncio.timeout(SLOT_WAIT_S):
                held = await self._at_once.acquire()
        try:
            yield
        finally:
            if held:
                self._at_once.release()

    @asynccontextmanager
    async def _failing(self) -> AsyncIterator[None]:
        """Records why a capture failed. A fault of ours in one kind of capture ends neither the server nor the others.

        Raises:
            JinshiError: as it was raised; CaptureFailed for what should not have been.
        """
        try:
            yield
        except Fenced:
            raise
        except Exception as error:  # whatever it is, it is recorded, logged and told as one of ours
            if not isinstance(error, JinshiError):
                get_logger().error("a fault stopped a capture", asset=self.asset.name, exc_info=error)
                error = _fault(self.asset.name, error)
            await self._record_failure(error)
            raise error from None

    async def _watch(self, capture: Capture) -> None:
        """Until somebody asks for a capture. Raises as `Capture.watch`."""
        watching = asyncio.ensure_future(capture.watch(self._note))
        tasks = {watching, asyncio.ensure_future(self._tell()), asyncio.ensure_future(self._asked.wait())}
        try:
            async with self._failing():
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _note(self, sealed: Captured) -> None:
        self._sealed = sealed
        self._news.set()

    async def _tell(self) -> None:
        """Records what a watch has come to."""
        while True:
            await self._news.wait()
            self._news.clear()
            if self._sealed is not None:
                await self._health.captured(self.asset.name, self._sealed)
                self._log_sealed()

    async def _record_failure(self, error: JinshiError) -> None:
        try:
            await self._health.failed(self.asset.name, error)
        except Fenced:
            raise
        except JinshiError as other:  # on a full disk nothing can be recorded; what is wrong is logged all the same
            get_logger().error(f"not recorded: {other.what}", asset=self.asset.name, hint=other.hint)

    def _log(self, error: JinshiError) -> None:
        if str(error) != self._said:  # that it goes on as it went is no news
            self._said = str(error)
            get_logger().error(f"not captured: {error.what}", asset=self.asset.name, hint=error.hint)

    def _log_sealed(self) -> None:
        """What it has come to, where that is news; and what is wrong with it."""
        sealed, name = self._sealed, self.asset.name
        if sealed is None:
            return
        if sealed.problems and (said := "; ".join(sealed.problems)) != self._said:
            self._said = said
            get_logger().warning(f"not all of it captured: {said}", asset=name)
        elif self._said and not sealed.problems:
            self._said = ""
            get_logger().info("captured again", asset=name)
        if not sealed.repeated:
            get_logger().info("captured", asset=name, entry=sealed.index, **sealed.counts)


def _fault(name: str, error: Exception) -> JinshiError:
    what = f"a fault in jinshi itself stopped the capture of {name} ({type(error).__name__}: {error})"
    return CaptureFailed(what, hint="report it; it is tried again")


async def _finished(work: Awaitable[T]) -> T:
    """What it comes to; cancelled, it still has a while to get there, and is then ended where it is."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task}, timeout=GRACE_S)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        raise
