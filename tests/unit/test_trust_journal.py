"""The trust service's journal and index: what is saved is folded, once, in whatever order processes look."""

from __future__ import annotations

import asyncio
import random
import stat
from datetime import timedelta
from pathlib import Path

import pytest

from ledger.core.encoding import encode_base64
from ledger.core.event import format_moment
from ledger.errors import Conflict
from pki.aggregates import every
from pki.aggregates.authority import Authority
from pki.aggregates.base import TrustEvent
from pki.aggregates.certificate import Certificate
from pki.aggregates.request import CertificateRequest
from pki.core.settings import AuthoritySettings
from pki.journal import _MAPPER, _MAPPING, _event_to_record
from pki.views import index as index_module
from pki.views.catalogue import TrustIndex
from tests.support.trust import TrustBench, trust_bench

SERIAL = "0" * 39 + "7"


def meant(bench: TrustBench, serial: str = SERIAL, *, shard: int = 0) -> Certificate:
    now = bench.clock.now()
    return Certificate(
        authority="city",
        generation=1,
        serial=serial,
        profile="tls-server",
        subject="CN=a.example",
        names=["dns:a.example"],
        key="ab" * 32,
        not_before=int(now.timestamp()),
        not_after=int((now + timedelta(days=90)).timestamp()),
        tbs="cd" * 32,
        shard=shard,
        request="request:1",
        holder="organisation:a",
        timestamp=now,
    )


async def test_two_who_decide_about_the_same_certificate_do_not_both_succeed() -> None:
    async with trust_bench() as bench:
        await bench.journal.save(meant(bench), permit=bench.permit())
        first = await bench.journal.load(Certificate, f"certificate:city:{SERIAL}")
        second = await bench.journal.load(Certificate, f"certificate:city:{SERIAL}")
        first.issue(encode_base64(b"one"), timestamp=bench.clock.now())
        bench.clock.pass_s(1)
        second.abandon("crashed", timestamp=bench.clock.now())
        await bench.journal.save(first, permit=bench.permit())
        with pytest.raises(Conflict, match="meanwhile"):
            await bench.journal.save(second, permit=bench.permit())
        assert (await bench.journal.load(Certificate, first.id)).state == "issued"


async def test_what_is_recorded_is_what_the_library_would_have_recorded() -> None:
    async with trust_bench() as bench:
        certificate, now = meant(bench), bench.clock.now()
        certificate.issue(encode_base64(b"one"), timestamp=now)
        certificate.revoke("superseded", timestamp=now)
        for decided in certificate.collect_events():
            time, said = format_moment(now), {"permittedby": "test"}
            assert isinstance(decided, TrustEvent)
            expected = _MAPPING.to_event(_MAPPER.to_stored_event(decided), time=time, extensions=said)
            assert _event_to_record(decided, time, said) == expected


async def test_acts_are_recorded_together_or_not_at_all() -> None:
    async with trust_bench() as bench:
        await bench.journal.save(meant(bench), permit=bench.permit())
        bench.clock.pass_s(1)
        with pytest.raises(Conflict):
            await bench.journal.save(meant(bench, "1" * 40), meant(bench), permit=bench.permit())
        assert await bench.journal.find(Certificate, f"certificate:city:{'1' * 40}") is None


async def test_an_index_that_is_thrown_away_or_shared_says_the_same(tmp_path: Path) -> None:
    file = tmp_path / "trust.sqlite"
    async with trust_bench() as bench:
        shared, other = TrustIndex(bench.journal, file), TrustIndex(bench.journal, file)
        authority = Authority("city", "", AuthoritySettings(shards=4).recorded(), timestamp=bench.clock.now())
        await bench.journal.save(authority, permit=bench.permit())
        at: list[int] = []
        for number in range(20):
            serial = f"{number:040x}"
            certificate = meant(bench, serial, shard=number % 4)
            certificate.issue(encode_base64(bytes([number])), timestamp=bench.clock.now())
            await bench.journal.save(certificate, permit=bench.permit())
            if number % 3 == 0:
                certificate.hold(timestamp=bench.clock.now())
                await bench.journal.save(certificate, permit=bench.permit())
            at.append(await (shared if number % 2 else other).catch_up())
            if number % 6 == 0:
                certificate.release(timestamp=bench.clock.now())
                await bench.journal.save(certificate, permit=bench.permit())
            bench.clock.pass_s(1)
        for index in (shared, other):
            await index.catch_up()
        file_again = tmp_path / "again.sqlite"
        rebuilt = TrustIndex(bench.journal, file_again)
        await rebuilt.catch_up()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, "it has in the clear what is sealed in the log"
        for index in (shared, other, rebuilt):
            assert [one.name for one in index.book.all(Authority)] == ["city"]
            rows = [index.certificates.find(index.database, "city", f"{number:040x}") for number in range(20)]
            assert [row.state for row in rows if row] == [
                "held" if n % 3 == 0 and n % 6 else "issued" for n in range(20)
            ]
            # As of each moment, what was on hold then is still known.
            for number, size in enumerate(at):
                named = {
                    int(row.serial, 16)
                    for shard in range(4)
                    for row in index.certificates.revoked(index.database, "city", shard, size, ends_after=0)
                }
                expected = {n for n in range(number + 1) if n % 3 == 0 and (n % 6 or n == number)}
                assert named == expected
            index.close()


