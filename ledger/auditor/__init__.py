"""Audits a ledger from its bytes: replay, recompute, compare, explain. Nothing here writes to what is audited.

`audit_ledger` stops at the first thing that is wrong, `replay` and `audit_rows` go on and name what they find.
"""

from ledger.auditor.primary import Audited, audit_ledger
from ledger.auditor.replay import Replayed, ReplaySettings, replay
from ledger.auditor.report import AuditReport, Check, Finding, Findings, Outcome
from ledger.auditor.rows import audit_rows

__all__ = [
    "AuditReport",
    "Audited",
    "Check",
    "Finding",
    "Findings",
    "Outcome",
    "ReplaySettings",
    "Replayed",
    "audit_ledger",
    "audit_rows",
    "replay",
]
