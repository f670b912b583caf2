"""The Merkle tree of RFC 6962: hashes, compact range, inclusion and consistency proofs. Subtrees are in subtree.py."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NewType

from ledger.errors import ProofInvalid

HASH_SIZE = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()
"""The hash of the empty tree (RFC 6962 §2.1)."""

SIZE_MAX = 2**63 - 1

FEW_LEAVES = 64
"""Up to so many leaves, a tree grows faster leaf by leaf than level by level."""

LeafIndex = NewType("LeafIndex", int)
TreeSize = NewType("TreeSize", int)

_sha256 = hashlib.sha256


@dataclass(frozen=True, slots=True, order=True)
class Node:
    """The root of the perfect subtree over leaves [index << level, (index + 1) << level)."""

    level: int
    index: int


ReadNode = Callable[[Node], bytes]
"""Where proofs get the hashes of perfect subtrees from."""


def leaf_hash(entry: bytes) -> bytes:
    """RFC 6962 §2.1: the 0x00 prefix keeps leaves and nodes apart."""
    return _sha256(b"\0" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """RFC 6962 §2.1: the hash of an inner node."""
    return _sha256(b"\1" + left + right).digest()


def root_hash(leaf_hashes: Sequence[bytes]) -> bytes:
    """MTH of a whole tree (RFC 6962 §2.1); `EMPTY_ROOT` when there is no leaf."""
    return CompactRange.empty().extend(leaf_hashes).root()


def frontier_nodes(size: int) -> tuple[Node, ...]:
    """The perfect subtrees a tree of `size` leaves is made of, largest first."""
    nodes: list[Node] = []
    start = 0
    for level in range(size.bit_length() - 1, -1, -1):
        if size >> level & 1:
            nodes.append(Node(level, start >> level))
            start += 1 << level
    return tuple(nodes)


def _fold(hashes: Sequence[bytes]) -> bytes:
    """The root over perfect subtrees that decrease in size from left to right."""
    root = hashes[-1]
    for left in reversed(hashes[:-1]):
        root = _sha256(b"\1" + left + root).digest()
    return root


@dataclass(frozen=True, slots=True)
class CompactRange:
    """All that must be kept of a tree to grow it: O(log size) hashes, the roots of `frontier_nodes(size)`."""

    size: int
    frontier: tuple[bytes, ...]

    def __post_init__(self) -> None:
        assert len(self.frontier) == self.size.bit_count(), "one hash for each perfect subtree"

    @classmethod
    def empty(cls) -> CompactRange:
        """The tree without leaves."""
        return cls(0, ())

    def extend(self, leaf_hashes: Iterable[bytes]) -> CompactRange:
        """The tree with these leaves added on the right."""
        hashes = leaf_hashes if isinstance(leaf_hashes, list) else list(leaf_hashes)
        if len(hashes) <= FEW_LEAVES:
            return self._extend_by_few(hashes)
        edge = dict(zip((node.level for node in frontier_nodes(self.size)), self.frontier, strict=True))
        size = self.size + len(hashes)
        start = self.size
        level = 0
        # Level by level: what is pending on the left edge joins the new hashes, pairs are hashed, a rest stays.
        while hashes or start:
            if start & 1 and hashes:
                hashes = [edge.pop(level), *hashes]
            if len(hashes) & 1:
                edge[level] = hashes[-1]
                hashes = hashes[:-1]
            pairs = iter(hashes)
            hashes = [_sha256(b"\1" + left + right).digest() for left, right in zip(pairs, pairs, strict=True)]
            start >>= 1
            level += 1
        return CompactRange(size, tuple(edge[key] for key in sorted(edge, reverse=True)))

    def _extend_by_few(self, leaf_hashes: list[bytes]) -> CompactRange:
        """The same, leaf after leaf: a new one is joined with as many perfect subtrees as the size ends in ones."""
        size, frontier = self.size, list(self.frontier)
        for joined in leaf_hashes:
            rest, size = size, size + 1
            while rest & 1:
                joined = _sha256(b"\1" + frontier.pop() + joined).digest()
                rest >>= 1
            frontier.append(joined)
        return CompactRange(size, tuple(frontier))

    def root(self) -> bytes:
        """The Merkle tree hash (RFC 6962 §2.1)."""
        return _fold(self.frontier) if self.frontier else EMPTY_ROOT


def range_nodes(start: int, end: int) -> list[Node]:
    """The perfect subtrees that make up MTH(D[start:end]); a power of two >= the span divides `start`."""
    nodes: list[Node] = []
    position = start
    for level in range((end - start).bit_length() - 1, -1, -1):
        if (end - start) >> level & 1:
            nodes.append(Node(level, position >> level))
            position += 1 << level
    return nodes


def read_range(start: int, end: int, read: ReadNode) -> bytes:
    """MTH(D[start:end]) out of the perfect subtrees it is made of."""
    return _fold([read(node) for node in range_nodes(start, end)])


# -- proofs: which ranges they are made of, then their hashes -----------------------------------------------------


def inclusion_ranges(index: int, start: int, end: int) -> list[tuple[int, int]]:
    """PATH(index, D[start:end]) as leaf ranges, the leaf's sibling first (RFC 6962 §2.1.1)."""
    ranges: list[tuple[int, int]] = []
    while end - start > 1:
        split = start + (1 << (end - start - 1).bit_length() - 1)
        if index < split:
            ranges.append((split, end))
            end = split
        else:
            ranges.append((start, split))
            start = split
    return ranges[::-1]


