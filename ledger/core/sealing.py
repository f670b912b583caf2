"""Sealed data (DESIGN 3.2, docs/formats.md section 8): what is encrypted, what it is bound to, and pseudonyms. Pure.

Keys and nonces are handed in; where data keys live is the keyring's business.
"""

from __future__ import annotations

import base64
import hmac
import threading
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from zstandard import ZstdCompressor

from ledger.core.canonical import JsonValue, canonical_of_parsed
from ledger.core.event import Event
from ledger.core.frames import FrameError, unpack
from ledger.errors import EntryTooLarge, Tampered

SUITE_AES_GCM_SIV: Final = 1
"""AES-256-GCM-SIV (RFC 8452) over zstd (RFC 8878)."""
KEY_SIZE: Final = 32
NONCE_SIZE: Final = 12
PAYLOAD_SIZE_MAX: Final = 2**20
"""What may come out of one sealed blob: one that unpacks to more was not made here."""

PSEUDONYM: Final = "p-"
"""What every pseudonym begins with; 32 characters of base32 follow."""

_BOUND: Final = ("id", "source", "type", "subject", "time", "datacontenttype", "keyid")
_TAG_SIZE = 16
_TEXT_SIZE_MAX = 65_535
_PSEUDONYM_SIZE = 20
_HAS_DATA = 1
_DATA_ONLY = b"\1\0\0\0\0"
"""How most payloads begin: with data, without an id or a subject."""
_own = threading.local()


@dataclass(frozen=True, slots=True)
class Payload:
    """What is sealed: the data, and the id and subject where pseudonyms are stored in their place (else None)."""

    data: bytes | None = field(repr=False)
    id: str | None = field(default=None, repr=False)
    subject: str | None = field(default=None, repr=False)


def bound_attributes(event: Event, time: str | None = None) -> bytes:
    """The AAD: the canonical bytes of id, source, type, subject, time, datacontenttype, keyid as stored.

    Exactly these, those that are absent left out, so that a ciphertext means nothing in any other entry. `time` stands
    in place of the event's own. The event is one that `check_event` accepts.
    """
    told = (
        event.id,
        event.source,
        event.type,
        event.subject,
        event.time if time is None else time,
        event.datacontenttype,
        event.keyid,
    )
    bound: dict[str, JsonValue] = {name: text for name, text in zip(_BOUND, told, strict=True) if text is not None}
    return canonical_of_parsed(bound)  # texts, which were checked with the event


def seal(key: bytes, nonce: bytes, payload: Payload, bound: bytes) -> bytes:
    """Suite byte, nonce, ciphertext.

    Raises:
        EntryTooLarge: the payload has more than `PAYLOAD_SIZE_MAX` bytes.
    """
    assert len(key) == KEY_SIZE
    assert len(nonce) == NONCE_SIZE
    packed = _pack(_encode(payload))
    return bytes([SUITE_AES_GCM_SIV]) + nonce + AESGCMSIV(key).encrypt(nonce, packed, bound)


def cipher_of(key: bytes) -> AESGCMSIV:
    """What opens everything that was sealed with a key: making it takes half as long as opening an entry."""
    return AESGCMSIV(key)


def unseal(key: bytes | AESGCMSIV, sealed: bytes, bound: bytes) -> Payload:
    """The inverse of `seal`, with a key or, for many, the `cipher_of` it.

    Raises:
        Tampered: the bytes, the key or what they are bound to are not those that were sealed, or the suite is unknown.
    """
    if not sealed or sealed[0] != SUITE_AES_GCM_SIV:
        raise Tampered("the sealed data has a suite this jinshi does not know", hint="use a newer jinshi")
    cipher = cipher_of(key) if isinstance(key, bytes) else key
    nonce, ciphertext = sealed[1 : 1 + NONCE_SIZE], sealed[1 + NONCE_SIZE :]
    if len(ciphertext) < _TAG_SIZE:
        raise Tampered("the sealed data is cut short", hint="use another copy")
    try:
        packed = cipher.decrypt(nonce, ciphertext, bound)
    except InvalidTag as error:
        raise Tampered(
            "the sealed data does not open: it, or an attribute it is bound to, was changed or moved here",
            hint="use another copy",
        ) from error
    return _decode(_unpack(packed))


