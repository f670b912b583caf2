"""Assets as commands show them: how each is registered, and its last consistent point."""

from __future__ import annotations

from dataclasses import dataclass

from cli.display import render
from cli.session import Session
from cli.wiring.ledgers import OpenLedger, open_ledger
from cli.wiring.views import asset_of
from ledger.assets import Asset, Assets, read_assets
from ledger.core.acknowledgement import AckPolicy
from ledger.core.entry import decode_entry
from ledger.core.event import format_time
from ledger.grades import grade_of
from ledger.kinds import KINDS
from ledger.sources import read_sources
from ledger.store.base import Selection
from restore.retained.acts import Horizon, Horizons, oldest_point


@dataclass(frozen=True, slots=True)
class Shown:
    """One asset; `sealed` is the index of its last sealing entry and when that was recorded, None: there is none.

    `first` is the oldest that was not released: from then on its points can be restored. `released`: older ones were.
    """

    asset: Asset
    ack: AckPolicy
    sealed: tuple[int, str] | None
    first: tuple[int, str] | None
    released: bool = False

    @property
    def kept_for(self) -> str:
        """For people: how long its content is kept."""
        days = f"{grade_of(self.asset.grade).retention_days} days"
        if not self.asset.release:
            return f"ever (its grade demands {days})" + (", but for what was released before" if self.released else "")
        since = render.moment(format_time(self.asset.release_since_us))
        return f"{days}; content beyond that is released, since {since}"

    @property
    def last_point(self) -> str:
        """For people."""
        if self.asset.kind in KINDS and not KINDS[self.asset.kind].sealing:
            return "every event"
        return _point(self.sealed)

    @property
    def first_point(self) -> str:
        """For people."""
        if self.asset.kind in KINDS and not KINDS[self.asset.kind].sealing:
            return "the first event"
        return _point(self.first)

    @property
    def state(self) -> str:
        """In a word or two."""
        if self.asset.retired:
            return "retired"
        words = ["paused"] if self.asset.paused else []
        words += ["degraded"] if self.asset.problems else []
        return ", ".join([*words, *(["gap accepted"] if self.asset.gaps else [])]) or "active"

    @property
    def json(self) -> dict[str, object]:
        return {
            **self.asset.to_json(),
            "ack": str(self.ack),
            "paused": self.asset.paused,
            "retired": self.asset.retired,
            "problems": list(self.asset.problems),
            "release": self.asset.release,
            "release_since": format_time(self.asset.release_since_us) if self.asset.release else None,
            "released": self.released,
            "first_point": _as_json(self.first),
            "last_point": _as_json(self.sealed),
        }


def _point(point: tuple[int, str] | None) -> str:
    return "none yet" if point is None else f"{render.moment(point[1])} (entry {point[0]})"


def _as_json(point: tuple[int, str] | None) -> dict[str, object] | None:
    return None if point is None else {"index": point[0], "recorded": point[1]}


async def shown_assets(
    session: Session, *, name: str | None = None, group: str | None = None, retired: bool = False
) -> list[Shown]:
    """The asset of that name, or those of that group, or all. Raises InvalidRequest."""
    async with open_ledger(session.ledger, session.environment) as ledger:
        assets = await read_assets(ledger.searched)
        sources = await read_sources(ledger.store)
        chosen = _chosen(assets, name, group, retired=retired)
        horizons = await Horizons(ledger.searched).now()
        return [
            Shown(
                one,
                sources.ack_of(one.sources[-1]),
                await _newest(ledger, one),
                await _oldest(ledger, one, horizons.get(one.source)),
                one.source in horizons,
            )
            for one in chosen
        ]


def _chosen(assets: Assets, name: str | None, group: str | None, *, retired: bool) -> list[Asset]:
    if name is not None:
        return [asset_of(assets, name)]
    if group is not None:
        return assets.group(group)
    return assets.all() if retired else assets.active()


async def _newest(ledger: OpenLedger, asset: Asset) -> tuple[int, str] | None:
    what = Selection(source=asset.source, type=_sealing(asset), newest_first=True)
    for stored in await ledger.searched.select(what, limit=1) if what.type else ():
        return stored.index, decode_entry(stored.entry).recordedtime
    return None


async def _oldest(ledger: OpenLedger, asset: Asset, horizon: Horizon | None) -> tuple[int, str] | None:
    sealing = _sealing(asset)
    return await oldest_point(ledger.searched, asset.source, sealing, horizon) if sealing else None


def _sealing(asset: Asset) -> str:
    return KINDS[asset.kind].sealing if asset.kind in KINDS else ""
