"""Nonces: whatever is asked of them, in whatever order, none is good twice, and what they remember is bounded."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pki.acme.nonces import Nonces

STEPS = st.lists(st.one_of(st.none(), st.integers(0, 60)), max_size=120)
USED_MAX = 8


@given(STEPS)
def test_a_nonce_is_good_once_at_most(steps: list[int | None]) -> None:
    nonces, given_out, used = Nonces(USED_MAX), list[str](), set[str]()
    for step in steps:
        if step is None:
            given_out.append(nonces.new())
        elif step < len(given_out):
            nonce = given_out[step]
            newest = len(given_out) - step <= USED_MAX
            good = nonces.use(nonce)
            assert not (good and nonce in used)
            assert good or nonce in used or not newest, "of the newest ones every unused one is good"
            used |= {nonce} if good else set()
    assert len(set(given_out)) == len(given_out)
    assert len(nonces._used) <= USED_MAX


def test_nonces_of_another_process_are_not_good() -> None:
    assert not Nonces().use(Nonces().new())
