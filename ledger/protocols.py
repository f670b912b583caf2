"""What the ledger asks of the rooms above it, as protocols. No implementation lives here."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol


class Clock(Protocol):
    """Tells the time. The only source of it: nothing below `cli` reads a clock of its own."""

    def now(self) -> datetime:
        """The current time, timezone-aware, in UTC."""
        ...


class Signer(Protocol):
    """Signs checkpoints with the log's key, wherever that key is kept."""

    @property
    def vkey(self) -> str:
        """The verifier key of the signatures it makes (C2SP signed-note, "Verifier keys")."""
        ...

    def sign(self, text: bytes) -> bytes:
        """The raw signature over a note's text (without the four bytes of key id).

        Raises:
            Unavailable: the keeper of the key cannot be reached or is sealed.
        """
        ...


class Cosigner(Protocol):
    """Makes timestamped cosignatures on checkpoints (C2SP tlog-cosignature) for one mirror or witness."""

    @property
    def vkey(self) -> str:
        """The verifier key, signature type 0x04 (Ed25519) or 0x06 (ML-DSA-44)."""
        ...

    def cosign(self, checkpoint_text: bytes, timestamp_s: int) -> bytes:
        """The `timestamped_signature` (without the key id) over the checkpoint's note text.

        `timestamp_s` is POSIX seconds, not zero.
        """
        ...

    def sign_site(self, text: bytes) -> bytes:
        """The raw signature over the text of a `site.json` note, domain-separated from every cosignature."""
        ...


class KeyEncryptionKey(Protocol):
    """Wraps data keys. Held by a passphrase-protected file, OpenBao or an HSM."""

    @property
    def name(self) -> str:
        """Which key this is, as recorded in the names of what it wrapped: lower case letters, digits and dashes."""
        ...

    async def wrap_many(self, keys: Sequence[tuple[bytes, bytes]]) -> list[bytes]:
        """Encrypt each (key, context), bound to its context. Raises Unavailable."""
        ...

    async def unwrap_many(self, wrapped: Sequence[tuple[bytes, bytes]]) -> list[bytes]:
        """The inverse of `wrap_many`, from each (wrapped, context).

        Raises:
            Unavailable: the keeper of the key cannot be reached, is sealed, or refuses.
            Tampered: a context or the bytes are not those wrapped.
            InvalidRequest: the passphrase is wrong, or none is given.
        """
        ...
