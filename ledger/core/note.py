"""C2SP signed notes, verifier keys, and the two signatures over a note's text alone: the log's and `site.json`'s.

Cosignatures, which are over a checkpoint, are in cosignature.py.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PublicKey

from ledger.core.encoding import decode_base64, encode_base64
from ledger.errors import MalformedNote, Untrusted

NOTE_SIZE_MAX = 1_000_000
SIGNATURES_MAX = 100
"""C2SP signed-note: a verifier must accept at least 16."""

NAME_BYTES_MAX = 255
"""An ML-DSA-44 cosignature counts the bytes of a cosigner's name, and of an origin, in one byte."""

SITE_CONTEXT: Final = b"jinshi site.json v1"
"""FIPS 204 context of the signature on `site.json`; a cosignature's is empty."""

_SITE_TYPE: Final = b"\xffjinshi-site/v1"
_MARK = "\N{EM DASH} "


class SignatureType(IntEnum):
    """C2SP signed-note, "Signature types": those that are used here."""

    ED25519 = 0x01
    COSIGNATURE_ED25519 = 0x04
    COSIGNATURE_ML_DSA_44 = 0x06
    EXTENDED = 0xFF


_KEY_SIZES = {
    SignatureType.ED25519: 32,
    SignatureType.COSIGNATURE_ED25519: 32,
    SignatureType.COSIGNATURE_ML_DSA_44: 1312,
}


def check_name(name: str) -> str:
    """The name of a key that is used here. Raises MalformedNote: it is empty, too long, or holds a space or a plus."""
    if len(_signed_name(name).encode("utf-8")) > NAME_BYTES_MAX:
        raise MalformedNote(f"the key name {name[:64]!r}... is longer than {NAME_BYTES_MAX} bytes")
    return name


def _signed_name(name: str) -> str:
    """A name on a signature line: somebody else's may be longer than those used here (C2SP signed-note, "Format")."""
    if not name or "+" in name or any(char.isspace() or char < " " or "\ud800" <= char <= "\udfff" for char in name):
        raise MalformedNote(f"{name[:64]!r} is no key name", hint="use no white space and no plus")
    return name


_CONTROL = re.compile(rb"[\x00-\x09\x0b-\x1f]")


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """What verifies signatures of one type made under one name. `str` gives the vkey text."""

    name: str
    type: SignatureType
    public_key: bytes

    @property
    def key_id(self) -> bytes:
        """Four bytes, SHA-256(name || LF || type || public key)[:4]."""
        return self._id(bytes([self.type]))

    @property
    def site_key_id(self) -> bytes:
        """The key id of this key's signature on `site.json` (docs/formats.md, section 3)."""
        return self._id(_SITE_TYPE)

    def _id(self, type_: bytes) -> bytes:
        return hashlib.sha256(self.name.encode() + b"\n" + type_ + self.public_key).digest()[:4]

    def __str__(self) -> str:
        return f"{self.name}+{self.key_id.hex()}+{encode_base64(bytes([self.type]) + self.public_key)}"


def parse_vkey(text: str) -> VerifierKey:
    """A verifier key from its text form (C2SP signed-note, "Verifier keys").

    Raises:
        MalformedNote: it is none, its key id does not match, or its signature type is not one used here.
    """
    parts = text.split("+", 2)
    if len(parts) != 3:
        raise MalformedNote(f"{text[:64]!r} is no verifier key", hint="one looks like name+1a2b3c4d+base64")
    name, key_id, material = parts
    try:
        data = decode_base64(material)
        type_ = SignatureType(data[0]) if data else None
    except ValueError as error:
        raise MalformedNote(f"the verifier key of {name[:64]!r} cannot be read ({error})") from error
    if type_ is None or len(data) - 1 != _KEY_SIZES.get(type_):
        raise MalformedNote(f"the verifier key of {name[:64]!r} has a type or a length that is not used here")
    key = VerifierKey(check_name(name), type_, data[1:])
    if key.key_id.hex() != key_id:
        raise MalformedNote(f"the verifier key of {name[:64]!r} does not have the key id {key_id[:16]!r}")
    return key


