"""Appends that fail on demand, for tests of the trust service."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ledger.core.event import Event
from ledger.sequencer import Recorded


@dataclass
class Failing:
    """An `Appending` in front of another one, which fails on demand: before it records, or after."""

    inner: Any
    before: list[Exception | None] = field(default_factory=list)
    after: list[Exception | None] = field(default_factory=list)

    async def append(self, events: Sequence[Event], *, actor: str) -> list[Recorded]:
        if self.before and (error := self.before.pop(0)) is not None:
            raise error
        places: list[Recorded] = await self.inner.append(events, actor=actor)
        if self.after and (error := self.after.pop(0)) is not None:
            raise error
        return places
