"""Captures, ships and has cosigned, again and again, until it is killed: see test_content_shipping_killed.py.

python -m tests.fault.content_shipping_worker LEDGER ROUNDS

The content number n is what `content_of(n)` says; what is recorded already is captured again, as after a crash. `ready`
on stdout once everything is imported; each round that has ended is a line.
"""

from __future__ import annotations

import sys
from pathlib import Path

from cli.main import main
from tests.support.captured import captured
from tests.support.content import noise

OVERLAP = 120_000


def content_of(number: int) -> bytes:
    """Half of each is in the one before, so that packs are found again."""
    return noise(number, OVERLAP) + noise(number + 1, OVERLAP)


def run(ledger: Path, rounds: int) -> None:
    print("ready", flush=True)
    for number in range(rounds):
        captured(ledger, content_of(number), first=number)
        assert main(["--ledger", str(ledger), "replicate", "--once"]) == 0
        print(number, flush=True)


if __name__ == "__main__":
    run(Path(sys.argv[1]), int(sys.argv[2]))
