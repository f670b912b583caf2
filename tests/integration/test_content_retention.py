"""Content beyond its retention, by the command: what goes, what stays, and what is said of what has gone."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cli.serving.handover import open_to_record
from cli.system import SystemClock
from ledger.assets import asset_source
from ledger.content.released import released_events
from tests.support.assets import add, add_database, change_database, eventually, make_database, rows_of, types_of
from tests.support.captured import environment
from tests.support.cli import PASSPHRASE, Jinshi, contents, ledger_in
from tests.support.ledgers import ACTOR
from tests.support.serving import serving

SIZE = 5_000
"""Of a file that does not fit its entry."""


@dataclass
class Calendar:
    """The clock of every command in this process, moved by whole days."""

    began: datetime = field(default_factory=lambda: datetime.now(UTC))
    days: float = 0

    def now(self) -> datetime:
        return datetime.now(UTC) + timedelta(days=self.days)


@pytest.fixture
def calendar(monkeypatch: pytest.MonkeyPatch) -> Calendar:
    calendar = Calendar()
    monkeypatch.setattr(SystemClock, "now", lambda _: calendar.now())
    return calendar


RELEASED = "content.released.v1"


@pytest.fixture
def jinshi(tmp_path: Path, calendar: Calendar) -> Jinshi:
    return ledger_in(tmp_path)


def capture(jinshi: Jinshi, name: str) -> int:
    index: int = jinshi("capture", name, "--json").json["index"]
    return index


def collected(jinshi: Jinshi, calendar: Calendar) -> None:
    """At the primary, and at every site once the week has passed."""
    jinshi("replicate", "--once")
    jinshi("content", "collect")
    sites = [site["name"] for site in jinshi("status", "--json").json["sites"]]
    for _ in range(2):
        for site in sites:
            jinshi("content", "collect", "--site", site)
        calendar.days += 8


def proven(jinshi: Jinshi) -> None:
    jinshi("verify")
    for site in jinshi("status", "--json").json["sites"]:
        jinshi("verify", "--site", site["name"])
        jinshi("drill", "run", "--from", site["name"])


def packs(jinshi: Jinshi) -> int:
    number: int = jinshi("content", "status", "--json").json["packs"]
    return number


def test_a_tree_of_which_what_is_beyond_its_retention_goes(jinshi: Jinshi, calendar: Calendar, tmp_path: Path) -> None:
    tree = tmp_path / "档案"
    tree.mkdir()
    add(jinshi, "archive", "files", f"path={tree}", group="g")
    jinshi("asset", "amend", "archive", "--release")
    assert "content beyond that is released, since" in jinshi("asset", "show", "archive").out
    points: list[tuple[int, dict[str, bytes]]] = []

    def point(day: float, **files: bytes | None) -> int:
        calendar.days = day
        for name, data in files.items():
            (tree / name).unlink() if data is None else (tree / name).write_bytes(data)
        points.append((capture(jinshi, "archive"), contents(tree)))
        return points[-1][0]

    point(0, stays=os.urandom(SIZE), small=b"x")  # a pack of its own, which later points need
    first = point(1, gone=os.urandom(SIZE), often=os.urandom(SIZE))
    point(50, gone=None, often=os.urandom(SIZE), marked=os.urandom(SIZE))
    jinshi("mark", "审计", "--group", "g")
    second = point(90, often=os.urandom(SIZE), marked=None)
    oldest = point(100, often=os.urandom(SIZE))
    point(200, small=b"y", often=os.urandom(SIZE))
    point(470, often=os.urandom(SIZE))
    jinshi("replicate", "--once")

    # Nothing goes of one that is captured too late, and nobody is asked whether it may.
    calendar.days = 478
    assert "days old" in jinshi("content", "release", "--all", "--yes", code=1).stderr
    calendar.days = 470
    (offer,) = jinshi("content", "release", "archive", "--dry-run", "--json").json["assets"]
    assert (offer["entries"], offer["oldest_point"]["index"]) == (3, oldest)
    assert offer["bytes"] > SIZE
    assert "give --yes" in jinshi("content", "release", "archive", code=2).stderr
    done = jinshi("content", "release", "archive", "--yes", "--silence-ok", "--json").json
    assert done["index"] > points[-1][0]
    again = jinshi("content", "release", "--all", "--yes", "--silence-ok", "--json").json
    assert (again["index"], again["assets"][0]["entries"]) == (None, 0)

    before = packs(jinshi)
    jinshi("replicate", "--once")
    jinshi("content", "collect")
    assert packs(jinshi) < before
    # A site may have what was released for longer, and as long as it has it, it comes back.
    shown = jinshi("restore", "asset", "archive", "--at", first, "--to", tmp_path / "from a site")
    assert "not restored from primary: archive (the content of entry" in shown.stderr
    assert contents(tmp_path / "from a site") == points[1][1]
    collected(jinshi, calendar)
    proven(jinshi)
    for number, (index, files) in enumerate(points):
        for place in ("primary", "remote"):
            to = tmp_path / f"{number}-{place}"
            if index in (first, second):
                ended = jinshi("restore", "asset", "archive", "--at", index, "--from", place, "--to", to, code=2)
                assert "was released on" in ended.stderr
                assert f"by entry {done['index']}" in ended.stderr
                assert f"--at {oldest}" in ended.stderr
                assert not to.exists()
            else:
                jinshi("restore", "asset", "archive", "--at", index, "--from", place, "--to", to)
                assert contents(to) == files
    jinshi("restore", "group", "g", "--at", "审计", "--to", tmp_path / "marked")
    assert contents(tmp_path / "marked" / "archive") == points[2][1]

    # Path by path: what other points hold is there still.
    assert jinshi("cat", "archive:stays", "--at", first).stdout == points[1][1]["stays"]
    ended = jinshi("cat", "archive:often", "--at", first, code=2)
    assert f"by entry {done['index']}" in ended.stderr
    assert not ended.stdout
    jinshi("restore", "asset", "archive", "--at", first, "--only", "stays", "--to", tmp_path / "part")
    assert contents(tmp_path / "part") == {"stays": points[1][1]["stays"]}
    shown = jinshi("browse", "archive", "--at", first)
    assert "often" in shown.out
    assert "was released on" in shown.stderr
    assert [one["index"] for one in jinshi("history", "often", "--json").json_lines if "released" in one]
    assert "; its content was released" in " ".join(jinshi("history", "often").out.split())
    ended = jinshi("drill", "run", "--asset", "archive", "--at", first, "--from", "remote", code=1)
    assert "was released" in ended.out + ended.stderr
    assert jinshi("asset", "show", "archive", "--json").json["first_point"]["index"] == oldest

    # The doctor holds what was released against what the grade demands now.
    capture(jinshi, "archive")

    def retention() -> list[str]:
        found = jinshi("doctor", "--no-beside", "--json", code=(0, 1)).json["assets"][0]["findings"]
        return [one["what"] for one in found if one["check"] == "retention"]

    assert not retention()
    jinshi("asset", "amend", "archive", "--grade", "5", "--accept-gap")
    assert [what for what in retention() if "were released; grade 5 demands 1,825 days" in what]
    assert jinshi("content", "release", "--all", "--yes", "--silence-ok", "--json").json["index"] is None


def test_dumps_of_which_those_beyond_their_retention_go(jinshi: Jinshi, calendar: Calendar, tmp_path: Path) -> None:
    database = tmp_path / "cases.sqlite"
    make_database(database, rows=2_000)
    add_database(jinshi, "cases", database)
    add_database(jinshi, "others", database)
    points: list[tuple[int, list[tuple[object, ...]]]] = []
    for day in (0, 30, 60, 400):
        calendar.days = day
        change_database(database, day)
        points.append((capture(jinshi, "cases"), rows_of(database)))
    assert "for ever" in jinshi("content", "release", "cases", "--yes", "--silence-ok", code=2).stderr
    assert "no asset lets content go" in jinshi("content", "release", "--all").out
    assert "at least" not in jinshi("asset", "show", "others").out
    jinshi("asset", "amend", "cases", "--release")
    assert "released; recorded as entry" in jinshi("content", "release", "cases", "--yes", "--silence-ok").out
    collected(jinshi, calendar)
    proven(jinshi)
    for number, (index, rows) in enumerate(points):
        to = tmp_path / f"restored-{number}.sqlite"
        if number:  # that of day 30 was the newest when the retention period began, on day 35
            jinshi("restore", "asset", "cases", "--at", index, "--to", to)
            assert rows_of(to) == rows
        else:
            ended = jinshi("restore", "asset", "cases", "--at", index, "--to", to, code=2)
            assert "was released on" in ended.stderr
            assert not to.exists()
    # An act that claims another horizon makes nothing go by itself; the doctor says what it claims.
    capture(jinshi, "cases")
    forge(jinshi, "cases", points[0][0], before_s=2**53 - 1)
    assert jinshi("content", "release", "cases", "--yes", "--silence-ok", "--json").json["index"] is None
    found = jinshi("doctor", "--no-beside", "--json", code=1).json["assets"]
    assert [one["check"] for asset in found if asset["name"] == "cases" for one in asset["findings"]].count("retention")
    # What stands against it is said, and nothing goes.
    jinshi("asset", "pause", "cases", "--reason", "moving")
    assert "it is paused" in jinshi("content", "release", "cases", "--yes", code=1).stderr
    jinshi("asset", "resume", "cases")
    jinshi("erase", "--source", "urn:jinshi:asset:cases", "--hold", "--reason", "a trial")
    capture(jinshi, "cases")
    assert "a legal hold stands against it (a trial" in jinshi("content", "release", "cases", "--yes", code=1).stderr


def forge(jinshi: Jinshi, name: str, index: int, *, before_s: int) -> None:
    """An act as a writer that was taken over could record it."""

    async def run() -> None:
        assert jinshi.ledger is not None
        async with open_to_record(jinshi.ledger, environment(), PASSPHRASE) as recorder:
            at = (await recorder.ledger.reader.head()).size
            acts = released_events(recorder.ledger.origin, asset_source(name), [index], before_s, at)
            await recorder.sequencer.append(acts, actor=ACTOR)
            await recorder.publish()

    asyncio.run(run())


def configured(jinshi: Jinshi, calendar: Calendar, file: Path, days: range) -> list[int]:
    """A configuration that does not fit an entry, changed and captured on each of these days."""
    found = []
    for day in days:
        calendar.days = day
        file.write_bytes(os.urandom(30_000))
        found.append(capture(jinshi, "router"))
    return found


def held(jinshi: Jinshi) -> None:
    jinshi("erase", "--source", "urn:jinshi:asset:router", "--hold", "--reason", "a trial")


def amended(jinshi: Jinshi) -> None:
    jinshi("asset", "amend", "router", "--no-release")


def paused(jinshi: Jinshi) -> None:
    jinshi("asset", "pause", "router", "--reason", "moving")


@pytest.mark.parametrize(
    ("meanwhile", "said"), [(held, "a legal hold stands"), (amended, "it was changed"), (paused, "it was changed")]
)
def test_what_comes_to_stand_against_it_while_somebody_is_asked_counts(
    jinshi: Jinshi,
    calendar: Calendar,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    meanwhile: Callable[[Jinshi], None],
    said: str,
) -> None:
    file = tmp_path / "router.conf"
    add(jinshi, "router", "config", f"path={file}")
    jinshi("asset", "amend", "router", "--release")
    configured(jinshi, calendar, file, range(0, 800, 200))
    monkeypatch.setattr("cli.commands.content_release._ask", lambda *_, **__: meanwhile(jinshi))
    ended = jinshi("content", "release", "router", code=1)
    assert said in ended.stderr
    assert "released; recorded" not in ended.out
    assert RELEASED not in types_of(jinshi)


def test_a_server_releases_and_collects_by_itself(tmp_path: Path, calendar: Calendar) -> None:
    """What the server's own clock sees is what the commands before it saw, years ago."""
    calendar.days = -402
    jinshi, file, log = ledger_in(tmp_path), tmp_path / "router.conf", tmp_path / "serve.log"
    add(jinshi, "router", "config", f"path={file}")
    points = configured(jinshi, calendar, file, range(-401, 0, 25))
    calendar.days = 0
    with serving(jinshi, "--collect-every", "0.2s", "--no-replicate", log=log):
        jinshi("doctor", "--no-beside", code=(0, 1))  # meanwhile it collects, more than once
        assert RELEASED not in types_of(jinshi), "nobody has said so"
        before = packs(jinshi)
        jinshi("asset", "amend", "router", "--release")
        eventually(lambda: types_of(jinshi).count(RELEASED) == 1, log.read_text)
        eventually(lambda: packs(jinshi) < before, log.read_text)
    assert "released" in log.read_text()
    assert jinshi("asset", "show", "router", "--json").json["first_point"]["index"] == points[1]
    jinshi("restore", "asset", "router", "--at", points[1], "--to", tmp_path / "then")
    ended = jinshi("restore", "asset", "router", "--at", points[0], "--to", tmp_path / "before", code=2)
    assert "was released on" in ended.stderr


def test_a_clock_that_was_set_ahead_makes_no_server_release_everything(tmp_path: Path, calendar: Calendar) -> None:
    calendar.days = -900
    jinshi, file, log = ledger_in(tmp_path), tmp_path / "router.conf", tmp_path / "serve.log"
    add(jinshi, "router", "config", f"path={file}")
    jinshi("asset", "amend", "router", "--release")
    configured(jinshi, calendar, file, range(-900, -880, 5))
    configured(jinshi, calendar, file, range(-60, 0, 50))  # two years that were none
    calendar.days = 0
    with serving(jinshi, "--collect-every", "0.2s", "--no-replicate", log=log):
        eventually(lambda: "nothing was recorded for 30 days from" in log.read_text(), log.read_text)
        assert RELEASED not in types_of(jinshi)
        # Whoever knows better can have it so, by the server's hand.
        refused = jinshi("content", "release", "router", "--yes", code=1)
        assert "the clock may be wrong, so nothing is released" in refused.stderr
        assert RELEASED not in types_of(jinshi)
        shown = jinshi("content", "release", "router", "--yes", "--silence-ok")
    assert "was the clock wrong" in shown.stderr
    assert types_of(jinshi).count(RELEASED) == 1
