"""Signing keys in OpenBao's transit engine: made there, used there, never out of it.

What signs needs `update` on MOUNT/sign/ca-* and `read` on MOUNT/keys/ca-* (public parts), and nothing else; what makes
keys needs `update` on MOUNT/keys/ca-*, too.
"""

from __future__ import annotations

import asyncio
import re
import threading
from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import hvac  # type: ignore[import-untyped]
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from hvac import exceptions as refusals

from ledger.errors import InvalidRequest, Unavailable
from pki.core.algorithms import ED25519, P256, P384, RSA_3072, RSA_4096, Algorithm, IssuerKey, algorithm_of
from pki.core.delegated import delegated
from pki.keystore.base import OPENBAO, KeyMissing, check_label
from pki.keystore.openbao import one_line, open_client, reachable

T = TypeVar("T")

PREFIX: Final = "ca-"
"""What labels begin with, so that one policy covers these keys and no others."""
_TYPES: Final = {
    P256: "ecdsa-p256",
    P384: "ecdsa-p384",
    RSA_3072: "rsa-3072",
    RSA_4096: "rsa-4096",
    ED25519: "ed25519",
}
_HASHES: Final = {"sha256": "sha2-256", "sha384": "sha2-384", "sha512": "sha2-512"}
_VERSION: Final = 1
"""A key is used as it was made: should somebody rotate it in OpenBao, its certificates would not fit any more."""
_REFERENCE = re.compile(r"openbao\+(https?://[^/@?#]+)/((?:[A-Za-z0-9_.-]+/)*[A-Za-z0-9_.-]+)")


@dataclass(frozen=True, slots=True)
class AppRole:
    """How a machine logs in (`auth/approle`)."""

    role_id: str
    secret_id: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class TransitKey:
    """A private key in OpenBao (`SigningKey`)."""

    private: IssuerKey = field(repr=False)
    algorithm: Algorithm
    public: bytes
    local: bool = False


