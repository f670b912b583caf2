"""Whether an asset is protected as its grade demands: facts in, findings out. Pure; watching.py finds the facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from cli.display import render
from ledger.asset_lag import AssetLag
from ledger.assets import Asset
from ledger.core.acknowledgement import AckPolicy
from ledger.core.event import format_time
from ledger.grades import ANY_ROLE, DAY_US, Grade
from ledger.kinds import KINDS

SETTLING_S: Final = 60.0
"""What is younger than this is on its way to the sites, also where nothing may be lost: then its append still waits."""


class Check(StrEnum):
    """What a finding is about."""

    SITES = "sites"
    COPIES = "copies"
    ACKNOWLEDGED = "acknowledged"
    CAPTURE = "capture"
    PAUSED = "paused"
    DEGRADED = "degraded"
    DRILL = "drill"
    PLACE = "place"
    BESIDE = "beside"
    LEFT = "left"
    RETENTION = "retention"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it has to be, in one line, and what to do about it."""

    asset: str
    check: Check
    what: str
    todo: str

    @property
    def json(self) -> dict[str, str]:
        return {"asset": self.asset, "check": self.check.value, "what": self.what, "todo": self.todo}


@dataclass(frozen=True, slots=True)
class SiteFacts:
    """One site: how much it has verified and cosigned, and why its copy does not count now ('': it does).

    `retention_days`: for how long it keeps what it holds, None: for ever; `lock_days`: how long Object Lock does, 0: it
    has none; `unlocked`: why it locks nothing, although it should.
    """

    name: str
    role: str
    size: int
    trouble: str = ""
    damaged: bool = False
    retention_days: int | None = None
    lock_days: int = 0
    unlocked: str = ""


@dataclass(frozen=True, slots=True)
class DrillFacts:
    """The last drill from one site, as it is recorded."""

    site: str
    finished_us: int
    passed: bool
    rto_ms: int


@dataclass(frozen=True, slots=True)
class AssetFacts:
    """One asset. `sealed` is the index of its last sealing entry, `seen_us` when it was last sealed or looked at.

    `acks` are what acknowledges its sources; `lags` what each site lacks of it, by the site's name; `drills` the last
    that restored it, from each site. `kept_since_us`: when its oldest point that was not released was recorded, None:
    none ever was.
    """

    asset: Asset
    acks: Sequence[AckPolicy] = ()
    sealed: int | None = None
    seen_us: int | None = None
    lags: Mapping[str, AssetLag] = field(default_factory=dict)
    drills: Sequence[DrillFacts] = ()
    kept_since_us: int | None = None


def findings(
    facts: AssetFacts,
    grade: Grade,
    sites: Sequence[SiteFacts],
    drills: Sequence[DrillFacts],
    now_us: int,
    *,
    grace_s: float = 0.0,
) -> list[Finding]:
    """What keeps an active asset from being protected as its grade demands.

    `grace_s`: for so long after it was added nothing is said of its not having been captured yet.
    """
    return [
        *_sites(facts.asset, grade, sites),
        *_copies(facts, grade, sites),
        *_retention(facts.asset, grade, sites),
        *_released(facts, grade, now_us),
        *_acknowledged(facts, grade, sites),
        *_capture(facts, grade, now_us, grace_s),
        *_drill(facts, grade, sites, drills, now_us),
    ]


def left_behind(asset: Asset) -> list[Finding]:
    """What a retired asset has left at its system, where it would do harm."""
    if not asset.retired or not asset.leaves:
        return []
    todo = f"jinshi asset retire {asset.name} --drop-slots; where the server is no more: --server-gone"
    return [Finding(asset.name, Check.LEFT, f"it is retired, and {asset.leaves}", todo)]


def _sites(asset: Asset, grade: Grade, sites: Sequence[SiteFacts]) -> list[Finding]:
    todo = "add it: jinshi site add NAME PLACE --role same-city|remote"
    return [Finding(asset.name, Check.SITES, gap, todo) for gap in grade.gaps([site.role for site in sites])]


