"""Whether the sites' buckets still lock what is written there, looked at now and then while a ledger is served."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from typing import Final

from cli.display.logs import get_logger
from cli.sites.guarding import Guard, guard_of
from cli.wiring.ledgers import OpenLedger
from ledger.alarms import AlarmKind, Key, Reading

LOOK_EVERY_S: Final = 600.0


class Guards:
    """What guards each site's copy, as it was last found."""

    def __init__(self, ledger: OpenLedger) -> None:
        self._ledger = ledger
        self._found: dict[str, Guard] = {}
        self._looking: asyncio.Task[dict[str, Guard]] | None = None
        self._looked_s: float | None = None

    def of(self, name: str) -> Guard | None:
        """Of one site; None: it was not found out yet."""
        return self._found.get(name)

    def readings(self, standing: Collection[Key]) -> list[Reading]:
        """One for every site that was looked at; the others leave their alarms as they are."""
        self._look()
        kind = AlarmKind.SITE_UNLOCKED
        known = [_reading(name, guard) for name, guard in self._found.items()]
        others = [about for of, about in standing if of == kind and about not in self._found]
        return known + [Reading(kind, about, "", 0, 0, over=False, fine=False) for about in others]

    async def close(self) -> None:
        """End what still looks."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    def _look(self) -> None:
        if self._looking is not None:
            if not self._looking.done():
                return
            if (error := self._looking.exception()) is None:
                self._found |= self._looking.result()
            else:  # what was found before still holds, and so does the server
                get_logger().error(f"the locks of the sites cannot be looked at ({type(error).__name__}: {error})")
            self._looked_s, self._looking = time.monotonic(), None
        if self._looked_s is None or time.monotonic() - self._looked_s > LOOK_EVERY_S:
            self._looking = asyncio.create_task(self._guards(), name="locks of the sites")

    async def _guards(self) -> dict[str, Guard]:
        sites = self._ledger.settings.sites
        return {site.name: guard for site in sites if (guard := await guard_of(self._ledger, site)) is not None}


def _reading(name: str, guard: Guard) -> Reading:
    over, what = bool(guard.trouble), f"site {name} locks what is written there"
    if over:
        what = f"site {name} does not lock what is written there: {guard.trouble}"
    return Reading(AlarmKind.SITE_UNLOCKED, name, what, int(over), 0, over=over, fine=not over)
