"""What the trust service asks of whoever keeps its private keys: a file, an HSM, OpenBao."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Final, Protocol, TypeVar

from ledger.errors import InvalidRequest
from pki.core.algorithms import Algorithm, IssuerKey

T = TypeVar("T")

FILE: Final = "file"
PKCS11: Final = "pkcs11"
OPENBAO: Final = "openbao+"
SHARES: Final = "shares"
"""What references begin with."""
LABEL_SIZE_MAX: Final = 63
_LABEL = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


class KeyMissing(InvalidRequest):
    """Its keeper is there, and has no key of that reference."""


class SigningKey(Protocol):
    """A private key that can be used, wherever it is."""

    @property
    def algorithm(self) -> Algorithm: ...

    @property
    def public(self) -> bytes:
        """SubjectPublicKeyInfo, DER."""
        ...

    @property
    def local(self) -> bool:
        """Whether a signature takes no waiting: then it is made on the event loop itself."""
        ...

    @property
    def private(self) -> IssuerKey:
        """For the builders of `cryptography`. Its `sign` blocks where the key is not `local`.

        Raises (from `sign`):
            Unavailable: the keeper of the key is sealed, gone, or refuses; nothing was signed.
        """
        ...


class KeyStore(Protocol):
    """Keeps private keys under references: text that is recorded in events and says where the key is, never what it is.

    `file:<label>`, `pkcs11:token=…;object=<label>` (RFC 7512), `openbao+https://HOST:PORT/MOUNT/<label>`.
    A label is lower case letters, digits and dashes.
    """

    async def generate(self, label: str, algorithm: Algorithm) -> str:
        """Make a key; returns its reference. Durable on return.

        Raises:
            InvalidRequest: there is one of that label already, or the keeper cannot make keys of that algorithm.
            Unavailable, DiskFull: the keeper cannot be reached, is sealed, or has no room.
        """
        ...

    async def open(self, reference: str) -> SigningKey:
        """The key of a reference.

        Raises:
            KeyMissing: there is no such key.
            InvalidRequest: what would open it (a passphrase, a PIN, a token) is wrong, or it is one that could leave.
            Unavailable: the keeper cannot be reached or is sealed.
        """
        ...

    async def close(self) -> None:
        """Forget what is open."""
        ...


class Keeper(KeyStore, Protocol):
    """A `KeyStore` of one place, or of several: there `keeper` says which (a reference without its label)."""

    async def generate(self, label: str, algorithm: Algorithm, keeper: str = "") -> str: ...

    async def export(self, reference: str) -> bytes | None:
        """The private key (PKCS #8, DER), to be wrapped to the recovery key; None where keys never leave.

        Raises as `open`.
        """
        ...

    async def take(self, label: str, private: bytes, keeper: str = "") -> str:
        """Keep an existing private key (PKCS #8, DER); returns its reference. Durable on return.

        Raises:
            InvalidRequest: there is one of that label already, it is no key an authority may have, or keys are not
                brought into this place from outside.
            Unavailable, DiskFull: as `generate`.
        """
        ...


def check_label(label: str) -> str:
    """The label itself, when it is one. Raises InvalidRequest."""
    if not _LABEL.fullmatch(label):
        raise InvalidRequest(
            f"{label[:80]!r} cannot name a key", hint=f"lower case letters, digits and dashes, {LABEL_SIZE_MAX} at most"
        )
    return label


async def signed(key: SigningKey, make: Callable[[IssuerKey], T]) -> T:
    """What `make` builds with the key: on the loop where that is quick, in a thread where the key is elsewhere.

    Raises:
        Unavailable: as `SigningKey.private`.
    """
    return make(key.private) if key.local else await asyncio.to_thread(make, key.private)
