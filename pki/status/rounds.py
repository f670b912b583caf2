"""The status services' periodic work: one round brings everything up to date, at the start as at every tick.

Lists and batches that are due, what a crash left unfinished, responders' certificates, and publishing. What goes wrong
with one authority or place is told, and the others go on.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from ledger.errors import CheckFailed, Conflict, Fenced, JinshiError
from ledger.store.base import ObjectStore
from pki.access.base import Permit, service_permit
from pki.aggregates.answers import AnswerCount
from pki.aggregates.publication import Publication
from pki.core.published import Published
from pki.status.batches import Batches
from pki.status.issuers import StatusIssuer, issuers_in
from pki.status.lists import DELTA_MAX, Lists
from pki.status.live import LiveStatus
from pki.status.measuring import Latency, Measuring
from pki.status.publishing import Publisher
from pki.status.responders import Responders

TICK_S: Final = 5.0
ENDING: Final = 4
"""When a quarter of its time is left, a list whose key is not here is asked for."""
CHECKED_S: Final = 60
"""How often a place that has everything is looked at all the same."""
COUNTED_MAX: Final = 400
"""Authorities that one entry counts answers of: it holds 65,535 bytes."""


@dataclass(frozen=True, slots=True)
class StatusPace:
    """How often, in seconds. How soon a revocation is published is a setting of each authority (`publish_within_s`)."""

    count_every_s: int = 3_600
    tick_s: float = TICK_S


@dataclass(slots=True)
class Facts:
    """How it stands after a round, for metrics and alarms. `wrong`: what could not be done, by what it is about."""

    wrong: dict[str, JinshiError] = field(default_factory=dict)
    latency: Latency = field(default_factory=Latency)


@dataclass
class StatusRounds:
    """The rounds. `open_place` opens a place by its URL; `live` is asked what was answered; `actor` answers for what is
    recorded.
    """

    lists: Lists
    responders: Responders
    batches: Batches
    publisher: Publisher
    open_place: Callable[[str], ObjectStore]
    live: LiveStatus | None = None
    pace: StatusPace = StatusPace()
    notice: Callable[[str, JinshiError], None] = lambda what, error: None
    actor: str = "local:jinshi"
    facts: Facts = field(default_factory=Facts, init=False)
    _woken: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    _counted_at: int = field(default=0, init=False)
    _places: dict[str, ObjectStore] = field(default_factory=dict, init=False)
    _shown: dict[str, Published] = field(default_factory=dict, init=False)
    _own: Published | None = field(default=None, init=False)
    _tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict, init=False)
    _wrong: dict[str, JinshiError] = field(default_factory=dict, init=False)
    _named: dict[str, str] = field(default_factory=dict, init=False)
    _checked: dict[str, int] = field(default_factory=dict, init=False)
    _tried: set[str] = field(default_factory=set, init=False)
    _at_once: bool = field(default=False, init=False)
    _one: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)

    def __post_init__(self) -> None:
        self._measuring = Measuring(self.lists.index)

    def wake(self) -> None:
        """Something was revoked: do not wait for the next tick."""
        self._woken.set()

    async def run(self) -> None:
        """Rounds, for ever. Raises Fenced: another process is the writer now.

        What takes long does not hold up the next round: signing answers for all certificates, and sending them.
        """
        self._counted_at = self._now()
        try:
            while True:
                async with self._one:
                    self._at_once = False
                    await self._round()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._woken.wait(), self.pace.tick_s)
                self._woken.clear()
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)
            self._tasks.clear()
            with suppress(JinshiError):
                await self._count(all_of_it=True)

    async def once(self, *, at_once: bool = False) -> Facts:
        """One round, to the end of all that it has begun. `at_once`: what has changed is published even if something
        was a moment ago.

        Raises Fenced.
        """
        async with self._one:
            self._at_once = at_once
            await self._round()
            if self._tasks:
                await asyncio.gather(*self._tasks.values())
                self._reap()
                await self._try("the log", self.lists.index.catch_up)
                await self._try("publishing", self._publish)
                await asyncio.gather(*self._tasks.values())
                self._reap()
            return self._found()

    async def _round(self) -> None:
        self._reap()
        self._tried = set(self._tasks)
        index = self.lists.index
        await self._try("the log", index.catch_up)
        self._named = self.places
        await self._try("unfinished lists", lambda: self.lists.recover(permit=self._permit("crl.issue")))
        await self._try("unfinished answers", lambda: self.batches.recover(permit=self._permit("ocsp.sign")))
        now = self._now()
        for issuer in list(issuers_in(index.book)):
            if issuer.not_after <= now:
                continue  # nothing it has certified is valid any more
            name = issuer.name
            await self._try(f"the responder of {name}", partial(self._renewed, issuer))
            await self._try(f"the lists of {name}", partial(self._lists if issuer.is_here else self._ending, issuer))
            await self._try(f"the answers of {name}", partial(self._answers, issuer))
            await asyncio.sleep(0)
        await self._try("publishing", self._publish)
        await self._try("counting answers", self._count)
        self._found()

    def _found(self) -> Facts:
        """What holds after a round."""
        self._wrong = {what: error for what, error in self._wrong.items() if what in self._tried}
        shown = [self._shown.get(url) for url in self._named.values()]
        latency = self.facts.latency
        if self._own is not None:
            latency = self._measuring.measure(self._own, shown, self._now(), latency)
        self.facts = Facts(dict(self._wrong), latency)
        return self.facts

    async def _renewed(self, issuer: StatusIssuer) -> None:
        if await self.responders.renew(issuer, permit=self._permit("certificate.issue")):
            await self.lists.index.catch_up()

    async def _lists(self, issuer: StatusIssuer) -> None:
        index = self.lists.index
        known = index.crls.shards(index.database, issuer.authority, issuer.generation)
        for shard in sorted({*known, *range(issuer.settings.shards)}):
            kind = self.due(issuer, shard)
            if kind is not None:
                await self.lists.issue(issuer, shard, permit=self._permit("crl.issue"), delta=kind == "delta")
                await index.catch_up()

    async def _ending(self, issuer: StatusIssuer) -> None:
        """Say in time that a list has to be issued where the key is. Raises CheckFailed."""
        index, now = self.lists.index, self._now()
        for shard in index.crls.shards(index.database, issuer.authority, issuer.generation):
            last = index.crls.last_issued(index.database, issuer.authority, issuer.generation, shard)
            if last is not None and (last.next_update - now) * ENDING < last.next_update - last.this_update:
                raise CheckFailed(
                    f"list {issuer.name}-{shard} ends in {max(0, last.next_update - now):,} s, and its key is not here",
                    hint=issuer.hint,
                )

    def _apart_s(self, issuer: StatusIssuer) -> int:
        """How far apart lists and batches are that come out because something has changed."""
        return 0 if self._at_once else max(1, issuer.settings.publish_within_s // 4)

    def due(self, issuer: StatusIssuer, shard: int) -> str | None:
        """Which list of a shard is due: "full", "delta", or None."""
        index, now, settings = self.lists.index, self._now(), issuer.settings
        series = (issuer.authority, issuer.generation, shard)
        full = index.crls.last_issued(index.database, *series)
        if full is None or now - full.this_update >= settings.crl_every_s:
            return "full"
        delta = index.crls.last_issued(index.database, *series, delta=True) if settings.delta_every_s else None
        newest = delta if delta is not None and delta.ordinal > full.ordinal else full
        waits = index.certificates.waiting(index.database, issuer.authority, shard, newest.at)
        urgent = bool(waits.revoked or waits.released) and now - newest.this_update >= self._apart_s(issuer)
        if not settings.delta_every_s:
            return "full" if urgent else None
        scheduled = now - newest.this_update >= settings.delta_every_s
        if not (urgent or scheduled):
            return None
        base = index.crls.base(index.database, *series, now)
        changed = index.certificates.waiting(index.database, issuer.authority, shard, base.at if base else 0)
        return "full" if changed.revoked + changed.released > DELTA_MAX else "delta"

    async def _answers(self, issuer: StatusIssuer) -> None:
        if not self._named or not self.responders.can_speak(issuer):
            return
        all_of_them = f"all answers of {issuer.name}"
        since = self.batches.due(
            issuer, self._now(), changed_after_s=self._apart_s(issuer), full_begun=all_of_them in self._tasks
        )
        if since == 0:
            self._begin(all_of_them, partial(self._sign, issuer, 0))
        elif since is not None:
            await self._sign(issuer, since)

    async def _sign(self, issuer: StatusIssuer, since: int) -> None:
        await self.batches.make(issuer, since, permit=self._permit("ocsp.sign"))
        await self.lists.index.catch_up()

    # -- places --

    @property
    def places(self) -> dict[str, str]:
        """Where to publish to: URLs by the places' names."""
        book = self.lists.index.book
        return {one.name: one.url for one in book.all(Publication) if one.url}

    async def _publish(self) -> None:
        self._own = await self.publisher.assemble()
        for name, url in self._named.items():
            checked_s = self._now() - self._checked.get(url, 0)
            if self._shown.get(url) is not self._own or checked_s >= CHECKED_S or f"place {name}" in self._wrong:
                self._begin(f"place {name}", partial(self._publish_to, url))

    async def _publish_to(self, url: str) -> None:
        if url not in self._places:
            self._places[url] = self.open_place(url)
        await self.publisher.publish(self._places[url], lambda shown: self._shown.update({url: shown}))
        self._checked[url] = self._now()

    # -- counts --

    async def _count(self, *, all_of_it: bool = False) -> None:
        """Record how many answers were given, once in a while."""
        now = self._now()
        if self.live is None or not (all_of_it or now - self._counted_at >= self.pace.count_every_s):
            return
        taken, self.live.counts = self.live.counts, Counter()
        counts: dict[str, dict[str, int]] = {}
        for (authority, said), number in taken.items():
            counts.setdefault(authority, {})[said] = number
        names = sorted(counts)
        for first in range(0, len(names), COUNTED_MAX):
            part = {name: counts[name] for name in names[first : first + COUNTED_MAX]}
            stamp = self.lists.journal.clock.now()
            ordinal = f"{int(stamp.timestamp() * 1_000_000)}-{first}"
            entry = AnswerCount(ordinal, self._counted_at, now, part, timestamp=stamp)
            await self.lists.journal.save(entry, permit=self._permit("ocsp.answer"))
        self._counted_at = now

    # -- shared --

    async def _try(self, what: str, work: Callable[[], Awaitable[object]]) -> None:
        self._tried.add(what)
        try:
            await work()
        except Fenced:
            raise
        except Conflict:
            return  # another process has just done it
        except JinshiError as error:
            self._wrong[what] = error
            self.notice(what, error)
        else:
            self._wrong.pop(what, None)

    def _begin(self, what: str, work: Callable[[], Awaitable[object]]) -> None:
        """Do it beside the rounds, unless that is under way; the next round comes when it is done."""
        self._tried.add(what)
        if what not in self._tasks:
            self._tasks[what] = asyncio.create_task(self._try(what, work), name=what)
            self._tasks[what].add_done_callback(lambda _: self.wake())

    def _reap(self) -> None:
        """Forget what is done. Raises Fenced."""
        for what, task in list(self._tasks.items()):
            if task.done():
                del self._tasks[what]
                task.result()

    def _permit(self, action: str) -> Permit:
        return service_permit(self.actor, action)

    def _now(self) -> int:
        return int(self.lists.journal.clock.now().timestamp())
