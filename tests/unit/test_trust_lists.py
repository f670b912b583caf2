"""Lists: what they say, what they are made of, and that every one comes back out of the log, byte for byte."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography import x509

from ledger.errors import Conflict, InvalidRequest
from pki.aggregates.authority import Authority
from pki.aggregates.certificate import REASONS
from pki.aggregates.crl import Crl
from pki.core.algorithms import ALGORITHMS, P256, Algorithm
from pki.core.crl import applied, next_number
from pki.core.settings import AuthoritySettings
from pki.revocation import Revocation
from pki.status.issuers import issuer_in
from pki.status.lists import Lists
from pki.views.catalogue import TrustIndex
from tests.support.trust import TrustBench, trust_bench
from tests.support.trust_authorities import CITY, STATUS_URL, city_authority, key_of
from tests.support.trust_status import issued, make_certificate

DELTAS = AuthoritySettings(status_url=STATUS_URL, delta_every_s=600)


def services(bench: TrustBench) -> tuple[Lists, Revocation]:
    return Lists(bench.journal, bench.index, bench.keys), Revocation(bench.journal, bench.index)


def number_of(crl: x509.CertificateRevocationList) -> int:
    return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number


async def listed(
    bench: TrustBench, lists: Lists, *, shard: int = 0, delta: bool = False
) -> x509.CertificateRevocationList:
    issuer = issuer_in(bench.index.book, CITY, 1)
    _, data = await lists.issue(issuer, shard, permit=bench.permit("crl.issue"), delta=delta)
    return x509.load_der_x509_crl(data)


@pytest.mark.parametrize(
    "algorithm", [one for one in ALGORITHMS.values() if one.name != "RSA-4096"], ids=lambda one: one.name
)
async def test_a_list_says_why_since_when_and_by_whom(algorithm: Algorithm) -> None:
    async with trust_bench() as bench:
        await city_authority(bench, algorithm)
        lists, revocation = services(bench)
        for serial, reason in enumerate([*REASONS, "held"], 1):
            await issued(bench, serial)
            if reason == "held":
                await revocation.hold(CITY, f"{serial:x}", permit=bench.permit())
            else:
                await revocation.revoke(CITY, f"{serial:x}", reason, permit=bench.permit(), invalid_since=serial * 1000)
        crl = await listed(bench, lists)
        assert crl.is_signature_valid(key_of(algorithm, CITY).private.public_key())
        assert applied(crl, None) == dict(enumerate([*REASONS, "certificateHold"], 1))
        since = crl[1].extensions.get_extension_for_class(x509.InvalidityDate).value.invalidity_date_utc
        assert since.timestamp() == 2_000
        assert len(crl[0].extensions) == 1  # "unspecified" is said by saying none
        assert number_of(crl) >= 1
        held = (crl.next_update_utc - crl.last_update_utc).total_seconds()  # type: ignore[operator]
        assert held == AuthoritySettings().crl_valid_s


async def test_full_and_delta_lists_share_numbers_and_say_together_what_the_log_says() -> None:
    async with trust_bench() as bench:
        await city_authority(bench, settings=DELTAS)
        lists, revocation = services(bench)
        for serial in range(1, 7):
            await issued(bench, serial)
        await revocation.hold(CITY, "1", permit=bench.permit())
        await revocation.hold(CITY, "2", permit=bench.permit())
        full = await listed(bench, lists)
        fresh = full.extensions.get_extension_for_class(x509.FreshestCRL).value[0].full_name
        assert [one.value for one in fresh or ()] == [f"{STATUS_URL}/crl/city-1-0-delta.crl"]
        bench.clock.pass_s(60)
        await revocation.release(CITY, "1", permit=bench.permit())
        await revocation.revoke(CITY, "2", "keyCompromise", permit=bench.permit())
        await revocation.hold(CITY, "3", permit=bench.permit())
        await revocation.release(CITY, "3", permit=bench.permit())
        await revocation.revoke(CITY, "4", "superseded", permit=bench.permit())
        delta = await listed(bench, lists, delta=True)
        base = delta.extensions.get_extension_for_class(x509.DeltaCRLIndicator)
        assert base.critical
        assert base.value.crl_number == number_of(full)
        assert applied(full, delta) == {2: "keyCompromise", 4: "superseded"}
        assert applied(await listed(bench, lists), None) == applied(full, delta)
        # A client that holds to the first full list can still use a delta that comes after the second.
        later = await listed(bench, lists, delta=True)
        assert later.extensions.get_extension_for_class(x509.DeltaCRLIndicator).value == base.value
        await bench.index.catch_up()
        numbers = [row.number for row in bench.index.crls.of_series(bench.index.database, CITY, 1, 0)]
        assert len(set(numbers)) == 4
        assert numbers == sorted(numbers, reverse=True)


async def test_a_shard_names_its_own_certificates_and_says_which_it_is() -> None:
    async with trust_bench() as bench:
        await city_authority(bench, settings=replace(DELTAS, shards=3))
        lists, revocation = services(bench)
        for serial in range(1, 10):
            await issued(bench, serial, shard=serial % 3)
            await revocation.revoke(CITY, f"{serial:x}", "superseded", permit=bench.permit())
        for shard in range(3):
            crl = await listed(bench, lists, shard=shard)
            assert set(applied(crl, None)) == {n for n in range(1, 10) if n % 3 == shard}
            point = crl.extensions.get_extension_for_class(x509.IssuingDistributionPoint)
            assert point.critical
            assert [one.value for one in point.value.full_name or ()] == [f"{STATUS_URL}/crl/city-1-{shard}.crl"]


async def test_what_has_ended_is_on_one_more_list_and_then_on_none() -> None:
    """RFC 5280 §3.3."""
    async with trust_bench() as bench:
        await city_authority(bench)
        lists, revocation = services(bench)
        await issued(bench, 1, days=1)
        await revocation.revoke(CITY, "1", "superseded", permit=bench.permit())
        assert set(applied(await listed(bench, lists), None)) == {1}
        bench.clock.pass_s(86_400 + 60)
        assert set(applied(await listed(bench, lists), None)) == {1}
        bench.clock.pass_s(60)
        assert not applied(await listed(bench, lists), None)


async def test_numbers_follow_the_clock_so_that_a_restored_ledger_goes_on_above_what_it_lost() -> None:
    async with trust_bench() as bench:
        await city_authority(bench)
        lists, _ = services(bench)
        lost = [await listed(bench, lists) for _ in range(3)]  # more than one a second
        highest = number_of(lost[-1])
    async with trust_bench() as bench:  # another site, whose copy has none of these
        bench.clock.pass_s(3_600)
        await city_authority(bench)
        lists, _ = services(bench)
        first = await listed(bench, lists)
        assert number_of(first) > highest
        bench.clock.pass_s(-7_200)  # and a clock that was set back
        second = await listed(bench, lists)
        number = number_of(second)
        assert number == number_of(first) + 1
        assert second.last_update_utc >= first.last_update_utc
    assert next_number(2**80, 5) == 2**80 + 1


async def test_every_list_comes_back_byte_for_byte_out_of_the_log_alone() -> None:
    async with trust_bench() as bench:
        await city_authority(bench, settings=replace(DELTAS, shards=2))
        lists, revocation = services(bench)
        seen: dict[str, bytes] = {}
        for serial in range(1, 31):
            await issued(bench, serial, shard=serial % 2)
            await revocation.hold(CITY, f"{serial:x}", permit=bench.permit())
            if serial % 3 == 0:
                await revocation.release(CITY, f"{serial:x}", permit=bench.permit())
            for shard in (0, 1):
                issuer = issuer_in(bench.index.book, CITY, 1)
                row, data = await lists.issue(
                    issuer, shard, permit=bench.permit(), delta=serial > 1 and bool(serial % 4)
                )
                seen[f"{row.series}:{row.ordinal}"] = data
            bench.clock.pass_s(40)
        authority = await bench.journal.load(Authority, "authority:city")
        changed = replace(DELTAS, status_url="http://elsewhere.example", shards=4, crl_valid_s=10 * 86_400)
        authority.amend(changed.recorded(), timestamp=bench.clock.now())
        await bench.journal.save(authority, permit=bench.permit())
        again = TrustIndex(bench.journal, None)
        await again.catch_up()
        fresh = Lists(bench.journal, again, bench.keys)
        back = {
            f"{row.series}:{row.ordinal}": await fresh.rebuild(row)
            for shard in (0, 1)
            for row in again.crls.of_series(again.database, CITY, 1, shard)
        }
        again.close()
        assert back == seen


async def test_two_who_issue_at_once_do_not_both_make_the_next_list() -> None:
    async with trust_bench() as bench:
        await city_authority(bench)
        lists, _ = services(bench)
        other = TrustIndex(bench.journal, None)
        await other.catch_up()
        issuer = issuer_in(bench.index.book, CITY, 1)
        behind = other.crls.last(other.database, CITY, 1, 0)
        await lists.issue(issuer, 0, permit=bench.permit())
        late = Lists(bench.journal, other, bench.keys)
        assert behind is None
        said = late._intended(issuer, 0, 3, behind, delta=False)
        crl = Crl(
            *(CITY, 1, 0, 1, said.number, said.this_update, said.next_update, said.at, 0, 0, 0, [], []),
            timestamp=bench.clock.now(),
        )
        with pytest.raises(Conflict):
            await bench.journal.save(crl, permit=bench.permit())
        other.close()


async def test_a_list_whose_key_was_away_is_finished_as_it_was_meant() -> None:
    async with trust_bench() as bench:
        await city_authority(bench)
        lists, revocation = services(bench)
        await issued(bench, 1)
        key = bench.keys.keys.pop("held:city-1")
        issuer = issuer_in(bench.index.book, CITY, 1)
        with pytest.raises(InvalidRequest, match="no key"):
            await lists.issue(issuer, 0, permit=bench.permit())
        bench.keys.keys["held:city-1"] = key
        await revocation.revoke(CITY, "1", "superseded", permit=bench.permit())  # after the intention
        meant = bench.clock.now()
        bench.clock.pass_s(30)
        assert await lists.recover(permit=bench.permit()) == 1
        await bench.index.catch_up()
        row = bench.index.crls.last(bench.index.database, CITY, 1, 0)
        assert row is not None
        assert row.this_update == int(meant.timestamp())
        assert not applied(x509.load_der_x509_crl(await lists.rebuild(row)), None)
        assert await lists.recover(permit=bench.permit()) == 0


async def test_revoking_what_is_unknown_twice_or_for_no_reason_is_refused() -> None:
    async with trust_bench() as bench:
        await city_authority(bench)
        lists, revocation = services(bench)
        with pytest.raises(InvalidRequest, match="no certificate"):
            await revocation.revoke(CITY, "AB:CD", "superseded", permit=bench.permit())
        with pytest.raises(InvalidRequest, match="no reason"):
            await revocation.revoke(CITY, "1", "certificateHold", permit=bench.permit())
        await issued(bench, 1)
        await revocation.revoke(CITY, "1", "superseded", permit=bench.permit())
        with pytest.raises(Conflict, match="revoked"):
            await revocation.revoke(CITY, "1", "superseded", permit=bench.permit())
        # What turns up and is not in the log is taken in, then revoked as any other.
        found = make_certificate(bench, 0xABCD)
        assert await revocation.take_in(CITY, found, permit=bench.permit()) == f"{0xABCD:040x}"
        await revocation.revoke(CITY, "ab:cd", "privilegeWithdrawn", permit=bench.permit())
        assert applied(await listed(bench, lists), None) == {1: "superseded", 0xABCD: "privilegeWithdrawn"}
        await city_authority(bench, P256, name="other")
        with pytest.raises(InvalidRequest, match="has signed"):
            await revocation.take_in("other", found, permit=bench.permit())


async def test_many_are_revoked_at_a_time_and_again_without_harm() -> None:
    async with trust_bench() as bench:
        await city_authority(bench)
        woken: list[int] = []
        revocation = Revocation(bench.journal, bench.index, lambda: woken.append(1))
        for serial in range(1, 101):
            await issued(bench, serial, der=b"any")
        wanted = [f"{serial:x}" for serial in range(1, 103)]
        done = await revocation.revoke_many(CITY, wanted, "cessationOfOperation", permit=bench.permit())
        assert (done.revoked, done.before, len(done.unknown)) == (100, 0, 2)
        assert woken
        done = await revocation.revoke_many(CITY, wanted, "cessationOfOperation", permit=bench.permit())
        assert (done.revoked, done.before) == (0, 100)