@dataclass(frozen=True, slots=True)
class NoteSignature:
    """One signature line: who says to have signed (unverified), and the raw signature without the key id."""

    name: str
    key_id: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Note:
    """A text that ends in a newline, and signatures nobody has verified yet."""

    text: bytes
    signatures: tuple[NoteSignature, ...]

    def signed_by(self, name: str, key_id: bytes) -> tuple[NoteSignature, ...]:
        """Every signature that claims to be by that key."""
        return tuple(one for one in self.signatures if one.name == name and one.key_id == key_id)

    def with_signature(self, signature: NoteSignature) -> Note:
        """This note, with one more signature at the end."""
        return Note(self.text, (*self.signatures, signature))


def parse_note(data: bytes) -> Note:
    """The parts of a signed note; nothing is verified. Raises MalformedNote."""
    if len(data) > NOTE_SIZE_MAX:
        raise MalformedNote(f"a note of {len(data)} bytes; the most is {NOTE_SIZE_MAX}")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedNote(f"the note is not UTF-8 at byte {error.start}") from error
    if _CONTROL.search(data):
        raise MalformedNote("the note holds a control character")
    # The text may hold empty lines itself: the last one is what separates (C2SP signed-note, "Format").
    body, separator, lines = text.rpartition("\n\n")
    if not separator or not lines.endswith("\n"):
        raise MalformedNote("the note has no signature lines")
    signatures = tuple(_signature(line) for line in lines[:-1].split("\n"))
    if len(signatures) > SIGNATURES_MAX:
        raise MalformedNote(f"the note has {len(signatures)} signatures; the most is {SIGNATURES_MAX}")
    return Note((body + "\n").encode("utf-8"), signatures)


def _signature(line: str) -> NoteSignature:
    parts = line.removeprefix(_MARK).split(" ")
    if not line.startswith(_MARK) or len(parts) != 2:
        raise MalformedNote(f"{line[:64]!r} is no signature line")
    try:
        data = decode_base64(parts[1])
    except ValueError as error:
        raise MalformedNote(f"the signature of {parts[0][:64]!r} cannot be read ({error})") from error
    if len(data) < 5:
        raise MalformedNote(f"the signature of {parts[0][:64]!r} is too short")
    return NoteSignature(_signed_name(parts[0]), data[:4], data[4:])


def format_note(note: Note) -> bytes:
    """The bytes of a signed note."""
    assert note.text.endswith(b"\n")
    assert note.signatures
    lines = (f"{_MARK}{one.name} {encode_base64(one.key_id + one.signature)}\n" for one in note.signatures)
    return note.text + b"\n" + "".join(lines).encode("utf-8")


# -- verification -----------------------------------------------------------------------------------------------------


def check_ed25519(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """Whether it is an Ed25519 signature (RFC 8032) of `message`."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def check_ml_dsa_44(public_key: bytes, signature: bytes, message: bytes, *, context: bytes = b"") -> bool:
    """Whether it is an ML-DSA-44 signature (FIPS 204) of `message` under `context`."""
    try:
        MLDSA44PublicKey.from_public_bytes(public_key).verify(signature, message, context or None)
    except (InvalidSignature, ValueError):
        return False
    return True


def verify_signature(note: Note, key: VerifierKey) -> bool:
    """Whether the note is signed by an Ed25519 key; False when it holds no signature by that key.

    Raises:
        Untrusted: a signature that claims to be by that key is wrong (C2SP: reject the whole note).
    """
    assert key.type is SignatureType.ED25519
    found = note.signed_by(key.name, key.key_id)
    for one in found:
        if not check_ed25519(key.public_key, one.signature, note.text):
            raise Untrusted(f"the signature of {key.name} does not verify", hint="somebody else signed or edited this")
    return bool(found)


def verify_site_note(note: Note, mirror: VerifierKey) -> None:
    """Check that a `site.json` note is signed by the site's mirror key. Raises Untrusted."""
    found = note.signed_by(mirror.name, mirror.site_key_id)
    if mirror.type is not SignatureType.COSIGNATURE_ML_DSA_44 or not found:
        raise Untrusted(f"site.json is not signed by {mirror.name}", hint="it describes another site, or was replaced")
    for one in found:
        if not check_ml_dsa_44(mirror.public_key, one.signature, note.text, context=SITE_CONTEXT):
            raise Untrusted(f"the signature of {mirror.name} on site.json does not verify", hint="it was edited")
