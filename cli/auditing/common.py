"""What every audit has in common: what was asked for, the checks so far, the clock, and the processes of the replay."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cli.config import Environment
from cli.files import os_errors
from cli.system import SystemClock
from cli.wiring.places import open_place
from cli.wiring.sealing import Passphrase
from ledger.auditor import AuditReport, Check, ReplaySettings, replay
from ledger.auditor.report import failed, not_run
from ledger.auditor.scan import RANGE_ENTRIES
from ledger.core.checkpoint import CHECKPOINT, Checkpoint, origin_prefix
from ledger.core.event import format_moment
from ledger.errors import Tampered
from ledger.keyring import RecoveryKey
from ledger.store.base import ObjectStore, Prefixed
from ledger.store.versions import Alarms
from ledger.tasks import Report


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked of an audit.

    What is sealed is opened with the recovery key, else with the ledger's own key-encryption key, which takes
    `passphrase`; it stays closed where both are None. `processes` None: as many as are worth it. `alarms` takes
    what was put over genuine objects of the copy.
    """

    processes: int | None = None
    scratch: Path | None = None
    passphrase: Passphrase | None = field(default=None, repr=False)
    recovery: RecoveryKey | None = None
    registers: bool = False
    report: Report | None = None
    alarms: Alarms = field(default_factory=Alarms)

    @property
    def opens(self) -> bool:
        """Whether what is sealed is to be opened."""
        return self.passphrase is not None or self.recovery is not None


@dataclass(frozen=True, slots=True)
class Opening:
    """Opens the copy of `origin` at a place, in whichever process it is called.

    It goes to the other processes through a pipe of theirs: credentials stand in no argument, no file and no repr.
    """

    url: str
    origin: str
    environment: Environment = field(repr=False)

    @classmethod
    def of(cls, url: str, origin: str, environment: Environment) -> Opening:
        """With what opens an object store, and nothing else that the process was started with."""
        needed = Environment(
            ledger=None,
            access_key=environment.access_key,
            secret_key=environment.secret_key,
            session_token=environment.session_token,
            endpoint=environment.endpoint,
            region=environment.region,
        )
        return cls(url, origin, needed)

    def __call__(self) -> ObjectStore:
        return Prefixed(open_place(self.url, self.environment), origin_prefix(self.origin))


class Audit:
    """An audit under way: its checks, and the clock."""

    def __init__(self, what: str, wanted: Wanted, *, site: str | None = None) -> None:
        self.wanted = wanted
        self._what = what
        self._site = site
        self._started = SystemClock().now()
        self._began_s = time.monotonic()
        self._processes = 1
        self._checks: list[Check] = []
        self.acts: tuple[tuple[int, bytes], ...] = ()
        self.root = b""

    def add(self, *checks: Check) -> None:
        """More checks."""
        self._checks += checks

    @property
    def failed(self) -> bool:
        """Whether a check has failed so far."""
        return any(check.failures for check in self._checks)

    async def replay(self, objects: ObjectStore, checkpoint: Checkpoint, opening: Opening) -> None:
        """Replay a copy; leaves the recomputed root in `root`, and the ledger's own acts in `acts`."""
        ranges = -(-checkpoint.size // RANGE_ENTRIES)
        worth = min(os.cpu_count() or 1, ranges // 2)
        self._processes = max(1, worth if self.wanted.processes is None else min(self.wanted.processes, ranges + 1))
        async with scratch_folder(self.wanted) as folder:
            settings = ReplaySettings(folder, self._processes, opening)
            done = await replay(objects, checkpoint, settings, report=self.wanted.report)
        self.add(*done.checks)
        self.acts, self.root = done.acts, done.root

    def refused(self, origin: str, error: Tampered) -> AuditReport:
        """The report when nothing can be held against a trusted checkpoint."""
        self.add(
            failed("checkpoint", "signed by the log, and cosigned as the trust policy demands", error, CHECKPOINT),
            not_run("everything else", "there is no checkpoint to trust, so nothing to hold the entries against"),
        )
        return self.done(Checkpoint(origin, 0, b""))

    def done(self, checkpoint: Checkpoint) -> AuditReport:
        """The report."""
        return AuditReport(
            what=self._what,
            origin=checkpoint.origin,
            site=self._site,
            size=checkpoint.size,
            root=self.root.hex(),
            started=format_moment(self._started),
            took_ms=round((time.monotonic() - self._began_s) * 1_000),
            processes=self._processes,
            checks=tuple(self._checks),
        )


@asynccontextmanager
async def scratch_folder(wanted: Wanted) -> AsyncIterator[Path]:
    """A directory of its own that is gone afterwards. Raises DiskFull, StoreUnavailable."""
    with os_errors(wanted.scratch), tempfile.TemporaryDirectory(prefix="jinshi-audit-", dir=wanted.scratch) as folder:
        yield Path(folder)
