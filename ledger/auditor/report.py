"""What an audit found: the checks as values, each with its outcome and the entries or objects it names. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from ledger.core.canonical import JsonValue
from ledger.errors import InvalidRequest, JinshiError, Tampered, Unavailable

FINDINGS_MAX = 20
"""How many findings a check names; further ones are counted."""


class Outcome(StrEnum):
    """How a check went."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_RUN = "not run"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: `key` names the entry (`entry 17`) or the object (`tile/0/003`)."""

    key: str
    what: str


@dataclass(frozen=True, slots=True)
class Check:
    """One check. `detail` says what was compared, or why it did not run; `more` findings are not named."""

    name: str
    outcome: Outcome
    detail: str
    findings: tuple[Finding, ...] = ()
    more: int = 0

    @property
    def failures(self) -> int:
        """How many things are wrong."""
        return len(self.findings) + self.more

    def to_json(self) -> dict[str, JsonValue]:
        """For reports."""
        return {
            "name": self.name,
            "outcome": self.outcome.value,
            "detail": self.detail,
            "findings": [{"key": one.key, "what": one.what} for one in self.findings],
            "more": self.more,
        }


@dataclass(slots=True)
class Findings:
    """Findings being collected: the first `FINDINGS_MAX` are kept, the rest is counted."""

    found: list[Finding] = field(default_factory=list)
    more: int = 0

    def add(self, key: str, what: str) -> None:
        """One more; the same once only, while it is kept."""
        finding = Finding(key, what)
        if finding in self.found:
            return
        if len(self.found) < FINDINGS_MAX:
            self.found.append(finding)
        else:
            self.more += 1

    def add_error(self, error: JinshiError, key: str = "") -> None:
        """What an error says. Raises it again when it is no verdict: a store that cannot be read is no finding."""
        if isinstance(error, Unavailable | InvalidRequest):
            raise error
        self.add((error.key if isinstance(error, Tampered) else "") or key, error.what)

    def extend(self, other: Findings) -> None:
        """Those of another part of the same check."""
        for one in other.found:
            self.add(one.key, one.what)
        self.more += other.more

    def __bool__(self) -> bool:
        return bool(self.found or self.more)

    def check(self, name: str, detail: str) -> Check:
        """The check they are the findings of: passed when there are none."""
        outcome = Outcome.FAILED if self else Outcome.PASSED
        return Check(name, outcome, detail, tuple(self.found), self.more)


def passed(name: str, detail: str) -> Check:
    """A check that held."""
    return Check(name, Outcome.PASSED, detail)


def failed(name: str, detail: str, error: JinshiError, key: str = "") -> Check:
    """A check that an error decided. Raises it again when it is no verdict."""
    findings = Findings()
    findings.add_error(error, key)
    return findings.check(name, detail)


def not_run(name: str, why: str) -> Check:
    """A check that could not be made, and why."""
    return Check(name, Outcome.NOT_RUN, why)


@dataclass(frozen=True, slots=True)
class AuditReport:
    """A whole audit: of what, how far it went, and every check. Times are RFC 3339."""

    what: str
    origin: str
    size: int
    root: str
    started: str
    took_ms: int
    processes: int
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return not self.failed

    @property
    def failed(self) -> Sequence[Check]:
        """The checks that failed."""
        return [check for check in self.checks if check.outcome is Outcome.FAILED]

    def count(self, outcome: Outcome) -> int:
        """How many checks went that way."""
        return sum(check.outcome is outcome for check in self.checks)

    def to_json(self) -> dict[str, JsonValue]:
        """The report: integers, texts and lists only."""
        return {
            "format": 1,
            "what": self.what,
            "origin": self.origin,
            "size": self.size,
            "root": self.root,
            "started": self.started,
            "took_ms": self.took_ms,
            "processes": self.processes,
            "passed": self.passed,
            "checks": [check.to_json() for check in self.checks],
        }
