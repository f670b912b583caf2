"""Private keys that are not here: the builders of `cryptography` take them, and somebody else is asked to sign.

Everything but `sign` and the public key is refused: the private part is never in this process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NoReturn, TypeAlias, TypeVar

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import load_der_public_key

from ledger.errors import InvalidRequest
from pki.core.algorithms import IssuerKey, algorithm_of

Buffer: TypeAlias = bytes | bytearray | memoryview
Sign: TypeAlias = Callable[[bytes, hashes.HashAlgorithm | None], bytes]
"""(what is to be signed, its hash or None) -> the signature as certificates carry it; may block.

RSA is always PKCS #1 v1.5, ECDSA a DER sequence, Ed25519 and ML-DSA pure (no hash).
"""

S = TypeVar("S", bound="_Elsewhere")

_PLACEHOLDER: Final = b"not signed"


def delegated(public: bytes, sign: Sign) -> IssuerKey:
    """A private key for `public` (SubjectPublicKeyInfo, DER) whose signatures `sign` makes.

    Raises:
        InvalidRequest: an authority may have no key of that kind.
    """
    key = load_der_public_key(public)
    algorithm_of(key)
    if isinstance(key, ec.EllipticCurvePublicKey):
        return _EllipticCurve(key, sign)
    if isinstance(key, rsa.RSAPublicKey):
        return _Rsa(key, sign)
    if isinstance(key, ed25519.Ed25519PublicKey):
        return _Ed25519(key, sign)
    assert isinstance(key, mldsa.MLDSA65PublicKey), "algorithm_of knows no other"
    return _MlDsa65(key, sign)


def unsigned(public: bytes) -> IssuerKey:
    """One that signs nothing: what is built with it can be looked at, to the last byte of what would be signed.

    What it leaves in the place of the signature verifies with no key.
    """
    return delegated(public, lambda data, algorithm: _PLACEHOLDER)


class _Elsewhere:
    """What the four have in common."""

    def __init__(self, public: PublicKeyTypes, sign: Sign) -> None:
        self._public = public
        self._sign = sign

    def __copy__(self: S) -> S:
        return self

    def __deepcopy__(self: S, memo: dict[Any, Any]) -> S:
        return self

    def private_bytes(self, *_: object, **__: object) -> NoReturn:
        _refuse()

    def private_bytes_raw(self) -> NoReturn:
        _refuse()

    def private_numbers(self) -> NoReturn:
        _refuse()


class _EllipticCurve(_Elsewhere, ec.EllipticCurvePrivateKey):
    _public: ec.EllipticCurvePublicKey

    def public_key(self) -> ec.EllipticCurvePublicKey:
        return self._public

    @property
    def curve(self) -> ec.EllipticCurve:
        return self._public.curve

    @property
    def key_size(self) -> int:
        return self._public.key_size

    def sign(self, data: Buffer, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        algorithm = signature_algorithm.algorithm
        if not isinstance(algorithm, hashes.HashAlgorithm):
            raise InvalidRequest("what is signed here is never hashed beforehand")
        return self._sign(bytes(data), algorithm)

    def exchange(self, algorithm: ec.ECDH, peer_public_key: ec.EllipticCurvePublicKey) -> NoReturn:
        _refuse()


class _Rsa(_Elsewhere, rsa.RSAPrivateKey):
    _public: rsa.RSAPublicKey

    def public_key(self) -> rsa.RSAPublicKey:
        return self._public

    @property
    def key_size(self) -> int:
        return self._public.key_size

    def sign(self, data: Buffer, padding: padding.AsymmetricPadding, algorithm: object) -> bytes:
        if padding.name != "EMSA-PKCS1-v1_5" or not isinstance(algorithm, hashes.HashAlgorithm):
            raise InvalidRequest("RSA signatures are made with PKCS #1 v1.5 here")
        return self._sign(bytes(data), algorithm)

    def decrypt(self, ciphertext: bytes, padding: padding.AsymmetricPadding) -> NoReturn:
        _refuse()


class _Ed25519(_Elsewhere, ed25519.Ed25519PrivateKey):
    _public: ed25519.Ed25519PublicKey

    def public_key(self) -> ed25519.Ed25519PublicKey:
        return self._public

    def sign(self, data: Buffer) -> bytes:
        return self._sign(bytes(data), None)


class _MlDsa65(_Elsewhere, mldsa.MLDSA65PrivateKey):
    _public: mldsa.MLDSA65PublicKey

    def public_key(self) -> mldsa.MLDSA65PublicKey:
        return self._public

    def sign(self, data: Buffer, context: Buffer | None = None) -> bytes:
        if context:
            raise InvalidRequest("certificates are signed without a context")
        return self._sign(bytes(data), None)

    def sign_mu(self, mu: Buffer) -> NoReturn:
        _refuse()


def _refuse() -> NoReturn:
    raise InvalidRequest("the private key is kept elsewhere and never leaves it")
