"""Nothing is missing: so many certificates issued at full speed, then the log read back and held against the answers.

python -m tests.bench issuances --entries 100000 --dir /dev/shm. In this process, 32 at a time, on SQLite; every tenth
client is cancelled in the middle, as when a connection breaks. Afterwards the file is opened anew: every certificate
that was answered has its intent, and after it its outcome, at the places that were answered, with the bytes that were
answered; no serial stands there twice; nothing was signed that is not there; and what was cancelled has come to an end.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from dataclasses import replace
from pathlib import Path

from ledger.core.encoding import decode_base64
from ledger.reader import Reader
from ledger.store.memory import MemoryObjectStore
from ledger.store.sqlite import SqliteEntryStore
from pki.ca import CertificateAuthority, Issued, Order
from pki.core.builtin import BUILTIN
from pki.core.request import parse_request
from tests.bench.issuance import opened
from tests.support.trust import TrustBench
from tests.support.trust_requests import HOLDER, csr

CERTIFICATES = 100_000
CLIENTS = 32
CANCELLED_EVERY = 10
PROFILE = BUILTIN["tls-server"]

Answered = dict[str, tuple[bytes, tuple[int, ...]]]
"""By serial: the SHA-256 of the certificate, and the places of its entries."""


async def issue(bench: TrustBench, count: int) -> tuple[Answered, int]:
    """So many orders; what was answered, and how many callers left before they were."""
    ca, permit = CertificateAuthority(bench.journal, bench.index, bench.keys), bench.permit("certificate.issue")
    numbers, answered, left = iter(range(count)), Answered(), 0

    async def one(number: int) -> Issued:
        asked = parse_request(csr([f"dns:w{number}.city.example"]))
        order = Order("city", PROFILE, asked, f"request:{number}", HOLDER)
        return await ca.issue(await ca.prepare(order, permit=permit))

    async def client() -> None:
        nonlocal left
        for number in numbers:
            task = asyncio.create_task(one(number))
            if number % CANCELLED_EVERY == 0:
                for _ in range(number // CANCELLED_EVERY % 8):
                    await asyncio.sleep(0)
                task.cancel()
                left += 1
                await asyncio.wait({task})
                continue
            issued = await task
            assert issued.serial not in answered, f"the serial {issued.serial} was answered twice"
            places = tuple(place.index for place in issued.places)
            answered[issued.serial] = _digest(issued.certificate), places

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    await ca.close()
    return answered, left


async def check(bench: TrustBench, file: Path, answered: Answered) -> tuple[int, int]:
    """Read the log out of its file: how many certificates and entries. AssertionError: one is missing, or twice."""
    store = await SqliteEntryStore.open(file)
    try:
        journal = replace(bench.journal, reader=Reader(store, MemoryObjectStore()))  # which remembers nothing
        intended: dict[str, int] = {}
        size, seen = 0, set[str]()
        async for occurred in journal.occurred():
            size += 1
            serial = occurred.event.originator_id.rpartition(":")[2]
            match occurred.name:
                case "certificate.intended.v1":
                    assert serial not in seen, f"the serial {serial} was intended twice"
                    seen.add(serial)
                    intended[serial] = occurred.place
                case "certificate.issued.v1":
                    found = _digest(decode_base64(occurred.data["der"])), (intended.pop(serial), occurred.place)
                    assert answered.pop(serial, found) == found, f"{serial} was answered otherwise"
                case "certificate.abandoned.v1":
                    del intended[serial]
        assert not answered, f"{len(answered)} certificates were answered and are not in the log"
        assert not intended, f"{len(intended)} intents have no outcome"
        return len(seen), size
    finally:
        await store.close()


def _digest(certificate: bytes) -> bytes:
    return hashlib.sha256(certificate).digest()


async def run(scratch: Path, _rounds: int, entries: int) -> None:
    """Issue, read back, say how many."""
    count, file = entries or CERTIFICATES, scratch / "ledger.sqlite"
    async with opened(await SqliteEntryStore.open(file, create=True)) as bench:
        before, start = time.process_time(), time.perf_counter()
        answered, left = await issue(bench, count)
        spent, seconds = time.process_time() - before, time.perf_counter() - start
        given = len(answered)
        issued, size = await check(bench, file, answered)
    print(
        f"{count:,} orders: {given:,} certificates answered, {left:,} callers gone before; {issued:,} in"
        f" {size:,} entries of the log; none is missing, no serial twice"
    )
    print(
        f"{given / seconds:,.0f} certificates/s, {spent / count * 1e6:,.0f} µs of processor time each, its key and CSR"
        " included"
    )
