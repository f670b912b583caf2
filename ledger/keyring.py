"""Keys wrapped to the offline recovery key, as they lie in `keyring/` at every site. Unwrapping needs the custodians.

The recovery key is hybrid (ML-KEM-768 and X25519), so that copies kept for decades stay closed.
"""

from __future__ import annotations

import hashlib
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

from ledger.core.canonical import JsonValue, canonicalize, parse_json
from ledger.core.encoding import decode_base64, encode_base64
from ledger.errors import InvalidRequest, Malformed, Tampered

KEYRING = "keyring/"
FORMAT: Final = 1
_SEED_SIZE = 64
_ML_KEM_PUBLIC_SIZE = 1184
_SUITE = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
_LOG_SIGNING: Final = "log signing"


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


def log_keyid(vkey: str) -> str:
    """Under which name the log key with this verifier key is kept."""
    return f"log-{hashlib.sha256(vkey.encode()).hexdigest()[:16]}"


def _clear(vkey: str, origin: str) -> dict[str, JsonValue]:
    return {"format": FORMAT, "keyid": log_keyid(vkey), "origin": origin, "purpose": _LOG_SIGNING, "vkey": vkey}


def keyring_object(private: bytes, vkey: str, origin: str, recovery_public: bytes) -> tuple[str, bytes]:
    """(keyid, bytes) of the keyring object that keeps a log's signing key (docs/formats.md, section 5)."""
    clear = _clear(vkey, origin)
    wrapped = seal_to_recovery(recovery_public, private, context=canonicalize(clear))
    return log_keyid(vkey), canonicalize({**clear, "recovery": encode_base64(wrapped)})


def recover_log_key(data: bytes, vkey: str, origin: str, recovery_private: bytes) -> bytes:
    """The log's private key out of its keyring object, with the custodians' recovery key.

    Raises:
        Tampered: it is not the keyring object of that log key, was edited, or was wrapped to another recovery key.
    """
    try:
        value = parse_json(data)
        if not isinstance(value, dict) or not isinstance(wrapped := value.pop("recovery", None), str):
            raise Malformed("it is no keyring object")
        sealed = decode_base64(wrapped)
    except (Malformed, ValueError) as error:
        raise Tampered(f"the keyring object of {origin} cannot be read ({error})") from error
    clear = _clear(vkey, origin)
    if value != clear:
        raise Tampered(f"the keyring object {log_keyid(vkey)} is not that of {origin}")
    return open_from_recovery(recovery_private, sealed, context=canonicalize(clear))
