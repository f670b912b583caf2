"""Bounded concurrency: never more than allowed, lazily, and one failure ends all of it."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest

from ledger.tasks import run_bounded


class Jobs:
    """Jobs that count themselves; they end when `gate` opens."""

    def __init__(self) -> None:
        self.made = self.running = self.most = self.done = self.cancelled = 0
        self.gate = asyncio.Event()

    async def job(self) -> None:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.gate.wait()
            self.done += 1
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1

    def make(self, count: int) -> Iterator[Coroutine[Any, Any, None]]:
        for _ in range(count):
            self.made += 1
            yield self.job()


async def until_idle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_no_more_than_allowed_are_running_or_even_made() -> None:
    jobs = Jobs()
    running = asyncio.create_task(run_bounded(jobs.make(10), parallel=3))
    await until_idle()
    assert (jobs.running, jobs.made) == (3, 3)
    jobs.gate.set()
    await running
    assert (jobs.done, jobs.most) == (10, 3)


async def test_the_first_failure_is_raised_as_itself_when_all_others_have_ended() -> None:
    jobs = Jobs()

    async def fail() -> None:
        raise LookupError("this one")

    def make() -> Iterator[Coroutine[Any, Any, None]]:
        yield from jobs.make(2)
        yield fail()
        yield from jobs.make(100)

    with pytest.raises(LookupError, match="this one"):
        await run_bounded(make(), parallel=4)
    assert jobs.made < 10
    assert jobs.running == jobs.done == 0


async def test_failures_at_the_same_moment_leave_nothing_unheard(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(number: int) -> None:
        raise LookupError(str(number))

    with caplog.at_level(logging.ERROR), pytest.raises(LookupError):
        await run_bounded((fail(number) for number in range(8)), parallel=8)
    gc.collect()
    await until_idle()
    assert caplog.records == []


async def test_cancelling_it_cancels_every_job() -> None:
    jobs = Jobs()
    running = asyncio.create_task(run_bounded(jobs.make(10), parallel=4))
    await until_idle()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (jobs.cancelled, jobs.running, jobs.made) == (4, 0, 4)


async def test_a_source_of_jobs_that_fails_ends_the_jobs_it_made() -> None:
    jobs = Jobs()

    def make() -> Iterator[Coroutine[Any, Any, None]]:
        yield from jobs.make(2)
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        await run_bounded(make(), parallel=4)
    assert jobs.running == jobs.done == 0
