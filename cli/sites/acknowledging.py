"""Acknowledging for a command that is the ledger's writer: it runs the sites' rounds until they have it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cli.sites.ahead import shipping_ahead
from cli.sites.rounds import Keys, replicate_site
from cli.system import SystemClock
from cli.wiring.ledgers import OpenLedger, WritableLedger, mirror_memory
from ledger.acknowledging import Acknowledging, check_asked, demanded
from ledger.content import Leases
from ledger.core.acknowledgement import AckPolicy
from ledger.errors import JinshiError
from ledger.lag import LagMeter
from ledger.sealing import Sealer
from ledger.sequencer import Sequencer
from ledger.tasks import Report, run_bounded
from replication.site import Site

RETRY_S = 0.5


@dataclass(frozen=True, slots=True)
class Ack:
    """What a command asks for: a policy, besides what the sources demand, and for how long it waits."""

    asked: AckPolicy | None
    timeout_s: float


async def acknowledging_of(ledger: OpenLedger) -> Acknowledging:
    """The standings of a ledger's sites, none of which was heard of yet; what their mirrors remember, where at hand."""
    roles = [(site.name, site.counts_as) for site in ledger.settings.sites]
    acknowledging = Acknowledging(roles, SystemClock(), LagMeter(ledger.store, SystemClock()))
    for site in ledger.settings.sites:
        with suppress(JinshiError):  # the site itself will say
            remembered = await mirror_memory(site, ledger.origin)
            acknowledging.remember(site.name, 0 if remembered is None else remembered.checkpoint.size)
    return acknowledging


class Writing:
    """A ledger opened for writing, as a `Recorder` (handover.py)."""

    def __init__(self, writable: WritableLedger, passphrase: str) -> None:
        self._writable = writable
        self._keys = Keys(passphrase)
        self._known: Acknowledging | None = None
        self._sites: list[Site] | None = None
        self._opening = asyncio.Lock()

    @property
    def ledger(self) -> OpenLedger:
        return self._writable.ledger

    @property
    def sequencer(self) -> Sequencer:
        return self._writable.sequencer

    @property
    def sealer(self) -> Sealer:
        return self._writable.sealer

    @property
    def leases(self) -> Leases:
        return self._writable.leases

    async def publish(self, report: Report | None = None) -> None:
        """Sign and publish what is committed."""
        await self._writable.publish(report)

    async def acknowledge(self, index: int, sources: Collection[str], ack: Ack) -> None:
        """As `Recorder.acknowledge`."""
        policies = demanded(self.sealer.sources, sources, ack.asked)
        if not policies:
            return
        await self.publish()
        known = self._known = self._known or await acknowledging_of(self.ledger)
        for step in self._writable.publisher.steps:
            known.published(step.checkpoint)
        known.published((await self.ledger.reader.published()).checkpoint)
        roles = {site.name: site.counts_as for site in self.ledger.settings.sites}
        rounds = [
            asyncio.create_task(self._rounds(site, index, known), name=f"rounds of {site.name}")
            for site in await self._opened_sites()
            if any(policy.needs(roles[site.name]) for policy in policies)
        ]
        try:
            await known.acknowledge(index, policies, ack.timeout_s)
        finally:
            for task in rounds:
                task.cancel()  # one that was not needed; what it began is carried on by the next round
            _raise_faults(await asyncio.gather(*rounds, return_exceptions=True))

    @asynccontextmanager
    async def shipping_ahead(self) -> AsyncIterator[None]:
        """Meanwhile, what is captured is on its way to all sites before the last of it is here."""
        shipping = asyncio.create_task(self._ship_ahead(), name="shipping ahead")
        try:
            with self.ledger.shipping.written.expecting():
                yield
        finally:
            shipping.cancel()
            _raise_faults(await asyncio.gather(shipping, return_exceptions=True))

    async def _ship_ahead(self) -> None:
        work = shipping_ahead(self.ledger, await self._opened_sites(), self._keys)
        await run_bounded(work, parallel=max(1, len(work)))

    async def _opened_sites(self) -> list[Site]:
        async with self._opening:
            if self._sites is None:
                self._sites = await asyncio.to_thread(self.ledger.sites)  # the first one takes a while to be made
            return self._sites

    async def _rounds(self, site: Site, index: int, known: Acknowledging) -> None:
        """Round after round, until the site has the entry."""
        mirrored = Path(self.ledger.settings.site(site.name).mirror_key).is_file()
        while True:
            outcome = await replicate_site(self.ledger, site, self._keys, lambda _: _silent, mirrored=mirrored)
            if outcome.error is None:
                known.cosigned(site.name, outcome.cosigned)
                if outcome.cosigned is not None and outcome.cosigned.size > index:
                    return
            else:
                known.failed(site.name, outcome.error)
            await asyncio.sleep(RETRY_S)


def _silent(_done: int, _all: int) -> None:
    """What a round reports is not shown."""


def _raise_faults(ended: Sequence[object]) -> None:
    """What a round is to report, it has reported; anything else is a fault, and must not look like a site's."""
    for one in ended:
        if isinstance(one, Exception):
            raise one


def check_ack(sealer: Sealer, sources: Collection[str], ack: Ack) -> None:
    """Before anything is recorded: whether this may be asked for. Raises InvalidRequest."""
    check_asked(sealer.sources, sources, ack.asked)
