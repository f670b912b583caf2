"""What is watched of the trust service while it is served: `cli.trust.health`, again and again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

from cli.serving.covering import unchanged
from cli.trust.health import TRUST_KINDS, Looked, readings
from ledger.alarms import Key, Reading
from ledger.protocols import Clock
from pki.status.rounds import StatusRounds
from pki.views.catalogue import TrustIndex

LOOK_EVERY_S: Final = 30.0


@dataclass
class TrustWatch:
    """Reads the facts. `rounds` has those of status; `keys_away` says of every keeper of keys why it is away, "": not
    (`pki.keys_away`).
    """

    index: TrustIndex
    rounds: StatusRounds
    keys_away: Callable[[], Awaitable[Mapping[str, str]]]
    clock: Clock
    look_every_s: float = LOOK_EVERY_S
    _found: list[Reading] | None = field(default=None, init=False)
    _failed: set[str] = field(default_factory=set, init=False)
    """Keepers that the last look found away: it takes two, so that a hiccup is no alarm."""
    _places: dict[str, int] = field(default_factory=dict, init=False)

    def readings(self, standing: Collection[Key]) -> list[Reading]:
        """One of everything that is watched, as it was last looked at; before, what stands stays as it is."""
        if self._found is None:
            return [one for kind in TRUST_KINDS for one in unchanged(kind, standing)]
        return self._found

    async def run(self) -> None:
        """Look again and again, for ever."""
        while True:
            await self.look()
            await asyncio.sleep(self.look_every_s)

    async def look(self) -> None:
        """Once at everything; of thousands of authorities at one after the other, with others' work between."""
        keepers = await self._keepers()
        now, found = int(self.clock.now().timestamp()), list[Reading]()
        places = {name: self._away_s(name, now) for name in self.rounds.places}
        looked = Looked(self.rounds.facts, measured=True, places=places, keepers=keepers)
        for one in readings(self.index, looked, now):
            found.append(one)
            await asyncio.sleep(0)
        self._found = found

    async def _keepers(self) -> dict[str, str]:
        """Whether every key in use is where it should be, and its keeper answers."""
        looked = await self.keys_away()
        wrong = {keeper for keeper, why in looked.items() if why}
        away, self._failed = wrong & self._failed, wrong
        return {keeper: why if keeper in away else "" for keeper, why in looked.items()}

    def _away_s(self, name: str, now: int) -> int:
        """For how long nothing could be published to a place."""
        if f"place {name}" not in self.rounds.facts.wrong:
            self._places.pop(name, None)
            return 0
        return now - self._places.setdefault(name, now)
