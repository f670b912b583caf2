"""The trust service's journal and index: what is saved is folded, once, in whatever order processes look."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from ledger.core.encoding import encode_base64
from ledger.errors import Conflict
from pki.aggregates.authority import Authority
from pki.aggregates.certificate import Certificate
from pki.core.settings import AuthoritySettings
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


async def test_an_index_that_is_no_database_any_more_is_folded_again(tmp_path: Path) -> None:
    file = tmp_path / "trust.sqlite"
    async with trust_bench() as bench:
        await bench.journal.save(meant(bench), permit=bench.permit())
        file.write_bytes(b"no database" * 1_000)
        index = TrustIndex(bench.journal, file)
        await index.catch_up()
        assert index.certificates.find(index.database, "city", SERIAL) is not None
        index.close()
