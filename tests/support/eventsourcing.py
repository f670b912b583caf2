"""Ledgers for `eventsourcing` applications in tests, and frozen names for the classes of the library's own suites."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from eventsourcing.domain import Aggregate
from eventsourcing.persistence import IntegrityError, StoredEvent, Tracking
from eventsourcing.tests.domain import BankAccount
from eventsourcing.tests.projection import (  # noqa: E402
    AggregateEventCountersProjection,
    Counter,
    EventCountersView,
    SpannerThrown,
)
from eventsourcing.utils import Environment

from ledger.core.entry import Entry, decode_entry
from ledger.keyring.data import DataKeys, data_keyids
from ledger.keyring.erasures import approved, requested, subject_key_prefix
from ledger.persistence import LedgerProcessRecorder, event_name
from ledger.persistence.runtime import SystemClock
from ledger.sealing import Sealer
from ledger.sequencer import Sequencer
from ledger.store.base import EntryStore, ObjectStore
from ledger.store.postgres import PostgresEntryStore, PostgresPlace
from ledger.store.sqlite import SqliteEntryStore
from tests.support.ledgers import LogSigner, log_signer
from tests.support.postgres import PostgresServer
from tests.support.sealing import RECOVERY, MemoryKek

__all__ = ["AggregateEventCountersProjection"]

T = TypeVar("T")

ORIGIN = "ledger.test/applications"
MODULE = "ledger.persistence"

for name, event_class in {
    "suite.created.v1": Aggregate.Created,
    "suite.event.v1": Aggregate.Event,
    "suite.spanner-thrown.v1": SpannerThrown,
    "counter.created.v1": Counter.Created,
    "counter.incremented.v1": Counter.Incremented,
    "account.opened.v1": BankAccount.Opened,
    "account.transaction-appended.v1": BankAccount.TransactionAppended,
}.items():
    event_name(name)(event_class)


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """A real PostgreSQL; not below pytest's own directories, which another user, as whom it runs, cannot enter."""
    directory = Path(tempfile.mkdtemp(prefix="jinshi-postgres-"))
    directory.chmod(0o755)
    server = PostgresServer.create(directory / "server")
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(directory)


def make_ledger(root: Path, place: PostgresPlace | None = None) -> Path:
    """An empty ledger, without the acts that `jinshi init` records: its first entry is an application's first event."""
    root.mkdir()
    settings = {"format": 1, "origin": ORIGIN, "vkey": log_signer(ORIGIN).vkey}
    if place is not None:
        settings["store"] = url_of(place)
    (root / "jinshi.json").write_text(json.dumps(settings))
    asyncio.run(_create(root, place))
    return root


def url_of(place: PostgresPlace) -> str:
    """The place as `jinshi.json` names it."""
    return f"postgresql://{quote(place.user)}@{place.host}:{place.port}/{place.database}?schema={place.schema}"


async def _create(root: Path, place: PostgresPlace | None) -> None:
    await (await open_store(root, place, create=True)).close()


async def open_store(root: Path, place: PostgresPlace | None = None, *, create: bool = False) -> EntryStore:
    """The store of a ledger made here, to look into it from outside."""
    if place is not None:
        return await PostgresEntryStore.open(place, create=create)
    return await SqliteEntryStore.open(root / "ledger.sqlite", create=create)


async def erase(
    sequencer: Sequencer, sealer: Sealer, objects: ObjectStore, source: str, *subjects: str, origin: str = ORIGIN
) -> None:
    """Erase subjects of a personal source: one person asks, another approves, and it counts at once."""
    for subject in subjects:
        hidden = await sealer.pseudonym(source, "subject", subject)
        assert hidden is not None, "nothing was ever recorded there"
        keyids = [keyid async for keyid in data_keyids(objects, subject_key_prefix(hidden))]
        asking = requested(origin, source, hidden, "request 2026-17", at=len(sealer.erasures.requests))
        (asked,) = await sequencer.append([asking], actor="local:one")
        approving = approved(origin, sealer.erasures.requests[asked.index], keyids)
        await sequencer.append([approving], actor="local:two")
        assert set(keyids) <= sealer.erasures.erased


def with_store(root: Path, act: Callable[[EntryStore], Coroutine[Any, Any, T]]) -> T:
    """Do something with the SQLite store of a ledger from outside."""

    async def run() -> T:
        store = await open_store(root)
        try:
            return await act(store)
        finally:
            await store.close()

    return asyncio.run(run())


def entries_of(root: Path) -> list[Entry]:
    """Every entry of a ledger, read from outside, also while an application has it open."""

    async def read(store: EntryStore) -> list[Entry]:
        return [decode_entry(stored.entry) for stored in await store.read(0, 100_000)]

    return with_store(root, read)


def environment(root: Path, name: str = "", **more: str) -> Environment:
    """The Environment of an application."""
    basic = {"PERSISTENCE_MODULE": MODULE, "JINSHI_LEDGER": str(root), "JINSHI_CUSTODY": f"{__name__}:custody"}
    return Environment(name, {**basic, **more})


@dataclass(frozen=True)
class CustodyInMemory:
    """Data keys under a key-encryption key without a passphrase, and no signer."""

    kek: MemoryKek = field(default_factory=MemoryKek)

    def signer(self) -> None:
        return None

    def data_keys(self, objects: ObjectStore) -> DataKeys:
        return DataKeys(objects, self.kek, recovery_public=RECOVERY.public, clock=SystemClock())


def custody(_root: Path, _env: Mapping[str, str]) -> CustodyInMemory:
    """What JINSHI_CUSTODY names in tests."""
    return CustodyInMemory()


def signer(_root: Path, _env: Environment) -> LogSigner:
    """What JINSHI_SIGNER names in tests."""
    return log_signer(ORIGIN)


class EventCounters(LedgerProcessRecorder, EventCountersView):
    """The suites' example of a view, kept in the ledger: every count is an event, recorded with its tracking."""

    def get_created_event_counter(self) -> int:
        return self._count("created")

    def get_subsequent_event_counter(self) -> int:
        return self._count("subsequent")

    def incr_created_event_counter(self, tracking: Tracking) -> None:
        self._increment("created", tracking)

    def incr_subsequent_event_counter(self, tracking: Tracking) -> None:
        self._increment("subsequent", tracking)

    def _count(self, which: str) -> int:
        last = self.select_events(which, desc=True, limit=1)
        return last[0].originator_version if last else 0

    def _increment(self, which: str, tracking: Tracking) -> None:
        if self.has_tracking_id(tracking.application_name, tracking.notification_id):
            raise IntegrityError(f"{tracking} is recorded already")
        counted = StoredEvent(which, self._count(which) + 1, "event.counted.v1", b"{}")
        self.insert_events([counted], tracking=tracking)