def test_the_events_of_every_aggregate_are_known_to_whoever_folds_the_log() -> None:
    there = {path.stem for path in Path(every.__file__).parent.glob("*.py")} - {"__init__", "base", "every"}
    assert set(every.__all__) == there


async def test_an_index_that_is_no_database_any_more_is_folded_again(tmp_path: Path) -> None:
    file = tmp_path / "trust.sqlite"
    async with trust_bench() as bench:
        await bench.journal.save(meant(bench), permit=bench.permit())
        file.write_bytes(b"no database" * 1_000)
        index = TrustIndex(bench.journal, file)
        await index.catch_up()
        assert index.certificates.find(index.database, "city", SERIAL) is not None
        index.close()


def asked(bench: TrustBench, name: str, reference: str) -> CertificateRequest:
    now = bench.clock.now()
    return CertificateRequest(
        name=name,
        requester="local:a",
        authority="city",
        profile="tls-server",
        profile_version=0,
        holder="organisation:a",
        csr="AAAA",
        key="ab" * 32,
        subject=None,
        names=["dns:a.example"],
        not_after=0,
        renews="",
        approvals=0 if reference else 1,
        role="approver",
        barred=[],
        expires=int(now.timestamp()) + 1_000,
        reference=reference,
        timestamp=now,
    )


async def test_events_that_are_folded_together_make_the_rows_that_they_make_one_by_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    async with trust_bench() as bench:
        open_ones: list[Certificate] = []
        for number in range(60):
            serial = f"{number:040x}"
            certificate = meant(bench, serial, shard=number % 2)
            also = [asked(bench, f"r{number}", chance.choice(["", serial]))] if chance.random() < 0.7 else []
            await bench.journal.save(certificate, *also, permit=bench.permit())
            open_ones.append(certificate)
            for one in chance.sample(open_ones, k=min(3, len(open_ones))):
                now = bench.clock.now()
                match one.state, chance.randrange(3):
                    case "intended", 0:
                        one.abandon("crashed", timestamp=now)
                    case "intended", _:
                        one.issue(encode_base64(one.serial.encode()), timestamp=now)
                    case "issued", 0:
                        one.hold(timestamp=now)
                    case "held", 0:
                        one.release(timestamp=now)
                    case "held" | "issued", 1:
                        one.revoke("superseded", timestamp=now)
                await bench.journal.save(one, permit=bench.permit())
                bench.clock.pass_s(1)
        found = []
        for size in (1, 7, 512):
            monkeypatch.setattr(index_module, "BATCH_EVENTS", size)
            index = TrustIndex(bench.journal, tmp_path / f"{size}.sqlite")
            await index.catch_up()
            tables = ("certificates", "revocations", "requests")
            found.append([index.database.execute(f"SELECT * FROM {one} ORDER BY 1, 2, 3").fetchall() for one in tables])  # noqa: S608
            index.close()
        assert found[0] == found[1] == found[2]
        assert all(found[0])


async def test_many_who_look_at_once_share_a_run_that_began_after_they_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    async with trust_bench() as bench:
        looks, head = 0, bench.journal.reader.head

        async def counted() -> object:
            nonlocal looks
            looks += 1
            await asyncio.sleep(0)
            return await head()

        monkeypatch.setattr(bench.journal.reader, "head", counted)

        async def saved_and_looked(number: int) -> None:
            serial = f"{number:040x}"
            await bench.journal.save(meant(bench, serial), permit=bench.permit())
            await bench.index.catch_up()
            assert bench.index.certificates.find(bench.index.database, "city", serial) is not None

        await asyncio.gather(*map(saved_and_looked, range(40)))
        assert looks < 20
