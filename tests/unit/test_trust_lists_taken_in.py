"""Lists that were issued elsewhere: which are taken in, what they do here, and that they come back byte for byte."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from ledger.core.encoding import encode_base64
from ledger.errors import Conflict, InvalidRequest, JinshiError, MalformedRequest
from pki.aggregates.authority import Authority
from pki.core.algorithms import P256
from pki.core.ocsp import format_ocsp_request
from pki.core.settings import DAY_S, AuthoritySettings
from pki.status.issuers import issuer_in
from pki.status.remote import RemoteStatus
from pki.status.taking_in import SIZE_MAX, ForeignLists, TakenIn
from tests.support.trust import TrustBench
from tests.support.trust_authorities import CITY, ROOT, ROOT_DAYS, ca_certificate, key_of, name_of
from tests.support.trust_status import StatusBench, status_bench, told

VAULT = "vault"
_NO_SCOPE = (False, False, None, False, False)


async def vaulted(bench: TrustBench) -> x509.Certificate:
    """A root whose key is elsewhere, and a province below it, whose key is here; its certificate."""
    root, now = key_of(P256, VAULT), bench.clock.now()
    certificate = ca_certificate(
        bench, name_of("Vault"), root, name_of("Vault"), root, days=ROOT_DAYS, path_length=None
    )
    province = key_of(P256, "province")
    bench.keys.keys["held:province-1"] = province
    below = ca_certificate(bench, name_of("Province"), province, name_of("Vault"), root, days=900, path_length=0)
    made = []
    for name, key, reference, der in ((VAULT, root, "", certificate), ("province", province, "held:province-1", below)):
        authority = Authority(name, "", AuthoritySettings().recorded(), timestamp=now)
        authority.add_key(reference, P256.name, encode_base64(key.public), timestamp=now)
        authority.certify(1, encode_base64(der), timestamp=now)
        made.append(authority)
    await bench.journal.save(*made, permit=bench.permit())
    await bench.index.catch_up()
    return x509.load_der_x509_certificate(below)


def a_list(bench: TrustBench, number: int, revoked: dict[int, x509.ReasonFlags], **other: Any) -> bytes:
    """As the vault signs it, DER."""
    key, now = key_of(P256, other.get("by", VAULT)), bench.clock.now() + timedelta(days=other.get("late", 0))
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(name_of(other.get("issuer", "Vault")))
        .last_update(now)
        .next_update(now + timedelta(days=other.get("days", 300)))
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.private.public_key()), critical=False)
    )
    if "delta" in other:
        builder = builder.add_extension(x509.DeltaCRLIndicator(1), critical=True)
    if "point" in other:
        scope = [x509.UniformResourceIdentifier(other["point"])]
        builder = builder.add_extension(x509.IssuingDistributionPoint(scope, None, *_NO_SCOPE), critical=True)
    if "unknown" in other:
        strange = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
        builder = builder.add_extension(strange, critical=True)
    for serial, reason in revoked.items():
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now)
        builder = builder.add_revoked_certificate(entry.add_extension(x509.CRLReason(reason), critical=False).build())
    return builder.sign(key.private, SHA256()).public_bytes(Encoding.DER)  # type: ignore[arg-type]


async def taken(status: StatusBench, data: bytes, authority: str = VAULT) -> TakenIn:
    bench = status.bench
    lists = ForeignLists(bench.journal, bench.index, status.revocation)
    found = await lists.take_in(authority, data, permit=bench.permit())
    await bench.index.catch_up()
    return found


async def test_it_is_published_as_it_came_and_what_it_names_is_revoked_here() -> None:
    async with status_bench() as status:
        bench = status.bench
        province = await vaulted(bench)
        serial = f"{province.serial_number:040x}"
        first = a_list(bench, 7, {})
        until = int(bench.clock.now().timestamp()) + 300 * DAY_S
        assert await taken(status, first) == TakenIn("vault-1-0", 7, until, (), ())
        assert (await status.live.crl(VAULT, 1, 0, delta=False)).data == first
        held = a_list(bench, 8, {province.serial_number: x509.ReasonFlags.certificate_hold, 77: _LOST})
        assert (await taken(status, held)).revoked == (serial,)
        row = bench.index.certificates.find(bench.index.database, VAULT, serial)
        assert row is not None
        assert (row.state, row.reason) == ("held", "certificateHold")
        pem = x509.load_der_x509_crl(a_list(bench, 9, {province.serial_number: _LOST})).public_bytes(Encoding.PEM)
        assert (await taken(status, pem)).revoked == (serial,)
        row = bench.index.certificates.find(bench.index.database, VAULT, serial)
        assert row is not None
        assert (row.state, row.reason) == ("revoked", "cACompromise")
        # A list that forgets it: the revocation stays here, and waits for the next one.
        forgetful = a_list(bench, 10, {})
        assert (await taken(status, forgetful)).missing == (serial,)
        row_of_list = bench.index.crls.last_issued(bench.index.database, VAULT, 1, 0)
        assert row_of_list is not None
        assert bench.index.certificates.waiting(bench.index.database, VAULT, 0, row_of_list.at).revoked == 1
        place = await status.name_place("far")
        await status.rounds.once()
        remote = RemoteStatus(place, bench.clock)
        await remote.look()
        assert (await remote.crl(VAULT, 1, 0, delta=False)).data == forgetful


_LOST = x509.ReasonFlags.ca_compromise


async def test_what_is_no_list_of_that_authority_now_is_refused_and_changes_nothing() -> None:
    async with status_bench() as status:
        bench = status.bench
        province = await vaulted(bench)
        await taken(status, a_list(bench, 7, {}))
        size = (await bench.journal.reader.head()).size
        named = {province.serial_number: _LOST}
        cases: tuple[tuple[bytes, str, type[JinshiError], str], ...] = (
            (b"", VAULT, MalformedRequest, "no certificate revocation list"),
            (a_list(bench, 7, named), VAULT, Conflict, "not newer"),
            (a_list(bench, 8, named, by=ROOT), VAULT, InvalidRequest, "no key of authority vault"),
            (a_list(bench, 8, named), CITY, InvalidRequest, "no key of authority city"),
            (a_list(bench, 8, named, by="province", issuer="Province"), "province", InvalidRequest, "kept here"),
            (a_list(bench, 8, named, issuer="Other"), VAULT, InvalidRequest, "byte for byte"),
            (a_list(bench, 8, named, delta=True), VAULT, InvalidRequest, "it is a delta"),
            (a_list(bench, 8, named, unknown=True), VAULT, InvalidRequest, "a critical extension"),
            (a_list(bench, 8, named, late=-301), VAULT, InvalidRequest, "past its time"),
            (a_list(bench, 8, named, late=1), VAULT, InvalidRequest, "not yet in it"),
            (a_list(bench, 8, named, days=9_000), VAULT, InvalidRequest, "holds longer"),
            (a_list(bench, 1 << 60, named), VAULT, InvalidRequest, "the number"),
            (a_list(bench, 8, dict.fromkeys(range(1, 2_000), _LOST)), VAULT, InvalidRequest, f"{SIZE_MAX:,}"),
        )
        for data, authority, error, why in cases:
            with pytest.raises(error, match=re.escape(why)):
                await taken(status, data, authority)
        assert (await bench.journal.reader.head()).size == size


async def test_of_such_an_authority_ocsp_knows_what_was_taken_in_and_nothing_else() -> None:
    async with status_bench() as status:
        bench = status.bench
        province = await vaulted(bench)
        issuer = issuer_in(bench.index.book, VAULT, 1)
        responders = status.rounds.responders
        with pytest.raises(InvalidRequest, match="waits"):
            await responders.take_in(issuer, province, permit=bench.permit())
        request = x509.load_der_x509_csr(await responders.request(issuer, permit=bench.permit()))
        assert await responders.request(issuer, permit=bench.permit()) != b""
        root = key_of(P256, VAULT)
        for usage, why in ((ExtendedKeyUsageOID.CLIENT_AUTH, "not for signing OCSP"), (None, "")):
            certificate = _responder(bench, request, root, usage or ExtendedKeyUsageOID.OCSP_SIGNING)
            if why:
                with pytest.raises(InvalidRequest, match=why):
                    await responders.take_in(issuer, certificate, permit=bench.permit())
        with pytest.raises(InvalidRequest, match="has not signed"):
            await responders.take_in(issuer, province, permit=bench.permit())
        await responders.take_in(issuer, certificate, permit=bench.permit())
        await status.revocation.take_in(VAULT, province.public_bytes(Encoding.DER), permit=bench.permit())
        await bench.index.catch_up()
        said = {}
        for serial in (province.serial_number, 4_711):
            asked = format_ocsp_request([issuer.hashes.cert_id("sha256", f"{serial:040x}")], None)
            said[serial] = told((await status.live.ocsp(asked)).data)
        assert said == {province.serial_number: "good", 4_711: "unknown"}
        # Named by a list itself, the responder answers no more; the next key is asked for.
        assert (await taken(status, a_list(bench, 7, {99: _LOST}))).revoked == (f"{99:040x}",)
        with pytest.raises(InvalidRequest, match="responder of vault-1 is revoked"):
            await responders.signer(issuer)
        another = x509.load_der_x509_csr(await responders.request(issuer, permit=bench.permit()))
        assert another.public_key() != request.public_key()


def _responder(
    bench: TrustBench, request: x509.CertificateSigningRequest, root: Any, usage: Any, **other: Any
) -> x509.Certificate:
    now = bench.clock.now() + timedelta(days=other.get("late", 0))
    builder = (
        x509.CertificateBuilder()
        .subject_name(request.subject)
        .issuer_name(name_of(other.get("issuer", "Vault")))
        .public_key(request.public_key())
        .serial_number(99)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=300))
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(x509.OCSPNoCheck(), critical=False)
    )
    return builder.sign(root.private, SHA256())


async def test_what_it_names_of_others_that_are_known_here_is_revoked_too() -> None:
    """Or the responder would call good what the list published beside it calls revoked."""
    async with status_bench() as status:
        bench = status.bench
        await vaulted(bench)
        root, other = key_of(P256, VAULT), key_of(P256, "other")
        der = ca_certificate(bench, name_of("Other"), other, name_of("Vault"), root, days=900, path_length=0)
        serial = await status.revocation.take_in(VAULT, der, permit=bench.permit())
        taken_in = await taken(status, a_list(bench, 7, {int(serial, 16): _LOST, 4_711: _LOST}))
        assert taken_in.revoked == (serial,)
        row = bench.index.certificates.find(bench.index.database, VAULT, serial)
        assert row is not None
        assert (row.state, row.reason) == ("revoked", "cACompromise")


async def test_a_list_of_some_points_only_or_older_than_the_last_is_refused() -> None:
    async with status_bench() as status:
        bench = status.bench
        await vaulted(bench)
        with pytest.raises(InvalidRequest, match="not of all certificates"):
            await taken(status, a_list(bench, 7, {}, point="http://status.example/vault-1-1.crl"))
        await taken(status, a_list(bench, 7, {}))
        with pytest.raises(Conflict, match="not newer"):
            await taken(status, a_list(bench, 8, {}, late=-1))


async def test_a_responder_that_is_another_issuers_not_yet_valid_or_revoked_does_not_answer() -> None:
    async with status_bench() as status:
        bench = status.bench
        await vaulted(bench)
        issuer, root = issuer_in(bench.index.book, VAULT, 1), key_of(P256, VAULT)
        responders, usage = status.rounds.responders, ExtendedKeyUsageOID.OCSP_SIGNING
        request = x509.load_der_x509_csr(await responders.request(issuer, permit=bench.permit()))
        for other, why in (({"issuer": "Other"}, "has not signed"), ({"late": 1}, "not begun")):
            certificate = _responder(bench, request, root, usage, **other)
            with pytest.raises(InvalidRequest, match=why):
                await responders.take_in(issuer, certificate, permit=bench.permit())
        await taken(status, a_list(bench, 7, {99: _LOST}))
        certificate = _responder(bench, request, root, usage)
        with pytest.raises(InvalidRequest, match="revoked"):
            await responders.take_in(issuer, certificate, permit=bench.permit())


async def test_what_the_last_list_names_is_revoked_from_the_first_when_it_turns_up_here() -> None:
    async with status_bench() as status:
        bench = status.bench
        await vaulted(bench)
        root, rows = key_of(P256, VAULT), []
        for number, reason in ((7, _LOST), (8, x509.ReasonFlags.certificate_hold)):
            der = ca_certificate(
                bench,
                name_of("Other"),
                key_of(P256, f"other {number}"),
                name_of("Vault"),
                root,
                days=900,
                path_length=0,
            )
            await taken(status, a_list(bench, number, {x509.load_der_x509_certificate(der).serial_number: reason}))
            serial = await status.revocation.take_in(VAULT, der, permit=bench.permit())
            await bench.index.catch_up()
            rows.append(bench.index.certificates.find(bench.index.database, VAULT, serial))
        assert [(row.state, row.reason) for row in rows if row] == [
            ("revoked", "cACompromise"),
            ("held", "certificateHold"),
        ]
