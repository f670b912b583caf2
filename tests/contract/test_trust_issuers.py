"""One suite over everybody who signs what the registration authority has checked: our own authority, OpenBao's PKI."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from uuid import uuid4

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtensionOID

from ledger.errors import Conflict, InvalidRequest, IssuanceRefused, Unavailable
from pki.aggregates.certificate import Certificate
from pki.aggregates.request import CertificateRequest
from pki.ca import Order
from pki.core.request import CertificationRequest, parse_request
from pki.issuers.base import Begun, Issuer
from pki.issuers.openbao import OpenBaoIssuer, PkiEngine
from pki.keystore.openbao import open_client
from tests.support.openbao import OpenBao, openbao
from tests.support.trust import SetClock, TrustBench, trust_bench
from tests.support.trust_authorities import CITY, city_authority
from tests.support.trust_registration import FIRST, HOLDER, MAKER, Desk, csr, desk
from tests.unit.test_trust_hierarchy import StopsAt

PROVINCE = "province"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    with openbao(tmp_path_factory.mktemp("bao") / "server") as started:
        yield started


@dataclass
class Place:
    """A desk before one issuer; `engine` where that is OpenBao's."""

    desk: Desk
    issuer: Issuer
    engine: PkiEngine | None = None

    @property
    def bench(self) -> TrustBench:
        return self.desk.bench


