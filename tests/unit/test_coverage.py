"""What keeps an asset from being protected: every check is broken once, and seen to be red."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cli.assets.beside import _siblings, look_beside
from cli.assets.coverage import AssetFacts, Check, DrillFacts, Finding, SiteFacts, findings, left_behind
from cli.assets.watching import Watch, drill_of
from cli.config import read_environment
from ledger.asset_lag import AssetLag, AssetLagMeter
from ledger.assets import Asset, Registry, added, asset_source, checked
from ledger.core.acknowledgement import ALL, LOCAL, AckPolicy, parse_ack
from ledger.core.acts import DRILLED, acts_source
from ledger.core.entry import decode_entry
from ledger.core.event import Event
from ledger.errors import Malformed
from ledger.grades import DAY_US, grade_of
from ledger.sources import Mode, Sources, declaration
from ledger.store.memory import MemoryEntryStore
from tests.support.ledgers import FixedClock, append

ORIGIN = "example.com/log"
NOW_US = 1_000 * DAY_US
MINUTE_US = 60_000_000
NEAR, FAR = SiteFacts("near", "same-city", 100), SiteFacts("far", "remote", 100)
WWW = Asset("www", "files", asset_source("www"), 5, "x", {"path": "/srv/www"}, since_us=NOW_US - 10 * DAY_US)
NONE, LATE = AssetLag(0, 0, 0.0), AssetLag(3, 900, 3_600.0)
DRILL = DrillFacts("far", NOW_US - DAY_US, True, 60_000)


def facts(
    asset: Asset = WWW,
    *,
    acks: Sequence[AckPolicy] = (parse_ack("any:1"),),
    seen_us: int | None = NOW_US - MINUTE_US,
    near: AssetLag = NONE,
    far: AssetLag = NONE,
) -> AssetFacts:
    return AssetFacts(asset, acks, 90, seen_us, {"near": near, "far": far})


def found(
    what: AssetFacts,
    sites: Sequence[SiteFacts] = (NEAR, FAR),
    drills: Sequence[DrillFacts] = (DRILL,),
    now_us: int = NOW_US,
) -> list[Finding]:
    return findings(what, grade_of(what.asset.grade), sites, drills, now_us)


def checks(
    what: AssetFacts, sites: Sequence[SiteFacts] = (NEAR, FAR), drills: Sequence[DrillFacts] = (DRILL,)
) -> list[Check]:
    return [finding.check for finding in found(what, sites, drills)]


def test_what_is_as_it_has_to_be_is_found_fine() -> None:
    assert found(facts()) == []
    assert found(facts(far=AssetLag(1, 10, 30.0)), drills=[]) == [], "on its way; and no drill is due yet"


@pytest.mark.parametrize(
    ("sites", "what"),
    [
        ([NEAR, replace(FAR, trouble="cannot be reached: timed out")], "site far cannot be reached"),
        ([replace(NEAR, trouble="is damaged: tile/0/000", damaged=True), FAR], "site near is damaged"),
        ([NEAR, replace(FAR, size=0)], "verified nothing"),
    ],
)
def test_a_site_without_a_good_copy(sites: Sequence[SiteFacts], what: str) -> None:
    (one,) = found(facts(), sites)
    assert one.check is Check.COPIES
    assert what in one.what
    assert one.todo.startswith("jinshi scrub near" if "damaged" in what else "see jinshi status")


def test_a_site_that_is_behind_by_more_than_the_rpo() -> None:
    (one,) = found(facts(far=LATE))
    assert (one.check, one.what) == (Check.COPIES, "site far is 60 min behind with it (RPO 30 min)")
    (one,) = found(facts(far=LATE), [NEAR, replace(FAR, size=90)])
    assert "lacks its last consistent point" in one.what
    assert found(facts(replace(WWW, grade=3), acks=[LOCAL], near=LATE, far=AssetLag(1, 1, 80_000.0))) == []
    six = replace(WWW, grade=6)
    assert checks(facts(six, acks=[ALL], far=AssetLag(1, 1, 61.0))) == [Check.COPIES]
    assert checks(facts(six, acks=[ALL], far=AssetLag(1, 1, 59.0))) == []


def test_one_of_two_such_sites_is_enough_where_one_is_demanded() -> None:
    other = SiteFacts("far-2", "remote", 100)
    bad = replace(FAR, trouble="cannot be reached: x")
    assert found(AssetFacts(WWW, (ALL,), 90, NOW_US, {}), [NEAR, bad, other]) == []
    lowest = replace(WWW, grade=1)
    assert found(facts(lowest, acks=[LOCAL]), [bad, NEAR]) == []
    assert [one.check for one in found(facts(lowest, acks=[LOCAL]), [bad])] == [Check.COPIES]


def test_a_site_that_is_not_there_at_all() -> None:
    (one,) = found(facts(), [NEAR])
    assert (one.check, one.what) == (Check.SITES, "grade 5 demands 1 remote site, there are 0")
    assert "jinshi site add" in one.todo


def test_a_source_that_is_acknowledged_by_less() -> None:
    (one,) = found(facts(acks=[parse_ack("any:1"), LOCAL]))
    assert (one.check, "jinshi asset amend www --grade 5" in one.todo) == (Check.ACKNOWLEDGED, True)
    assert found(facts(acks=[ALL])) == []


def test_a_capture_that_does_not_run() -> None:
    assert checks(facts(seen_us=NOW_US - 31 * MINUTE_US)) == [Check.CAPTURE]
    (one,) = found(facts(seen_us=None))
    assert "never captured" in one.what
    just_added = facts(replace(WWW, since_us=NOW_US - MINUTE_US), seen_us=None)
    assert [one.check for one in found(just_added)] == [Check.CAPTURE]
    assert findings(just_added, grade_of(5), [NEAR, FAR], [DRILL], NOW_US, grace_s=61) == []
    assert checks(facts(replace(WWW, paused=True), seen_us=None)) == [Check.PAUSED]
    degraded = replace(WWW, problems=("a: permission denied", "b: vanished"))
    (one,) = found(facts(degraded))
    assert (one.check, "and 1 more" in one.what) == (Check.DEGRADED, True)
    events = replace(WWW, kind="events", options={"sources": ["urn:x"]}, paused=True)
    assert found(facts(events, seen_us=None)) == [], "nothing captures it"
    hourly = replace(WWW, grade=6, options={"path": "/srv/www", "every_s": 3_600})
    assert checks(facts(hourly, acks=[ALL], seen_us=NOW_US - 100 * MINUTE_US)) == []
    assert checks(facts(hourly, acks=[ALL], seen_us=NOW_US - 121 * MINUTE_US)) == [Check.CAPTURE]


def test_points_that_were_released_although_the_grade_demands_them() -> None:
    kept_us = NOW_US - 500 * DAY_US  # as grade 2 demands, and grade 5 does not
    (one,) = found(replace(facts(), kept_since_us=kept_us))
    assert one.check is Check.RETENTION
    assert "were released; grade 5 demands 1,825 days" in one.what
    assert found(replace(facts(replace(WWW, grade=2), acks=[LOCAL]), kept_since_us=kept_us)) == []


def test_a_drill_that_is_overdue_or_failed_or_took_too_long() -> None:
    old = replace(DRILL, finished_us=NOW_US - 91 * DAY_US)
    (one,) = found(facts(), drills=[old])
    assert (one.check, "91 days ago; one is due every 90 days" in one.what) == (Check.DRILL, True)
    never = replace(WWW, since_us=NOW_US - 91 * DAY_US)
    (one,) = found(facts(never), drills=[])
    assert "no drill has passed" in one.what
    (one,) = found(facts(), drills=[DRILL, replace(DRILL, site="near", passed=False)])
    assert "the last drill from near failed" in one.what
    (one,) = found(facts(replace(WWW, grade=6), acks=[ALL]), drills=[replace(DRILL, rto_ms=1_801_000)])
    assert "its RTO is 30 min" in one.what
    assert checks(facts(replace(WWW, grade=3), acks=[LOCAL]), drills=[replace(DRILL, site="near", passed=False)]) == []


def test_every_finding_says_what_to_do() -> None:
    bad = replace(WWW, grade=6, problems=("x",), paused=True, since_us=0)
    every = found(facts(bad, acks=[LOCAL], near=LATE), [NEAR], [replace(DRILL, site="near", passed=False)])
    assert {one.check for one in every} == {Check.SITES, Check.COPIES, Check.DEGRADED, Check.PAUSED, Check.DRILL}
    assert all("jinshi" in one.todo for one in every)


# -- out of the log -------------------------------------------------------------------------------------------------


async def test_the_facts_are_taken_out_of_the_log_as_it_grows() -> None:
    clock, store = FixedClock(), MemoryEntryStore()
    created = Event.of_json({"format": 1}, id="c", source=acts_source(ORIGIN), type="ledger.created.v1")
    sources = Sources(Mode.SEALED)
    declared = declaration(ORIGIN, WWW.source, Mode.SEALED, at=1, ack=parse_ack("any:1"))
    registered = replace(WWW, since_us=0)
    await append(store, [created, added(ORIGIN, registered, at=0), declared], clock)
    for stored in await store.read(2, 1):
        sources.apply(decode_entry(stored.entry))
    registry = Registry(store)
    watch = Watch(store, ORIGIN, clock, registry, AssetLagMeter(store, clock))

    async def red(size: int | None = None) -> list[Check]:
        head = (await store.head()).size if size is None else size
        sites = [replace(NEAR, size=head), replace(FAR, size=head)]
        ((asset, found),) = await watch.look(sites, sources)
        assert asset == WWW
        return [one.check for one in found]

    assert await red() == [Check.CAPTURE]
    clock.advance(2_000)
    sealed = Event.of_json({}, id="s1", source=WWW.source, type="tree.sealed.v1")
    await append(store, [sealed], clock)
    assert await red() == []
    clock.advance(2_000)
    assert await red(size=3) == [Check.COPIES, Check.COPIES, Check.CAPTURE], "the entry is at neither site"
    await append(store, [checked(WWW, 3, at=4)], clock)
    assert await red() == [], "a look that found nothing new is a sign of life"
    clock.advance(90 * 86_400)
    assert await red() == [Check.CAPTURE, Check.DRILL]
    report = {"site": "far", "passed": True, "rto_ms": 1_000}
    drill = Event.of_json(report, id="d", source=acts_source(ORIGIN), type=DRILLED, subject="far")  # type: ignore[arg-type]
    await append(store, [drill], clock)
    assert await red() == [Check.CAPTURE]
    failed = Event.of_json(
        {**report, "passed": False},  # type: ignore[arg-type]
        id="e",
        source=acts_source(ORIGIN),
        type=DRILLED,
        subject="far",
    )
    await append(store, [failed], clock)
    assert Check.DRILL in await red()


def test_the_drills_of_an_asset_count_before_those_of_the_ledger() -> None:
    own = replace(DRILL, finished_us=NOW_US - 2 * DAY_US)
    with_own = replace(facts(), drills=[own])
    assert found(with_own, drills=[]) == []
    (one,) = found(replace(with_own, drills=[replace(own, passed=False)]))
    assert "its last drill from far failed" in one.what, "the ledger's own drill has not restored it"
    assert "--asset www" in one.todo
    late = replace(DRILL, finished_us=NOW_US - 91 * DAY_US)
    (one,) = found(replace(with_own, drills=[late]))
    assert "91 days ago" in one.what, "a drill of the ledger does not take its place"
    (one,) = found(replace(with_own, drills=[replace(own, rto_ms=200_000_000)]))
    assert "its RTO is" in one.what
    # That the ledger's failed is mended by a later one of the asset, from the same site, and by no earlier one.
    assert found(with_own, drills=[replace(DRILL, passed=False, finished_us=own.finished_us - 1)]) == []
    assert checks(with_own, drills=[replace(DRILL, passed=False)]) == [Check.DRILL]
    elsewhere = replace(DRILL, site="near", passed=False, finished_us=own.finished_us - 1)
    assert checks(with_own, drills=[elsewhere]) == [Check.DRILL]


def test_a_drill_that_cannot_be_read_is_none() -> None:
    assert drill_of(Event("1", "urn:x", DRILLED, data=b"\xff"), 0) is None
    assert drill_of(Event("1", "urn:x", DRILLED, data=b"[]"), 0) is None
    with pytest.raises(Malformed):
        _ = Event("1", "urn:x", DRILLED).json_data


# -- beside ---------------------------------------------------------------------------------------------------------


def tree(tmp_path: Path) -> Asset:
    root = tmp_path / "srv" / "www"
    root.mkdir(parents=True)
    (root / "index.html").write_text("x")
    return Asset("www", "files", asset_source("www"), 1, "x", {"path": str(root)})


async def beside(*assets: Asset, own: Sequence[Path] = ()) -> list[str]:
    looked = await look_beside(assets, read_environment({}), own)
    assert all(one.todo for one in looked.findings)
    return [one.what for one in looked.findings]


async def test_a_directory_beside_a_tree_that_nothing_covers(tmp_path: Path) -> None:
    asset, srv = tree(tmp_path), tmp_path / "srv"
    for name in ("mail", "own", ".hidden"):
        (srv / name).mkdir()
        (srv / name / "file").write_text("x")
    (srv / "empty").mkdir()
    (srv / "link").symlink_to(srv / "mail")
    assert await beside(asset, own=[srv / "own" / "ledger"]) == [f"beside it in {srv} no asset covers: mail"]
    named = replace(asset, options={**asset.options, "beside": ["mai*"]})
    assert await beside(named, own=[srv / "own"]) == []
    other = Asset("mail", "config", asset_source("mail"), 1, "x", {"path": str(srv / "mail" / "file")})
    assert await beside(asset, other, own=[srv / "own"]) == []
    assert _siblings(Path("/srv"), None) == []  # type: ignore[arg-type]


async def test_database_files_in_and_beside_a_tree(tmp_path: Path) -> None:
    asset, srv = tree(tmp_path), tmp_path / "srv"
    (srv / "www" / "deep").mkdir()
    for place in (srv / "www" / "deep" / "app.db", srv / "beside.db"):
        with sqlite3.connect(place) as db:
            db.execute("CREATE TABLE t (x)")
        db.close()
    cluster = srv / "www" / "pg"
    (cluster / "global").mkdir(parents=True)
    (cluster / "PG_VERSION").write_text("18\n")
    (srv / "www" / os.fsdecode(b"\xff.db")).write_bytes((srv / "beside.db").read_bytes())
    (srv / "www" / "looks-like.db").write_bytes(b"SQLite format 3\0 but is not")
    (what,) = await beside(asset)
    for name in ("deep/app.db", "beside.db", "pg", "\\udcff.db"):
        assert name in what
    assert "looks-like" not in what
    assert what.encode(), "it can be recorded in an alarm"
    options = {"dump": ["sqlite3", str(srv / "beside.db"), ".dump"]}
    dumped = Asset("db", "commands", asset_source("db"), 1, "x", options)  # type: ignore[arg-type]
    named = replace(asset, options={**asset.options, "beside": ["deep/*", "pg", "?.db"]})
    assert await beside(named, dumped) == []


async def test_a_tree_that_is_not_there(tmp_path: Path) -> None:
    asset = replace(WWW, options={"path": str(tmp_path / "nothing")})
    assert await beside(asset) == [f"{tmp_path / 'nothing'} is no directory that can be read"]


async def test_a_server_that_cannot_be_asked_shows_no_secret(tmp_path: Path) -> None:
    asset = Asset("db", "postgres", asset_source("db"), 1, "x", secrets={"dsn": "env:DSN"})
    environment = read_environment({"DSN": "postgresql://u:hunter2@127.0.0.1:9/x"})
    (one,) = (await look_beside([asset], environment, [])).findings
    assert (one.check, "hunter2" in one.what) == (Check.PLACE, False)
    (one,) = (await look_beside([asset], read_environment({}), [])).findings
    assert "DSN is not set" in one.what
    (one,) = (await look_beside([asset], read_environment({"DSN": "hunter2 no dsn"}), [])).findings
    assert "hunter2" not in one.what


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"retention_days": 1_824}, "keeps what it holds for 1,824 days; grade 5 demands 1,825 days"),
        ({"lock_days": 30}, "locks what it holds for 30 days; grade 5 demands 1,825 days"),
        ({"lock_days": 1_825, "unlocked": "versioning of s3://b is off"}, "versioning of s3://b is off"),
    ],
)
def test_a_site_that_keeps_or_locks_for_less_than_the_grade_demands(change: dict[str, Any], said: str) -> None:
    (one,) = found(facts(), (NEAR, replace(FAR, **change)))
    assert (one.check, said in one.what) == (Check.RETENTION, True), one.what
    assert not found(facts(), (NEAR, replace(FAR, retention_days=1_825, lock_days=1_825)))


def test_what_a_retired_asset_has_left_is_said_until_it_is_gone() -> None:
    database = replace(WWW, kind="postgres", retired=True)
    (one,) = left_behind(database)
    assert (one.check, "--drop-slots" in one.todo) == (Check.LEFT, True)
    assert not left_behind(replace(database, left=True))
    assert not left_behind(replace(database, retired=False))
    assert not left_behind(replace(WWW, retired=True)), "a tree of files has nothing of ours"
