"""The whole system in one event loop, driven by one seed: writers, followers, mirrors, and everything that befalls it.

No clock, no files, no threads: the same seed gives the same run. Stores are memory that outlives a crash; a crash is
throwing the objects away that use them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from ledger.acknowledging import Acknowledging
from ledger.core.checkpoint import Checkpoint
from ledger.errors import (
    CompareFailed,
    Forked,
    InvalidRequest,
    JinshiError,
    StoreUnavailable,
    Tampered,
    Unavailable,
)
from ledger.lag import LagMeter
from ledger.publisher import Publisher
from ledger.reader import Reader
from ledger.sequencer import Sequencer, SequencerLimits
from ledger.store.memory import MemoryEntryStore
from replication.follower import Follower, FollowerLimits
from replication.mirror import Mirror
from replication.site import Site, read_cosigned
from restore.fetch import verify_site
from restore.rebuild.ledger import rebuild
from tests.support.checking import check_ledger
from tests.support.producers import Producer, Producers
from tests.support.replicas import FAR, NEAR, Replicas
from tests.support.tampering import fill
from tests.support.waiting import Waiting
from tests.support.weather import (
    INTERRUPTED,
    JUMPED,
    KILLED,
    SLOW,
    TAKEN_OVER,
    TRUNCATED,
    Database,
    RecordingCosigner,
    RecordingSigner,
    Remote,
    Weather,
)
from tests.support.witnessing import Witnessing

LIMITS = SequencerLimits(pool_entries_max=60, append_entries_max=40, commit_entries_max=24, streams_cached_max=3)
FINISH_ATTEMPTS_MAX = 200
THIRD = "third"
ROLES = {NEAR: "same-city", FAR: "remote", THIRD: "remote"}


@dataclass(slots=True)
class Primary:
    """One process that believes to be the writer. Thrown away when it crashes; its tasks end with it."""

    sequencer: Sequencer
    publisher: Publisher
    acknowledging: Acknowledging
    tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)


class Simulation:
    """One run. `run` ends with `check_ledger`."""

    def __init__(self, seed: int, *, steps: int = 120) -> None:
        self.weather = Weather(seed)
        self.draw = self.weather.draw
        self.steps = steps
        self.replicas = Replicas(sites=self.draw.choice(((NEAR, FAR), (NEAR, FAR, THIRD))))
        self.database = Database(self._memory(), self.weather)
        self.published = Remote(self.replicas.published, self.weather)
        self.signer = RecordingSigner(self.replicas.signer)
        self.cosigners = {name: RecordingCosigner(place.cosigner) for name, place in self.replicas.places.items()}
        self.witness = Witnessing(self.replicas, self.weather)
        self.asking: dict[str, asyncio.Task[None]] = {}
        self.waiting = Waiting(self.replicas, self.weather)
        self.producers = Producers(self.draw, self.waiting)
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
            acknowledged=self.producers.acknowledged,
            signed=self.signer.texts,
            cosigned={"witness": self.witness.cosigned} | {name: one.texts for name, one in self.cosigners.items()},
        )

    # -- what happens --

    def _choose(self) -> tuple[str, Callable[[], Awaitable[None]]]:
        site = self.draw.choice(sorted(self.replicas.places))
        producer = self.draw.choice(self.producers.all)
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
            (8, "ask the sites", self._start_asking),
            (3, "witness", self._start_witnessing),
            (1, "crash witness", self._crash_witness),
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
                roles = [(name, ROLES[name]) for name in self.replicas.places]
                lag = LagMeter(self.database, self.replicas.clock)
                return Primary(sequencer, publisher, Acknowledging(roles, self.replicas.clock, lag))

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
            producer = self.draw.choice(self.producers.all)
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
        await self.producers.append(producer, primary.sequencer, overtaken=primary in self.zombies)

    # -- publishing and replicating --

    async def _start_publishing(self) -> None:
        primary = await self._writer()
        self._start(primary.tasks, "publish", self._publish(primary))

    async def _publish(self, primary: Primary) -> None:
        with suppress(Unavailable, CompareFailed):
            signed = await primary.publisher.publish()
            primary.acknowledging.published(Checkpoint(signed.origin, signed.size, signed.root))

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
            if "not published anything yet" not in error.what:
                raise
        else:
            assert epoch >= newest or self.weather.lies_of[name], f"epoch {epoch} shipped to {name} after {newest}"
            self.shipped_by[name] = max(epoch, self.shipped_by.get(name, 0))
            await self._look(primary, name)

    async def _look(self, primary: Primary, name: str) -> None:
        """What the site shows to have cosigned is what its appends are acknowledged by."""
        try:
            cosigned = await read_cosigned(self._site(name), self.replicas.log)
        except Unavailable as error:
            primary.acknowledging.failed(name, error)
        except Tampered as error:
            self._check_excused(error, name)
            primary.acknowledging.failed(name, error)
        else:
            primary.acknowledging.cosigned(name, None if cosigned is None else cosigned.opened.checkpoint)

    async def _start_asking(self) -> None:
        primary = self.draw.choice(self.zombies) if self.zombies and self.draw.random() < 0.2 else await self._writer()
        self._start(primary.tasks, "ask", self._ask(primary))

    async def _ask(self, primary: Primary) -> None:
        """Whoever waits for the sites asks again; what they are told must be so, at that moment."""
        for name in self.replicas.places:
            await self._look(primary, name)
        await self.waiting.ask(primary.acknowledging)

    # -- the witness --

    async def _crash_witness(self) -> None:
        await self._cancel(self.asking.pop("witness", None))
        self.witness.start()

    async def _start_witnessing(self) -> None:
        self._start(self.asking, "witness", self.witness.show(self._reader()))

    def _reader(self) -> Reader:
        return Reader(self.database, self.published)

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
        for apart in (self.mirrors, self.asking):
            await asyncio.gather(*(task for task in apart.values() if not task.cancelled()))
        self.resting = True  # what began in the storm has ended
        primary = await self._open()
        for old in (*self.zombies, *([self.primary] if self.primary else [])):
            await self._throw_away(old)
        for producer in self.producers.all:
            for _ in range(FINISH_ATTEMPTS_MAX):
                if not producer.last:
                    break
                await self._append(producer, primary)
            assert not producer.last, f"producer {producer.number} is never heard"
        await self._publish(primary)
        self.replicas.epoch = primary.sequencer.epoch
        for name in self.replicas.places:
            await self._follow(primary, name)
            await self._mirror(name)
        await self._ask(primary)
        assert not self.waiting.entries, f"everything is everywhere, and {self.waiting.entries} not acknowledged"
        await self.witness.show(self._reader())
        assert await self.witness.size() == (await self.replicas.store.head()).size
        await primary.sequencer.__aexit__(None, None, None)
