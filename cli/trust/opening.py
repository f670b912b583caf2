"""The trust service of a ledger, opened for a command: its journal, its index, and who is asking."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cli.config import Environment, LedgerPaths, LedgerSettings
from cli.serving.handover import AcknowledgingRecorder, open_to_record
from cli.sites.acknowledging import Ack
from cli.system import SystemClock
from ledger.core.acknowledgement import AckPolicy, Kind
from pki.access.base import Caller
from pki.journal import SOURCE, Journal
from pki.views.catalogue import TrustIndex

ACK_TIMEOUT_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Trust:
    """What the service's parts are made of. `caller`: whoever runs the command."""

    paths: LedgerPaths
    journal: Journal
    index: TrustIndex
    caller: Caller


def quorum(settings: LedgerSettings) -> AckPolicy | None:
    """What acknowledges the trust service's entries: more than half of all copies, the primary's among them.

    None without a site: then it is the commit alone. A site that no line leads to does not count.
    """
    count = sum(not site.offline for site in settings.sites)
    return AckPolicy(Kind.ANY, needed_of(count)) if count else None


def needed_of(count: int) -> int:
    """How many of so many sites have to acknowledge an act."""
    return (count + 1) // 2


@asynccontextmanager
async def open_trust(root: Path, environment: Environment, passphrase: str) -> AsyncIterator[Trust]:
    """The trust service, for one command; while `jinshi serve` writes the ledger, through it.

    Raises:
        LockHeld: another process is writing the ledger that takes nothing.
        InvalidRequest: it is no ledger, or the passphrase is wrong.
    """
    async with open_to_record(root, environment, passphrase) as recorder:
        ledger = recorder.ledger
        journal = Journal(
            recorder.sequencer, ledger.reader, recorder.sealer.opener(), SystemClock(), acknowledging(recorder)
        )
        with closing(TrustIndex(journal, ledger.paths.trust_index)) as index:
            await index.catch_up()
            yield Trust(ledger.paths, journal, index, Caller(environment.actor))
        await recorder.publish()


def acknowledging(recorder: AcknowledgingRecorder) -> Callable[[int], Awaitable[None]]:
    """How long an act is waited for: until a quorum of the copies has it."""
    ack = Ack(quorum(recorder.ledger.settings), ACK_TIMEOUT_S)

    async def acknowledge(index: int) -> None:
        await recorder.acknowledge(index, [SOURCE], ack)

    return acknowledge
