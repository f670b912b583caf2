"""Signing keys in an HSM (PKCS #11): made there, used there, never out of it. One login, a bounded pool of sessions."""

from __future__ import annotations

import asyncio
import ctypes
import queue
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote, unquote

import pkcs11
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass
from pkcs11.util.ec import encode_ec_public_key, encode_ecdsa_signature, encode_named_curve_parameters
from pkcs11.util.rsa import encode_rsa_public_key

from ledger.errors import InvalidRequest, Unavailable
from pki.core.algorithms import ED25519, P256, P384, RSA_3072, RSA_4096, Algorithm, IssuerKey, algorithm_of
from pki.core.delegated import delegated
from pki.keystore.base import PKCS11, KeyMissing, check_label

SESSIONS_MAX: Final = 8
TIMEOUT_S: Final = 30.0
"""How long a signature waits for a session."""

_URI = re.compile(r"pkcs11:token=([^;?]+)(?:;object=([a-z0-9-]+))?")
_CURVES = {P256: "secp256r1", P384: "secp384r1"}
_EDWARDS_25519 = "1.3.101.112"  # RFC 8410 §3
_RSA_BITS = {RSA_3072: 3_072, RSA_4096: 4_096}
_RSA_MECHANISMS = {
    "sha256": Mechanism.SHA256_RSA_PKCS,
    "sha384": Mechanism.SHA384_RSA_PKCS,
    "sha512": Mechanism.SHA512_RSA_PKCS,
}
_OS_LOCKING = 2
_libraries: dict[str, Any] = {}
_loading = threading.Lock()


@dataclass(frozen=True, slots=True)
class HsmKey:
    """A private key in an HSM (`SigningKey`)."""

    private: IssuerKey = field(repr=False)
    algorithm: Algorithm
    public: bytes
    local: bool = False


class HsmKeys:
    """A `Keeper` in one token: P-256, P-384, RSA and Ed25519. `pin` is asked for at every login."""

    def __init__(self, module: str, token: str, pin: Callable[[], str]) -> None:
        self._module = module
        self._token = token
        self._pin = pin
        self._idle: queue.LifoQueue[Any] = queue.LifoQueue()
        self._sessions = threading.Semaphore(SESSIONS_MAX)
        self._login = threading.Lock()

    async def generate(self, label: str, algorithm: Algorithm, keeper: str = "") -> str:
        check_label(label)
        if algorithm not in _CURVES and algorithm not in _RSA_BITS and algorithm is not ED25519:
            raise InvalidRequest(
                f"{algorithm.name} keys are not made in an HSM here", hint="keep it in a file, or shared"
            )
        await asyncio.to_thread(self._generate, label, algorithm)
        return f"{self.uri};object={label}"

    async def open(self, reference: str) -> HsmKey:
        token, label = parse_uri(reference)
        if token != self._token or not label:
            raise InvalidRequest(f"{reference!r} is no key of the token {self._token!r}")
        return await asyncio.to_thread(self._open, label)

    async def export(self, reference: str) -> bytes | None:
        return None

    async def take(self, label: str, private: bytes, keeper: str = "") -> str:
        raise InvalidRequest(
            "keys are not brought into an HSM from outside here",
            hint="import it with the HSM's own tools, then name it by its reference",
        )

    async def close(self) -> None:
        await asyncio.to_thread(self._drop)

    @property
    def uri(self) -> str:
        """RFC 7512."""
        return f"{PKCS11}:token={quote(self._token, safe='')}"

    # -- in a thread --

    def _generate(self, label: str, algorithm: Algorithm) -> None:
        kept = {Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False, Attribute.TOKEN: True}
        with self._session() as session:
            if any(True for _ in session.get_objects({Attribute.LABEL: label})):
                raise InvalidRequest(f"there is a key {label!r} in the token {self._token!r} already")
            named = {"store": True, "label": label, "id": label.encode(), "private_template": kept}
            if algorithm in _RSA_BITS:
                session.generate_keypair(KeyType.RSA, _RSA_BITS[algorithm], **named)
                return
            edwards = algorithm is ED25519
            curve = encode_named_curve_parameters(_EDWARDS_25519 if edwards else _CURVES[algorithm])
            kind = KeyType.EC_EDWARDS if edwards else KeyType.EC
            parameters = session.create_domain_parameters(kind, {Attribute.EC_PARAMS: curve}, local=True)
            parameters.generate_keypair(**named)

    def _open(self, label: str) -> HsmKey:
        with self._session() as session:
            private = _only(session, label, ObjectClass.PRIVATE_KEY, self._token)
            if private[Attribute.EXTRACTABLE] or not private[Attribute.SENSITIVE]:
                raise InvalidRequest(
                    f"the key {label!r} in the token {self._token!r} can be taken out of it",
                    hint="make it sensitive and not extractable",
                )
            public = _public_of(_only(session, label, ObjectClass.PUBLIC_KEY, self._token))
        algorithm = algorithm_of(public)

        def sign(data: bytes, hash_: hashes.HashAlgorithm | None) -> bytes:
            return self._sign(label, algorithm, data, hash_)

        spki = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return HsmKey(delegated(spki, sign), algorithm, spki)

    def _sign(self, label: str, algorithm: Algorithm, data: bytes, hash_: hashes.HashAlgorithm | None) -> bytes:
        if algorithm in _RSA_BITS and (hash_ is None or hash_.name not in _RSA_MECHANISMS):
            raise InvalidRequest("an RSA key in an HSM signs with SHA-256, SHA-384 or SHA-512")
        with self._session() as session:
            key = _only(session, label, ObjectClass.PRIVATE_KEY, self._token)
            if algorithm is ED25519:
                return bytes(key.sign(data, mechanism=Mechanism.EDDSA))
            assert hash_ is not None, "only Ed25519 signs without one here"
            if algorithm in _RSA_BITS:
                return bytes(key.sign(data, mechanism=_RSA_MECHANISMS[hash_.name]))
            digest = hashes.Hash(hash_)
            digest.update(data)
            return encode_ecdsa_signature(key.sign(digest.finalize(), mechanism=Mechanism.ECDSA))

    @contextmanager
    def _session(self) -> Iterator[Any]:
        """A session of the pool; after an error of the HSM, all of them are opened anew."""
        if not self._sessions.acquire(timeout=TIMEOUT_S):
            raise Unavailable(f"the HSM's token {self._token!r} answers too slowly", hint="try again")
        try:
            with self._translated():
                try:
                    session = self._idle.get_nowait()
                except queue.Empty:
                    session = self._connect()
                try:
                    yield session
                except pkcs11.PKCS11Error:
                    _close(session)
                    raise
                except BaseException:  # of ours: the session is as good as before
                    self._idle.put(session)
                    raise
                self._idle.put(session)
        finally:
            self._sessions.release()

    def _connect(self) -> Any:
        token = _library(self._module).get_token(token_label=self._token)
        with self._login:
            # One login is the whole process's: a second one is refused as a mistake.
            try:
                return token.open(rw=True, user_pin=self._pin())
            except pkcs11.UserAlreadyLoggedIn:
                return token.open(rw=True)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (pkcs11.PinIncorrect, pkcs11.PinInvalid, pkcs11.PinLenRange) as error:
            raise InvalidRequest(
                f"the PIN of the token {self._token!r} is wrong", hint="check JINSHI_PKCS11_PIN"
            ) from error
        except (pkcs11.PinLocked, pkcs11.PinExpired) as error:
            raise Unavailable(
                f"the PIN of the token {self._token!r} is locked or has expired", hint="unlock it with the HSM's tools"
            ) from error
        except pkcs11.PKCS11Error as error:
            self._drop()
            raise Unavailable(
                f"the HSM's token {self._token!r} cannot be used ({type(error).__name__})",
                hint="check that the HSM is there and JINSHI_PKCS11_MODULE names its library; nothing was signed",
            ) from error

    def _drop(self) -> None:
        while True:
            try:
                session = self._idle.get_nowait()
            except queue.Empty:
                return
            _close(session)


