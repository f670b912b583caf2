"""Taking in a lost primary that turned up: its surplus entries as a file of evidence, and the event that says so."""

from __future__ import annotations

from pathlib import Path

from cli.config import Environment
from cli.files import os_errors, writing
from cli.wiring.ledgers import open_for_writing, open_ledger
from ledger.errors import InvalidRequest
from restore.predecessor import Leftover, beyond, found_event, last_succession, leftover


async def record_predecessor(
    root: Path, found: Path, environment: Environment, passphrase: str
) -> tuple[Leftover, Path, int]:
    """Keep what the ledger in `found` had beyond the one in `root`; returns it, the evidence file, and the entry.

    Raises:
        InvalidRequest: `root` succeeded no other ledger, or `found` is not the one it succeeded.
        Forked, Conflict: `found` is no longer what was restored.
    """
    async with open_for_writing(root, environment, passphrase) as writable:
        ledger = writable.ledger
        succession = await last_succession(ledger.reader)
        async with open_ledger(found, environment) as old:
            if old.origin != succession.predecessor:
                raise InvalidRequest(
                    f"{found} is the ledger {old.origin}; {succession.predecessor} was succeeded",
                    hint="name the directory of the lost primary",
                )
            left = await leftover(old.store, ledger.store, succession)
            with os_errors(ledger.paths.evidence):
                ledger.paths.evidence.mkdir(mode=0o700, exist_ok=True)
            file = ledger.paths.evidence / f"predecessor-{left.start}-{left.size}-{left.sha256[:16]}.jsonl"
            with writing(file) as evidence:
                async for stored in beyond(old.store, succession.size):
                    evidence.write(stored.entry + b"\n")
        event = found_event(succession, left, file.name)
        places = await writable.sequencer.append([event], actor=environment.actor)
        await writable.publish()
    return left, file, places[0].index
