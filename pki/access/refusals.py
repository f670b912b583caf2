"""What was refused, counted in memory and recorded in summaries of bounded size and rate: nobody can fill the log."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass, field
from typing import Final

from pki.access.base import Caller, Resource, service_permit
from pki.aggregates.refusals import Refusals
from pki.journal import Journal

EVERY_S: Final = 60.0
KINDS_MAX: Final = 60
"""Different (actor, action, kind of resource, reason) in one summary; what comes beyond is only counted."""
FIRST_MAX: Final = 10
TEXT_SIZE_MAX: Final = 100
"""Bytes of each text. With the others it keeps a summary, sealed, within an entry's 65,535 bytes."""

_Key = tuple[str, str, str, str]


@dataclass(slots=True)
class RefusalLog:
    """One for each process. What it has counted and not yet recorded is lost when the process is killed.

    `actor`: whoever runs the service.
    """

    journal: Journal
    actor: str
    _counts: dict[_Key, int] = field(default_factory=dict)
    _first: list[dict[str, str | int]] = field(default_factory=list)
    _others: int = 0
    _since: int = 0

    def note(self, caller: Caller, action: str, resource: Resource, reason: str) -> None:
        """Count one."""
        now = int(self.journal.clock.now().timestamp())
        self._since = self._since or now
        key = (_short(caller.actor), _short(action), _short(resource.kind), _short(reason))
        if key not in self._counts and len(self._counts) >= KINDS_MAX:
            self._others += 1
            return
        self._counts[key] = self._counts.get(key, 0) + 1
        if len(self._first) < FIRST_MAX:
            who, what, kind, why = key
            self._first.append(
                {"at": now, "actor": who, "action": what, "kind": kind, "id": _short(resource.id), "reason": why}
            )

    async def flush(self) -> bool:
        """Record what was counted since the last time; whether there was anything.

        Raises as `Journal.save`; then it stays counted.
        """
        if not self._counts:
            return False
        counts, first, others, since = self._counts, self._first, self._others, self._since
        self._counts, self._first, self._others, self._since = {}, [], 0, 0
        now = self.journal.clock.now()
        listed = [
            {"actor": actor, "action": action, "kind": kind, "reason": reason, "count": count}
            for (actor, action, kind, reason), count in counts.items()
        ]
        number, until, details = secrets.token_hex(16), int(now.timestamp()), [dict(one) for one in first]
        summary = Refusals(number, since, until, listed, others, details, timestamp=now)
        try:
            await self.journal.save(summary, permit=service_permit(self.actor, "access.summarise"))
        except BaseException:
            self._restore(counts, first, others, since)
            raise
        return True

    async def run(self, every_s: float = EVERY_S) -> None:
        """Record a summary every so often, for ever. Raises as `flush`."""
        while True:
            await asyncio.sleep(every_s)
            await self.flush()

    def _restore(self, counts: dict[_Key, int], first: list[dict[str, str | int]], others: int, since: int) -> None:
        """Put back what could not be recorded; of what came meanwhile, as much as there is room for."""
        self._others += others
        self._first = (first + self._first)[:FIRST_MAX]
        self._since = since
        for key, count in self._counts.items():
            if key in counts or len(counts) < KINDS_MAX:
                counts[key] = counts.get(key, 0) + count
            else:
                self._others += count
        self._counts = counts


def _short(text: str) -> str:
    """In few bytes, of which none is escaped in JSON."""
    printed = "".join(one if one.isprintable() and one not in '"\\' else "?" for one in text[: 4 * TEXT_SIZE_MAX])
    data = printed.encode()
    return printed if len(data) <= TEXT_SIZE_MAX else data[: TEXT_SIZE_MAX - 3].decode(errors="ignore") + "…"
