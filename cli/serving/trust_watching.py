"""What is watched of the trust service: status that is late, certificates that end, keys that are away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from cryptography import x509

from cli.display.render import duration
from cli.serving.covering import unchanged
from ledger.alarms import AlarmKind, Key, Reading
from ledger.core.encoding import decode_base64
from ledger.protocols import Clock
from pki.aggregates.authority import ACTIVE, Authority
from pki.aggregates.responder import Responder
from pki.aggregates.tsa import ACTIVE as STAMPING
from pki.aggregates.tsa import Tsa
from pki.status.issuers import StatusIssuer, issuers_in
from pki.status.rounds import StatusRounds
from pki.views.catalogue import TrustIndex

TRUST_KINDS: Final = (AlarmKind.STATUS_LATE, AlarmKind.TRUST_CERTIFICATE, AlarmKind.KEY_AWAY)
DAY_S: Final = 86_400
AUTHORITY_S: Final = 180 * DAY_S
OTHER_S: Final = 30 * DAY_S
OF_AUTHORITY: Final = 3
OF_RESPONDER: Final = 6
"""Soon is at most such a part of its own time: responders live for a month, and are renewed when a third is left."""
LOOK_EVERY_S: Final = 30.0
PLACE_AWAY_S: Final = 300


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
    _places: dict[str, float] = field(default_factory=dict, init=False)

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
        for issuer in list(issuers_in(self.index.book)):
            if issuer.not_after > now:
                found.append(self._of_status(issuer, now))
                await asyncio.sleep(0)
        for one in self._certificates(now):
            found.append(one)
            await asyncio.sleep(0)
        found += [self._of_place(name, now) for name in self.rounds.places]
        self._found = found + keepers

    async def _keepers(self) -> list[Reading]:
        """Whether every key in use is where it should be, and its keeper answers."""
        looked = await self.keys_away()
        wrong = {keeper for keeper, why in looked.items() if why}
        away, self._failed = wrong & self._failed, wrong
        return [_of_keeper(keeper, why if keeper in away else "") for keeper, why in sorted(looked.items())]

    # -- status --

    def _of_status(self, issuer: StatusIssuer, now: int) -> Reading:
        """Whether its lists are in their time, and what was revoked is published within its bound."""
        database, bound_s, facts = self.index.database, issuer.settings.publish_within_s, self.rounds.facts
        series = (issuer.authority, issuer.generation)
        shards = self.index.crls.shards(database, *series)
        lists = [self.index.crls.last_issued(database, *series, shard) for shard in shards]
        past = max((now - one.next_update for one in lists if one is not None), default=0)
        late = any(one.rpartition("-")[0] == issuer.name for one in facts.latency.late)
        value = past if past > 0 else facts.latency.waiting_s if late else 0
        what = f"the list of {issuer.name} is past its time for {duration(past)}"
        if past <= 0:
            what = f"a revocation of {issuer.name} is not published for {duration(value)}"
        wrong = [error.what for about, error in facts.wrong.items() if issuer.name in about.split()]
        return Reading(
            AlarmKind.STATUS_LATE,
            issuer.name,
            ": ".join([what, *wrong[:1]]),
            value,
            bound_s,
            over=past > 0 or late,
            fine=past <= 0 and not late,
        )

    def _of_place(self, name: str, now: int) -> Reading:
        """Whether a place has taken what is published, lately."""
        error = self.rounds.facts.wrong.get(f"place {name}")
        if error is None:
            self._places.pop(name, None)
        since = now if error is None else self._places.setdefault(name, now)
        away_s = int(now - since)
        what = f"nothing is published to {name} for {duration(away_s)}: {'' if error is None else error.what}"
        over = away_s > PLACE_AWAY_S
        return Reading(AlarmKind.STATUS_LATE, f"place {name}", what, away_s, PLACE_AWAY_S, over, error is None)

    # -- certificates --

    def _certificates(self, now: int) -> Iterator[Reading]:
        """Those that the service works with."""
        book = self.index.book
        for authority in book.all(Authority):
            certified = [one for one in authority.generations if one.certificates]
            if authority.state == ACTIVE and certified:
                name, hint = f"authority {authority.name}", f"jinshi ca rollover {authority.name}"
                yield _ending(name, certified[-1].certificates[0], now, AUTHORITY_S, OF_AUTHORITY, hint)
        for tsa in book.all(Tsa):
            stamps = [one for one in tsa.keys if one.certificate]
            if tsa.state == STAMPING and stamps:
                name, hint = f"time stamps {tsa.name}", f"jinshi tsa renew {tsa.name}"
                yield _ending(name, stamps[-1].certificate, now, OTHER_S, OF_AUTHORITY, hint)
        for issuer in issuers_in(book):
            found = book.find(Responder, Responder.create_id(issuer.authority, issuer.generation))
            if issuer.current and issuer.not_after > now and found is not None and found.current is not None:
                name, hint = f"responder {issuer.name}", "jinshi serve --trust renews it: see its log"
                yield _ending(name, found.current.certificate, now, OTHER_S, OF_RESPONDER, hint)


def _ending(name: str, der: str, now: int, bound_s: int, part: int, hint: str) -> Reading:
    certificate = x509.load_der_x509_certificate(decode_base64(der))
    begins, ends = (int(one.timestamp()) for one in (certificate.not_valid_before_utc, certificate.not_valid_after_utc))
    bound_s, left_s = min(bound_s, (ends - begins) // part), ends - now
    what = f"the certificate of {name} ends in {duration(left_s)}; {hint}"
    if left_s <= 0:
        what = f"the certificate of {name} has ended; {hint}"
    over = left_s < bound_s
    return Reading(AlarmKind.TRUST_CERTIFICATE, name, what, left_s // DAY_S, bound_s // DAY_S, over=over, fine=not over)


def _of_keeper(keeper: str, why: str) -> Reading:
    what = f"keys of the trust service cannot be used ({keeper}): {why}"
    return Reading(AlarmKind.KEY_AWAY, keeper, what, int(bool(why)), 0, over=bool(why), fine=not why)
