"""A key-encryption key in a passphrase-protected file: the embedded default. OpenBao's is in openbao.py."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV

from ledger.errors import InvalidRequest, Tampered
from pki.keystore.file import WORK_FACTOR, read_key_file, write_key_file

KIND: Final = "key encryption"
FORMAT: Final = 1
_KEY_SIZE = 32
_NONCE_SIZE = 12


def new_kek_name() -> str:
    """A name for a key-encryption key in a file."""
    return f"file-{secrets.token_hex(8)}"


def create_kek(path: Path, name: str, passphrase: str, *, work_factor: int = WORK_FACTOR) -> None:
    """A new key-encryption key in a file.

    Raises:
        InvalidRequest: `path` is there already.
        DiskFull, StoreUnavailable: it cannot be written.
    """
    write_key_file(path, KIND, name, secrets.token_bytes(_KEY_SIZE), passphrase, work_factor)


@dataclass(slots=True)
class FileKek:
    """`ledger.protocols.KeyEncryptionKey` in a file, opened when it is first needed (half a second by design).

    Wraps are a format byte (1), nonce and AES-256-GCM-SIV (RFC 8452) of the key, the context being the AAD.
    `passphrase` is asked for once.
    """

    path: Path
    name: str
    passphrase: Callable[[], str] = field(repr=False)
    _cipher: AESGCMSIV | None = field(default=None, repr=False)
    _opening: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)

    async def wrap_many(self, keys: Sequence[tuple[bytes, bytes]]) -> list[bytes]:
        cipher = await self._opened()
        wrapped: list[bytes] = []
        for key, context in keys:
            nonce = secrets.token_bytes(_NONCE_SIZE)
            wrapped.append(bytes([FORMAT]) + nonce + cipher.encrypt(nonce, key, context))
        return wrapped

    async def unwrap_many(self, wrapped: Sequence[tuple[bytes, bytes]]) -> list[bytes]:
        cipher = await self._opened()
        return [self._unwrap(cipher, data, context) for data, context in wrapped]

    def _unwrap(self, cipher: AESGCMSIV, data: bytes, context: bytes) -> bytes:
        if data[:1] != bytes([FORMAT]):
            raise Tampered(f"a key wrapped under {self.name} has a format unknown here", hint="use a newer jinshi")
        nonce, ciphertext = data[1 : 1 + _NONCE_SIZE], data[1 + _NONCE_SIZE :]
        try:
            return cipher.decrypt(nonce, ciphertext, context)
        except (InvalidTag, ValueError) as error:
            raise Tampered(
                f"a key wrapped under {self.name} does not open: it was changed, or is another key's",
                hint="open the keys with: jinshi keys recover --recovery-key FILE",
            ) from error

    async def _opened(self) -> AESGCMSIV:
        async with self._opening:
            if self._cipher is None:
                passphrase = self.passphrase()  # asked for here, on the loop: a prompt belongs to the terminal's owner
                self._cipher = await asyncio.to_thread(self._open, passphrase)
            return self._cipher

    def _open(self, passphrase: str) -> AESGCMSIV:
        kind, name, private = read_key_file(self.path, passphrase)
        if kind != KIND:
            raise InvalidRequest(f"{self.path} holds no key-encryption key", hint="put the ledger's own file back")
        if name != self.name:
            raise Tampered(f"{self.path} holds the key {name}, not {self.name}", hint="put the ledger's own file back")
        return AESGCMSIV(private)
