"""What a drill found, as values: recorded in the ledger, and shown. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ledger.core.acts import DRILLED, acts_source
from ledger.core.canonical import JsonValue
from ledger.core.event import Event


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One check: whether it held, and what was seen. `tampered`: it failed because a copy is not genuine."""

    name: str
    passed: bool
    detail: str
    tampered: bool = False

    def to_json(self) -> dict[str, JsonValue]:
        """As the report holds it."""
        return {"name": self.name, "passed": self.passed, "detail": self.detail, "tampered": self.tampered}


@dataclass(frozen=True, slots=True)
class DrilledAsset:
    """The asset that was restored. `sealed`: the entry whose point it is, None where nothing was; `at`: as asked for.

    `counts` says what was restored, `compared` what was compared with what was captured, and held.
    """

    name: str
    kind: str
    grade: int
    group: str = ""
    at: str = ""
    sealed: int | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    compared: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, JsonValue]:
        """As the report holds it."""
        return {
            "name": self.name,
            "kind": self.kind,
            "grade": self.grade,
            "group": self.group,
            "at": self.at,
            "sealed": self.sealed,
            "counts": dict(self.counts),
            "compared": dict(self.compared),
        }


@dataclass(frozen=True, slots=True)
class DrillReport:
    """A rehearsed restore. Times are RFC 3339, lengths are milliseconds.

    `rpo_ms` is the age of the oldest entry that would have been lost, 0 when none; of an `asset`, that of its last
    consistent point. `rto_ms` is the time from the decision to restore until what was restored had answered every
    check. `asset`: what was restored, where it was not the ledger as a whole.
    """

    origin: str
    site: str
    started: str
    finished: str
    size: int
    head_size: int
    rpo_ms: int
    rto_ms: int
    checks: tuple[CheckResult, ...]
    asset: DrilledAsset | None = None

    @property
    def subject(self) -> str:
        """What it is found by: the site, or, of an asset, `<site>/<asset>`: an asset's name has no slash."""
        return self.site if self.asset is None else drill_subject(self.site, self.asset.name)

    @property
    def passed(self) -> bool:
        """Whether every check held; a drill without checks proves nothing."""
        return bool(self.checks) and all(check.passed for check in self.checks)

    @property
    def tampered(self) -> bool:
        """Whether a check failed because a copy is not genuine."""
        return any(check.tampered for check in self.checks)

    @property
    def rpo_entries(self) -> int:
        """How many entries would have been lost."""
        return self.head_size - self.size

    def to_json(self) -> dict[str, JsonValue]:
        """The data of `drill.completed.v1`."""
        return {
            "site": self.site,
            "started": self.started,
            "finished": self.finished,
            "size": self.size,
            "head_size": self.head_size,
            "rpo_entries": self.rpo_entries,
            "rpo_ms": self.rpo_ms,
            "rto_ms": self.rto_ms,
            "passed": self.passed,
            "checks": [check.to_json() for check in self.checks],
            **({} if self.asset is None else {"asset": self.asset.to_json()}),
        }

    def to_event(self) -> Event:
        """The event that records it."""
        return Event.of_json(
            id=f"drill:{self.subject}:{self.started}",
            source=acts_source(self.origin),
            type=DRILLED,
            subject=self.subject,
            time=self.finished,
            data=self.to_json(),
        )


def drill_subject(site: str, asset: str) -> str:
    """The subject of a drill of that asset from that site."""
    return f"{site}/{asset}"
