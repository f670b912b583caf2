"""Whoever tries whatever, in whatever order: nothing is issued without enough approvals of others."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ledger.errors import Conflict, InvalidRequest, NotPermitted
from pki.aggregates.request import ISSUED, ISSUING, CertificateRequest

START = datetime(2026, 12, 1, 8, 0, tzinfo=UTC)
OFFICERS = ("local:maker", "local:vetter", "local:one", "local:two", "local:three")
ROLE = "approver"

acts = st.one_of(
    st.tuples(st.just("approve"), st.sampled_from(OFFICERS), st.sampled_from([ROLE, "ra-officer", "auditor"])),
    st.tuples(st.just("reject"), st.sampled_from(OFFICERS), st.just("because")),
    st.tuples(st.just("withdraw"), st.sampled_from(OFFICERS), st.none()),
    st.tuples(st.just("begin"), st.just("ab" * 20), st.none()),
    st.tuples(st.just("issue"), st.just("ab" * 20), st.none()),
    st.tuples(st.just("fail"), st.just("the CA is away"), st.booleans()),
    st.tuples(st.just("expire"), st.none(), st.none()),
    st.tuples(st.just("pass"), st.integers(0, 4_000), st.none()),
)


def submitted(approvals: int, *, reference: str = "") -> CertificateRequest:
    return CertificateRequest(
        name="one",
        requester="local:maker",
        authority="city",
        profile="officer",
        profile_version=1,
        holder="organisation:a",
        csr="",
        key="ab" * 32,
        subject=None,
        names=None,
        not_after=0,
        renews="",
        approvals=approvals,
        role=ROLE,
        barred=["local:vetter"],
        expires=int(START.timestamp()) + 3_600,
        reference=reference,
        timestamp=START,
    )


def attempt(request: CertificateRequest, act: tuple[str, Any, Any], now: datetime) -> None:
    name, who, what = act
    with suppress(Conflict, NotPermitted):
        match name:
            case "approve":
                request.approve(who, what, timestamp=now)
            case "reject":
                request.reject(who, what, timestamp=now)
            case "withdraw":
                request.withdraw(who, timestamp=now)
            case "begin":
                request.begin(who, timestamp=now)
            case "issue":
                request.issue(who, timestamp=now)
            case "fail":
                request.fail(who, again=what, timestamp=now)
            case "expire":
                request.expire(timestamp=now)


@given(st.integers(1, 3), st.lists(acts, max_size=40))
def test_nothing_is_issued_without_the_threshold_of_distinct_officers_who_did_not_ask(
    threshold: int, sequence: list[tuple[str, Any, Any]]
) -> None:
    request, now = submitted(threshold), START
    for act in sequence:
        if act[0] == "pass":
            now += timedelta(seconds=act[1])
        else:
            attempt(request, act, now)
        who = {one["officer"] for one in request.approvals}
        assert len(who) == len(request.approvals)
        assert not who & {"local:maker", "local:vetter"}
        assert {one["role"] for one in request.approvals} <= {ROLE}
        assert all(one["at"] < request.expires for one in request.approvals)
        if request.state in (ISSUING, ISSUED):
            assert len(who) >= threshold

    # What is replayed from its events is the same, so that no restore forgets a checker.
    again: Any = None
    for event in request.collect_events():
        again = event.mutate(again)
    assert vars(again) | {"_pending_events": []} == vars(request) | {"_pending_events": []}


@given(st.integers(1, 3))
def test_a_request_that_needs_approvals_cannot_be_submitted_as_begun(threshold: int) -> None:
    try:
        submitted(threshold, reference="ab" * 20)
    except InvalidRequest:
        return
    raise AssertionError("it was begun without an approval")
