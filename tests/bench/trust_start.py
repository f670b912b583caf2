"""How long the trust service takes to start with 1,000 authorities: with its index, and folded from the log alone."""

from __future__ import annotations

import statistics
from pathlib import Path

from ledger.core.encoding import encode_base64
from ledger.store.sqlite import SqliteEntryStore
from pki.aggregates.authority import Authority
from pki.aggregates.certificate import Certificate
from pki.core.settings import AuthoritySettings
from pki.views.catalogue import TrustIndex
from tests.bench.paired import stopwatch
from tests.support.trust import TrustBench, trust_bench

AUTHORITIES = 1_000
CERTIFICATES = 100_000
CERTIFICATE_SIZE = 800
SAVED_TOGETHER = 200


async def run(scratch: Path, rounds: int, entries: int) -> None:
    """1,000 authorities, each with a key and a certificate, and 100,000 certificates (--entries) of theirs."""
    async with trust_bench(store=await SqliteEntryStore.open(scratch / "ledger.sqlite", create=True)) as bench:
        await _authorities(bench)
        await _certificates(bench, entries or CERTIFICATES)
        indexed, folded = [], []
        for number in range(rounds):
            file = scratch / f"trust-{number}.sqlite"
            for found in (folded, indexed):
                with stopwatch() as watch:
                    index = TrustIndex(bench.journal, file)
                    await index.catch_up()
                    count = len(list(index.book.all(Authority)))
                found.append(watch.seconds)
                index.close()
                assert count == AUTHORITIES
        head = await bench.store.head()
    print(f"{AUTHORITIES:,} authorities, {entries or CERTIFICATES:,} certificates, {head.size:,} entries")
    print(f"  started with its index    {statistics.median(indexed):8.2f} s")
    print(f"  folded from the log       {statistics.median(folded):8.2f} s")


async def _authorities(bench: TrustBench) -> None:
    made = []
    for number in range(AUTHORITIES):
        now = bench.clock.now()
        one = Authority(f"city-{number}", "province", AuthoritySettings().recorded(), timestamp=now)
        one.add_key(f"file:city-{number}", "P-256", encode_base64(bytes(91)), timestamp=now)
        one.certify(1, encode_base64(number.to_bytes(4, "big") * (CERTIFICATE_SIZE // 4)), timestamp=now)
        made.append(one)
    for first in range(0, AUTHORITIES, SAVED_TOGETHER):
        await bench.journal.save(*made[first : first + SAVED_TOGETHER], permit=bench.permit())


async def _certificates(bench: TrustBench, count: int) -> None:
    for first in range(0, count, SAVED_TOGETHER):
        made = []
        for number in range(first, min(first + SAVED_TOGETHER, count)):
            now = bench.clock.now()
            one = Certificate(
                authority=f"city-{number % AUTHORITIES}",
                generation=1,
                serial=f"{number:040x}",
                profile="tls-server",
                subject=f"CN=host-{number}.example",
                names=[f"dns:host-{number}.example"],
                key=f"{number:064x}",
                not_before=0,
                not_after=2_000_000_000,
                tbs=f"{number:064x}",
                shard=0,
                request=f"request:{number}",
                holder=f"organisation:{number % 5_000}",
                timestamp=now,
            )
            one.issue(encode_base64(number.to_bytes(4, "big") * (CERTIFICATE_SIZE // 4)), timestamp=now)
            made.append(one)
        await bench.journal.save(*made, permit=bench.permit())
