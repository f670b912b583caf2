"""What an audit found: the checks as values, each with its outcome and the entries or objects it names. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from ledger.core.acts import AUDITED, acts_source
from ledger.core.canonical import JsonValue, canonicalize
from ledger.core.event import Event
from ledger.errors import InvalidRequest, JinshiError, Tampered, Unavailable

FINDINGS_MAX = 20
"""How many findings a check names; further ones are counted."""
RECORDED_SIZE_MAX = 32_768
"""Of a report in the ledger, as canonical JSON: an entry has room for twice as much."""
_TEXT_MAX = 300
_NAMED = (FINDINGS_MAX, 10, 5, 2, 1, 0)


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
    """A whole audit: of what, how far it went, and every check. Times are RFC 3339.

    `site`: the name of the site that was audited; None: the ledger's own directory, or a place without a name.
    """

    what: str
    origin: str
    site: str | None
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

    def to_event(self) -> Event:
        """The event that records it in its ledger, as `ledger.audited.v1` (docs/formats.md, section 6).

        However much was found, the data has at most `RECORDED_SIZE_MAX` bytes: texts are cut, and of the findings as
        many are named as there is room for; the others are counted in `more`.
        """
        data: dict[str, JsonValue] = {}
        for named in _NAMED:
            data = {
                "format": 1,
                "site": self.site,
                "size": self.size,
                "root": self.root,
                "started": self.started,
                "took_ms": self.took_ms,
                "passed": self.passed,
                "checks": [_recorded(check, named) for check in self.checks],
            }
            if len(canonicalize(data)) <= RECORDED_SIZE_MAX:
                break
        return Event.of_json(
            data,
            id=f"audit:{self.site or ''}:{self.started}",
            source=acts_source(self.origin),
            type=AUDITED,
            subject=self.site or self.origin,
        )


def _recorded(check: Check, named: int) -> dict[str, JsonValue]:
    """A check as an entry holds it, with so many of its findings."""
    return {
        "name": check.name,
        "outcome": check.outcome.value,
        "detail": _cut(check.detail),
        "findings": [{"key": _cut(one.key), "what": _cut(one.what)} for one in check.findings[:named]],
        "more": check.failures - len(check.findings[:named]),
    }


def _cut(text: str) -> str:
    """A text of bounded length; half a surrogate pair, as undecodable file names have, is no text and is escaped."""
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    cut = text[:_TEXT_MAX]
    while len(canonicalize(cut)) > 3 * _TEXT_MAX:  # a control character takes six bytes
        cut = cut[: len(cut) // 2]
    return text if cut == text else f"{cut}..."
