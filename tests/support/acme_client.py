"""A client of ACME that can do everything wrong: it signs what it is told to, over httpx, and looks at every answer."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from pki.acme.jws import decode_base64url, encode_base64url

ERROR = "urn:ietf:params:acme:error:"
PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def jwk_of(key: PrivateKey) -> dict[str, str]:
    """The public half."""
    public = key.public_key()
    if isinstance(public, ec.EllipticCurvePublicKey):
        size = (public.key_size + 7) // 8
        numbers = public.public_numbers()
        x, y = (encode_base64url(one.to_bytes(size)) for one in (numbers.x, numbers.y))
        return {"kty": "EC", "crv": f"P-{public.key_size}", "x": x, "y": y}
    if isinstance(public, rsa.RSAPublicKey):
        rsa_numbers = public.public_numbers()
        n, e = (encode_base64url(one.to_bytes((one.bit_length() + 7) // 8)) for one in (rsa_numbers.n, rsa_numbers.e))
        return {"kty": "RSA", "n": n, "e": e}
    return {"kty": "OKP", "crv": "Ed25519", "x": encode_base64url(public.public_bytes_raw())}


def thumbprint(key: PrivateKey) -> str:
    text = json.dumps(jwk_of(key), sort_keys=True, separators=(",", ":"))
    return encode_base64url(hashlib.sha256(text.encode()).digest())


def algorithm_of(key: PrivateKey) -> str:
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return {256: "ES256", 384: "ES384"}[key.key_size]
    return "RS256" if isinstance(key, rsa.RSAPrivateKey) else "EdDSA"


def signature_of(key: PrivateKey | bytes, data: bytes) -> bytes:
    if isinstance(key, bytes):
        return hmac.digest(key, data, "sha256")
    if isinstance(key, ec.EllipticCurvePrivateKey):
        size = key.key_size // 8
        hash_ = {32: hashes.SHA256(), 48: hashes.SHA384()}[size]
        r, s = decode_dss_signature(key.sign(data, ec.ECDSA(hash_)))
        return r.to_bytes(size) + s.to_bytes(size)
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(data, padding.PKCS1v15(), hashes.SHA256())
    return key.sign(data)


def jws(key: PrivateKey | bytes, header: dict[str, Any], payload: object) -> dict[str, str]:
    """A flattened JWS; `payload` None: empty; bytes as they are."""
    body = payload if isinstance(payload, bytes) else b"" if payload is None else json.dumps(payload).encode()
    protected, data = encode_base64url(json.dumps(header).encode()), encode_base64url(body)
    signature = signature_of(key, f"{protected}.{data}".encode())
    return {"protected": protected, "payload": data, "signature": encode_base64url(signature)}


def csr_for(names: Sequence[str], key: PrivateKey, *, common_name: str = "") -> bytes:
    """A request for DNS names, DER."""
    subject = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else []
    hash_ = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name(subject))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(one) for one in names]), critical=False)
        .sign(key, hash_)
        .public_bytes(Encoding.DER)
    )


@dataclass
class Client:
    """One account's client. `nonce` None: a fresh one is fetched."""

    http: httpx.AsyncClient
    url: str
    key: PrivateKey = field(default_factory=new_key)
    kid: str = ""
    nonce: str | None = None

    def again(self) -> Client:
        """The same account, from another place."""
        return Client(self.http, self.url, self.key, self.kid)

    # -- requests --

    async def send(
        self,
        url: str,
        payload: object,
        *,
        header: dict[str, Any] | None = None,
        key: PrivateKey | None = None,
        by_key: bool = False,
    ) -> httpx.Response:
        """A signed request; `header` has what is to be wrong in it (None removes a member)."""
        key = key or self.key
        said: dict[str, Any] = {"alg": algorithm_of(key), "nonce": await self.take_nonce(), "url": url}
        said |= {"kid": self.kid} if self.kid and not by_key else {"jwk": jwk_of(key)}
        said |= header or {}
        return await self.post(url, jws(key, {name: one for name, one in said.items() if one is not None}, payload))

    async def post(self, url: str, body: object) -> httpx.Response:
        """Whatever it is."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        response = await self.http.post(url, content=content, headers={"content-type": "application/jose+json"})
        self.nonce = response.headers.get("replay-nonce")
        return response

    async def take_nonce(self) -> str:
        if self.nonce is None:
            self.nonce = (await self.http.head(f"{self.url}/new-nonce")).headers["replay-nonce"]
        taken, self.nonce = self.nonce, None
        assert taken is not None
        return taken

    async def read(self, url: str) -> dict[str, Any]:
        """POST-as-GET."""
        response = await self.send(url, None)
        assert response.status_code == 200, response.text
        shown: dict[str, Any] = response.json()
        return shown

    # -- what clients do --

    def binding(self, kid: str, secret: str, *, key: PrivateKey | None = None) -> dict[str, str]:
        header = {"alg": "HS256", "kid": kid, "url": f"{self.url}/new-account"}
        return jws(decode_base64url(secret), header, jwk_of(key or self.key))

    async def register(self, kid: str, secret: str, **more: object) -> httpx.Response:
        """Make the account; from then on it signs with its URL."""
        message = {"termsOfServiceAgreed": True, "externalAccountBinding": self.binding(kid, secret), **more}
        response = await self.send(f"{self.url}/new-account", message, by_key=True)
        if response.is_success:
            self.kid = response.headers["location"]
        return response

    async def order(self, *names: str, **more: object) -> httpx.Response:
        identifiers = [{"type": "dns", "value": name} for name in names]
        return await self.send(f"{self.url}/new-order", {"identifiers": identifiers, **more})

    async def challenge(self, order: dict[str, Any], kind: str, number: int = 0) -> dict[str, Any]:
        """That of one of an order's authorizations."""
        authorization = await self.read(order["authorizations"][number])
        found: dict[str, Any] = next(one for one in authorization["challenges"] if one["type"] == kind)
        return found

    def key_authorization(self, challenge: dict[str, Any]) -> str:
        return f"{challenge['token']}.{thumbprint(self.key)}"

    def digest(self, challenge: dict[str, Any]) -> str:
        """What dns-01 has in the record."""
        return encode_base64url(hashlib.sha256(self.key_authorization(challenge).encode()).digest())

    async def until(self, url: str, *states: str) -> dict[str, Any]:
        """Ask again until it is in one of these states."""
        for _ in range(400):
            shown = await self.read(url)
            if shown["status"] in states:
                return shown
            await asyncio.sleep(0.02)
        raise AssertionError(f"{shown} is not {' or '.join(states)}")

    async def finalize(self, order: dict[str, Any], csr: bytes) -> httpx.Response:
        return await self.send(order["finalize"], {"csr": encode_base64url(csr)})

    async def revoke(self, pem: str, *, reason: int = 1, **how: Any) -> httpx.Response:
        """The first certificate of a chain."""
        der = x509.load_pem_x509_certificate(pem.encode()).public_bytes(Encoding.DER)
        message = {"certificate": encode_base64url(der), "reason": reason}
        return await self.send(f"{self.url}/revoke-cert", message, **how)


def problem(response: httpx.Response, kind: str, status: int) -> dict[str, Any]:
    """The problem document of an answer that is this error."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    shown: dict[str, Any] = response.json()
    assert shown["type"] == ERROR + kind, shown
    return shown
