"""The tree against the recursive definitions of RFC 6962 §2.1 and of draft-ietf-plants-merkle-tree-certs §4."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.core.merkle import (
    EMPTY_ROOT,
    CompactRange,
    Node,
    consistency_nodes,
    consistency_proof,
    frontier_nodes,
    inclusion_nodes,
    inclusion_proof,
    node_hash,
    root_hash,
    verify_consistency,
    verify_extension,
    verify_inclusion,
)
from ledger.core.subtree import (
    is_subtree,
    subtree_consistency_nodes,
    subtree_consistency_proof,
    subtree_inclusion_nodes,
    subtree_inclusion_proof,
    verify_subtree_consistency,
    verify_subtree_inclusion,
)
from ledger.errors import ProofInvalid
from tests.support.strategies import LEAF_HASHES, bit_flips, flip, steps

SIZES = st.integers(1, 300) | st.sampled_from([1, 2, 3, 4, 255, 256, 257, 511, 512, 513, 1000])


# -- the definitions, as they stand in the RFC ------------------------------------------------------------------------


def _split(size: int) -> int:
    """ "the largest power of two smaller than n"."""
    k = 1
    while 2 * k < size:
        k *= 2
    return k


@cache
def mth(start: int, end: int) -> bytes:
    """MTH(D[start:end])."""
    if start == end:
        return EMPTY_ROOT
    if end - start == 1:
        return LEAF_HASHES[start]
    k = _split(end - start)
    return node_hash(mth(start, start + k), mth(start + k, end))


def path(m: int, start: int, end: int) -> list[bytes]:
    """PATH(m, D[start:end])."""
    if end - start == 1:
        return []
    k = _split(end - start)
    if m < k:
        return [*path(m, start, start + k), mth(start + k, end)]
    return [*path(m - k, start + k, end), mth(start, start + k)]


def subproof(m: int, start: int, end: int, whole: bool) -> list[bytes]:
    """SUBPROOF(m, D[start:end], b)."""
    size = end - start
    if m == size:
        return [] if whole else [mth(start, end)]
    k = _split(size)
    if m <= k:
        return [*subproof(m, start, start + k, whole), mth(start + k, end)]
    return [*subproof(m - k, start + k, end, False), mth(start, start + k)]


def subtree_subproof(first: int, last: int, start: int, end: int, known: bool) -> list[bytes]:
    """SUBTREE_SUBPROOF(first, last, D[start:end], b); `first` and `last` count from `start` on."""
    size = end - start
    if (first, last) == (0, size):
        return [] if known else [mth(start, end)]
    k = _split(size)
    if last <= k:
        return [*subtree_subproof(first, last, start, start + k, known), mth(start + k, end)]
    if k <= first:
        return [*subtree_subproof(first - k, last - k, start + k, end, known), mth(start, start + k)]
    assert first == 0
    return [*subtree_subproof(0, last - k, start + k, end, False), mth(start, start + k)]


def read(node: Node) -> bytes:
    """The hash of a perfect subtree."""
    return mth(node.index << node.level, (node.index + 1) << node.level)


# -- trees ------------------------------------------------------------------------------------------------------------


@given(SIZES.flatmap(steps))
def test_a_tree_grown_in_any_steps_has_the_root_of_the_definition(sizes: list[int]) -> None:
    tree = CompactRange.empty()
    for before, after in zip([0, *sizes], sizes, strict=False):
        tree = tree.extend(LEAF_HASHES[before:after])
        assert tree == CompactRange(after, tuple(read(node) for node in frontier_nodes(after)))
        assert tree.root() == mth(0, after)


@given(st.integers(0, 2**63 - 1))
def test_the_frontier_covers_every_leaf_once_from_left_to_right(size: int) -> None:
    position = 0
    for node in frontier_nodes(size):
        assert node.index << node.level == position
        position = (node.index + 1) << node.level
    assert position == size


# -- proofs -----------------------------------------------------------------------------------------------------------


@given(st.data(), SIZES)
def test_an_inclusion_proof_is_the_definitions_and_proves_nothing_else(data: st.DataObject, size: int) -> None:
    index = data.draw(st.integers(0, size - 1))
    proof = inclusion_proof(index, size, read)
    assert proof == path(index, 0, size)
    leaf, root = LEAF_HASHES[index], mth(0, size)
    verify_inclusion(leaf, index, size, proof, root)
    changed_leaf, changed_root, *changed = data.draw(bit_flips([leaf, root, *proof]))
    other = index ^ (1 << data.draw(st.integers(0, size.bit_length())))
    for wrong in (
        (changed_leaf, index, size, changed, changed_root),
        (leaf, other, size, proof, root),
        (leaf, index, size, [*proof, root], root),
        (leaf, index, size, [leaf, *proof], root),
        (leaf, index, size, proof[:-1] if proof else [leaf], root),
    ):
        with pytest.raises(ProofInvalid):
            verify_inclusion(*wrong)


@given(st.data(), SIZES)
def test_a_consistency_proof_is_the_definitions_and_proves_nothing_else(data: st.DataObject, size: int) -> None:
    old = data.draw(st.integers(1, size))
    proof = consistency_proof(old, size, read)
    assert proof == subproof(old, 0, size, True)
    root1, root2 = mth(0, old), mth(0, size)
    changed_root1, changed_root2, *changed = data.draw(bit_flips([root1, root2, *proof]))
    for verify in (verify_consistency, verify_extension):
        verify(old, size, root1, root2, proof)
        for wrong in (
            (old, size, changed_root1, changed_root2, changed),
            (old, size, root1, root2, [*proof, root2]),
            (old, size, root1, root2, [root1, *proof]),
            (size + 1, size, root1, root2, proof),
            *([(old, size, root1, root2, proof[:-1]), (old, size, root1, root2, proof[1:])] if proof else ()),
        ):
            with pytest.raises(ProofInvalid):
                verify(*wrong)


@given(SIZES)
def test_every_tree_extends_the_empty_one_and_the_proof_of_that_is_empty(size: int) -> None:
    assert consistency_proof(0, size, read) == []
    verify_extension(0, size, EMPTY_ROOT, mth(0, size), [])
    with pytest.raises(ProofInvalid):
        verify_consistency(0, size, EMPTY_ROOT, mth(0, size), [])


@st.composite
def subtrees(draw: st.DrawFn) -> tuple[int, int, int]:
    """(start, end, size) of a subtree of a tree."""
    size = draw(SIZES)
    level = draw(st.integers(0, size.bit_length()))
    start = draw(st.integers(0, size - 1)) >> level << level
    return start, draw(st.integers(start + 1, min(size, start + (1 << level)))), size


@given(st.data(), subtrees())
def test_a_subtree_consistency_proof_is_the_drafts_and_proves_nothing_else(
    data: st.DataObject, subtree: tuple[int, int, int]
) -> None:
    start, end, size = subtree
    assert is_subtree(start, end)
    proof = subtree_consistency_proof(start, end, size, read)
    assert proof == subtree_subproof(start, end, 0, size, True)
    part, whole = mth(start, end), mth(0, size)
    verify_subtree_consistency(start, end, size, part, whole, proof)
    if start == 0:
        assert proof == subproof(end, 0, size, True)
    changed_part, changed_whole, *changed = data.draw(bit_flips([part, whole, *proof]))
    for wrong in (
        (start, end, size, changed_part, changed_whole, changed),
        (start, end, size, part, whole, [*proof, whole]),
        (start, end, end - 1, part, whole, proof),
        *([(start, end, size, part, whole, proof[:-1])] if proof else ()),
    ):
        with pytest.raises(ProofInvalid):
            verify_subtree_consistency(*wrong)


@given(st.data(), subtrees())
def test_a_subtree_inclusion_proof_is_the_drafts_and_proves_nothing_else(
    data: st.DataObject, subtree: tuple[int, int, int]
) -> None:
    start, end, _ = subtree
    index = data.draw(st.integers(start, end - 1))
    proof = subtree_inclusion_proof(index, start, end, read)
    assert proof == path(index - start, start, end)
    leaf, part = LEAF_HASHES[index], mth(start, end)
    verify_subtree_inclusion(leaf, index, start, end, proof, part)
    changed_leaf, changed_part, *changed = data.draw(bit_flips([leaf, part, *proof]))
    for wrong in (
        (changed_leaf, index, start, end, changed, changed_part),
        (leaf, end, start, end, proof, part),
        (leaf, start - 1, start, end, proof, part),
        (leaf, index, start, end, [*proof, part], part),
    ):
        with pytest.raises(ProofInvalid):
            verify_subtree_inclusion(*wrong)


@given(st.integers(0, 80), st.integers(0, 80))
def test_a_subtree_is_what_the_draft_calls_one(start: int, end: int) -> None:
    """§4.1: 0 <= start < end, and start is a multiple of BIT_CEIL(end - start)."""
    ceiling = 1
    while ceiling < end - start:
        ceiling *= 2
    assert is_subtree(start, end) is (start < end and start % ceiling == 0)


@given(st.data(), SIZES)
def test_a_proof_reads_exactly_the_nodes_it_announces(data: st.DataObject, size: int) -> None:
    """Whoever fetches tiles asks first which nodes will be read."""
    asked: list[Node] = []

    def reading(node: Node) -> bytes:
        asked.append(node)
        return read(node)

    index, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(0, size))
    inclusion_proof(index, size, reading)
    assert asked == inclusion_nodes(index, size)
    asked.clear()
    consistency_proof(old, size, reading)
    assert asked == consistency_nodes(old, size)
    start, end, size = data.draw(subtrees())
    asked.clear()
    subtree_consistency_proof(start, end, size, reading)
    assert asked == subtree_consistency_nodes(start, end, size)
    asked.clear()
    subtree_inclusion_proof(start, start, end, reading)
    assert asked == subtree_inclusion_nodes(start, start, end)


@given(st.integers(-5, 5), st.integers(-5, 5), st.integers(-5, 5))
def test_places_that_do_not_exist_are_refused_not_computed(index: int, start: int, size: int) -> None:
    def unread(node: Node) -> bytes:
        return read(node)

    if not 0 <= index < size:
        with pytest.raises(ProofInvalid):
            inclusion_proof(index, size, unread)
        with pytest.raises(ProofInvalid):
            verify_inclusion(bytes(32), index, size, [], bytes(32))
    if not 0 <= index <= size:
        with pytest.raises(ProofInvalid):
            consistency_proof(index, size, unread)
        with pytest.raises(ProofInvalid):
            verify_extension(index, size, bytes(32), bytes(32), [])
    if not 0 <= start < index <= size:
        with pytest.raises(ProofInvalid):
            subtree_consistency_proof(start, index, size, unread)


@given(st.binary(max_size=64).filter(lambda data: len(data) != 32))
def test_a_hash_of_another_length_proves_nothing(wrong: bytes) -> None:
    for proof in ([wrong], [mth(1, 2), wrong]):
        with pytest.raises(ProofInvalid):
            verify_inclusion(LEAF_HASHES[0], 0, 2 ** len(proof), proof, mth(0, 2 ** len(proof)))
    with pytest.raises(ProofInvalid):
        verify_inclusion(wrong, 0, 1, [], wrong)
    with pytest.raises(ProofInvalid):
        verify_extension(1, 2, mth(0, 1), mth(0, 2), [wrong])
    with pytest.raises(ProofInvalid):
        verify_subtree_consistency(0, 1, 2, mth(0, 1), mth(0, 2), [wrong])


@given(st.lists(st.integers(0, 30), unique=True, min_size=1, max_size=20), st.integers(0, 255))
def test_a_root_changes_with_every_leaf_and_with_their_order(order: list[int], bit: int) -> None:
    hashes = [LEAF_HASHES[number] for number in order]
    root = root_hash(hashes)
    assert root_hash(hashes[:-1]) != root
    assert root_hash([*hashes, hashes[-1]]) != root
    assert root_hash([flip(hashes[0], bit), *hashes[1:]]) != root
    if len(hashes) > 1:
        assert root_hash(hashes[::-1]) != root
