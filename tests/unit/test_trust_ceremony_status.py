"""Lists of a root whose key custodians share: revoked, listed and told of in a ceremony, and published as any other."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from ledger.errors import Conflict, InvalidRequest, JinshiError, Unavailable
from pki.aggregates.ceremony import Ceremony
from pki.ceremony.running import CeremonyRun, Done
from pki.core.crl import applied
from pki.core.lint_crl import parse_list
from pki.core.path_signatures import list_signature_holds
from pki.core.settings import DAY_S
from pki.status.issuers import StatusIssuer, issuer_in
from pki.status.lists import Lists
from tests.support.trust import TrustBench, trust_bench
from tests.unit.test_trust_ceremony import ROOT, Room, request_of_city, sign_script
from tests.unit.test_trust_hierarchy import StopsAt

LISTS = """
format: 1
ceremony: lists-2027
title: The city's key was lost
authority: root
revoke:
  - serial: SERIAL
    reason: keyCompromise
    since: 2026-11-30T08:00:00Z
responder: {request: responder.csr, sha256: DIGEST, days: 200}
crl: {days: 180}
"""


def responder_request() -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "OCSP root")])
    )
    return builder.sign(ec.generate_private_key(ec.SECP256R1()), SHA256()).public_bytes(Encoding.DER)


@dataclass
class Vault:
    """A root that custodians share, above a city; and what the ceremony about them goes by."""

    room: Room
    root: x509.Certificate
    city: x509.Certificate
    script: str
    files: dict[str, bytes]

    def ceremony(self, **other: Any) -> CeremonyRun:
        return self.room.ceremony(self.script, self.files, **other)

    async def run(self) -> Done:
        return await self.room.run(self.script, self.files, "li", "zhang")

    @property
    def issuer(self) -> StatusIssuer:
        return issuer_in(self.room.bench.index.book, "root", 1)

    async def newest(self) -> x509.CertificateRevocationList:
        """The list as whoever serves it has it: out of the log, without the key."""
        bench = self.room.bench
        await bench.index.catch_up()
        row = bench.index.crls.last_issued(bench.index.database, "root", 1, 0)
        assert row is not None
        return parse_list(await Lists(bench.journal, bench.index, bench.keys).rebuild(row))


async def vault(bench: TrustBench, folder: Path, algorithm: str = "P-256") -> Vault:
    room = Room(bench, folder)
    (root,) = (await room.run(ROOT.replace("ALGORITHM", algorithm))).certificates
    request = await request_of_city(room)
    (city,) = (await room.run(sign_script(request), {"city.csr": request}, "li", "zhang")).certificates
    asked = responder_request()
    script = LISTS.replace("SERIAL", f"{city.serial_number:x}").replace("DIGEST", hashlib.sha256(asked).hexdigest())
    return Vault(room, root, city, script, {"responder.csr": asked})


@pytest.mark.parametrize("algorithm", ["P-384", "ML-DSA-65"])
async def test_what_was_planned_is_revoked_and_listed(algorithm: str, tmp_path: Path) -> None:
    async with trust_bench() as bench:
        at = await vault(bench, tmp_path, algorithm)
        size = (await bench.journal.reader.head()).size
        plan = await at.ceremony().plan()
        assert (await bench.journal.reader.head()).size == size
        (planned,) = plan.lists
        assert [(one.serial, one.reason) for one in planned.entries] == [
            (f"{at.city.serial_number:040x}", "keyCompromise")
        ]
        assert planned.next_update - planned.this_update == 180 * DAY_S
        assert plan.revocations[0].state == "issued"
        bench.clock.pass_s(60)
        done = await at.run()
        (signed,) = done.lists
        crl = await at.newest()
        assert crl.public_bytes(Encoding.DER) == signed.der
        assert list_signature_holds(crl, at.root.public_key())
        assert not list_signature_holds(crl, at.city.public_key())
        assert applied(crl, None) == {at.city.serial_number: "keyCompromise"}
        assert crl.next_update_utc is not None
        assert (crl.next_update_utc - bench.clock.now()).days == 180
        assert crl.issuer == at.root.subject
        acts, _ = at.room.hierarchy()
        with pytest.raises(Conflict, match="city certifies nobody"):
            await acts.issuing("city")
        (responder,) = done.certificates
        responder.verify_directly_issued_by(at.root)
        assert (responder.not_valid_after_utc - bench.clock.now()).days >= 199
        recorded = bench.index.book.get(Ceremony, "ceremony:lists-2027")
        said = [one.what for one in recorded.steps]
        assert said == [
            *("key opened", "certificate revoked, keyCompromise", "responder certified"),
            *("list intended", "list signed"),
        ]
        assert recorded.steps[-1].digest == hashlib.sha256(signed.der).hexdigest()
        # The next one: a higher number, the same entry.
        bench.clock.pass_s(170 * DAY_S)
        later = at.script.replace("lists-2027", "lists-2028")
        again = await at.room.run(later.split("revoke:")[0] + "crl: {days: 300}\n", {}, "wang", "zhang")
        assert again.lists[0].number > signed.number
        assert applied(await at.newest(), None) == {at.city.serial_number: "keyCompromise"}


async def test_nothing_is_recorded_of_what_breaks_a_rule(tmp_path: Path) -> None:
    async with trust_bench() as bench:
        at = await vault(bench, tmp_path)
        script = at.script
        size = (await bench.journal.reader.head()).size
        bad = (
            (script.replace(f"{at.city.serial_number:x}", "0a1b"), at.files, "issued no certificate"),
            (script, {"responder.csr": responder_request()}, "reviewed"),
            (script.split("revoke:")[0] + "crl: {days: 367}", {}, "holds for"),
            (script.replace("crl: {days: 180}", ""), at.files, "add crl|list that names"),
            (script.replace("keyCompromise", "certificateHold"), at.files, "no reason"),
        )
        for changed, files, why in bad:
            with pytest.raises(JinshiError, match=why):
                await at.room.run(changed, files, "li", "zhang")
        with pytest.raises(InvalidRequest, match="custodians are here"):
            await at.room.run(script, at.files, "li")
        assert (await bench.journal.reader.head()).size == size
        bench.clock.pass_s((7_300 - 100) * DAY_S)
        with pytest.raises(InvalidRequest, match="holds longer than"):
            await at.room.run(script.split("revoke:")[0] + "crl: {days: 180}", {}, "li", "zhang")
        assert (await bench.journal.reader.head()).size == size
        await at.room.run(script.split("revoke:")[0] + "crl: {days: 90}", {}, "li", "zhang")


async def test_a_new_root_has_its_first_list_from_the_same_ceremony(tmp_path: Path) -> None:
    async with trust_bench() as bench:
        room = Room(bench, tmp_path)
        script = ROOT.replace("ALGORITHM", "P-256") + "crl: {days: 365}\n"
        assert [one.entries for one in (await room.ceremony(script).plan()).lists] == [[]]
        done = await room.run(script)
        assert list_signature_holds(parse_list(done.lists[0].der), done.certificates[0].public_key())


@pytest.mark.parametrize("after", [False, True], ids=["not recorded", "recorded"])
@pytest.mark.parametrize("step", range(1, 9))
async def test_killed_at_any_step_it_is_revoked_and_listed_once(step: int, after: bool, tmp_path: Path) -> None:
    async with trust_bench() as bench:
        at = await vault(bench, tmp_path)
        killed = replace(bench.journal, appending=StopsAt(bench.sequencer, step, after=after))
        shares = [at.room.shares[name] for name in ("li", "zhang")]
        try:
            await at.ceremony(journal=killed).run(shares, at.room.give, permit=bench.permit())
        except Unavailable:
            bench.clock.pass_s(900)
        # What a server does meanwhile leaves alone what it has no key for.
        online = Lists(bench.journal, bench.index, bench.keys)
        assert await online.recover(permit=bench.permit()) == 0
        with pytest.raises(InvalidRequest, match="ceremony"):
            await online.issue(at.issuer, 0, permit=bench.permit())
        found = await bench.journal.find(Ceremony, "ceremony:lists-2027")
        if found is None or found.state != "ended":
            await at.run()
        index = bench.index
        await index.catch_up()
        rows = list(index.crls.of_series(index.database, "root", 1, 0))
        assert [(row.ordinal, bool(row.sha256)) for row in rows] == [(1, True)]
        assert applied(await at.newest(), None) == {at.city.serial_number: "keyCompromise"}
        told = [one.what for one in index.book.get(Ceremony, "ceremony:lists-2027").steps if one.what != "key opened"]
        assert len(told) == len(set(told)) == 4
        request = hashlib.sha256(at.files["responder.csr"]).hexdigest()
        issued = index.certificates.by_request(index.database, f"ceremony:lists-2027:{request}")
        assert [row.state for row in issued if row.state == "issued"] == ["issued"]


@pytest.mark.parametrize("meanwhile", ["another ceremony", "half a year"])
async def test_gone_on_with_too_late_it_signs_no_list_that_is_past_its_time_or_older_than_another(
    meanwhile: str, tmp_path: Path
) -> None:
    async with trust_bench() as bench:
        at = await vault(bench, tmp_path)
        shares, index = [at.room.shares[name] for name in ("li", "zhang")], bench.index
        for step in (8, 4):  # before the list is signed; then, gone on with, before the one that it intends anew is
            killed = replace(bench.journal, appending=StopsAt(bench.sequencer, step, after=False))
            with pytest.raises(Unavailable):
                await at.ceremony(journal=killed).run(shares, at.room.give, permit=bench.permit())
            number = 0
            if meanwhile == "another ceremony":
                other = at.script.replace("lists-2027", f"lists-{step}").split("revoke:")[0] + "crl: {days: 90}\n"
                number = (await at.room.run(other, {}, "wang", "zhang")).lists[0].number
            else:
                bench.clock.pass_s(181 * DAY_S)
        (signed,) = (await at.run()).lists
        assert signed.number > number
        assert signed.next_update > bench.clock.now().timestamp()
        newest = await at.newest()
        assert newest.public_bytes(Encoding.DER) == signed.der
        assert applied(newest, None) == {at.city.serial_number: "keyCompromise"}
        assert index.book.get(Ceremony, "ceremony:lists-2027").steps[-1].what == "list signed"
