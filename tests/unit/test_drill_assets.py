"""How the rehearsed restore of an asset is judged: what was not compared, or came too late, has not passed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cli.drilling.assets import point_age_s
from cli.drilling.places import path_of
from ledger.assets import Asset, asset_source, checked
from ledger.capture.base import Restored
from ledger.core.event import Event
from ledger.errors import JinshiError, RestoreFailed, Tampered
from ledger.store.memory import MemoryEntryStore
from restore.drill.assets import Rehearsed, judge
from restore.drill.report import DrilledAsset, DrillReport
from tests.support.ledgers import FixedClock, append

NOW = datetime(2026, 11, 30, tzinfo=UTC)
WWW = Asset("www", "files", asset_source("www"), 5, "x", {"path": "/srv/www"})
DRILLED = DrilledAsset("www", "files", 5, "portal", "", 90, {"files": 3}, {"files": 3})
RESTORED = Restored(90, {"files": 3}, {"files": 3, "trees": 1})


def judged(
    restored: Restored | None = RESTORED,
    error: JinshiError | None = None,
    *,
    took_s: float = 10.0,
    age_s: float = 20.0,
    rpo_s: float | None = 60.0,
) -> DrillReport:
    finished = NOW + timedelta(seconds=took_s)
    drill = Rehearsed("example.com/log", "far", NOW, finished, 95, 100, took_s, age_s, restored, error)
    return judge(DRILLED, drill, rpo_s=rpo_s, rto_s=60.0)


def red(report: DrillReport) -> list[str]:
    return [one.name for one in report.checks if not one.passed]


def test_what_came_back_in_time_has_passed_and_is_recorded_by_site_and_asset() -> None:
    report = judged()
    assert (report.passed, report.rto_ms, report.rpo_ms, report.rpo_entries) == (True, 10_000, 20_000, 5)
    event = report.to_event()
    assert event.subject == "far/www"
    assert isinstance(event.json_data, dict)
    assert event.json_data["asset"] == DRILLED.to_json()


def test_every_check_can_fail() -> None:
    assert red(judged(took_s=61.0)) == ["RTO"]
    assert red(judged(age_s=61.0)) == ["RPO"]
    assert red(judged(age_s=61.0, rpo_s=None)) == [], "an earlier point was asked for"
    assert red(judged(Restored(90, {"files": 3}, {}))) == ["compared"]
    assert red(judged(Restored(90, {"files": 3}, {"files": 0}))) == ["compared"]
    everything = ["restore", "compared", "RPO", "RTO"]
    failed = judged(None, RestoreFailed("a is not what was captured"))
    assert (red(failed), failed.tampered, failed.size) == (everything, False, 0)
    assert failed.checks[0].detail == "a is not what was captured"
    assert judged(None, Tampered("a pack is damaged")).tampered


@pytest.mark.parametrize(
    ("kind", "place", "path"),
    [
        ("files", "scratch", "scratch"),
        ("config", "a/b", "a/b"),
        ("commands", "file:dump", "dump"),
        ("commands", "/srv/a.sqlite", "/srv/a.sqlite"),
        ("commands", "rehearsal", None),
        ("commands", "-", None),
        ("events", "all.jsonl", "all.jsonl"),
        ("events", "https://example.gov/events", None),
        ("events", "-", None),
        ("postgres", "postgresql://spare/rehearsal", None),
    ],
)
def test_what_a_drill_removes_is_a_path_or_nothing_of_its_own(kind: str, place: str, path: str | None) -> None:
    found = path_of(Asset("a", kind, asset_source("a"), 1, "x"), place)
    assert found == (None if path is None else Path(path).absolute())


@pytest.mark.parametrize("kind", ["files", "events"])
async def test_how_old_the_point_is_that_comes_back(kind: str) -> None:
    clock, store = FixedClock(), MemoryEntryStore()
    events = kind == "events"
    source = "urn:city:permits" if events else WWW.source
    asset = WWW if not events else Asset("p", "events", asset_source("p"), 5, "x", {"sources": [source]})
    await append(store, [Event("1", source, "tree.sealed.v1")], clock)
    clock.advance(100)
    await append(store, [Event("2", source, "other.v1") if events else checked(WWW, 0, at=1)], clock)
    clock.advance(50)
    now = clock.now()
    if events:
        assert await point_age_s(store, asset, 0, 2, now) == 0, "the copy has all of them"
        assert await point_age_s(store, asset, 0, 1, now) == 50, "the first one that it lacks"
    else:
        assert await point_age_s(store, asset, 0, 2, now) == 50, "it was looked at since, and nothing had changed"
        assert await point_age_s(store, asset, 0, 1, now) == 150, "the copy does not know of that"
