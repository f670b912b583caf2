"""transparency-dev's RFC 6962 proofs, good and bad (tests/vectors/README.md), and the well-known tree of 8 leaves."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ledger.core.merkle import (
    EMPTY_ROOT,
    Node,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    root_hash,
    verify_consistency,
    verify_extension,
    verify_inclusion,
)
from ledger.core.subtree import verify_subtree_consistency, verify_subtree_inclusion
from ledger.errors import ProofInvalid

Case = dict[str, Any]

ROOT = Path(__file__).parent / "merkle"
COUNTS = {"consistency": 98, "inclusion": 98, "subtreeconsistency": 118, "subtreeinclusion": 204}
"""How many cases upstream's folders have: a folder that was moved or cut does not pass for tested."""


def _bytes(case: Case, *names: str) -> list[bytes]:
    return [base64.b64decode(case[name] or "") for name in names]


def _proof(case: Case) -> list[bytes]:
    return [base64.b64decode(one or "") for one in case["proof"] or ()]


def _inclusion(case: Case) -> None:
    leaf, root = _bytes(case, "leafHash", "root")
    verify_inclusion(leaf, case["leafIdx"], case["treeSize"], _proof(case), root)


def _consistency(case: Case) -> None:
    verify_consistency(case["size1"], case["size2"], *_bytes(case, "root1", "root2"), _proof(case))


def _subtree_inclusion(case: Case) -> None:
    leaf, root = _bytes(case, "leafHash", "root")
    verify_subtree_inclusion(leaf, case["leafIdx"], case["start"], case["end"], _proof(case), root)


def _subtree_consistency(case: Case) -> None:
    verify_subtree_consistency(case["start"], case["end"], case["size"], *_bytes(case, "root1", "root2"), _proof(case))


CHECKS: dict[str, Callable[[Case], None]] = {
    "inclusion": _inclusion,
    "consistency": _consistency,
    "subtreeinclusion": _subtree_inclusion,
    "subtreeconsistency": _subtree_consistency,
}
FILES = sorted(ROOT.rglob("*.json"))


def _read(path: Path) -> Case:
    case: Case = json.loads(path.read_bytes())
    return case


def test_no_vector_is_missing() -> None:
    assert Counter(path.relative_to(ROOT).parts[0] for path in FILES) == COUNTS


def test_the_vectors_hold_good_and_bad_proofs_of_every_kind() -> None:
    kinds = Counter((path.relative_to(ROOT).parts[0], bool(_read(path)["wantErr"])) for path in FILES)
    assert all(kinds[kind, wanted] > 0 for kind in COUNTS for wanted in (True, False))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT).with_suffix("")))
def test_the_verdict_is_the_one_upstream_gives(path: Path) -> None:
    case = _read(path)
    check = CHECKS[path.relative_to(ROOT).parts[0]]
    if case["wantErr"]:
        with pytest.raises(ProofInvalid):
            check(case)
    else:
        check(case)


def test_growth_from_the_empty_tree_is_refused_by_the_rfc_and_accepted_by_tlog_witness() -> None:
    """The one place where the two authorities differ, so there are two functions.

    RFC 6962 §2.1.2 defines PROOF(m, D[n]) for 0 < m only, and upstream refuses size 0. C2SP tlog-witness: "If the old
    size is zero, the consistency proof MUST be empty, because the empty tree is consistent with any tree".
    """
    from_empty = [case for path in FILES if "size1" in (case := _read(path)) and case["size1"] == 0]
    assert from_empty
    for case in from_empty:
        assert case["wantErr"]
    root = bytes(32)
    with pytest.raises(ProofInvalid):
        verify_consistency(0, 5, EMPTY_ROOT, root, [])
    verify_extension(0, 5, EMPTY_ROOT, root, [])
    verify_extension(0, 0, EMPTY_ROOT, EMPTY_ROOT, [])
    for size2, root1, root2, proof in (
        (5, EMPTY_ROOT, root, [root]),  # "the consistency proof MUST be empty"
        (5, root, root, []),  # the old root is not that of the empty tree
        (0, EMPTY_ROOT, root, []),  # "A checkpoint of size zero MUST have the root hash of the empty tree"
    ):
        with pytest.raises(ProofInvalid):
            verify_extension(0, size2, root1, root2, proof)


def test_growth_of_a_log_is_judged_as_the_rfc_does_from_size_one_on() -> None:
    cases = [case for path in FILES if (case := _read(path)).get("size1", 0) > 0]
    verdicts = Counter[bool]()
    for case in cases:
        arguments = (case["size1"], case["size2"], *_bytes(case, "root1", "root2"), _proof(case))
        if case["wantErr"]:
            with pytest.raises(ProofInvalid):
                verify_extension(*arguments)
        else:
            verify_extension(*arguments)
        verdicts[case["wantErr"]] += 1
    assert len(verdicts) == 2


# -- known answers ----------------------------------------------------------------------------------------------------

LEAVES = [
    bytes.fromhex(text)
    for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
"""The test tree of Certificate Transparency's first implementation, used by every RFC 6962 library since."""
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
AUDIT_PATHS = {  # (leaf, size): RFC 6962 §2.1.1, from the same tests
    (0, 1): [],
    (0, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (5, 8): [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 3): ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"],
}
CONSISTENCY = {  # (size1, size2): RFC 6962 §2.1.2
    (1, 1): [],
    (1, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (6, 8): [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 5): [
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}


def _read_node(node: Node) -> bytes:
    first, last = node.index << node.level, (node.index + 1) << node.level
    return root_hash([leaf_hash(leaf) for leaf in LEAVES[first:last]])


def test_the_empty_tree_has_the_hash_of_the_empty_string() -> None:
    assert EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert root_hash([]) == EMPTY_ROOT


@pytest.mark.parametrize("size", range(1, 9))
def test_the_well_known_tree_has_its_well_known_roots(size: int) -> None:
    assert root_hash([leaf_hash(leaf) for leaf in LEAVES[:size]]).hex() == ROOTS[size - 1]


@pytest.mark.parametrize(("index", "size"), AUDIT_PATHS)
def test_the_audit_paths_are_the_known_ones(index: int, size: int) -> None:
    assert [one.hex() for one in inclusion_proof(index, size, _read_node)] == AUDIT_PATHS[index, size]


@pytest.mark.parametrize(("size1", "size2"), CONSISTENCY)
def test_the_consistency_proofs_are_the_known_ones(size1: int, size2: int) -> None:
    assert [one.hex() for one in consistency_proof(size1, size2, _read_node)] == CONSISTENCY[size1, size2]
