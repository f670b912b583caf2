"""C2SP tlog-checkpoint: what a log says about itself. Who signed it is note.py's and cosignature.py's."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from ledger.core.encoding import decode_base64, encode_base64, parse_decimal
from ledger.core.merkle import HASH_SIZE
from ledger.core.note import Note, parse_note
from ledger.errors import MalformedNote

CHECKPOINT = "checkpoint"
"""Where the checkpoint lies, beside the tiles it covers."""

STEP_ENTRIES = 16_384
"""At every multiple of this size the log signs a checkpoint that is kept, so that a copy can catch up step by step.

It is a multiple of 256, so that no bundle is cut."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The tree of `origin` had `size` leaves and this root.

    An origin is any line of text; that it reads like a key's name is recommended only (C2SP tlog-checkpoint).
    """

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    @property
    def text(self) -> bytes:
        """The note text, C2SP tlog-checkpoint."""
        lines = (self.origin, str(self.size), encode_base64(self.root), *self.extensions)
        return "".join(f"{line}\n" for line in lines).encode("utf-8")


@dataclass(frozen=True, slots=True)
class OpenedCheckpoint:
    """A checkpoint and the note it came in; not trusted by anybody yet (see `Policy.check`)."""

    checkpoint: Checkpoint
    note: Note


def parse_checkpoint_text(text: bytes) -> Checkpoint:
    """The checkpoint in a note's text. Raises MalformedNote."""
    try:
        lines = text.decode("utf-8").split("\n")
        if len(lines) < 4 or lines[-1] != "" or "" in lines[:-1]:
            raise ValueError("it has fewer than three lines, or an empty one")
        origin, size, root, *extensions = lines[:-1]
        checkpoint = Checkpoint(origin, parse_decimal(size), decode_base64(root), tuple(extensions))
        if len(checkpoint.root) != HASH_SIZE:
            raise ValueError(f"its root hash is {len(checkpoint.root)} bytes long")
    except ValueError as error:
        raise MalformedNote(f"it is no checkpoint ({error})") from error
    return checkpoint


def parse_checkpoint(data: bytes) -> OpenedCheckpoint:
    """A checkpoint as a signed note; its structure only. Raises MalformedNote."""
    note = parse_note(data)
    return OpenedCheckpoint(parse_checkpoint_text(note.text), note)


def contradicts(one: Checkpoint, other: Checkpoint) -> bool:
    """Whether two checkpoints of one log, both signed by it, prove by themselves that it has two histories."""
    return one.size == other.size and one.root != other.root


def origin_prefix(origin: str) -> str:
    """Where everything of one ledger lies in an object store, as in C2SP tlog-mirror: `<hex SHA-256>/`."""
    return hashlib.sha256(origin.encode("utf-8")).hexdigest() + "/"


def step_sizes(start: int, stop: int) -> range:
    """The sizes above `start`, up to and with `stop`, at which a checkpoint is kept."""
    return range((start // STEP_ENTRIES + 1) * STEP_ENTRIES, stop + 1, STEP_ENTRIES)


def step_key(size: int) -> str:
    """Where the checkpoint of a step lies, among what the primary has published."""
    assert size % STEP_ENTRIES == 0
    return f"steps/{size}"
