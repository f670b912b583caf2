"""Proofs about subtrees of the Merkle tree (draft-ietf-plants-merkle-tree-certs §4), which C2SP tlog-mirror uses."""

from __future__ import annotations

from collections.abc import Sequence

from ledger.core.merkle import (
    EMPTY_ROOT,
    SIZE_MAX,
    Node,
    ReadNode,
    check_hashes,
    inclusion_ranges,
    node_hash,
    nodes_of,
    read_range,
    root_from_path,
)
from ledger.errors import ProofInvalid


def is_subtree(start: int, end: int) -> bool:
    """Whether [start, end) is a valid subtree: the span rounded up to a power of two divides `start` (§4.1)."""
    return 0 <= start < end <= SIZE_MAX and start % (1 << (end - start - 1).bit_length()) == 0


def _check_subtree(start: int, end: int, size: int) -> None:
    if not is_subtree(start, end) or not end <= size <= SIZE_MAX:
        raise ProofInvalid(f"[{start}, {end}) is no subtree of a tree of {size}")


def _check_leaf(index: int, start: int, end: int) -> None:
    _check_subtree(start, end, end)
    if not start <= index < end:
        raise ProofInvalid(f"leaf {index} is not in the subtree [{start}, {end})")


def subtree_inclusion_nodes(index: int, start: int, end: int) -> list[Node]:
    """Every node `subtree_inclusion_proof` will read."""
    _check_leaf(index, start, end)
    return nodes_of(inclusion_ranges(index, start, end))


def subtree_inclusion_proof(index: int, start: int, end: int, read: ReadNode) -> list[bytes]:
    """The audit path of leaf `index` within the subtree [start, end) (§4.3). Raises ProofInvalid: no such subtree."""
    _check_leaf(index, start, end)
    return [read_range(first, last, read) for first, last in inclusion_ranges(index, start, end)]


def verify_subtree_inclusion(
    leaf: bytes, index: int, start: int, end: int, proof: Sequence[bytes], subtree_root: bytes
) -> None:
    """Check that `leaf` (a leaf hash) is at `index` in the subtree [start, end) with that root. Raises ProofInvalid."""
    _check_leaf(index, start, end)
    check_hashes([leaf, subtree_root, *proof])
    if root_from_path(leaf, index - start, end - start, proof) != subtree_root:
        raise ProofInvalid(f"the proof of leaf {index} does not lead to the root of the subtree [{start}, {end})")


def _consistency_ranges(start: int, end: int, size: int) -> list[tuple[int, int]]:
    """SUBTREE_PROOF(start, end, D[size]) as leaf ranges (§4.4.1)."""
    ranges: list[tuple[int, int]] = []
    low, high, known = 0, size, True
    while (low, high) != (start, end):
        split = low + (1 << (high - low - 1).bit_length() - 1)
        if end <= split:
            ranges.append((split, high))
            high = split
        elif split <= start:
            ranges.append((low, split))
            low = split
        else:  # the subtree reaches over the split, so it begins where this node begins
            ranges.append((low, split))
            low = start = split
            known = False
    if not known:
        ranges.append((low, high))
    return ranges[::-1]


def subtree_consistency_nodes(start: int, end: int, size: int) -> list[Node]:
    """Every node `subtree_consistency_proof` will read."""
    _check_subtree(start, end, size)
    return nodes_of(_consistency_ranges(start, end, size))


def subtree_consistency_proof(start: int, end: int, size: int, read: ReadNode) -> list[bytes]:
    """That the subtree [start, end) is part of the tree of `size` (§4.4.1). Raises ProofInvalid: no such subtree."""
    _check_subtree(start, end, size)
    return [read_range(first, last, read) for first, last in _consistency_ranges(start, end, size)]


def verify_subtree_consistency(
    start: int, end: int, size: int, subtree_root: bytes, root: bytes, proof: Sequence[bytes]
) -> None:
    """Check that [start, end) with that root is part of the tree (size, root) (§4.4.3). Raises ProofInvalid.

    With `start` 0 this is the consistency proof of RFC 6962 §2.1.2. The empty subtree (`start` == `end`), with the
    root of the empty tree and an empty proof, is part of every tree: so say transparency-dev's vectors. C2SP
    tlog-witness and tlog-mirror never ask about it; a caller that must refuse it asks `is_subtree` first.
    """
    if start == end and 0 <= start <= size <= SIZE_MAX:
        if proof or subtree_root != EMPTY_ROOT:
            raise ProofInvalid("the empty subtree has the root of the empty tree and an empty proof")
        return
    _check_subtree(start, end, size)
    check_hashes(proof)
    first, last, tree = start, end - 1, size - 1
    while first != last and (last == tree or last & 1):
        first, last, tree = first >> 1, last >> 1, tree >> 1
    rest = list(proof)
    if first == last:
        part = whole = subtree_root
    elif rest:
        part = whole = rest.pop(0)
    else:
        raise ProofInvalid("the subtree consistency proof is too short")
    for value in rest:
        if tree == 0:
            raise ProofInvalid("the subtree consistency proof is too long")
        if last & 1 or last == tree:
            if first < last:
                part = node_hash(value, part)
            whole = node_hash(value, whole)
            while not last & 1:
                first, last, tree = first >> 1, last >> 1, tree >> 1
        else:
            whole = node_hash(whole, value)
        first, last, tree = first >> 1, last >> 1, tree >> 1
    if tree != 0:
        raise ProofInvalid("the subtree consistency proof is too short")
    if part != subtree_root:
        raise ProofInvalid(f"the proof does not lead to the root of the subtree [{start}, {end})")
    if whole != root:
        raise ProofInvalid(f"the proof does not lead to the root of the tree of {size}")
