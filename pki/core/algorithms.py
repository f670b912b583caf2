"""Signature algorithms as values: what is recorded of a key, how one is made, and what its signatures are made with.

SM2 (GB/T 32918) will be one more value here; nothing else may assume which there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes, PublicKeyTypes

from ledger.errors import InvalidRequest

IssuerKey: TypeAlias = CertificateIssuerPrivateKeyTypes
"""A private key as the builders of `cryptography` take it; one in an HSM or OpenBao is a subclass whose `sign` asks."""


@dataclass(frozen=True, slots=True, eq=False)
class Algorithm:
    """A kind of key with its parameters, and the hash its signatures use (None: the algorithm has its own)."""

    name: str
    hash: hashes.HashAlgorithm | None
    strength: int
    """Security strength in bits (NIST SP 800-57 Part 1, table 2)."""


P256: Final = Algorithm("P-256", hashes.SHA256(), 128)
P384: Final = Algorithm("P-384", hashes.SHA384(), 192)
RSA_3072: Final = Algorithm("RSA-3072", hashes.SHA256(), 128)
RSA_4096: Final = Algorithm("RSA-4096", hashes.SHA256(), 128)
ED25519: Final = Algorithm("Ed25519", None, 128)
ML_DSA_65: Final = Algorithm("ML-DSA-65", None, 192)

ALGORITHMS: Final = {one.name: one for one in (P256, P384, RSA_3072, RSA_4096, ED25519, ML_DSA_65)}


def algorithm_named(name: str) -> Algorithm:
    """The algorithm of that name. Raises InvalidRequest: there is none."""
    found = ALGORITHMS.get(name)
    if found is None:
        raise InvalidRequest(f"{name!r} is no algorithm known here", hint=f"one of {', '.join(ALGORITHMS)}")
    return found


def generate(algorithm: Algorithm) -> IssuerKey:
    """A new private key in this process."""
    if algorithm is P256:
        return ec.generate_private_key(ec.SECP256R1())
    if algorithm is P384:
        return ec.generate_private_key(ec.SECP384R1())
    if algorithm in (RSA_3072, RSA_4096):
        return rsa.generate_private_key(65_537, 3_072 if algorithm is RSA_3072 else 4_096)
    if algorithm is ED25519:
        return ed25519.Ed25519PrivateKey.generate()
    if algorithm is ML_DSA_65:
        return mldsa.MLDSA65PrivateKey.generate()
    raise InvalidRequest(f"{algorithm.name} keys are not made here", hint=f"one of {', '.join(ALGORITHMS)}")


def algorithm_of(key: PublicKeyTypes) -> Algorithm:
    """The algorithm of a public key that an authority here may have. Raises InvalidRequest: none of those."""
    if isinstance(key, ec.EllipticCurvePublicKey):
        found = {"secp256r1": P256, "secp384r1": P384}.get(key.curve.name)
    elif isinstance(key, rsa.RSAPublicKey):
        found = {3_072: RSA_3072, 4_096: RSA_4096}.get(key.key_size)
    elif isinstance(key, ed25519.Ed25519PublicKey):
        found = ED25519
    elif isinstance(key, mldsa.MLDSA65PublicKey):
        found = ML_DSA_65
    else:
        found = None
    if found is None:
        raise InvalidRequest(
            f"a key of kind {type(key).__name__.removesuffix('PublicKey')} is not one an authority may have",
            hint=f"use one of {', '.join(ALGORITHMS)}",
        )
    return found