class TransitKeys:
    """A `Keeper` in one transit engine: P-256, P-384, RSA and Ed25519.

    `login` gives a token, or an AppRole to get one with; it is asked once, and an AppRole's token is fetched anew when
    the server does not take it any more.
    """

    def __init__(self, address: str, mount: str, ca: str | None, login: Callable[[], str | AppRole]) -> None:
        self._address = address
        self._mount = mount
        self._ca = ca
        self._login = login
        self._credentials: str | AppRole | None = None
        self._client: hvac.Client | None = None
        self._opening = threading.Lock()

    async def generate(self, label: str, algorithm: Algorithm, keeper: str = "") -> str:
        if not check_label(label).startswith(PREFIX):
            raise InvalidRequest(f"keys in OpenBao are called {PREFIX}…, not {label}")
        if algorithm not in _TYPES:
            raise InvalidRequest(f"{algorithm.name} keys are not made in OpenBao", hint="keep it in a file, or shared")
        await asyncio.to_thread(self._generate, label, _TYPES[algorithm])
        return f"{OPENBAO}{self._address}/{self._mount}/{label}"

    async def open(self, reference: str) -> TransitKey:
        address, mount, label = parse_reference(reference)
        if (address, mount) != (self._address, self._mount):
            raise InvalidRequest(f"{reference!r} is no key of {self._mount} in OpenBao at {self._address}")
        return await asyncio.to_thread(self._open, label)

    async def export(self, reference: str) -> bytes | None:
        return None

    async def take(self, label: str, private: bytes, keeper: str = "") -> str:
        raise InvalidRequest(
            "keys are not brought into OpenBao from outside here",
            hint="import it with `bao transit import`, then name it by its reference",
        )

    async def close(self) -> None:
        self._client = None

    # -- in a thread --

    def _generate(self, label: str, kind: str) -> None:
        def make(client: hvac.Client) -> None:
            # Creating one that is there changes nothing and says nothing: it must be looked for first.
            try:
                client.secrets.transit.read_key(name=label, mount_point=self._mount)
            except refusals.InvalidPath:
                client.secrets.transit.create_key(
                    name=label, key_type=kind, exportable=False, allow_plaintext_backup=False, mount_point=self._mount
                )
            else:
                raise InvalidRequest(f"there is a key {label!r} in {self._mount} of OpenBao already")

        self._ask(label, make)

    def _open(self, label: str) -> TransitKey:
        answer = self._ask(
            label, lambda client: client.secrets.transit.read_key(name=label, mount_point=self._mount)["data"]
        )
        if answer["exportable"] or answer["allow_plaintext_backup"]:
            raise InvalidRequest(f"the key {label!r} in {self._mount} of OpenBao can be taken out of it")
        said = answer["keys"].get(str(_VERSION), {}).get("public_key")
        if not said:
            raise InvalidRequest(f"the key {label!r} in {self._mount} of OpenBao signs nothing, or was trimmed")
        if answer["type"] == _TYPES[ED25519]:
            public: Any = ed25519.Ed25519PublicKey.from_public_bytes(b64decode(said))
        else:
            public = load_pem_public_key(said.encode())
        algorithm = algorithm_of(public)

        def sign(data: bytes, hash_: hashes.HashAlgorithm | None) -> bytes:
            return self._sign(label, data, hash_)

        spki = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return TransitKey(delegated(spki, sign), algorithm, spki)

    def _sign(self, label: str, data: bytes, hash_: hashes.HashAlgorithm | None) -> bytes:
        body: dict[str, Any] = {"key_version": _VERSION}
        if hash_ is None:
            body["input"] = b64encode(data).decode()
        elif hash_.name not in _HASHES:
            raise InvalidRequest(f"a key in OpenBao does not sign with {hash_.name}", hint="use SHA-256")
        else:
            digest = hashes.Hash(hash_)
            digest.update(data)
            body |= {
                "input": b64encode(digest.finalize()).decode(),
                "prehashed": True,
                "hash_algorithm": _HASHES[hash_.name],
                "marshaling_algorithm": "asn1",
                "signature_algorithm": "pkcs1v15",
            }
        path = f"/v1/{self._mount}/sign/{label}"
        answer = self._ask(label, lambda client: client.adapter.post(url=path, json=body))
        return b64decode(answer["data"]["signature"].rpartition(":")[2])

    def _ask(self, label: str, ask: Callable[[hvac.Client], T]) -> T:
        with reachable(self._address, comfort="nothing was signed"):
            try:
                return self._asked(ask)
            except (refusals.Forbidden, refusals.Unauthorized) as error:
                raise Unavailable(
                    f"OpenBao at {self._address} refuses the key {self._mount}/{label}",
                    hint=f"check its credentials, and that its policy allows {self._mount}/sign/{PREFIX}*",
                ) from error
            except refusals.InvalidPath as error:
                raise KeyMissing(
                    f"there is no key {label!r} in {self._mount} of OpenBao at {self._address}",
                    hint="see: jinshi ca keys list",
                ) from error
            except refusals.InvalidRequest as error:
                missing = "not found" in one_line(error)
                raise (InvalidRequest if missing else Unavailable)(
                    f"OpenBao at {self._address} does not sign with {self._mount}/{label} ({one_line(error)[:200]})",
                    hint="check that the key is there",
                ) from error

    def _asked(self, ask: Callable[[hvac.Client], T]) -> T:
        try:
            return ask(self._opened())
        except (refusals.Forbidden, refusals.Unauthorized):
            if not isinstance(self._credentials, AppRole):
                raise
            self._client = None  # its token has ended, perhaps
            return ask(self._opened())

    def _opened(self) -> hvac.Client:
        with self._opening:
            if self._client is None:
                if self._credentials is None:
                    self._credentials = self._login()
                role = self._credentials
                client = open_client(self._address, role if isinstance(role, str) else "", self._ca)
                if isinstance(role, AppRole):
                    try:
                        client.auth.approle.login(role.role_id, role.secret_id)
                    except refusals.InvalidRequest as error:
                        raise InvalidRequest(
                            f"OpenBao at {self._address} does not take the AppRole's secret",
                            hint="check BAO_ROLE_ID and BAO_SECRET_ID",
                        ) from error
                self._client = client
            return self._client


def parse_reference(reference: str) -> tuple[str, str, str]:
    """(address, mount, label) of `openbao+https://HOST:PORT/MOUNT/<label>`. Raises InvalidRequest."""
    found = _REFERENCE.fullmatch(reference)
    mount, _, label = found[2].rpartition("/") if found else ("", "", "")
    if found is None or not mount:
        raise InvalidRequest(
            f"{reference[:200]!r} is no key in OpenBao", hint="write openbao+https://HOST:PORT/MOUNT/LABEL"
        )
    return found[1], mount, check_label(label)
