"""Who is making the ledger in a schema: what an interrupted init or restore left is its own, and nothing else is.

A schema is claimed in the transaction that makes it, by a token that the maker has noted on its own disk before: the
comment on the table `schema_version` says `being made`, and the token. Until the maker says that it is made, it may
start over; afterwards nobody may. Comments hold nothing up: a schema whose claim is lost is only never dropped.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from ledger.errors import InvalidRequest
from ledger.store.place import PostgresPlace

if TYPE_CHECKING:
    from ledger.store.postgres_server import Connection

TABLES: Final = ("entry", "head", "checkpoint", "schema_version")
"""Everything that the migrations make; what is dropped when an interrupted init starts over."""

_BEING_MADE: Final = "jinshi: a ledger, being made by"
_MADE: Final = "jinshi: a ledger, made by"
_TOKEN = re.compile(r"[0-9a-f]{32}")


async def lock_schema(db: Connection, place: PostgresPlace) -> None:
    """Until the transaction ends, nobody else makes, migrates or drops a ledger in this schema."""
    await db.execute("SELECT pg_advisory_xact_lock(hashtext($1))", f"jinshi:{place.schema}")


async def is_claimed(db: Connection, place: PostgresPlace, token: str) -> bool:
    """Whether the schema holds what `token` made; False: it is not there, or empty.

    Raises:
        InvalidRequest: it holds anything else.
    """
    mark = await _mark(db, place)
    if mark in (f"{_BEING_MADE} {token}", f"{_MADE} {token}"):
        return True
    used = "SELECT EXISTS (SELECT FROM pg_class WHERE relnamespace = to_regnamespace($1))"
    if not await db.fetchval(used, f'"{place.schema}"'):
        return False
    if mark is not None and mark.startswith(_BEING_MADE):
        raise InvalidRequest(
            f"{place.where} holds what another init or restore has begun",
            hint=f"finish that one, or name another schema, or have it dropped: DROP SCHEMA {place.schema} CASCADE",
        )
    raise InvalidRequest(
        f"{place.where} is used already", hint="nothing is overwritten: name another schema, or an empty one"
    )


async def claim(db: Connection, place: PostgresPlace, token: str) -> None:
    """In the transaction that makes the tables: say who makes them."""
    await _say(db, place, _BEING_MADE, token)


async def settle(db: Connection, place: PostgresPlace, token: str) -> None:
    """It is made: from now on nobody drops it. Done before is fine. Raises InvalidRequest: it is not ours."""
    async with db.transaction():
        await lock_schema(db, place)
        if not await is_claimed(db, place, token):
            raise InvalidRequest(f"{place.where} holds no ledger any more", hint="begin anew, in another directory")
        await _say(db, place, _MADE, token)


async def discard(db: Connection, place: PostgresPlace, token: str) -> None:
    """Drop what `token` was making; whatever else is there, or nothing, is left alone."""
    async with db.transaction():
        await lock_schema(db, place)
        if await _mark(db, place) == f"{_BEING_MADE} {token}":
            await db.execute("DROP TABLE " + ", ".join(f'"{place.schema}".{table}' for table in TABLES))


async def _mark(db: Connection, place: PostgresPlace) -> str | None:
    found = await db.fetchval("SELECT obj_description(to_regclass($1), 'pg_class')", f'"{place.schema}".schema_version')
    return None if found is None else str(found)


async def _say(db: Connection, place: PostgresPlace, what: str, token: str) -> None:
    assert _TOKEN.fullmatch(token), "it is put into the text of a statement"
    await db.execute(f"COMMENT ON TABLE \"{place.schema}\".schema_version IS '{what} {token}'")