def unsealed(event: Event, payload: Payload) -> Event:
    """The event as its producer sent it, from the stored one and what was sealed in it."""
    if payload.id is None and payload.subject is None:
        return event.stored(event.time, payload.data, None)
    return Event(
        event.id if payload.id is None else payload.id,
        event.source,
        event.type,
        event.subject if payload.subject is None else payload.subject,
        event.time,
        event.datacontenttype,
        payload.data,
        event.dataref,
        None,
        event.extensions,
    )


def pseudonym_key(asset_key: bytes) -> bytes:
    """The key of a source's pseudonyms, derived from the source's own data key (HKDF, RFC 5869)."""
    return HKDF(algorithm=SHA256(), length=KEY_SIZE, salt=None, info=b"jinshi pseudonym v1").derive(asset_key)


def pseudonym(key: bytes, kind: str, value: str) -> str:
    """What stands for a value of a kind (`id`, `subject`) under a source's `pseudonym_key`: HMAC-SHA256, 160 bits."""
    digest = hmac.digest(key, kind.encode() + b"\0" + value.encode(), "sha256")
    return PSEUDONYM + base64.b32encode(digest[:_PSEUDONYM_SIZE]).decode("ascii").lower()


def _encode(payload: Payload) -> bytes:
    parts = [bytes([0 if payload.data is None else _HAS_DATA])]
    for text in (payload.id, payload.subject):
        encoded = (text or "").encode()
        if len(encoded) > _TEXT_SIZE_MAX:
            raise EntryTooLarge(f"an id or subject of {len(encoded)} bytes; the most is {_TEXT_SIZE_MAX}")
        parts += [len(encoded).to_bytes(2, "big"), encoded]
    parts.append(payload.data or b"")
    whole = b"".join(parts)
    if len(whole) > PAYLOAD_SIZE_MAX:
        raise EntryTooLarge(
            f"data of {len(payload.data or b'')} bytes cannot be sealed in one entry; the most is {PAYLOAD_SIZE_MAX}",
            hint="send less, or keep the data elsewhere and send a dataref",
        )
    return whole


def _pack(whole: bytes) -> bytes:
    """Each thread has a compressor that it uses again: making one takes three times as long as packing an entry."""
    found: ZstdCompressor | None = getattr(_own, "compressor", None)
    if found is None:
        found = _own.compressor = ZstdCompressor()
    return found.compress(whole)


def _unpack(packed: bytes) -> bytes:
    try:
        return unpack(packed, PAYLOAD_SIZE_MAX)
    except FrameError as error:
        raise Tampered(f"the sealed data does not unpack ({error})", hint="it was not sealed by jinshi") from error


def _decode(whole: bytes) -> Payload:
    if whole.startswith(_DATA_ONLY):
        return Payload(whole[len(_DATA_ONLY) :])
    try:
        flags, position = whole[0], 1
        texts: list[str | None] = []
        for _ in range(2):
            size = int.from_bytes(whole[position : position + 2], "big")
            part = whole[position + 2 : position + 2 + size]
            if len(part) != size or position + 2 > len(whole):
                raise ValueError("it is cut short")
            texts.append(part.decode("utf-8") or None)
            position += 2 + size
        data = whole[position:] if flags == _HAS_DATA else None
        if flags not in (0, _HAS_DATA) or (data is None and position != len(whole)):
            raise ValueError("its flags are unknown")
    except (ValueError, IndexError) as error:  # UnicodeDecodeError is a ValueError
        raise Tampered(f"the sealed data cannot be read ({error})", hint="it was not sealed by jinshi") from error
    return Payload(data, texts[0], texts[1])
