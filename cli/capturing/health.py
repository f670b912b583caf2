"""What captures leave in the ledger besides their entries: that an asset is degraded, mended, or still the same."""

from __future__ import annotations

import re

from cli.wiring.ledgers import WritableLedger
from ledger.assets import (
    PROBLEM_LENGTH_MAX,
    PROBLEMS_MAX,
    Asset,
    Assets,
    Registry,
    checked,
    degraded,
    recovered,
)
from ledger.capture.base import Captured
from ledger.core.entry import decode_entry
from ledger.core.event import Event, event_time_us, posix_us
from ledger.errors import JinshiError
from ledger.grades import grade_of
from ledger.protocols import Clock
from ledger.store.base import Selection

_NUMBERS = re.compile(r"[\d.,:]+")


class Health:
    """Of the assets of one ledger, for the process that appends."""

    def __init__(self, writable: WritableLedger, clock: Clock) -> None:
        self._writable = writable
        self._clock = clock
        self._registry = Registry(writable.ledger.store)
        self._beats_us: dict[str, int] = {}

    async def assets(self) -> Assets:
        """What is registered now. Raises StoreUnavailable."""
        return await self._registry.assets()

    async def captured(self, name: str, done: Captured) -> None:
        """A capture came to a consistent point.

        Recorded: that it is degraded, where there are problems, or recovered, where there were; or, for a point that is
        the last one still, a heartbeat, as often as its grade needs one. Raises as `Sequencer.append`.
        """
        await self._record_problems(name, done.problems)
        if done.repeated:
            await self._beat(name, done.index)
        else:
            self._beats_us[name] = self._now_us()

    async def failed(self, name: str, error: JinshiError) -> None:
        """A capture could not be made. Raises as `Sequencer.append`."""
        await self._record_problems(name, (str(error),))

    async def _record_problems(self, name: str, problems: tuple[str, ...]) -> None:
        assets = await self.assets()
        asset = assets.find(name)
        if asset is None or asset.retired or _same(asset.problems, problems):
            return
        origin, at = self._writable.ledger.origin, assets.revision(name)
        await self._append(degraded(origin, name, problems, at=at) if problems else recovered(origin, name, at=at))

    async def _beat(self, name: str, sealed: int) -> None:
        asset = (await self.assets()).find(name)
        if asset is None:
            return
        now_us = self._now_us()
        if name not in self._beats_us:
            self._beats_us[name] = await self._last_beat_us(asset, sealed)
        if now_us - self._beats_us[name] >= grade_of(asset.grade).beat_every_s * 1_000_000:
            await self._append(checked(asset, sealed, at=now_us))
            self._beats_us[name] = now_us

    async def _last_beat_us(self, asset: Asset, sealed: int) -> int:
        """When it was last known to be as recorded: the newest of its entries from the sealing one on; 0: never."""
        what = Selection(start=sealed, source=asset.source, newest_first=True)
        found = await self._writable.ledger.searched.select(what, limit=1)
        return event_time_us(decode_entry(found[0].entry).recordedtime) if found else 0

    async def _append(self, event: Event) -> None:
        await self._writable.sequencer.append([event], actor=self._writable.ledger.environment.actor)

    def _now_us(self) -> int:
        return posix_us(self._clock.now())


def _same(before: tuple[str, ...], after: tuple[str, ...]) -> bool:
    """Whether two lists of problems say the same, whatever they count and measure, as far as they are recorded."""
    return _outline(before) == _outline(after)


def _outline(problems: tuple[str, ...]) -> list[str]:
    return [_NUMBERS.sub("#", one[:PROBLEM_LENGTH_MAX]) for one in problems[:PROBLEMS_MAX]]