def _copies(facts: AssetFacts, grade: Grade, sites: Sequence[SiteFacts]) -> list[Finding]:
    found: list[Finding] = []
    for role, wanted in grade.sites.items():
        those = [site for site in sites if role in (ANY_ROLE, site.role)]
        bad = [(site, why) for site in those if (why := _why_not(site, facts, grade))]
        if not bad or len(those) - len(bad) >= wanted:
            continue
        what = "; ".join(f"site {site.name} {why}" for site, why in bad)
        damaged = next((site.name for site, _ in bad if site.damaged), None)
        todo = "see jinshi status; where no server runs: jinshi replicate --once"
        if damaged is not None:
            todo = f"jinshi scrub {damaged}, which heals it from another copy"
        found.append(Finding(facts.asset.name, Check.COPIES, what, todo))
    return found


def _retention(asset: Asset, grade: Grade, sites: Sequence[SiteFacts]) -> list[Finding]:
    """Sites that the grade counts on, and that keep or lock what they hold for less time than it demands."""
    found: list[tuple[str, str]] = []
    demanded = f"grade {grade.level} demands {_days(grade.retention_days)}"
    for site in (site for site in sites if grade.demands(site.role)):
        if site.unlocked:
            todo = f"switch it on again at the bucket; then: jinshi scrub {site.name}, jinshi site extend {site.name}"
            found.append((f"site {site.name} does not lock what is written there: {site.unlocked}", todo))
        if site.retention_days is not None and site.retention_days < grade.retention_days:
            kept = f"site {site.name} keeps what it holds for {_days(site.retention_days)}; {demanded}"
            found.append((kept, "add a site that keeps it for longer, or amend the grade"))
        if 0 < site.lock_days < grade.retention_days:
            todo = f"raise its lock_days in jinshi.json; then: jinshi site extend {site.name}"
            found.append((f"site {site.name} locks what it holds for {_days(site.lock_days)}; {demanded}", todo))
    return [Finding(asset.name, Check.RETENTION, what, todo) for what, todo in found]


def _released(facts: AssetFacts, grade: Grade, now_us: int) -> list[Finding]:
    """Points that were released although the grade demands that they can be restored: it was another one then."""
    since_us = facts.kept_since_us
    if since_us is None or since_us <= now_us - grade.retention_us:
        return []
    until = render.moment(format_time(since_us + grade.retention_us))
    what = f"points before {render.moment(format_time(since_us))} were released; grade {grade.level} demands"
    todo = f"nothing brings them back; it is as demanded again from {until} on, or amend the grade"
    return [Finding(facts.asset.name, Check.RETENTION, f"{what} {_days(grade.retention_days)}", todo)]


def _days(count: int) -> str:
    return render.count(count, "day", "days")


def _why_not(site: SiteFacts, facts: AssetFacts, grade: Grade) -> str:
    """Why a site's copy of an asset does not count; '': it does."""
    if site.trouble:
        return site.trouble
    if not site.size:
        return "has verified nothing yet"
    lag = facts.lags.get(site.name)
    if lag is None or lag.seconds <= max(grade.rpo_s, SETTLING_S):
        return ""
    point = ""
    if facts.sealed is not None and site.size <= facts.sealed:
        point = ", and lacks its last consistent point"
    return f"is {render.duration(lag.seconds)} behind with it (RPO {render.duration(grade.rpo_s)}){point}"


def _acknowledged(facts: AssetFacts, grade: Grade, sites: Sequence[SiteFacts]) -> list[Finding]:
    weaker = [ack for ack in facts.acks if ack.is_weaker_than(grade.ack)]
    if not weaker or grade.gaps([site.role for site in sites]):  # then the missing site is what is to be mended
        return []
    what = f"its entries are acknowledged by {weaker[0]}; grade {grade.level} demands {grade.ack}"
    todo = f"declare it again: jinshi asset amend {facts.asset.name} --grade {grade.level}"
    return [Finding(facts.asset.name, Check.ACKNOWLEDGED, what, todo)]


def overdue(asset: Asset, grade: Grade, seen_us: int, now_us: int) -> str:
    """How long ago it was last sealed or looked at, where that is too long; '': it is not."""
    age_s, fresh_s = (now_us - seen_us) / 1_000_000, point_age_max_s(asset, grade)
    if age_s <= fresh_s:
        return ""
    what = f"its last consistent point, or look that found nothing new, is {render.duration(age_s)} old"
    return f"{what} (at most {render.duration(fresh_s)})"


