"""The fold of the register: whatever acts are recorded, in whatever order, it holds what a plain model holds."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hypothesis import given
from hypothesis import strategies as st

from ledger import assets
from ledger.assets import Asset, Assets, asset_source
from ledger.core import acts
from ledger.core.acts import acts_source
from ledger.core.canonical import JsonValue, canonicalize
from ledger.core.entry import Entry
from ledger.core.event import Event
from tests.support.strategies import json_values

ORIGIN = "example.com/log"
NAMES = ("www", "人口库")
TYPES = (*[value for name, value in vars(acts).items() if name.startswith("ASSET_")], acts.MARK_SET)
ACTS = ("added", "amended", "paused", "resumed", "retired", "degraded", "recovered")


def entry(event: Event) -> Entry:
    return Entry(event.at("2026-11-24T00:00:00.000000Z"), 1, "2026-11-24T00:00:00.000000Z", "local:test")


def asset_of(name: str, grade: int) -> Asset:
    return Asset(name, "files", asset_source(name), grade, "x", {"path": "/srv"}, release=grade % 2 == 0)


@dataclass
class Model:
    """One asset as the acts say, written down as plainly as can be."""

    grade: int | None = None
    paused: bool = False
    problems: tuple[str, ...] = ()

    def act(self, act: str, grade: int) -> None:
        if act == "added":
            if self.grade is None:
                self.grade, self.paused, self.problems = grade, False, ()
        elif self.grade is None:
            return
        elif act == "amended":
            self.grade = grade
        elif act == "retired":
            self.grade = None
        elif act in ("paused", "resumed"):
            self.paused = act == "paused"
        else:
            self.problems = (f"grade {grade}",) if act == "degraded" else ()


def event_of(act: str, name: str, grade: int, at: int) -> Event:
    if act in ("added", "amended"):
        made: Event = getattr(assets, act)(ORIGIN, asset_of(name, grade), at=at)
        return made
    if act == "degraded":
        return assets.degraded(ORIGIN, name, [f"grade {grade}"], at=at)
    more = ("why",) if act in ("paused", "retired") else ()
    one: Event = getattr(assets, act)(ORIGIN, name, *more, at=at)
    return one


@given(st.lists(st.tuples(st.sampled_from(ACTS), st.sampled_from(NAMES), st.integers(1, 6)), max_size=40))
def test_the_fold_is_what_a_plain_model_says(done: list[tuple[str, str, int]]) -> None:
    folded, models = Assets(), {name: Model() for name in NAMES}
    for at, (act, name, grade) in enumerate(done):
        folded.apply(entry(event_of(act, name, grade, at)))
        models[name].act(act, grade)
    for name, model in models.items():
        if model.grade is None:
            assert name not in [one.name for one in folded.active()]
        else:
            wanted = replace(asset_of(name, model.grade), paused=model.paused, problems=model.problems)
            assert folded.get(name) == wanted
        assert folded.revision(name) == sum(one == name for _, one, _ in done)


@st.composite
def datas(draw: st.DrawFn) -> JsonValue:
    """Data of an act: anything, or a good one with some member replaced by anything."""
    good: dict[str, JsonValue] = {
        **asset_of("www", 3).to_json(),
        "reason": "x",
        "problems": ["x"],
        "size": 3,
        "sealed": {"www": 1},
        "group": "",
        "asset": "www",
    }
    if draw(st.booleans()):
        return draw(json_values())
    return {**good, draw(st.sampled_from(sorted(good))): draw(json_values())}


@given(st.lists(st.tuples(st.sampled_from(TYPES), datas()), max_size=5))
def test_whatever_an_act_holds_the_fold_goes_on(done: list[tuple[str, JsonValue]]) -> None:
    folded = Assets()
    for type_, data in done:
        folded.apply(entry(Event("1", acts_source(ORIGIN), type_, data=canonicalize(data))))
    for one in folded.active():
        assert folded.get(one.name) == one
        assert one.source == asset_source(one.name)
        assert one.grade in range(1, 7)
        assert one.sources
        canonicalize(one.to_json())
    for mark in folded.marks:
        assert folded.mark(mark.name) == mark
