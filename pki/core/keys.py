"""Public keys that may be certified: which kind each is, and which are too weak to be anybody's. Pure.

What is refused, and why (each has a test):

- RSA whose modulus is not 2,048, 3,072 or 4,096 bits long (CA/Browser Forum BR §6.1.5; NIST SP 800-131A), whose
  exponent is even or below 65,537 or above 2^256 (BR §6.1.6, FIPS 186-5 §A.1.1), whose modulus has a factor below 752
  (NIST SP 800-89 §5.3.3), two factors so close that 100 rounds of Fermat's method find them (CVE-2022-26320; BR
  §6.1.1.3), or the fingerprint of Infineon's library (ROCA, CVE-2017-15361).
- Elliptic curves other than P-256, P-384 and P-521 (BR §6.1.5); points that are not on the curve are no key at all
  (SP 800-56A §5.6.2.3.3; OpenSSL checks). Points whose private key is one of the first numbers.
- Ed25519 keys of small order, all zeros among them (RFC 8032 §5.1.7, with the list of libsodium).
- ML-DSA keys that repeat one byte: no generator makes them.

What is not looked for: the lists of keys that Debian made in 2006-2008 (their RSA sizes of today would be 250 MB).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import gcd, isqrt, prod
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from ledger.errors import WeakKey

EXPONENT_MIN: Final = 65_537
EXPONENT_BITS_MAX: Final = 256
FERMAT_ROUNDS: Final = 100
SMALL_SCALARS: Final = 256
_SMALL_FACTORS: Final = prod(n for n in range(3, 752) if all(n % d for d in range(2, isqrt(n) + 1)))
_ROCA_PRIMES: Final = (
    *(3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101, 103, 107, 109),
    *(113, 127, 131, 137, 139, 149, 151, 157, 163, 167),
)

# The y-coordinates of the points whose order divides 8, least significant byte first and without the sign bit; those
# from 2^255-19 on are the encodings that are not reduced.
_SMALL_ORDER: Final = frozenset(
    bytes.fromhex(one)
    for one in (
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    )
)


@dataclass(frozen=True, slots=True)
class SubjectKey:
    """A kind of key that can be certified.

    `encrypts`: RSA, which keyEncipherment is for. `agrees`: elliptic curves, which keyAgreement is for (RFC 5480 §3;
    RFC 8410 §5 and RFC 9881 §5 allow neither).
    """

    name: str
    strength: int
    encrypts: bool = False
    agrees: bool = False


SUBJECT_KEYS: Final = {
    one.name: one
    for one in (
        SubjectKey("P-256", 128, agrees=True),
        SubjectKey("P-384", 192, agrees=True),
        SubjectKey("P-521", 256, agrees=True),
        SubjectKey("RSA-2048", 112, encrypts=True),
        SubjectKey("RSA-3072", 128, encrypts=True),
        SubjectKey("RSA-4096", 128, encrypts=True),
        SubjectKey("Ed25519", 128),
        SubjectKey("ML-DSA-44", 128),
        SubjectKey("ML-DSA-65", 192),
        SubjectKey("ML-DSA-87", 256),
    )
}
"""By name; SM2 will be one more. Strengths are in bits (NIST SP 800-57 Part 1, table 2)."""

_CURVES: Final = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}


def subject_key_of(key: PublicKeyTypes) -> SubjectKey:
    """Which kind of key it is, without a look at its value. Raises WeakKey: it is of a kind that is not certified."""
    if isinstance(key, ec.EllipticCurvePublicKey):
        name = _CURVES.get(key.curve.name, key.curve.name)
    elif isinstance(key, rsa.RSAPublicKey):
        name = f"RSA-{key.key_size}"
    elif isinstance(key, ed25519.Ed25519PublicKey):
        name = "Ed25519"
    elif isinstance(key, mldsa.MLDSA44PublicKey):
        name = "ML-DSA-44"
    elif isinstance(key, mldsa.MLDSA65PublicKey):
        name = "ML-DSA-65"
    elif isinstance(key, mldsa.MLDSA87PublicKey):
        name = "ML-DSA-87"
    else:
        name = type(key).__name__.strip("_").removesuffix("PublicKey")
    found = SUBJECT_KEYS.get(name)
    if found is None:
        raise WeakKey(f"a key of kind {name} is not certified", hint=f"use one of {', '.join(SUBJECT_KEYS)}")
    return found


def check_key(key: PublicKeyTypes) -> SubjectKey:
    """The same, for a key that is also looked at. Raises WeakKey: it is one of those above."""
    kind = subject_key_of(key)
    if isinstance(key, rsa.RSAPublicKey):
        numbers = key.public_numbers()
        _check_rsa(numbers.n, numbers.e)
    elif isinstance(key, ec.EllipticCurvePublicKey):
        if key.public_numbers().x in _small_multiples(key.curve.name):
            raise WeakKey(f"the private key of this {kind.name} key is known", hint="make a new key")
    elif isinstance(key, ed25519.Ed25519PublicKey):
        raw = key.public_bytes_raw()
        if raw[:31] + bytes([raw[31] & 0x7F]) in _SMALL_ORDER:
            raise WeakKey("the Ed25519 key has a small order: anybody can sign with it", hint="make a new key")
    elif len(set(key.public_bytes_raw())) == 1:  # type: ignore[union-attr]  # the ML-DSA kinds
        raise WeakKey(f"the {kind.name} key is one byte, repeated", hint="make a new key")
    return kind


def _check_rsa(modulus: int, exponent: int) -> None:
    if exponent % 2 == 0 or exponent < EXPONENT_MIN or exponent.bit_length() > EXPONENT_BITS_MAX:
        raise WeakKey(
            f"the RSA key's exponent is {exponent if exponent < 2**64 else 'very large'}",
            hint="make a new key, with the exponent 65537",
        )
    if modulus % 2 == 0 or gcd(modulus, _SMALL_FACTORS) != 1:
        raise WeakKey("the RSA key's modulus has a small factor", hint="make a new key")
    if is_roca(modulus):
        raise WeakKey(
            "the RSA key was made by a library whose keys can be factored (ROCA, CVE-2017-15361)",
            hint="make a new key with other software, or another card",
        )
    if _has_close_factors(modulus):
        raise WeakKey("the RSA key's factors are close together (CVE-2022-26320)", hint="make a new key")


def is_roca(modulus: int) -> bool:
    """Whether an RSA modulus has the fingerprint of CVE-2017-15361: modulo small primes, it is a power of 65,537."""
    return all(powers >> modulus % prime & 1 for prime, powers in _roca_powers())


@cache
def _roca_powers() -> tuple[tuple[int, int], ...]:
    found = []
    for prime in _ROCA_PRIMES:
        powers, power = 0, 1
        for _ in range(prime):
            powers |= 1 << power
            power = power * 65_537 % prime
        found.append((prime, powers))
    return tuple(found)


def _has_close_factors(modulus: int) -> bool:
    root = isqrt(modulus)
    for a in range(root + 1, root + 1 + FERMAT_ROUNDS):
        square = a * a - modulus
        # Squares end in few ways only: most numbers are told without a root.
        if square & 15 in (0, 1, 4, 9) and isqrt(square) ** 2 == square:
            return True
    return root * root == modulus


@cache
def _small_multiples(curve: str) -> frozenset[int]:
    """The x-coordinates of the first multiples of a curve's generator, and of their negatives."""
    made = {"secp256r1": ec.SECP256R1(), "secp384r1": ec.SECP384R1(), "secp521r1": ec.SECP521R1()}[curve]
    return frozenset(
        ec.derive_private_key(scalar, made).public_key().public_numbers().x for scalar in range(1, SMALL_SCALARS + 1)
    )
