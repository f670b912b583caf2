"""Time stamps: what others' tools say of the tokens, what the log keeps of them, and when there are none."""

from __future__ import annotations

import asyncio
import hashlib
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from rfc3161_client import TimestampRequestBuilder, VerifierBuilder, decode_timestamp_response
from rfc3161_client.base import HashAlgorithm

from ledger.core.encoding import decode_base64
from ledger.errors import Unavailable
from pki.aggregates.certificate import Certificate
from pki.aggregates.tsa import StampBatch, Tsa
from pki.core.algorithms import ED25519, ML_DSA_65, P256, P384, RSA_3072, Algorithm
from pki.core.stamping import StampSettings, parse_packed, place_of
from pki.core.timestamp import StampSigner, granted, parse_timestamp
from pki.tsa import TimeStamping, signer_of, token_recorded
from tests.support.trust import HeldKey, TrustBench, trust_bench
from tests.support.trust_tsa import (
    NAME,
    POLICY,
    openssl_query,
    openssl_text,
    openssl_verify,
    roots,
    stamp_authority,
)


def stamping_of(bench: TrustBench) -> TimeStamping:
    return TimeStamping(bench.journal, bench.index, bench.keys, NAME, "local:service", look_every_s=0)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "公文.txt"
    file.write_text("某市公文", encoding="utf-8")
    return file


@pytest.mark.parametrize("algorithm", [P256, P384, RSA_3072], ids=lambda one: one.name)
async def test_openssl_and_rfc3161_client_accept_the_tokens(algorithm: Algorithm, file: Path, tmp_path: Path) -> None:
    async with trust_bench() as bench:
        tsa = await stamp_authority(bench, algorithm)
        bench.clock.pass_s(0.25)
        stamping = stamping_of(bench)
        await stamping.start()
        query = openssl_query(file, "-sha512", "-cert", "-tspolicy", POLICY)
        (tmp_path / "query.tsq").write_bytes(query)
        answer = await stamping.answer(query)
        openssl_verify(bench, answer, tmp_path, "-queryfile", str(tmp_path / "query.tsq"))
        openssl_verify(bench, answer, tmp_path, "-data", str(file))
        text = openssl_text(answer, tmp_path)
        assert "Dec  1 08:00:00.25 2026 GMT" in text
        assert "Accuracy: 0x01 seconds, unspecified millis, unspecified micros" in text
        with pytest.raises(subprocess.CalledProcessError):
            openssl_verify(bench, answer, tmp_path, "-digest", "00" * 64)

        builder = TimestampRequestBuilder().data(file.read_bytes()).hash_algorithm(HashAlgorithm.SHA512)
        request = builder.cert_request(cert_request=True).nonce(nonce=True).build()
        theirs = decode_timestamp_response(await stamping.answer(request.as_bytes()))
        certificate = x509.load_der_x509_certificate(signer_of(tsa, 1).certificate)
        verifier = VerifierBuilder.from_request(request).tsa_certificate(certificate)
        for root in roots(bench):
            verifier = verifier.add_root_certificate(root)
        digest = hashlib.sha512(file.read_bytes()).digest()
        assert verifier.build().verify(theirs, digest)
        assert theirs.tst_info.policy.dotted_string == POLICY


@pytest.mark.parametrize("algorithm", [ED25519, ML_DSA_65], ids=lambda one: one.name)
async def test_keys_that_openssl_does_not_stamp_with_sign_the_attributes(algorithm: Algorithm, file: Path) -> None:
    async with trust_bench() as bench:
        tsa = await stamp_authority(bench, algorithm)
        answer = await stamping_of(bench).answer(openssl_query(file))
        number, place = place_of(parse_timestamp(answer).serial)
        batch = await bench.journal.load(StampBatch, StampBatch.create_id(number))
        info, signature, _ = parse_packed(decode_base64(batch.tokens[place]))
        public = x509.load_der_x509_certificate(signer_of(tsa, 1).certificate).public_key()
        public.verify(signature, signer_of(tsa, 1).to_sign(info))  # type: ignore[call-arg,union-attr,arg-type]


async def test_every_token_is_in_the_log_and_comes_out_of_it_byte_for_byte(file: Path) -> None:
    async with trust_bench() as bench:
        await stamp_authority(bench, RSA_3072)
        stamping = stamping_of(bench)
        queries = [openssl_query(file), openssl_query(file, "-sha256"), openssl_query(file, "-sha384", "-no_nonce")]
        answers = await asyncio.gather(*(stamping.answer(queries[number % 3]) for number in range(300)))
        await stamping.close()
        batches = [one async for one in bench.journal.occurred() if one.name == "timestamps.issued.v1"]
        assert 1 < len(batches) < 20  # together, in entries that are full
        stamps = [parse_timestamp(one) for one in answers]
        assert len({one.serial for one in stamps}) == 300
        for answer, stamp in zip(answers, stamps, strict=True):
            token = await token_recorded(bench.journal, bench.index, stamp)
            assert token is not None
            assert granted(token) == answer
            assert token == stamp.token


