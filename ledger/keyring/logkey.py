"""The log's own signing key in the keyring, and what the log announces of the keyring.

The log announces the digest of every such object, so that a copy of the keyring is checked as the entries are.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Final

from ledger.core.acts import CONTENT_KEYED, CREATED, SUCCEEDED, acts_source
from ledger.core.canonical import JsonValue, canonicalize, parse_json
from ledger.core.encoding import decode_base64, encode_base64
from ledger.core.event import Event
from ledger.errors import Malformed, MalformedEvent, Tampered
from ledger.keyring.recovery import FORMAT, open_from_recovery, seal_to_recovery

ANNOUNCING: Final = (CREATED, SUCCEEDED, CONTENT_KEYED)
_LOG_SIGNING: Final = "log signing"
_KEYID = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


def log_keyid(vkey: str) -> str:
    """Under which name the log key with this verifier key is kept."""
    return f"log-{hashlib.sha256(vkey.encode()).hexdigest()[:16]}"


def _clear(vkey: str, origin: str) -> dict[str, JsonValue]:
    return {"format": FORMAT, "keyid": log_keyid(vkey), "origin": origin, "purpose": _LOG_SIGNING, "vkey": vkey}


def keyring_object(private: bytes, vkey: str, origin: str, recovery_public: bytes) -> tuple[str, bytes]:
    """(keyid, bytes) of the keyring object that keeps a log's signing key (docs/formats.md, section 5)."""
    clear = _clear(vkey, origin)
    wrapped = seal_to_recovery(recovery_public, private, context=canonicalize(clear))
    return log_keyid(vkey), canonicalize({**clear, "recovery": encode_base64(wrapped)})


def recover_log_key(data: bytes, vkey: str, origin: str, recovery_private: bytes) -> bytes:
    """The log's private key out of its keyring object, with the custodians' recovery key.

    Raises:
        Tampered: it is not the keyring object of that log key, was edited, or was wrapped to another recovery key.
    """
    try:
        value = parse_json(data)
        if not isinstance(value, dict) or not isinstance(wrapped := value.pop("recovery", None), str):
            raise Malformed("it is no keyring object")
        sealed = decode_base64(wrapped)
    except (Malformed, ValueError) as error:
        raise Tampered(f"the keyring object of {origin} cannot be read ({error})") from error
    clear = _clear(vkey, origin)
    if value != clear:
        raise Tampered(f"the keyring object {log_keyid(vkey)} is not that of {origin}")
    return open_from_recovery(recovery_private, sealed, context=canonicalize(clear))


# -- what the log says of its keyring -------------------------------------------------------------------------------


def announcement(objects: Mapping[str, bytes]) -> dict[str, JsonValue]:
    """The member `keyring` of `ledger.created.v1` and `ledger.succeeded.v1`, from keyring objects by keyid."""
    return {keyid: hashlib.sha256(data).hexdigest() for keyid, data in objects.items()}


def announced_keys(event: Event, origin: str) -> dict[str, str]:
    """What an event announces for the keyring of `origin`: keyid to hex SHA-256 of the object; mostly nothing.

    A successor holds its predecessor's acts too; those are about the predecessor's keyring, which stays behind.

    Raises:
        MalformedEvent: it is an announcement that cannot be read.
    """
    if event.type not in ANNOUNCING or event.source != acts_source(origin):
        return {}
    try:
        data = event.json_data
    except Malformed as error:
        raise MalformedEvent(f"its data cannot be read ({error.what})") from error
    keyring = data.get("keyring", {}) if isinstance(data, dict) else {}
    if not isinstance(keyring, dict):
        raise MalformedEvent("its keyring is not keyids with their digests")
    found: dict[str, str] = {}
    for keyid, digest in keyring.items():
        if not _KEYID.fullmatch(keyid) or not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
            raise MalformedEvent(f"what it says of the key {keyid[:64]!r} is no keyid with a hex SHA-256")
        found[keyid] = digest
    return found
