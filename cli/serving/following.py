"""The followers and mirrors of a ledger that is being served: woken by each publish, every site at its own pace.

All sites are asked to cosign the same checkpoints, so that their cosignatures meet in a quorum. What one round does is
the follower's and the mirror's business; how `jinshi replicate` runs them is in replicating.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from cli.config import WitnessSettings, read_settings
from cli.display.logs import get_logger
from cli.erasing import settle_as_writer
from cli.sites.ahead import shipping_ahead
from cli.sites.catching_up import catching_up
from cli.sites.rounds import Keys, Outcome, log_alarms, log_news
from cli.sites.witnesses import ask
from cli.system import nonce
from cli.wiring.ledgers import OpenLedger, WritableLedger
from ledger.acknowledging import Acknowledging
from ledger.classification import Labelled
from ledger.content.released import ReleasedIn
from ledger.core.checkpoint import OpenedCheckpoint
from ledger.errors import Fenced, JinshiError
from ledger.http.quorum import Quorum
from ledger.http.service import Service
from ledger.levels import Level
from ledger.store.versions import Alarm, Alarms
from replication.follower import Follower
from replication.mirror import Mirror
from replication.site import Site, check_site, read_cosigned

PAUSE_S = 0.05
"""Between two rounds of one site, at least: what is published meanwhile goes in one."""
ELSEWHERE_POLL_S = 0.25
TOLD_MAX = 1_000


class Target:
    """The checkpoint that every site is asked to cosign next.

    It moves on when the quorum has accepted it, when nobody works towards it any more, and in any case after `hold_s`:
    a slow or broken site keeps no other waiting for longer.
    """

    def __init__(self, service: Service, *, hold_s: float) -> None:
        self._published = service.publishing
        self._quorum = service.quorum
        self._hold_s = hold_s
        self._current = service.publishing.newest
        self._since_s = asyncio.get_running_loop().time()
        self._working: set[str] = set()
        self._moved = Level()

    async def above(self, size: int, timeout_s: float) -> OpenedCheckpoint:
        """The next target beyond `size`; after `timeout_s` whatever it is then."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + timeout_s
        while self._current.checkpoint.size <= size and (left_s := end_s - loop.time()) > 0:
            if self._published.newest.checkpoint.size <= size:
                await self._published.published.above(size, left_s)
            elif self._is_done():
                self._move()
            else:
                held_s = max(0.0, self._since_s + self._hold_s - loop.time())
                await self._changed(min(left_s, held_s))
        return self._current

    def begins(self, site: str) -> None:
        """A site's round towards the current target begins."""
        self._working.add(site)

    def ends(self, site: str) -> None:
        """It has ended, in whatever way."""
        self._working.discard(site)
        self._moved.wake()

    def _is_done(self) -> bool:
        current = self._current.checkpoint.size
        held_s = asyncio.get_running_loop().time() - self._since_s
        return self._quorum.covered.value >= current or not self._working or held_s >= self._hold_s

    def _move(self) -> None:
        self._current = self._published.newest
        self._since_s = asyncio.get_running_loop().time()
        self._moved.wake()

    async def _changed(self, timeout_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._moved.changed()


class Rounds:
    """The rounds of one site: shipping, then cosigning by its mirror, here or elsewhere."""

    def __init__(
        self,
        ledger: OpenLedger,
        site: Site,
        follower: Follower,
        keys: Keys,
        quorum: Quorum,
        acknowledging: Acknowledging,
        *,
        elsewhere_s: float,
    ) -> None:
        self._ledger = ledger
        self._site = site
        self._follower = follower
        self._keys = keys
        self._quorum = quorum
        self._acknowledging = acknowledging
        self._elsewhere_s = elsewhere_s
        self._mirror: Mirror | None = None
        self._told: dict[Alarm, None] = {}
        self._mirrored = Path(ledger.settings.site(site.name).mirror_key).is_file()
        self._offline = ledger.settings.site(site.name).offline
        if not self._mirrored and not self._offline:
            get_logger().info("the mirror's key is not here; shipping only", site=site.name)

    async def run(self, target: OpenedCheckpoint, *, keyring: bool) -> int:
        """One round, and the cosignature to the quorum; returns the size that was shipped.

        Raises:
            JinshiError: as `Follower.run_once` and `Mirror.advance`.
        """
        if self._offline:
            return await self._by_receipts()
        if self._mirrored and self._mirror is None:
            self._mirror = self._ledger.mirror(self._site, await self._keys.of(self._ledger, self._site.name))
        mirror = self._mirror
        advance = None if mirror is None else partial(self._advance, mirror)
        try:
            async with catching_up(self._site.name, advance) as steps:
                on_pack = None if mirror is None else mirror.read_ahead
                size = await self._follower.run_once(
                    upto=target, keyring=keyring, on_step=steps.on_step, on_pack=on_pack
                )
        finally:
            self._alarm(self._follower.alarms)
        if mirror is None:
            await self._cosigned_elsewhere(size)
        else:
            await self._advance(mirror)
        return size

    async def _advance(self, mirror: Mirror) -> None:
        try:
            cosigned = await mirror.advance()
        finally:
            self._alarm(mirror.alarms)
        if cosigned is not None:
            self._take(cosigned)

    def _alarm(self, alarms: Alarms) -> None:
        """What was found damaged is told once, by the log and by an alarm (alarming.py)."""
        found = alarms.take()
        if not found:
            return
        self._acknowledging.damaged(self._site.name, f"{found[0].key}: {found[0].what}")
        log_alarms(self._site, [one for one in found if one not in self._told])
        self._told = dict.fromkeys([*self._told, *found][-TOLD_MAX:])

    def _take(self, cosigned: OpenedCheckpoint) -> None:
        self._quorum.offer(cosigned)
        self._acknowledging.cosigned(self._site.name, cosigned.checkpoint)

    async def _by_receipts(self) -> int:
        """Take over what a site that no line leads to has cosigned, as far as its receipts say."""
        found = await read_cosigned(self._site, self._ledger.log_key)
        if found is None:
            self._acknowledging.cosigned(self._site.name, None)
            return 0
        self._take(found.opened)
        return found.opened.checkpoint.size

    async def _cosigned_elsewhere(self, size: int) -> None:
        """Take over what a mirror that runs elsewhere has cosigned; it is given some time to get to `size`."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + self._elsewhere_s
        while True:
            found = await read_cosigned(self._site, self._ledger.log_key)
            if found is None:
                self._acknowledging.cosigned(self._site.name, None)
            else:
                self._take(found.opened)
            if loop.time() >= end_s or (found is not None and found.opened.checkpoint.size >= size):
                return
            await asyncio.sleep(ELSEWHERE_POLL_S)


@dataclass(frozen=True, slots=True)
class Following:
    """What the rounds of all sites share."""

    writable: WritableLedger
    service: Service
    keys: Keys
    target: Target
    every_s: float
    ship_every_s: float = 0.0
    """From the beginning of one round to the next, at least, while nobody waits: what stands in for an unfinished
    bundle is sent once for all that was published meanwhile."""
    pause_s: float = PAUSE_S
    shown: dict[str, str] = field(default_factory=dict)
    settling: asyncio.Lock = field(default_factory=asyncio.Lock)

    def sites(self) -> list[Coroutine[Any, Any, None]]:
        """One for each site and witness, for as long as the ledger is served.

        Raises:
            Fenced: another primary has taken over.
        """
        ledger = self.writable.ledger
        sites = ledger.sites()
        rounds = [self.keep_up(site) for site in sites] or [self._alone()]
        ahead = shipping_ahead(ledger, sites, self.keys)
        return [
            self._follow_settings(),
            *rounds,
            *ahead,
            *(self._keep_asking(witness) for witness in ledger.settings.witnesses),
        ]

    async def _follow_settings(self) -> None:
        """Take over the sites' schedules whenever they are set anew, also while something is being shipped."""
        ledger = self.writable.ledger
        while True:
            await asyncio.sleep(self.every_s)
            try:
                ledger.shipping.follow(await asyncio.to_thread(read_settings, ledger.paths))
            except JinshiError as error:
                log_news(Outcome("the settings", error=error), self.shown)

    async def keep_up(self, site: Site) -> None:
        """Bring one site up to date again and again. Raises Fenced."""
        loop, rounds = asyncio.get_running_loop(), self._rounds(site)
        size, compared_s = -1, float("-inf")
        while True:
            target = await self.target.above(size, self.every_s)
            started_s = loop.time()
            keyring = started_s - compared_s >= self.every_s
            self.target.begins(site.name)
            try:
                outcome = Outcome(site.name, await rounds.run(target, keyring=keyring))
            except JinshiError as error:
                outcome = Outcome(site.name, error=error)
            finally:
                self.target.ends(site.name)
            self._tell(site, outcome)
            if isinstance(outcome.error, Fenced):
                raise outcome.error
            if outcome.error is None:
                size = max(size, target.checkpoint.size)
                compared_s = started_s if keyring else compared_s
                await self._settle(site)
            await asyncio.sleep(self.pause_s if outcome.error is None else self.every_s)
            await self._gather(started_s + self.ship_every_s)

    async def _gather(self, end_s: float) -> None:
        """Let more be published before the next round, while no request waits for what the sites have."""
        while not (self.service.acknowledging.awaited or self.service.quorum.covered.awaited):
            left_s = end_s - asyncio.get_running_loop().time()
            if left_s <= 0:
                return
            await asyncio.sleep(min(left_s, self.pause_s))

    async def _keep_asking(self, witness: WitnessSettings) -> None:
        """Have a witness cosign what the sites are asked to cosign, again and again."""
        name, size = f"witness {witness.name}", -1
        while True:
            target = await self.target.above(size, self.every_s)
            self.target.begins(name)
            try:
                asked = await ask(self.writable.ledger, witness, target)
            finally:
                self.target.ends(name)
            if asked.opened is not None:
                self.service.quorum.offer(asked.opened)
                size = max(size, target.checkpoint.size)
            if asked.error is not None or name not in self.shown or self.shown[name].partition(" ")[0] != "size":
                log_news(Outcome(name, size, error=asked.error), self.shown)
            await asyncio.sleep(self.pause_s if asked.error is None else self.every_s)

    def _rounds(self, site: Site) -> Rounds:
        ledger = self.writable.ledger
        follower = Follower(
            ledger.shipping.source,
            ledger.throttled(site),
            ledger.origin,
            ledger.log_key,
            epoch=self.writable.sequencer.epoch,
            nonce=nonce,
            # Grows while the ledger is served: the sequencer's sealer takes in every approval.
            erased=self.writable.sealer.erasures.erased,
            settled_size=lambda: self.writable.sealer.erasures.settled_size,
            released=ReleasedIn(ledger.store).now,
            limits=ledger.shipping.limits,
            label=Labelled(ledger.store).label,
            evidence=ledger.evidence(),
            sent=partial(ledger.shipping.sent, site.name),
        )
        quorum, acknowledging = self.service.quorum, self.service.acknowledging
        return Rounds(ledger, site, follower, self.keys, quorum, acknowledging, elsewhere_s=self.every_s)

    def _tell(self, site: Site, outcome: Outcome) -> None:
        if outcome.error is not None or self.shown.get(site.name, "").partition(" ")[0] != "size":
            log_news(outcome, self.shown)  # that it goes on as it went is no news
        if outcome.error is None:
            self.service.quorum.standings[site.name] = f"has {outcome.size} entries"
        else:
            self.service.quorum.standings[site.name] = outcome.error.what
            self.service.acknowledging.failed(site.name, outcome.error)

    async def _settle(self, *sites: Site) -> None:
        """Record what a site has confirmed of erasures, now that it has come further; no other site is asked."""
        async with self.settling:
            size, actor = self.service.quorum.covered.value, self.writable.ledger.environment.actor
            try:
                await settle_as_writer(self.writable, actor, sites, size)
            except JinshiError as error:
                log_news(Outcome("".join(f"{site.name}, " for site in sites) + "erasures", error=error), self.shown)

    async def _alone(self) -> None:
        """Settle what is published of a ledger that has no sites."""
        published = self.service.publishing.published
        while True:
            await self._settle()
            await published.changed()


async def watch_sites(ledger: OpenLedger, acknowledging: Acknowledging, every_s: float) -> None:
    """See for ever how far the sites are that others replicate to; one that does not answer keeps no other waiting."""

    async def watch(site: Site) -> None:
        while True:
            try:
                await check_site(site, ledger.origin)
                found = await read_cosigned(site, ledger.log_key)
                acknowledging.cosigned(site.name, None if found is None else found.opened.checkpoint)
            except JinshiError as error:
                acknowledging.failed(site.name, error)
            await asyncio.sleep(every_s)

    await asyncio.gather(*(watch(site) for site in ledger.sites()))
