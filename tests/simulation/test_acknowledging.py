"""Acknowledgement policies from a seed: with the primary gone, what was acknowledged is at the sites it named.

A failure prints its seed; `SEED=8123 pytest tests/simulation/test_acknowledging.py` replays it.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest

from ledger.acknowledging import Acknowledging
from ledger.core.acknowledgement import ALL, SAME_CITY, AckPolicy, parse_ack
from ledger.core.checkpoint import Checkpoint
from ledger.core.entry import decode_entry
from ledger.core.merkle import EMPTY_ROOT
from ledger.errors import CompareFailed, Forked, Tampered, Unacknowledged, Unavailable
from ledger.lag import LagMeter
from ledger.verify import verify_growth
from replication.follower import Follower
from replication.mirror import Mirror
from tests.support.ledgers import append as record
from tests.support.ledgers import event
from tests.support.replicas import Replicas
from tests.support.weather import Remote, Weather

SEEDS = range(16)
STEPS = 60
ROLES = {"a": "same-city", "b": "same-city", "c": "remote"}
POLICIES = (parse_ack("any:1"), parse_ack("any:2"), SAME_CITY, ALL)


class City:
    """A primary with three sites behind a network that is cut at times, and producers that wait."""

    def __init__(self, seed: int) -> None:
        self.weather = Weather(seed)
        self.draw = self.weather.draw
        self.replicas = Replicas(sites=ROLES)
        self.store = self.replicas.store
        self.acknowledging = self.started()
        self.waiting: list[tuple[int, str, AckPolicy]] = []
        self.acknowledged: list[tuple[int, str, AckPolicy]] = []
        self.seen: Counter[str] = Counter()

    def started(self) -> Acknowledging:
        return Acknowledging(ROLES.items(), self.replicas.clock, LagMeter(self.store, self.replicas.clock))

    async def run(self) -> None:
        await self.replicas.begin()
        for _ in range(STEPS):
            step = self.draw.choice((self.append, self.append, self.publish, self.round, self.round, self.round,
                                     self.partition, self.heal, self.restart, self.wait))  # fmt: skip
            self.seen[step.__name__] += 1
            await step()
        self.weather.calm = True  # what is failing is failing; then the primary is gone, and the network is back
        self.weather.partitioned.clear()
        await self.check()

    async def append(self) -> None:
        size = (await self.store.head()).size
        events = [event(number) for number in range(size, size + self.draw.randrange(1, 4))]
        places, self.replicas.epoch = await record(self.store, events, self.replicas.clock)
        last = places[-1].index
        self.waiting.append((last, events[-1].id, self.draw.choice(POLICIES)))

    async def publish(self) -> None:
        signed = await self.replicas.publish()
        self.acknowledging.published(Checkpoint(signed.origin, signed.size, signed.root))

    async def round(self) -> None:
        name = self.draw.choice(list(ROLES))
        place = self.replicas.places[name]
        site = replace(place.site, objects=Remote(place.objects, self.weather, name))
        try:
            follower = Follower(
                self.replicas.published,
                site,
                self.replicas.origin,
                self.replicas.log,
                epoch=self.replicas.epoch,
                nonce=self.replicas.nonce,
            )
            await self.publish()
            await follower.run_once()
            mirror = Mirror(
                site, place.cosigner, self.replicas.log, self.replicas.origin, self.replicas.clock, place.memory
            )
            cosigned = await mirror.advance()
        except (Unavailable, CompareFailed, Tampered) as error:
            # Refusing is right where a site lies, or keeps less than it said; taking it for a fork is not.
            if isinstance(error, Forked) or not (self.weather.lies_of[name] or isinstance(error, Unavailable)):
                raise
            self.acknowledging.failed(name, error)
        else:
            self.acknowledging.cosigned(name, None if cosigned is None else cosigned.checkpoint)
        await self.wait()

    async def partition(self) -> None:
        self.weather.partitioned.add(self.draw.choice(list(ROLES)))

    async def heal(self) -> None:
        self.weather.partitioned.clear()

    async def restart(self) -> None:
        """The server is killed, and knows nothing of the sites when it is back."""
        self.acknowledging = self.started()

    async def wait(self) -> None:
        """Producers ask again; those that are answered never will."""
        still: list[tuple[int, str, AckPolicy]] = []
        for index, id_, policy in self.waiting:
            try:
                await self.acknowledging.acknowledge(index, {policy}, 0.0)
            except Unacknowledged as error:
                still.append((index, id_, policy))
                refused = error
            else:
                self.acknowledged.append((index, id_, policy))
        self.waiting = still
        if still:
            self.seen["refused"] += len(still)
            await self.check_lag(refused.sites)

    async def check_lag(self, sites: Sequence[object]) -> None:
        """Exact, also for a site that is cut off: by what it has cosigned, not by what it could say."""
        head = (await self.store.head()).size
        for site, standing in zip(sites, self.acknowledging.standings, strict=True):
            assert isinstance(site, dict)
            assert site["lag_entries"] == head - standing.size
            assert (site["lag_bytes"] == 0) == (site["lag_entries"] == 0)

    async def check(self) -> None:
        """From the sites alone, every copy verified from its bytes."""
        copies = {name: await self.entries_at(name) for name in ROLES}
        for index, id_, policy in self.acknowledged:
            having = {name for name, ids in copies.items() if index < len(ids) and ids[index] == id_}
            enough = {"any:1": len(having) >= 1, "any:2": len(having) >= 2, "same-city": having >= {"a", "b"}}
            assert enough.get(str(policy), having == {"a", "b", "c"}), (index, id_, str(policy), having)

    async def entries_at(self, name: str) -> list[str]:
        if not [key async for key in self.replicas.places[name].objects.list_keys("checkpoint")]:
            return []
        copy = await self.replicas.open(name)
        entries: list[bytes] = []

        async def take(_: int, bundle: Sequence[bytes]) -> None:
            entries.extend(bundle)

        await verify_growth(copy.objects, (0, EMPTY_ROOT), copy.checkpoint, on_bundle=take)
        return [decode_entry(entry).event.id for entry in entries]


def simulate(seed: int) -> City:
    city = City(seed)
    try:
        asyncio.run(city.run())
    except BaseException as error:
        error.add_note(f"SEED={seed}")
        print(f"seed={seed}")
        raise
    return city


@pytest.mark.parametrize("seed", [int(os.environ["SEED"])] if "SEED" in os.environ else SEEDS)
def test_what_was_acknowledged_is_at_the_sites_that_its_policy_named(seed: int) -> None:
    simulate(seed)


def test_the_runs_meet_acknowledgements_of_every_policy_and_refusals() -> None:
    runs = [simulate(seed) for seed in SEEDS]
    acknowledged = Counter(str(policy) for run in runs for _, _, policy in run.acknowledged)
    assert set(acknowledged) == {str(policy) for policy in POLICIES}
    assert sum((run.seen for run in runs), Counter())["refused"] > 50
