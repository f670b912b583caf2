"""Which certificates are about to end, and who is to be told: each is noticed once for each threshold."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from ledger.errors import Conflict, InvalidRequest
from pki.access.base import service_permit
from pki.aggregates.notice import Notice
from pki.journal import Journal
from pki.views.catalogue import TrustIndex
from pki.views.certificates import CertificateRow
from pki.wishes import DAY_S

THRESHOLDS: Final = (30, 7, 1)
"""Days before the end at which a holder is told."""
ROUND_MAX: Final = 1_000
"""How many notices a round records; the next one goes on."""
ACTOR: Final = "service:ra"
RESPONDER: Final = "ocsp-responder"
"""Nobody is told of these: the service certifies its responders anew by itself."""


@dataclass(frozen=True, slots=True)
class Expiring:
    """A certificate that ends in `days` days or fewer. `renewed`: another one was issued in its place.

    `title` is what its holder is called, "" for one that is not registered here.
    """

    row: CertificateRow
    days: int
    title: str
    renewed: bool


@dataclass(frozen=True, slots=True)
class Expiry:
    """Looks for what ends. `thresholds` are in days, the largest first."""

    journal: Journal
    index: TrustIndex
    thresholds: Sequence[int] = THRESHOLDS

    def __post_init__(self) -> None:
        if not self.thresholds or sorted(set(self.thresholds), reverse=True) != list(self.thresholds):
            raise InvalidRequest("thresholds are days, each once, the largest first", hint="30, 7, 1")

    async def expiring(self, within_days: int) -> AsyncIterator[Expiring]:
        """What ends within so many days, the earliest first."""
        await self.index.catch_up()
        for one in self._ending(within_days):
            yield one

    async def notice(self) -> list[Expiring]:
        """Record what has come under a threshold since, and give it to whoever tells the holders.

        A crash between the two loses the telling, not the record: `expiring` shows it still. Raises as `Journal.save`.
        """
        await self.index.catch_up()
        told: list[Expiring] = []
        now = self.journal.clock.now()
        for one in self._ending(self.thresholds[0]):
            if one.renewed:
                continue
            days = min(limit for limit in self.thresholds if one.days <= limit)
            row = one.row
            if self.index.requests.noticed(self.index.database, row.authority, row.serial, days):
                continue
            made = Notice(row.authority, row.serial, days, row.holder, row.not_after, timestamp=now)
            try:
                await self.journal.save(made, permit=service_permit(ACTOR, "certificate.notice"))
            except Conflict:
                continue  # another process has told
            told.append(one)
            if len(told) == ROUND_MAX:
                break
        return told

    def _ending(self, within_days: int) -> Iterator[Expiring]:
        now = int(self.journal.clock.now().timestamp())
        # Read whole before anything is awaited: what is recorded meanwhile changes the table.
        rows = list(self.index.certificates.ending(self.index.database, now, now + within_days * DAY_S + 1))
        for row in rows:
            if row.profile == RESPONDER:
                continue
            identity = self.index.identities.find(self.index.database, row.holder)
            days = -((now - row.not_after) // DAY_S)
            renewed = self.index.requests.renewed(self.index.database, row.authority, row.serial)
            yield Expiring(row, days, "" if identity is None else identity.title, renewed)