@pytest.fixture(params=["own", "openbao"])
async def place(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    clock = SetClock()
    async with trust_bench(clock=clock) as bench:
        if request.param == "own":
            await city_authority(bench)
            made = desk(bench, authority=CITY)
            await made.vetted()
            yield Place(made, made.registration.issuers.own)
            return
        server = request.getfixturevalue("server")
        mount = f"pki-{uuid4().hex[:8]}"
        server.enable_pki(mount)
        engine = PkiEngine(open_client(server.address, server.token, None), mount, "ra")
        issuer = OpenBaoIssuer(bench.journal, bench.index, engine, PROVINCE)
        made = desk(bench, {PROVINCE: issuer}, authority=PROVINCE)
        await made.vetted()
        yield Place(made, issuer, engine)


async def test_what_is_issued_is_what_was_vetted_and_is_in_the_journal(place: Place) -> None:
    names = ("dns:www.parks.example", "dns:parks.example")
    wish = replace(
        place.desk.wish(),
        csr=csr("dns:www.parks.example", "ip:192.0.2.1", subject={"CN": "evil.example"}),
        names=names,
        subject=(("CN", "www.parks.example"),),
    )
    standing = await place.desk.registration.submit(MAKER, wish)
    assert standing.issued is not None
    certificate = x509.load_der_x509_certificate(standing.issued.certificate)
    found = certificate.extensions.get_extension_for_oid(ExtensionOID.SUBJECT_ALTERNATIVE_NAME).value
    assert isinstance(found, x509.SubjectAlternativeName)
    assert {f"dns:{one.value}" for one in found} == set(names)
    assert "evil" not in certificate.subject.rfc4514_string()
    certificate.verify_directly_issued_by(x509.load_der_x509_certificate(standing.issued.chain[0]))
    assert (await place.issuer.chain(place.desk.authority))[0] == standing.issued.chain[0]
    recorded = await place.bench.journal.load(Certificate, Certificate.create_id(place.desk.authority, standing.serial))
    assert (recorded.state, recorded.request, recorded.holder) == ("issued", standing.name, HOLDER)
    assert (await place.desk.registration.find(standing.name)).state == "issued"


async def test_the_request_is_recorded_before_anything_is_signed(place: Place) -> None:
    at: list[str] = []

    def begun(reference: str) -> CertificateRequest:
        at.append(reference)
        raise Conflict("somebody else has begun")

    with pytest.raises(Conflict, match="begun"):
        await place.issuer.issue(_order(place), begun, permit=place.bench.permit())
    assert len(at[0]) == 40
    assert [one.name async for one in place.bench.journal.occurred()][-1] == "identity.vetted.v1"
    if place.engine is not None:
        assert len([serial async for serial in place.engine.serials()]) == 1  # its own certificate


async def test_what_the_profile_does_not_allow_is_asked_of_nobody(place: Place) -> None:
    for names in (("dns:*.parks.example",), ("email:a@parks.example",)):
        with pytest.raises(IssuanceRefused, match="profile tls-server"):
            await place.desk.registration.submit(MAKER, place.desk.wish(*names))
    assert [one.name async for one in place.bench.journal.occurred()][-1] == "identity.vetted.v1"


async def test_a_certificate_is_revoked_once(place: Place) -> None:
    standing = await place.desk.registration.submit(MAKER, place.desk.wish())
    permit = place.bench.permit("certificate.revoke")
    await place.issuer.revoke(place.desk.authority, standing.serial, "keyCompromise", permit=permit)
    with pytest.raises(Conflict):
        await place.issuer.revoke(place.desk.authority, standing.serial, "superseded", permit=permit)
    await place.bench.index.catch_up()
    row = place.bench.index.certificates.find(place.bench.index.database, place.desk.authority, standing.serial)
    assert row is not None
    assert (row.state, row.reason) == ("revoked", "keyCompromise")
    if place.engine is not None:
        assert standing.serial in await place.engine.revoked()


async def test_an_approved_request_is_issued_by_whoever_comes_first(place: Place) -> None:
    made = place.desk
    made.profiles["tls-server"] = replace(made.profiles["tls-server"], approvals=1)
    waiting = await made.registration.submit(MAKER, made.wish())
    done = await made.registration.approve(FIRST, waiting.name)
    assert done.state == "issued"
    with pytest.raises(Conflict):
        await place.issuer.issue(_order(place), _begins(place, waiting.name), permit=place.bench.permit())
    assert await made.registration.recover() == 0


def _begins(place: Place, name: str) -> Begun:
    def begun(reference: str) -> CertificateRequest:
        raise Conflict(f"request {name} is issued")

    return begun


def _order(place: Place) -> Order:
    made = place.desk
    return Order(made.authority, made.profiles["tls-server"], parse_request(made.wish().csr), "one", HOLDER)


# -- what is OpenBao's alone ----------------------------------------------------------------------------------------


@pytest.fixture
async def outside(server: OpenBao) -> AsyncIterator[tuple[Place, OpenBao]]:
    async with trust_bench() as bench:
        mount = f"pki-{uuid4().hex[:8]}"
        server.enable_pki(mount)
        engine = PkiEngine(open_client(server.address, server.token, None), mount, "ra")
        issuer = OpenBaoIssuer(bench.journal, bench.index, engine, PROVINCE)
        made = desk(bench, {PROVINCE: issuer}, authority=PROVINCE)
        await made.vetted()
        yield Place(made, issuer, engine), server


async def test_what_the_engine_signed_while_we_crashed_is_taken_in(outside: tuple[Place, OpenBao]) -> None:
    place, _ = outside
    bench, made, engine = place.bench, place.desk, place.engine
    assert engine is not None
    # The request is recorded as begun, the engine has signed, and the process was killed before that was recorded.
    made.profiles["tls-server"] = replace(made.profiles["tls-server"], approvals=1)
    requests = []
    for key in ("signed", "not-signed"):
        name = (await made.registration.submit(MAKER, made.wish(f"dns:{key}.parks.example", key=key))).name
        request = await bench.journal.load(CertificateRequest, CertificateRequest.create_id(name))
        request.approve(FIRST.actor, "approver", timestamp=bench.clock.now())
        request.begin("ab" * 20, timestamp=bench.clock.now())
        await bench.journal.save(request, permit=bench.permit())
        requests.append(name)
    der = await engine.sign(replace(_order(place), request=_parsed("signed")))
    assert await made.registration.recover() == 0  # it may be at it this moment
    bench.clock.pass_s(61)
    assert await made.registration.recover() == 3  # two settled, of which one is issued now
    rows = [await made.registration.find(name) for name in requests]
    assert [row.state for row in rows] == ["issued", "issued"]
    assert rows[0].serial == f"{x509.load_der_x509_certificate(der).serial_number:040x}"
    assert isinstance(place.issuer, OpenBaoIssuer)
    assert [one async for one in place.issuer.strays()] == []
    # What the engine has that nobody asked for through us is for somebody to look at.
    stray = await engine.sign(_order(place))
    (found,) = [one async for one in place.issuer.strays()]
    assert (found.certificate, found.request) == (x509.load_der_x509_certificate(stray), "")
    with pytest.raises(InvalidRequest, match="no stray"):
        await place.issuer.revoke_stray(rows[0].serial, "superseded", permit=bench.permit())
    # Recorded, it is no stray any more: then it is revoked, whatever happens next.
    place.issuer._journal = replace(bench.journal, appending=StopsAt(bench.sequencer, 2, after=False))
    await place.issuer.revoke_stray(found.serial, "privilegeWithdrawn", permit=bench.permit())
    assert [one async for one in place.issuer.strays()] == []
    assert found.serial in await engine.revoked()
    row = bench.index.certificates.find(bench.index.database, place.desk.authority, found.serial)
    assert row is not None
    assert (row.state, row.reason, row.profile) == ("revoked", "privilegeWithdrawn", "found")


async def test_a_sealed_engine_leaves_the_request_approved(outside: tuple[Place, OpenBao]) -> None:
    place, server = outside
    made = place.desk
    server.seal()
    try:
        with pytest.raises(Unavailable, match="sealed"):
            await made.registration.submit(MAKER, made.wish(client_id="one"))
        standing = await made.registration.submit(MAKER, made.wish(client_id="one"))
        assert (standing.state, standing.duplicate) == ("approved", True)
        with pytest.raises(Unavailable):
            await made.registration.recover()
    finally:
        server.unseal()
    assert await made.registration.recover() == 1
    assert (await made.registration.find(standing.name)).state == "issued"


async def test_an_engine_that_certifies_something_else_is_not_believed(outside: tuple[Place, OpenBao]) -> None:
    place, server = outside
    assert place.engine is not None
    server.amend_pki_role(place.engine.mount, use_csr_sans=True)
    wish = replace(place.desk.wish(), names=("dns:www.parks.example", "dns:other.parks.example"))
    with pytest.raises(IssuanceRefused, match="is revoked"):
        await place.desk.registration.submit(MAKER, wish)
    await place.bench.index.catch_up()
    (row,) = place.bench.index.certificates.by_holder(place.bench.index.database, HOLDER)
    assert row.state == "revoked"
    assert row.serial in await place.engine.revoked()


async def test_a_revocation_that_the_engine_did_not_hear_of_is_repeated(outside: tuple[Place, OpenBao]) -> None:
    place, server = outside
    assert place.engine is not None
    standing = await place.desk.registration.submit(MAKER, place.desk.wish())
    server.seal()
    try:
        with pytest.raises(Unavailable):
            await place.issuer.revoke(PROVINCE, standing.serial, "superseded", permit=place.bench.permit())
    finally:
        server.unseal()
    assert standing.serial not in await place.engine.revoked()
    assert await place.issuer.recover() == 1
    assert standing.serial in await place.engine.revoked()
    with pytest.raises(InvalidRequest, match="no holds"):
        await place.issuer.hold(PROVINCE, standing.serial, permit=place.bench.permit())


def _parsed(key: str) -> CertificationRequest:
    return parse_request(csr(f"dns:{key}.parks.example", key=key))