def _close(session: Any) -> None:
    with suppress(pkcs11.PKCS11Error):  # it went with the HSM
        session.close()


def parse_uri(reference: str) -> tuple[str, str]:
    """(token, label) of `pkcs11:token=…;object=…` (RFC 7512); the label may be "". Raises InvalidRequest."""
    found = _URI.fullmatch(reference)
    if found is None:
        raise InvalidRequest(f"{reference[:200]!r} is no place in an HSM", hint="write pkcs11:token=TOKEN")
    return unquote(found[1]), found[2] or ""


def _only(session: Any, label: str, kind: ObjectClass, token: str) -> Any:
    found = list(session.get_objects({Attribute.LABEL: label, Attribute.CLASS: kind}))
    if not found:
        raise KeyMissing(f"there is no key {label!r} in the token {token!r}", hint="see: jinshi ca keys list")
    if len(found) > 1:
        raise InvalidRequest(f"there are several keys {label!r} in the token {token!r}", hint="rename the others")
    return found[0]


def _public_of(key: Any) -> ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey:
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    if key.key_type is KeyType.EC_EDWARDS:
        point = key[Attribute.EC_POINT]
        return ed25519.Ed25519PublicKey.from_public_bytes(point[-32:])  # some wrap it in an OCTET STRING
    encoded = encode_rsa_public_key(key) if key.key_type is KeyType.RSA else encode_ec_public_key(key)
    public = load_der_public_key(encoded)
    assert isinstance(public, ec.EllipticCurvePublicKey | rsa.RSAPublicKey)
    return public


class _InitializeArguments(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("create", "destroy", "lock", "unlock")),
        ("flags", ctypes.c_ulong),
        ("reserved", ctypes.c_void_p),
    )


def _library(module: str) -> Any:
    """The HSM's library, initialised once for the process, so that threads may use it at the same time.

    python-pkcs11 initialises without locking (PKCS #11 §5.4): it is done over, with the system's.
    """
    with _loading:
        if module not in _libraries:
            try:
                library = pkcs11.lib(module)
                raw = ctypes.CDLL(module)
            except (OSError, RuntimeError) as error:
                raise Unavailable(
                    f"the HSM's library {module} cannot be loaded", hint="check JINSHI_PKCS11_MODULE"
                ) from error
            arguments = _InitializeArguments(flags=_OS_LOCKING)
            if raw.C_Finalize(None) or raw.C_Initialize(ctypes.byref(arguments)):
                raise Unavailable(f"the HSM's library {module} cannot be initialised", hint="check its configuration")
            _libraries[module] = library
        return _libraries[module]
