"""Signed messages as ACME restricts them (RFC 8555 §6.2): flattened JSON, nothing unprotected, few algorithms. Pure."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ledger.core.canonical import JsonValue, canonicalize, parse_json
from ledger.errors import Malformed
from pki.acme.problems import Problem, malformed

MESSAGE_SIZE_MAX: Final = 64 * 2**10
RSA_BITS: Final = range(2_048, 4_097)
MAC_ALGORITHM: Final = "HS256"
"""Of external account bindings alone (RFC 8555 §7.3.4)."""

PublicKey: TypeAlias = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey

_BASE64URL = re.compile(r"[A-Za-z0-9_-]*")
_CURVES: Final[Mapping[str, tuple[ec.EllipticCurve, int]]] = {
    "P-256": (ec.SECP256R1(), 32),
    "P-384": (ec.SECP384R1(), 48),
}
_HEADERS: Final = frozenset({"alg", "nonce", "url", "jwk", "kid", "typ", "cty"})


@dataclass(frozen=True, slots=True)
class Jwk:
    """A public key (RFC 7517): only the members that its thumbprint is made of, and the key they stand for."""

    members: Mapping[str, str]
    public: PublicKey

    @property
    def thumbprint(self) -> str:
        """RFC 7638, SHA-256, in base64url."""
        return encode_base64url(hashlib.sha256(canonicalize(dict(self.members))).digest())

    @property
    def spki(self) -> bytes:
        """SubjectPublicKeyInfo, DER."""
        return self.public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@dataclass(frozen=True, slots=True)
class Jws:
    """A message as it came; nothing of it is believed before `verify`. One of `jwk` and `kid` is there."""

    algorithm: str
    url: str
    nonce: str | None
    jwk: Jwk | None
    kid: str | None
    payload: bytes
    signed: bytes
    signature: bytes


# -- base64url --


def encode_base64url(data: bytes) -> str:
    """RFC 7515 §2: no padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def decode_base64url(text: str) -> bytes:
    """The inverse, and of nothing else: padding, other characters and stray bits are refused. Raises ValueError."""
    if not _BASE64URL.fullmatch(text):
        raise ValueError("it holds characters that base64url has not")
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error as error:
        raise ValueError("its length is none of base64url") from error
    if encode_base64url(data) != text:
        raise ValueError("stray bits at its end")
    return data


# -- keys --


def parse_jwk(value: JsonValue) -> Jwk:
    """A public key as a client says it.

    Raises:
        Problem: badPublicKey (of no kind used here, too weak, or no point of its curve), malformed.
    """
    if not isinstance(value, dict):
        raise malformed("jwk is no JSON object")
    if "d" in value or "k" in value:
        raise Problem("badPublicKey", "jwk holds a private or a symmetric key", hint="make a new key, and keep it")
    kind = value.get("kty")
    try:
        if kind == "EC":
            return _ec_key(value)
        if kind == "RSA":
            return _rsa_key(value)
        if kind == "OKP":
            return _okp_key(value)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise Problem("badPublicKey", f"jwk is no public key ({error})") from error
    raise Problem("badPublicKey", "keys of that kind are not taken", hint="EC, RSA or OKP")


def _ec_key(value: dict[str, JsonValue]) -> Jwk:
    name = _text(value, "crv")
    if name not in _CURVES:
        raise ValueError("its curve is not P-256 or P-384")
    curve, size = _CURVES[name]
    x, y = _octets(value, "x"), _octets(value, "y")
    if len(x) != size or len(y) != size:
        raise ValueError(f"coordinates of {name} have {size} bytes")  # RFC 7518 §6.2.1.2
    public = ec.EllipticCurvePublicNumbers(int.from_bytes(x), int.from_bytes(y), curve).public_key()
    return Jwk({"crv": name, "kty": "EC", "x": _text(value, "x"), "y": _text(value, "y")}, public)


def _rsa_key(value: dict[str, JsonValue]) -> Jwk:
    n, e = _octets(value, "n"), _octets(value, "e")
    if not n or not e or n[0] == 0 or e[0] == 0:
        raise ValueError("a number begins with a zero byte")  # RFC 7518 §2: the minimum of octets
    modulus, exponent = int.from_bytes(n), int.from_bytes(e)
    if modulus.bit_length() not in RSA_BITS:
        raise ValueError(f"RSA keys have {RSA_BITS.start} to {RSA_BITS.stop - 1} bits here")
    if modulus % 2 == 0 or exponent % 2 == 0 or not 65_537 <= exponent < 2**32:
        raise ValueError("its modulus or exponent is not one that RSA keys have")
    public = rsa.RSAPublicNumbers(exponent, modulus).public_key()
    return Jwk({"e": _text(value, "e"), "kty": "RSA", "n": _text(value, "n")}, public)


def _okp_key(value: dict[str, JsonValue]) -> Jwk:
    if value.get("crv") != "Ed25519":
        raise ValueError("its curve is not Ed25519")
    public = ed25519.Ed25519PublicKey.from_public_bytes(_octets(value, "x"))
    return Jwk({"crv": "Ed25519", "kty": "OKP", "x": _text(value, "x")}, public)


def _text(value: Mapping[str, JsonValue], name: str) -> str:
    found = value.get(name)
    if not isinstance(found, str):
        raise ValueError(f"{name} is missing, or no text")
    return found


def _octets(value: Mapping[str, JsonValue], name: str) -> bytes:
    return decode_base64url(_text(value, name))


# -- messages --


