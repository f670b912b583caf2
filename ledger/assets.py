"""The assets a ledger protects, and its marks: a fold of the ledger's own acts (docs/assets.md).

Which options each kind takes is in kinds.py, what a grade demands in grades.py.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final
from unicodedata import is_normalized, normalize
from urllib.parse import quote

from ledger.core import acts
from ledger.core.acts import MARK_SET, SUCCEEDED, acts_source, is_act
from ledger.core.canonical import JsonValue
from ledger.core.entry import Entry, decode_entry
from ledger.core.event import Event, event_time_us
from ledger.errors import InvalidRequest, Malformed
from ledger.grades import grade_of, grades
from ledger.kinds import CHECKED, KINDS, check_options, check_secrets, kind_of, nearest
from ledger.store.base import EntryStore, Selection
from ledger.store.selecting import select_all

ASSET_SOURCE: Final = "urn:jinshi:asset:"
NAME_LENGTH_MAX: Final = 64
GROUPS_MAX: Final = 16
ASSETS_MAX: Final = 1_000
MARKS_KEPT: Final = 10_000
PROBLEMS_MAX: Final = 50
PROBLEM_LENGTH_MAX: Final = 500
OWNER_LENGTH_MAX: Final = 200
_TYPES: Final = frozenset(
    {
        acts.ASSET_ADDED,
        acts.ASSET_AMENDED,
        acts.ASSET_PAUSED,
        acts.ASSET_RESUMED,
        acts.ASSET_RETIRED,
        acts.ASSET_DEGRADED,
        acts.ASSET_LEFT,
        acts.ASSET_RECOVERED,
        MARK_SET,
    }
)
_MARKS: Final = tuple(f'"type":"{type_}"'.encode() for type_ in _TYPES)


def asset_source(name: str) -> str:
    """The one source of all entries of the asset of that name."""
    return ASSET_SOURCE + quote(name, safe="")


@dataclass(frozen=True, slots=True)
class Asset:
    """A system under protection.

    `options` are its kind's (kinds.py); `secrets` say where secrets are, by what they are for; `problems` are what its
    last capture could not do (empty: nothing); `gaps` is what its grade demands, was not there when it was registered,
    and was accepted then. `since_us`: when it was added (the recordedtime of that entry). `left`: retired, and nothing
    of its captures is at its system any more. `release`: content beyond the grade's retention is let go, since
    `release_since_us`; without it, everything is kept for ever.
    """

    name: str
    kind: str
    source: str
    grade: int
    owner: str
    options: Mapping[str, JsonValue] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    groups: tuple[str, ...] = ()
    paused: bool = False
    retired: bool = False
    problems: tuple[str, ...] = ()
    gaps: tuple[str, ...] = ()
    since_us: int = field(default=0, compare=False)
    left: bool = False
    release: bool = False
    release_since_us: int = field(default=0, compare=False)

    @property
    def active(self) -> bool:
        """Whether it is under protection: paused ones are, retired ones are not."""
        return not self.retired

    @property
    def leaves(self) -> str:
        """What its captures leave at its system, and would do harm there, in words; '': nothing, or no more."""
        return "" if self.left or self.kind not in KINDS else KINDS[self.kind].left

    @property
    def sources(self) -> tuple[str, ...]:
        """Every source whose entries are this asset's: its own, and those it was registered to stand for."""
        others = self.options.get("sources")
        named = [one for one in others if isinstance(one, str)] if isinstance(others, list) else []
        return self.source, *named

    def to_json(self) -> dict[str, JsonValue]:
        """The data of `asset.added.v1` and `asset.amended.v1`."""
        return {
            "name": self.name,
            "kind": self.kind,
            "source": self.source,
            "grade": self.grade,
            "owner": self.owner,
            "options": dict(self.options),
            "secrets": dict(self.secrets),
            "groups": list(self.groups),
            "gaps": list(self.gaps),
            **({"release": True} if self.release else {}),
        }


@dataclass(frozen=True, slots=True)
class Mark:
    """A name for one moment: the log had `size` entries then.

    Set for a `group`, or for one `asset` ('': it was not). `sealed`: per asset the index of its last sealing entry.
    """

    name: str
    size: int
    sealed: Mapping[str, int]
    group: str = ""
    asset: str = ""


