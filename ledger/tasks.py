"""Bounded concurrency that fails as one: the first error is raised as itself, the rest is cancelled. And progress."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

T = TypeVar("T")
U = TypeVar("U")

Report = Callable[[int, int], None]
"""Progress of long work: entries done, entries in all."""


async def run_bounded(jobs: Iterable[Coroutine[Any, Any, Any]], *, parallel: int) -> None:
    """Run every job, at most `parallel` at a time; `jobs` is consumed lazily, so it may be long.

    Raises:
        whatever the first failing job raises, once every other running job has been cancelled and has ended.
    """
    running: set[asyncio.Task[Any]] = set()
    try:
        for job in jobs:
            running.add(asyncio.ensure_future(job))
            if len(running) >= parallel:  # before the next one is made: what has not begun cannot be cancelled
                await _reap(running)
        while running:
            await _reap(running)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def both(one: Coroutine[Any, Any, T], other: Coroutine[Any, Any, U]) -> tuple[T, U]:
    """Run two things at once.

    Raises:
        whatever `one` raises, else what `other` does; both have ended then.
    """
    first, second = asyncio.ensure_future(one), asyncio.ensure_future(other)
    try:
        return await first, await second
    finally:
        for task in (first, second):
            task.cancel()
        await asyncio.gather(first, second, return_exceptions=True)


async def _reap(running: set[asyncio.Task[Any]]) -> None:
    done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    running -= done
    failed = [error for task in done if (error := task.exception()) is not None]
    if failed:
        raise failed[0]
