"""kill -9 of the real `jinshi` command at random moments: the same command again finishes what was left undone.

SEED=n replays the moments, as far as a clock can.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

DIVISIONS = Path(__file__).parents[1] / "data" / "divisions"
EDITIONS = sorted(path.name for path in DIVISIONS.iterdir() if path.is_dir())
SOURCE = "urn:cn:divisions:areas"
RUN_S = 120
ATTEMPTS_MAX = 40

pytestmark = pytest.mark.slow


@dataclass(slots=True)
class Command:
    """The installed command over one ledger in a directory of its own."""

    home: Path
    draw: random.Random
    kills: int = 0
    _took_s: dict[str, float] = field(default_factory=dict)

    @property
    def ledger(self) -> Path:
        return self.home / "ledger"

    def __call__(self, *arguments: str, ledger: Path | None = None) -> str:
        """Run a command to its end; it must succeed."""
        start = time.monotonic()
        done = subprocess.run(
            self._line(arguments, ledger), env=self._environment(), capture_output=True, text=True, timeout=RUN_S
        )
        assert done.returncode == 0, f"{arguments}: {done.stderr}"
        self._took_s[arguments[0]] = time.monotonic() - start
        return done.stdout

    def killed(self, *arguments: str) -> bool:
        """Run a command and kill it at some moment; False: it had come to its end, well, before that."""
        # Half of the moments of a run are spent on starting Python: kill in the other half.
        moment_s = self._took_s.get(arguments[0], 1.5) * self.draw.uniform(0.3, 1.0)
        process = subprocess.Popen(
            self._line(arguments, None), env=self._environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            _, errors = process.communicate(timeout=moment_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            self.kills += process.returncode == -signal.SIGKILL
            return process.returncode == -signal.SIGKILL
        assert process.returncode == 0, f"{arguments}: {errors.decode()}"
        self._took_s[arguments[0]] = min(moment_s, self._took_s.get(arguments[0], moment_s))
        return False

    def import_(self, edition: str) -> tuple[str, ...]:
        file = DIVISIONS / edition / "areas.csv"
        return ("import", str(file), "--source", SOURCE, "--key", "code", "--edition", edition)

    def check_export(self, edition: str, *, ledger: Path | None = None) -> None:
        """The edition comes out as it went in, byte for byte."""
        out = self.home / f"out-{edition}-{time.monotonic_ns()}.csv"
        self("export", "--source", SOURCE, "--at", edition, "--output", str(out), ledger=ledger)
        assert out.read_bytes() == (DIVISIONS / edition / "areas.csv").read_bytes()

    def _line(self, arguments: tuple[str, ...], ledger: Path | None) -> list[str]:
        jinshi = Path(sys.executable).with_name("jinshi")
        return [str(jinshi), "--ledger", str(ledger or self.ledger), *arguments]

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "JINSHI_PASSPHRASE": "kill loop", "JINSHI_KEY_WORK_FACTOR": "10"}


@pytest.fixture
def jinshi(tmp_path: Path) -> Iterator[Command]:
    seed = int(os.environ.get("SEED", "20261124"))
    print(f"SEED={seed}")  # shown by pytest when the test fails
    command = Command(tmp_path, random.Random(seed))
    command("init", str(command.ledger))
    yield command
    print(f"{command.kills} kills")


def test_a_killed_import_is_finished_by_repeating_it(jinshi: Command) -> None:
    for number, edition in enumerate(EDITIONS[:4]):
        for _ in range(3 if number == 0 else 1):  # the first is the large one
            jinshi.killed(*jinshi.import_(edition))
        jinshi(*jinshi.import_(edition))
    for _ in range(ATTEMPTS_MAX):  # on a busy machine some have ended before they were killed
        if jinshi.kills >= 4:
            break
        jinshi.killed(*jinshi.import_(EDITIONS[3]))
    assert jinshi.kills >= 4, "hardly ever was it killed"
    jinshi("verify")
    for edition in EDITIONS[:4]:
        jinshi.check_export(edition)


def test_a_killed_replication_is_finished_by_repeating_it(jinshi: Command) -> None:
    for number in range(ATTEMPTS_MAX):
        if jinshi.kills >= 7:
            break
        if number < len(EDITIONS):
            jinshi(*jinshi.import_(EDITIONS[number]))  # something new to ship
        if jinshi.killed("replicate", "--once") and jinshi.draw.random() < 0.5:
            continue  # the next one finds two killed runs
        jinshi("replicate", "--once")
    assert jinshi.kills >= 7
    jinshi("replicate", "--once")
    for site in ("same-city", "remote"):
        jinshi("verify", "--site", site)
    jinshi("verify")


def test_a_killed_restore_is_finished_by_repeating_it(jinshi: Command) -> None:
    for edition in EDITIONS[:3]:
        jinshi(*jinshi.import_(edition))
    jinshi("replicate", "--once")
    site, policy = jinshi.home / "ledger-sites" / "remote", jinshi.ledger / "trust.policy"
    for number in range(ATTEMPTS_MAX):
        if jinshi.kills >= 7:
            break
        to = jinshi.home / f"restored-{number}"
        restore = ("restore", "ledger", "--from", str(site), "--policy", str(policy), "--to", str(to))
        jinshi.killed(*restore)
        if not to.exists():  # it is there whole, or not at all
            jinshi(*restore)
        jinshi("verify", ledger=to)
        assert not list(jinshi.home.glob(".restored-*")), "a staging directory is left"
    assert jinshi.kills >= 7
    recovery = jinshi.home / "ledger-keys" / "recovery.key"
    jinshi("keys", "recover", "--recovery-key", str(recovery), ledger=to)  # what was sealed opens again
    for edition in EDITIONS[:3]:
        jinshi.check_export(edition, ledger=to)
