"""kill -9 while content is captured, shipped and cosigned: whatever a site's mirror has cosigned is there, whole.

SEED=n draws the same moments again, as far as a clock can; KILLS=n sets how many (make soak).
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cli.system import SystemClock
from cli.wiring.ledgers import OpenLedger, read_policy
from ledger.errors import ObjectMissing
from restore.fetch import open_site, verify_site
from tests.fault.content_shipping_worker import content_of
from tests.support.captured import restored, with_ledger
from tests.support.cli import ROOT, Jinshi

ROUNDS = 8
KILLS = 3
MOMENT_S_MAX = 0.5  # of each life after it is ready: all rounds take longer, even where nothing has to be synced
WAIT_S = 60


def killed(jinshi: Jinshi, moment_s: float) -> bool:
    """Run the worker and kill it so long after it is ready; False: it had come to its end."""
    worker = subprocess.Popen(
        [sys.executable, "-m", "tests.fault.content_shipping_worker", str(jinshi.ledger), str(ROUNDS)],
        cwd=ROOT,
        env={**jinshi.environ(), "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert worker.stdout is not None
    assert worker.stdout.readline() == b"ready\n"
    try:
        _, errors = worker.communicate(timeout=moment_s)
    except subprocess.TimeoutExpired:
        worker.kill()
        worker.communicate()
        return worker.returncode == -signal.SIGKILL
    assert worker.returncode == 0, errors.decode()
    return False


async def check_sites(ledger: OpenLedger) -> list[int]:
    """Everything that a site's mirror has cosigned is verified, its content too; how much that is."""
    sizes: list[int] = []
    for site in ledger.sites():
        try:
            await site.objects.get("checkpoint")
        except ObjectMissing:
            sizes.append(0)
            continue
        copy = await open_site(site.objects, read_policy(ledger.paths.policy), ledger.origin, now=SystemClock().now())
        await verify_site(copy)
        sizes.append(copy.checkpoint.size)
    return sizes


def loop(jinshi: Jinshi, kills: int) -> None:
    seed = int(os.environ.get("SEED", "0")) or random.randrange(2**32)
    print(f"SEED={seed}")
    draw, done = random.Random(seed), 0
    assert jinshi.ledger is not None
    while done < kills:
        if not killed(jinshi, draw.uniform(0.02, MOMENT_S_MAX)):
            break
        done += 1
        with_ledger(jinshi.ledger, check_sites)
    assert done, "nothing was ever killed"
    killed(jinshi, WAIT_S)
    sizes = with_ledger(jinshi.ledger, check_sites)
    assert len(set(sizes)) == 1
    assert restored(jinshi.ledger) == [content_of(number) for number in range(ROUNDS)]
    jinshi("verify")
    jinshi("content", "collect")
    assert restored(jinshi.ledger) == [content_of(number) for number in range(ROUNDS)]


@pytest.fixture
def jinshi(tmp_path: Path) -> Jinshi:
    jinshi = Jinshi(tmp_path, tmp_path / "ledger")
    jinshi("init", jinshi.ledger)
    return jinshi


@pytest.mark.slow
def test_a_killed_capture_or_shipment_leaves_no_entry_without_its_content(jinshi: Jinshi) -> None:
    loop(jinshi, KILLS)


@pytest.mark.soak
def test_the_same_for_long(jinshi: Jinshi) -> None:
    loop(jinshi, int(os.environ.get("KILLS", "200")))
