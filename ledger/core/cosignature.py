"""C2SP tlog-cosignature: timestamped statements by mirrors and witnesses about a checkpoint, in both forms."""

from __future__ import annotations

from dataclasses import dataclass

from ledger.core.checkpoint import Checkpoint, OpenedCheckpoint
from ledger.core.encoding import DECIMAL_MAX
from ledger.core.note import (
    NAME_BYTES_MAX,
    NoteSignature,
    SignatureType,
    VerifierKey,
    check_ed25519,
    check_ml_dsa_44,
    verify_signature,
)
from ledger.errors import MalformedNote, Untrusted

_TIMESTAMP_SIZE = 8
_LABEL = b"subtree/v1\n\0"


@dataclass(frozen=True, slots=True)
class Cosignature:
    """A verified cosignature. `timestamp_s` is POSIX seconds, when it was made."""

    key: VerifierKey
    timestamp_s: int


def cosigned_message(key: VerifierKey, checkpoint: Checkpoint, timestamp_s: int) -> bytes:
    """What a cosigner signs: the message of its key's type, over a whole checkpoint.

    Raises:
        MalformedNote: the origin is too long for an ML-DSA-44 cosignature.
    """
    if key.type is SignatureType.COSIGNATURE_ED25519:
        return f"cosignature/v1\ntime {timestamp_s}\n".encode("ascii") + checkpoint.text
    assert key.type is SignatureType.COSIGNATURE_ML_DSA_44
    name, origin = key.name.encode("utf-8"), checkpoint.origin.encode("utf-8")
    if len(origin) > NAME_BYTES_MAX:
        raise MalformedNote(f"the origin {checkpoint.origin[:64]!r}... is longer than {NAME_BYTES_MAX} bytes")
    start = 0
    return b"".join(
        (
            _LABEL,
            len(name).to_bytes(1, "big") + name,
            timestamp_s.to_bytes(8, "big"),
            len(origin).to_bytes(1, "big") + origin,
            start.to_bytes(8, "big") + checkpoint.size.to_bytes(8, "big"),
            checkpoint.root,
        )
    )


def timestamped_signature(timestamp_s: int, signature: bytes) -> bytes:
    """The `timestamped_signature` structure that goes into a signature line."""
    return timestamp_s.to_bytes(_TIMESTAMP_SIZE, "big") + signature


def verify_cosignature(opened: OpenedCheckpoint, key: VerifierKey) -> Cosignature | None:
    """The cosignature of `key`, verified; None when the checkpoint holds none by it. The latest when it holds several.

    Raises:
        Untrusted: a signature that claims to be by that key is wrong.
    """
    assert key.type is not SignatureType.ED25519, "a log's own signature is over the text alone"
    verified = [_verify(opened.checkpoint, key, one) for one in opened.note.signed_by(key.name, key.key_id)]
    return max(verified, key=lambda one: one.timestamp_s, default=None)


def verify_log_signature(opened: OpenedCheckpoint, key: VerifierKey) -> bool:
    """Whether a log's key of any type signed the checkpoint: a log may sign as a cosigner does (C2SP tlog-checkpoint).

    Raises:
        Untrusted: a signature that claims to be by that key is wrong.
    """
    if key.type is SignatureType.ED25519:
        return verify_signature(opened.note, key)
    return verify_cosignature(opened, key) is not None


def _verify(checkpoint: Checkpoint, key: VerifierKey, found: NoteSignature) -> Cosignature:
    timestamp_s = int.from_bytes(found.signature[:_TIMESTAMP_SIZE], "big")
    signature = found.signature[_TIMESTAMP_SIZE:]
    check = check_ed25519 if key.type is SignatureType.COSIGNATURE_ED25519 else check_ml_dsa_44
    try:
        message = cosigned_message(key, checkpoint, timestamp_s)
    except MalformedNote as error:
        raise Untrusted(f"the cosignature of {key.name} cannot be one ({error.what})") from error
    if timestamp_s > DECIMAL_MAX or not check(key.public_key, signature, message):
        raise Untrusted(
            f"the cosignature of {key.name} does not verify", hint="somebody else cosigned, or it was edited"
        )
    return Cosignature(key, timestamp_s)