@pytest.mark.parametrize(
    ("options", "failure"),
    [
        (("-sha1",), "unrecognized or unsupported algorithm"),
        (("-sha256", "-tspolicy", "1.2.3.4"), "requested TSA policy is not supported"),
    ],
)
async def test_what_is_refused_is_told_as_the_protocol_says(
    options: tuple[str, ...], failure: str, file: Path, tmp_path: Path
) -> None:
    async with trust_bench() as bench:
        await stamp_authority(bench)
        refused: list[Exception] = []
        stamping = TimeStamping(bench.journal, bench.index, bench.keys, NAME, "local:service", refused=refused.append)
        size = (await bench.journal.reader.head()).size
        text = openssl_text(await stamping.answer(openssl_query(file, *options)), tmp_path)
        assert "Status: Rejected." in text
        assert failure in text
        assert len(refused) == 1
        assert (await bench.journal.reader.head()).size == size


@pytest.mark.parametrize("query", [b"", b"\x30\x80\x00\x00", b"\x30\x03\x02\x01\x01", b"x" * 5_000])
async def test_what_is_no_request_is_told_so(query: bytes, tmp_path: Path) -> None:
    async with trust_bench() as bench:
        await stamp_authority(bench)
        assert "data submitted has the wrong format" in openssl_text(await stamping_of(bench).answer(query), tmp_path)


async def test_a_clock_that_goes_back_stops_the_stamping_and_restarts_do_not_help(file: Path, tmp_path: Path) -> None:
    async with trust_bench() as bench:
        await stamp_authority(bench)
        stamping = stamping_of(bench)
        query = openssl_query(file)
        parse_timestamp(await stamping.answer(query))
        bench.clock.pass_s(-0.5)
        for one in (stamping, stamping_of(bench)):
            assert "time source is not available" in openssl_text(await one.answer(query), tmp_path)
        bench.clock.pass_s(1)
        parse_timestamp(await stamping.answer(query))


async def test_nothing_is_stamped_under_a_certificate_that_does_not_hold(file: Path, tmp_path: Path) -> None:
    async with trust_bench() as bench:
        tsa = await stamp_authority(bench, days=1)
        stamping = stamping_of(bench)
        query = openssl_query(file)
        bench.clock.pass_s(86_400)
        assert "time source is not available" in openssl_text(await stamping.answer(query), tmp_path)
        bench.clock.pass_s(-86_000)
        now = bench.clock.now()
        above, mine = (
            Certificate(
                *("city", 1, digit * 40, "time-stamping", "CN=tsa", [], "ab" * 32, 0, 2**40, "cd" * 32, 0, "r", "tsa"),
                timestamp=now,
            )
            for digit in "12"
        )
        above.issue(tsa.key(1).chain[0], timestamp=now)
        above.hold(timestamp=now)
        await bench.journal.save(above, permit=bench.permit())
        assert "certificate above city is held" in openssl_text(await stamping.answer(query), tmp_path)
        above.release(timestamp=now)
        mine.issue(tsa.key(1).certificate, timestamp=now)
        mine.revoke("keyCompromise", timestamp=now)
        await bench.journal.save(above, mine, permit=bench.permit())
        assert "certificate of city is revoked" in openssl_text(await stamping.answer(query), tmp_path)


async def test_what_is_not_recorded_is_not_answered(file: Path, tmp_path: Path) -> None:
    async with trust_bench() as bench:
        await stamp_authority(bench)

        async def unacknowledged(_index: int) -> None:
            raise Unavailable("the sites are away")

        object.__setattr__(bench.journal, "acknowledge", unacknowledged)
        faults: list[Exception] = []
        parts = (bench.journal, bench.index, bench.keys, NAME, "local:service")
        stamping = TimeStamping(*parts, on_fault=faults.append)
        text = openssl_text(await stamping.answer(openssl_query(file)), tmp_path)
        assert "Status: Rejected." in text
        assert "system failure" in text
        assert "the sites are away" not in text  # that is the operator's to know
        assert [str(one) for one in faults] == ["the sites are away"]


class GoneKey(HeldKey):
    """A key whose keeper is sealed by the time it is asked."""

    def __getattribute__(self, name: str) -> Any:
        if name == "private" and not object.__getattribute__(self, "local"):
            raise Unavailable("the HSM is sealed")
        return object.__getattribute__(self, name)


async def test_a_keeper_that_goes_away_in_the_middle_leaves_nothing_recorded(file: Path, tmp_path: Path) -> None:
    async with trust_bench() as bench:
        await stamp_authority(bench)
        stamping, query = stamping_of(bench), openssl_query(file)
        key = bench.keys.keys["held:tsa"] = GoneKey(bench.keys.keys["held:tsa"].private)
        parse_timestamp(await stamping.answer(query))
        size = (await bench.journal.reader.head()).size
        object.__setattr__(key, "local", False)
        assert "system failure" in openssl_text(await stamping.answer(query), tmp_path)
        assert (await bench.journal.reader.head()).size == size
        object.__setattr__(key, "local", True)
        parse_timestamp(await stamping.answer(query))


async def test_settings_and_keys_change_while_it_stamps(file: Path) -> None:
    async with trust_bench() as bench:
        tsa = await stamp_authority(bench)
        stamping, query = stamping_of(bench), openssl_query(file)
        before = parse_timestamp(await stamping.answer(query))
        again = await bench.journal.load(Tsa, tsa.id)
        again.amend(StampSettings("1.2.3.4", 20).recorded(), timestamp=bench.clock.now())
        await bench.journal.save(again, permit=bench.permit())
        after = parse_timestamp(await stamping.answer(query))
        assert (before.policy, after.policy) == (POLICY, "1.2.3.4")
        for one in (before, after):
            assert await token_recorded(bench.journal, bench.index, one) == one.token
        assert isinstance(signer_of(tsa, 1), StampSigner)
