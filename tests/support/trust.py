"""The trust service's journal over a ledger in memory, with a clock that the test sets, and keys that it holds."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ledger.errors import InvalidRequest, NotPermitted
from ledger.keyring.erasures import Erasures
from ledger.reader import Reader
from ledger.sealing import Opener
from ledger.sequencer import Sequencer
from ledger.sources import Sources
from ledger.store.base import EntryStore
from ledger.store.memory import MemoryEntryStore, MemoryObjectStore
from pki.access.base import Caller, Permit, Resource
from pki.core.algorithms import Algorithm, IssuerKey, algorithm_of, generate
from pki.journal import Journal
from pki.keystore.base import KeyMissing
from pki.views.catalogue import TrustIndex

OFFICER = Caller("local:officer")


@dataclass
class SetClock:
    """A clock the test sets."""

    time: datetime = datetime(2026, 12, 1, 8, 0, tzinfo=UTC)

    def now(self) -> datetime:
        return self.time

    def pass_s(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


@dataclass(frozen=True)
class HeldKey:
    """A key in the test's own memory (`SigningKey`)."""

    private: IssuerKey
    local: bool = True

    @property
    def algorithm(self) -> Algorithm:
        return algorithm_of(self.private.public_key())

    @property
    def public(self) -> bytes:
        return self.private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@dataclass
class HeldKeys:
    """A `KeyStore` in memory; a reference in `gone` is of a keeper that is away."""

    keys: dict[str, HeldKey] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)

    async def generate(self, label: str, algorithm: Algorithm) -> str:
        reference = f"held:{label}"
        if reference in self.keys:
            raise InvalidRequest(f"there is a key {label!r} already")
        self.keys[reference] = HeldKey(generate(algorithm))
        return reference

    async def open(self, reference: str) -> HeldKey:
        if reference not in self.keys:
            raise KeyMissing(f"there is no key {reference}")
        return self.keys[reference]

    async def close(self) -> None:
        pass


@dataclass(frozen=True)
class Permissive:
    """An `Access` that allows all but some actions; what the service asks of it is what the tests look at."""

    forbidden: Collection[str] = ()

    async def permit(self, caller: Caller, action: str, resource: Resource) -> Permit:
        if action in self.forbidden:
            raise NotPermitted(f"{caller.actor} may not {action} {resource.kind} {resource.id}")
        return Permit(caller, action, "tester", ("test",))


@dataclass(frozen=True)
class TrustBench:
    """A trust service's journal and index to test with. `restarted` gives the same log to a new process."""

    store: EntryStore
    sequencer: Sequencer
    journal: Journal
    index: TrustIndex
    clock: SetClock
    keys: HeldKeys
    access: Permissive

    def permit(self, action: str = "test.act") -> Permit:
        """A permit for whatever a test does by itself."""
        return Permit(OFFICER, action, "tester", ("test",))


@asynccontextmanager
async def trust_bench(
    *, store: EntryStore | None = None, clock: SetClock | None = None, keys: HeldKeys | None = None
) -> AsyncIterator[TrustBench]:
    """A journal over `store` (a new one in memory by default), and its index in memory."""
    store, clock = store or MemoryEntryStore(), clock or SetClock()
    async with Sequencer(store, clock) as sequencer:
        reader = Reader(store, MemoryObjectStore(), committed=sequencer.committed)

        async def acknowledged(_index: int) -> None:
            return

        journal = Journal(sequencer, reader, Opener(None, Sources(), Erasures()), clock, acknowledged)
        index = TrustIndex(journal, None)
        await index.catch_up()
        try:
            yield TrustBench(store, sequencer, journal, index, clock, keys or HeldKeys(), Permissive())
        finally:
            index.close()
