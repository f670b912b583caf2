"""The whole system in one event loop, driven by one seed: writers, followers, mirrors, and everything that befalls it.

No clock, no files, no threads: the same seed gives the same run. Stores are memory that outlives a crash; a crash is
throwing the objects away that use them.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ledger.core.event import Event
from ledger.errors import (
    CompareFailed,
    DiskFull,
    Fenced,
    Forked,
    IdConflict,
    InvalidRequest,
    JinshiError,
    ObjectMissing,
    Pushback,
    StoreUnavailable,
    Tampered,
    Unavailable,
    VersionConflict,
)
from ledger.publisher import Publisher
from ledger.sequencer import Sequencer, SequencerLimits
from ledger.store.base import ObjectStore, Stored, Tag, Version, VersionId
from ledger.store.faulty import FaultyEntryStore, FaultyObjectStore, Outcome
from ledger.store.memory import MemoryEntryStore
from pki.keystore.file import LogSigner, MirrorCosigner
from replication.follower import Follower, FollowerLimits
from replication.mirror import Mirror
from replication.site import Site
from restore.fetch import verify_site
from restore.rebuild.ledger import rebuild
from tests.support.checking import Acknowledged, EventKey, check_ledger
from tests.support.replicas import Replicas
from tests.support.tampering import fill

T = TypeVar("T")

LIMITS = SequencerLimits(pool_entries_max=60, append_entries_max=40, commit_entries_max=24, streams_cached_max=3)
FINISH_ATTEMPTS_MAX = 200


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


@dataclass(slots=True)
class Primary:
    """One process that believes to be the writer. Thrown away when it crashes; its tasks end with it."""

    sequencer: Sequencer
    publisher: Publisher
    tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)


@dataclass(slots=True)
class Producer:
    """Somebody who appends to a stream of his own and to one that all share, and repeats himself until he is heard."""

    number: int
    sent: int = 0
    version: int = 0
    last: list[Event] = field(default_factory=list)
    task: asyncio.Task[None] | None = None

    @property
    def busy(self) -> bool:
        return self.task is not None and not self.task.done()


class Simulation:
    """One run. `run` ends with `check_ledger`."""

    def __init__(self, seed: int, *, steps: int = 120) -> None:
        self.weather = Weather(seed)
        self.draw = self.weather.draw
        self.steps = steps
        self.replicas = Replicas()
        self.database = Database(self._memory(), self.weather)
        self.published = Remote(self.replicas.published, self.weather)
        self.signer = RecordingSigner(self.replicas.signer)
        self.cosigners = {name: RecordingCosigner(place.cosigner) for name, place in self.replicas.places.items()}
        self.acknowledged: dict[EventKey, Acknowledged] = {}
        self.producers = [Producer(number) for number in range(3)]
        self.primary: Primary | None = None
        self.zombies: list[Primary] = []
        self.mirrors: dict[str, asyncio.Task[None]] = {}
        self.trace: list[str] = []
        self.resting = False
        self.shipped_by: dict[str, int] = {}  # by site: the newest epoch that has shipped there

    def _memory(self) -> MemoryEntryStore:
        assert isinstance(self.replicas.store, MemoryEntryStore)
        return self.replicas.store

    async def run(self) -> int:
        """Chaos, then calm, then everything is checked. Returns the size of the ledger."""
        await self.replicas.begin()
        await fill(self.replicas, self.draw.choice((1, 200, 250, 500, 760, 1_000)))
        for _ in range(self.steps):
            name, act = self._choose()
            self.trace.append(name)
            await act()
            await self.weather.pause()
        await self._come_to_rest()
        return await check_ledger(
            self.replicas,
            acknowledged=self.acknowledged,
            signed=self.signer.texts,
            cosigned={name: one.texts for name, one in self.cosigners.items()},
        )

    # -- what happens --

    def _choose(self) -> tuple[str, Callable[[], Awaitable[None]]]:
        site = self.draw.choice(sorted(self.replicas.places))
        producer = self.draw.choice(self.producers)
        actions: list[tuple[int, str, Callable[[], Awaitable[None]]]] = [
            (30, f"append {producer.number}", lambda: self._start_appending(producer)),
            (20, "publish", self._start_publishing),
            (15, f"follow {site}", lambda: self._start_following(site)),
            (15, f"mirror {site}", lambda: self._start_mirroring(site)),
            (3, "crash", self._crash),
            (2, "take over", self._take_over),
            (5, "zombie", self._stir_a_zombie),
            (2, f"crash mirror {site}", lambda: self._cancel(self.mirrors.pop(site, None))),
            (2, f"partition {site}", lambda: self._partition(site)),
            (9, f"heal {site}", lambda: self._heal(site)),
            (2, f"verify {site}", lambda: self._verify(site)),
            (1, "time", self._time_passes),
            (1, f"fill up {site}", lambda: self._fill_up(site)),
            (2, f"slow {site}", lambda: self._slow_down(site)),
        ]
        weights = [weight for weight, _, _ in actions]
        _, name, act = self.draw.choices(actions, weights)[0]
        return name, act

    async def _open(self) -> Primary:
        """Become the writer: what a process does when it starts."""
        while True:
            with suppress(StoreUnavailable):
                sequencer = Sequencer(self.database, self.replicas.clock, limits=LIMITS)
                await sequencer.__aenter__()
                publisher = Publisher(
                    self.database, self.published, self.signer, self.replicas.origin, epoch=sequencer.epoch, parallel=2
                )
                return Primary(sequencer, publisher)

    async def _writer(self) -> Primary:
        if self.primary is None:
            self.primary = await self._open()
        return self.primary

    async def _crash(self) -> None:
        primary, self.primary = self.primary, None
        if primary is not None:
            self.weather.met[KILLED] += 1
            await self._throw_away(primary)

    async def _throw_away(self, primary: Primary) -> None:
        for task in (*primary.tasks.values(), primary.sequencer._task):
            await self._cancel(task)

    async def _take_over(self) -> None:
        """Another process claims the store while the old one is alive and knows nothing of it."""
        old, self.primary = self.primary, await self._open()
        if old is not None:
            self.weather.met[TAKEN_OVER] += 1
            self.zombies.append(old)

    async def _stir_a_zombie(self) -> None:
        """A writer that was taken over from goes on as if nothing had happened."""
        if not self.zombies:
            return
        zombie = self.draw.choice(self.zombies)
        what = self.draw.randrange(3)
        if what == 0:
            self._start(zombie.tasks, "publish", self._publish(zombie))
        elif what == 1:
            site = self.draw.choice(sorted(self.replicas.places))
            self._start(zombie.tasks, site, self._follow(zombie, site))
        else:
            producer = self.draw.choice(self.producers)
            self._send(producer, zombie)

    async def _cancel(self, task: asyncio.Task[None] | None) -> None:
        if task is not None and not task.done():
            self.weather.met[INTERRUPTED] += 1
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    def _start(self, tasks: dict[str, asyncio.Task[None]], name: str, act: Coroutine[Any, Any, None]) -> None:
        running = tasks.get(name)
        if running is not None and not running.done():
            act.close()
            return
        if running is not None:
            running.result()  # what it met was expected, or the run fails here
        tasks[name] = asyncio.create_task(act)

    async def _partition(self, site: str) -> None:
        self.weather.partitioned.add(site)

    async def _heal(self, site: str) -> None:
        for trouble in (self.weather.partitioned, self.weather.full, self.weather.slow):
            trouble.discard(site)

    async def _fill_up(self, site: str) -> None:
        self.weather.full.add(site)

    async def _slow_down(self, site: str) -> None:
        self.weather.met[SLOW] += 1
        self.weather.slow.add(site)

    async def _time_passes(self) -> None:
        jump_s = self.draw.choice((1, 60, -30, 400 * 86_400, -400 * 86_400))  # clocks are set back, too
        self.weather.met[JUMPED] += abs(jump_s) > 60
        self.replicas.clock.advance(jump_s)

    # -- producers --

    async def _start_appending(self, producer: Producer) -> None:
        self._send(producer, await self._writer())

    def _send(self, producer: Producer, primary: Primary) -> None:
        if producer.busy:
            return
        if producer.task is not None and not producer.task.cancelled():
            producer.task.result()
        # With the process it talks to goes the answer it waits for.
        producer.task = primary.tasks[f"append {producer.number}"] = asyncio.create_task(
            self._append(producer, primary)
        )

    async def _append(self, producer: Producer, primary: Primary) -> None:
        """Send what was not answered last time, or something new."""
        again = bool(producer.last)
        if not again:
            own = self.draw.random() < 0.5
            producer.last = [self._event(producer, own) for _ in range(self.draw.choice((1, 1, 2, 7, 39)))]
        events = producer.last
        own = all(event.source == f"urn:sim:{producer.number}" for event in events)
        expected = producer.version if own and self.draw.random() < 0.5 else None
        overtaken = primary in self.zombies
        try:
            places = await primary.sequencer.append(events, actor="local:sim", expected_version=expected)
        except (StoreUnavailable, Fenced, Pushback, InvalidRequest):
            return  # not acknowledged: sent again later, to whoever writes then
        except VersionConflict as error:
            raise AssertionError(f"nobody else writes this stream: {error}") from error
        assert not overtaken or all(place.duplicate for place in places), "a writer that was overtaken has acknowledged"
        producer.last = []
        if own:
            producer.version = places[-1].streamversion
        for event, place in zip(events, places, strict=True):
            self.acknowledged.setdefault((event.source, event.id), Acknowledged(event, [])).answers.append(place)
        if self.draw.random() < 0.2:
            await self._repeat(primary)

    def _event(self, producer: Producer, own: bool) -> Event:
        producer.sent += 1
        source = f"urn:sim:{producer.number}" if own else "urn:sim:shared"
        return Event(
            id=f"{producer.number}-{producer.sent}",
            source=source,
            type="thing.happened.v1",
            subject=None if own else f"s{producer.sent % 5}",
            data=b'{"n":%d}' % producer.sent,
        )

    async def _repeat(self, primary: Primary) -> None:
        """An event that was acknowledged is sent again, and once with other content."""
        key = self.draw.choice(sorted(self.acknowledged))
        known = self.acknowledged[key]
        forged = Event(
            id=key[1], source=key[0], type="thing.happened.v1", subject=known.event.subject, data=b'{"n":-1}'
        )
        try:
            (place,) = await primary.sequencer.append([known.event], actor="local:sim")
            assert place.duplicate
            known.answers.append(place)
            with suppress(IdConflict):
                await primary.sequencer.append([forged], actor="local:sim")
                raise AssertionError(f"{key} was recorded twice with different content")
        except (StoreUnavailable, Fenced, Pushback, InvalidRequest):
            return

    # -- publishing and replicating --

    async def _start_publishing(self) -> None:
        primary = await self._writer()
        self._start(primary.tasks, "publish", self._publish(primary))

    async def _publish(self, primary: Primary) -> None:
        with suppress(Unavailable, CompareFailed):
            await primary.publisher.publish()

    async def _start_following(self, site: str) -> None:
        primary = await self._writer()
        self._start(primary.tasks, site, self._follow(primary, site))

    def _site(self, name: str) -> Site:
        place = self.replicas.places[name]
        return Site(name, Remote(place.objects, self.weather, name), place.site.mirror)

    async def _follow(self, primary: Primary, name: str) -> None:
        replicas = self.replicas
        follower = Follower(
            self.published,
            self._site(name),
            replicas.origin,
            replicas.log,
            epoch=primary.sequencer.epoch,
            nonce=replicas.nonce,
            limits=FollowerLimits(parallel=2),
        )
        epoch, newest = primary.sequencer.epoch, self.shipped_by.get(name, 0)
        try:
            await follower.run_once()
        except (Unavailable, CompareFailed):
            return
        except Tampered as error:
            self._check_excused(error, name)
        except InvalidRequest as error:
            assert "not published anything yet" in error.what  # noqa: PT017
        else:
            assert epoch >= newest or self.weather.lies_of[name], f"epoch {epoch} shipped to {name} after {newest}"
            self.shipped_by[name] = max(epoch, self.shipped_by.get(name, 0))

    async def _start_mirroring(self, name: str) -> None:
        self._start(self.mirrors, name, self._mirror(name))

    async def _mirror(self, name: str) -> None:
        replicas, place = self.replicas, self.replicas.places[name]
        state = Remote(place.memory, self.weather)
        mirror = Mirror(self._site(name), self.cosigners[name], replicas.log, replicas.origin, replicas.clock, state)
        try:
            await mirror.advance()
        except (Unavailable, CompareFailed):
            return
        except Tampered as error:
            self._check_excused(error, name)

    def _check_excused(self, error: Tampered, site: str) -> None:
        """Refusing is right where a site lied, and where it kept less than it said; never in calm, never as a fork."""
        if self.resting or not self.weather.lies_of[site] or isinstance(error, Forked):
            raise error

    async def _verify(self, name: str) -> None:
        """In the middle of everything: a site that shows a checkpoint is whole, whoever is at work there."""
        replicas = self.replicas
        objects = Remote(replicas.places[name].objects, self.weather, name)
        lies = self.weather.lies_of[name]
        lied = lies[TRUNCATED]
        try:
            copy = await replicas.open(name, objects)
        except JinshiError as error:
            if isinstance(error, Unavailable) or "checkpoint is missing" in error.what:
                return
            if lies[TRUNCATED] > lied:
                return
            raise
        store = MemoryEntryStore()
        try:
            await rebuild(copy, store)
        except Unavailable:
            return
        except Tampered:
            if lies[TRUNCATED] > lied:
                return
            raise
        with suppress(Unavailable):
            try:
                await verify_site(copy)
            except Tampered as error:  # it also looks at what is pending, which may not have been kept
                self._check_excused(error, name)
        assert list(await store.rows(0, copy.checkpoint.size)) == self._memory()._rows[: copy.checkpoint.size]

    # -- the end --

    async def _come_to_rest(self) -> None:
        """No failures any more: whoever runs now must be able to finish what was left undone, by doing the usual."""
        self.weather.calm = True
        for trouble in (self.weather.partitioned, self.weather.full, self.weather.slow):
            trouble.clear()
        for old in (*self.zombies, *([self.primary] if self.primary else [])):
            await asyncio.gather(*(task for task in old.tasks.values() if not task.cancelled()))
        await asyncio.gather(*(task for task in self.mirrors.values() if not task.cancelled()))
        self.resting = True  # what began in the storm has ended
        primary = await self._open()
        for old in (*self.zombies, *([self.primary] if self.primary else [])):
            await self._throw_away(old)
        for producer in self.producers:
            for _ in range(FINISH_ATTEMPTS_MAX):
                if not producer.last:
                    break
                await self._append(producer, primary)
            assert not producer.last, f"producer {producer.number} is never heard"
        await primary.publisher.publish()
        self.replicas.epoch = primary.sequencer.epoch
        for name in self.replicas.places:
            await self._follow(primary, name)
            await self._mirror(name)
        await primary.sequencer.__aexit__(None, None, None)