def parse_jws(data: bytes) -> Jws:
    """A message in the flattened JSON serialization (RFC 7515 §7.2.2), as RFC 8555 §6.2 restricts it.

    Whether a nonce has to be there depends on where it was sent; that is for the caller to see to.

    Raises:
        Problem: malformed, badPublicKey, badSignatureAlgorithm.
    """
    if len(data) > MESSAGE_SIZE_MAX:
        raise malformed(f"the message has more than {MESSAGE_SIZE_MAX} bytes")
    return jws_of(_json(data, "the message"))


def jws_of(message: JsonValue) -> Jws:
    """The same for one that stands within another message, parsed already."""
    if not isinstance(message, dict):
        raise malformed("a signed message is a JSON object")
    if message.keys() != {"protected", "payload", "signature"}:
        # RFC 8555 §6.2: no unprotected header, and not several signatures
        raise malformed("a signed message has the members protected, payload and signature, and no others")
    texts = {name: _member(message, name) for name in ("protected", "payload", "signature")}
    header = _json(_decoded(texts["protected"], "protected"), "the protected header")
    if not isinstance(header, dict):
        raise malformed("the protected header is no JSON object")
    if unknown := header.keys() - _HEADERS:
        raise malformed(f"the protected header has {sorted(unknown)[0][:40]!r}, which is not known here")
    algorithm, url = _member(header, "alg"), _member(header, "url")
    if algorithm not in ALGORITHMS and algorithm != MAC_ALGORITHM:
        raise bad_algorithm(algorithm)
    if ("jwk" in header) == ("kid" in header):
        raise malformed("the protected header has either jwk or kid")
    return Jws(
        algorithm,
        url,
        _member(header, "nonce") if "nonce" in header else None,
        parse_jwk(header["jwk"]) if "jwk" in header else None,
        _member(header, "kid") if "kid" in header else None,
        _decoded(texts["payload"], "payload"),
        f"{texts['protected']}.{texts['payload']}".encode("ascii"),
        _decoded(texts["signature"], "signature"),
    )


def verify(jws: Jws, key: Jwk) -> None:
    """Raises Problem: the signature is not that of the key, or its algorithm is not one for the key."""
    check = ALGORITHMS.get(jws.algorithm)
    if check is None:
        raise bad_algorithm(jws.algorithm)
    try:
        check(key.public, jws.signature, jws.signed)
    except InvalidSignature as error:
        raise malformed("the signature is not that of the key") from error


def verify_mac(jws: Jws, secret: bytes) -> None:
    """The same for an external account binding. Raises Problem."""
    if jws.algorithm != MAC_ALGORITHM:
        raise Problem("badSignatureAlgorithm", f"an external account binding is made with {MAC_ALGORITHM}")
    if not hmac.compare_digest(hmac.digest(secret, jws.signed, "sha256"), jws.signature):
        raise Problem("unauthorized", "the external account binding is not made with that key")


def bad_algorithm(name: str) -> Problem:
    """RFC 8555 §6.2: the answer says which there are."""
    return Problem("badSignatureAlgorithm", f"{name[:20]!r} is not taken", members={"algorithms": sorted(ALGORITHMS)})


def _json(data: bytes, what: str) -> JsonValue:
    try:
        return parse_json(data)
    except Malformed as error:
        raise malformed(f"{what} is no JSON ({error.what})") from error


def _member(value: Mapping[str, JsonValue], name: str) -> str:
    found = value.get(name)
    if not isinstance(found, str):
        raise malformed(f"{name} is missing, or no text")
    return found


def _decoded(text: str, name: str) -> bytes:
    try:
        return decode_base64url(text)
    except ValueError as error:
        raise malformed(f"{name} is no base64url ({error})") from error


# -- algorithms --


def _es(curve: str, hash_: hashes.HashAlgorithm) -> Callable[[Any, bytes, bytes], None]:
    expected, size = _CURVES[curve]

    def check(public: Any, signature: bytes, signed: bytes) -> None:
        if not isinstance(public, ec.EllipticCurvePublicKey) or public.curve.name != expected.name:
            raise Problem("badSignatureAlgorithm", f"that algorithm is for keys on {curve}")
        if len(signature) != 2 * size:  # RFC 7518 §3.4: R and S, each as long as the field
            raise InvalidSignature
        r, s = int.from_bytes(signature[:size]), int.from_bytes(signature[size:])
        public.verify(encode_dss_signature(r, s), signed, ec.ECDSA(hash_))

    return check


def _rs256(public: Any, signature: bytes, signed: bytes) -> None:
    if not isinstance(public, rsa.RSAPublicKey):
        raise Problem("badSignatureAlgorithm", "RS256 is for RSA keys")
    public.verify(signature, signed, padding.PKCS1v15(), hashes.SHA256())


def _eddsa(public: Any, signature: bytes, signed: bytes) -> None:
    if not isinstance(public, ed25519.Ed25519PublicKey):
        raise Problem("badSignatureAlgorithm", "EdDSA is for Ed25519 keys")
    public.verify(signature, signed)


ALGORITHMS: Final[Mapping[str, Callable[[Any, bytes, bytes], None]]] = {
    "ES256": _es("P-256", hashes.SHA256()),
    "ES384": _es("P-384", hashes.SHA384()),
    "RS256": _rs256,
    "EdDSA": _eddsa,
}
"""Signature algorithms of accounts (RFC 7518 §3.1, RFC 8037 §3.1); "none" and MACs are not among them."""
