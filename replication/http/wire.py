"""The bodies of C2SP tlog-witness and tlog-mirror, from bytes and to bytes; every value has one spelling. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ledger.core.checkpoint import OpenedCheckpoint, parse_checkpoint
from ledger.core.encoding import decode_base64, encode_base64, parse_decimal
from ledger.core.merkle import HASH_SIZE, SIZE_MAX
from ledger.core.note import Note, NoteSignature, format_note, parse_note
from ledger.core.tiles import TILE_WIDTH
from ledger.errors import Malformed, MalformedNote

HASHES_MAX = 63
"""The most a proof may have, on both pages."""

ADD_CHECKPOINT_SIZE_MAX = 512 * 2**10
"""Room for a hundred ML-DSA-44 signatures."""

HEAD_SIZE_MAX = 2 + 65_535 + 8 + 8 + 2 + 65_535
PACKAGE_SIZE_MAX = TILE_WIDTH * (2 + 65_535) + 1 + HASHES_MAX * HASH_SIZE
TICKET_LINE_MAX = 100_000

SIZE_TYPE = "text/x.tlog.size"
INFO_TYPE = "text/x.tlog.mirror-info"

_TEXT = b"-\n\n"


# -- add-checkpoint (tlog-witness, "add-checkpoint") ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AddCheckpoint:
    """A checkpoint, nobody's signature on it verified yet, and the proof that it extends the tree of `old_size`."""

    old_size: int
    proof: tuple[bytes, ...]
    opened: OpenedCheckpoint


def format_add_checkpoint(request: AddCheckpoint) -> bytes:
    """The body of the request."""
    lines = (f"old {request.old_size}", *(encode_base64(one) for one in request.proof), "", "")
    return "\n".join(lines).encode("ascii") + format_note(request.opened.note)


def parse_add_checkpoint(body: bytes) -> AddCheckpoint:
    """The request in a body; nothing is verified. Raises MalformedNote."""
    if len(body) > ADD_CHECKPOINT_SIZE_MAX:
        raise MalformedNote(f"a request of {len(body)} bytes; the most is {ADD_CHECKPOINT_SIZE_MAX}")
    head, separator, checkpoint = body.partition(b"\n\n")
    try:
        old, *hashes = head.decode("ascii").split("\n")
        if not separator or not old.startswith("old "):
            raise ValueError("it does not begin with the old size, a proof and an empty line")
        old_size = parse_decimal(old.removeprefix("old "))
        if len(hashes) > HASHES_MAX:
            raise ValueError(f"its proof has {len(hashes)} lines; the most is {HASHES_MAX}")
        proof = tuple(decode_base64(line) for line in hashes)
        if any(len(one) != HASH_SIZE for one in proof):
            raise ValueError("its proof is not made of SHA-256 hashes")
    except ValueError as error:
        raise MalformedNote(f"it is no add-checkpoint request ({error})") from error
    return AddCheckpoint(old_size, proof, parse_checkpoint(checkpoint))


def format_signatures(signatures: Sequence[NoteSignature]) -> bytes:
    """What a cosigner answers: signature lines of a note."""
    return format_note(Note(_TEXT[:2], tuple(signatures))).removeprefix(_TEXT)


def parse_signatures(data: bytes) -> tuple[NoteSignature, ...]:
    """The signature lines of an answer; nothing is verified. Raises MalformedNote."""
    note = parse_note(_TEXT + data)
    if note.text != _TEXT[:2]:
        raise MalformedNote("something stands before the signature lines")
    return note.signatures


def format_size(size: int) -> bytes:
    """What a cosigner that knows another tree answers (409)."""
    return b"%d\n" % size


def parse_size(data: bytes) -> int:
    """The inverse of `format_size`. Raises MalformedNote."""
    try:
        if not data.endswith(b"\n"):
            raise ValueError("it does not end in a newline")
        return parse_decimal(data[:-1].decode("ascii"))
    except ValueError as error:
        raise MalformedNote(f"it is no tree size ({error})") from error


# -- add-entries (tlog-mirror, "add-entries") -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class UploadHead:
    """What an upload begins with: which entries of which log follow, and up to which pending checkpoint."""

    origin: str
    start: int
    end: int
    ticket: bytes = b""


