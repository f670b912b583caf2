"""Issuing, CSR to certificate, with everything recorded: processor time by part, and certificates a second.

In this process, over SQLite and PostgreSQL, with P-256 keys throughout; no network and no approvals. What a part costs
is measured by itself; what recording costs is the rest of the whole.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

from cli.system import SystemClock
from ledger.store.base import EntryStore
from ledger.store.place import PostgresPlace
from ledger.store.postgres import PostgresEntryStore
from ledger.store.sqlite import SqliteEntryStore
from pki.ca import CertificateAuthority, Order
from pki.core.builtin import BUILTIN
from pki.core.lint import lint
from pki.core.request import parse_request
from pki.core.signatures import sign
from pki.core.template import SERIAL_BYTES, make_template
from pki.issuance.generations import Generations
from pki.views.catalogue import TrustIndex
from tests.support.postgres import PostgresServer
from tests.support.trust import SetClock, TrustBench, trust_bench
from tests.support.trust_authorities import city_authority
from tests.support.trust_requests import HOLDER, csr

CERTIFICATES = 3_000
CLIENTS = (1, 8, 32)
BATCH = 100
PARTS = 2_000
PROFILE = BUILTIN["tls-server"]


def microseconds(part: Callable[[], object], count: int = PARTS) -> float:
    """Processor time of one call."""
    part()
    before = time.process_time()
    for _ in range(count):
        part()
    return (time.process_time() - before) / count * 1e6


def requests(count: int) -> list[bytes]:
    return [csr([f"dns:www{number}.city.example", f"dns:w{number}.city.example"]) for number in range(count)]


@asynccontextmanager
async def opened(store: EntryStore) -> AsyncIterator[TrustBench]:
    async with trust_bench(store=store, clock=SetClock(SystemClock().now())) as bench:
        await city_authority(bench)
        yield bench
    await store.close()


async def parts(bench: TrustBench) -> dict[str, float]:
    """What each pure part costs."""
    data = csr(["dns:www.city.example", "dns:city.example"])
    asked, now = parse_request(data), int(bench.clock.now().timestamp())
    issuing, reference = Generations(bench.index.book).current("city")
    key = await bench.keys.open(reference)
    made = make_template(issuing, PROFILE, asked, os.urandom(SERIAL_BYTES), now=now)
    return {
        "parse": microseconds(lambda: parse_request(data)),
        "template": microseconds(lambda: make_template(issuing, PROFILE, asked, os.urandom(SERIAL_BYTES), now=now)),
        "lint": microseconds(lambda: lint(made.tbs, issuing, PROFILE, now=now)),
        "sign": microseconds(lambda: sign(key.private, key.algorithm, made.tbs)),
    }


async def whole(bench: TrustBench, clients: int, batch: int = 1) -> tuple[float, float]:
    """Everything, for so many clients at once: processor time of a certificate (µs), and how many a second."""
    ca, permit = CertificateAuthority(bench.journal, bench.index, bench.keys), bench.permit("certificate.issue")
    given: Iterator[bytes] = iter(requests(CERTIFICATES))

    async def client() -> None:
        for data in given:
            group = [data, *(one for _, one in zip(range(batch - 1), given, strict=False))]
            tokens = []
            for one in group:
                order = Order("city", PROFILE, parse_request(one), "request:bench", HOLDER)
                tokens.append(await ca.prepare(order, permit=permit))
            if batch == 1:
                await ca.issue(tokens[0])
            else:
                await ca.issue_many(tokens)

    before, start = time.process_time(), time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return (time.process_time() - before) / CERTIFICATES * 1e6, CERTIFICATES / (time.perf_counter() - start)


async def index_cost(bench: TrustBench) -> float:
    """What folding one certificate into the index costs (µs): two entries of it."""
    index = TrustIndex(bench.journal, None)
    before = time.process_time()
    await index.catch_up()
    spent = time.process_time() - before
    (count,) = index.database.execute("SELECT count(*) FROM certificates").fetchone()
    index.close()
    return spent / count * 1e6


async def measure(name: str, store: EntryStore) -> None:
    async with opened(store) as bench:
        found = await parts(bench)
        print(f"{name}: " + ", ".join(f"{part} {cost:,.0f}" for part, cost in found.items()) + " µs", flush=True)
        for clients, batch in (*((count, 1) for count in CLIENTS), (1, BATCH)):
            spent, rate = await whole(bench, clients, batch)
            of = f"{clients} clients" if batch == 1 else f"batches of {batch}"
            print(
                f"{name}: {of:<15} {rate:>8,.0f} certificates/s   {spent:>6,.0f} µs of processor time each,"
                f" {spent - sum(found.values()):,.0f} of it for recording, looking up and the index",
                flush=True,
            )
        print(f"{name}: folding one certificate into the index {await index_cost(bench):,.0f} µs", flush=True)


async def run(scratch: Path, _rounds: int, _entries: int) -> None:
    """SQLite, then PostgreSQL, in one run."""
    await measure("sqlite", await SqliteEntryStore.open(scratch / "ledger.sqlite", create=True))
    scratch.chmod(0o755)
    server = PostgresServer.create(scratch / "cluster")
    server.start()
    try:
        place: PostgresPlace = server.place()
        await measure("postgresql", await PostgresEntryStore.open(place, create=True))
    finally:
        server.stop()
