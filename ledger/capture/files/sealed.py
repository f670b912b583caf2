"""The entry that ends a consistent point of a tree: what was found, and the digest of all of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ledger.core.canonical import JsonValue, canonicalize, parse_canonical
from ledger.errors import Malformed

SEALED: Final = "tree.sealed.v1"
PROBLEMS_MAX: Final = 100
"""How many problems are named; beyond, they are counted."""

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Seal:
    """`counts` by kind; `size`: bytes of all files; `digest`: over the whole tree (docs/formats.md).

    `problems` are what could not be read, the first hundred; `problems_count` counts all of them.
    """

    counts: Mapping[str, int]
    size: int
    digest: bytes
    problems: tuple[str, ...] = ()
    problems_count: int = 0
    previous: int | None = None

    @property
    def paths(self) -> int:
        """How many paths the tree has, its root among them."""
        return sum(self.counts.values())


def encode_seal(seal: Seal) -> bytes:
    """The data of a sealing entry."""
    return canonicalize(
        {
            "bytes": seal.size,
            "counts": dict(seal.counts),
            "digest": seal.digest.hex(),
            "format": _FORMAT,
            "previous": seal.previous,
            "problems": list(seal.problems),
            "problems_count": seal.problems_count,
        }
    )


def parse_seal(data: bytes) -> Seal:
    """The inverse of `encode_seal`. Raises Malformed."""
    match parse_canonical(data):
        case {
            "bytes": int(size),
            "counts": dict(counts),
            "digest": str(digest),
            "format": 1,
            "previous": previous,
            "problems": list(problems),
            "problems_count": int(count),
        }:
            if (
                len(digest) == 64
                and set(digest) <= set("0123456789abcdef")
                and (previous is None or isinstance(previous, int))
                and all(isinstance(number, int) for number in counts.values())
            ):
                lines = tuple(str(line) for line in problems)
                return Seal(_counts(counts), size, bytes.fromhex(digest), lines, count, previous)
    raise Malformed("what should seal a tree does not", hint="use a newer jinshi")


def _counts(counts: Mapping[str, JsonValue]) -> dict[str, int]:
    return {name: number for name, number in counts.items() if isinstance(number, int)}
