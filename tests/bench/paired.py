"""Rounds of ours and theirs in turn, the median of each and of the ratio pair by pair."""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Stopwatch:
    """Wall-clock seconds of a block."""

    seconds: float = 0.0


@contextmanager
def stopwatch() -> Iterator[Stopwatch]:
    watch = Stopwatch()
    start = time.perf_counter()
    yield watch
    watch.seconds = time.perf_counter() - start


@dataclass
class Pair:
    """Rates of ours and of the limit, round by round."""

    name: str
    unit: str
    limit: str
    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)

    def show(self) -> None:
        ratio = statistics.median(a / b for a, b in zip(self.ours, self.theirs, strict=True))
        print(
            f"{self.name:<38} {statistics.median(self.ours):>12,.0f} {self.unit:<11}"
            f" {self.limit}: {statistics.median(self.theirs):>12,.0f}   ratio {ratio:.2f}",
            flush=True,
        )


Measure = Callable[[int], Awaitable[float]]
"""One round: the round's number in, a rate per second out."""


async def run_paired(pair: Pair, ours: Measure, theirs: Measure, rounds: int) -> None:
    """One warm-up, then `rounds` rounds in turn; prints medians."""
    for number in range(rounds + 1):
        a, b = await ours(number), await theirs(number)
        if number:
            pair.ours.append(a)
            pair.theirs.append(b)
    pair.show()
