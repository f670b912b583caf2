"""kill -9 of a capture and of a restore of a tree at any moment: the next goes on, and nothing is recorded twice."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ledger.capture.files.record import RECORDED
from ledger.core.entry import decode_entry
from ledger.store.sqlite import SqliteEntryStore
from tests.bench.files import measured
from tests.support.changing import Changing
from tests.support.cli import ROOT
from tests.support.content import noise
from tests.support.files import looks

KILLS = 3
START_S = 0.8
"""About how long a process takes before it does anything."""


def life(step: str, directory: Path, tree: Path, kill_after_s: float | None) -> dict[str, object] | None:
    """One process; None: it was killed before its end."""
    command = [sys.executable, "-m", "tests.support.files_worker", step, str(directory), str(tree)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        if kill_after_s is not None:
            time.sleep(kill_after_s)
            process.send_signal(signal.SIGKILL)
        said, wrong = process.communicate(timeout=120)
    if process.returncode == -signal.SIGKILL:
        return None
    assert process.returncode == 0, wrong
    found: dict[str, object] = json.loads(said)
    return found


def fill(tree: Path, seed: int) -> None:
    Changing(str(tree), seed).some(150)
    for number in range(800):
        path = tree / f"many-{number // 200}" / f"{number}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(noise(seed + number, 4_000))


@pytest.mark.slow
async def test_killed_captures_and_restores_are_carried_on(tmp_path: Path) -> None:
    await killed_again_and_again(tmp_path, 1, KILLS)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(10))
async def test_killed_captures_and_restores_are_carried_on_for_long(tmp_path: Path, seed: int) -> None:
    await killed_again_and_again(tmp_path, seed, 40)


async def killed_again_and_again(tmp_path: Path, seed: int, kills: int) -> None:
    print(f"seed={seed}")
    chance = random.Random(seed)
    tree, directory, back = tmp_path / "tree", tmp_path / "ledger", tmp_path / "back"
    tree.mkdir()
    directory.mkdir()
    fill(tree, seed)
    for _ in range(kills):
        life("capture", directory, tree, START_S + chance.random() * 1.5)
    captured = life("capture", directory, tree, None)
    assert captured is not None
    assert captured["problems"] == []
    await recorded_once(directory / "ledger.sqlite")
    for _ in range(kills):
        life("restore", directory, back, START_S + chance.random() * 2.0)
        if back.exists():  # at its end, or killed after its commit point
            assert looks(back) == looks(tree), "what is in place is whole"
            break
    else:
        assert life("restore", directory, back, None) is not None
    assert looks(back) == looks(tree)
    Changing(str(back), seed + 1).some(100)
    for _ in range(kills // 2):
        life("replace", directory, back, START_S + chance.random() * 2.0)
    assert life("replace", directory, back, None) is not None
    assert looks(back) == looks(tree)


async def recorded_once(path: Path) -> None:
    """No path has two entries: nothing changed between the lives."""
    store = await SqliteEntryStore.open(path)
    try:
        entries = [decode_entry(stored.entry).event for stored in await store.read(0, 10_000)]
        subjects = [event.subject for event in entries if event.type in RECORDED]
        assert len(subjects) == len(set(subjects)) > 800
    finally:
        await store.close()


@pytest.mark.soak
def test_a_directory_of_a_hundred_thousand_files_takes_bounded_memory(tmp_path: Path) -> None:
    tree, directory = tmp_path / "tree", tmp_path / "ledger"
    tree.mkdir()
    directory.mkdir()
    for number in range(100_000):
        (tree / f"{number}").write_bytes(b"%d" % number)
    for step, place in (("capture", tree), ("restore", tmp_path / "back")):
        assert peak_of(step, directory, place) < 400
    assert looks(tmp_path / "back") == looks(tree)


def peak_of(step: str, directory: Path, tree: Path) -> float:
    """Peak MiB of a process."""
    return measured(sys.executable, "-m", "tests.support.files_worker", step, directory, tree).memory
