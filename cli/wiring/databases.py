"""What a PostgreSQL server that is under protection says of itself: which one it is, and which databases it has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import asyncpg

from ledger.errors import InvalidRequest, Unavailable

CONNECT_TIMEOUT_S: Final = 10.0
DATABASES_MAX: Final = 10_000
MAINTENANCE: Final = "postgres"
"""The database that every server has to connect to: it counts only where somebody put tables into it."""

_SERVER: Final = """
SELECT current_database() AS current,
       (SELECT system_identifier::text FROM pg_control_system()) AS identity,
       (SELECT setting FROM pg_settings WHERE name = 'data_directory') AS data
"""
_DATABASES: Final = """
SELECT datname FROM pg_database WHERE datallowconn AND NOT datistemplate ORDER BY datname LIMIT $1
"""
_TABLES: Final = """
SELECT EXISTS (SELECT FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
               WHERE relkind IN ('r', 'p', 'm') AND nspname !~ '^pg_' AND nspname <> 'information_schema')
"""


@dataclass(frozen=True, slots=True)
class Server:
    """One server. `current`: the database that was connected to; `data`: its directory, '' where it does not say."""

    identity: str
    current: str
    databases: tuple[str, ...]
    data: str = ""


async def server_of(dsn: str) -> Server:
    """The server that a DSN leads to. Raises Unavailable (no message shows the DSN), InvalidRequest: it is none."""
    try:
        connection = await asyncpg.connect(dsn, timeout=CONNECT_TIMEOUT_S, command_timeout=CONNECT_TIMEOUT_S)
        try:
            about = await connection.fetchrow(_SERVER)
            names = [str(row["datname"]) for row in await connection.fetch(_DATABASES, DATABASES_MAX)]
        finally:
            await connection.close(timeout=CONNECT_TIMEOUT_S)
        assert about is not None, "a SELECT without FROM has a row"
        if MAINTENANCE in names and about["current"] != MAINTENANCE and not await _has_tables(dsn, MAINTENANCE):
            names.remove(MAINTENANCE)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
        raise Unavailable(
            f"PostgreSQL does not answer ({type(error).__name__})", hint="check that it runs, and its address"
        ) from error
    except ValueError as error:
        raise InvalidRequest("the secret dsn is no address of PostgreSQL", hint="postgresql://HOST/DATABASE") from error
    return Server(str(about["identity"]), str(about["current"]), tuple(names), about["data"] or "")


async def _has_tables(dsn: str, database: str) -> bool:
    """Whether there is anything in a database; what cannot be looked into is held to be in use."""
    try:
        connection = await asyncpg.connect(dsn, database=database, timeout=CONNECT_TIMEOUT_S)
    except asyncpg.PostgresError:
        return True
    try:
        return bool(await connection.fetchval(_TABLES))
    finally:
        await connection.close(timeout=CONNECT_TIMEOUT_S)
