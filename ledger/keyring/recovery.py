"""The offline recovery key, to which every key of a ledger is wrapped. Unwrapping needs the custodians.

It is hybrid (ML-KEM-768 and X25519), so that copies kept for decades stay closed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)

from ledger.errors import InvalidRequest, Tampered

FORMAT: Final = 1
_SEED_SIZE = 64
_ML_KEM_PUBLIC_SIZE = 1184
_SUITE = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


@dataclass(frozen=True, slots=True)
class RecoveryKey:
    """The offline recovery key. `private`: ML-KEM-768 seed (64 bytes), then X25519 (32); `public`: 1184, then 32."""

    private: bytes = field(repr=False)
    public: bytes


def generate_recovery_key() -> RecoveryKey:
    """A new recovery key; its private part belongs offline, with custodians."""
    ml_kem, x25519 = MLKEM768PrivateKey.generate(), X25519PrivateKey.generate()
    return RecoveryKey(
        ml_kem.private_bytes_raw() + x25519.private_bytes_raw(),
        ml_kem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw(),
    )


def seal_to_recovery(public: bytes, key: bytes, *, context: bytes) -> bytes:
    """`key`, encrypted so that only the recovery key opens it, bound to `context` (HPKE, RFC 9180; format byte first).

    Raises:
        InvalidRequest: `public` is no recovery key's public part.
    """
    try:
        target = MLKEM768X25519PublicKey(
            MLKEM768PublicKey.from_public_bytes(public[:_ML_KEM_PUBLIC_SIZE]),
            X25519PublicKey.from_public_bytes(public[_ML_KEM_PUBLIC_SIZE:]),
        )
    except ValueError as error:
        raise InvalidRequest(f"the recovery key's public part cannot be used ({error})") from error
    return bytes([FORMAT]) + _SUITE.encrypt(key, target, info=context)


def open_from_recovery(private: bytes, wrapped: bytes, *, context: bytes) -> bytes:
    """The inverse of `seal_to_recovery`. Raises Tampered: it was wrapped to another key, or for something else."""
    source = MLKEM768X25519PrivateKey(
        MLKEM768PrivateKey.from_seed_bytes(private[:_SEED_SIZE]),
        X25519PrivateKey.from_private_bytes(private[_SEED_SIZE:]),
    )
    if wrapped[:1] != bytes([FORMAT]):
        raise Tampered("the wrapped key has a format this jinshi does not know", hint="use a newer jinshi")
    try:
        return _SUITE.decrypt(wrapped[1:], source, info=context)
    except (InvalidTag, ValueError) as error:
        raise Tampered(
            "the wrapped key does not open with this recovery key", hint="use the recovery key of this ledger"
        ) from error
