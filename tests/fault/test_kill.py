"""kill -9 at every write of append, publish, replicate and restore, and at any moment between: nothing acknowledged is
lost, there is no gap and no duplicate, and the next life carries on by itself.

SEED=n replays a loop; KILLS=n sets the length of the soak.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO

import pytest

from tests.fault import worker
from tests.fault.survivors import Witness
from tests.fault.worker import Life

REPOSITORY = Path(__file__).parents[2]
KILLS = 60
EDGE_KILLS = 20  # of three loops of KILLS and this one, 200 together
WHOLE_EVERY = 20
OUTSIDE_SHARE = 0.25  # of the lives that are killed by somebody else, at any moment
RESUME_SHARE = 0.3  # of the lives killed at something new that are followed by one that only carries on
COMMIT_POINT = re.compile("commit|record_checkpoint|replace")  # ... and all of those
ANSWER_S = 60
SPREAD_S = 0.004

Write = tuple[str, str]
"""(phase, name of the write) as the worker tells it."""

Target = tuple[str, str, str]
"""A write and the side of it, "before" or "after", to be killed at."""

MUST_HIT: set[Write] = {
    ("append", "entries:claim"),
    ("append", "entries:commit"),
    ("publish", "published:put_immutable:tile-entries"),
    ("publish", "published:put_immutable:tile-entries-part"),
    ("publish", "published:put_immutable:tile-0"),
    ("publish", "published:put_immutable:tile-1-part"),
    ("publish", "entries:record_checkpoint"),
    ("publish", "published:replace:checkpoint"),
    ("publish", "published:delete:tile-entries-part"),
    ("replicate", "site:put_immutable:keyring"),
    ("replicate", "site:put_immutable:tile-entries"),
    ("replicate", "site:put_immutable:tile-entries-part"),
    ("replicate", "site:put_immutable:tile-0"),
    ("replicate", "site:put_immutable:tile-1-part"),
    ("replicate", "site:replace:pending"),
    ("replicate", "mirror:replace:cosigned"),
    ("replicate", "site:replace:checkpoint"),
    ("replicate", "site:delete:tile-entries-part"),
    ("restore", "entries:claim"),
    ("restore", "entries:commit"),
}
"""What every loop must have been killed at, before and after; it draws from all writes that it sees."""

TILE_EDGE = 65_536
EDGE: list[Target] = [
    ("publish", "published:put_immutable:tile-1", "before"),
    ("publish", "published:put_immutable:tile-1", "after"),
    ("publish", "published:put_immutable:tile-2-part", "before"),
    ("publish", "published:put_immutable:tile-2-part", "after"),
    ("publish", "published:delete:tile-1-part", "before"),
    ("replicate", "site:put_immutable:tile-1", "before"),
    ("replicate", "site:put_immutable:tile-1", "after"),
    ("replicate", "site:put_immutable:tile-2-part", "before"),
    ("replicate", "site:put_immutable:tile-2-part", "after"),
    ("replicate", "site:delete:tile-1-part", "before"),
    ("replicate", "site:delete:tile-1-part", "after"),
]
"""Writes that come once in 65,536 entries; in this order none is passed by before it has been hit."""


@dataclass(slots=True)
class Ended:
    """How a life ended, and the writes it had told of."""

    status: int
    writes: Counter[Write] = field(default_factory=Counter)
    lines: int = 0

    @property
    def killed(self) -> bool:
        return self.status == -signal.SIGKILL


class Server:
    """The process that lives are forked from."""

    def __init__(self, process: subprocess.Popen[bytes], errors: Path) -> None:
        self._process = process
        self._errors = errors
        self._lines = _lines_of(process.stdout)
        assert next(self._lines) == "ready"

    def live(self, life: Life, *, kill_at_line: int = 0, after_s: float = 0.0) -> Ended:
        """Run one life to its end; `kill_at_line` kills it from outside, `after_s` after it has told that line."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asdict(life)).encode() + b"\n")
        self._process.stdin.flush()
        ended, pid = Ended(0), 0
        for line in self._lines:
            word, *rest = line.split()
            if word == "end":
                ended.status = int(rest[0])
                return ended
            if word == "pid":
                pid = int(rest[0])
            elif word == "step":
                ended.writes[rest[0], rest[1]] += 1
            ended.lines += 1
            if ended.lines == kill_at_line:
                time.sleep(after_s)
                with suppress(ProcessLookupError):  # it has come to its end
                    os.kill(pid, signal.SIGKILL)
        raise AssertionError(f"the server has ended:\n{self._errors.read_text()}")

    def why(self) -> str:
        """What lives that failed have written to stderr."""
        return self._errors.read_text()


def _lines_of(stream: IO[bytes] | None) -> Iterator[str]:
    assert stream is not None
    rest = b""
    while True:
        ready, _, _ = select.select([stream], [], [], ANSWER_S)
        assert ready, f"a life has said nothing for {ANSWER_S} s"
        data = os.read(stream.fileno(), 65_536)
        if not data:
            return
        *lines, rest = (rest + data).split(b"\n")
        yield from (line.decode() for line in lines)


@contextmanager
def served(root: Path, base: int) -> Iterator[Server]:
    errors = root / "stderr"
    with (
        errors.open("wb") as stderr,
        subprocess.Popen(
            [sys.executable, "-m", "tests.fault.worker", str(root), str(base)],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
        ) as process,
    ):
        try:
            yield Server(process, errors)
        finally:
            assert process.stdin is not None
            process.stdin.close()


