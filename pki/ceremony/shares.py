"""A private key under a secret that custodians share (SLIP-39): so many of them open it, and fewer learn nothing.

How many are needed stands in each share, in what is authenticated beside the encrypted key, and in it: nobody lowers it
afterwards. What is recorded opens nothing without the shares; the shares are recorded nowhere.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from shamir_mnemonic import (  # type: ignore[import-untyped]
    MnemonicError,
    combine_mnemonics,
    generate_mnemonics,
)
from shamir_mnemonic.share import Share  # type: ignore[import-untyped]

from ledger.core.canonical import JsonValue, canonicalize, parse_json
from ledger.core.encoding import decode_base64, encode_base64
from ledger.errors import InvalidRequest, Malformed, Tampered
from pki.keystore.signing_files import HeldKey, dump_private, held_key, load_private

FORMAT: Final = 1
CUSTODIANS_MAX: Final = 16
"""SLIP-39 counts to 16."""
SHARE_SIZE_MAX: Final = 4_096
_HEADING: Final = "jinshi key share 1"
_INFO: Final = b"jinshi shared key 1"
_SECRET_SIZE: Final = 32
_NONCE_SIZE: Final = 12
_CLEAR: Final = ("format", "label", "algorithm", "public", "needed", "custodians", "shares", "salt", "nonce")


@dataclass(frozen=True, slots=True)
class Sharing:
    """Who gets a share, and how many of them open the key."""

    needed: int
    custodians: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(set(self.custodians)) != len(self.custodians) or not all(self.custodians):
            raise InvalidRequest("two custodians have the same name, or one has none")
        if not 2 <= self.needed <= len(self.custodians) <= CUSTODIANS_MAX:
            raise InvalidRequest(
                f"{self.needed} of {len(self.custodians)} custodians",
                hint=f"at least 2 are needed, of {CUSTODIANS_MAX} at most",
            )


@dataclass(frozen=True, slots=True)
class KeyShare:
    """What one custodian keeps."""

    label: str
    custodian: str
    words: str = field(repr=False)

    @property
    def digest(self) -> str:
        """What the share is known by; 256 bits of secret are behind it."""
        return hashlib.sha256(self.words.encode()).hexdigest()

    def text(self, sharing: Sharing) -> bytes:
        """As it is written down."""
        quorum = f"{sharing.needed} of {len(sharing.custodians)}"
        lines = (_HEADING, f"key {self.label}", f"custodian {self.custodian}", f"opens with {quorum}", "", self.words)
        return ("\n".join(lines) + "\n").encode()


def parse_share(data: bytes) -> KeyShare:
    """A share as it was written down. Raises InvalidRequest: it is none, or a word of it was changed."""
    try:
        lines = data[:SHARE_SIZE_MAX].decode("utf-8").split("\n")
    except UnicodeDecodeError:
        lines = []
    said = dict(line.split(" ", 1) for line in lines[1:4] if " " in line)
    words = " ".join(" ".join(lines[4:]).split())
    if not lines or lines[0].strip() != _HEADING or not {"key", "custodian"} <= said.keys():
        raise InvalidRequest("that is no share of a key", hint="give the file as the ceremony wrote it")
    try:
        Share.from_mnemonic(words)
    except (MnemonicError, ValueError) as error:
        raise InvalidRequest(
            f"a word of {said['custodian'][:80]}'s share is wrong, or one is missing", hint="read it once more"
        ) from error
    return KeyShare(said["key"].strip(), said["custodian"].strip(), words)


def split(held: HeldKey, label: str, sharing: Sharing) -> tuple[dict[str, Any], list[KeyShare]]:
    """What is recorded of the key, and its shares in the order of the custodians. That they open it has been tried."""
    secret, salt, nonce = (secrets.token_bytes(size) for size in (_SECRET_SIZE, 16, _NONCE_SIZE))
    groups = [(sharing.needed, len(sharing.custodians))]
    (words,) = generate_mnemonics(1, groups, secret, iteration_exponent=0)  # there is no passphrase to stretch
    shares = [KeyShare(label, name, one) for name, one in zip(sharing.custodians, words, strict=True)]
    clear: dict[str, JsonValue] = {
        "format": FORMAT,
        "label": label,
        "algorithm": held.algorithm.name,
        "public": encode_base64(held.public),
        "needed": sharing.needed,
        "custodians": list(sharing.custodians),
        "shares": [one.digest for one in shares],
        "salt": encode_base64(salt),
        "nonce": encode_base64(nonce),
    }
    inside = canonicalize({"needed": sharing.needed, "private": encode_base64(dump_private(held.private))})
    sealed = _cipher(secret, salt).encrypt(nonce, inside, canonicalize(clear))
    record = {**clear, "sealed": encode_base64(sealed)}
    if open_shared(record, shares[-sharing.needed :]).public != held.public:
        raise Tampered("the shares do not open the key that was split", hint="nothing was recorded; report this")
    return record, shares


def present(record: dict[str, Any], shares: Sequence[KeyShare]) -> list[str]:
    """Which custodians these shares are of. Raises InvalidRequest: one is of no custodian of this key."""
    named = dict(zip(record["shares"], record["custodians"], strict=True))
    for one in shares:
        if one.digest not in named:
            raise InvalidRequest(
                f"the share that {one.custodian[:80]} brought is none of the key {record['label']}",
                hint="bring the share of that key",
            )
    return [name for digest, name in named.items() if digest in {one.digest for one in shares}]


def open_shared(record: dict[str, Any], shares: Sequence[KeyShare]) -> HeldKey:
    """The key, opened by enough of its custodians.

    Raises:
        InvalidRequest: there are too few shares, or one is of another key.
        Tampered: what is recorded was changed.
    """
    names = present(record, shares)
    needed = record["needed"]
    if len(names) < needed:
        raise InvalidRequest(
            f"{len(names)} of {needed} custodians are here; fewer than {needed} open nothing",
            hint=f"bring the shares of {needed} of {', '.join(record['custodians'])}",
        )
    words = [one.words for one in {one.digest: one for one in shares}.values()]
    clear = {name: record[name] for name in _CLEAR}
    try:
        thresholds = {Share.from_mnemonic(one).member_threshold for one in words}
        if thresholds != {needed}:
            raise Tampered(f"the key {record['label']} was split for another quorum than is recorded")
        secret = combine_mnemonics(words[:needed])
        cipher = _cipher(secret, decode_base64(clear["salt"]))
        opened = cipher.decrypt(decode_base64(clear["nonce"]), decode_base64(record["sealed"]), canonicalize(clear))
        inside = parse_json(opened)
    except MnemonicError as error:
        raise InvalidRequest(f"the shares do not fit together ({error})"[:300]) from error
    except (InvalidTag, ValueError, Malformed) as error:
        raise Tampered(
            f"what is recorded of the key {record['label']} was changed", hint="use a copy of the ledger that verifies"
        ) from error
    if not isinstance(inside, dict) or inside.get("needed") != needed:
        raise Tampered(f"the quorum of the key {record['label']} was changed")
    held = held_key(load_private(decode_base64(str(inside["private"]))))
    if encode_base64(held.public) != record["public"]:
        raise Tampered(f"what is recorded of {record['label']} holds another key than it says")
    return held


def _cipher(secret: bytes, salt: bytes) -> AESGCMSIV:
    return AESGCMSIV(HKDF(hashes.SHA256(), 32, salt, _INFO).derive(secret))
