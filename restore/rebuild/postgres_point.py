"""Which consistent point of which database a restore is of."""

from __future__ import annotations

from ledger.capture.base import Restoring, View
from ledger.capture.postgres.events import SEALED, Seal
from ledger.capture.postgres.pgoutput import parse_lsn
from ledger.capture.postgres.state import newest_seal, newest_seals, seal_of
from ledger.errors import ContentReleased, InvalidRequest, Malformed


async def choose_point(view: View, what: Restoring) -> tuple[int, Seal]:
    """The seal that is asked for, and its index.

    Raises:
        InvalidRequest: there is none, or it is not said which. ContentReleased: what it says was released.
    """
    newest = await view.newest(what.source, SEALED)
    if newest is not None:
        await what.check_kept([newest.index])
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
        await what.check_kept([known[database]])
        found = await newest_seal(view, what.source, database)
        assert found is not None
        return found
    return await _choose_lsn(view, what, database, str(lsn))


async def _choose_lsn(view: View, what: Restoring, database: str, lsn: str) -> tuple[int, Seal]:
    try:
        before = parse_lsn(lsn)
    except Malformed as error:
        raise InvalidRequest(error.what, hint=error.hint) from error
    chosen: tuple[int, Seal] | None = None
    released: ContentReleased | None = None  # of a point after the chosen one, which may be the one that is asked for
    beyond = False
    async for one in view.entries(what.source, subject=database, event_type=SEALED):
        try:
            await what.check_kept([one.index])
        except ContentReleased as error:
            released = released if beyond else error
            continue
        seal = await seal_of(one, view)
        beyond = seal.lsn >= before
        if seal.lsn <= before:
            chosen, released = (one.index, seal), None
    if released is not None:
        raise released
    if chosen is None:
        raise InvalidRequest(f"no consistent point of {database!r} lies before {lsn}", hint="name a later one")
    return chosen
