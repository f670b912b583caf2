"""Signing keys in passphrase-protected files: the embedded default. The files themselves are of file.py."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)

from ledger.core.encoding import encode_base64
from ledger.errors import DiskFull, InvalidRequest, StoreUnavailable, Tampered
from ledger.files import is_full
from pki.core.algorithms import Algorithm, IssuerKey, algorithm_of, generate
from pki.keystore.base import FILE, KeyMissing, check_label
from pki.keystore.file import WORK_FACTOR, read_key_file, write_key_file

KIND: Final = "signing"
HINT: Final = "see: jinshi ca keys list; after a restore: jinshi ca keys recover --recovery-key FILE"


@dataclass(frozen=True, slots=True)
class HeldKey:
    """A private key in this process (`SigningKey`)."""

    private: IssuerKey = field(repr=False)
    algorithm: Algorithm
    public: bytes
    local: bool = True


@dataclass(slots=True)
class FileKeys:
    """A `Keeper` in a directory: one file for each label, opened when it is first needed (half a second by design).

    `passphrase` is asked for once. What is open stays in memory until `close`.
    """

    folder: Path
    passphrase: Callable[[], str] = field(repr=False)
    work_factor: int = WORK_FACTOR
    _open: dict[str, HeldKey] = field(default_factory=dict, repr=False)
    _opening: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)

    async def generate(self, label: str, algorithm: Algorithm, keeper: str = "") -> str:
        private = await asyncio.to_thread(generate, algorithm)
        return await self._keep(check_label(label), private)

    async def take(self, label: str, private: bytes, keeper: str = "") -> str:
        return await self._keep(check_label(label), load_private(private))

    async def open(self, reference: str) -> HeldKey:
        label = _label_of(reference)
        async with self._opening:
            if label not in self._open:
                passphrase = self.passphrase()  # on the loop: a prompt belongs to the terminal's owner
                self._open[label] = await asyncio.to_thread(self._read, label, passphrase)
            return self._open[label]

    async def export(self, reference: str) -> bytes | None:
        return dump_private((await self.open(reference)).private)

    async def close(self) -> None:
        self._open.clear()

    async def _keep(self, label: str, private: IssuerKey) -> str:
        held = held_key(private)
        passphrase = self.passphrase()
        await asyncio.to_thread(self._write, label, held, passphrase)
        self._open[label] = held
        return f"{FILE}:{label}"

    def _write(self, label: str, held: HeldKey, passphrase: str) -> None:
        try:
            self.folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise (DiskFull if is_full(error) else StoreUnavailable)(
                f"{self.folder} cannot be made ({error.strerror})", hint="check permissions and free space"
            ) from error
        secret = dump_private(held.private)
        write_key_file(self._path(label), KIND, encode_base64(held.public), secret, passphrase, self.work_factor)

    def _read(self, label: str, passphrase: str) -> HeldKey:
        path = self._path(label)
        if not path.exists():
            raise KeyMissing(f"there is no key {FILE}:{label} ({path} is not there)", hint=HINT)
        kind, public, private = read_key_file(path, passphrase)
        if kind != KIND:
            raise InvalidRequest(f"the key file {path} holds a key of another kind ({kind[:40]})", hint=HINT)
        held = held_key(load_private(private))
        if encode_base64(held.public) != public:
            raise Tampered(f"the key file {path} holds another key than it says", hint="restore it from a copy")
        return held

    def _path(self, label: str) -> Path:
        return self.folder / f"{label}.key"


def held_key(private: IssuerKey) -> HeldKey:
    """A private key in this process. Raises InvalidRequest: an authority may have no such key."""
    public = private.public_key()
    encoded = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return HeldKey(private, algorithm_of(public), encoded)


def load_private(data: bytes) -> IssuerKey:
    """A private key (PKCS #8, DER, not encrypted). Raises InvalidRequest: it is none an authority may have."""
    try:
        private = load_der_private_key(data, None)
        algorithm_of(private.public_key())
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InvalidRequest("that is no private key (PKCS #8)", hint="check that it is the right file") from error
    return private  # type: ignore[return-value]  # algorithm_of knows only keys that sign certificates


def dump_private(private: IssuerKey) -> bytes:
    """PKCS #8, DER, not encrypted: to be encrypted at once."""
    return private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def _label_of(reference: str) -> str:
    scheme, _, label = reference.partition(":")
    if scheme != FILE:
        raise InvalidRequest(f"{reference!r} is no key in a file", hint="write file:LABEL")
    return check_label(label)
