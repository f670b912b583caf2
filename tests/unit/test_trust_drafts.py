"""Requests read and templates made by a worker process: the same as here, for each alone, whatever becomes of it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ledger.errors import JinshiError, MalformedRequest, Unavailable
from ledger.workers.pool import Workers
from pki.aggregates.certificate import Certificate
from pki.ca import CertificateAuthority
from pki.core.builtin import BUILTIN
from pki.core.request import parse_request
from pki.core.template import SERIAL_BYTES, Instead
from pki.issuance.away import ENTRY
from pki.issuance.drafts import TOGETHER_MIN, Drafts, SharedDrafts
from pki.issuance.generations import Generations
from tests.support.trust import TrustBench, trust_bench
from tests.support.trust_authorities import CITY, city_authority
from tests.support.trust_registration import MAKER, desk
from tests.support.trust_requests import NAMES, SUBJECTS, csr, new_key

SERIAL = bytes(range(1, SERIAL_BYTES + 1))


@asynccontextmanager
async def drafting(bench: TrustBench) -> AsyncIterator[tuple[SharedDrafts, Workers, list[Exception]]]:
    """Drafts that are all made by a worker, with the serial number `SERIAL`."""
    faults: list[Exception] = []
    await city_authority(bench)
    async with Workers(ENTRY, on_fault=faults.append, restart_after_s=0.01) as workers:
        drafts = SharedDrafts(workers, Generations(bench.index.book), bench.clock, serials=lambda: SERIAL)
        drafts.told(TOGETHER_MIN)
        workers.start()
        await until_ready(workers)
        yield drafts, workers, faults


async def until_ready(workers: Workers) -> None:
    async with asyncio.timeout(60):
        while not workers.ready:
            await asyncio.sleep(0.01)


async def test_what_a_worker_gives_is_what_is_given_here() -> None:
    async with trust_bench() as bench, drafting(bench) as (drafts, _, faults):
        issuing, _ = drafts.generations.current(CITY)
        now = int(bench.clock.now().timestamp())
        until = Instead(not_after=now + 7_200)
        for kind in ("P-256", "P-384", "RSA-2048", "Ed25519", "ML-DSA-44"):
            for name, profile in BUILTIN.items():
                data = csr(NAMES.get(name, ()), SUBJECTS[name], new_key(kind))
                for other in (profile, replace(profile, version=3, validity_days=2, renew_before_days=1)):
                    asked = await drafts.read(data, CITY, other, not_after=now + 7_200)
                    assert asked == parse_request(data)
                    here, away = await asyncio.gather(
                        Drafts().template(issuing, other, asked, SERIAL, now=now, instead=until),
                        drafts.template(issuing, other, asked, b"", now=0, instead=until),
                        return_exceptions=True,
                    )
                    assert outcome(here) == outcome(away)
        pem = x509.load_der_x509_csr(data).public_bytes(Encoding.PEM)
        assert await drafts.read(pem, CITY, BUILTIN["tls-server"]) == parse_request(pem)
        with pytest.raises(MalformedRequest, match="nothing proves"):
            await drafts.read(data[:-1] + bytes([data[-1] ^ 1]), CITY, BUILTIN["tls-server"])
        assert faults == []


def outcome(answer: object) -> object:
    """What an answer says, an error too."""
    return (type(answer), answer.what, answer.hint) if isinstance(answer, JinshiError) else answer


async def test_what_was_made_ahead_counts_for_what_it_was_made_for_and_once() -> None:
    async with trust_bench() as bench, drafting(bench) as (drafts, _, _):
        issuing, _ = drafts.generations.current(CITY)
        now, profile = int(bench.clock.now().timestamp()), BUILTIN["tls-server"]
        other = SERIAL[::-1]
        for asked_for in (
            {"instead": Instead(names=("dns:www.city.example",))},
            {"instead": Instead(parse_request(csr(NAMES["tls-server"])).subject)},
            {"instead": Instead(not_after=now + 7_200)},
            {"profile": replace(profile)},
            {"issuing": replace(issuing)},
        ):
            asked = await drafts.read(csr(NAMES["tls-server"]), CITY, profile)
            wanted = {"issuing": issuing, "profile": profile, "request": asked, "serial": other, "now": now}
            assert (await drafts.template(**(wanted | asked_for))).serial == other.hex()  # type: ignore[arg-type]
            assert (await drafts.template(**wanted)).serial == other.hex()  # type: ignore[arg-type]
        asked = await drafts.read(csr(NAMES["tls-server"]), CITY, profile)
        again = await drafts.read(asked.der, CITY, profile)
        for one in (asked, again):
            assert (await drafts.template(issuing, profile, one, other, now=now)).serial == SERIAL.hex()
            assert (await drafts.template(issuing, profile, one, other, now=now)).serial == other.hex()


async def test_a_worker_that_is_killed_costs_what_it_had_and_nothing_that_was_answered() -> None:
    async with trust_bench() as bench, drafting(bench) as (_, workers, faults):
        generations = Generations(bench.index.book)
        drafts = SharedDrafts(workers, generations, bench.clock)
        ca = CertificateAuthority(bench.journal, bench.index, bench.keys, drafts=drafts, generations=generations)
        made = desk(bench, ca=ca)
        made.registration.drafts = drafts
        await made.vetted()
        wishes = [made.wish(f"dns:w{number}.parks.example", key=str(number)) for number in range(60)]
        asking = [asyncio.create_task(made.registration.submit(MAKER, wish)) for wish in wishes]
        while workers.pending < 10:
            await asyncio.sleep(0)
        os.kill(workers.running[0], signal.SIGKILL)
        answers = await asyncio.gather(*asking, return_exceptions=True)
        issued = [one for one in answers if not isinstance(one, BaseException)]
        assert all(isinstance(one, Unavailable) for one in answers if isinstance(one, BaseException))
        assert len(issued) < len(wishes)
        assert len(faults) == 1
        for one in issued:
            certificate = await bench.journal.load(Certificate, Certificate.create_id(one.authority, one.serial))
            assert certificate.state == "issued"
        await until_ready(workers)
        again = [wish for wish, answer in zip(wishes, answers, strict=True) if isinstance(answer, Unavailable)]
        assert len(await asyncio.gather(*(made.registration.submit(MAKER, wish) for wish in again))) == len(again)
