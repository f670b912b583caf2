"""OCSP answers from the log and from places, publishing, and the rounds that keep all of it up to date."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import ocsp
from cryptography.x509.oid import ObjectIdentifier

from ledger.core.encoding import encode_base64
from ledger.errors import CheckFailed, ObjectMissing, StoreUnavailable, Tampered, Unavailable
from ledger.store.base import ObjectStore, Tag
from ledger.store.memory import MemoryObjectStore
from pki.aggregates.authority import Authority
from pki.aggregates.responder import Responder
from pki.core.algorithms import ED25519, ML_DSA_65, P256, RSA_3072, Algorithm
from pki.core.crl import applied
from pki.core.ocsp import format_ocsp_request
from pki.core.published import INDEX, Published, parse_published
from pki.core.settings import AuthoritySettings
from pki.status.issuers import issuer_in
from pki.status.live import LiveStatus
from pki.status.publishing import read_index
from pki.status.remote import RemoteStatus
from pki.status.responders import Responders
from pki.status.rounds import StatusPace, StatusRounds
from tests.support.trust import SetClock
from tests.support.trust_authorities import CITY, STATUS_URL, city_authority
from tests.support.trust_status import StatusBench, ask, issued, meant, status_bench, told

EXTENDED_REVOKE = ObjectIdentifier("1.3.6.1.5.5.7.48.1.9")


async def said(of: StatusBench | RemoteStatus, issuer: object, serial: int, **how: object) -> str:
    source = of.live if isinstance(of, StatusBench) else of
    return told((await source.ocsp(ask(issuer, serial, **how))).data)  # type: ignore[arg-type]


async def test_an_answer_says_what_the_log_says_the_moment_it_is_asked() -> None:
    async with status_bench() as status:
        await status.rounds.once()
        await issued(status.bench, 1)
        assert await said(status, status.issuer, 1) == "good"
        await status.revocation.hold(CITY, "1", permit=status.bench.permit())
        await status.bench.index.catch_up()
        assert await said(status, status.issuer, 1) == "revoked"
        await status.revocation.release(CITY, "1", permit=status.bench.permit())
        await status.bench.index.catch_up()
        assert await said(status, status.issuer, 1, hash_="sha256") == "good"
        await status.bench.journal.save(meant(status.bench, 2), permit=status.bench.permit())
        assert await said(status, status.issuer, 2) == "try_later"  # it is being issued


@pytest.mark.parametrize("algorithm", [P256, RSA_3072, ED25519, ML_DSA_65], ids=lambda one: one.name)
async def test_an_answer_is_signed_by_a_delegated_responder_and_repeats_the_nonce(algorithm: Algorithm) -> None:
    async with status_bench(algorithm=algorithm) as status:
        await status.rounds.once()
        await issued(status.bench, 1)
        answer = ocsp.load_der_ocsp_response((await status.live.ocsp(ask(status.issuer, 1, nonce=b"n" * 32))).data)
        nonce = answer.extensions.get_extension_for_class(x509.OCSPNonce).value
        assert nonce.nonce == b"n" * 32
        (responder,) = answer.certificates
        usage = responder.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert [one.dotted_string for one in usage] == ["1.3.6.1.5.5.7.3.9"]
        responder.extensions.get_extension_for_class(x509.OCSPNoCheck)
        responder.verify_directly_issued_by(x509.load_der_x509_certificate(status.issuer.certificate))
        if algorithm is P256:
            key = responder.public_key()
            assert isinstance(key, ec.EllipticCurvePublicKey)
            key.verify(answer.signature, answer.tbs_response_bytes, ec.ECDSA(hashes.SHA256()))


async def test_what_was_never_issued_is_revoked_and_other_issuers_are_nobodys_business() -> None:
    async with status_bench() as status:
        await status.rounds.once()
        answer = ocsp.load_der_ocsp_response((await status.live.ocsp(ask(status.issuer, 77))).data)
        assert answer.certificate_status is ocsp.OCSPCertStatus.REVOKED
        assert answer.revocation_reason is x509.ReasonFlags.certificate_hold
        assert answer.revocation_time_utc is not None
        assert answer.revocation_time_utc.timestamp() == 0
        assert answer.extensions.get_extension_for_oid(EXTENDED_REVOKE)
        foreign = replace(status.issuer.hashes, keys={"sha1": bytes(20), "sha256": bytes(32)})
        assert await said(status, replace(status.issuer, hashes=foreign), 1) == "unauthorized"
        for request in (b"", b"\x30\x80\x00\x00", b"\x30\x03\x02\x01\x00", ask(status.issuer, 1) + b"\0"):
            assert told((await status.live.ocsp(request)).data) == "malformed_request"
        for size, expected in ((1, "revoked"), (128, "revoked"), (0, "malformed_request"), (129, "malformed_request")):
            assert await said(status, status.issuer, 1, nonce=bytes(size)) == expected
        many = [status.issuer.hashes.cert_id("sha1", f"{n:040x}") for n in range(17)]
        assert told((await status.live.ocsp(format_ocsp_request(many))).data) == "malformed_request"


async def test_while_the_key_that_would_answer_is_not_there_yet_clients_come_again() -> None:
    async with status_bench() as status:
        await status.rounds.once()
        await issued(status.bench, 1)
        responder = status.bench.index.book.get(Responder, "responder:city-1").current
        assert responder is not None
        key = status.bench.keys.keys.pop(responder.reference)  # as after a restore, before its file is back
        live = LiveStatus(
            status.bench.journal,
            status.bench.index,
            status.lists,
            Responders(status.bench.journal, status.bench.index, status.bench.keys),
        )
        assert told((await live.ocsp(ask(status.issuer, 1))).data) == "try_later"
        status.bench.keys.keys[responder.reference] = key
        assert told((await live.ocsp(ask(status.issuer, 1))).data) == "good"


async def test_several_certificates_of_one_issuer_are_answered_in_one() -> None:
    async with status_bench() as status:
        await status.rounds.once()
        for serial in (1, 2, 3):
            await issued(status.bench, serial)
        await status.revocation.revoke(CITY, "2", "keyCompromise", permit=status.bench.permit())
        ids = [status.issuer.hashes.cert_id("sha256", f"{n:040x}") for n in (1, 2, 3)]
        answer = ocsp.load_der_ocsp_response((await status.live.ocsp(format_ocsp_request(ids))).data)
        states = [one.certificate_status.name for one in answer.responses]
        assert states == ["GOOD", "REVOKED", "GOOD"]


async def test_a_responder_is_certified_anew_before_its_time_ends_and_after_a_crash() -> None:
    async with status_bench() as status:
        await status.rounds.once()
        known = await status.bench.journal.load(Responder, "responder:city-1")
        assert [one.ordinal for one in known.keys] == [1]
        status.bench.clock.pass_s(21 * 86_400)
        certify, status.rounds.responders.certify = status.rounds.responders.certify, _away
        assert "the responder of city-1" in (await status.rounds.once()).wrong
        status.rounds.responders.certify = certify
        known = await status.bench.journal.load(Responder, "responder:city-1")
        assert [bool(one.certificate) for one in known.keys] == [True, False]
        assert not (await status.rounds.once()).wrong
        known = await status.bench.journal.load(Responder, "responder:city-1")
        assert [bool(one.certificate) for one in known.keys] == [True, True]
        status.bench.clock.pass_s(86_400)
        assert not (await status.rounds.once()).wrong
        assert (await status.bench.journal.load(Responder, "responder:city-1")).version == known.version


async def _away(*_: object) -> bytes:
    raise Unavailable("the authority is away")


async def test_a_place_answers_without_keys_what_was_published_and_nothing_past_its_time() -> None:
    settings = AuthoritySettings(status_url=STATUS_URL, shards=2, delta_every_s=600)
    async with status_bench(settings) as status:
        for serial in range(1, 40):
            await issued(status.bench, serial, shard=serial % 2)
        await status.revocation.revoke(CITY, "7", "keyCompromise", permit=status.bench.permit())
        place = await status.name_place("remote")
        assert not (await status.rounds.once()).wrong
        clock = SetClock(status.bench.clock.now())
        alarms: list[str] = []
        remote = RemoteStatus(place, clock, alarms.append)
        await remote.look()
        for hash_ in ("sha1", "sha256"):
            states = {serial: await said(remote, status.issuer, serial, hash_=hash_) for serial in range(1, 41)}
            assert states == {n: "revoked" if n == 7 else "good" if n < 40 else "unauthorized" for n in range(1, 41)}
        crl = x509.load_der_x509_crl((await remote.crl(CITY, 1, 1, delta=False)).data)
        assert applied(crl, None) == {7: "keyCompromise"}
        assert (await remote.certificate(CITY, 1)).data == status.issuer.certificate
        with pytest.raises(ObjectMissing):
            await remote.crl(CITY, 1, 2, delta=False)

        # A newer set is taken up: what is revoked is said by a list of changes and by answers for what has changed.
        status.bench.clock.pass_s(30)
        clock.pass_s(30)
        await status.revocation.revoke(CITY, "8", "superseded", permit=status.bench.permit())
        await issued(status.bench, 50)
        facts = await status.rounds.once()
        assert not facts.wrong
        assert (facts.latency.waiting_s, facts.latency.late) == (0, [])
        await remote.look()
        assert [await said(remote, status.issuer, n) for n in (7, 8, 9, 50)] == ["revoked", "revoked", "good", "good"]
        delta = x509.load_der_x509_crl((await remote.crl(CITY, 1, 0, delta=True)).data)
        full = x509.load_der_x509_crl((await remote.crl(CITY, 1, 0, delta=False)).data)
        assert applied(full, delta) == {8: "superseded"}

        # The primary is gone: what was published holds for as long as it says, and not a second longer.
        clock.pass_s(settings.ocsp_valid_s - 31)
        await remote.look()
        assert await said(remote, status.issuer, 9) == "good"
        clock.pass_s(60)
        await remote.look()
        assert await said(remote, status.issuer, 9) == "try_later"
        assert "answers of city-1" in alarms[-1]
        clock.pass_s(settings.crl_valid_s)
        with pytest.raises(Unavailable, match="past its time"):
            await remote.crl(CITY, 1, 0, delta=False)


class Dying(MemoryObjectStore):
    """A place whose writer dies after some writes."""

    left = 10**9

    def _spend(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise StoreUnavailable("killed")

    async def put_immutable(self, key: str, data: bytes) -> None:
        self._spend()
        await super().put_immutable(key, data)

    async def replace(self, key: str, data: bytes, *, expected: Tag | None) -> Tag:
        self._spend()
        return await super().replace(key, data, expected=expected)

    async def delete(self, key: str) -> None:
        self._spend()
        await super().delete(key)


async def test_a_publisher_that_dies_anywhere_leaves_a_whole_set_and_goes_on() -> None:
    place = Dying("remote")
    async with status_bench(places={"remote": place}) as status:
        await status.name_place("remote")
        for serial in range(1, 6):
            await issued(status.bench, serial)
        for turn in range(4):
            await status.revocation.revoke(CITY, f"{turn + 1:x}", "superseded", permit=status.bench.permit())
            status.bench.clock.pass_s(60)
            for writes in range(12):
                place.left = writes
                facts = await status.rounds.once()
                place.left = 10**9
                revoked = await _whole(place, status)
                assert len(revoked) in (turn, turn + 1) or (not turn and revoked == set())
                if not facts.wrong:
                    break
            else:
                raise AssertionError("it never came to its end")
            assert len(revoked) == turn + 1


async def _whole(place: ObjectStore, status: StatusBench) -> set[int]:
    """What a place that is read now says is revoked, everything it names being there and saying the same."""
    try:
        parse_published((await place.get(INDEX)).data)
    except ObjectMissing:
        return set()
    remote = RemoteStatus(place, status.bench.clock)
    await remote.look()
    crl = x509.load_der_x509_crl((await remote.crl(CITY, 1, 0, delta=False)).data)
    states = {serial: await said(remote, status.issuer, serial) for serial in range(1, 6)}
    assert {serial for serial, state in states.items() if state == "revoked"} == set(applied(crl, None))
    return set(applied(crl, None))


async def test_lists_do_not_wait_for_a_large_batch_on_a_thin_line() -> None:
    place = Dying("remote")
    async with status_bench(places={"remote": place}) as status:
        status.rounds.publisher.small_packs_max = 0  # every batch is large
        for serial in range(1, 4):
            await issued(status.bench, serial)
        await status.name_place("remote")
        await status.rounds.once()
        assert await _whole(place, status) == set()
        status.bench.clock.pass_s(13 * 3_600)  # a batch for all is due
        await status.revocation.revoke(CITY, "1", "superseded", permit=status.bench.permit())
        reached = asyncio.Event()

        async def stuck(key: str, data: bytes) -> None:
            if key.endswith(".pack"):
                reached.set()
                await asyncio.Event().wait()
            await MemoryObjectStore.put_immutable(place, key, data)

        place.put_immutable = stuck  # type: ignore[method-assign]
        running = asyncio.create_task(status.rounds.run())
        await asyncio.wait_for(reached.wait(), 30)
        remote = RemoteStatus(place, status.bench.clock)
        await remote.look()
        crl = x509.load_der_x509_crl((await remote.crl(CITY, 1, 0, delta=False)).data)
        assert applied(crl, None) == {1: "superseded"}
        assert await said(remote, status.issuer, 2) == "good"  # from the batch before
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        del place.put_immutable
        assert not (await status.rounds.once(at_once=True)).wrong
        assert await _whole(place, status) == {1}


async def test_what_is_being_signed_is_not_tidied_away_meanwhile() -> None:
    async with status_bench() as status:
        for serial in range(1, 4):
            await issued(status.bench, serial)
        place = await status.name_place("remote")
        await status.rounds.once()
        status.bench.clock.pass_s(13 * 3_600)
        put = status.own.put_immutable

        async def meanwhile(key: str, data: bytes) -> None:
            """An addition is signed, and both it and a list are published, before the batch for all goes on."""
            await put(key, data)
            if key.endswith("manifest.json"):
                status.own.put_immutable = put  # type: ignore[method-assign]
                await status.revocation.revoke(CITY, "2", "superseded", permit=status.bench.permit())
                full = status.bench.index.batches.last_full(status.bench.index.database, CITY, 1)
                assert full is not None
                await status.rounds.batches.make(status.issuer, full.at, permit=status.bench.permit())
                status.bench.clock.pass_s(60)
                await status.rounds.publisher.assemble()

        status.own.put_immutable = meanwhile  # type: ignore[method-assign]
        await status.rounds.batches.make(status.issuer, 0, permit=status.bench.permit())
        assert not (await status.rounds.once(at_once=True)).wrong
        assert await _whole(place, status) == {2}


async def test_what_is_damaged_at_a_place_is_never_given() -> None:
    async with status_bench() as status:
        await issued(status.bench, 1)
        place = await status.name_place("remote")
        await status.rounds.once()
        for key in [key async for key in place.list_keys("")]:
            damaged = MemoryObjectStore("damaged")
            for other in [other async for other in place.list_keys("")]:
                data = (await place.get(other)).data
                if other == key:
                    data = data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]
                await damaged.put_immutable(other, data)
            alarms: list[str] = []
            remote = RemoteStatus(damaged, status.bench.clock, alarms.append)
            await remote.look()
            answer = await said(remote, status.issuer, 1)
            crl = b""
            with suppress(Tampered, Unavailable):
                crl = (await remote.crl(CITY, 1, 0, delta=False)).data
            whole = (await status.live.crl(CITY, 1, 0, delta=False)).data
            assert answer in ("good", "try_later", "unauthorized")
            assert crl in (whole, b"")
            if "city-1" in key:
                assert (answer, crl) != ("good", whole) or key.startswith("ca/")
                assert alarms or remote.health().error or not crl


async def test_a_place_that_is_down_is_late_and_the_others_are_not() -> None:
    place = Dying("remote")
    async with status_bench(places={"down": place}) as status:
        await status.name_place("down")
        await status.name_place("up")
        await issued(status.bench, 1)
        await status.rounds.once()
        status.bench.clock.pass_s(20)
        await status.revocation.revoke(CITY, "1", "keyCompromise", permit=status.bench.permit())
        place.left = 0
        status.bench.clock.pass_s(5)
        facts = await status.rounds.once()
        assert list(facts.wrong) == ["place down"]
        assert (facts.latency.waiting_s, facts.latency.late, facts.latency.last_s) == (5, [], None)
        status.bench.clock.pass_s(60)
        facts = await status.rounds.once()
        assert (facts.latency.waiting_s, facts.latency.late) == (65, ["city-1-0"])
        place.left = 10**9
        facts = await status.rounds.once()
        assert (facts.latency.waiting_s, facts.latency.late, facts.latency.last_s) == (0, [], 65)


async def test_lists_come_out_when_they_are_due_and_when_something_is_revoked() -> None:
    settings = AuthoritySettings(status_url=STATUS_URL, crl_every_s=3_600, crl_valid_s=7_200, delta_every_s=600)
    async with status_bench(settings) as status:
        await issued(status.bench, 1)
        kinds: list[str] = []
        for minute in range(0, 130, 2):
            if minute == 44:
                await status.revocation.hold(CITY, "1", permit=status.bench.permit())
            if minute == 46:
                await status.revocation.release(CITY, "1", permit=status.bench.permit())
            before = _last(status)
            await status.rounds.once()
            row = _last(status)
            if row != before:
                kinds.append(f"{'delta' if row[1] else 'full'} {minute}")
            status.bench.clock.pass_s(120)
        assert kinds == [
            *("full 0", "delta 10", "delta 20", "delta 30", "delta 40", "delta 44", "delta 46", "delta 56"),
            *("full 60", "delta 70", "delta 80", "delta 90", "delta 100", "delta 110", "full 120"),
        ]


def _last(status: StatusBench) -> tuple[int, int]:
    row = status.bench.index.crls.last(status.bench.index.database, CITY, 1, 0)
    return (row.ordinal, row.base) if row else (0, 0)


async def test_answers_are_counted_in_entries_of_their_own_once_in_a_while() -> None:
    async with status_bench() as status:
        await issued(status.bench, 1)
        await status.rounds.once()
        for _ in range(100):
            await status.live.ocsp(ask(status.issuer, 1))
        await status.live.ocsp(ask(status.issuer, 2))
        await status.live.ocsp(b"")
        size = (await status.bench.journal.reader.head()).size
        status.bench.clock.pass_s(3_600)
        await status.rounds.once()
        found = [one async for one in status.bench.journal.occurred(size) if one.name == "ocsp.answered.v1"]
        assert [one.data["counts"] for one in found] == [{"": {"malformed": 1}, CITY: {"good": 100, "revoked": 1}}]


async def test_an_authority_whose_key_is_away_holds_up_no_other_and_is_told_of() -> None:
    async with status_bench() as status:
        await city_authority(status.bench, name="county")
        key = status.bench.keys.keys.pop("held:county-1")
        told_of: list[str] = []
        status.rounds.notice = lambda what, error: told_of.append(what)
        facts = await status.rounds.once()
        assert list(facts.wrong) == told_of == ["the responder of county-1", "the lists of county-1"]
        index = status.bench.index
        assert index.crls.last_issued(index.database, CITY, 1, 0)
        status.bench.keys.keys["held:county-1"] = key
        status.bench.clock.pass_s(60)
        assert not (await status.rounds.once()).wrong
        row = index.crls.last_issued(index.database, "county", 1, 0)
        assert row is not None
        assert row.issued_at - row.this_update == 60  # as it was meant, then


async def test_a_key_with_custodians_is_left_alone_and_its_list_asked_for_in_time() -> None:
    async with status_bench() as status:
        certificate = issuer_in(status.bench.index.book, "root", 1).certificate
        now = status.bench.clock.now()
        authority = Authority("offline", "", AuthoritySettings().recorded(), timestamp=now)
        public = status.bench.keys.keys["held:root-1"].public
        authority.add_key("shares:offline-1", P256.name, encode_base64(public), timestamp=now)
        authority.certify(1, encode_base64(certificate), timestamp=now)
        await status.bench.journal.save(authority, permit=status.bench.permit())
        assert not (await status.rounds.once()).wrong
        issuer = issuer_in(status.bench.index.book, "offline", 1)
        status.bench.keys.keys["shares:offline-1"] = status.bench.keys.keys["held:root-1"]  # a ceremony
        crl = await status.lists.draft(issuer, 0, holds_s=issuer.settings.crl_valid_s)
        await status.bench.journal.save(crl, permit=status.bench.permit())
        await status.lists.sign(crl, issuer, permit=status.bench.permit())
        del status.bench.keys.keys["shares:offline-1"]
        assert not (await status.rounds.once()).wrong
        status.bench.clock.pass_s(AuthoritySettings().crl_valid_s * 0.8)
        assert set((await status.rounds.once()).wrong) == {"the lists of offline-1"}


@pytest.mark.parametrize("ended", ["revoked", "retired"])
async def test_the_responder_of_an_authority_that_certifies_nobody_is_left_alone(ended: str) -> None:
    async with status_bench() as status:
        bench, told_of = status.bench, list[str]()
        status.rounds.notice = lambda what, error: told_of.append(error.what)
        await issued(bench, 1)
        assert not (await status.rounds.once()).wrong
        size = (await bench.journal.reader.head()).size
        if ended == "retired":
            authority = await bench.journal.load(Authority, Authority.create_id(CITY))
            authority.retire(timestamp=bench.clock.now())
            await bench.journal.save(authority, permit=bench.permit())
        else:
            certificate = x509.load_der_x509_certificate(status.issuer.certificate)
            await status.revocation.take_in("root", status.issuer.certificate, permit=bench.permit())
            serial = f"{certificate.serial_number:040x}"
            await status.revocation.revoke("root", serial, "cACompromise", permit=bench.permit())
        bench.clock.pass_s(25 * 86_400)
        for _ in range(3):
            await status.rounds.once()
        assert [one.partition(": ")[0] for one in told_of] == ["the responder of city-1 is not certified anew"]
        changed = {one.event.originator_id async for one in bench.journal.occurred(size)}
        assert "responder:city-1" not in changed
        assert "responder:root-1" in changed
        bench.clock.pass_s(10 * 86_400)
        assert await said(status, status.issuer, 1) == "good", "the authority's own key signs"


async def test_keys_that_are_elsewhere_sign_lists_and_answers_beside_the_loop() -> None:
    async with status_bench(delegated=False) as status:
        keys = status.bench.keys.keys
        keys["held:city-1"] = replace(keys["held:city-1"], local=False)
        await issued(status.bench, 1)
        await status.name_place("remote")
        assert not (await status.rounds.once()).wrong
        assert await said(status, status.issuer, 1, nonce=b"n") == "good"
        assert await _whole(status.places["remote"], status) == set()


async def test_a_running_service_publishes_a_revocation_without_being_told() -> None:
    settings = AuthoritySettings(status_url=STATUS_URL, publish_within_s=4)
    async with status_bench(settings, pace=StatusPace(tick_s=0.05)) as status:
        await issued(status.bench, 1)
        place = await status.name_place("remote")
        running = asyncio.create_task(status.rounds.run())
        try:
            remote = RemoteStatus(place, status.bench.clock)
            while not await _answered(remote, status, "good"):
                await asyncio.sleep(0.02)
            status.bench.clock.pass_s(2)
            await status.revocation.revoke(CITY, "1", "keyCompromise", permit=status.bench.permit())
            while not await _answered(remote, status, "revoked"):
                await asyncio.sleep(0.02)
            while status.rounds.facts.latency.last_s is None:
                await asyncio.sleep(0.02)
            assert status.rounds.facts.latency.late == []
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def _answered(remote: RemoteStatus, status: StatusBench, expected: str) -> bool:
    await remote.look()
    return await said(remote, status.issuer, 1) == expected


async def test_a_primary_that_was_taken_over_from_does_not_put_its_older_set_back() -> None:
    async with status_bench() as status:
        await issued(status.bench, 1)
        place = await status.name_place("remote")
        await status.rounds.once()
        old = status.rounds
        status.bench.clock.pass_s(60)
        async with status_bench(bench=status.bench, places={"remote": place}) as taken_over:  # with a place of its own
            await taken_over.revocation.revoke(CITY, "1", "keyCompromise", permit=status.bench.permit())
            status.bench.clock.pass_s(60)
            assert not (await taken_over.rounds.once()).wrong
        old.publisher.assemble = _nothing_new(old)  # type: ignore[method-assign]
        with pytest.raises(CheckFailed, match="newer set"):
            await old.publisher.publish(place)
        assert await _whole(place, status) == {1}


def _nothing_new(rounds: StatusRounds) -> Callable[[], Awaitable[Published]]:
    """It hears nothing of the log any more."""

    async def assemble() -> Published:
        found, _ = await read_index(rounds.publisher.own)
        assert found is not None
        return found

    return assemble
