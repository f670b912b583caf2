"""Records how a database is made: what `pg_dump --schema-only` says of it, once for every change of it."""

from __future__ import annotations

import asyncio
import hashlib
import re
from typing import Final

from ledger.capture.base import Subject
from ledger.capture.postgres.base import Session, Source
from ledger.capture.postgres.catalog import read_locale, read_roles, read_settings
from ledger.capture.postgres.events import SCHEMA, Schema, encode_schema
from ledger.capture.postgres.snapshot import record_body
from ledger.errors import CaptureFailed

# psql's own commands, which newer releases of pg_dump put around what they write with a new word each time.
_COMMAND: Final = re.compile(r"^\\(?:un)?restrict .*\n", re.MULTILINE)
_VERSIONS: Final = re.compile(r"^-- Dumped (?:from database|by pg_dump) version .*\n", re.MULTILINE)


async def read_schema(
    source: Source, session: Session, database: str, publications: tuple[str, ...], snapshot: str = ""
) -> Schema:
    """The schema as it is now, or as the snapshot shows it. Raises CaptureFailed."""

    async def section(name: str) -> str:
        text = await source.dump_schema(database, name, snapshot)
        if text is None:
            raise CaptureFailed(
                "there is no pg_dump here to read the schema with",
                hint=f"install the PostgreSQL client tools, as new as {source.where}",
            )
        return _VERSIONS.sub("", _COMMAND.sub("", text))

    pre, post = await asyncio.gather(section("pre-data"), section("post-data"))
    roles = await read_roles(session)
    return Schema(pre, post, roles, publications, await read_locale(session), await read_settings(session))


async def record_schema(subject: Subject, database: str, generation: str, schema: Schema) -> int:
    """The index of the entry that holds it. Raises as the sequencer and the content store."""
    body = encode_schema(schema)
    id_ = f"{generation}/schema/{hashlib.sha256(body).hexdigest()[:32]}"
    return await record_body(subject, database, SCHEMA, id_, body)
