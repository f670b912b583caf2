"""The register of assets: what is folded out of the ledger's acts, what may be registered, what a grade demands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib import resources
from itertools import pairwise

import pytest

from ledger.assets import (
    Asset,
    Mark,
    Registry,
    added,
    amended,
    asset_source,
    check_asset,
    degraded,
    marked,
    paused,
    read_assets,
    recovered,
    resumed,
    retired,
)
from ledger.core.acknowledgement import ALL, LOCAL
from ledger.core.acts import ASSET_ADDED, SUCCEEDED, acts_source
from ledger.core.event import Event
from ledger.errors import IdConflict, InvalidRequest, Malformed, StoreUnavailable
from ledger.grades import grade_of, grades, parse_grades
from ledger.kinds import check_options, check_secret, kind_of, read_options
from ledger.store.base import Selection, StoredEntry
from ledger.store.memory import MemoryEntryStore
from tests.support.ledgers import append, event

ORIGIN = "example.com/log"
FILES = Asset("www", "files", asset_source("www"), 3, "portal office", {"path": "/srv/www"}, groups=("portal",))


def database(name: str = "人口库", **more: object) -> Asset:
    """An asset of kind postgres."""
    asset = Asset(name, "postgres", asset_source(name), 6, "数据局", secrets={"dsn": "env:DSN"}, groups=("portal",))
    return replace(asset, **more)  # type: ignore[arg-type]


async def ledger(*events: Event) -> MemoryEntryStore:
    store = MemoryEntryStore()
    created = Event.of_json({"format": 1}, id="c", source=acts_source(ORIGIN), type="ledger.created.v1")
    await append(store, [created, *events])
    return store


async def test_what_is_registered_is_read_again_as_it_was() -> None:
    asset = database(options={"databases": ["人口", "法人"]}, gaps=("no remote site",))
    found = await read_assets(await ledger(added(ORIGIN, asset, at=0), added(ORIGIN, FILES, at=0)))
    assert found.get("人口库") == asset
    assert [one.name for one in found.active()] == ["www", "人口库"]
    assert [one.name for one in found.group("portal")] == ["www", "人口库"]
    assert asset.source == "urn:jinshi:asset:%E4%BA%BA%E5%8F%A3%E5%BA%93"
    for name, hint in (("ww", "www"), ("人口", "人口库")):
        with pytest.raises(InvalidRequest) as raised:
            found.get(name)
        assert hint in raised.value.hint
    with pytest.raises(InvalidRequest, match="group") as raised:
        found.group("portl")
    assert "portal" in raised.value.hint


async def test_each_act_changes_what_it_is_about_and_nothing_else() -> None:
    store = await ledger(added(ORIGIN, FILES, at=0), paused(ORIGIN, "www", "moving", at=1))
    registry = Registry(store)
    assert (await registry.assets()).get("www").paused
    await append(store, [degraded(ORIGIN, "www", [f"line {n}" for n in range(60)], at=2)])
    found = (await registry.assets()).get("www")
    assert found.paused
    assert (len(found.problems), found.problems[-1]) == (51, "and 10 more")
    await append(store, [amended(ORIGIN, replace(FILES, grade=5), at=3), resumed(ORIGIN, "www", at=4)])
    found = (await registry.assets()).get("www")
    assert (found.grade, found.paused, len(found.problems)) == (5, False, 51)
    await append(store, [recovered(ORIGIN, "www", at=5)])
    assert (await registry.assets()).get("www").problems == ()
    await append(store, [added(ORIGIN, replace(FILES, owner="x"), at=6)])
    assert (await registry.assets()).get("www").owner == "portal office", "it is there already"
    assert (await registry.assets()).revision("www") == 7
    await append(store, [retired(ORIGIN, "www", "gone", at=7), resumed(ORIGIN, "www", at=8)])
    with pytest.raises(InvalidRequest, match="retired"):
        (await registry.assets()).get("www")
    assert (await registry.assets()).active() == []
    await append(store, [added(ORIGIN, replace(FILES, owner="x"), at=9)])
    assert (await registry.assets()).get("www").owner == "x"


async def test_two_at_once_do_not_both_count() -> None:
    store = await ledger(added(ORIGIN, FILES, at=0))
    with pytest.raises(IdConflict):
        await append(store, [added(ORIGIN, replace(FILES, owner="another"), at=0)])


async def test_a_mark_stands_for_one_moment_for_good() -> None:
    mark = Mark("before the move", 3, {"www": 2}, group="portal")
    store = await ledger(marked(ORIGIN, mark, at=3))
    assert (await read_assets(store)).mark("before the move") == mark
    with pytest.raises(IdConflict):
        await append(store, [marked(ORIGIN, replace(mark, size=4), at=4)])
    with pytest.raises(InvalidRequest) as raised:
        (await read_assets(store)).mark("before a move")
    assert "before the move" in raised.value.hint


async def test_a_successor_protects_what_its_predecessor_did() -> None:
    later = f"{ORIGIN}/2"
    succeeded = Event.of_json({"size": 2}, id="s", source=acts_source(later), type=SUCCEEDED)
    store = await ledger(added(ORIGIN, FILES, at=0), succeeded, amended(later, replace(FILES, grade=2), at=1))
    registry = Registry(store)
    assert (await registry.assets()).get("www").grade == 2
    third = f"{ORIGIN}/3"
    await append(
        store,
        [
            Event.of_json({"size": 4}, id="s", source=acts_source(third), type=SUCCEEDED),
            amended(third, replace(FILES, grade=1), at=2),
        ],
    )
    assert (await registry.assets()).get("www").grade == 1


async def test_only_the_ledgers_own_acts_count_and_what_cannot_be_read_is_passed_over() -> None:
    def act(id_: str, data: object, source: str = acts_source(ORIGIN)) -> Event:
        return Event.of_json(data, id=id_, source=source, type=ASSET_ADDED, subject="www")  # type: ignore[arg-type]

    good = FILES.to_json()
    events: Sequence[Event] = [
        act("1", good, source="urn:somebody"),
        act("2", {**good, "grade": 9}),
        act("3", {**good, "source": "urn:other"}),
        act("4", {**good, "options": []}),
        act("5", [good]),
        Event("6", acts_source(ORIGIN), ASSET_ADDED, subject="www", data=b"\xff"),
        event(1),
    ]
    assert (await read_assets(await ledger(*events))).all() == []
    assert len((await read_assets(await ledger(*events, added(ORIGIN, FILES, at=0)))).all()) == 1


class Failing(MemoryEntryStore):
    """Fails the second search after `fails` was set."""

    fails = 0

    async def select(self, what: Selection, *, limit: int) -> Sequence[StoredEntry]:
        if self.fails:
            self.fails += 1
            if self.fails > 3:
                self.fails = 0
                raise StoreUnavailable("it is away")
        return await super().select(what, limit=limit)


async def test_a_store_that_fails_half_way_leaves_no_half_of_the_register() -> None:
    store = Failing()
    created = Event.of_json({"format": 1}, id="c", source=acts_source(ORIGIN), type="ledger.created.v1")
    await append(store, [created, added(ORIGIN, FILES, at=0)])
    registry = Registry(store)
    await registry.assets()
    await append(store, [paused(ORIGIN, "www", "", at=1), resumed(ORIGIN, "www", at=2)])
    store.fails = 1
    with pytest.raises(StoreUnavailable):
        await registry.assets()
    assert (await registry.assets()).revision("www") == 3, "nothing is taken in twice"


@pytest.mark.parametrize(
    ("asset", "what"),
    [
        (replace(FILES, name="a/b", source=asset_source("a/b")), "no name"),
        (replace(FILES, name="", source=asset_source("")), "no name"),
        (replace(FILES, name="a\nb", source=asset_source("a\nb")), "no name"),
        (replace(FILES, name="x" * 65, source=asset_source("x" * 65)), "no name"),
        (replace(FILES, name="e\u0301", source=asset_source("e\u0301")), "form of their own"),
        (replace(FILES, kind="events", options={"sources": [asset_source("www")]}), "captured of an asset"),
        (replace(FILES, kind="filez"), "no kind"),
        (replace(FILES, grade=0), "no grade"),
        (replace(FILES, owner=""), "nobody"),
        (replace(FILES, options={}), "needs the option path"),
        (replace(FILES, options={"path": "srv"}), "cannot be used"),
        (replace(FILES, options={"path": "/srv/../etc"}), "cannot be used"),
        (replace(FILES, options={"path": "/srv", "exclud": ["x"]}), "no option"),
        (replace(FILES, options={"path": "/srv", "every_s": True}), "cannot be used"),
        (replace(FILES, secrets={"dsn": "env:DSN"}), "no secret"),
        (replace(FILES, groups=("a", "a")), "groups"),
        (database(secrets={}), "needs the secret dsn"),
        (replace(FILES, kind="config", options={"path": "/x", "command": ["x"]}), "exactly one"),
    ],
)
def test_what_may_not_be_registered_is_refused_with_what_to_do(asset: Asset, what: str) -> None:
    with pytest.raises(InvalidRequest, match=what) as raised:
        check_asset(asset)
    assert raised.value.hint


def test_a_secret_itself_is_refused_and_never_shown() -> None:
    for literal in ("hunter2", "postgres://u:hunter2@h/db", "env:hunter2!", "file:hunter2", "openbao:hunter2", ""):
        with pytest.raises(InvalidRequest) as raised:
            check_secret("dsn", literal)
        assert "hunter2" not in str(raised.value)
    for reference in ("env:DB_DSN", "file:/run/secrets/dsn", "openbao:secret/db/population#dsn"):
        check_secret("dsn", reference)


def test_options_of_a_command_line() -> None:
    kind = kind_of("commands")
    given = ["dump=sh -c 'sqlite3 x .dump'", "every_s=60"]
    assert read_options(kind, given) == {"dump": ["sh", "-c", "sqlite3 x .dump"], "every_s": 60}
    files = kind_of("files")
    options = read_options(files, ["path=/srv/数据", "exclude=*.tmp", "exclude=cache/", "one_file_system=yes"])
    assert options == {"path": "/srv/数据", "exclude": ["*.tmp", "cache/"], "one_file_system": True}
    check_options(files, options)
    for wrong, what in (("path", "no option"), ("pth=/x", "no option"), ("path=/x", "twice")):
        with pytest.raises(InvalidRequest, match=what):
            read_options(files, ["path=/y", wrong])


def test_the_grades_are_those_of_the_standard_and_never_weaker_with_the_level() -> None:
    levels = list(grades().values())
    assert [grade.level for grade in levels] == [1, 2, 3, 4, 5, 6]
    assert (levels[0].ack, levels[5].ack, levels[5].rpo_s) == (LOCAL, ALL, 0)
    for lower, higher in pairwise(levels):
        assert higher.rpo_s <= lower.rpo_s
        assert higher.rto_s <= lower.rto_s
        assert higher.drill_days <= lower.drill_days
        assert not higher.ack.is_weaker_than(lower.ack)
        assert sum(higher.sites.values()) >= sum(lower.sites.values())


def test_what_a_grade_demands_and_the_sites_do_not_give_is_named() -> None:
    assert grade_of(6).gaps(["same-city", "remote"]) == []
    assert grade_of(1).gaps(["remote"]) == []
    (line,) = grade_of(6).gaps(["same-city"])
    assert "1 remote site, there are 0" in line
    assert len(grade_of(6).gaps([])) == 3
    assert grade_of(3).gaps(["same-city", "same-city"]) == ["grade 3 demands 1 remote site, there are 0"]
    with pytest.raises(InvalidRequest):
        grade_of(7)


def test_a_damaged_file_of_grades_is_refused() -> None:
    good = resources.files("ledger").joinpath("grades.json").read_bytes()
    for bad in (
        b"",
        b"[]",
        b'{"grades":[{}]}',
        good.replace(b'"level": 2', b'"level": 3'),
        good.replace(b'"local"', b'"locl"'),
        good.replace(b'"remote": 1', b'"remote": 0'),
        good.replace(b'"rto_s": 1800', b'"rto_s": 0'),
    ):
        with pytest.raises(Malformed):
            parse_grades(bad)