def check_name(name: str, what: str) -> None:
    """Whether it may name an asset, a group or a mark (`what`, for people). Raises InvalidRequest."""
    if not 0 < len(name) <= NAME_LENGTH_MAX or not name.isprintable() or "/" in name or name != name.strip():
        raise InvalidRequest(
            f"{name[:80]!r} is no name for {what}",
            hint=f"use 1 to {NAME_LENGTH_MAX} printable characters without '/', and no space at either end",
        )
    if not is_normalized("NFC", name):  # two names that look the same would be two assets
        raise InvalidRequest(
            f"{name!r} is no name for {what}: it has characters in a form of their own",
            hint=f"use Unicode's composed form (NFC): {normalize('NFC', name)!r}",
        )


def check_asset(asset: Asset) -> None:
    """Whether it may be registered. Raises InvalidRequest."""
    check_name(asset.name, "an asset")
    if asset.source != asset_source(asset.name):
        raise InvalidRequest(f"{asset.source} is not the source of {asset.name}", hint="leave it out")
    for group in asset.groups:
        check_name(group, "a group")
    if len(set(asset.groups)) != len(asset.groups) or len(asset.groups) > GROUPS_MAX:
        raise InvalidRequest(f"{asset.name} is in too many groups", hint=f"name each once, at most {GROUPS_MAX}")
    grade_of(asset.grade)
    if not 0 < len(asset.owner) <= OWNER_LENGTH_MAX or not asset.owner.isprintable():
        raise InvalidRequest(f"nobody is named as the owner of {asset.name}", hint="say who answers for it: --owner")
    kind = kind_of(asset.kind)
    check_options(kind, asset.options)
    check_secrets(kind, asset.secrets)
    if asset.release and not kind.captured:
        raise InvalidRequest(
            f"{asset.name} has no content that could be released: its events are entries as a whole, and stay",
            hint="leave --release out",
        )
    for source in asset.sources[1:]:
        if source.startswith(ASSET_SOURCE):
            raise InvalidRequest(f"{source[:120]} is for what is captured of an asset", hint="name a producer's source")


