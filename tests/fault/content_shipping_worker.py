"""Captures, ships and has cosigned, again and again, until it is killed: see test_content_shipping_killed.py.

python -m tests.fault.content_shipping_worker LEDGER ROUNDS

The content number n is what `content_of(n)` says; what is recorded already is captured again, as after a crash. Every
other round ships it while it is captured. `ready` on stdout once everything is imported; each round that has ended is a
line.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from cli.main import main
from cli.serving.handover import open_to_record
from cli.sites.acknowledging import Ack, Writing
from ledger.core.acknowledgement import parse_ack
from tests.support.captured import capture_into, captured, environment
from tests.support.cli import PASSPHRASE
from tests.support.content import noise

OVERLAP = 120_000
ACK_TIMEOUT_S = 60.0


def content_of(number: int) -> bytes:
    """Half of each is in the one before, so that packs are found again."""
    return noise(number, OVERLAP) + noise(number + 1, OVERLAP)


async def capture_ahead(ledger: Path, number: int) -> None:
    """Capture a content whose packs are on their way to the sites before it ends, and wait for all of them."""
    async with open_to_record(ledger, environment(), PASSPHRASE) as recorder:
        assert isinstance(recorder, Writing)
        async with recorder.shipping_ahead():
            await capture_into(recorder, [content_of(number)], first=number)
            index = (await recorder.ledger.store.head()).size - 1
            await recorder.acknowledge(index, (), Ack(parse_ack("all"), ACK_TIMEOUT_S))


def run(ledger: Path, rounds: int) -> None:
    print("ready", flush=True)
    for number in range(rounds):
        if number % 2:
            asyncio.run(capture_ahead(ledger, number))
        else:
            captured(ledger, content_of(number), first=number)
            assert main(["--ledger", str(ledger), "replicate", "--once"]) == 0
        print(number, flush=True)


if __name__ == "__main__":
    run(Path(sys.argv[1]), int(sys.argv[2]))
