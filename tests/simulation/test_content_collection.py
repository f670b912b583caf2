"""Captures, collections, writers that are replaced and go on all the same, step by step in any order, from a seed.

After every single step every retained entry has all its packs. A run that finds otherwise prints its seed. And each
rule of docs/adr/0017 is left out once, to see that the simulation finds what it is there for.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

import pytest

from ledger.content import ChunkIndex, Collector, Lease, Leases, synchronise
from ledger.core.manifest import pack_key
from ledger.core.packs import PACK_HEADER, Blob, PackTable, encode_trailer
from ledger.errors import Fenced, JinshiError
from ledger.store.base import Stored, Tag
from ledger.store.memory import MemoryObjectStore
from tests.support.content import KEYS

CHUNKS = [hashlib.sha256(bytes([number])).digest() for number in range(5)]
STEPS = 220
TICKS = 8
RULES = ("excluded", "waiting", "barrier")


class Lost(AssertionError):
    """A retained entry refers to a pack that is gone."""


class Gates:
    """Where every step waits until it is chosen."""

    def __init__(self) -> None:
        self.waiting: list[asyncio.Future[None]] = []

    async def pass_(self) -> None:
        gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.append(gate)
        await gate

    async def step(self, chance: random.Random) -> None:
        for _ in range(TICKS):
            await asyncio.sleep(0)
        self.waiting = [gate for gate in self.waiting if not gate.done()]
        if self.waiting:
            self.waiting.pop(chance.randrange(len(self.waiting))).set_result(None)
        for _ in range(TICKS):
            await asyncio.sleep(0)


class Gated(MemoryObjectStore):
    """A store in which anything can happen between two operations."""

    def __init__(self, gates: Gates) -> None:
        super().__init__()
        self._gates = gates

    def holds(self, key: str) -> bool:
        return key in self._objects

    async def get(self, key: str) -> Stored:
        await self._gates.pass_()
        return await super().get(key)

    async def put_immutable(self, key: str, data: bytes) -> None:
        await self._gates.pass_()
        await super().put_immutable(key, data)

    async def replace(self, key: str, data: bytes, *, expected: Tag | None) -> Tag:
        await self._gates.pass_()
        return await super().replace(key, data, expected=expected)

    async def purge(self, key: str) -> None:
        await self._gates.pass_()
        await super().purge(key)


@dataclass
class Log:
    """Entries as the packs they refer to; which of them are retained; and the epoch that may append."""

    gates: Gates
    entries: list[frozenset[bytes]] = field(default_factory=list)
    retained: set[int] = field(default_factory=set)
    epoch: int = 0

    async def references(self) -> set[bytes]:
        size = len(self.entries)
        await self.gates.pass_()
        return {pack for index in range(size) if index in self.retained for pack in self.entries[index]}


class Process:
    """A writer: its leases, index and sequencer. Once there is a newer one it is fenced, and does not know yet."""

    def __init__(self, log: Log, objects: Gated, broken: str) -> None:
        log.epoch += 1
        self._epoch = log.epoch
        self._log = log
        self._objects = objects
        self._broken = broken
        self._order = asyncio.Lock()
        self.index = ChunkIndex()
        self.leases = Leases(objects)

    async def append(self, packs: frozenset[bytes] | None) -> None:
        """Commits in the order of the calls, and goes on when the caller is cancelled."""
        committing = asyncio.ensure_future(self._commit(packs))
        committing.add_done_callback(lambda done: done.cancelled() or done.exception())  # the caller may be gone
        await asyncio.shield(committing)

    async def _commit(self, packs: frozenset[bytes] | None) -> None:
        async with self._order:
            await self._log.gates.pass_()
            if self._epoch != self._log.epoch:
                raise Fenced("another writer")
            if packs is not None:
                self._log.retained.add(len(self._log.entries))
                self._log.entries.append(packs)

    async def capture(self, chance: random.Random) -> None:
        lease = await self.leases.begin()
        try:
            await synchronise(self.index, self._objects, KEYS)
            packs = {await self._place(chunk, lease, chance.randbytes(12)) for chunk in chance.sample(CHUNKS, 2)}
            lease.check()
            await self.append(frozenset(packs))
        finally:
            self.leases.end(lease)

    async def _place(self, chunk: bytes, lease: Lease, nonce: bytes) -> bytes:
        found = self.index.find(chunk, excluded=() if self._broken == "excluded" else lease.excluded)
        await self._log.gates.pass_()
        if found is not None:
            return found.pack
        blob = Blob(chunk, len(PACK_HEADER), 100, 100)
        data = PACK_HEADER + bytes(100) + encode_trailer(KEYS, nonce, [blob])
        name = hashlib.sha256(data).digest()
        await self._objects.put_immutable(pack_key(name), data)
        await self._log.gates.pass_()
        self.index.add([PackTable(name, (blob,))])
        return name

    async def collect(self) -> None:
        leases: Leases = Unwaited(self._objects) if self._broken == "waiting" else self.leases
        barrier: Callable[[], Awaitable[None]] = _nothing if self._broken == "barrier" else self._barrier
        collector = Collector(self._objects, leases, self.index, references=self._log.references, barrier=barrier)
        while True:
            await collector.run()
            await self._log.gates.pass_()

    async def _barrier(self) -> None:
        await self.append(None)


class Unwaited(Leases):
    """Waits for nobody."""

    async def wait_for_older(self, collection: int) -> None:
        return None


async def _nothing() -> None:
    return None


async def _quietly(job: Awaitable[None]) -> None:
    with suppress(JinshiError):
        await job


async def _simulate(seed: int, broken: str = "") -> int:
    """How many packs were removed. Raises Lost."""
    chance = random.Random(seed)
    gates = Gates()
    objects, log = Gated(gates), Log(gates)
    tasks: list[asyncio.Task[None]] = []
    process = Process(log, objects, broken)
    tasks.append(asyncio.ensure_future(_quietly(process.collect())))
    written: set[str] = set()
    for _ in range(STEPS):
        dice = chance.random()
        if dice < 0.10 and len(gates.waiting) < 12:
            tasks.append(asyncio.ensure_future(_quietly(process.capture(chance))))
        elif dice < 0.14 and len(tasks) > 1:
            chance.choice(tasks[1:]).cancel()
        elif dice < 0.20 and log.retained:
            log.retained.discard(chance.choice(sorted(log.retained)))
        elif dice < 0.22:
            process = Process(log, objects, broken)
            tasks.append(asyncio.ensure_future(_quietly(process.collect())))
        await gates.step(chance)
        written.update(key for key in objects._objects if key.startswith("content/packs/"))
        for index in log.retained:
            missing = [pack for pack in log.entries[index] if not objects.holds(pack_key(pack))]
            if missing:
                raise Lost(f"seed={seed}: entry {index} refers to {missing[0].hex()}, which was collected")
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return sum(not objects.holds(key) for key in written)


@pytest.fixture(autouse=True)
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads would make the order of steps another one each time."""

    async def call(function, *args):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN002, ANN202
        return function(*args)

    monkeypatch.setattr(asyncio, "to_thread", call)


@pytest.mark.parametrize("block", range(4))
async def test_no_order_of_steps_lets_a_collection_take_what_an_entry_refers_to(block: int) -> None:
    removed = 0
    for seed in range(block * 25, block * 25 + 25):
        removed += await _simulate(seed)
    assert removed > 25


@pytest.mark.parametrize("rule", RULES)
async def test_the_simulation_finds_the_race_when_a_rule_is_left_out(rule: str) -> None:
    with pytest.raises(Lost):  # noqa: PT012
        for seed in range(400):
            await _simulate(seed, rule)