class Assets:
    """What is registered so far, folded in order with `apply`."""

    def __init__(self) -> None:
        self._assets: dict[str, Asset] = {}
        self._marks: OrderedDict[str, Mark] = OrderedDict()
        self._revisions: dict[str, int] = {}

    def all(self) -> list[Asset]:
        """Every asset there ever was, by name."""
        return [self._assets[name] for name in sorted(self._assets)]

    def active(self) -> list[Asset]:
        """Every asset that is not retired, the paused ones too, by name."""
        return [asset for asset in self.all() if asset.active]

    def find(self, name: str) -> Asset | None:
        """The asset of that name, a retired one too; None: there never was one."""
        return self._assets.get(name)

    def get(self, name: str) -> Asset:
        """The asset of that name. Raises InvalidRequest, with the nearest one: there is none, or it is retired."""
        asset = self._assets.get(name)
        if asset is None:
            known = [one.name for one in self.active()]
            raise InvalidRequest(f"there is no asset {name[:80]!r}", hint=nearest(name, known))
        if asset.retired:
            raise InvalidRequest(f"the asset {name} is retired", hint="jinshi asset add takes it back under protection")
        return asset

    def group(self, name: str) -> list[Asset]:
        """The active assets of a group, by name. Raises InvalidRequest: it has none."""
        found = [asset for asset in self.active() if name in asset.groups]
        if not found:
            known = {group for asset in self.active() for group in asset.groups}
            raise InvalidRequest(f"there is no asset in a group {name[:80]!r}", hint=nearest(name, known))
        return found

    def mark(self, name: str) -> Mark:
        """The mark of that name, one of the last MARKS_KEPT. Raises InvalidRequest, with the nearest one."""
        if name not in self._marks:
            raise InvalidRequest(f"there is no mark {name[:80]!r}", hint=nearest(name, self._marks))
        return self._marks[name]

    @property
    def marks(self) -> Sequence[Mark]:
        """The last MARKS_KEPT marks, oldest first."""
        return list(self._marks.values())

    def revision(self, name: str) -> int:
        """How many acts about an asset are recorded: the `at` of the next, so that of two at once only one counts."""
        return self._revisions.get(name, 0)

    def apply(self, entry: Entry) -> None:
        """Take in an entry; what registers nothing, or cannot be read, is passed over."""
        event = entry.event
        if event.type not in _TYPES or not is_act(event.source):
            return
        try:
            data = event.json_data
        except Malformed:
            return
        if event.type == MARK_SET:
            self._apply_mark(data)
        elif isinstance(data, dict) and isinstance(name := data.get("name"), str):
            self._revisions[name] = self._revisions.get(name, 0) + 1
            if event.type == acts.ASSET_ADDED:
                self._apply_added(name, _asset_of(data), event_time_us(entry.recordedtime))
            else:
                self._apply_act(event.type, name, data, event_time_us(entry.recordedtime))

    def _apply_added(self, name: str, asset: Asset | None, at_us: int) -> None:
        known = self._assets.get(name)
        if asset is not None and (known is None or known.retired):
            self._assets[name] = replace(asset, since_us=at_us, release_since_us=at_us if asset.release else 0)

    def _apply_act(self, type_: str, name: str, data: dict[str, JsonValue], at_us: int) -> None:
        known = self._assets.get(name)
        if known is not None and known.retired and type_ == acts.ASSET_LEFT:
            self._assets[name] = replace(known, left=True)
        if known is None or known.retired:
            return
        match type_, data:
            case acts.ASSET_AMENDED, _:
                amended = _asset_of(data)
                if amended is not None:
                    since_us = known.release_since_us if known.release else at_us
                    self._assets[name] = replace(
                        amended,
                        paused=known.paused,
                        problems=known.problems,
                        since_us=known.since_us,
                        release_since_us=since_us if amended.release else 0,
                    )
            case acts.ASSET_PAUSED, _:
                self._assets[name] = replace(known, paused=True)
            case acts.ASSET_RESUMED, _:
                self._assets[name] = replace(known, paused=False)
            case acts.ASSET_RETIRED, _:
                self._assets[name] = replace(known, retired=True, paused=False, problems=())
            case acts.ASSET_DEGRADED, {"problems": [*problems]}:
                self._assets[name] = replace(known, problems=tuple(str(one) for one in problems) or ("it is degraded",))
            case acts.ASSET_RECOVERED, _:
                self._assets[name] = replace(known, problems=())

    def _apply_mark(self, data: JsonValue) -> None:
        match data:
            case {
                "name": str(name),
                "size": int(size),
                "sealed": dict(sealed),
                "group": str(group),
                "asset": str(asset),
            } if name not in self._marks:  # a name stands for one moment, for good
                indexes = {key: index for key, index in sealed.items() if isinstance(index, int)}
                self._marks[name] = Mark(name, size, MappingProxyType(indexes), group, asset)
                while len(self._marks) > MARKS_KEPT:
                    self._marks.popitem(last=False)


def _asset_of(data: dict[str, JsonValue]) -> Asset | None:
    match data:
        case {
            "name": str(name),
            "kind": str(kind),
            "source": str(source),
            "grade": int(grade),
            "owner": str(owner),
            "options": dict(options),
            "secrets": dict(secrets),
            "groups": [*groups],
        } if source == asset_source(name) and grade in grades():
            gaps = data.get("gaps")
            return Asset(
                name,
                kind,
                source,
                grade,
                owner,
                MappingProxyType(options),
                MappingProxyType({key: text for key, text in secrets.items() if isinstance(text, str)}),
                tuple(group for group in groups if isinstance(group, str)),
                gaps=tuple(str(one) for one in gaps) if isinstance(gaps, list) else (),
                release=data.get("release") is True,
            )
    return None


# -- the events; `at` tells one time from the next: `Assets.revision`, or the size of the log -------------------------


def added(origin: str, asset: Asset, *, at: int) -> Event:
    """`asset.added.v1` (docs/formats.md, section 6)."""
    return _act(origin, acts.ASSET_ADDED, asset.name, asset.to_json(), at)


def amended(origin: str, asset: Asset, *, at: int) -> Event:
    """`asset.amended.v1`: from now on the asset is registered so."""
    return _act(origin, acts.ASSET_AMENDED, asset.name, asset.to_json(), at)


def paused(origin: str, name: str, reason: str, *, at: int) -> Event:
    """`asset.paused.v1`: it is not captured until it is resumed."""
    return _act(origin, acts.ASSET_PAUSED, name, {"name": name, "reason": reason}, at)


def resumed(origin: str, name: str, *, at: int) -> Event:
    """`asset.resumed.v1`."""
    return _act(origin, acts.ASSET_RESUMED, name, {"name": name}, at)


