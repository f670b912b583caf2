"""Trust policies: whatever groups are built of groups, the verdict is that of the plain recursive rule."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from ledger.core.checkpoint import Checkpoint, parse_checkpoint
from ledger.core.cosignature import cosigned_message, timestamped_signature
from ledger.core.note import Note, NoteSignature, SignatureType, VerifierKey, format_note
from ledger.core.policy import (
    NONE,
    Policy,
    PolicyGroup,
    PolicyLog,
    PolicyWitness,
    format_policy,
    make_policy,
    parse_policy,
)
from ledger.errors import MalformedPolicy, Untrusted
from tests.support.ledgers import log_signer, mirror_cosigner
from tests.support.strategies import seed_of

LOG = log_signer("example.com/log")
CHECKPOINT = Checkpoint("example.com/log", 1, bytes(32))
SIGNED = NoteSignature(LOG.key.name, LOG.key.key_id, LOG.sign(CHECKPOINT.text))


@dataclass(frozen=True)
class Cosigner:
    """A witness and its line on CHECKPOINT."""

    key: VerifierKey
    line: NoteSignature


def _cosigner(number: int) -> Cosigner:
    private = Ed25519PrivateKey.from_private_bytes(seed_of(f"witness {number}"))
    public = private.public_key().public_bytes_raw()
    key = VerifierKey(f"example.com/w{number}", SignatureType.COSIGNATURE_ED25519, public)
    signature = timestamped_signature(7, private.sign(cosigned_message(key, CHECKPOINT, 7)))
    return Cosigner(key, NoteSignature(key.name, key.key_id, signature))


COSIGNERS = [_cosigner(number) for number in range(8)]
NAMES = st.binary(min_size=1, max_size=6).filter(
    lambda name: name != NONE and all(byte > 0x20 and byte != 0x7F for byte in name)
)
URLS = st.none() | st.just(b"https://example.com/\xc3\xa9")


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    """Groups of witnesses and of earlier groups; every name is a member of one group at most."""
    count = draw(st.integers(0, len(COSIGNERS)))
    names = draw(st.lists(NAMES, min_size=2 * count, max_size=2 * count, unique=True))
    witnesses = [PolicyWitness(name, one.key, draw(URLS)) for name, one in zip(names, COSIGNERS[:count], strict=False)]
    free, groups = names[:count], []
    for name in names[count:]:
        if not free or draw(st.integers(0, 4)) == 0:
            break
        members = tuple(draw(st.lists(st.sampled_from(free), min_size=1, max_size=4, unique=True)))
        groups.append(PolicyGroup(name, draw(st.integers(1, len(members))), members))
        free = [*(one for one in free if one not in members), name]
    defined = [NONE, *(one.name for one in witnesses), *(one.name for one in groups)]
    quorum = draw(st.sampled_from(defined[-1:] if draw(st.booleans()) else defined))
    return Policy((PolicyLog(LOG.key, draw(URLS)),), tuple(witnesses), tuple(groups), quorum)


def _witnessed(policy: Policy, name: bytes, present: set[bytes]) -> bool:
    """The rule as C2SP tlog-policy says it, "Defining a witness group"."""
    if name == NONE:
        return True
    for group in policy.groups:
        if group.name == name:
            return sum(_witnessed(policy, member, present) for member in group.members) >= group.threshold
    return name in present


@given(policies())
def test_a_policy_is_read_back(policy: Policy) -> None:
    assert parse_policy(format_policy(policy)) == policy


@given(policies(), st.sets(st.sampled_from(range(len(COSIGNERS)))))
def test_the_verdict_is_that_of_the_recursive_rule(policy: Policy, who: set[int]) -> None:
    lines = [COSIGNERS[number].line for number in sorted(who)]
    opened = parse_checkpoint(format_note(Note(CHECKPOINT.text, (SIGNED, *lines))))
    keys = {COSIGNERS[number].key for number in who}
    present = {one.name for one in policy.witnesses if one.key in keys}
    if _witnessed(policy, policy.quorum, present):
        trusted = policy.check(opened)
        assert (trusted.checkpoint, trusted.log) == (CHECKPOINT, LOG.key)
        assert {one.key for one in trusted.cosignatures} == {one.key for one in policy.witnesses if one.key in keys}
    else:
        with pytest.raises(Untrusted):
            policy.check(opened)
    assert policy.check(opened, quorum=False).checkpoint == CHECKPOINT


@given(policies(), st.sampled_from(range(len(COSIGNERS))))
def test_one_wrong_signature_by_a_listed_cosigner_is_never_passed_over(policy: Policy, number: int) -> None:
    wrong = NoteSignature(COSIGNERS[number].key.name, COSIGNERS[number].key.key_id, bytes(72))
    lines = (SIGNED, *(one.line for one in COSIGNERS), wrong)
    opened = parse_checkpoint(format_note(Note(CHECKPOINT.text, lines)))
    if policy.witness(COSIGNERS[number].key) is None:
        assert policy.check(opened).checkpoint == CHECKPOINT
    else:
        with pytest.raises(Untrusted):
            policy.check(opened)


@given(policies())
def test_without_the_logs_signature_no_quorum_helps(policy: Policy) -> None:
    lines = [one.line for one in COSIGNERS]
    with pytest.raises(Untrusted, match="not signed by the log"):
        policy.check(parse_checkpoint(format_note(Note(CHECKPOINT.text, tuple(lines)))))


@pytest.mark.parametrize("names", [["sites"], ["sites", "all-sites"], ["any", "all", "quorum", "group"], ["金石"]])
def test_a_policy_of_sites_can_be_read_whatever_they_are_called(names: list[str]) -> None:
    keys = {name: mirror_cosigner(f"example.com/{number}").key for number, name in enumerate(names)}
    policy = make_policy(LOG.key, keys, threshold="all")
    assert parse_policy(format_policy(policy)) == policy
    assert [one.name.decode() for one in policy.witnesses] == names
    (group,) = policy.groups
    assert (group.threshold, len(group.members), policy.quorum) == (len(names), len(names), group.name)


@pytest.mark.parametrize("names", [["none"], ["two words"], ["line\nbreak"], [""], ["one key", "twice"], ["a", "b"]])
def test_a_policy_nobody_could_read_is_not_made(names: list[str]) -> None:
    with pytest.raises(MalformedPolicy):
        make_policy(LOG.key, {name: mirror_cosigner("example.com/0").key for name in names}, threshold="any")


@pytest.mark.parametrize("threshold", [0, 3])
def test_more_sites_than_there_are_cannot_be_asked_for(threshold: int) -> None:
    keys = {name: mirror_cosigner(f"example.com/{name}").key for name in ("a", "b")}
    assert make_policy(LOG.key, keys, threshold=2) == make_policy(LOG.key, keys, threshold="all")
    with pytest.raises(MalformedPolicy):
        make_policy(LOG.key, keys, threshold=threshold)
