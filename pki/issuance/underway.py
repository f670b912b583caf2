"""Which keys and holders have certificates under way: between the look at the index and the index's knowing of it.

Two orders that come at the same time cannot both pass: the first one's reservation is what the second one meets.
"""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass, field


@dataclass(eq=False, slots=True)
class Reservation:
    """One certificate under way: of whose key, whose it will be, and by which profile."""

    key: str
    holder: str
    profile: str
    held: bool = True


@dataclass(slots=True)
class UnderWay:
    """Those of this process."""

    _keys: dict[str, list[Reservation]] = field(default_factory=dict)
    _holders: Counter[tuple[str, str]] = field(default_factory=Counter)
    _recorded: list[tuple[int, int, Reservation]] = field(default_factory=list)
    _made: int = 0

    @property
    def unknown_to_the_index(self) -> int:
        """How many were recorded that the index had not taken in at the last `settle`."""
        return len(self._recorded)

    def holders_of(self, key: str) -> list[str]:
        """For whom a key is under way."""
        return [one.holder for one in self._keys.get(key, ())]

    def count(self, holder: str, profile: str) -> int:
        """How many a holder has under way, of a profile."""
        return self._holders[holder, profile]

    def reserve(self, key: str, holder: str, profile: str) -> Reservation:
        """Hold a place until it is released, or recorded and settled."""
        made = Reservation(key, holder, profile)
        self._keys.setdefault(key, []).append(made)
        self._holders[holder, profile] += 1
        return made

    def release(self, one: Reservation) -> None:
        """Give a place back; once, however often it is said."""
        if not one.held:
            return
        one.held = False
        of_key = self._keys[one.key]
        of_key.remove(one)
        if not of_key:
            del self._keys[one.key]
        self._holders[one.holder, one.profile] -= 1
        if not self._holders[one.holder, one.profile]:
            del self._holders[one.holder, one.profile]

    def recorded(self, one: Reservation, place: int) -> None:
        """It is in the log at `place`; the place is given back once the index has that."""
        self._made += 1
        heapq.heappush(self._recorded, (place, self._made, one))

    def settle(self, reached: int) -> None:
        """The index has taken in the first `reached` entries of the log."""
        while self._recorded and self._recorded[0][0] < reached:
            self.release(heapq.heappop(self._recorded)[2])
