"""Whoever waits, in a simulated system, for the sites to have an entry: what they are told must be so."""

from __future__ import annotations

from contextlib import suppress

from ledger.acknowledging import Acknowledging
from ledger.core.acknowledgement import ALL, SAME_CITY, AckPolicy, parse_ack
from ledger.core.checkpoint import CHECKPOINT, parse_checkpoint
from ledger.errors import ObjectMissing, Unacknowledged
from tests.support.replicas import NEAR, Replicas
from tests.support.weather import Weather

POLICIES = (parse_ack("any:1"), parse_ack("any:2"), SAME_CITY, ALL)
ACKNOWLEDGED, REFUSED = "acknowledged by sites", "not yet acknowledged by sites"


class Waiting:
    """What producers still want to hear that the sites have: `entries` by index, and by which policy."""

    def __init__(self, replicas: Replicas, weather: Weather) -> None:
        self.entries: list[tuple[int, AckPolicy]] = []
        self._replicas = replicas
        self._weather = weather

    def add(self, index: int) -> None:
        """Somebody waits for an entry, by one policy or another."""
        self.entries.append((index, self._weather.draw.choice(POLICIES)))

    async def ask(self, acknowledging: Acknowledging) -> None:
        """All of them ask again; what they are told must be so, at that moment."""
        waiting, self.entries = self.entries, []
        for index, policy in waiting:
            try:
                await acknowledging.acknowledge(index, {policy}, 0.0)
            except Unacknowledged:
                self._weather.met[REFUSED] += 1
                self.entries.append((index, policy))
            else:
                self._weather.met[ACKNOWLEDGED] += 1
                await self._check_held(index, policy)

    async def _check_held(self, index: int, policy: AckPolicy) -> None:
        """If the primary were gone now: the entry is in what the mirrors of so many sites have cosigned and stored."""
        having = set()
        for name, place in self._replicas.places.items():
            with suppress(ObjectMissing):
                if parse_checkpoint((await place.objects.get(CHECKPOINT)).data).checkpoint.size > index:
                    having.add(name)
        enough = {"any:1": len(having) >= 1, "any:2": len(having) >= 2, "same-city": NEAR in having}
        everywhere = having == set(self._replicas.places)
        assert enough.get(str(policy), everywhere), f"{index} was acknowledged by {policy}; {having or 'nobody'} has it"