def _capture(facts: AssetFacts, grade: Grade, now_us: int, grace_s: float) -> list[Finding]:
    asset, found = facts.asset, list[Finding]()
    if asset.problems:
        more = f" (and {len(asset.problems) - 1} more: jinshi asset show {asset.name})" if asset.problems[1:] else ""
        what = f"not all of it is captured: {asset.problems[0]}{more}"
        found.append(Finding(asset.name, Check.DEGRADED, what, f"mend it; then: jinshi capture {asset.name}"))
    if asset.kind in KINDS and not KINDS[asset.kind].captured:
        return found
    if asset.paused:
        what = "it is paused: nothing that happens to it is captured"
        return [*found, Finding(asset.name, Check.PAUSED, what, f"jinshi asset resume {asset.name}")]
    todo = f"jinshi capture {asset.name}; with jinshi serve it is captured all the time"
    if facts.seen_us is None:
        if now_us - asset.since_us >= grace_s * 1_000_000:
            found.append(Finding(asset.name, Check.CAPTURE, "it was never captured", todo))
        return found
    if what := overdue(asset, grade, facts.seen_us, now_us):
        found.append(Finding(asset.name, Check.CAPTURE, what, todo))
    return found


def point_age_max_s(asset: Asset, grade: Grade) -> float:
    """How old a capture may be: as the RPO says. Where that is 0, what is captured every so often may be twice that."""
    every_s = asset.options.get("every_s")
    return max(grade.fresh_s, 2 * every_s if isinstance(every_s, int) and not grade.rpo_s else 0)


def _drill(
    facts: AssetFacts, grade: Grade, sites: Sequence[SiteFacts], drills: Sequence[DrillFacts], now_us: int
) -> list[Finding]:
    """The asset's own drills count; those of the ledger as a whole, as long as it has none that passed."""
    asset = facts.asset
    demanded = {site.name for site in sites if grade.demands(site.role)}
    own = [drill for drill in facts.drills if drill.site in demanded]
    whole = [drill for drill in drills if drill.site in demanded]
    found = [_failed(asset, drill, own=True) for drill in own if not drill.passed]
    found += [_failed(asset, drill) for drill in whole if not drill.passed and not _is_mended(drill, own)]
    restored = [drill for drill in own if drill.passed]
    passed = max(
        restored or [drill for drill in whole if drill.passed], key=lambda drill: drill.finished_us, default=None
    )
    since_us = asset.since_us if passed is None else passed.finished_us
    todo = f"jinshi drill run --asset {asset.name} --from {min(demanded, default='SITE')}"
    if now_us - since_us > grade.drill_days * DAY_US:
        last = "no drill has passed since it was registered, " if passed is None else "the last drill that passed was "
        what = f"{last}{render.duration((now_us - since_us) / 1_000_000)} ago; one is due every {grade.drill_days} days"
        found.append(Finding(asset.name, Check.DRILL, what, todo))
    if passed is not None and passed.rto_ms > grade.rto_s * 1_000:
        took, bound = render.duration(passed.rto_ms / 1_000), render.duration(grade.rto_s)
        what = f"the last drill from {passed.site} took {took}; its RTO is {bound}"
        found.append(Finding(asset.name, Check.DRILL, what, f"find out why, or amend the grade; then: {todo}"))
    return found


def _failed(asset: Asset, drill: DrillFacts, *, own: bool = False) -> Finding:
    which, only = ("its", f"--asset {asset.name} ") if own else ("the", "")
    return Finding(
        asset.name,
        Check.DRILL,
        f"{which} last drill from {drill.site} failed ({render.moment(format_time(drill.finished_us))})",
        f"see its report: jinshi log --type drill.completed.v1; then: jinshi drill run {only}--from {drill.site}",
    )


def _is_mended(failed: DrillFacts, own: Sequence[DrillFacts]) -> bool:
    """Whether the asset was restored from that site after a drill of the whole ledger had failed there."""
    return any(one.passed and one.site == failed.site and one.finished_us > failed.finished_us for one in own)
