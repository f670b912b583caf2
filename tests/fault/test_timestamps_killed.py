"""kill -9 at any moment of stamping: every answer that anybody has got is in the log, byte for byte; no serial twice.

SEED=n replays a loop (as far as a machine does the same twice); KILLS=n sets the length of the soak.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from base64 import b64decode
from pathlib import Path

import pytest

from pki.core.timestamp import granted, parse_timestamp
from pki.tsa import token_recorded
from tests.fault.issuance_worker import writing
from tests.fault.timestamp_worker import ANSWERS

REPOSITORY = Path(__file__).parents[2]
KILLS = 12


async def check(root: Path) -> int:
    """Hold every answer against the log; how many there are."""
    lines = (root / ANSWERS).read_bytes().split(b"\n")
    answers = [b64decode(line) for line in lines[:-1]]  # the last one may be cut off
    serials = set()
    async with writing(root, "") as bench:
        for answer in answers[-2_000:]:
            stamp = parse_timestamp(answer)
            assert stamp.serial not in serials
            serials.add(stamp.serial)
            token = await token_recorded(bench.journal, bench.index, stamp)
            assert token is not None, f"{stamp.serial.hex()} was answered and is not in the log"
            assert granted(token) == answer
    assert len({parse_timestamp(answer).serial for answer in answers}) == len(answers)
    return len(answers)


def kill_often(root: Path, seed: int, kills: int) -> None:
    print(f"seed={seed}")
    draw = random.Random(seed)
    with (root / "stderr").open("wb") as errors:
        server = subprocess.Popen(
            [sys.executable, "-m", "tests.fault.timestamp_worker", str(root)],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            bufsize=1,
        )
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        assert server.stdout.readline() == "ready\n", (root / "stderr").read_text()
        for _ in range(kills):
            server.stdin.write("go\n")
            said = server.stdout.readline()
            assert said.startswith("pid "), (root / "stderr").read_text()
            time.sleep(draw.uniform(0.0, 0.25))
            os.kill(int(said.split()[1]), signal.SIGKILL)
            assert server.stdout.readline() == f"end -{signal.SIGKILL}\n", (root / "stderr").read_text()
    finally:
        server.stdin.close()
        server.wait(60)
        server.stdout.close()
    answered = asyncio.run(check(root))
    print(f"{kills} kills, {answered} answers")
    assert answered > kills, "it was killed before it had done anything"


def test_every_answer_is_in_the_log_when_the_service_is_killed(tmp_path: Path) -> None:
    kill_often(tmp_path, int(os.environ.get("SEED", random.randrange(2**32))), KILLS)


@pytest.mark.soak
def test_every_answer_is_in_the_log_when_the_service_is_killed_very_often(tmp_path: Path) -> None:
    kill_often(tmp_path, int(os.environ.get("SEED", random.randrange(2**32))), int(os.environ.get("KILLS", "200")))
