"""Looks once at what the readings of `cli.trust.health` go by, for a command: no server has to run."""

from __future__ import annotations

from collections.abc import Mapping

from cli.session import Session
from cli.trust.health import PLACE_AWAY_S, Looked, quorum_readings, readings
from cli.trust.status import StatusDesk, open_status
from cli.wiring.ledgers import OpenLedger
from cli.wiring.places import open_place
from ledger.alarms import Reading
from ledger.errors import InvalidRequest, JinshiError, StoreUnavailable
from ledger.store.base import Selection
from pki.core.published import Published
from pki.journal import SOURCE
from pki.keys_away import keys_away
from pki.status.measuring import Latency, Measuring
from pki.status.publishing import read_index
from pki.status.rounds import Facts


async def has_trust(ledger: OpenLedger) -> bool:
    """Whether anything of a trust service was ever recorded. Raises StoreUnavailable."""
    return bool(await ledger.searched.select(Selection(source=SOURCE), limit=1))


async def wrong_with_trust(session: Session, troubles: Mapping[str, str | None]) -> list[Reading]:
    """What there would be alarms for. `troubles`: as `quorum_readings`. Raises as `open_trust`."""
    async with open_status(session) as desk:
        now = int(desk.trust.journal.clock.now().timestamp())
        looked = await look(desk, now)
        found = [*readings(desk.trust.index, looked, now), *quorum_readings(troubles)]
        return [one for one in found if one.over]


async def look(desk: StatusDesk, now: int) -> Looked:
    """Places and keepers, asked once: nothing is known of since when one is away, so that it counts at once."""
    rounds, index = desk.services.rounds, desk.trust.index
    own, _ = await read_index(rounds.publisher.own)
    wrong: dict[str, JinshiError] = {}
    places: dict[str, int] = {}
    shown: list[Published | None] = []
    for name, url in rounds.places.items():
        there: Published | None = None
        try:
            there, _ = await read_index(open_place(url, desk.environment))
            places[name] = now - own.written_at if own is not None and there != own else 0
        except (StoreUnavailable, InvalidRequest) as error:
            wrong[f"place {name}"] = error
            places[name] = PLACE_AWAY_S + 1
        shown.append(there)
    latency = Latency() if own is None else Measuring(index).measure(own, shown, now, Latency())
    keepers = await keys_away(index.book, rounds.responders.keys, desk.trust.paths.authority_keys, now)
    return Looked(Facts(wrong, latency), own is not None, places, keepers)
