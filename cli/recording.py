"""Recording what a command found in the ledger it was about, also beside a writer that is at work just then."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from cli.config import Environment
from cli.serving.handover import open_to_record
from ledger.core.event import Event
from ledger.errors import LockHeld

LOCK_WAIT_S = 60.0
LOCK_POLL_S = 0.5


async def record(root: Path, environment: Environment, passphrase: str, event: Event) -> int:
    """Append and publish an event; returns its index. `jinshi serve` takes it over; any other writer is waited for.

    Raises:
        LockHeld: it still was after `LOCK_WAIT_S`.
        InvalidRequest, Tampered, DiskFull, StoreUnavailable: it cannot be recorded.
    """
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            async with open_to_record(root, environment, passphrase) as recorder:
                places = await recorder.sequencer.append([event], actor=environment.actor)
                await recorder.publish()
                return places[0].index
        except LockHeld:
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(LOCK_POLL_S)
