"""Which copy a restore takes, and what it says about it."""

from __future__ import annotations

import pytest

from restore.choosing import PRIMARY, Candidate, ranked, why

OWN = Candidate(PRIMARY, 100)
NEAR = Candidate("near", 100, 5.0)
FAR = Candidate("far", 100, 2.0, 1_000)
OLD = Candidate("old", 90, 60.0)
AWAY = Candidate("away", problem="it cannot be reached")


@pytest.mark.parametrize(
    ("candidates", "wanted", "best"),
    [
        ([NEAR, OWN, FAR], None, PRIMARY),
        ([Candidate(PRIMARY, problem="tile/0/000 is missing"), OLD, NEAR, FAR], None, "near"),
        ([OLD, FAR], None, "far"),
        ([FAR, OLD], 80, "old"),  # both have it, and nothing holds that one up
        ([FAR, OLD], 95, "far"),
        ([Candidate("a", 100, 9.0), Candidate("b", 100, 3.0)], None, "b"),
    ],
)
def test_the_best_copy_comes_first(candidates: list[Candidate], wanted: int | None, best: str) -> None:
    assert ranked(candidates, wanted)[0].name == best


def test_what_cannot_be_used_is_never_taken() -> None:
    assert ranked([AWAY, OLD], 91) == []
    assert ranked([AWAY], None) == []


def test_the_reason_says_what_stood_against_each_of_the_others() -> None:
    lost = Candidate(PRIMARY, problem="tile/0/000 is missing")
    line = why(NEAR, [lost, NEAR, FAR, OLD, AWAY], None)
    assert line == (
        "from site near (100 entries, cosigned 5 s ago); this ledger: tile/0/000 is missing; "
        "site far: throttled to 1,000 bytes/s; site old: behind by 10 entries; site away: it cannot be reached"
    )
    assert "site old: has 90 entries, 95 are needed" in why(FAR, [FAR, OLD], 95)
    assert why(OWN, [OWN, OLD], None) == "from this ledger (100 entries); site old: not needed"
