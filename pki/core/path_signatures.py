"""Whether a certificate or a list was signed with a key: which signatures count, and how each is verified. Pure."""

from __future__ import annotations

from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

RSA_BITS: Final = (2_048, 8_192)
_HASHES: Final = ("sha256", "sha384", "sha512", "sha3-256", "sha3-384", "sha3-512")
_CURVES: Final = ("secp256r1", "secp384r1", "secp521r1")
_Signed = x509.Certificate | x509.CertificateRevocationList


def signature_holds(certificate: x509.Certificate, key: CertificatePublicKeyTypes) -> bool:
    """Whether the key made its signature, in a way that is strong enough (NIST SP 800-131A: no SHA-1, RSA from 2,048
    bits on; no DSA)."""
    return _holds(certificate, certificate.tbs_certificate_bytes, key)


def list_signature_holds(crl: x509.CertificateRevocationList, key: CertificatePublicKeyTypes) -> bool:
    """The same of a certificate revocation list."""
    return _holds(crl, crl.tbs_certlist_bytes, key)


def _holds(signed: _Signed, data: bytes, key: CertificatePublicKeyTypes) -> bool:
    try:
        signature_hash = signed.signature_hash_algorithm
        if signature_hash is not None and signature_hash.name not in _HASHES:
            return False
        return _verify(signed, data, key)
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError):
        return False


def _verify(signed: _Signed, data: bytes, key: CertificatePublicKeyTypes) -> bool:
    signature, parameters = signed.signature, signed.signature_algorithm_parameters
    if isinstance(key, rsa.RSAPublicKey):
        if not RSA_BITS[0] <= key.key_size <= RSA_BITS[1]:
            return False
        if not isinstance(parameters, padding.PKCS1v15 | padding.PSS):
            return False
        key.verify(signature, data, parameters, _hash_of(signed))
    elif isinstance(key, ec.EllipticCurvePublicKey):
        if key.curve.name not in _CURVES or not isinstance(parameters, ec.ECDSA):
            return False
        key.verify(signature, data, parameters)
    elif isinstance(
        key,
        ed25519.Ed25519PublicKey
        | ed448.Ed448PublicKey
        | mldsa.MLDSA44PublicKey
        | mldsa.MLDSA65PublicKey
        | mldsa.MLDSA87PublicKey,
    ):
        if parameters is not None:
            return False
        key.verify(signature, data)
    else:
        return False
    return True


def _hash_of(signed: _Signed) -> hashes.HashAlgorithm:
    found = signed.signature_hash_algorithm
    if found is None:
        raise ValueError("it names no hash")
    return found
