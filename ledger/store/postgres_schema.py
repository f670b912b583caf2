"""The schema of a ledger's entries in PostgreSQL, and what brings an older one up to it. See postgres.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from ledger.errors import InvalidRequest
from ledger.store.place import PostgresPlace
from ledger.store.postgres_claim import claim, is_claimed, lock_schema

if TYPE_CHECKING:
    from ledger.store.postgres_server import Connection

SCHEMA_VERSION: Final = 1

MIGRATIONS: Final[Mapping[int, str]] = {
    1: """
CREATE TABLE entry (
    position bigint PRIMARY KEY,
    data bytea NOT NULL,
    leaf bytea NOT NULL,
    source text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    subject text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    type text COLLATE "C" NOT NULL,
    actor text COLLATE "C" NOT NULL,
    time_us bigint NOT NULL,
    recorded_us bigint NOT NULL
);
-- Entries are hashed, signed and not compressible twice: what is too long for a page is kept beside it as it is.
ALTER TABLE entry ALTER COLUMN data SET STORAGE EXTERNAL;
CREATE UNIQUE INDEX entry_id ON entry (id, source);
CREATE UNIQUE INDEX entry_stream ON entry (subject, source, version);
CREATE TABLE head (
    only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    size bigint NOT NULL, frontier bytea NOT NULL, recorded_us bigint NOT NULL, epoch bigint NOT NULL
);
INSERT INTO head (size, frontier, recorded_us, epoch) VALUES (0, '', 0, 0);
CREATE TABLE checkpoint (
    origin text COLLATE "C" PRIMARY KEY, size bigint NOT NULL, root bytea NOT NULL, note bytea NOT NULL
);
""",
}
"""What brings a schema from the version before to this one; each runs in one transaction with its number."""

COLUMNS: Final = (
    "position",
    "data",
    "leaf",
    "source",
    "id",
    "subject",
    "version",
    "type",
    "actor",
    "time_us",
    "recorded_us",
)


async def migrate(db: Connection, place: PostgresPlace, *, create: bool, token: str) -> None:
    """Bring the schema to `SCHEMA_VERSION`, one transaction a step; several processes may try at once.

    Raises:
        InvalidRequest: there is none and `create` is not set, it is newer, or it is not what `token` made.
    """
    schema = f'"{place.schema}"'
    there = await db.fetchval("SELECT to_regclass($1)", f"{schema}.schema_version") is not None
    if not there and not create:
        raise InvalidRequest(f"{place.where} holds no ledger", hint="check the database, or restore it from a site")
    if there and not token and await _version(db) == SCHEMA_VERSION:
        return  # as ever, and without a right to change anything
    async with db.transaction():
        await lock_schema(db, place)
        ours = not token or await is_claimed(db, place, token)
        if await db.fetchval("SELECT to_regnamespace($1)", schema) is None:
            await db.execute(f"CREATE SCHEMA {schema}")
        await db.execute("CREATE TABLE IF NOT EXISTS schema_version (version integer PRIMARY KEY)")
        if not ours:
            await claim(db, place, token)
        version = await _version(db)
        if version > SCHEMA_VERSION:
            raise InvalidRequest(
                f"{place.where} has schema {version}; this jinshi reads {SCHEMA_VERSION}", hint="use a newer one"
            )
        for step in range(version + 1, SCHEMA_VERSION + 1):
            await db.execute(MIGRATIONS[step])
            await db.execute("INSERT INTO schema_version VALUES ($1)", step)


async def _version(db: Connection) -> int:
    return int(await db.fetchval("SELECT coalesce(max(version), 0) FROM schema_version"))
