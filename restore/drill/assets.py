"""Judges the restore of an asset that was rehearsed: values in, a report out. Restoring it is the caller's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from ledger.capture.base import Restored
from ledger.core.event import format_moment
from ledger.errors import CheckFailed, JinshiError, Tampered
from restore.drill.checks import check_compared, check_limit
from restore.drill.report import CheckResult, DrilledAsset, DrillReport


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """How the restore of an asset came out: `restored`, or the `error` that stopped it.

    `size` is that of the copy, `head_size` that of the ledger when it began. `point_age_s`: how old the point was that
    was restored; of events, how old the first one was that the copy lacks. `took_s`: from the decision to restore on.
    """

    origin: str
    site: str
    started: datetime
    finished: datetime
    size: int
    head_size: int
    took_s: float
    point_age_s: float
    restored: Restored | None = None
    error: JinshiError | None = None


def judge(asset: DrilledAsset, drill: Rehearsed, *, rpo_s: float | None, rto_s: float) -> DrillReport:
    """The report. `rpo_s` is None where an earlier point was asked for: its age is measured and not judged."""
    done = drill.restored is not None
    checks = [
        _checked("restore", lambda: _restored(drill)),
        _checked("compared", lambda: check_compared(_of(drill).checks)),
    ]
    for name, measured_s, limit_s in (("RPO", drill.point_age_s, rpo_s), ("RTO", drill.took_s, rto_s)):
        if limit_s is not None:
            checks.append(_checked(name, partial(_within, drill, name, measured_s, limit_s)))
    return DrillReport(
        origin=drill.origin,
        site=drill.site,
        started=format_moment(drill.started),
        finished=format_moment(drill.finished),
        size=drill.size if done else 0,  # what was not restored is lost
        head_size=drill.head_size,
        rpo_ms=round(drill.point_age_s * 1000),
        rto_ms=round(drill.took_s * 1000),
        checks=tuple(checks),
        asset=asset,
    )


def _restored(drill: Rehearsed) -> str:
    if drill.error is not None:
        raise drill.error
    restored = _of(drill)
    what = ", ".join(f"{name}: {count:,}" for name, count in restored.counts.items())
    return f"{what}, as sealed by entry {restored.sealed} of {drill.size:,}"


def _within(drill: Rehearsed, name: str, measured_s: float, limit_s: float) -> str:
    _of(drill)
    return check_limit(name, measured_s, limit_s)


def _of(drill: Rehearsed) -> Restored:
    if drill.restored is None:
        raise CheckFailed("not run: nothing was restored")
    return drill.restored


def _checked(name: str, check: Callable[[], str]) -> CheckResult:
    try:
        return CheckResult(name, True, check())
    except JinshiError as error:
        return CheckResult(name, False, str(error), isinstance(error, Tampered))
