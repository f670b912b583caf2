"""Keeping one asset captured: schedules, failures, and whoever asks in between."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from cli.capturing.health import Health
from cli.capturing.minding import Minder, Schedule
from ledger.assets import Asset, asset_source
from ledger.capture.base import Captured, Sealed
from ledger.errors import CaptureFailed, Fenced, JinshiError
from ledger.tasks import Report

ASSET = Asset("cases", "commands", asset_source("cases"), 1, "owner")


@dataclass
class Scripted:
    """A capture that does what `script` says, one after the other, and then succeeds; `watch` waits."""

    script: list[JinshiError | Captured] = field(default_factory=list)
    ran: int = 0
    watching: bool = False
    cancelled: int = 0
    slow: asyncio.Event | None = None

    async def once(self, report: Report | None = None) -> Captured:
        self.ran += 1
        if self.slow is not None:
            await self.slow.wait()
        now = self.script.pop(0) if self.script else Captured(self.ran, {})
        if isinstance(now, JinshiError):
            raise now
        return now

    async def watch(self, sealed: Sealed) -> None:
        self.watching = True
        try:
            sealed(Captured(100, {}))
            await asyncio.Event().wait()
        finally:
            self.watching = False
            self.cancelled += 1


class Noted:
    """In place of `Health`: what would be recorded."""

    def __init__(self) -> None:
        self.lines: list[Any] = []

    async def captured(self, name: str, done: Captured) -> None:
        self.lines.append(done.index)

    async def failed(self, name: str, error: JinshiError) -> None:
        self.lines.append(error.what)


def minder(capture: Scripted, *, every_s: int | None = 3_600) -> tuple[Minder, Noted]:
    noted = Noted()

    async def make() -> Scripted:
        return capture

    made = cast("Callable[[], Awaitable[Any]]", make)
    return Minder(ASSET, made, cast("Health", noted), asyncio.Semaphore(1), Schedule(every_s, 0.01)), noted


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(0.005)


async def ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_failure_is_recorded_and_tried_again_until_it_works() -> None:
    capture = Scripted([CaptureFailed("away"), CaptureFailed("still away")])
    one, noted = minder(capture)
    task = asyncio.create_task(one.run())
    await until(lambda: len(noted.lines) == 3)
    await ended(task)
    assert noted.lines == ["away", "still away", 3]


async def test_a_writer_that_was_fenced_ends_it() -> None:
    one, noted = minder(Scripted([Fenced("another writer")]))
    with pytest.raises(Fenced):
        await one.run()
    assert noted.lines == []


async def test_whoever_asks_interrupts_the_watch_and_it_goes_on_afterwards() -> None:
    capture = Scripted()
    one, noted = minder(capture, every_s=None)
    task = asyncio.create_task(one.run())
    await until(lambda: capture.watching and 100 in noted.lines)
    async with asyncio.timeout(30), one.turn():
        assert not capture.watching
        assert (await one.now()).index == 2
    await until(lambda: capture.watching)
    await ended(task)
    assert capture.ran == 3
    assert not capture.watching


async def test_what_fails_for_whoever_asks_is_recorded_too() -> None:
    one, noted = minder(Scripted([CaptureFailed("away")]))
    async with one.turn():
        with pytest.raises(CaptureFailed):
            await one.now()
    assert noted.lines == ["away"]


async def test_a_capture_at_work_comes_to_its_point_before_it_ends() -> None:
    capture = Scripted(slow=asyncio.Event())
    one, _ = minder(capture)
    task = asyncio.create_task(one.run())
    await until(lambda: capture.ran == 1)
    task.cancel()
    await asyncio.sleep(0.02)
    assert not task.done()
    assert capture.slow is not None
    capture.slow.set()
    await asyncio.wait({task}, timeout=30)
    assert task.cancelled()


class Broken(Scripted):
    """A capture with a fault of ours in it."""

    async def once(self, report: Report | None = None) -> Captured:
        self.ran += 1
        if self.ran == 1:
            raise TypeError("no such thing")
        return Captured(self.ran, {})


async def test_a_fault_of_ours_is_a_failure_like_any_other() -> None:
    one, noted = minder(Broken())
    task = asyncio.create_task(one.run())
    await until(lambda: len(noted.lines) == 2)
    await ended(task)
    assert noted.lines == ["a fault in jinshi itself stopped the capture of cases (TypeError: no such thing)", 2]


async def test_captures_that_hang_hold_up_no_others_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cli.capturing.minding.SLOT_WAIT_S", 0.05)
    one, noted = minder(Scripted())
    async with one._at_once, one.turn():
        await one.now()
    assert noted.lines == [1]


async def test_everybody_who_asks_at_the_same_time_gets_a_turn() -> None:
    capture = Scripted()
    one, _ = minder(capture, every_s=None)
    task = asyncio.create_task(one.run())
    await until(lambda: capture.watching)

    async def ask() -> Captured:
        async with one.turn():
            await asyncio.sleep(0.02)  # so that the next one asks while the watch waits for its turn, too
            return await one.now()

    async with asyncio.timeout(30):
        first = asyncio.create_task(ask())
        await asyncio.sleep(0.01)
        assert len({done.index for done in await asyncio.gather(first, *(ask() for _ in range(4)))}) == 5
    await until(lambda: capture.watching)
    await ended(task)
