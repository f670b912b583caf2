"""Chunks of content (docs/formats.md section 11): their ids and keys, and how one is sealed into a blob. Pure.

Nonces are handed in; where chunks are put is `ledger/content`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from zstandard import ZstdCompressor

from ledger.core.frames import FrameError, unpack
from ledger.errors import Tampered

Buffer = bytes | bytearray | memoryview

CHUNK_SIZE_MAX: Final = 2**24
"""The longest chunk a reader takes."""
ID_SIZE: Final = 32
KEY_SIZE: Final = 32
NONCE_SIZE: Final = 12
SECRET_SIZE: Final = 32

_TAG_SIZE = 16
_LEVEL = 3


class ChunkRef(NamedTuple):
    """A chunk as a manifest names it; `length` counts the bytes of its plaintext, at least 1."""

    id: bytes
    key: bytes
    length: int

    def __repr__(self) -> str:
        """Without the key."""
        return f"ChunkRef({self.id.hex()}, {self.length})"


@dataclass(frozen=True, slots=True)
class ContentKeys:
    """What is derived from a ledger's content secret (HKDF-SHA256, RFC 5869)."""

    chunks: bytes = field(repr=False)
    tables: bytes = field(repr=False)
    boundaries: int = field(repr=False)
    """Moves the boundaries between chunks, so that their lengths tell less of what they are; 63 bits."""

    @classmethod
    def derive(cls, secret: bytes) -> ContentKeys:
        """From the ledger's secret of 32 bytes."""
        assert len(secret) == SECRET_SIZE
        return cls(
            _derive(secret, b"jinshi content chunks v1", KEY_SIZE),
            _derive(secret, b"jinshi content tables v1", KEY_SIZE),
            int.from_bytes(_derive(secret, b"jinshi content boundaries v1", 8), "big") >> 1,
        )

    def identify(self, plaintext: Buffer) -> ChunkRef:
        """The id and the key of a chunk: 64 bytes of keyed BLAKE3 of its plaintext, the first and the second half.

        The second half does not follow from the first, even for who holds the secret: only the plaintext, or a
        manifest, leads to a chunk's key.
        """
        digest = blake3(plaintext, key=self.chunks).digest(length=ID_SIZE + KEY_SIZE)
        return ChunkRef(digest[:ID_SIZE], digest[ID_SIZE:], len(plaintext))


def _derive(secret: bytes, info: bytes, size: int) -> bytes:
    return HKDF(algorithm=SHA256(), length=size, salt=None, info=info).derive(secret)


Packer = ZstdCompressor
"""Used again from chunk to chunk; one for each thread."""


def packer() -> Packer:
    """A compressor for `seal_chunk`."""
    return Packer(level=_LEVEL)


def seal_chunk(ref: ChunkRef, nonce: bytes, plaintext: Buffer, compressor: Packer) -> bytes:
    """The blob of a chunk: nonce, then AES-256-GCM (NIST SP 800-38D) of its zstd frame, bound to its id.

    The nonce has to be random: the same plaintext has the same key, and may pack to other bytes elsewhere.
    """
    assert len(nonce) == NONCE_SIZE
    return nonce + AESGCM(ref.key).encrypt(nonce, compressor.compress(plaintext), ref.id)


def open_chunk(keys: ContentKeys, ref: ChunkRef, blob: Buffer) -> bytes:
    """The plaintext of a chunk, proven to be the one that `ref` names.

    Raises:
        Tampered: it is not.
    """
    nonce, ciphertext = bytes(blob[:NONCE_SIZE]), blob[NONCE_SIZE:]
    if len(ciphertext) < _TAG_SIZE or not 0 < ref.length <= CHUNK_SIZE_MAX:
        raise _damaged(ref, "it is cut short, or longer than a chunk may be")
    try:
        packed = AESGCM(ref.key).decrypt(nonce, ciphertext, ref.id)
    except InvalidTag as error:
        raise _damaged(ref, "it does not open with its key") from error
    try:
        plaintext = unpack(packed, ref.length)
    except FrameError as error:
        raise _damaged(ref, f"it does not unpack ({error})") from error
    # An id that comes out again proves the length and the key, too: what made them is the same plaintext.
    if keys.identify(plaintext) != ref:
        raise _damaged(ref, "it holds something else")
    return plaintext


def _damaged(ref: ChunkRef, why: str) -> Tampered:
    return Tampered(f"chunk {ref.id.hex()} is not what was stored: {why}", hint="use another copy")
