"""Ceremonies: what was reviewed is signed, fewer custodians than the quorum open nothing, and all is recorded."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from shamir_mnemonic.share import Share

from ledger.errors import Conflict, InvalidRequest, IssuanceRefused, JinshiError, Malformed, Tampered, Unavailable
from pki.aggregates.authority import Authority
from pki.aggregates.ceremony import Ceremony
from pki.aggregates.key import Key
from pki.ceremony.keys import CeremonyKeys
from pki.ceremony.running import CeremonyRun, Done
from pki.ceremony.script import parse_script
from pki.ceremony.shares import KeyShare, Sharing, open_shared, parse_share, split
from pki.core.algorithms import ML_DSA_65, P256, generate
from pki.core.path import Anchors, validate
from pki.custody import Custody
from pki.hierarchy import Hierarchy
from pki.keystore.signing_files import FileKeys, held_key
from tests.support.trust import TrustBench, trust_bench
from tests.unit.test_trust_hierarchy import SETTINGS, StopsAt, wish

ROOT = """
format: 1
ceremony: root-2027
title: The root of 某省
custodians: {needed: 2, names: [zhang, li, wang]}
root:
  name: root
  subject: C=CN, O=某省, CN=Root 2027
  algorithm: ALGORITHM
  days: 7300
  path_length: 2
"""
SIGN = """
format: 1
ceremony: city-2027
title: The city
authority: root
sign:
  - request: city.csr
    sha256: DIGEST
    days: 3650
    path_length: 0
    permitted: [dns:city.example]
    policies: [2.16.156.1.1]