def _consistency_ranges(size1: int, size2: int) -> list[tuple[int, int]]:
    """PROOF(size1, D[size2]) as leaf ranges (RFC 6962 §2.1.2)."""
    ranges: list[tuple[int, int]] = []
    start, end, whole = 0, size2, True
    while end != size1:
        split = start + (1 << (end - start - 1).bit_length() - 1)
        if size1 <= split:
            ranges.append((split, end))
            end = split
        else:
            ranges.append((start, split))
            start, whole = split, False
    if not whole:
        ranges.append((start, end))
    return ranges[::-1]


def nodes_of(ranges: Iterable[tuple[int, int]]) -> list[Node]:
    """Every perfect subtree that these ranges are made of."""
    return [node for start, end in ranges for node in range_nodes(start, end)]


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise ProofInvalid(what)


def inclusion_nodes(index: int, size: int) -> list[Node]:
    """Every node `inclusion_proof` will read."""
    _require(0 <= index < size <= SIZE_MAX, f"there is no leaf {index} in a tree of {size}")
    return nodes_of(inclusion_ranges(index, 0, size))


def inclusion_proof(index: int, size: int, read: ReadNode) -> list[bytes]:
    """The audit path of a leaf, its sibling first (RFC 6962 §2.1.1). Raises ProofInvalid: there is no such leaf."""
    _require(0 <= index < size <= SIZE_MAX, f"there is no leaf {index} in a tree of {size}")
    return [read_range(start, end, read) for start, end in inclusion_ranges(index, 0, size)]


def consistency_nodes(size1: int, size2: int) -> list[Node]:
    """Every node `consistency_proof` will read."""
    _require(0 <= size1 <= size2 <= SIZE_MAX, f"no tree of {size2} extends one of {size1}")
    return nodes_of(_consistency_ranges(size1, size2)) if 0 < size1 < size2 else []


def consistency_proof(size1: int, size2: int, read: ReadNode) -> list[bytes]:
    """The consistency proof (RFC 6962 §2.1.2); empty when the sizes are equal or `size1` is 0. Raises ProofInvalid."""
    _require(0 <= size1 <= size2 <= SIZE_MAX, f"no tree of {size2} extends one of {size1}")
    if size1 in (0, size2):
        return []
    return [read_range(start, end, read) for start, end in _consistency_ranges(size1, size2)]


# -- verification -------------------------------------------------------------------------------------------------


def check_hashes(hashes: Iterable[bytes]) -> None:
    """Raises ProofInvalid: one is not 32 bytes long."""
    for value in hashes:
        _require(len(value) == HASH_SIZE, f"a hash in the proof is {len(value)} bytes long, not {HASH_SIZE}")


