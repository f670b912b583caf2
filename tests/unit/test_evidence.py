"""An evidence bundle: what it proves, what it refuses, and what no zip file can do to whoever reads it."""

from __future__ import annotations

import io
import warnings
import zipfile
from dataclasses import replace

import pytest

from ledger.core.entry import decode_entry
from ledger.core.policy import format_policy, make_policy
from ledger.errors import InvalidRequest, MalformedProof, Tampered, Untrusted
from ledger.evidence import ENTRIES_MAX, Evidence, Proven, pack_evidence, parse_evidence, verify_evidence
from ledger.reader import Reader
from tests.support.ledgers import log_signer
from tests.support.replicas import NEAR, ORIGIN, Replicas


async def made() -> tuple[Replicas, Evidence]:
    """The stream s1 of a replicated ledger: entries 1 + 97 n hold e1, e98, ..."""
    replicas = await Replicas().begin()
    await replicas.advance_to(400)
    reader, stored = Reader(replicas.store, replicas.published), await replicas.store.read(0, 400)
    copy = await replicas.open(NEAR)
    wanted = [one for one in stored if decode_entry(one.entry).event.subject == "s1"]
    assert len(wanted) == 5
    proven = tuple([Proven(one.entry, await reader.prove(one.index, copy.opened)) for one in wanted])
    note = proven[0].receipt.checkpoint
    policy = format_policy(replicas.policy)
    return replicas, Evidence(ORIGIN, "urn:test", "s1", note, policy, "読む\n".encode(), proven)


def rezipped(data: bytes, **changes: bytes | None) -> bytes:
    """The same zip with some files replaced (`_` stands for `/`), or, when None, left out."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            content = changes.get(name, old.read(name))
            if content is not None:
                new.writestr(name, content)
        for name, content in changes.items():
            if name not in old.namelist() and content is not None:
                new.writestr(name, content)
    return buffer.getvalue()


async def test_a_bundle_is_verified_with_a_policy_alone_and_is_the_same_bytes_every_time() -> None:
    replicas, evidence = await made()
    data = pack_evidence(evidence)
    assert data == pack_evidence(evidence)
    assert parse_evidence(data) == evidence
    done = verify_evidence(parse_evidence(data), replicas.policy)
    assert [entry.streamversion for _, entry in done.entries] == [1, 2, 3, 4, 5]
    assert len(done.trusted.cosignatures) == 1
    with zipfile.ZipFile(io.BytesIO(data)) as packed:
        readme = packed.read("README.txt").decode()
    assert all(part in readme for part in (ORIGIN, "urn:test", "s1", "c2sp.org/tlog-proof", "RFC 9162", "no version 6"))


async def test_another_policy_does_not_believe_it() -> None:
    _, evidence = await made()
    stranger = make_policy(log_signer(ORIGIN + "/stranger").key, {}, threshold="any")
    with pytest.raises(Untrusted):
        verify_evidence(evidence, stranger)


async def test_what_is_left_out_changed_or_moved_in_is_named() -> None:
    replicas, evidence = await made()
    entries = evidence.entries
    first, second = entries[:2]
    reader = Reader(replicas.store, replicas.published)
    (other,) = await replicas.store.read(3, 1)
    stranger = Proven(other.entry, replace(await reader.prove(3), checkpoint=evidence.checkpoint))
    older = replace(second.receipt, checkpoint=(await reader.prove(2)).checkpoint)
    wrong: dict[str, tuple[Evidence, str]] = {
        "the first is left out": (replace(evidence, entries=entries[1:]), "version 1 is left out"),
        "one in the middle is left out": (replace(evidence, entries=(first, *entries[2:])), "version 2 is left out"),
        "another order": (replace(evidence, entries=(second, first, *entries[2:])), "version 1 is left out"),
        "a changed entry": (
            replace(evidence, entries=(replace(first, entry=second.entry), *entries[1:])), "not the one that was signed"
        ),
        "an entry of another record": (replace(evidence, entries=(stranger,)), "is not about 's1'"),
        "another checkpoint": (
            replace(evidence, entries=(first, replace(second, receipt=older))), "another checkpoint"
        ),
        "another record's name": (replace(evidence, subject="s2"), "is not about 's2'"),
        "another source": (replace(evidence, source="urn:other"), "is not about 's1' of urn:other"),
        "another origin": (replace(evidence, origin="example.test/other"), "the bundle says"),
    }  # fmt: skip
    for what, (bad, message) in wrong.items():
        with pytest.raises(Tampered, match=message):
            verify_evidence(bad, replicas.policy)
        assert verify_evidence(evidence, replicas.policy), what


async def test_no_zip_file_leads_out_of_it_hides_files_or_grows_without_end() -> None:
    _, evidence = await made()
    data = pack_evidence(evidence)
    manifest = b'{"entries":[],"format":1,"origin":"o","source":"s","subject":"x"}'
    bad = {
        "leads out": rezipped(data, **{"../../etc/passwd": b"x"}),
        "absolute": rezipped(data, **{"/etc/passwd": b"x"}),
        "a name pattern": rezipped(data, **{"entries/{}.json": b"x"}),
        "a folder": rezipped(data, **{"entries/": b""}),
        "one more entry": rezipped(data, **{"entries/0000000000000000399.json": evidence.entries[0].entry}),
        "something opened that is not": rezipped(data, **{"opened/0000000000000000001.data": b"x"}),
        "no manifest": rezipped(data, **{"bundle.json": None}),
        "no receipt": rezipped(data, **{"receipts/0000000000000000001.tlog-proof": None}),
        "no entries": rezipped(data, **{"bundle.json": manifest}),
        "another format": rezipped(data, **{"bundle.json": manifest.replace(b":1", b":2")}),
        "a bomb": rezipped_bomb(data),
        "cut": data[:-30],
        "not a zip": b"PK\x03\x04",
        "twice": twice(data),
    }
    for what, one in bad.items():
        assert _refused(one), what


def _refused(data: bytes) -> bool:
    try:
        parse_evidence(data)
    except MalformedProof:
        return True
    return False


def rezipped_bomb(data: bytes) -> bytes:
    """An entry of a few kilobytes that unpacks to a hundred megabytes."""
    buffer = io.BytesIO(data)
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("entries/0000000000000000399.json", bytes(100_000_000))
    assert len(buffer.getvalue()) < 200_000
    return buffer.getvalue()


async def test_a_file_that_grows_is_given_up_at_its_bound() -> None:
    _, evidence = await made()
    with pytest.raises(MalformedProof, match="is larger than it may be"):
        parse_evidence(rezipped_bomb(pack_evidence(evidence)))


def twice(data: bytes) -> bytes:
    buffer = io.BytesIO(data)
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "a") as packed:
        warnings.simplefilter("ignore")
        packed.writestr("trust.policy", b"quorum none\n")
    return buffer.getvalue()


async def test_a_bundle_of_nothing_or_of_too_much_is_not_made() -> None:
    _, evidence = await made()
    for entries in ((), evidence.entries * (ENTRIES_MAX // 5 + 1)):
        with pytest.raises(InvalidRequest):
            pack_evidence(replace(evidence, entries=entries))
