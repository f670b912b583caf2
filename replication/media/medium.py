"""What lies on an offline medium: `medium.json`, `SHA256SUMS` and the objects of an increment. Bytes in, values out.

Writing one is exporting.py's, taking one in importing.py's. docs/formats.md, section 10, has the format.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ledger.core.canonical import JsonValue, canonicalize, parse_json
from ledger.core.checkpoint import Checkpoint, OpenedCheckpoint, origin_prefix, parse_checkpoint
from ledger.core.event import event_time_us
from ledger.core.manifest import LISTS, PACKS
from ledger.core.note import Note, NoteSignature, VerifierKey, check_ed25519, format_note, parse_note, parse_vkey
from ledger.core.tiles import ENTRIES, LEVEL_MAX, TILE_WIDTH, Tile, parse_tile_path
from ledger.errors import Malformed, MalformedNote, Untrusted
from ledger.keyring import KEYRING
from ledger.protocols import Signer
from ledger.store.base import is_key
from replication.site import check_log

HEAD: Final = "medium.json"
SUMS: Final = "SHA256SUMS"
"""Named and written as sha256sum(1) reads it: `sha256sum -c SHA256SUMS` checks a medium without jinshi."""
FORMAT: Final = 1
OBJECTS_MAX: Final = 2_000_000
"""On one medium: its list is held in memory."""
_TYPE: Final = b"\xffjinshi-medium/v1"
_SUM = re.compile(r"([0-9a-f]{64})  (\S+)")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_CONTENT = re.compile(f"(?:{PACKS}|{LISTS})[0-9a-f]{{64}}")


@dataclass(frozen=True, slots=True)
class Medium:
    """What `medium.json` says: part `part` of `parts` of an increment of a log, for one site and its mirror.

    The site must have cosigned at least `base` entries; all parts together bring it to the tree of `checkpoint` (a
    note, verbatim) of `size` entries. This part holds the bundles of the entries from `start` up to `stop`, the first
    part every hash tile and key besides. `epoch`: the writer's. `digest`: SHA-256 of SHA256SUMS, hex.
    """

    origin: str
    site: str
    mirror: str
    base: int
    size: int
    part: int
    parts: int
    start: int
    stop: int
    epoch: int
    objects: int
    bytes: int
    digest: str
    created: str
    checkpoint: str

    @property
    def opened(self) -> OpenedCheckpoint:
        """The checkpoint; its signature is not verified here."""
        return parse_checkpoint(self.checkpoint.encode("utf-8"))

    @property
    def tree(self) -> Checkpoint:
        """The tree that all parts together lead to."""
        return self.opened.checkpoint

    @property
    def what(self) -> str:
        """For people: which increment, and which part of it."""
        part = f", part {self.part} of {self.parts}" if self.parts > 1 else ""
        return f"entries {self.base} to {self.size}{part}"


_TEXTS = {"origin", "site", "mirror", "digest", "created", "checkpoint"}
_NUMBERS = {"base", "size", "part", "parts", "start", "stop", "epoch", "objects", "bytes"}


def format_medium(medium: Medium) -> bytes:
    """The text of the note: one line of canonical JSON."""
    value: dict[str, JsonValue] = {"format": FORMAT}
    for name in (*_TEXTS, *_NUMBERS):
        value[name] = getattr(medium, name)
    return canonicalize(value) + b"\n"


def parse_medium(text: bytes) -> Medium:
    """The inverse of `format_medium`; nothing is verified. Raises MalformedNote."""
    try:
        value = parse_json(text)
        if not isinstance(value, dict) or value.pop("format", None) != FORMAT:
            raise Malformed("its format is unknown")
        texts = {name: one for name, one in value.items() if isinstance(one, str)}
        numbers = {name: one for name, one in value.items() if isinstance(one, int) and not isinstance(one, bool)}
        if len(texts) + len(numbers) < len(value) or set(texts) != _TEXTS or set(numbers) != _NUMBERS:
            raise Malformed("its members are not those of format 1")
        members: dict[str, Any] = {**texts, **numbers}
        medium = Medium(**members)
        _check(medium)
    except Malformed as error:
        raise MalformedNote(f"it is no medium.json ({error.what})") from error
    if format_medium(medium) != text:
        raise MalformedNote("it is no medium.json (its text is not canonical)")
    return medium


def _check(medium: Medium) -> None:
    """Whether the members fit each other. Raises Malformed."""
    ordered = 0 <= medium.base <= medium.start <= medium.stop <= medium.size and medium.base < medium.size
    if not ordered or not 1 <= medium.part <= medium.parts or min(medium.epoch, medium.objects, medium.bytes) < 0:
        raise Malformed("its numbers do not fit each other")
    if (medium.part == 1 and medium.start != medium.base) or (
        medium.part == medium.parts and medium.stop != medium.size
    ):
        raise Malformed("its numbers do not fit each other")
    if not _DIGEST.fullmatch(medium.digest):
        raise Malformed("the digest of its list is none")
    parse_vkey(medium.mirror)
    event_time_us(medium.created)
    tree = medium.tree
    if tree.origin != medium.origin or tree.size != medium.size:
        raise Malformed("its checkpoint is of another tree")


# -- who vouches for it -----------------------------------------------------------------------------------------------


def medium_key_id(log: VerifierKey) -> bytes:
    """The key id of a log's signature on `medium.json`: another than on its checkpoints (docs/formats.md)."""
    return hashlib.sha256(log.name.encode() + b"\n" + _TYPE + log.public_key).digest()[:4]