def root_from_path(leaf: bytes, index: int, size: int, proof: Sequence[bytes]) -> bytes:
    """The root an audit path leads to (RFC 9162 §2.1.3.2). Raises ProofInvalid: the path has the wrong length."""
    inner = (index ^ (size - 1)).bit_length()
    border = (index >> inner).bit_count()
    _require(
        len(proof) == inner + border,
        f"the proof has {len(proof)} hashes; leaf {index} of {size} needs {inner + border}",
    )
    value = leaf
    for level, sibling in enumerate(proof[:inner]):
        value = node_hash(sibling, value) if index >> level & 1 else node_hash(value, sibling)
    for sibling in proof[inner:]:
        value = node_hash(sibling, value)
    return value


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Check that `leaf` (a leaf hash) is at `index` in the tree (size, root). Raises ProofInvalid."""
    _require(0 <= index < size <= SIZE_MAX, f"there is no leaf {index} in a tree of {size}")
    check_hashes([leaf, root, *proof])
    _require(
        root_from_path(leaf, index, size, proof) == root,
        f"the inclusion proof of leaf {index} does not lead to the root of the tree of {size}",
    )


def verify_consistency(size1: int, size2: int, root1: bytes, root2: bytes, proof: Sequence[bytes]) -> None:
    """Check that the tree (size2, root2) extends (size1, root1), RFC 6962 §2.1.2 alone. Raises ProofInvalid.

    There is no consistency proof from the empty tree in the RFC: `size1` 0 is refused, as transparency-dev's
    vectors demand. For the growth of a log, where C2SP tlog-witness rules otherwise, see `verify_extension`.
    """
    _require(0 < size1 <= size2 <= SIZE_MAX, f"there is no consistency proof from size {size1} to {size2}")
    if size1 == size2:
        _require(not proof, "a consistency proof between equal sizes must be empty")
        _require(root1 == root2, f"two trees of size {size1} have different roots")
        return
    check_hashes([root1, root2, *proof])
    _require(bool(proof), f"the consistency proof from size {size1} to {size2} is empty")
    _verify_growth(size1, size2, root1, root2, proof)


def verify_extension(size1: int, size2: int, root1: bytes, root2: bytes, proof: Sequence[bytes]) -> None:
    """Check growth by the rule of C2SP tlog-witness: the empty tree is extended by every tree, with an empty proof.

    Every other case is `verify_consistency`. Raises ProofInvalid.
    """
    if size1 != 0:
        verify_consistency(size1, size2, root1, root2, proof)
        return
    _require(0 <= size2 <= SIZE_MAX, f"{size2} is no tree size")
    check_hashes([root1, root2])
    _require(not proof, "a proof of growth from the empty tree must be empty")
    _require(root1 == EMPTY_ROOT, "the root of the empty tree is wrong")
    _require(size2 != 0 or root2 == EMPTY_ROOT, "the root of the empty tree is wrong")


def _verify_growth(size1: int, size2: int, root1: bytes, root2: bytes, proof: Sequence[bytes]) -> None:
    """RFC 9162 §2.1.4.2, for 0 < size1 < size2."""
    # A perfect old tree is a node of the new one, and left out of the proof.
    path = [root1, *proof] if size1 & (size1 - 1) == 0 else list(proof)
    node, last = size1 - 1, size2 - 1
    while node & 1:
        node >>= 1
        last >>= 1
    old = new = path[0]
    for value in path[1:]:
        _require(last != 0, "the consistency proof is too long")
        if node & 1 or node == last:
            old = node_hash(value, old)
            new = node_hash(value, new)
            while not node & 1 and node != 0:
                node >>= 1
                last >>= 1
        else:
            new = node_hash(new, value)
        node >>= 1
        last >>= 1
    _require(last == 0, "the consistency proof is too short")
    _require(old == root1, f"the consistency proof does not lead to the root of the tree of {size1}")
    _require(new == root2, f"the consistency proof does not lead to the root of the tree of {size2}")
