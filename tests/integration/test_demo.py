"""`make demo`, as a newcomer runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cli import DIVISIONS, EDITIONS, ROOT

DEMO = ROOT / "docs" / "demo" / "demo.py"


def run_demo(directory: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, DEMO, directory],
        env={**os.environ, "JINSHI_KEY_WORK_FACTOR": "10", **environment},
        capture_output=True,
        encoding="utf-8",
        timeout=600,
        check=False,
    )


@pytest.mark.slow
def test_the_demo_does_the_main_job_and_leaves_everything_to_look_at(tmp_path: Path) -> None:
    directory = tmp_path / "演示"
    done = run_demo(directory)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("Demo passed"), done.stdout
    assert done.stdout.count("retired; sealed by entry") == len(EDITIONS) == 8
    for shown in (
        "name: 桥东区 -> 襄都区",
        "cosigned by",
        "passed  identical",
        "every one verified",
        "is damaged",
        "as it was before the upgrade",
    ):
        assert shown in done.stdout
    published = DIVISIONS / EDITIONS[0] / "areas.csv"
    assert (directory / "exported.csv").read_bytes() == published.read_bytes()
    assert not (directory / "ledger").exists()
    assert (directory / "restored" / "jinshi.json").is_file()


def test_the_demo_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    done = run_demo(tmp_path)
    assert done.returncode == 2
    assert "is there already" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.slow
def test_a_step_that_does_not_do_what_it_should_makes_the_demo_fail(tmp_path: Path) -> None:
    done = run_demo(tmp_path / "demo", JINSHI_KEY_WORK_FACTOR="99")
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "DEMO FAILED: jinshi init ended with 2, not 0"
