"""Many clients of several processes, stores that fail before or after they record, keepers that go away, and recovery
at any time: whatever a client has got is in the log, and everything comes to an end. A failure prints its seed.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import pytest

from ledger.core.encoding import decode_base64
from ledger.core.event import Event
from ledger.errors import InvalidRequest, JinshiError, StoreUnavailable, Unavailable
from ledger.sequencer import Recorded, Sequencer
from pki.aggregates.certificate import Certificate
from pki.ca import CertificateAuthority, Issued
from pki.core.algorithms import Algorithm, IssuerKey
from pki.core.builtin import BUILTIN
from pki.views.catalogue import TrustIndex
from tests.support.trust import HeldKey, HeldKeys, TrustBench, trust_bench
from tests.support.trust_authorities import city_authority
from tests.support.trust_requests import new_key, order

SEEDS = range(int(os.environ.get("SEED", "0")), int(os.environ.get("SEED", "0")) + (1 if "SEED" in os.environ else 12))
PROCESSES, CLIENTS, TURNS = 2, 4, 6
QUOTA = 5


@dataclass(frozen=True)
class Weather:
    """An `Appending` that fails as it is drawn: nothing recorded, or recorded without an answer; and takes its time."""

    inner: Sequencer
    draw: random.Random

    async def append(self, events: Sequence[Event], *, actor: str) -> list[Recorded]:
        for _ in range(self.draw.randrange(4)):
            await asyncio.sleep(0)
        if self.draw.random() < 0.08:
            raise StoreUnavailable("nothing was recorded")
        places = await self.inner.append(events, actor=actor)
        for _ in range(self.draw.randrange(4)):
            await asyncio.sleep(0)
        if self.draw.random() < 0.08:
            raise StoreUnavailable("it was recorded, and nobody knows")
        return places


@dataclass(frozen=True)
class Moody:
    """A key whose keeper is away now and then."""

    held: HeldKey
    draw: random.Random
    local: bool = True

    @property
    def algorithm(self) -> Algorithm:
        return self.held.algorithm

    @property
    def public(self) -> bytes:
        return self.held.public

    @property
    def private(self) -> IssuerKey:
        if self.draw.random() < 0.1:
            raise Unavailable("the HSM is gone")
        return self.held.private


async def simulate(bench: TrustBench, draw: random.Random) -> None:
    await city_authority(bench)
    keys = HeldKeys({name: Moody(one, draw) for name, one in bench.keys.keys.items()})  # type: ignore[misc]
    received: list[Issued] = []
    permit = bench.permit("certificate.issue")
    shared, limited = new_key(), replace(BUILTIN["tls-server"], quota=QUOTA)

    async def client(ca: CertificateAuthority, number: int) -> None:
        for turn in range(TURNS):
            profile = draw.choice([BUILTIN["tls-server"], BUILTIN["tls-client"], limited])
            asked = order(profile, key=shared if profile is not limited else None, request_id=f"r:{number}-{turn}")
            try:
                tokens = [await ca.prepare(asked, permit=permit) for _ in range(draw.randint(1, 3))]
                begun = asyncio.ensure_future(ca.issue_many(tokens))
                if draw.random() < 0.1:
                    await asyncio.sleep(0)
                    begun.cancel()
                received.extend(await begun)
            except (JinshiError, asyncio.CancelledError):
                pass
            bench.clock.pass_s(draw.randrange(3))

    async def recovering(ca: CertificateAuthority) -> None:
        for _ in range(8):
            for _ in range(draw.randrange(20)):
                await asyncio.sleep(0)
            with suppress(Unavailable, InvalidRequest):
                await ca.recover(older_than_s=draw.choice([0, 5]))

    authorities, indexes = [], []
    for _ in range(PROCESSES):
        journal = replace(bench.journal, appending=Weather(bench.sequencer, draw))
        indexes.append(TrustIndex(journal, None))
        await indexes[-1].catch_up()
        authorities.append(CertificateAuthority(journal, indexes[-1], keys))
    await asyncio.gather(
        *(client(authorities[number % PROCESSES], number) for number in range(CLIENTS)), *map(recovering, authorities)
    )
    for ca in authorities:
        await ca.close()
    await check(bench, received, indexes[0])
    for index in indexes:
        index.close()


async def check(bench: TrustBench, received: list[Issued], index: TrustIndex) -> None:
    bench.clock.pass_s(3_600)
    await CertificateAuthority(bench.journal, bench.index, bench.keys).recover()
    intended = Counter([one.event.originator_id async for one in bench.journal.occurred() if "intended" in one.name])
    assert set(intended.values()) <= {1}
    states = {one: await bench.journal.load(Certificate, one) for one in intended}
    assert {one.state for one in states.values()} <= {"issued", "abandoned"}
    assert len({one.serial for one in received}) == len(received)
    for one in received:
        recorded = states[Certificate.create_id("city", one.serial)]
        assert (recorded.state, decode_base64(recorded.der)) == ("issued", one.certificate)
    await bench.index.catch_up()
    await index.catch_up()
    query = "SELECT * FROM certificates ORDER BY serial"
    assert index.database.execute(query).fetchall() == bench.index.database.execute(query).fetchall()
    assert received


@pytest.mark.parametrize("seed", SEEDS)
async def test_whatever_fails_a_client_has_only_what_is_in_the_log(seed: int) -> None:
    print(f"seed={seed}")
    async with trust_bench() as bench:
        await simulate(bench, random.Random(seed))