def retired(origin: str, name: str, reason: str, *, at: int) -> Event:
    """`asset.retired.v1`: it is protected no more; what is recorded of it stays."""
    return _act(origin, acts.ASSET_RETIRED, name, {"name": name, "reason": reason}, at)


def left(origin: str, name: str, removed: Sequence[str], *, gone: bool, at: int) -> Event:
    """`asset.left.v1`: nothing of its captures is at its system any more: it was removed, or the system is `gone`."""
    lines: list[JsonValue] = list(removed)
    return _act(origin, acts.ASSET_LEFT, name, {"name": name, "removed": lines, "gone": gone}, at)


def degraded(origin: str, name: str, problems: Sequence[str], *, at: int) -> Event:
    """`asset.degraded.v1`: what its capture could not do, one line each; long lines are cut, and many are counted."""
    lines: list[JsonValue] = [one[:PROBLEM_LENGTH_MAX] for one in problems[:PROBLEMS_MAX]]
    if len(problems) > PROBLEMS_MAX:
        lines.append(f"and {len(problems) - PROBLEMS_MAX} more")
    return _act(origin, acts.ASSET_DEGRADED, name, {"name": name, "problems": lines}, at)


def recovered(origin: str, name: str, *, at: int) -> Event:
    """`asset.recovered.v1`: its capture can do everything again."""
    return _act(origin, acts.ASSET_RECOVERED, name, {"name": name}, at)


def marked(origin: str, mark: Mark, *, at: int) -> Event:
    """`mark.set.v1`. Its id is the name's alone: setting another mark of that name is a conflict, not a second one."""
    sealed: dict[str, JsonValue] = dict(mark.sealed)
    data: dict[str, JsonValue] = {
        "name": mark.name,
        "size": mark.size,
        "sealed": sealed,
        "group": mark.group,
        "asset": mark.asset,
        "at": at,
    }
    return Event.of_json(data, id=f"mark-set:{mark.name}", source=acts_source(origin), type=MARK_SET, subject=mark.name)


def checked(asset: Asset, sealed: int, *, at: int) -> Event:
    """`asset.checked.v1` of the asset's own source: nothing has changed since its sealing entry at index `sealed`."""
    return Event.of_json({"sealed": sealed}, id=f"asset-checked:{at}", source=asset.source, type=CHECKED)


def _act(origin: str, type_: str, name: str, data: dict[str, JsonValue], at: int) -> Event:
    id_ = f"{type_.removesuffix('.v1').replace('.', '-')}:{name}:{at}"
    return Event.of_json(data, id=id_, source=acts_source(origin), type=type_, subject=name)


# -- reading ----------------------------------------------------------------------------------------------------------


async def read_assets(entries: EntryStore) -> Assets:
    """What a ledger has registered. Raises StoreUnavailable."""
    return await Registry(entries).assets()


class Registry:
    """What a ledger has registered, again and again: only what was recorded since is looked through."""

    def __init__(self, entries: EntryStore) -> None:
        self._entries = entries
        self._assets = Assets()
        self._size = 0
        self._sources: list[str] = []
        self._looking = asyncio.Lock()

    async def assets(self) -> Assets:
        """As of what is recorded now. Raises StoreUnavailable."""
        async with self._looking:
            size = (await self._entries.head()).size
            if size > self._size:
                try:
                    await self._take_in(size)
                except BaseException:  # half of it is taken in: the next call begins anew
                    self._assets, self._size, self._sources = Assets(), 0, []
                    raise
                self._size = size
            return self._assets

    async def _take_in(self, size: int) -> None:
        # A ledger that was restored has the acts of its predecessors too, each under its own origin, in this order.
        if not self._sources:
            self._sources = [decode_entry(one.entry).event.source for one in await self._entries.read(0, 1)]
        async for stored in select_all(self._entries, Selection(type=SUCCEEDED, start=self._size, stop=size)):
            event = decode_entry(stored.entry).event
            if is_act(event.source) and event.source not in self._sources:
                self._sources.append(event.source)
        for source in self._sources:
            await self._take(source, size)

    async def _take(self, source: str, size: int) -> None:
        async for stored in select_all(self._entries, Selection(source=source, start=self._size, stop=size)):
            if any(mark in stored.entry for mark in _MARKS):  # told apart without being parsed
                self._assets.apply(decode_entry(stored.entry))