def sign_medium(medium: Medium, signer: Signer) -> bytes:
    """`medium.json`, signed by the log. Raises Unavailable: the keeper of the key cannot be reached."""
    # One line of JSON: no checkpoint, whose text has three, can ever be the same bytes.
    text, log = format_medium(medium), parse_vkey(signer.vkey)
    return format_note(Note(text, (NoteSignature(log.name, medium_key_id(log), signer.sign(text)),)))


def claimed_origin(data: bytes) -> str:
    """Which log a `medium.json` says it is of; nothing is verified. Raises MalformedNote."""
    return parse_medium(parse_note(data).text).origin


def open_medium(data: bytes, log: VerifierKey) -> Medium:
    """A `medium.json`, and the checkpoint in it, both verified with the log's key.

    Raises:
        MalformedNote: it is none.
        Untrusted: it is of another log, or was signed by somebody else, or edited.
    """
    note = parse_note(data)
    medium = parse_medium(note.text)
    if medium.origin != log.name:
        raise Untrusted(f"it is a medium of {medium.origin}, not of {log.name}", hint="use the trust policy of its log")
    signatures = note.signed_by(log.name, medium_key_id(log))
    if not signatures or not all(check_ed25519(log.public_key, one.signature, note.text) for one in signatures):
        raise Untrusted(
            f"it is not signed by {log.name}, or was edited since", hint="use another copy of it, or export it again"
        )
    check_log(medium.opened, log)
    return medium


# -- the list ---------------------------------------------------------------------------------------------------------


def format_sums(origin: str, sums: Mapping[str, str]) -> bytes:
    """`SHA256SUMS`: the hex digest of every object, by its key below the origin's hash, in the order of the keys."""
    prefix = origin_prefix(origin)
    return "".join(f"{digest}  {prefix}{key}\n" for key, digest in sorted(sums.items())).encode("ascii")


def parse_sums(data: bytes, origin: str) -> dict[str, str]:
    """The inverse of `format_sums`: what a medium may hold are tiles, bundles, content and keys. Raises Malformed."""
    prefix, sums = origin_prefix(origin), dict[str, str]()
    try:
        lines = data.decode("ascii").split("\n")
    except UnicodeDecodeError as error:
        raise Malformed(f"{SUMS} is not ASCII at byte {error.start}") from error
    if lines.pop() or len(lines) > OBJECTS_MAX:
        raise Malformed(f"{SUMS} does not end in a line, or has more than {OBJECTS_MAX}")
    for number, line in enumerate(lines, 1):
        found = _SUM.fullmatch(line)
        if found is None or not found[2].startswith(prefix):
            raise Malformed(f"line {number} of {SUMS} is no digest and key of {origin}")
        key = found[2].removeprefix(prefix)
        if not _may_be_carried(key):
            raise Malformed(f"line {number} of {SUMS}: {key[:80]} is nothing that a medium carries")
        sums[key] = found[1]
    if format_sums(origin, sums) != data:
        raise Malformed(f"{SUMS} names an object twice, or out of order")
    return sums


def _may_be_carried(key: str) -> bool:
    """A tile or bundle, content, or a key as the recovery key opens it: nothing that is a site's or a mirror's."""
    if not is_key(key):
        return False
    if key.startswith(KEYRING):
        return "." not in key and key.count("/") == 1
    if _CONTENT.fullmatch(key):
        return True
    try:
        parse_tile_path(key)
    except Malformed:
        return False
    return True


def belongs(tile: Tile, size: int) -> bool:
    """Whether a tree of that size has this very tile, as wide as it is."""
    if tile.level > LEVEL_MAX:
        return False
    count = size >> (0 if tile.level == ENTRIES else 8 * tile.level)
    return tile.width == min(TILE_WIDTH, count - tile.index * TILE_WIDTH)