@dataclass(frozen=True, slots=True)
class Package:
    """Some entries, and the proof that the subtree they end is part of the tree that is uploaded."""

    entries: tuple[bytes, ...]
    proof: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class MirrorInfo:
    """How an upload may go on: a pending checkpoint's size, the next entry that is wanted, and a ticket."""

    size: int
    next_entry: int
    ticket: bytes = b""


def format_upload_head(head: UploadHead) -> bytes:
    """The first bytes of the request."""
    origin = head.origin.encode("utf-8")
    return b"".join(
        (
            len(origin).to_bytes(2, "big") + origin,
            head.start.to_bytes(8, "big") + head.end.to_bytes(8, "big"),
            len(head.ticket).to_bytes(2, "big") + head.ticket,
        )
    )


def parse_upload_head(data: bytes | bytearray) -> tuple[UploadHead, int] | None:
    """The head, and how many bytes it has; None: more are needed, at most `HEAD_SIZE_MAX`. Raises Malformed."""
    origin_end = 2 + int.from_bytes(data[:2], "big")
    ticket_at = origin_end + 18
    if len(data) < ticket_at:
        return None
    size = ticket_at + int.from_bytes(data[ticket_at - 2 : ticket_at], "big")
    start = int.from_bytes(data[origin_end : origin_end + 8], "big")
    end = int.from_bytes(data[origin_end + 8 : origin_end + 16], "big")
    try:
        origin = bytes(data[2:origin_end]).decode("utf-8")
    except UnicodeDecodeError as error:
        raise Malformed(f"the upload's origin is not UTF-8 at byte {error.start}") from error
    if not start <= end <= SIZE_MAX:
        raise Malformed(f"entries {start} to {end} cannot be uploaded")
    if len(data) < size:
        return None
    return UploadHead(origin, start, end, bytes(data[ticket_at:size])), size


def package_spans(start: int, end: int) -> Iterator[tuple[int, int]]:
    """The canonical sequence: the half-open intervals of the packages that upload [start, end). Lazy."""
    while start < end:
        stop = min(end, start - start % TILE_WIDTH + TILE_WIDTH)
        yield start, stop
        start = stop


def encode_package(package: Package) -> bytes:
    """A package's bytes."""
    assert len(package.proof) <= HASHES_MAX
    parts = [part for entry in package.entries for part in (len(entry).to_bytes(2, "big"), entry)]
    return b"".join((*parts, bytes([len(package.proof)]), *package.proof))


def decode_package(data: bytes | bytearray, count: int) -> tuple[Package, int] | None:
    """A package of `count` entries, and how many bytes it has; None: more are needed, at most `PACKAGE_SIZE_MAX`.

    Raises:
        Malformed: its proof is too long.
    """
    starts: list[int] = []
    position = 0
    for _ in range(count):
        if position + 2 > len(data):
            return None
        starts.append(position + 2)
        position += 2 + int.from_bytes(data[position : position + 2], "big")
    if position >= len(data):
        return None
    hashes = data[position]
    if hashes > HASHES_MAX:
        raise Malformed(f"the proof of a package has {hashes} hashes; the most is {HASHES_MAX}")
    size = position + 1 + hashes * HASH_SIZE
    if size > len(data):
        return None
    ends = [*(start - 2 for start in starts[1:]), position] if starts else []
    entries = tuple(bytes(data[start:end]) for start, end in zip(starts, ends, strict=True))
    proof = tuple(bytes(data[at : at + HASH_SIZE]) for at in range(position + 1, size, HASH_SIZE))
    return Package(entries, proof), size


def format_mirror_info(info: MirrorInfo) -> bytes:
    """What a mirror answers that wants other, or more, entries (409 and 202)."""
    return f"{info.size}\n{info.next_entry}\n{encode_base64(info.ticket)}\n".encode("ascii")


def parse_mirror_info(data: bytes) -> MirrorInfo:
    """The inverse of `format_mirror_info`. Raises MalformedNote."""
    try:
        if len(data) > TICKET_LINE_MAX:
            raise ValueError(f"it has {len(data)} bytes")
        size, next_entry, ticket, rest = data.decode("ascii").split("\n")
        if rest:
            raise ValueError("its third line does not end")
        return MirrorInfo(parse_decimal(size), parse_decimal(next_entry), decode_base64(ticket))
    except ValueError as error:
        raise MalformedNote(f"it does not say how to go on ({error})") from error
