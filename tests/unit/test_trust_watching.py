"""Alarms of the trust service: what is late, what ends soon, which keys are away; and nothing else."""

from __future__ import annotations

from pathlib import Path

from cli.serving.trust_watching import TrustWatch
from cli.trust.health import DAY_S
from ledger.alarms import AlarmKind, Reading
from pki.core.algorithms import P256
from pki.keys_away import keys_away
from tests.support.trust_authorities import CITY, CITY_DAYS, city_authority, key_of
from tests.support.trust_status import StatusBench, issued, status_bench
from tests.support.trust_tsa import stamp_authority
from tests.unit.test_trust_status import Dying


def watching(status: StatusBench, folder: Path) -> TrustWatch:
    bench = status.bench

    async def away() -> dict[str, str]:
        return await keys_away(bench.index.book, bench.keys, folder, int(bench.clock.now().timestamp()))

    return TrustWatch(bench.index, status.rounds, away, bench.clock)


async def over(watch: TrustWatch) -> dict[tuple[str, str], str]:
    """What there are alarms for now, with what they say; of what is fine there is a reading, too."""
    await watch.look()
    readings = watch.readings(set())
    assert all(one.fine != one.over for one in readings if not one.about.startswith("place "))
    return {(one.kind.value, one.about): one.what for one in readings if one.over}


async def test_before_the_first_look_what_stands_stays(tmp_path: Path) -> None:
    async with status_bench() as status:
        watch, standing = watching(status, tmp_path), {("key-away", "file"), ("site-lag", "far")}
        assert watch.readings(standing) == [Reading(AlarmKind.KEY_AWAY, "file", "", 0, 0, over=False, fine=False)]
        assert await over(watch) == {}


async def test_a_list_past_its_time_and_a_revocation_that_is_not_published(tmp_path: Path) -> None:
    place = Dying("remote")
    async with status_bench(places={"far": place}) as status:
        watch, bench = watching(status, tmp_path), status.bench
        await status.name_place("far")
        await issued(bench, 1)
        await status.rounds.once()
        assert await over(watch) == {}
        bench.clock.pass_s(20)
        place.left = 0
        await status.revocation.revoke(CITY, "1", "keyCompromise", permit=bench.permit())
        for passed_s, wrong in ((5, set()), (61, {"city-1"}), (300, {"city-1", "place far"})):
            bench.clock.pass_s(passed_s)
            await status.rounds.once()
            assert {about for _, about in await over(watch)} == wrong
        place.left = 10**9
        await status.rounds.once()
        assert await over(watch) == {}
        key = bench.keys.keys.pop("held:city-1")
        bench.clock.pass_s(status.issuer.settings.crl_valid_s + 60)
        await status.rounds.once()
        assert "past its time" in (await over(watch))["status-late", "city-1"]
        bench.keys.keys["held:city-1"] = key
        await status.rounds.once()
        assert await over(watch) == {}


async def test_certificates_that_end_soon(tmp_path: Path) -> None:
    async with status_bench() as status:
        watch, bench = watching(status, tmp_path), status.bench
        await stamp_authority(bench, days=365)
        await status.rounds.once()
        bench.clock.pass_s(330 * DAY_S)
        await status.rounds.once()
        assert await over(watch) == {}, "the responder is certified anew by itself"
        bench.clock.pass_s(6 * DAY_S)
        await status.rounds.once()
        assert "jinshi tsa renew city" in (await over(watch))["trust-certificate-expiring", "time stamps city"]
        bench.clock.pass_s((CITY_DAYS - 336 - 179) * DAY_S)
        await status.rounds.once()
        assert set(await over(watch)) == {
            ("trust-certificate-expiring", "time stamps city"),
            ("trust-certificate-expiring", "authority city"),
        }
        await status.rounds.once()
        key = bench.keys.keys.pop("held:city-1")  # nobody certifies the responder anew
        bench.clock.pass_s(26 * DAY_S)
        await status.rounds.once()
        assert ("trust-certificate-expiring", "responder city-1") in await over(watch)
        bench.keys.keys["held:city-1"] = key


async def test_key_files_that_are_missing_are_counted(tmp_path: Path) -> None:
    async with status_bench() as status:
        bench = status.bench
        for name in ("a", "b"):
            await city_authority(bench, name=name, kept=(f"file:{name}", key_of(P256, name)))
        found = await keys_away(bench.index.book, bench.keys, tmp_path, int(bench.clock.now().timestamp()))
        assert found["file"] == f"the key a and 1 more is not in {tmp_path}"
        assert found["held:city-1"] == ""


async def test_a_key_that_is_away_at_two_looks_in_a_row(tmp_path: Path) -> None:
    async with status_bench() as status:
        watch, bench = watching(status, tmp_path), status.bench
        await status.rounds.once()
        key = bench.keys.keys.pop("held:city-1")
        assert await over(watch) == {}, "it may be a hiccup"
        assert "held:city-1" in (await over(watch))["key-away", "held:city-1"]
        bench.keys.keys["held:city-1"] = key
        assert await over(watch) == {}
