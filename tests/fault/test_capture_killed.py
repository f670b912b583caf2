"""kill -9 of servers that capture and of commands that restore, at random moments: nothing half done ever counts.

SEED=n replays the moments, as far as a clock can; KILLS=n sets how many (make soak).
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.assets import add, add_database, change_database, make_database, rows_of
from tests.support.cli import Jinshi, contents, ledger_in
from tests.support.serving import started

pytestmark = pytest.mark.slow


@dataclass
class Office:
    """Three systems under protection that somebody works in."""

    jinshi: Jinshi
    home: Path
    draw: random.Random
    turns: int = 0

    @classmethod
    def opened(cls, home: Path, draw: random.Random) -> Office:
        office = cls(ledger_in(home), home, draw)
        make_database(home / "cases.sqlite")
        (home / "tree").mkdir()
        office.work()
        add_database(office.jinshi, "cases", home / "cases.sqlite", "every_s=1", grade=2, group="office")
        add(office.jinshi, "app", "config", f"path={home / 'app.conf'}", "every_s=1", grade=2, group="office")
        add(office.jinshi, "tree", "files", f"path={home / 'tree'}", grade=2, group="office")
        return office

    def work(self) -> None:
        """Everything is changed."""
        self.turns += 1
        change_database(self.home / "cases.sqlite", self.turns)
        (self.home / "app.conf").write_text(f"turn = {self.turns}\n")
        file = self.home / "tree" / f"f{self.draw.randrange(8)}"
        file.write_bytes(self.draw.randbytes(self.draw.choice([0, 100, 200_000])))

    def served_and_killed(self) -> None:
        """A server that dies while it captures what is being worked on."""
        server, _ = started(self.jinshi, "--every", "0.2")
        try:
            end_s = time.monotonic() + self.draw.uniform(0.1, 2.5)
            while time.monotonic() < end_s:
                self.work()
                time.sleep(self.draw.uniform(0.05, 0.4))
        finally:
            os.kill(server.pid, signal.SIGKILL)
            server.communicate()

    def restored_and_killed(self, mark: str) -> None:
        """A restore that dies leaves its place as it was, or whole."""
        place = self.home / "killed"
        shutil.rmtree(place, ignore_errors=True)
        process = self.jinshi.start("restore", "asset", "tree", "--at", mark, "--to", place)
        time.sleep(self.draw.uniform(0.3, 1.6))
        process.kill()
        process.communicate()
        if place.exists() and any(place.iterdir()):
            self.jinshi("restore", "asset", "tree", "--at", mark, "--to", self.home / "whole")
            assert contents(place) == contents(self.home / "whole")
            shutil.rmtree(self.home / "whole")

    def marked(self, mark: str) -> dict[str, bytes]:
        """What everything is at a mark."""
        self.jinshi("mark", mark, "--group", "office")
        rows = repr(rows_of(self.home / "cases.sqlite")).encode()
        return {"cases": rows, "app": (self.home / "app.conf").read_bytes(), **contents(self.home / "tree")}

    def restored(self, mark: str) -> dict[str, bytes]:
        """What comes back of it."""
        place = self.home / f"restored-{mark}"
        database = place.with_suffix(".sqlite")
        self.jinshi("restore", "group", "office", "--at", mark, "--to", place, "--place", f"cases={database}")
        rows = repr(rows_of(database)).encode()
        found = {"cases": rows, "app": (place / "app" / "app.conf").read_bytes(), **contents(place / "tree")}
        shutil.rmtree(place)
        return found


@pytest.fixture
def draw() -> random.Random:
    seed = int(os.environ.get("SEED", "0")) or random.SystemRandom().randrange(1, 2**32)
    print(f"seed={seed}")
    return random.Random(seed)


def rounds(office: Office, count: int) -> None:
    kept: dict[str, dict[str, bytes]] = {}
    for number in range(count):
        office.served_and_killed()
        office.work()
        kept[f"m{number}-"] = office.marked(f"m{number}-")
        office.restored_and_killed(f"m{number}-")
    for mark, expected in kept.items():
        assert office.restored(mark) == expected, mark
    office.jinshi("replicate", "--once")
    office.jinshi("verify")
    office.jinshi("audit")


def test_a_server_is_killed_while_it_captures_and_every_mark_comes_back(tmp_path: Path, draw: random.Random) -> None:
    rounds(Office.opened(tmp_path, draw), 2)


@pytest.mark.soak
def test_it_is_killed_again_and_again(tmp_path: Path, draw: random.Random) -> None:
    rounds(Office.opened(tmp_path, draw), int(os.environ.get("KILLS", "40")))
