"""`jinshi ca create` and `rollover`, killed: no certificate without its entries, and run again it ends well."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.cli import Jinshi

KILLS, KILLS_SOAK = 3, 100
SPAN_S = (0.4, 1.6)
"""From before a command has opened the ledger to after it has ended, on a machine of this kind."""


@pytest.mark.slow
def test_a_killed_creation_leaves_nothing_that_is_not_recorded(tmp_path: Path) -> None:
    killed_and_checked(tmp_path, KILLS)


@pytest.mark.soak
def test_a_killed_creation_leaves_nothing_that_is_not_recorded_soak(tmp_path: Path) -> None:
    killed_and_checked(tmp_path, KILLS_SOAK)


def killed_and_checked(tmp_path: Path, kills: int) -> None:
    seed = int(os.environ.get("SEED", random.randrange(2**32)))
    print(f"seed={seed}")
    chance = random.Random(seed)
    jinshi = Jinshi(tmp_path, tmp_path / "ledger")
    jinshi("init", tmp_path / "ledger")
    jinshi("ca", "create", "root", "--subject", "CN=Root", "--days", 900, "--path-length", 1)
    for number in range(kills):
        name = f"city-{number}"
        create = ("ca", "create", name, "--parent", "root", "--subject", f"CN={name}", "--path-length", 0)
        killed(jinshi, chance.uniform(*SPAN_S), *create)
        ran = jinshi(*create, code=(0, 1))
        assert ran.code == 0 or "already" in ran.stderr
        killed(jinshi, chance.uniform(*SPAN_S), "ca", "rollover", name)
    listed = jinshi("ca", "list", "--json").json_lines
    assert [one["name"] for one in listed] == ["root", *(f"city-{number}" for number in range(kills))]
    serials = set()
    for number in range(kills):
        jinshi("ca", "rollover", f"city-{number}")
        for key in jinshi("ca", "show", f"city-{number}", "--json").json["keys"]:
            assert key["serial"] not in serials
            serials.add(key["serial"])
            assert key["serial"] in jinshi("cert", "show", key["serial"]).out, "every certificate is recorded"
    recorded = {one["reference"] for one in jinshi("ca", "keys", "list", "--json").json_lines}
    shown = {one["key"] for one in jinshi("ca", "list", "--json").json_lines}
    assert shown <= recorded
    jinshi("verify")


def killed(jinshi: Jinshi, after_s: float, *arguments: str | int) -> None:
    process = jinshi.start(*arguments, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(after_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
