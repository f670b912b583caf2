"""kill -9 at every step of revoking, of issuing lists and answers, and of publishing them.

No list is signed that the log did not intend; every one that somebody has comes back out of the log byte for byte;
numbers never go back; a place has a whole set, always. SEED=n replays a loop; KILLS=n sets the length of the soak.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
KILLS = 25
WRITES = {"entries commit", "signing list", "own put_immutable", "own replace", "place put_immutable", "place replace"}


def killed(directory: Path, kills: int) -> set[str]:
    """The steps that lives were killed at."""
    seed = int(os.environ.get("SEED") or random.SystemRandom().randrange(2**31))
    command = [sys.executable, "-m", "tests.fault.status_worker", str(directory), str(seed), str(kills)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60 + 2 * kills, check=False)
    assert done.returncode == 0, f"seed={seed}\n{done.stdout}\n{done.stderr}"
    lines = done.stdout.splitlines()
    assert len(lines) == kills
    return set(lines)


def test_killed_at_steps_of_all_kinds_nothing_is_lost_or_signed_unintended(tmp_path: Path) -> None:
    assert killed(tmp_path, KILLS)


@pytest.mark.soak
def test_killed_two_hundred_times(tmp_path: Path) -> None:
    steps = killed(tmp_path, int(os.environ.get("KILLS") or 200))
    assert {step.partition(" ")[2] for step in steps} >= WRITES
