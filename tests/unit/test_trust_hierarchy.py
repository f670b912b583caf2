"""Authorities: nothing exists that is not in the log before, nothing is signed that could not hold, nothing is half."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from shutil import which
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ledger.core.encoding import decode_base64
from ledger.errors import (
    Conflict,
    InvalidRequest,
    IssuanceRefused,
    JinshiError,
    MalformedRequest,
    Tampered,
    Unavailable,
)
from ledger.keyring import generate_recovery_key
from pki.aggregates.authority import Authority
from pki.aggregates.certificate import Certificate
from pki.aggregates.key import Key
from pki.chains import chain_of, issuing_certificate
from pki.core.algorithms import ALGORITHMS, ED25519, ML_DSA_65, P256, P384, RSA_3072, Algorithm, generate
from pki.core.authority_profile import AuthorityProfile, extension, key_id_of, parse_constraints, parse_subject
from pki.core.delegated import delegated
from pki.core.path import Anchors, PathRefused, validate
from pki.core.settings import AuthoritySettings
from pki.custody import Custody, RecordedKeys
from pki.hierarchy import Hierarchy, Wish
from pki.journal import Journal
from pki.keystore.base import SigningKey
from pki.keystore.signing_files import FileKeys
from pki.other_houses import OtherHouses
from pki.revocation import Revocation
from tests.support.trust import SetClock, TrustBench, trust_bench
from tests.support.trust_lint import pkilint_errors

SETTINGS = AuthoritySettings(status_url="http://pki.example.gov")
YEARS = 3_650


def wish(common_name: str, algorithm: Algorithm = P256, days: int = YEARS, **more: Any) -> Wish:
    return Wish(AuthorityProfile(parse_subject(f"C=CN, O=某省, CN={common_name}"), **more), algorithm, days)


def hierarchy(bench: TrustBench, folder: Path, *, recovery: bytes = b"", journal: Journal | None = None) -> Hierarchy:
    journal = journal or bench.journal
    return Hierarchy(journal, bench.index, Custody(journal, bench.index, FileKeys(folder, lambda: "x", 10), recovery))


async def three_levels(acts: Hierarchy, bench: TrustBench, algorithm: Algorithm) -> None:
    """Root, provincial, municipal; both below constrained to what is theirs."""
    permit = bench.permit()
    await acts.create_root("root", wish("Root", algorithm, path_length=2), SETTINGS, permit=permit)
    names = parse_constraints(["dns:province.example", "dir:C=CN, O=某省"], ["email:secret.example"])
    province = wish("Province", algorithm, 3_000, path_length=1, names=names, policies=("2.16.156.1.1", "2.16.156.1.2"))
    await acts.create("province", "root", province, SETTINGS, permit=permit)
    names = parse_constraints(["dns:city.province.example", "dir:C=CN, O=某省"], [])
    city = wish("City", algorithm, 0, path_length=0, names=names, policies=("2.16.156.1.2",))
    await acts.create("city", "province", replace(city), SETTINGS, permit=permit)


@pytest.mark.parametrize("algorithm", list(ALGORITHMS.values()), ids=list(ALGORITHMS))
async def test_three_levels_of_every_algorithm_verify_elsewhere_too(algorithm: Algorithm, tmp_path: Path) -> None:
    async with trust_bench(clock=SetClock(datetime.now(UTC))) as bench:  # certtool has no other time
        acts = hierarchy(bench, tmp_path / "ca")
        await three_levels(acts, bench, algorithm)
        await bench.index.catch_up()
        city = bench.index.book.get(Authority, "authority:city")
        chain = chain_of(bench.index.book, city)
        assert [one.subject.rfc4514_string().split(",")[0] for one in chain] == ["CN=City", "CN=Province", "CN=Root"]
        found = validate(chain[0], chain[1:2], Anchors((chain[2],)), at=bench.clock.now(), authority=True)
        assert found.policies == {"2.16.156.1.2"}
        for one in chain:  # each is in the log, by whoever issued it
            row = bench.index.certificates.by_serial(bench.index.database, f"{one.serial_number:040x}")[0]
            recorded = await bench.journal.load(Certificate, f"certificate:{row.authority}:{row.serial}")
            assert (recorded.state, decode_base64(recorded.der)) == ("issued", one.public_bytes(Encoding.DER))
            assert one.serial_number.bit_length() <= 159
            assert pkilint_errors(one.public_bytes(Encoding.DER)) == []
        assert [one.state for one in bench.index.book.all(Key)] == ["in use"] * 3
        key = await acts.custody.keys.open(city.generations[0].reference)
        leaves = [leaf_of(chain[0], key, f"www.{domain}.example") for domain in ("city.province", "other")]
        if algorithm is not ML_DSA_65:  # OpenSSL knows it from 3.5 on, GnuTLS from 3.8.8
            assert by_openssl(leaves[0], chain, tmp_path) == by_gnutls(leaves[0], chain, tmp_path) == ""
            assert "permitted subtree" in by_openssl(leaves[1], chain, tmp_path)
            assert "constraints" in by_gnutls(leaves[1], chain, tmp_path)
        validate(leaves[0], chain[:2], Anchors((chain[2],)), at=bench.clock.now())
        with pytest.raises(PathRefused, match="permits"):
            validate(leaves[1], chain[:2], Anchors((chain[2],)), at=bench.clock.now())


def leaf_of(issuer: x509.Certificate, key: SigningKey, name: str) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(parse_subject(f"C=CN, O=某省, CN={name}"))
        .issuer_name(issuer.subject)
        .public_key(generate(P256).public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(issuer.not_valid_before_utc)
        .not_valid_after(issuer.not_valid_before_utc + timedelta(days=90))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier(key_id_of(key.public), None, None), critical=False)
        .add_extension(x509.SubjectKeyIdentifier(b"\1" * 20), critical=False)
    )
    return builder.sign(key.private, key.algorithm.hash)  # type: ignore[arg-type]


def by_openssl(leaf: x509.Certificate, chain: list[x509.Certificate], folder: Path) -> str:
    """What OpenSSL has against it; "": nothing."""
    leaf_file, above, root = (folder / name for name in ("leaf.pem", "above.pem", "root.pem"))
    leaf_file.write_bytes(leaf.public_bytes(Encoding.PEM))
    above.write_bytes(b"".join(one.public_bytes(Encoding.PEM) for one in chain[:-1]))
    root.write_bytes(chain[-1].public_bytes(Encoding.PEM))
    arguments = ["openssl", "verify", "-x509_strict", "-CAfile", root, "-untrusted", above, leaf_file]
    ran = subprocess.run(arguments, capture_output=True, text=True, check=False)
    return "" if ran.returncode == 0 else ran.stderr


def by_gnutls(leaf: x509.Certificate, chain: list[x509.Certificate], folder: Path) -> str:
    """What GnuTLS has against it; "": nothing."""
    if which("certtool") is None:
        pytest.skip("certtool is not installed (Debian: gnutls-bin)")
    file = folder / "chain.pem"
    file.write_bytes(b"".join(one.public_bytes(Encoding.PEM) for one in (leaf, *chain)))
    ran = subprocess.run(["certtool", "--verify-chain", "--infile", file], capture_output=True, text=True, check=False)
    (said,) = [line for line in ran.stdout.splitlines() if line.startswith("Chain verification output")]
    return "" if "Verified. The certificate is trusted" in said else said


async def test_what_could_never_hold_is_refused_before_a_key_is_made(tmp_path: Path) -> None:
    async with trust_bench() as bench:
        acts = hierarchy(bench, tmp_path / "ca")
        await three_levels(acts, bench, P256)
        size = (await bench.journal.reader.head()).size
        files = len(list((tmp_path / "ca").iterdir()))
        excess = {
            "path length 0": ("city", wish("Below", days=10, path_length=0)),
            "path length must be below": ("province", wish("Wide", days=10, path_length=1)),
            "longer than": ("province", wish("Long", days=YEARS, path_length=0)),
            "would permit": (
                "province",
                wish("Wider", days=10, path_length=0, names=parse_constraints(["dns:other.example"], [])),
            ),
            "outside": (
                "province",
                Wish(AuthorityProfile(parse_subject("C=CN, O=他省, CN=Other"), path_length=0), P256, 10),
            ),
            "policy 2.16.156.9": ("province", wish("Policies", days=10, path_length=0, policies=("2.16.156.9",))),
        }
        for reason, (parent, wanted) in excess.items():
            with pytest.raises(IssuanceRefused, match=reason):
                await acts.create("more", parent, wanted, SETTINGS, permit=bench.permit())
        with pytest.raises(InvalidRequest, match="how long"):
            await acts.create_root("other", wish("Other", days=0), SETTINGS, permit=bench.permit())
        for name in ("", "Root", "a b", "../x", "x" * 41):
            with pytest.raises(InvalidRequest, match="cannot name"):
                await acts.create_root(name, wish("Other"), SETTINGS, permit=bench.permit())
        with pytest.raises(Conflict, match="already"):
            await acts.create("city", "province", wish("City", path_length=0, days=1), SETTINGS, permit=bench.permit())
        assert (await bench.journal.reader.head()).size == size
        assert len(list((tmp_path / "ca").iterdir())) <= files + 1  # the root that was told no time


class StopsAt:
    """An appender that is killed before or after its nth append."""

    def __init__(self, inner: Any, number: int, *, after: bool) -> None:
        self.inner, self.left, self.after = inner, number, after

    async def append(self, events: Any, *, actor: str) -> Any:
        self.left -= 1
        if self.left:
            return await self.inner.append(events, actor=actor)
        if self.after:
            await self.inner.append(events, actor=actor)
        raise Unavailable("killed")


@pytest.mark.parametrize("after", [False, True], ids=["not recorded", "recorded"])
@pytest.mark.parametrize("step", [1, 2])
async def test_killed_at_any_step_there_is_no_certificate_without_its_entry(
    step: int, after: bool, tmp_path: Path
) -> None:
    async with trust_bench() as bench:
        await hierarchy(bench, tmp_path / "ca").create_root("root", wish("Root"), SETTINGS, permit=bench.permit())
        killed = replace(bench.journal, appending=StopsAt(bench.sequencer, step, after=after))
        wanted = wish("City", days=0)
        with pytest.raises(JinshiError, match="killed"):
            await hierarchy(bench, tmp_path / "ca", journal=killed).create(
                "city", "root", wanted, SETTINGS, permit=bench.permit()
            )
        acts = hierarchy(bench, tmp_path / "ca")
        bench.clock.pass_s(1)
        abandoned = await acts.recover(permit=bench.permit())
        assert abandoned == (1 if (step, after) in ((1, True), (2, False)) else 0)
        assert await acts.recover(permit=bench.permit()) == 0
        if (step, after) == (2, True):
            with pytest.raises(Conflict):
                await acts.create("city", "root", wanted, SETTINGS, permit=bench.permit())
        else:
            await acts.create("city", "root", wanted, SETTINGS, permit=bench.permit())
        await bench.index.catch_up()
        city = bench.index.book.get(Authority, "authority:city")
        assert len(city.generations) == 1
        certificate = issuing_certificate(city)
        rows = bench.index.certificates.by_holder(bench.index.database, "authority:city")
        states = {row.serial: row.state for row in rows}
        assert states.pop(f"{certificate.serial_number:040x}") == "issued"
        assert set(states.values()) <= {"abandoned"}
        keys = [one for one in bench.index.book.all(Key) if one.label.startswith("ca-city")]
        assert [one.reference for one in keys] == [city.generations[0].reference]


async def test_a_keeper_that_goes_away_in_the_middle_leaves_an_abandoned_intent(tmp_path: Path) -> None:
    async with trust_bench() as bench:
        acts = hierarchy(bench, tmp_path / "ca")
        await acts.create_root("root", wish("Root"), SETTINGS, permit=bench.permit())
        keys = acts.custody.keys
        gone = _GoneKeys(keys, (await bench.journal.load(Authority, "authority:root")).generations[0].reference)
        broken = Hierarchy(bench.journal, bench.index, replace(acts.custody, keys=gone))
        with pytest.raises(Unavailable, match="sealed"):
            await broken.create("city", "root", wish("City", days=0), SETTINGS, permit=bench.permit())
        await bench.index.catch_up()
        (row,) = bench.index.certificates.by_holder(bench.index.database, "authority:city")
        assert (row.state, row.reason) == ("abandoned", "the keeper is sealed")
        await acts.create("city", "root", wish("City", days=0), SETTINGS, permit=bench.permit())


class _GoneKeys:
    """Keys of which one signs nothing."""

    def __init__(self, inner: Any, reference: str) -> None:
        self.inner, self.reference = inner, reference

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    async def open(self, reference: str) -> Any:
        key = await self.inner.open(reference)

        def sign(data: bytes, hash_: object) -> bytes:
            raise Unavailable("the keeper is sealed")

        return key if reference != self.reference else replace(key, private=delegated(key.public, sign), local=False)


async def test_a_new_key_of_a_root_is_reached_from_the_old_one_and_back(tmp_path: Path) -> None:
    async with trust_bench() as bench:
        acts = hierarchy(bench, tmp_path / "ca")
        old = await acts.create_root("root", wish("Root", P256), SETTINGS, permit=bench.permit())
        await acts.create("before", "root", wish("Before", days=100), SETTINGS, permit=bench.permit())
        bench.clock.pass_s(86_400)
        new, by_old, by_new = await acts.rollover("root", algorithm=ML_DSA_65, permit=bench.permit())
        await acts.create("after", "root", wish("After", RSA_3072, days=100), SETTINGS, permit=bench.permit())
        await bench.index.catch_up()
        book = bench.index.book
        before, after = (issuing_certificate(book.get(Authority, f"authority:{name}")) for name in ("before", "after"))
        at = bench.clock.now()
        links = [by_old, by_new]
        for target in (before, after):
            for anchor in (old, new):
                validate(target, links, Anchors((anchor,)), at=at, authority=True)
        with pytest.raises(PathRefused):
            validate(after, [], Anchors((old,)), at=at)
        assert [len(one.certificates) for one in book.get(Authority, "authority:root").generations] == [2, 2]
        assert chain_of(book, book.get(Authority, "authority:before"))[-1] == old
        assert chain_of(book, book.get(Authority, "authority:after"))[-1] == new
        (made,) = await acts.rollover("before", permit=bench.permit())
        validate(made, [], Anchors((new,)), at=at, authority=True)


async def test_an_authority_whose_certificate_is_revoked_certifies_nobody(tmp_path: Path) -> None:
    async with trust_bench() as bench:
        acts = hierarchy(bench, tmp_path / "ca")
        await acts.create_root("root", wish("Root"), SETTINGS, permit=bench.permit())
        made = await acts.create("city", "root", wish("City", days=100), SETTINGS, permit=bench.permit())
        certificate = await bench.journal.load(Certificate, f"certificate:root:{made.serial_number:040x}")
        certificate.revoke("cACompromise", timestamp=bench.clock.now())
        await bench.journal.save(certificate, permit=bench.permit())
        with pytest.raises(Conflict, match="revoked"):
            await acts.create("town", "city", wish("Town", days=1, path_length=0), SETTINGS, permit=bench.permit())
        with pytest.raises(PathRefused, match="revoked"):
            await OtherHouses(acts).import_authority("again", [made], SETTINGS, permit=bench.permit())


async def test_nothing_is_certified_below_or_beside_what_is_revoked(tmp_path: Path) -> None:
    async with trust_bench() as bench:
        acts = hierarchy(bench, tmp_path / "ca")
        root = await acts.create_root("root", wish("Root", path_length=3), SETTINGS, permit=bench.permit())
        province = await acts.create(
            "province", "root", wish("Province", days=100, path_length=2), SETTINGS, permit=bench.permit()
        )
        await acts.create("city", "province", wish("City", days=90, path_length=1), SETTINGS, permit=bench.permit())
        revoked = Revocation(bench.journal, bench.index)
        await revoked.hold("root", f"{province.serial_number:040x}", permit=bench.permit())
        with pytest.raises(Conflict, match="Province is held"):
            await acts.create("town", "city", wish("Town", days=1, path_length=0), SETTINGS, permit=bench.permit())
        await revoked.release("root", f"{province.serial_number:040x}", permit=bench.permit())
        await acts.create("town", "city", wish("Town", days=1, path_length=0), SETTINGS, permit=bench.permit())
        # The old key of a root and its new one certify each other: not where the old one is compromised.
        await revoked.revoke("root", f"{root.serial_number:040x}", "keyCompromise", permit=bench.permit())
        with pytest.raises(Conflict, match="its certificate is revoked"):
            await acts.rollover("root", permit=bench.permit())


async def test_two_houses_certify_each_other(tmp_path: Path) -> None:
    async with trust_bench() as ours, trust_bench() as theirs:
        here, there = hierarchy(ours, tmp_path / "here"), hierarchy(theirs, tmp_path / "there")
        root = await here.create_root("root", wish("Ours"), SETTINGS, permit=ours.permit())
        foreign = await there.create_root("bridge", wish("Theirs", P384), SETTINGS, permit=theirs.permit())
        leaf = await there.create("city", "bridge", wish("Their City", days=100), SETTINGS, permit=theirs.permit())
        names = parse_constraints(["dir:C=CN, O=某省"], ["dns:secret.example"])
        limits = AuthorityProfile(parse_subject("CN=ignored"), path_length=1, names=names)
        cross = await OtherHouses(here).cross_certify("root", foreign, limits, 365, permit=ours.permit())
        validate(leaf, [cross], Anchors((root,)), at=ours.clock.now(), authority=True)
        assert extension(cross, x509.SubjectKeyIdentifier) == extension(foreign, x509.SubjectKeyIdentifier)
        back = await OtherHouses(there).cross_certify("bridge", root, limits, 365, permit=theirs.permit())
        assert await OtherHouses(here).take_in("root", [back, foreign], permit=ours.permit()) == 1
        with pytest.raises(Conflict):
            await OtherHouses(here).take_in("root", [back, foreign], permit=ours.permit())
        with pytest.raises(InvalidRequest, match="no key"):
            await OtherHouses(here).take_in("root", [leaf, foreign], permit=ours.permit())
        with pytest.raises(MalformedRequest, match="proves"):
            await OtherHouses(here).cross_certify("root", leaf, limits, 10, permit=ours.permit())
        await ours.index.catch_up()
        assert issuing_certificate(ours.index.book.get(Authority, "authority:root")) == root  # and issues as before


async def test_an_authority_is_taken_in_with_its_key_or_without(tmp_path: Path) -> None:
    async with trust_bench() as theirs, trust_bench() as ours:
        there, here = hierarchy(theirs, tmp_path / "there"), hierarchy(ours, tmp_path / "here")
        root = await there.create_root("root", wish("Old"), SETTINGS, permit=theirs.permit())
        city = await there.create("city", "root", wish("City", ED25519, days=90), SETTINGS, permit=theirs.permit())
        keys = there.custody.keys
        references = {
            name: (await theirs.journal.load(Authority, f"authority:{name}")).generations[0].reference
            for name in ("root", "city")
        }
        private = {name: await keys.export(reference) for name, reference in references.items()}
        act = OtherHouses(here).import_authority
        with pytest.raises(InvalidRequest, match="not the one"):
            await act("city", [city, root], SETTINGS, private=private["root"], permit=ours.permit())
        with pytest.raises(PathRefused):
            await act("city", [city], SETTINGS, private=private["city"], permit=ours.permit())
        assert not list((tmp_path / "here").glob("*"))
        await act("city", [city, root], SETTINGS, private=private["city"], permit=ours.permit())
        await here.create("district", "city", wish("District", days=0), SETTINGS, permit=ours.permit())
        await act("root", [root], SETTINGS, permit=ours.permit())
        with pytest.raises(JinshiError):
            await here.create("other", "root", wish("Other", days=0), SETTINGS, permit=ours.permit())
        await ours.index.catch_up()
        district = ours.index.book.get(Authority, "authority:district")
        assert len(chain_of(ours.index.book, district)) == 3
        await here.retire("city", permit=ours.permit())
        with pytest.raises(Conflict, match="retired"):
            await here.create("more", "city", wish("More", days=0), SETTINGS, permit=ours.permit())


async def test_a_request_goes_out_and_its_certificate_comes_back(tmp_path: Path) -> None:
    async with trust_bench() as offline, trust_bench() as online:
        there, here = hierarchy(offline, tmp_path / "there"), hierarchy(online, tmp_path / "here")
        root = await there.create_root("root", wish("Root"), SETTINGS, permit=offline.permit())
        await OtherHouses(here).import_authority("root", [root], SETTINGS, permit=online.permit())
        wanted = wish("City", days=0)
        first = await here.request("city", "root", wanted, SETTINGS, permit=online.permit())
        again = await here.request("city", "root", wanted, SETTINGS, permit=online.permit())
        requests = [x509.load_der_x509_csr(one) for one in (first, again)]
        assert requests[0].public_key() == requests[1].public_key()
        made = await OtherHouses(there).cross_certify("root", requests[0], wanted.profile, 0, permit=offline.permit())
        assert await OtherHouses(here).take_in("city", [made], permit=online.permit()) == 1
        await online.index.catch_up()
        assert chain_of(online.index.book, online.index.book.get(Authority, "authority:city")) == [made, root]
        with pytest.raises(InvalidRequest, match="elsewhere"):
            await here.rollover("city", permit=online.permit())
        following = x509.load_der_x509_csr(await here.request_next("city", permit=online.permit()))
        assert issuing_certificate(await online.journal.load(Authority, "authority:city")) == made
        second = await OtherHouses(there).cross_certify("root", following, wanted.profile, 0, permit=offline.permit())
        assert await OtherHouses(here).take_in("city", [second], permit=online.permit()) == 2
        assert issuing_certificate(await online.journal.load(Authority, "authority:city")) == second
        other = await there.create_root("other", wish("Other"), SETTINGS, permit=offline.permit())
        await OtherHouses(here).import_authority("other", [other], SETTINGS, permit=online.permit())
        asked = x509.load_der_x509_csr(
            await here.request("town", "root", wish("Town", days=0), SETTINGS, permit=online.permit())
        )
        stray = await OtherHouses(there).cross_certify("other", asked, wanted.profile, 0, permit=offline.permit())
        with pytest.raises(InvalidRequest, match="not issued by root"):
            await OtherHouses(here).take_in("town", [stray], permit=online.permit())


async def test_wrapped_keys_come_back_with_the_recovery_key_alone(tmp_path: Path) -> None:
    recovery = generate_recovery_key()
    async with trust_bench() as bench:
        acts = hierarchy(bench, tmp_path / "ca", recovery=recovery.public)
        await acts.create_root("root", wish("Root", ML_DSA_65), SETTINGS, permit=bench.permit())
        await acts.create("city", "root", wish("City", RSA_3072, days=0), SETTINGS, permit=bench.permit())
        elsewhere = hierarchy(bench, tmp_path / "elsewhere", recovery=recovery.public)
        with pytest.raises(InvalidRequest, match="not there"):
            await elsewhere.create("more", "root", wish("More", days=0), SETTINGS, permit=bench.permit())
        with pytest.raises(Tampered):
            await elsewhere.custody.recover(generate_recovery_key().private, permit=bench.permit())
        stamps = RecordedKeys(acts.custody, bench.permit())
        stamping = await stamps.generate("tsa-1", P256)
        done = await elsewhere.custody.recover(recovery.private, permit=bench.permit())
        assert (len(done.back), done.present, done.elsewhere) == (3, [], [])
        assert (await elsewhere.custody.keys.open(stamping)).public == (await stamps.open(stamping)).public
        assert len((await elsewhere.custody.recover(recovery.private, permit=bench.permit())).present) == 3
        await elsewhere.create("more", "root", wish("More", days=0), SETTINGS, permit=bench.permit())
        for one in bench.index.book.all(Key):
            assert (await elsewhere.custody.keys.open(one.reference)).public == decode_base64(one.public)
