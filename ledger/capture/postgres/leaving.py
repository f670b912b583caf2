"""Nothing of ours stays at a source that is captured no more: slots, publications, triggers."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Final

from ledger.capture.postgres import catalog
from ledger.capture.postgres.base import Session, Source
from ledger.capture.postgres.roles import forget_actors
from ledger.capture.postgres.sealing import names_of
from ledger.capture.postgres.settings import Settings
from ledger.core.canonical import JsonValue
from ledger.errors import CaptureFailed

BUSY_S: Final = 30.0
"""For so long a capture that is about to end may hold a slot."""
POLL_S: Final = 0.5


async def leave(name: str, asset_source: str, options: Mapping[str, JsonValue], source: Source) -> tuple[str, ...]:
    """Remove what captures of an asset have made at its server; what that was, a line each.

    Raises:
        InvalidRequest: an option of the asset makes no sense.
        CaptureFailed: the server cannot be reached or refuses, or something captures it still; it can be done again.
    """
    settings = Settings.read(name, options, source.database)
    removed: list[str] = []
    for database in settings.databases:
        base, publications = names_of(asset_source, database, settings)
        async with source.session(database) as session:
            for slot in await _slots(session, base, database):
                await _drop(session, slot, source.where)
                removed.append(f"replication slot {slot} of database {database}")
            if publications.ours:
                for publication in publications.names:
                    if await session.fetch("SELECT 1 FROM pg_publication WHERE pubname = %s", publication):
                        await session.script(f"DROP PUBLICATION {catalog.quoted(publication)}")
                        removed.append(f"publication {publication} of database {database}")
            if await forget_actors(session):
                removed.append(f"the triggers that say who changes rows, of database {database}")
    return (*removed,)


async def _slots(session: Session, base: str, database: str) -> list[str]:
    ours = re.compile(re.escape(base) + r"_(\d+|seeing)")
    rows = await session.fetch("SELECT slot_name::text FROM pg_replication_slots WHERE database = %s", database)
    return sorted(name for (name,) in rows if ours.fullmatch(name))


async def _drop(session: Session, slot: str, where: str) -> None:
    waited_s = 0.0
    while (found := await catalog.read_slot(session, slot)) is not None and found.active:
        if waited_s >= BUSY_S:
            raise CaptureFailed(
                f"{where}: something receives from replication slot {slot}",
                hint="end the capture that does, then run it again",
            )
        await asyncio.sleep(POLL_S)
        waited_s += POLL_S
    await catalog.drop_slot(session, slot)
