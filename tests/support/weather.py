"""What befalls a simulated system: networks, stores and sites that fail, lie, fill up and slow down, from one seed.

Stores are memory that outlives a crash; a crash is throwing the objects away that use them.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

from ledger.errors import CompareFailed, DiskFull, ObjectMissing, StoreUnavailable
from ledger.store.base import ObjectStore, Stored, Tag, Version, VersionId
from ledger.store.faulty import FaultyEntryStore, FaultyObjectStore, Outcome
from ledger.store.memory import MemoryEntryStore
from pki.keystore.file import LogSigner, MirrorCosigner

T = TypeVar("T")

TRUNCATED, DROPPED = "truncated read", "write dropped in silence"
SWAPPED_AND_DENIED, NOT_SWAPPED, SWAPPED_ANYWAY = "swap done and denied", "swap claimed and not done", "two winners"
READS_AND_WRITES = (TRUNCATED, DROPPED)
LIES = (*READS_AND_WRITES, SWAPPED_AND_DENIED, NOT_SWAPPED, SWAPPED_ANYWAY)
"""What stores in buckets have been seen to do, and never should."""
CUT_OFF, FULL, SLOW, JUMPED = "cut off", "full", "slow link", "clock jump"
TROUBLES = (CUT_OFF, FULL, SLOW, JUMPED, "error before the effect", "error after the effect")
KILLED, INTERRUPTED, TAKEN_OVER = "writer killed", "task killed in the middle", "taken over while alive"


class Weather:
    """What goes wrong, and when: every decision is drawn from the seed. `calm` ends it."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.calm = False
        self.partitioned: set[str] = set()
        self.full: set[str] = set()
        self.slow: set[str] = set()
        self.failure_rate = self.draw.choice((0.0, 0.02, 0.08))
        self.lie_rates = {lie: self.draw.choice((0.0, 0.15 if lie in READS_AND_WRITES else 0.4)) for lie in LIES}
        self.met: Counter[str] = Counter()
        self.lies_of: defaultdict[str, Counter[str]] = defaultdict(Counter)

    def outcome(self, operation: str, key: str) -> Outcome:
        if self.calm or self.draw.random() >= self.failure_rate:
            return Outcome.PASS
        outcome = self.draw.choice((Outcome.FAIL_NOT_PERSISTED, Outcome.FAIL_PERSISTED))
        self.met[f"error {'before' if outcome is Outcome.FAIL_NOT_PERSISTED else 'after'} the effect"] += 1
        return outcome

    def lies(self, lie: str) -> bool:
        """Whether a site is to do that just now."""
        return not self.calm and self.draw.random() < self.lie_rates[lie]

    def lied(self, lie: str, site: str) -> None:
        """It has."""
        self.met[lie] += 1
        self.lies_of[site][lie] += 1

    async def pause(self, name: str = "") -> None:
        """Let others run: between any two operations of a store, anything may happen."""
        for _ in range(self.draw.randrange(40 if name in self.slow else 3)):
            await asyncio.sleep(0)