"""


@dataclass
class Room:
    """A machine for ceremonies, and the custodians around it."""

    bench: TrustBench
    folder: Path
    shares: dict[str, KeyShare] = field(default_factory=dict)

    def hierarchy(self, **other: Any) -> tuple[Hierarchy, CeremonyKeys]:
        keys = CeremonyKeys(FileKeys(self.folder / "ca", lambda: "x", 10))
        journal = other.get("journal", self.bench.journal)
        return Hierarchy(journal, self.bench.index, Custody(journal, self.bench.index, keys, b"")), keys

    def give(self, share: KeyShare, sharing: Sharing) -> None:
        self.shares[share.custodian] = parse_share(share.text(sharing))

    def ceremony(self, script: str, requests: dict[str, bytes] | None = None, **other: Any) -> CeremonyRun:
        acts, keys = self.hierarchy(**other)
        return CeremonyRun(parse_script(script.encode()), requests or {}, acts, keys)

    async def run(self, script: str, requests: dict[str, bytes] | None = None, *custodians: str) -> Done:
        shares = [self.shares[name] for name in custodians]
        return await self.ceremony(script, requests).run(shares, self.give, permit=self.bench.permit())


async def request_of_city(room: Room) -> bytes:
    acts, _ = room.hierarchy()
    acts = replace(acts, custody=replace(acts.custody, keys=FileKeys(room.folder / "ca", lambda: "x", 10)))
    return await acts.request("city", "root", wish("City", days=0), SETTINGS, permit=room.bench.permit())


def sign_script(request: bytes) -> str:
    return SIGN.replace("DIGEST", hashlib.sha256(request).hexdigest())


@pytest.mark.parametrize("algorithm", ["P-384", "ML-DSA-65"])
async def test_a_root_is_made_shared_and_signs_with_a_quorum(algorithm: str, tmp_path: Path) -> None:
    async with trust_bench() as bench:
        room = Room(bench, tmp_path)
        script = ROOT.replace("ALGORITHM", algorithm)
        (planned,) = (await room.ceremony(script).plan()).certificates
        assert planned.certificate.subject.rfc4514_string().startswith("CN=Root 2027")
        assert (await bench.journal.reader.head()).size == 0
        (root,) = (await room.run(script)).certificates
        assert set(room.shares) == {"zhang", "li", "wang"}
        request = await request_of_city(room)
        done = await room.run(sign_script(request), {"city.csr": request}, "wang", "zhang")
        (city,) = done.certificates
        path = validate(city, [], Anchors((root,)), at=bench.clock.now(), authority=True)
        assert path.policies == {"2.16.156.1.1"}
        await bench.index.catch_up()
        assert bench.index.book.get(Authority, "authority:city").current.certificates  # taken in at once
        recorded = bench.index.book.get(Ceremony, "ceremony:city-2027")
        assert (recorded.state, recorded.present) == ("ended", ["zhang", "wang"])
        assert [one.what for one in recorded.steps] == ["key opened", "certificate signed"]
        assert [one.name for one in bench.index.book.all(Ceremony)] == ["root-2027", "city-2027"]
        key = next(one for one in bench.index.book.all(Key) if one.shared)
        assert (key.wrapped, key.reference) == ("", f"shares:{key.label}")  # and to no recovery key
        with pytest.raises(Conflict, match="ended"):
            await room.run(sign_script(request), {"city.csr": request}, "wang", "zhang")


async def test_too_few_shares_a_wrong_one_and_a_changed_one_open_nothing(tmp_path: Path) -> None:
    async with trust_bench() as bench:
        room = Room(bench, tmp_path)
        await room.run(ROOT.replace("ALGORITHM", "P-256"))
        request = await request_of_city(room)
        script, files = sign_script(request), {"city.csr": request}
        size = (await bench.journal.reader.head()).size
        for given in ((), ("li",), ("li", "li")):
            with pytest.raises(InvalidRequest, match="custodians are here"):
                await room.run(script, files, *given)
        other = split(held_key(generate(P256)), "ca-other", Sharing(2, ("zhang", "li")))[1]
        room.shares["stranger"] = other[0]
        with pytest.raises(InvalidRequest, match="none of the key"):
            await room.run(script, files, "li", "stranger")
        text = room.shares["li"].text(Sharing(2, ("a", "b", "c"))).decode()
        with pytest.raises(InvalidRequest, match="word"):
            parse_share(text.replace(room.shares["li"].words.split()[9], "academic").encode())
        assert (await bench.journal.reader.head()).size == size


@pytest.mark.parametrize("algorithm", [P256, ML_DSA_65], ids=["P-256", "ML-DSA-65"])
def test_the_quorum_cannot_be_lowered_and_every_quorum_opens(algorithm: Any) -> None:
    held = held_key(generate(algorithm))
    record, shares = split(held, "ca-root", Sharing(3, tuple("abcde")))
    for first in range(3):
        assert open_shared(record, shares[first : first + 3]).public == held.public
    lowered = {**record, "needed": 2}
    with pytest.raises(Tampered, match="quorum"):
        open_shared(lowered, shares[:2])
    assert {Share.from_mnemonic(one.words).member_threshold for one in shares} == {3}
    for name, value in (("label", "ca-other"), ("custodians", list("vwxyz")), ("public", "AAAA"), ("salt", "AAAA")):
        with pytest.raises(Tampered):
            open_shared({**record, name: value}, shares[:3])
    with pytest.raises(Tampered):
        open_shared({**record, "sealed": record["sealed"][:-8] + "AAAAAAA="}, shares[:3])


async def test_a_file_or_request_that_was_not_reviewed_signs_nothing(tmp_path: Path) -> None:
    async with trust_bench() as bench:
        room = Room(bench, tmp_path)
        await room.run(ROOT.replace("ALGORITHM", "Ed25519"))
        request = await request_of_city(room)
        size = (await bench.journal.reader.head()).size
        with pytest.raises(InvalidRequest, match="reviewed"):
            await room.run(sign_script(request), {"city.csr": request[:-1] + bytes([request[-1] ^ 1])}, "li", "wang")
        wide = sign_script(request).replace("path_length: 0", "path_length: 2")
        with pytest.raises(IssuanceRefused, match="path length"):
            await room.run(wide, {"city.csr": request}, "li", "wang")
        with pytest.raises(Conflict, match="already"):
            await room.run(ROOT.replace("ALGORITHM", "P-256").replace("root-2027", "root-again"))
        assert (await bench.journal.reader.head()).size == size


@pytest.mark.parametrize("after", [False, True], ids=["not recorded", "recorded"])
@pytest.mark.parametrize("step", range(1, 8))
async def test_killed_at_any_step_it_goes_on_with_the_same_file_and_the_shares(
    step: int, after: bool, tmp_path: Path
) -> None:
    async with trust_bench() as bench:
        room = Room(bench, tmp_path)
        script = ROOT.replace("ALGORITHM", "P-256")
        killed = replace(bench.journal, appending=StopsAt(bench.sequencer, step, after=after))
        ended = False
        try:
            await room.ceremony(script, journal=killed).run([], room.give, permit=bench.permit())
            ended = True
        except Unavailable:
            bench.clock.pass_s(60)
            await room.hierarchy()[0].recover(permit=bench.permit())
        if not ended:
            found = await bench.journal.find(Ceremony, "ceremony:root-2027")
            if found is not None and found.state == "ended":
                return
            changed = script.replace("7300", "7301")
            if found is not None:
                with pytest.raises(JinshiError):
                    await room.run(changed)
            await bench.index.catch_up()
            made = bench.index.book.find(Authority, "authority:root")
            custodians = ("li", "zhang") if made is not None else ()
            await room.run(script, {}, *custodians)
        await bench.index.catch_up()
        root = bench.index.book.get(Authority, "authority:root")
        assert [len(one.certificates) for one in root.generations] == [1]
        issued = list(bench.index.certificates.by_holder(bench.index.database, "authority:root"))
        assert sorted(row.state for row in issued if row.state != "abandoned") == ["issued"]
        assert bench.index.book.get(Ceremony, "ceremony:root-2027").state == "ended"
        request = await request_of_city(room)
        await room.run(sign_script(request), {"city.csr": request}, "li", "wang")


BAD = (
    ("", Malformed),
    ("[1]", InvalidRequest),
    (ROOT.replace("format: 1", "format: 2"), InvalidRequest),
    (ROOT.replace("needed: 2", "needed: 1"), InvalidRequest),
    (ROOT.replace("needed: 2", "needed: 4"), InvalidRequest),
    (ROOT.replace("wang", "li"), InvalidRequest),
    (ROOT.replace("days: 7300", "days: 0"), InvalidRequest),
    (ROOT.replace("days: 7300", "days: true"), InvalidRequest),
    (ROOT.replace("path_length: 2", "path_lenght: 2"), InvalidRequest),
    (ROOT.replace("C=CN, O=某省, CN=Root 2027", "nobody"), InvalidRequest),
    (ROOT.replace("custodians: {needed: 2, names: [zhang, li, wang]}", ""), InvalidRequest),
    (ROOT.replace("&", "").replace("title: ", "title: &anchor "), Malformed),
    (SIGN, InvalidRequest),
    (SIGN.replace("DIGEST", "0" * 64).replace("city.csr", "../city.csr"), InvalidRequest),
    (SIGN.replace("DIGEST", "0" * 64).replace("authority: root", ""), InvalidRequest),
    (SIGN.replace("DIGEST", "0" * 64).replace("dns:city.example", "dns:-"), JinshiError),
)


@pytest.mark.parametrize(("script", "error"), BAD, ids=range(len(BAD)))
def test_a_file_that_is_not_of_the_schema_is_refused_in_one_line(script: str, error: type[JinshiError]) -> None:
    with pytest.raises(error) as found:
        parse_script(script.replace("ALGORITHM", "P-256").encode())
    assert str(found.value).isprintable()
