"""Issuing: a token is used once, what is signed was recorded before, and what is given out is in the log."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
from cryptography import x509

from ledger.core.encoding import decode_base64
from ledger.errors import (
    Conflict,
    InvalidRequest,
    IssuanceRefused,
    MalformedRequest,
    StoreUnavailable,
    Unacknowledged,
    Unavailable,
    WeakKey,
)
from pki.aggregates.authority import Authority
from pki.aggregates.certificate import Certificate
from pki.ca import ABANDON_AFTER_S, CertificateAuthority, IssuanceToken, Issued
from pki.core.algorithms import ED25519, ML_DSA_65, P256, P384, RSA_3072, Algorithm, IssuerKey
from pki.core.builtin import BUILTIN
from pki.core.settings import AuthoritySettings
from pki.core.signatures import sign
from pki.issuance.token import VALID_S
from pki.views.catalogue import TrustIndex
from tests.support.trust import HeldKey, TrustBench, trust_bench
from tests.support.trust_authorities import STATUS_URL, city_authority
from tests.support.trust_faults import Failing
from tests.support.trust_requests import SUBJECTS, new_key, order

ISSUE = "certificate.issue"


@dataclass(frozen=True)
class Remote:
    """A key that is elsewhere: it can be away, and can sign wrongly."""

    held: HeldKey
    sign: Callable[[bytes], bytes] | None = None
    local: bool = False

    @property
    def algorithm(self) -> Algorithm:
        return self.held.algorithm

    @property
    def public(self) -> bytes:
        return self.held.public

    @property
    def private(self) -> IssuerKey:
        return Signing(self.sign) if self.sign else self.held.private  # type: ignore[return-value]


@dataclass(frozen=True)
class Signing:
    made: Callable[[bytes], bytes]

    def sign(self, data: bytes, *_: object) -> bytes:
        return self.made(data)


@dataclass(frozen=True)
class City:
    bench: TrustBench
    ca: CertificateAuthority
    failing: Failing

    async def issue(self, **wanted: Any) -> Issued:
        return await self.ca.issue(await self.prepare(**wanted))

    async def prepare(self, **wanted: Any) -> IssuanceToken:
        return await self.ca.prepare(order(**wanted), permit=self.bench.permit(ISSUE))

    async def states(self) -> list[str]:
        """Of every certificate that was ever meant, from the log."""
        names = [one.event.originator_id async for one in self.bench.journal.occurred() if "intended" in one.name]
        return [(await self.bench.journal.load(Certificate, name)).state for name in names]


@asynccontextmanager
async def city(
    algorithm: Algorithm = P256, settings: AuthoritySettings | None = None, **options: Any
) -> AsyncIterator[City]:
    async with trust_bench() as bench:
        await city_authority(bench, algorithm, settings)
        failing = Failing(bench.sequencer)
        journal = replace(bench.journal, appending=failing)
        yield City(bench, CertificateAuthority(journal, bench.index, bench.keys, **options), failing)


@pytest.mark.parametrize("algorithm", [P256, P384, RSA_3072, ED25519, ML_DSA_65], ids=lambda one: one.name)
async def test_a_certificate_is_what_was_linted_recorded_and_signed(algorithm: Algorithm) -> None:
    async with city(algorithm) as it:
        token = await it.prepare()
        issued = await it.ca.issue(token)
        made, above = (x509.load_der_x509_certificate(one) for one in (issued.certificate, *issued.chain))
        made.verify_directly_issued_by(above)
        assert made.tbs_certificate_bytes == token.template.tbs
        recorded = await it.bench.journal.load(Certificate, Certificate.create_id("city", issued.serial))
        assert decode_base64(recorded.der) == issued.certificate
        assert recorded.tbs == hashlib.sha256(token.template.tbs).hexdigest()
        assert (recorded.state, f"{made.serial_number:040x}") == ("issued", issued.serial)
        names = [one.name async for one in it.bench.journal.occurred(issued.places[0].index)]
        assert names == ["certificate.intended.v1", "certificate.issued.v1"]
        assert [one.index for one in issued.places] == [issued.places[0].index, issued.places[0].index + 1]


async def test_a_token_is_used_once_by_whoever_made_it_and_soon() -> None:
    async with city() as it:
        token = await it.prepare()
        with pytest.raises(IssuanceRefused, match="another authority"):
            await CertificateAuthority(it.bench.journal, it.bench.index, it.bench.keys).issue(token)
        with pytest.raises(IssuanceRefused, match="twice"):
            await it.ca.issue_many([token, token])
        await it.ca.issue(token)
        with pytest.raises(IssuanceRefused, match="used before"):
            await it.ca.issue(token)
        late = await it.prepare()
        it.bench.clock.pass_s(VALID_S)
        with pytest.raises(IssuanceRefused, match="expired"):
            await it.ca.issue(late)
        with pytest.raises(TypeError, match="made by"):
            IssuanceToken(
                it.ca._tokens, late.order, late.template, late.issuing, late.permit, late.reservation, late.expires_at
            )
        assert await it.states() == ["issued"]


async def test_a_token_is_of_the_authority_as_it_was_when_it_was_prepared() -> None:
    async with city() as it:
        token = await it.prepare()
        authority = await it.bench.journal.load(Authority, "authority:city")
        authority.amend(AuthoritySettings(shards=2).recorded(), timestamp=it.bench.clock.now())
        await it.bench.journal.save(authority, permit=it.bench.permit())
        await it.bench.index.catch_up()
        with pytest.raises(IssuanceRefused, match="changed since"):
            await it.ca.issue(token)
        assert await it.states() == []
        assert (await it.issue()).serial


async def test_many_are_issued_in_two_appends() -> None:
    async with city() as it:
        tokens = [await it.prepare() for _ in range(5)]
        issued = await it.ca.issue_many(tokens)
        assert [one.serial for one in issued] == [one.serial for one in tokens]
        places = [place.index for one in issued for place in one.places]
        assert sorted(places) == list(range(min(places), min(places) + 10))
        other = [await it.prepare(), await it.ca.prepare(order(), permit=it.bench.permit("another.act"))]
        assert len({one.serial for one in await it.ca.issue_many(other)}) == 2


async def test_what_the_request_says_is_used_only_where_nothing_was_vetted() -> None:
    async with city() as it:
        asked = replace(order(names=["dns:asked.example"]), names=("dns:VETTED.example",), not_after=1_800_000_000)
        issued = await it.ca.issue(await it.ca.prepare(asked, permit=it.bench.permit(ISSUE)))
        made = x509.load_der_x509_certificate(issued.certificate)
        names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == ["vetted.example"]
        assert int(made.not_valid_after_utc.timestamp()) == 1_800_000_000


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ({"names": []}, "demands a name"),
        ({"names": ["dns:*.city.example"]}, "wildcard"),
        ({"names": ["dns:a.example", "email:a@b.example"]}, "no names of kind email"),
        ({"subject": (("CN", "other.example"),)}, "not among the names"),
        ({"subject": (("SN", "张"),)}, "have no SN"),
        ({"key": new_key("P-521")}, "certifies no P-521"),
        ({"key": new_key("Ed25519")}, "certifies no Ed25519"),
        ({"profile": "person", "holder": "organisation:a"}, "is not for"),
        ({"profile": "person", "names": []}, "demands a name of kind email"),
        ({"profile": "code-signing", "subject": (("CN", "某"),)}, "demands C"),
        ({"not_after": 1_700_000_000}, "before it begins"),
        ({"not_after": 1_900_000_000}, "longer than the 90 days"),
        ({"authority": "nowhere"}, "no authority nowhere"),
    ],
)
async def test_what_does_not_fit_is_refused_and_nothing_is_recorded(wanted: dict[str, Any], reason: str) -> None:
    async with city() as it:
        with pytest.raises(InvalidRequest, match=reason):
            await it.prepare(**wanted)
        assert await it.states() == []


async def test_a_key_belongs_to_one_holder() -> None:
    async with city() as it:
        key = new_key()
        await it.issue(key=key)
        await it.issue(key=key)  # the same holder may renew with it
        with pytest.raises(IssuanceRefused, match="somebody else"):
            await it.prepare(key=key, holder="organisation:b")
        with pytest.raises(IssuanceRefused, match="certified already"):
            await it.prepare(profile="time-stamping", key=key)
    async with city(settings=AuthoritySettings(status_url=STATUS_URL, reuse_keys="anybody")) as it:
        await it.issue(key=key)
        await it.issue(key=key, holder="organisation:b")


async def test_a_key_that_was_revoked_as_compromised_is_never_certified_again() -> None:
    async with city(settings=AuthoritySettings(status_url=STATUS_URL, reuse_keys="anybody")) as it:
        key = new_key()
        issued = await it.issue(key=key)
        certificate = await it.bench.journal.load(Certificate, Certificate.create_id("city", issued.serial))
        certificate.revoke("keyCompromise", timestamp=it.bench.clock.now())
        await it.bench.journal.save(certificate, permit=it.bench.permit("certificate.revoke"))
        await it.bench.index.catch_up()
        with pytest.raises(WeakKey, match="compromised"):
            await it.prepare(key=key)


async def test_of_two_at_the_same_time_one_gets_the_key_and_the_last_of_the_quota() -> None:
    async with city() as it:
        key = new_key()
        results = await asyncio.gather(
            *(it.issue(key=key, holder=f"organisation:{name}") for name in "abcd"), return_exceptions=True
        )
        assert sorted(type(one).__name__ for one in results) == ["IssuanceRefused"] * 3 + ["Issued"]
        quota = replace(BUILTIN["tls-server"], quota=2)
        orders = (it.issue(profile=quota, holder="organisation:e") for _ in range(5))
        results = await asyncio.gather(*orders, return_exceptions=True)
        assert sorted(type(one).__name__ for one in results) == ["IssuanceRefused"] * 3 + ["Issued"] * 2
        await it.bench.index.catch_up()
        with pytest.raises(IssuanceRefused, match="2 certificates"):
            await it.prepare(profile=quota, holder="organisation:e")
        renewed = replace(
            order(quota, holder="organisation:e"), renews=next(one for one in results if isinstance(one, Issued)).serial
        )
        await it.ca.issue(await it.ca.prepare(renewed, permit=it.bench.permit(ISSUE)))


async def test_a_token_nobody_redeems_gives_its_place_back() -> None:
    async with city() as it:
        quota = replace(BUILTIN["tls-server"], quota=1)
        token = await it.prepare(profile=quota)
        with pytest.raises(IssuanceRefused, match="1 certificates"):
            await it.prepare(profile=quota)
        it.ca.discard(token)
        token = await it.prepare(profile=quota)
        it.bench.clock.pass_s(VALID_S)
        assert (await it.issue(profile=quota)).serial != token.serial


@pytest.mark.parametrize("hold", [False, True])
async def test_an_authority_whose_own_certificate_is_revoked_issues_nothing(hold: bool) -> None:
    async with city() as it:
        await it.issue()
        now, own = it.bench.clock.now(), it.bench.index.book.get(Authority, "authority:city").current.certificates[0]
        made = x509.load_der_x509_certificate(decode_base64(own))
        certificate = Certificate(
            *("root", 1, f"{made.serial_number:040x}", "authority", "CN=city", [], "ab" * 32),
            *(int(made.not_valid_before_utc.timestamp()), int(made.not_valid_after_utc.timestamp())),
            *("cd" * 32, 0, "request:city", "authority:city"),
            timestamp=now,
        )
        certificate.issue(own, timestamp=now)
        if hold:
            certificate.hold(timestamp=now)
        else:
            certificate.revoke("cACompromise", timestamp=now)
        await it.bench.journal.save(certificate, permit=it.bench.permit("certificate.revoke"))
        later = CertificateAuthority(it.bench.journal, it.bench.index, it.bench.keys)
        with pytest.raises(Conflict, match="issues nothing"):
            await later.prepare(order(), permit=it.bench.permit(ISSUE))


# -- when something fails --


def serials(*numbers: int) -> Callable[[], bytes]:
    given: Iterator[int] = iter(numbers)
    return lambda: next(given).to_bytes(20)


async def test_a_serial_that_is_there_already_is_drawn_again() -> None:
    first, second = 1 << 158, 1 << 157
    async with city(serials=serials(first, first, first, second)) as it:
        await it.issue()
        assert int((await it.issue()).serial, 16) == second
        assert await it.states() == ["issued", "issued"]


async def test_random_numbers_that_repeat_themselves_are_an_error() -> None:
    async with city(serials=serials(*[1 << 158] * 9)) as it:
        await it.issue()
        with pytest.raises(Conflict):
            await it.issue()
        assert await it.states() == ["issued"]


async def test_when_the_keeper_is_gone_after_the_intent_it_is_abandoned() -> None:
    async with city() as it:

        def gone(_: bytes) -> bytes:
            raise Unavailable("the HSM is gone")

        held = it.bench.keys.keys["held:city-1"]
        it.bench.keys.keys["held:city-1"] = Remote(held, gone)  # type: ignore[assignment]
        with pytest.raises(Unavailable, match="the HSM is gone"):
            await it.issue()
        assert await it.states() == ["abandoned"]
        it.bench.keys.keys["held:city-1"] = Remote(held)  # type: ignore[assignment]
        await it.issue()
        tokens = [await it.prepare() for _ in range(12)]
        await it.ca.issue_many(tokens)
        assert await it.states() == ["abandoned", *["issued"] * 13]


async def test_a_signature_that_does_not_verify_is_not_given_out() -> None:
    async with city() as it:
        held, other = it.bench.keys.keys["held:city-1"], it.bench.keys.keys["held:root-1"]

        wrong = Remote(held, lambda data: sign(other.private, P256, data))  # type: ignore[call-arg, union-attr, arg-type]
        it.bench.keys.keys["held:city-1"] = wrong  # type: ignore[assignment]
        with pytest.raises(Unavailable, match="does not verify"):
            await it.issue()
        assert await it.states() == ["abandoned"]
        it.bench.keys.keys["held:city-1"] = other
        with pytest.raises(Unavailable, match="not the one"):
            await it.issue()
        assert await it.states() == ["abandoned"]


@pytest.mark.parametrize("persisted", [False, True])
@pytest.mark.parametrize("step", [0, 1])
async def test_when_the_store_fails_nothing_is_given_out_and_recovery_settles_it(step: int, persisted: bool) -> None:
    async with city() as it:
        failures: list[Exception | None] = [*[None] * step, StoreUnavailable("the disk is gone")]
        (it.failing.after if persisted else it.failing.before).extend(failures)
        with pytest.raises(StoreUnavailable):
            await it.issue()
        left = {(0, False): [], (0, True): ["intended"], (1, False): ["intended"], (1, True): ["issued"]}[
            step, persisted
        ]
        assert await it.states() == left
        assert await it.ca.recover() == 0  # another process might be at it
        it.bench.clock.pass_s(ABANDON_AFTER_S)
        assert await it.ca.recover() == left.count("intended")
        assert await it.states() == ["abandoned" if one == "intended" else one for one in left]
        assert await it.ca.recover(older_than_s=0) == 0


@pytest.mark.parametrize("step", [0, 1])
async def test_what_the_sites_do_not_confirm_is_not_given_out(step: int) -> None:
    async with city() as it:
        acknowledged = 0

        async def acknowledge(_: int) -> None:
            nonlocal acknowledged
            acknowledged += 1
            if acknowledged == step + 1:
                raise Unacknowledged("one site of two", sites={})

        ca = CertificateAuthority(replace(it.bench.journal, acknowledge=acknowledge), it.bench.index, it.bench.keys)
        with pytest.raises(Unacknowledged):
            await ca.issue(await ca.prepare(order(), permit=it.bench.permit(ISSUE)))
        assert await it.states() == ["abandoned" if step == 0 else "issued"]


async def test_recovery_leaves_alone_what_is_under_way_and_loses_to_what_comes_to_an_end() -> None:
    async with city() as it:
        held, waiting, go_on = it.bench.keys.keys["held:city-1"], asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def slow(data: bytes) -> bytes:

            loop.call_soon_threadsafe(waiting.set)
            asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result()
            return sign(held.private, P256, data)

        it.bench.keys.keys["held:city-1"] = Remote(held, slow)  # type: ignore[assignment]
        issuing = asyncio.create_task(it.issue())
        await waiting.wait()
        assert await it.ca.recover(older_than_s=0) == 0
        issuing.cancel()  # whoever asked is gone; what has begun goes on
        with pytest.raises(asyncio.CancelledError):
            await issuing
        go_on.set()
        await it.ca.close()
        assert await it.states() == ["issued"]

        waiting.clear()
        go_on.clear()
        issuing = asyncio.create_task(it.issue())
        await waiting.wait()
        successor = CertificateAuthority(it.bench.journal, it.bench.index, it.bench.keys)
        it.bench.clock.pass_s(1)
        assert await successor.recover(older_than_s=0) == 1
        go_on.set()
        with pytest.raises(Conflict):
            await issuing
        assert await it.states() == ["issued", "abandoned"]


async def test_the_index_folded_again_knows_the_same() -> None:
    async with city(settings=AuthoritySettings(status_url=STATUS_URL, shards=3)) as it:
        await it.ca.issue_many([await it.prepare() for _ in range(9)])
        await it.bench.index.catch_up()
        again = TrustIndex(it.bench.journal, None)
        await again.catch_up()
        query = "SELECT * FROM certificates ORDER BY serial"
        rows = again.database.execute(query).fetchall()
        assert rows == it.bench.index.database.execute(query).fetchall()
        assert {row[9] for row in rows} <= {0, 1, 2}
        again.close()


@pytest.mark.parametrize("profile", sorted(SUBJECTS))
async def test_every_built_in_profile_issues(profile: str) -> None:
    async with city() as it:
        made = x509.load_der_x509_certificate((await it.issue(profile=profile)).certificate)
        assert [bool(made.extensions), made.version] == [True, x509.Version.v3]


@pytest.mark.filterwarnings("ignore:Attribute's length must be")
async def test_a_common_name_may_have_sixty_four_chinese_characters() -> None:
    async with city() as it:
        name = "某市大数据发展管理局政务服务电子印章专用证书" * 3
        subject = (("C", "CN"), ("O", "某市数据局"), ("CN", name[:64]))
        made = x509.load_der_x509_certificate((await it.issue(profile="document-signing", subject=subject)).certificate)
        assert [one.value for one in made.subject][-1] == name[:64]
        with pytest.raises(MalformedRequest, match="1 to 64 characters"):
            await it.prepare(profile="document-signing", subject=(*subject[:2], ("CN", name[:65])))
