"""What a signature means: one key, one purpose, one text."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ledger.core.checkpoint import Checkpoint, parse_checkpoint
from ledger.core.cosignature import timestamped_signature, verify_cosignature, verify_log_signature
from ledger.core.note import (
    SITE_CONTEXT,
    Note,
    NoteSignature,
    SignatureType,
    VerifierKey,
    check_ml_dsa_44,
    format_note,
    verify_signature,
    verify_site_note,
)
from ledger.core.policy import make_policy
from ledger.errors import Untrusted
from tests.support.ledgers import log_signer, mirror_cosigner

CHECKPOINT = Checkpoint("example.com/log", 11, bytes(range(32)))
LOG = log_signer("example.com/log")
MIRROR = mirror_cosigner("example.com/mirror")
SIGNED = NoteSignature(LOG.key.name, LOG.key.key_id, LOG.sign(CHECKPOINT.text))
COSIGNED = NoteSignature(MIRROR.key.name, MIRROR.key.key_id, MIRROR.cosign(CHECKPOINT.text, 1_700_000_000))
SITE = b'{"format":1}\n'


def _site_note(signature: bytes, key: VerifierKey = MIRROR.key) -> Note:
    return Note(SITE, (NoteSignature(key.name, key.site_key_id, signature),))


def test_a_mirror_signs_its_site_apart_from_every_checkpoint() -> None:
    signature = MIRROR.sign_site(SITE)
    verify_site_note(_site_note(signature), MIRROR.key)
    assert not check_ml_dsa_44(MIRROR.key.public_key, signature, SITE)
    assert check_ml_dsa_44(MIRROR.key.public_key, signature, SITE, context=SITE_CONTEXT)
    assert MIRROR.key.site_key_id != MIRROR.key.key_id


def test_a_cosignature_cannot_pass_for_a_sites_signature() -> None:
    """Whoever gets a mirror to cosign a checkpoint of its own making has no site.json signed by that."""
    cosignature = MIRROR.cosign(CHECKPOINT.text, 0)
    for signature in (cosignature, cosignature[8:]):
        with pytest.raises(Untrusted):
            verify_site_note(replace(_site_note(signature), text=CHECKPOINT.text), MIRROR.key)


def test_a_sites_signature_cannot_pass_for_a_cosignature() -> None:
    signature = MIRROR.sign_site(CHECKPOINT.text)
    for one in (signature, timestamped_signature(0, signature)):
        line = NoteSignature(MIRROR.key.name, MIRROR.key.key_id, one)
        with pytest.raises(Untrusted):
            verify_cosignature(parse_checkpoint(format_note(Note(CHECKPOINT.text, (SIGNED, line)))), MIRROR.key)


@pytest.mark.parametrize(
    ("what", "note", "key"),
    [
        ("another text", replace(_site_note(MIRROR.sign_site(SITE)), text=SITE + b"\n"), MIRROR.key),
        ("another mirror", _site_note(MIRROR.sign_site(SITE)), mirror_cosigner("example.com/other").key),
        ("no signature of that key", Note(SITE, (COSIGNED,)), MIRROR.key),
        ("a log's key", _site_note(LOG.sign(SITE), LOG.key), LOG.key),
        ("the right name, another key", _site_note(mirror_cosigner("x").sign_site(SITE)), MIRROR.key),
    ],
)
def test_a_site_that_its_mirror_did_not_sign_is_not_trusted(what: str, note: Note, key: VerifierKey) -> None:
    with pytest.raises(Untrusted):
        verify_site_note(note, key)


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("another time", replace(COSIGNED, signature=timestamped_signature(1_700_000_001, COSIGNED.signature[8:]))),
        ("a time beyond 2^63-1", replace(COSIGNED, signature=MIRROR.cosign(CHECKPOINT.text, 2**63))),
        ("another cosigner's", replace(COSIGNED, signature=mirror_cosigner("x").cosign(CHECKPOINT.text, 1))),
        ("another size", replace(COSIGNED, signature=MIRROR.cosign(replace(CHECKPOINT, size=12).text, 1))),
        ("another root", replace(COSIGNED, signature=MIRROR.cosign(replace(CHECKPOINT, root=bytes(32)).text, 1))),
        ("another log's", replace(COSIGNED, signature=MIRROR.cosign(replace(CHECKPOINT, origin="x").text, 1))),
        ("cut", replace(COSIGNED, signature=COSIGNED.signature[:7])),
        ("the log's own", replace(COSIGNED, signature=SIGNED.signature)),
    ],
)
def test_a_cosignature_over_anything_else_is_not_trusted(what: str, line: NoteSignature) -> None:
    policy = make_policy(LOG.key, {"m": MIRROR.key}, threshold="all")
    good = parse_checkpoint(format_note(Note(CHECKPOINT.text, (SIGNED, COSIGNED))))
    assert policy.check(good).last_cosigned_s == 1_700_000_000
    for lines in ((SIGNED, line), (SIGNED, COSIGNED, line), (SIGNED, line, COSIGNED)):
        with pytest.raises(Untrusted):
            policy.check(replace(good, note=Note(CHECKPOINT.text, lines)))


def test_a_cosignature_of_another_type_of_the_same_key_is_another_key() -> None:
    ed25519 = VerifierKey(LOG.key.name, SignatureType.COSIGNATURE_ED25519, LOG.key.public_key)
    assert ed25519.key_id != LOG.key.key_id
    opened = parse_checkpoint(format_note(Note(CHECKPOINT.text, (SIGNED,))))
    assert verify_signature(opened.note, LOG.key)
    assert verify_log_signature(opened, LOG.key)
    assert verify_cosignature(opened, ed25519) is None


def test_a_log_the_policy_does_not_list_is_named_with_those_it_does() -> None:
    policy = make_policy(log_signer("example.com/other").key, {}, threshold="any")
    opened = parse_checkpoint(format_note(Note(CHECKPOINT.text, (SIGNED,))))
    with pytest.raises(Untrusted, match=r"does not list the log example\.com/log; it lists example\.com/other"):
        policy.check(opened)


def test_the_name_alone_makes_nobody_a_log() -> None:
    """The right origin and name, signed by somebody else's key: the key id tells them apart."""
    impostor = log_signer("example.com/impostor")
    line = NoteSignature(LOG.key.name, impostor.key.key_id, impostor.sign(CHECKPOINT.text))
    opened = parse_checkpoint(format_note(Note(CHECKPOINT.text, (line,))))
    with pytest.raises(Untrusted, match="not signed by the log"):
        make_policy(LOG.key, {}, threshold="any").check(opened)
    claimed = replace(opened, note=Note(CHECKPOINT.text, (replace(line, key_id=LOG.key.key_id),)))
    with pytest.raises(Untrusted, match="does not verify"):
        make_policy(LOG.key, {}, threshold="any").check(claimed)


def test_too_few_cosigners_are_named_with_what_is_asked_for() -> None:
    others = {"m": MIRROR.key, "n": mirror_cosigner("example.com/n").key}
    opened = parse_checkpoint(format_note(Note(CHECKPOINT.text, (SIGNED, COSIGNED))))
    assert make_policy(LOG.key, others, threshold="any").check(opened).checkpoint == CHECKPOINT
    policy = make_policy(LOG.key, others, threshold="all")
    with pytest.raises(Untrusted, match="size 11 does not meet the quorum 'sites' of the trust policy: cosigned by m"):
        policy.check(opened)
    assert policy.check(opened, quorum=False).checkpoint == CHECKPOINT