@dataclass(slots=True)
class Loop:
    """A seeded loop of lives over one ledger: at what they are still to be killed, and at what they have been."""

    draw: random.Random
    first: list[Target]  # in this order, before anything else
    must_hit: set[Target]
    fresh_share: float  # of the lives that restore from the beginning instead of carrying on
    counts: Counter[Write] = field(default_factory=Counter)  # the most of each write that one life has made
    lines: int = 2**31  # the fewest that a life has told that came through
    tried: set[Target] = field(default_factory=set)
    hit: set[Target] = field(default_factory=set)
    kills: int = 0
    lives: int = 0

    @property
    def first_missing(self) -> list[Target]:
        return [one for one in self.first if one not in self.hit]

    @property
    def missing(self) -> set[Target]:
        return {*self.first_missing, *self.must_hit - self.hit}

    def next_life(self) -> tuple[Life, int]:
        """The next life, and at which line it is killed from outside; 0: it ends itself."""
        life = Life(seed=self.draw.randrange(2**32), phase="restore")
        if waiting := self.first_missing:
            return _ending(life, waiting[0]), 0
        if self.draw.random() < OUTSIDE_SHARE:
            return life, self.draw.randint(1, self.lines)
        targets = [(*write, side) for write in sorted(self.counts) for side in ("before", "after")]
        target = self.draw.choice([one for one in targets if one not in self.hit] or targets)
        # Always the first one would not do: a commit that finds duplicates is made again.
        nth = self.draw.randint(1, self.counts[target[:2]]) if target in self.tried else 1
        return _ending(life, target, nth), 0

    def count(self, life: Life, ended: Ended) -> bool:
        """Take in how a life ended; returns whether it was killed where none was before."""
        self.counts |= ended.writes
        if not ended.killed and life.appends and life.phase == "restore":
            self.lines = min(self.lines, ended.lines)
        self.lives += 1
        self.kills += ended.killed
        if not life.write:
            return False
        target = (life.phase, life.write, life.side)
        news = ended.killed and target not in self.hit
        self.tried.add(target)
        self.hit |= {target} if news else set()
        return news


def _ending(life: Life, target: Target, nth: int = 1) -> Life:
    phase, write, side = target
    return replace(life, phase=phase, write=write, side=side, nth=nth)


def run_loop(root: Path, loop: Loop, kills: int, *, base: int = 0, unharmed: int = 4) -> None:
    """Lives until `kills` of them have been killed, at everything they must be; everything is checked after each."""
    witness = Witness(root)
    life = Life(seed=0, phase="restore")
    try:
        with served(root, base) as server:

            def live(kill_at_line: int = 0, *, whole: bool = False) -> bool:
                """One life, then the check; returns whether it was killed at something new."""
                ended = server.live(life, kill_at_line=kill_at_line, after_s=loop.draw.uniform(0, SPREAD_S))
                assert ended.killed or ended.status == 0, server.why()
                news = loop.count(life, ended)
                asyncio.run(witness.check(whole=whole or loop.lives % WHOLE_EVERY == 0))
                return news

            for _ in range(unharmed):  # to learn which writes there are, and how many
                live()
            while loop.kills < kills or loop.missing:
                assert loop.lives < 3 * kills + 100, f"{loop.kills} kills; never killed at {loop.missing}"
                if loop.draw.random() < loop.fresh_share:
                    witness.drop_restored()
                life, outside = loop.next_life()
                news = live(outside)
                if loop.first_missing:
                    continue
                if news and (COMMIT_POINT.search(life.write) or loop.draw.random() < RESUME_SHARE):
                    life = Life(seed=0, phase="restore", appends=False)
                    live()
                    witness.check_caught_up()
            life = Life(seed=0, phase="restore")
            live(whole=True)
            witness.check_caught_up()
            witness.check_equal()
    except BaseException as error:
        error.add_note(f"{root}: after {loop.lives} lives and {loop.kills} kills; the last was {life}")
        raise
    print(f"{loop.kills} kills in {loop.lives} lives, at {len(loop.hit)} places; {witness.primary.size} entries")


@contextmanager
def seeded(default: int) -> Iterator[random.Random]:
    """Draws from SEED, else from the default; a failure names it."""
    seed = int(os.environ.get("SEED", default))
    try:
        yield random.Random(seed)
    except BaseException as error:
        error.add_note(f"SEED={seed}")
        raise


def both_sides(writes: set[Write]) -> set[Target]:
    return {(*write, side) for write in writes for side in ("before", "after")}


@pytest.mark.slow
@pytest.mark.parametrize("share", [1, 2, 3])
def test_nothing_acknowledged_is_lost_whichever_write_the_process_is_killed_at(tmp_path: Path, share: int) -> None:
    with seeded(share) as draw:
        loop = Loop(draw, [], both_sides(MUST_HIT), fresh_share=0.2)
        run_loop(tmp_path, loop, KILLS)
    assert loop.kills >= KILLS
    assert both_sides(MUST_HIT) <= loop.hit


@pytest.mark.slow
def test_nothing_acknowledged_is_lost_by_kills_where_the_tree_gains_a_level_of_tiles(tmp_path: Path) -> None:
    with seeded(4) as draw:
        loop = Loop(draw, EDGE, set(), fresh_share=0.0)
        run_loop(tmp_path, loop, EDGE_KILLS, base=TILE_EDGE - worker.LIFE_EVENTS_MAX - 1, unharmed=1)
    assert loop.kills >= EDGE_KILLS
    assert set(EDGE) <= loop.hit


@pytest.mark.soak
def test_a_long_loop_of_kills(tmp_path: Path) -> None:
    with seeded(random.SystemRandom().randrange(2**31)) as draw:
        run_loop(tmp_path, Loop(draw, [], both_sides(MUST_HIT), fresh_share=0.2), int(os.environ.get("KILLS", "2000")))
