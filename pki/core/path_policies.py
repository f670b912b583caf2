"""The policies of a path (RFC 5280 §6.1, as RFC 9618 has it: a graph, whose size cannot explode as a tree's). Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from cryptography import x509
from cryptography.x509.oid import ExtensionOID

from ledger.errors import MalformedRequest
from pki.core.authority_profile import ANY_POLICY
from pki.core.der import OID, SEQUENCE, Reader, read

POLICIES_MAX: Final = 64
"""Of one certificate."""


@dataclass(frozen=True, slots=True)
class PolicyWish:
    """What the user of a path asks for (§6.1.1 (c), (e) to (g))."""

    initial: frozenset[str] = frozenset({ANY_POLICY})
    explicit: bool = False
    mapping_inhibited: bool = False
    any_inhibited: bool = False


@dataclass(slots=True)
class _Node:
    expected: frozenset[str]
    parents: set[str]


@dataclass(slots=True)
class PolicyGraph:
    """Levels of policies, the anchor's first; a node's parents are in the level above. Empty: no policy holds."""

    _levels: list[dict[str, _Node]] = field(
        default_factory=lambda: [{ANY_POLICY: _Node(frozenset({ANY_POLICY}), set())}]
    )
    empty: bool = False

    def descend(self, policies: Sequence[str] | None, *, any_allowed: bool) -> None:
        """One certificate further down, with the policies it states (None: it states none); §6.1.3 (d), (e)."""
        if policies is not None and len(policies) > POLICIES_MAX:
            raise MalformedRequest(f"a certificate states {len(policies)} policies; the most is {POLICIES_MAX}")
        if policies is None:
            self.empty = True
        if self.empty or policies is None:
            return
        above = self._levels[-1]
        level: dict[str, _Node] = {}
        for policy in policies:
            if policy == ANY_POLICY:
                continue
            parents = {one for one, node in above.items() if policy in node.expected}
            if not parents and ANY_POLICY in above:
                parents = {ANY_POLICY}
            if parents:
                level[policy] = _Node(frozenset({policy}), parents)
        if ANY_POLICY in policies and any_allowed:
            for policy in {one for node in above.values() for one in node.expected} - set(level):
                parents = {one for one, node in above.items() if policy in node.expected}
                level[policy] = _Node(frozenset({policy}), parents)
        self._levels.append(level)
        self._prune()

    def map(self, mappings: Sequence[tuple[str, str]], *, allowed: bool) -> None:
        """What the certificate of the last level maps, from its own domain into its subject's; §6.1.4 (b)."""
        if self.empty:
            return
        level = self._levels[-1]
        mapped: dict[str, set[str]] = {}
        for own, other in mappings:
            mapped.setdefault(own, set()).add(other)
        for own, others in mapped.items():
            if not allowed:
                level.pop(own, None)
            elif own in level:
                level[own].expected = frozenset(others)
            elif ANY_POLICY in level:
                level[own] = _Node(frozenset(others), {ANY_POLICY})
        self._prune()

    def constrained(self, initial: frozenset[str]) -> frozenset[str]:
        """The policies, in the anchor's domain, that the path holds under and the user accepts; §6.1.5 (g)."""
        if self.empty:
            return frozenset()
        found = {
            policy
            for level in self._levels[1:]
            for policy, node in level.items()
            if policy != ANY_POLICY and ANY_POLICY in node.parents
        }
        if ANY_POLICY in self._levels[-1]:
            found.add(ANY_POLICY)
        if ANY_POLICY in initial:
            return frozenset(found)
        return initial if ANY_POLICY in found else initial & found

    def _prune(self) -> None:
        """Drop what leads to nothing in the last level."""
        for level, below in zip(reversed(self._levels[:-1]), reversed(self._levels[1:]), strict=True):
            wanted = {parent for node in below.values() for parent in node.parents}
            for policy in set(level) - wanted:
                del level[policy]
        self.empty = not self._levels[-1]


def mappings_in(certificate: x509.Certificate) -> list[tuple[str, str]]:
    """Policy mappings (§4.2.1.5): pairs of its issuer's domain and its subject's. Raises MalformedRequest."""
    for one in certificate.extensions:
        if one.oid == ExtensionOID.POLICY_MAPPINGS and isinstance(one.value, x509.UnrecognizedExtension):
            pairs = [Reader(pair) for pair in Reader(read(one.value.value, SEQUENCE)).all(SEQUENCE)]
            if len(pairs) > POLICIES_MAX:
                raise MalformedRequest(f"a certificate maps {len(pairs)} policies; the most is {POLICIES_MAX}")
            return [(_dotted(pair.take(OID)), _dotted(pair.take(OID))) for pair in pairs]
    return []


def _dotted(content: bytes) -> str:
    """An OBJECT IDENTIFIER out of its content (X.690 §8.19). Raises MalformedRequest."""
    if not content or content[-1] & 0x80 or len(content) > POLICIES_MAX:
        raise MalformedRequest("an object identifier is not DER")
    arcs, arc = [], 0
    for byte in content:
        arc = arc << 7 | byte & 0x7F
        if not byte & 0x80:
            arcs.append(arc)
            arc = 0
    first = min(arcs[0] // 40, 2)
    return ".".join(map(str, (first, arcs[0] - 40 * first, *arcs[1:])))
