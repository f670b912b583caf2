"""Notes, verifier keys, checkpoints, cosignatures and receipts: read back as written, and worthless once changed."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import cache

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from ledger.core.checkpoint import Checkpoint, parse_checkpoint, parse_checkpoint_text
from ledger.core.cosignature import cosigned_message, timestamped_signature, verify_cosignature
from ledger.core.encoding import DECIMAL_MAX, decode_base64, encode_base64, parse_decimal
from ledger.core.merkle import inclusion_proof, root_hash
from ledger.core.note import (
    Note,
    NoteSignature,
    SignatureType,
    VerifierKey,
    format_note,
    parse_note,
    parse_vkey,
    verify_signature,
)
from ledger.core.policy import make_policy
from ledger.core.proof import Receipt, format_receipt, parse_receipt, verify_receipt
from ledger.errors import JinshiError, MalformedNote, MalformedProof, Untrusted
from tests.support.ledgers import log_signer, mirror_cosigner
from tests.support.strategies import LEAF_HASHES, flip, leaf_entry, seed_of

_LINE = st.characters(exclude_categories=("Cs",), min_codepoint=0x20)
LINES = st.text(_LINE, max_size=20)
NAMES = st.text(_LINE.filter(lambda char: not char.isspace() and char != "+"), min_size=1, max_size=20)
HASHES = st.binary(min_size=32, max_size=32)
KEYS = st.one_of(
    st.builds(VerifierKey, NAMES, st.just(SignatureType.ED25519), HASHES),
    st.builds(VerifierKey, NAMES, st.just(SignatureType.COSIGNATURE_ED25519), HASHES),
    st.builds(
        VerifierKey,
        NAMES,
        st.just(SignatureType.COSIGNATURE_ML_DSA_44),
        st.binary(min_size=8, max_size=8).map(lambda seed: seed * 164),
    ),
)
SIGNATURES = st.builds(NoteSignature, NAMES, st.binary(min_size=4, max_size=4), st.binary(min_size=1, max_size=2_500))
CHECKPOINTS = st.builds(
    Checkpoint,
    st.text(_LINE, min_size=1, max_size=20),
    st.integers(0, DECIMAL_MAX),
    HASHES,
    st.lists(st.text(_LINE, min_size=1, max_size=20), max_size=3).map(tuple),
)


@cache
def witness(name: str) -> tuple[VerifierKey, Ed25519PrivateKey]:
    """A cosigner of the older kind (type 0x04)."""
    private = Ed25519PrivateKey.from_private_bytes(seed_of(name))
    return VerifierKey(name, SignatureType.COSIGNATURE_ED25519, private.public_key().public_bytes_raw()), private


def cosigned(checkpoint: Checkpoint, name: str, type_: SignatureType, timestamp_s: int) -> NoteSignature:
    """A cosignature line of either kind."""
    if type_ is SignatureType.COSIGNATURE_ED25519:
        key, private = witness(name)
        signature = private.sign(cosigned_message(key, checkpoint, timestamp_s))
        return NoteSignature(name, key.key_id, timestamped_signature(timestamp_s, signature))
    mirror = mirror_cosigner(name)
    return NoteSignature(name, mirror.key.key_id, mirror.cosign(checkpoint.text, timestamp_s))


# -- texts ------------------------------------------------------------------------------------------------------------


@given(st.binary(max_size=100), st.integers(0, DECIMAL_MAX))
def test_base64_and_decimals_are_read_back(data: bytes, number: int) -> None:
    assert decode_base64(encode_base64(data)) == data
    assert parse_decimal(str(number)) == number


@given(st.text(max_size=12) | st.from_regex(r"[A-Za-z0-9+/]{0,8}={0,3}", fullmatch=True))
def test_there_is_one_spelling_of_base64_and_of_a_decimal(text: str) -> None:
    with suppress(ValueError):
        assert encode_base64(decode_base64(text)) == text
    with suppress(ValueError):
        assert str(parse_decimal(text)) == text


@given(KEYS)
def test_a_verifier_key_is_read_back(key: VerifierKey) -> None:
    assert parse_vkey(str(key)) == key
    name, key_id, material = str(key).split("+", 2)
    with pytest.raises(MalformedNote):
        parse_vkey(f"{name}x+{key_id}+{material}")
    with pytest.raises(MalformedNote):
        parse_vkey(str(replace(key, public_key=key.public_key[1:])))


@given(st.lists(LINES, min_size=1, max_size=5), st.lists(SIGNATURES, min_size=1, max_size=5))
def test_a_note_is_read_back(lines: list[str], signatures: list[NoteSignature]) -> None:
    note = Note("".join(f"{line}\n" for line in lines).encode(), tuple(signatures))
    assert parse_note(format_note(note)) == note


@given(CHECKPOINTS, st.lists(SIGNATURES, min_size=1, max_size=3))
def test_a_checkpoint_is_read_back(checkpoint: Checkpoint, signatures: list[NoteSignature]) -> None:
    note = Note(checkpoint.text, tuple(signatures))
    opened = parse_checkpoint(format_note(note))
    assert (opened.checkpoint, opened.note) == (checkpoint, note)
    assert parse_checkpoint_text(checkpoint.text).text == checkpoint.text


# -- signatures -------------------------------------------------------------------------------------------------------


@given(LINES, st.data())
def test_a_signed_text_cannot_be_changed(line: str, data: st.DataObject) -> None:
    signer = log_signer("example.com/log")
    text = f"{line}.\n".encode()
    note = Note(text, (NoteSignature(signer.key.name, signer.key.key_id, signer.sign(text)),))
    assert verify_signature(note, signer.key)
    with pytest.raises(Untrusted):
        verify_signature(replace(note, text=flip(text, data.draw(st.integers(0, 8 * len(text) - 1)))), signer.key)
    assert not verify_signature(note, log_signer("example.com/other").key)


@given(
    CHECKPOINTS,
    st.sampled_from([SignatureType.COSIGNATURE_ED25519, SignatureType.COSIGNATURE_ML_DSA_44]),
    st.integers(0, DECIMAL_MAX),
    st.data(),
)
def test_a_cosignature_holds_for_its_key_checkpoint_and_time_alone(
    checkpoint: Checkpoint, type_: SignatureType, timestamp_s: int, data: st.DataObject
) -> None:
    line = cosigned(checkpoint, "example.com/w", type_, timestamp_s)
    key = witness("example.com/w")[0] if type_ is SignatureType.COSIGNATURE_ED25519 else mirror_cosigner(line.name).key
    opened = parse_checkpoint(format_note(Note(checkpoint.text, (line,))))
    verified = verify_cosignature(opened, key)
    assert verified is not None
    assert (verified.key, verified.timestamp_s) == (key, timestamp_s)
    bit = data.draw(st.integers(0, 8 * len(line.signature) - 1))  # the time's bits, or the signature's
    other_root = flip(checkpoint.root, data.draw(st.integers(0, 255)))
    for wrong in (
        replace(opened, note=Note(checkpoint.text, (replace(line, signature=flip(line.signature, bit)),))),
        replace(opened, note=Note(checkpoint.text, (replace(line, signature=line.signature[:-1]),))),
        replace(opened, note=Note(checkpoint.text, (replace(line, signature=line.signature[:8]),))),
        replace(opened, checkpoint=replace(checkpoint, root=other_root)),
        replace(opened, checkpoint=replace(checkpoint, size=checkpoint.size ^ 1)),
        replace(opened, checkpoint=replace(checkpoint, origin=checkpoint.origin + "x")),
    ):
        with pytest.raises(Untrusted):
            verify_cosignature(wrong, key)


@given(st.lists(st.integers(0, DECIMAL_MAX), min_size=1, max_size=4))
def test_the_newest_of_several_cosignatures_counts(times: list[int]) -> None:
    checkpoint = Checkpoint("example.com/log", 1, bytes(32))
    lines = [cosigned(checkpoint, "example.com/w", SignatureType.COSIGNATURE_ED25519, time) for time in times]
    opened = parse_checkpoint(format_note(Note(checkpoint.text, tuple(lines))))
    verified = verify_cosignature(opened, witness("example.com/w")[0])
    assert verified is not None
    assert verified.timestamp_s == max(times)


# -- a whole receipt --------------------------------------------------------------------------------------------------


@cache
def receipt(index: int, size: int) -> bytes:
    """A receipt that a log and one mirror stand for."""
    log, mirror = log_signer("example.com/log"), mirror_cosigner("example.com/mirror")
    root = root_hash(LEAF_HASHES[:size])
    checkpoint = Checkpoint("example.com/log", size, root)
    note = Note(
        checkpoint.text,
        (
            NoteSignature(log.key.name, log.key.key_id, log.sign(checkpoint.text)),
            NoteSignature(mirror.key.name, mirror.key.key_id, mirror.cosign(checkpoint.text, 1_700_000_000)),
        ),
    )
    hashes = inclusion_proof(
        index, size, lambda node: root_hash(LEAF_HASHES[node.index << node.level : (node.index + 1) << node.level])
    )
    return format_receipt(Receipt(index, tuple(hashes), format_note(note)))


POLICY = make_policy(
    log_signer("example.com/log").key, {"m": mirror_cosigner("example.com/mirror").key}, threshold="all"
)


@given(st.integers(0, DECIMAL_MAX), st.lists(HASHES, max_size=63), st.none() | st.binary(max_size=50), CHECKPOINTS)
def test_a_receipt_is_read_back(index: int, hashes: list[bytes], extra: bytes | None, checkpoint: Checkpoint) -> None:
    note = format_note(Note(checkpoint.text, (NoteSignature("x", b"1234", b"s"),)))
    written = Receipt(index, tuple(hashes), note, extra)
    assert parse_receipt(format_receipt(written)) == written
    with pytest.raises(MalformedProof):
        parse_receipt(format_receipt(replace(written, hashes=(*hashes, bytes(31)))))


@given(st.data(), st.integers(1, 300))
def test_a_receipt_proves_its_entry_and_no_other(data: st.DataObject, size: int) -> None:
    index = data.draw(st.integers(0, size - 1))
    parsed = parse_receipt(receipt(index, size))
    trusted = verify_receipt(parsed, leaf_entry(index), POLICY)
    assert trusted.checkpoint.size == size
    for wrong in (leaf_entry(index + 1), leaf_entry(index) + b"\0", b"", flip(leaf_entry(index), 0)):
        with pytest.raises(JinshiError):
            verify_receipt(parsed, wrong, POLICY)


@given(st.data())
def test_no_bit_of_a_receipt_can_be_changed(data: st.DataObject) -> None:
    """Every byte is either part of the proof or of what is signed; none is decoration."""
    genuine = receipt(5, 11)
    changed = flip(genuine, data.draw(st.integers(0, 8 * len(genuine) - 1)))
    with pytest.raises(JinshiError):
        verify_receipt(parse_receipt(changed), leaf_entry(5), POLICY)
