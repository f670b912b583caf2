"""Which copy an asset is restored from, and why: the best of those that can be had. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

PRIMARY: Final = "primary"
AUTO: Final = "auto"
"""What `--from` may say besides a site's name."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One copy: the ledger's own (`primary`) or a site's.

    `size`: of its trusted checkpoint; `age_s`: since that was cosigned (None: it is not). `rate`: bytes a second that
    its schedule lets through now; None: as fast as it goes. `problem`: why it cannot be used, in one line.
    """

    name: str
    size: int = 0
    age_s: float | None = None
    rate: int | None = None
    problem: str | None = None

    @property
    def is_primary(self) -> bool:
        return self.name == PRIMARY

    @property
    def title(self) -> str:
        """For people."""
        return "this ledger" if self.is_primary else f"site {self.name}"


def ranked(candidates: Sequence[Candidate], wanted: int | None) -> list[Candidate]:
    """Those that can be used, the best first; `wanted`: how many entries it must have (None: as many as there are).

    The ledger's own copy comes first, as nothing has to cross a line; then the freshest; where what is wanted is in all
    of them, or they are as fresh, the fastest; then the one cosigned last.
    """
    usable = [one for one in candidates if one.problem is None and (wanted is None or one.size >= wanted)]

    def order(one: Candidate) -> tuple[bool, int, float, float]:
        fresh = -one.size if wanted is None else 0
        slow = 0.0 if one.rate is None else 1 / max(1, one.rate)
        return not one.is_primary, fresh, slow, one.age_s or 0.0

    return sorted(usable, key=order)


def why(chosen: Candidate, candidates: Sequence[Candidate], wanted: int | None) -> str:
    """One line: what was chosen, what speaks for it, and what against each of the others."""
    reasons = [f"{chosen.size:,} entries"]
    if chosen.age_s is not None:
        reasons.append(f"cosigned {chosen.age_s:,.0f} s ago")
    if chosen.rate is not None:
        reasons.append(f"throttled to {chosen.rate:,} bytes/s")
    others = [f"{one.title}: {_against(one, chosen, wanted)}" for one in candidates if one is not chosen]
    return "; ".join([f"from {chosen.title} ({', '.join(reasons)})", *others])


def _against(one: Candidate, chosen: Candidate, wanted: int | None) -> str:
    if one.problem is not None:
        return one.problem
    if wanted is not None and one.size < wanted:
        return f"has {one.size:,} entries, {wanted:,} are needed"
    if chosen.is_primary:
        return "not needed"
    if wanted is None and one.size < chosen.size:
        return f"behind by {chosen.size - one.size:,} entries"
    if one.rate is not None and (chosen.rate is None or one.rate < chosen.rate):
        return f"throttled to {one.rate:,} bytes/s"
    return "as good"
