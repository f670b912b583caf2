"""An audit's report as an entry of the ledger: bounded, whatever was found, and still saying how much that was."""

from __future__ import annotations

import pytest

from ledger.auditor import AuditReport, Check, Finding, Outcome
from ledger.auditor.report import FINDINGS_MAX, RECORDED_SIZE_MAX
from ledger.core.acts import AUDITED, acts_source
from ledger.core.canonical import canonicalize
from ledger.store.memory import MemoryEntryStore
from tests.support.ledgers import append

ORIGIN = "example.test/log"


def report(checks: int, text: str, *, findings: int = FINDINGS_MAX, site: str | None = "remote") -> AuditReport:
    found = tuple(Finding(f"entry {number}", text) for number in range(findings))
    outcome = Outcome.FAILED if findings else Outcome.PASSED
    all_checks = tuple(Check(f"check {number}", outcome, text, found, more=7) for number in range(checks))
    return AuditReport("what", ORIGIN, site, 2**53 - 1, "00" * 32, "2026-11-24T00:00:00.000000Z", 5, 2, all_checks)


@pytest.mark.parametrize("text", ["a", "长" * 5_000, "\x01" * 5_000, "\N{GRINNING FACE}" * 900, "\udcff" * 900, ""])
@pytest.mark.parametrize("checks", [1, 25])
async def test_it_fits_an_entry_and_counts_what_it_does_not_name(text: str, checks: int) -> None:
    event = report(checks, text).to_event()
    assert (event.type, event.source, event.subject) == (AUDITED, acts_source(ORIGIN), "remote")
    data = event.json_data
    assert isinstance(data, dict)
    assert len(canonicalize(data)) <= RECORDED_SIZE_MAX
    listed = data["checks"]
    assert isinstance(listed, list)
    assert len(listed) == checks
    for check in listed:
        assert isinstance(check, dict)
        named, more = check["findings"], check["more"]
        assert isinstance(named, list)
        assert isinstance(more, int)
        assert len(named) + more == FINDINGS_MAX + 7
    places, _ = await append(MemoryEntryStore(), [event])
    assert places[0].index == 0


def test_what_is_small_is_recorded_in_full() -> None:
    checks = report(3, "changed").to_event().json_data
    assert isinstance(checks, dict)
    assert checks["checks"] == [
        {
            "name": f"check {number}",
            "outcome": "failed",
            "detail": "changed",
            "findings": [{"key": f"entry {one}", "what": "changed"} for one in range(FINDINGS_MAX)],
            "more": 7,
        }
        for number in range(3)
    ]
    assert (checks["site"], checks["passed"], checks["size"]) == ("remote", False, 2**53 - 1)


def test_an_audit_of_the_ledger_itself_is_recorded_under_its_own_name() -> None:
    event = report(1, "fine", findings=0, site=None).to_event()
    assert event.subject == ORIGIN
    assert isinstance(event.json_data, dict)
    assert event.json_data["site"] is None
