"""Content beyond its retention: what of an asset no kept point needs, why nothing of it goes now, and the acts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import islice
from typing import Final

from cli.assets.coverage import overdue
from cli.capturing.subjects import check_captured
from cli.display import render
from cli.wiring.contents import content_store, gone
from cli.wiring.kinds import drivers_of
from cli.wiring.ledgers import OpenLedger
from cli.wiring.sealing import Passphrase
from cli.wiring.views import StoreView, size_of_mark
from ledger.assets import Asset, Assets, read_assets
from ledger.capture.cloudevents import Appender
from ledger.content import referenced_packs
from ledger.content.index import digest_of
from ledger.content.references import Gone, packs_of, referring
from ledger.content.released import released_events
from ledger.core.entry import Entry, decode_entry
from ledger.core.event import Event, event_time_us, format_time, posix_us
from ledger.core.indexes import Indexes
from ledger.core.manifest import LISTS, PACKS
from ledger.errors import InvalidRequest, ObjectMissing
from ledger.grades import DAY_US, grade_of
from ledger.keyring.erasures import Hold, read_erasures
from ledger.kinds import CHECKED, KINDS
from ledger.sealing import Opener
from ledger.store.base import EntryStore, ObjectStore, Selection, StoredEntry
from restore.retained.acts import Horizon, Horizons, Point, oldest_point
from restore.retained.base import History, Keeping

SILENCE_DAYS: Final = 30
"""A log into which nothing was recorded for so long has been off, or its clock was set: somebody has to look."""
READ_AT_ONCE: Final = 256
ACTS_AT_ONCE: Final = 16


@dataclass(frozen=True, slots=True)
class Offer:
    """What of one asset is beyond its retention.

    `refusal`: why nothing of it is released now; '': nothing stands against it. `indexes`: the entries whose content no
    kept point needs, that of points before `before_s` (POSIX seconds) alone. `oldest`: from then on every moment can be
    rebuilt. `packs`, `size`: what they alone refer to, and its bytes.
    """

    asset: Asset
    refusal: str = ""
    before_s: int = 0
    indexes: Indexes = field(default_factory=Indexes)
    oldest: Point | None = None
    packs: int = 0
    size: int = 0

    @property
    def json(self) -> dict[str, object]:
        oldest = None if self.oldest is None else {"index": self.oldest.index, "recorded": self.oldest.recorded}
        return {
            "name": self.asset.name,
            "refusal": self.refusal or None,
            "before": format_time(self.before_s * 1_000_000) if self.before_s > 0 else None,
            "entries": len(self.indexes),
            "packs": self.packs,
            "bytes": self.size,
            "oldest_point": oldest,
        }


async def offers(
    ledger: OpenLedger, opener: Opener, passphrase: Passphrase, names: Sequence[str], now: datetime
) -> list[Offer]:
    """What can be released of these assets; of none named, of all that let content go. Nothing is changed.

    An asset of which that cannot be told is one that nothing is released of, with why.

    Raises:
        InvalidRequest: there is no such asset, or it keeps everything.
        StoreUnavailable, DiskFull: the ledger cannot be read, or a temporary file not be used.
    """
    assets = await read_assets(ledger.searched)
    horizons, nobodys = await Horizons(ledger.searched).now(), await gone(ledger)
    found: list[Offer] = []
    for asset in _chosen(assets, names):
        refusal = await _refusal(ledger, asset, posix_us(now))
        if refusal:
            found.append(Offer(asset, refusal))
            continue
        view = StoreView(ledger.searched, opener, lambda: content_store(ledger, passphrase))
        with closing(view):
            history = History(ledger.searched, opener, view, asset.source)
            try:
                found.append(await _offer(history, ledger.searched, assets, asset, horizons, nobodys, posix_us(now)))
            except InvalidRequest as error:  # a key that is not at hand, an entry that was erased
                found.append(Offer(asset, f"{error.what}; {error.hint}"))
    return found


def _chosen(assets: Assets, names: Sequence[str]) -> list[Asset]:
    if not names:
        return [asset for asset in assets.active() if asset.release]
    chosen = [assets.get(name) for name in dict.fromkeys(names)]
    for asset in chosen:
        if not asset.release:
            raise InvalidRequest(
                f"{asset.name} keeps its content for ever",
                hint=f"let what is beyond its retention go: jinshi asset amend {asset.name} --release",
            )
        check_captured(asset)
    return chosen


async def _offer(
    history: History,
    entries: EntryStore,
    assets: Assets,
    asset: Asset,
    horizons: Mapping[str, Horizon],
    nobodys: Gone,
    now_us: int,
) -> Offer:
    releasable = drivers_of(asset.kind).releasable
    known = horizons.get(asset.source)
    before_s = (now_us - grade_of(asset.grade).retention_us) // 1_000_000
    if known is not None and before_s < known.before_s:
        # Less was kept under another grade. Nothing more goes until that is as old as is demanded now: were the horizon
        # that of the acts, one that was forged would have everything released.
        oldest = await oldest_point(entries, asset.source, KINDS[asset.kind].sealing, known)
        return Offer(asset, "", known.before_s, oldest=oldest)
    marks = tuple(size_of_mark(assets, asset.name, one.name) for one in assets.marks if asset.name in one.sealed)
    found = Indexes()
    if releasable is not None and before_s > 0:
        keeping = Keeping(await entries.size_at(before_s * 1_000_000), marks)
        found = (await releasable(history, keeping)).without(nobodys.released.of(asset.source))
        found = await _not_erased(entries, found, nobodys.erased)
    horizon = Horizon(before_s, 0, 0) if found or known is not None else None
    oldest = await oldest_point(entries, asset.source, KINDS[asset.kind].sealing, horizon)
    return Offer(asset, "", before_s, found, oldest)


async def _not_erased(entries: EntryStore, indexes: Indexes, erased: Collection[str]) -> Indexes:
    """Those whose data is not erased: the content of the others is garbage already."""
    if not erased:
        return indexes
    kept = Indexes()
    async for stored in _each(entries, indexes):
        if decode_entry(stored.entry).event.keyid not in erased:
            kept.add(stored.index)
    return kept


async def _each(entries: EntryStore, indexes: Indexes) -> AsyncIterator[StoredEntry]:
    each: Iterator[int] = iter(indexes)
    while some := list(islice(each, READ_AT_ONCE)):
        for stored in await entries.read_many(some):
            yield stored


# -- why not ----------------------------------------------------------------------------------------------------------


async def _refusal(ledger: OpenLedger, asset: Asset, now_us: int) -> str:
    """Why nothing is released of an asset now; '': nothing stands against it."""
    if asset.kind not in KINDS:
        return f"assets of kind {asset.kind} are not known to this jinshi"
    if asset.paused:
        return "it is paused: nothing that happens to it is captured"
    if asset.problems:
        return f"it is degraded: {asset.problems[0]}"
    seen = [await _recorded_us(ledger.searched, asset.source, type_) for type_ in (KINDS[asset.kind].sealing, CHECKED)]
    seen_us = max((one for one in seen if one is not None), default=None)
    if seen_us is None:
        return "it was never captured"
    if late := overdue(asset, grade_of(asset.grade), seen_us, now_us):
        return late
    hold = _hold_on((await read_erasures(ledger.store)).holds.values(), asset.source)
    return "" if hold is None else f"a legal hold stands against it ({hold.reason}, placed by {hold.by})"


async def still(ledger: OpenLedger, found: Sequence[Offer], now: datetime) -> list[Offer]:
    """The same, right before it is recorded: what was changed since, or has come to stand against it, is why not.

    Working it out takes a while, and so does whoever is asked: a legal hold that is placed meanwhile must count.
    """
    assets = await read_assets(ledger.searched)
    held: list[Offer] = []
    for offer in found:
        refusal = offer.refusal
        if not refusal and assets.find(offer.asset.name) != offer.asset:
            refusal = "it was changed while that was worked out"
        held.append(replace(offer, refusal=refusal or await _refusal(ledger, offer.asset, posix_us(now))))
    return held


def _hold_on(holds: Collection[Hold], source: str) -> Hold | None:
    return next((hold for hold in holds if hold.source == source), None)


async def _recorded_us(entries: EntryStore, source: str, type_: str) -> int | None:
    for stored in await entries.select(Selection(source=source, type=type_, newest_first=True), limit=1):
        return event_time_us(decode_entry(stored.entry).recordedtime)
    return None


async def silence(entries: EntryStore, now: datetime, days: int) -> str:
    """Since when nothing was recorded for `SILENCE_DAYS` or more within the last `days`, in words; '': never.

    A clock that was set years ahead makes everything old at once: whoever releases by themselves looks here first.
    """
    now_us, silent_us = posix_us(now), SILENCE_DAYS * DAY_US
    first = await entries.read(0, 1)
    if not first:
        return ""
    at_us = max(event_time_us(decode_entry(first[0].entry).recordedtime), now_us - days * DAY_US)
    while now_us - at_us >= silent_us:
        size = await entries.size_at(at_us + silent_us - 1)
        if size == await entries.size_at(at_us):
            return f"nothing was recorded for {SILENCE_DAYS} days from {render.moment(format_time(at_us))} on"
        # From the last entry on that lies within: a silence must not be missed for where the days are counted from.
        (last,) = await entries.read(size - 1, 1)
        at_us = event_time_us(decode_entry(last.entry).recordedtime)
    return ""


# -- what it comes to -------------------------------------------------------------------------------------------------


async def weighed(ledger: OpenLedger, found: Sequence[Offer]) -> list[Offer]:
    """The same, each with what a collection would remove. What several of them share counts for the first.

    Memory: 32 bytes of each pack that is referred to, and the name and size of each that is there.

    Raises Tampered, StoreUnavailable: what is referred to cannot be told.
    """
    if not any(offer.indexes for offer in found):
        return list(found)
    offered = {offer.asset.source: offer.indexes for offer in found}
    nobodys = await gone(ledger)

    def retained(index: int, entry: Entry) -> bool:
        going = offered.get(entry.event.source)
        return nobodys.retains(index, entry) and (going is None or index not in going)

    taken = await referenced_packs(ledger.store, ledger.published, retained)
    sizes = await _sizes(ledger.published)
    result: list[Offer] = []
    for offer in found:
        packs = await _packs(ledger, offer.indexes) & sizes.keys() - taken
        taken |= packs
        result.append(replace(offer, packs=len(packs), size=sum(sizes[pack] for pack in packs)))
    return result


async def _sizes(objects: ObjectStore) -> dict[bytes, int]:
    sizes: dict[bytes, int] = {}
    for folder in (PACKS, LISTS):
        async for version in objects.list_versions(folder):
            digest = digest_of(version.key, folder)
            if version.current and not version.removed and digest is not None:
                sizes[digest] = version.size
    return sizes


async def _packs(ledger: OpenLedger, indexes: Indexes) -> set[bytes]:
    packs: set[bytes] = set()
    async for stored in _each(ledger.searched, indexes):
        for one in referring(stored.index, [stored.entry]):
            packs |= set() if one.dataref.listed is None else {one.dataref.listed}
            try:
                packs |= set(await packs_of(ledger.published, one.dataref))
            except ObjectMissing:
                continue  # it is not there, and frees nothing
    return packs


# -- the acts ---------------------------------------------------------------------------------------------------------


def acts_of(origin: str, found: Sequence[Offer], *, at: int) -> list[Event]:
    """What releases all of it. `at`: the size of the log."""
    return [
        event
        for offer in found
        if offer.indexes and not offer.refusal
        for event in released_events(
            origin, offer.asset.source, offer.indexes, offer.before_s, at, reason=_reason(offer.asset)
        )
    ]


async def record_acts(appender: Appender, events: Sequence[Event], actor: str) -> list[int]:
    """Append them, some at a time; their indexes. Each holds by itself: killed in between, the rest is found again.

    Raises as `Sequencer.append`.
    """
    indexes: list[int] = []
    for start in range(0, len(events), ACTS_AT_ONCE):
        # Commit point: from here on nobody requires that content again, anywhere.
        places = await appender.append(events[start : start + ACTS_AT_ONCE], actor=actor)
        indexes += [place.index for place in places]
    return indexes


def _reason(asset: Asset) -> str:
    grade = grade_of(asset.grade)
    return f"beyond the {grade.retention_days} days of grade {grade.level}"