class Remote:
    """An object store behind a network: slow, and cut off at times, in the middle of everything.

    One with a `name` is a site's: it may be full, and may lie.
    """

    def __init__(self, inner: ObjectStore, weather: Weather, name: str = "") -> None:
        self._inner = FaultyObjectStore(inner, weather.outcome)
        self._weather = weather
        self._name = name

    @property
    def where(self) -> str:
        return self._inner.where

    async def _call(self, act: Callable[[], Awaitable[T]]) -> T:
        await self._weather.pause(self._name)
        self._check()
        result = await act()
        await self._weather.pause(self._name)
        self._check()  # it may be done, and the answer lost
        return result

    def _check(self) -> None:
        if self._name in self._weather.partitioned:
            self._weather.met[CUT_OFF] += 1
            raise StoreUnavailable(f"{self._name} cannot be reached")

    def _lies(self, lie: str) -> bool:
        return bool(self._name) and self._weather.lies(lie)

    def _check_room(self) -> None:
        if self._name in self._weather.full:
            self._weather.met[FULL] += 1
            raise DiskFull(f"{self._name} has no space left")

    async def get(self, key: str) -> Stored:
        stored = await self._call(lambda: self._inner.get(key))
        if stored.data and self._lies(TRUNCATED):
            self._weather.lied(TRUNCATED, self._name)
            return Stored(stored.data[: self._weather.draw.randrange(len(stored.data))], stored.tag)
        return stored

    async def put_immutable(self, key: str, data: bytes) -> None:
        self._check_room()
        if self._lies(DROPPED):
            self._weather.lied(DROPPED, self._name)
            return
        await self._call(lambda: self._inner.put_immutable(key, data))

    async def replace(self, key: str, data: bytes, *, expected: Tag | None) -> Tag:
        self._check_room()
        if self._lies(NOT_SWAPPED):
            self._weather.lied(NOT_SWAPPED, self._name)
            return Tag("never-there")
        if self._lies(SWAPPED_ANYWAY):
            for _ in range(self._weather.draw.choice((0, 30, 300))):  # so that there is somebody else to win
                await asyncio.sleep(0)
            with suppress(ObjectMissing):
                found = (await self._inner.get(key)).tag
                if found != expected:
                    self._weather.lied(SWAPPED_ANYWAY, self._name)
                    expected = found
        tag = await self._call(lambda: self._inner.replace(key, data, expected=expected))
        if self._lies(SWAPPED_AND_DENIED):
            self._weather.lied(SWAPPED_AND_DENIED, self._name)
            raise CompareFailed(f"{self._name}: {key} is not what it was")
        return tag

    async def delete(self, key: str) -> None:
        await self._call(lambda: self._inner.delete(key))

    async def purge(self, key: str) -> None:
        await self._call(lambda: self._inner.purge(key))

    async def list_keys(self, prefix: str) -> AsyncIterator[str]:
        self._check()
        keys = [key async for key in self._inner.list_keys(prefix)]
        await self._weather.pause()
        for key in keys:
            yield key

    async def list_versions(self, prefix: str) -> AsyncIterator[Version]:
        self._check()
        versions = [version async for version in self._inner.list_versions(prefix)]
        await self._weather.pause()
        for version in versions:
            yield version

    async def get_version(self, key: str, version: VersionId) -> bytes:
        return await self._call(lambda: self._inner.get_version(key, version))

    async def extend_lock(self, key: str, version: VersionId | None = None) -> None:
        await self._call(lambda: self._inner.extend_lock(key, version))


class Database(FaultyEntryStore):
    """An entry store whose answers take a while, so that writers meet."""

    def __init__(self, inner: MemoryEntryStore, weather: Weather) -> None:
        super().__init__(inner, weather.outcome)
        self._weather = weather

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if name.startswith("_") or not asyncio.iscoroutinefunction(value):
            return value
        weather = super().__getattribute__("_weather")

        async def slow(*args: Any, **given: Any) -> Any:
            await weather.pause()
            result = await value(*args, **given)
            await weather.pause()
            return result

        return slow


class RecordingSigner:
    """The log's key, and everything it ever signed."""

    def __init__(self, signer: LogSigner) -> None:
        self._signer = signer
        self.texts: list[bytes] = []

    @property
    def vkey(self) -> str:
        return self._signer.vkey

    def sign(self, text: bytes) -> bytes:
        self.texts.append(text)
        return self._signer.sign(text)


class RecordingCosigner:
    """A mirror's key, and everything it ever cosigned."""

    def __init__(self, cosigner: MirrorCosigner) -> None:
        self._cosigner = cosigner
        self.texts: list[bytes] = []

    @property
    def vkey(self) -> str:
        return self._cosigner.vkey

    def cosign(self, checkpoint_text: bytes, timestamp_s: int) -> bytes:
        self.texts.append(checkpoint_text)
        return self._cosigner.cosign(checkpoint_text, timestamp_s)

    def sign_site(self, text: bytes) -> bytes:
        return self._cosigner.sign_site(text)
