"""Manifests (what content is made of) and datarefs (which packs hold it); docs/formats.md section 11. Pure.

A manifest holds keys and belongs into sealed data. A dataref is in the clear: who holds no key can still tell which
objects an entry needs.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from ledger.core.chunks import CHUNK_SIZE_MAX, ChunkRef
from ledger.errors import Malformed

MANIFEST_CHUNKS_MAX: Final = 240
"""How many chunks one manifest names: 16 KiB, which fit an entry. Longer lists are content themselves."""
MANIFEST_DEPTH_MAX: Final = 3
DATAREF_PACKS_MAX: Final = 64
"""How many packs a dataref names itself; more of them are in a list."""
CONTENT_SCHEME: Final = "jinshi-content:"
"""What no dataref of a producer's own may begin with."""
DATAREF: Final = f"{CONTENT_SCHEME}1/"
"""What every dataref into the content store begins with."""

CONTENT: Final = "content/"
PACKS: Final = f"{CONTENT}packs/"
LISTS: Final = f"{CONTENT}lists/"
INDEX: Final = f"{CONTENT}index/"

REF_SIZE: Final = 68
LENGTH_MAX: Final = 2**63 - 1
UNIQUE_SIZE: Final = 16

_REF = struct.Struct(">32s32sI")
_HEAD = struct.Struct(">BBQ32sI")
_VERSION = 1
_DIGEST = re.compile(r"[0-9a-f]{64}")
_LIST_HEADER = b"jinshi packs 1\n"


@dataclass(frozen=True, slots=True)
class Manifest:
    """Content of `length` bytes with this SHA-256 `digest`, in order.

    `depth` 0: the chunks are the content. Above: together they are the records of the manifest one level down.
    """

    length: int
    digest: bytes
    chunks: tuple[ChunkRef, ...]
    depth: int = 0


def encode_refs(refs: Iterable[ChunkRef]) -> bytes:
    """Records of 68 bytes: id, key, length."""
    return b"".join(_REF.pack(*ref) for ref in refs)


def decode_refs(data: bytes) -> tuple[ChunkRef, ...]:
    """The inverse of `encode_refs`. Raises Malformed."""
    if len(data) % _REF.size:
        raise Malformed("a list of chunks is cut short")
    refs = tuple(ChunkRef(*fields) for fields in _REF.iter_unpack(data))
    if any(not 0 < ref.length <= CHUNK_SIZE_MAX for ref in refs):
        raise Malformed("a list of chunks with one that cannot be")
    return refs


def encode_manifest(manifest: Manifest) -> bytes:
    """Version, depth, length, digest, number of chunks, their records."""
    assert len(manifest.chunks) <= MANIFEST_CHUNKS_MAX
    head = _HEAD.pack(_VERSION, manifest.depth, manifest.length, manifest.digest, len(manifest.chunks))
    return head + encode_refs(manifest.chunks)


def parse_manifest(data: bytes) -> Manifest:
    """The inverse of `encode_manifest`. Raises Malformed."""
    if len(data) < _HEAD.size:
        raise Malformed("a manifest is cut short")
    version, depth, length, digest, count = _HEAD.unpack_from(data)
    if version != _VERSION:
        raise Malformed(f"a manifest of version {version}", hint="use a newer jinshi")
    if depth > MANIFEST_DEPTH_MAX or length > LENGTH_MAX or count > MANIFEST_CHUNKS_MAX:
        raise Malformed("a manifest of something that cannot be")
    if len(data) != _HEAD.size + count * REF_SIZE:
        raise Malformed("a manifest is cut short, or has something after its end")
    chunks = decode_refs(data[_HEAD.size :])
    total = sum(chunk.length for chunk in chunks)
    if total != length if depth == 0 else total % REF_SIZE:
        raise Malformed("a manifest's chunks do not add up")
    return Manifest(length, digest, chunks, depth)


@dataclass(frozen=True, slots=True)
class Dataref:
    """The packs content lies in, by SHA-256; or, where they are many, the object that lists them."""

    packs: tuple[bytes, ...] = ()
    listed: bytes | None = None

    def __str__(self) -> str:
        """As the `dataref` of an entry."""
        if self.listed is not None:
            return f"{DATAREF}list/{self.listed.hex()}"
        return DATAREF + ",".join(pack.hex() for pack in self.packs)


def parse_dataref(text: str) -> Dataref | None:
    """What an entry's `dataref` says of the content store; None: it leads elsewhere. Raises Malformed."""
    if not text.startswith(DATAREF):
        return None
    rest = text.removeprefix(DATAREF)
    single = rest.removeprefix("list/")
    names = rest.split(",")
    if single != rest and _DIGEST.fullmatch(single):
        return Dataref(listed=bytes.fromhex(single))
    if len(names) > DATAREF_PACKS_MAX or not all(map(_DIGEST.fullmatch, names)) or names != sorted(set(names)):
        raise Malformed(f"the dataref {text[:80]!r} does not name packs", hint="use a newer jinshi")
    return Dataref(tuple(map(bytes.fromhex, names)))


def encode_list(packs: Sequence[bytes], unique: bytes) -> bytes:
    """The object behind a `listed` dataref: the names of packs, ascending, each once.

    `unique`: 16 random bytes, so that a list that was condemned is never written again under the same name.
    """
    assert list(packs) == sorted(set(packs))
    assert len(unique) == UNIQUE_SIZE
    return _LIST_HEADER + unique + b"".join(packs)


def parse_list(data: bytes) -> tuple[bytes, ...]:
    """The packs in such an object. Raises Malformed."""
    body = data[len(_LIST_HEADER) + UNIQUE_SIZE :]
    if not data.startswith(_LIST_HEADER) or len(data) < len(_LIST_HEADER) + UNIQUE_SIZE or len(body) % 32:
        raise Malformed("what should be a list of packs is none")
    packs = tuple(body[start : start + 32] for start in range(0, len(body), 32))
    if any(a >= b for a, b in pairwise(packs)):
        raise Malformed("a list of packs is not in order")
    return packs


def pack_key(pack: bytes) -> str:
    """The key of the object that holds a pack."""
    return PACKS + pack.hex()


def list_key(digest: bytes) -> str:
    """The key of the object that holds a list of packs."""
    return LISTS + digest.hex()
