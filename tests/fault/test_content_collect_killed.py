"""kill -9 while released content is removed, at the primary and at a site: nothing that is needed goes with it."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.test_content_released import (
    ORIGIN,
    OTHER,
    a_week_later,
    content,
    of_primary,
    of_site,
    released,
)
from tests.support.captured import captured, restored
from tests.support.cli import ROOT, Jinshi
from tests.support.content import noise

OLD = (noise(1, 200_000), noise(4, 400_000))
SHARED, NEW = noise(1, 200_000) + b"and more", noise(2, 50_000)
WRITES = 14
"""About as many as a collection of what is released here makes."""
LIVES = 3


def killed(jinshi: Jinshi, chance: random.Random, side: str, *arguments: str) -> int:
    """How often the command was killed, at its first write and then at others; else it came to its end."""
    kills = 0
    for write in [0, *chance.sample(range(1, WRITES), LIVES)]:
        command = [sys.executable, "-m", "tests.fault.content_collect_worker", str(write), side, *arguments]
        environment = {**jinshi.environ(), "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=60, check=False)
        assert done.returncode in (0, -signal.SIGKILL), done.stderr.decode()
        kills += done.returncode != 0
    return kills


@pytest.mark.slow
@pytest.mark.parametrize("side", ["before", "after"])
def test_a_killed_collection_is_finished_by_the_next_and_takes_nothing_else(tmp_path: Path, side: str) -> None:
    seed = random.SystemRandom().randrange(1_000)
    print(f"seed={seed}")
    chance = random.Random(seed)
    jinshi = Jinshi(tmp_path, tmp_path / "ledger")
    jinshi("init", jinshi.ledger, "--origin", ORIGIN)
    captured(tmp_path / "ledger", *OLD)
    captured(tmp_path / "ledger", SHARED, source=OTHER)
    captured(tmp_path / "ledger", NEW, first=9)
    jinshi("replicate", "--once")
    released(tmp_path / "ledger", range(2))
    free = jinshi("content", "status", "--json").json["free"]
    before = content(of_primary(jinshi))
    assert killed(jinshi, chance, side, "content", "collect")
    jinshi("content", "collect")
    jinshi("content", "collect")
    kept = content(of_primary(jinshi))
    assert len(before - kept) == free > 4
    jinshi("verify")
    jinshi("replicate", "--once")
    jinshi("content", "collect", "--site", "remote")
    a_week_later(jinshi, "remote")
    assert killed(jinshi, chance, side, "content", "collect", "--site", "remote")
    captured(tmp_path / "ledger", noise(3, 10_000), first=20)
    jinshi("replicate", "--once")
    jinshi("content", "collect", "--site", "remote")
    jinshi("verify", "--site", "remote")
    assert kept <= content(of_site(jinshi, "remote"))
    assert restored(tmp_path / "ledger", OTHER) == [SHARED]
    assert restored(tmp_path / "ledger") == [NEW, noise(3, 10_000)]
