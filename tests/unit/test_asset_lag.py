"""How far each site is behind with each asset: held against going through the whole log, whatever sites do."""

from __future__ import annotations

import random

from ledger.asset_lag import AssetLag, AssetLagMeter
from ledger.assets import Asset, asset_source
from ledger.core.event import Event
from ledger.store import memory
from ledger.store.memory import MemoryEntryStore
from tests.support.ledgers import FixedClock, append

NONE = AssetLag(0, 0, 0.0)


def asset(name: str, *sources: str) -> Asset:
    options = {"sources": list(sources)} if sources else {}
    return Asset(name, "events" if sources else "files", asset_source(name), 3, "x", options)  # type: ignore[arg-type]


WWW, PERMITS = asset("www"), asset("permits", "urn:permits", "urn:licences")
SOURCES = ("urn:other", WWW.source, "urn:permits", "urn:licences", PERMITS.source)


class Counting(MemoryEntryStore):
    """Says how many rows were read."""

    rows_read = 0

    async def rows(self, start: int, limit: int) -> list[memory.Row]:  # type: ignore[override]
        found = list(await super().rows(start, limit))
        self.rows_read += len(found)
        return found


def oracle(log: list[tuple[str, int, float]], one: Asset, size: int, now_s: float) -> AssetLag:
    missing = [(weight, at_s) for source, weight, at_s in log[size:] if source in one.sources]
    if not missing:
        return NONE
    return AssetLag(len(missing), sum(weight for weight, _ in missing), now_s - missing[0][1])


async def test_lag_is_exact_whatever_the_sites_do() -> None:
    seed = random.randrange(10**6)
    print(f"seed={seed}")
    chance, clock, store = random.Random(seed), FixedClock(), Counting()
    meter, log, sizes = AssetLagMeter(store, clock), [], [0, 0, 0]
    assets = [WWW]
    for step in range(60):
        source = chance.choice(SOURCES)
        events = [
            Event(f"{step}-{n}", source, "t.v1", data=b'"%s"' % (b"x" * chance.randrange(50)))
            for n in range(chance.randrange(1, 30))
        ]
        await append(store, events, clock)
        for row in await super(Counting, store).rows(len(log), 10_000):
            log.append((row.source, len(row.entry), clock.time.timestamp()))
        clock.advance(chance.randrange(100))
        for site in range(3):
            if chance.random() < 0.5:  # the others are away
                sizes[site] = chance.randrange(sizes[site], len(log) + 1)
        if step == 20:
            assets.append(PERMITS)
        if step == 40:  # a site begins anew
            sizes[0] = 0
        found = await meter.of(assets, sizes)
        for size in sizes:
            for one in assets:
                measured, expected = found[size, one.name], oracle(log, one, size, clock.time.timestamp())
                assert (measured.entries, measured.bytes) == (expected.entries, expected.bytes)
                assert abs(measured.seconds - expected.seconds) < 0.001


async def test_what_was_counted_is_not_read_again() -> None:
    store, clock = Counting(), FixedClock()
    meter = AssetLagMeter(store, clock)
    await append(store, [Event(str(n), WWW.source, "t.v1") for n in range(500)], clock)
    assert (await meter.of([WWW], [100]))[100, "www"].entries == 400
    store.rows_read = 0
    await append(store, [Event(f"more-{n}", WWW.source, "t.v1") for n in range(10)], clock)
    assert (await meter.of([WWW], [100]))[100, "www"].entries == 410
    assert store.rows_read == 10
    assert (await meter.of([WWW], [200]))[200, "www"].entries == 310
    assert store.rows_read == 110, "what the site took in since"
    assert (await meter.of([WWW], [200, 9_999]))[9_999, "www"] == NONE


async def test_more_than_can_be_counted_still_has_an_age() -> None:
    store, clock = MemoryEntryStore(), FixedClock()
    await append(store, [Event(str(n), WWW.source, "t.v1") for n in range(50)], clock)
    clock.advance(60)
    found = await AssetLagMeter(store, clock, counted_entries_max=20).of([WWW, PERMITS], [0, 40])
    assert found[0, "www"] == AssetLag(None, None, 60.0)
    assert found[40, "www"].entries == 10
    assert found[0, "permits"] == NONE
