"""Signatures over what is glued together here: what an algorithm is called in DER, and how it is asked for one.

A table, so that SM2 is one more line of it. What `cryptography` builds itself needs none of this.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding

from ledger.errors import InvalidRequest
from pki.core.algorithms import ED25519, ML_DSA_65, P256, P384, RSA_3072, RSA_4096, Algorithm, IssuerKey
from pki.core.der import BIT_STRING, OID, sequence, tlv

_NULL: Final = b"\x05\x00"
_RSA_SHA256: Final = sequence(tlv(OID, bytes.fromhex("2a864886f70d01010b")), _NULL)

_IDENTIFIERS: Final = {
    P256.name: sequence(tlv(OID, bytes.fromhex("2a8648ce3d040302"))),
    P384.name: sequence(tlv(OID, bytes.fromhex("2a8648ce3d040303"))),
    RSA_3072.name: _RSA_SHA256,
    RSA_4096.name: _RSA_SHA256,
    ED25519.name: sequence(tlv(OID, bytes.fromhex("2b6570"))),
    ML_DSA_65.name: sequence(tlv(OID, bytes.fromhex("608648016503040312"))),
}
"""AlgorithmIdentifiers: RFC 5758 §3.2, RFC 4055 §5 (NULL parameters), RFC 8410 §3, RFC 9881 §2."""


_ECDSA: Final = {P256.name: ec.ECDSA(hashes.SHA256()), P384.name: ec.ECDSA(hashes.SHA384())}


def _ecdsa(private: Any, algorithm: Algorithm, data: bytes) -> bytes:
    signature: bytes = private.sign(data, _ECDSA[algorithm.name])
    return signature


def _rsa(private: Any, algorithm: Algorithm, data: bytes) -> bytes:
    signature: bytes = private.sign(data, padding.PKCS1v15(), algorithm.hash)
    return signature


def _whole(private: Any, _algorithm: Algorithm, data: bytes) -> bytes:
    signature: bytes = private.sign(data)
    return signature


_SIGN: Final[dict[str, Callable[[Any, Algorithm, bytes], bytes]]] = {
    P256.name: _ecdsa,
    P384.name: _ecdsa,
    RSA_3072.name: _rsa,
    RSA_4096.name: _rsa,
    ED25519.name: _whole,
    ML_DSA_65.name: _whole,
}


def identifier(algorithm: Algorithm) -> bytes:
    """The AlgorithmIdentifier of its signatures, DER. Raises InvalidRequest: none is known here."""
    found = _IDENTIFIERS.get(algorithm.name)
    if found is None:
        raise InvalidRequest(f"signatures of {algorithm.name} keys are not known here")
    return found


def sign(private: IssuerKey, algorithm: Algorithm, data: bytes) -> bytes:
    """A signature of `data`. Blocks where the key is elsewhere.

    Raises:
        Unavailable: as `pki.keystore.base.SigningKey.private`.
    """
    return _SIGN[algorithm.name](private, algorithm, data)


def assembled(tbs: bytes, algorithm: Algorithm, signature: bytes) -> bytes:
    """What was to be signed, with its algorithm and signature: SIGNED of X.509."""
    return sequence(tbs, identifier(algorithm), tlv(BIT_STRING, b"\0", signature))
