"""A day of low traffic in simulated time: entries one by one, published, shipped, cosigned at a server's own pace."""

from __future__ import annotations

from dataclasses import dataclass

from ledger.core.checkpoint import parse_checkpoint
from ledger.publisher import Publisher
from ledger.sequencer import Sequencer
from ledger.store.memory import MemoryObjectStore
from replication.read_once import ReadOnce
from tests.support.accounting import Account, AccountedStore
from tests.support.ledgers import ACTOR, event
from tests.support.replicas import NEAR, Place, Replicas

ENTRY_DATA_SIZE = 250
"""With its attributes, an entry of about 500 bytes."""


@dataclass
class Day:
    """What the primary has published, what the site holds, and how many bytes of entries there are."""

    primary: Account
    site: Account
    entries: int
    entries_bytes: int


async def quiet_day(seconds: int, *, shipped_every_s: int = 1) -> Day:
    """One entry a second; published every second, as a server does; shipped and cosigned every `shipped_every_s`."""
    replicas = Replicas(sites=[])
    published, site = AccountedStore(MemoryObjectStore("published")), AccountedStore(MemoryObjectStore(NEAR))
    replicas.published = published
    replicas.places[NEAR] = replicas.place(NEAR, site)
    await replicas.begin()
    replicas.published = ReadOnce(published)
    place: Place = replicas.places[NEAR]
    async with Sequencer(replicas.store, replicas.clock) as sequencer:
        replicas.epoch = sequencer.epoch
        publisher = Publisher(
            replicas.store, replicas.published, replicas.signer, replicas.origin, epoch=sequencer.epoch
        )
        follower, mirror = replicas.follower(NEAR), replicas.mirror(NEAR)
        for second in range(seconds):
            replicas.clock.advance(1)
            await sequencer.append([event(second, size=ENTRY_DATA_SIZE)], actor=ACTOR)
            newest = parse_checkpoint((await publisher.publish()).note)
            if (second + 1) % shipped_every_s == 0:
                await follower.run_once(upto=newest, keyring=second % 5 == 0)
                await mirror.advance()
    assert place.objects is site
    size = (await replicas.store.head()).size
    entries_bytes = 0
    for start in range(0, size, 10_000):
        entries_bytes += sum(len(stored.entry) for stored in await replicas.store.read(start, 10_000))
    return Day(published.account, site.account, size, entries_bytes)
