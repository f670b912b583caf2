"""Which consistent point of which database a restore is of."""

from __future__ import annotations

from ledger.capture.base import Restoring, View
from ledger.capture.postgres.events import SEALED, Seal
from ledger.capture.postgres.pgoutput import parse_lsn
from ledger.capture.postgres.state import newest_seal, newest_seals, seal_of
from ledger.errors import InvalidRequest, Malformed


async def choose_point(view: View, what: Restoring) -> tuple[int, Seal]:
    """The seal that is asked for, and its index. Raises InvalidRequest: there is none, or it is not said which."""
    known = await newest_seals(view, what.source)
    if not known:
        raise InvalidRequest(f"no database of {what.source} is sealed there", hint="name a later point")
    wanted = what.options.get("database")
    if wanted is None and len(known) > 1:
        raise InvalidRequest(
            f"{what.source} holds the databases {', '.join(sorted(known))}", hint="name one with the option database"
        )
    database = str(wanted) if wanted is not None else next(iter(known))
    if database not in known:
        raise InvalidRequest(
            f"database {database!r} of {what.source} is not sealed there", hint=f"there is {', '.join(sorted(known))}"
        )
    lsn = what.options.get("lsn")
    if lsn is None:
        found = await newest_seal(view, what.source, database)
        assert found is not None
        return found
    return await _choose_lsn(view, what.source, database, str(lsn))


async def _choose_lsn(view: View, source: str, database: str, lsn: str) -> tuple[int, Seal]:
    try:
        before = parse_lsn(lsn)
    except Malformed as error:
        raise InvalidRequest(error.what, hint=error.hint) from error
    chosen: tuple[int, Seal] | None = None
    async for one in view.entries(source, subject=database, event_type=SEALED):
        seal = await seal_of(one, view)
        if seal.lsn <= before:
            chosen = one.index, seal
    if chosen is None:
        raise InvalidRequest(f"no consistent point of {database!r} lies before {lsn}", hint="name a later one")
    return chosen
