"""Whether a database that was restored is what was captured: counts, digests, and what pg_amcheck says of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Final

from ledger.capture.postgres.base import Source
from ledger.capture.postgres.catalog import table_name
from ledger.capture.postgres.copytext import ORDERED, RowsDigest
from ledger.capture.postgres.events import Counted, Seal
from ledger.capture.postgres.pgoutput import format_lsn
from ledger.capture.postgres.snapshot import digest_tables
from ledger.errors import RestoreFailed
from ledger.tasks import both, run_bounded

COUNTED_AT_ONCE: Final = 2

Copies = Callable[[Counted], Awaitable[AsyncIterator[bytes]]]
"""The copy of a table."""


async def check_restored(
    target: Source, database: str, seal: Seal, tables: Sequence[Counted], copies: Copies
) -> Mapping[str, int]:
    """How many counts and digests are as captured, and whether pg_amcheck was there.

    Raises:
        RestoreFailed: it is not what was captured, or pg_amcheck has found something.
        CaptureFailed: it cannot be read.
    """
    checks, checked = await both(_compare(target, database, seal, tables, copies), _amcheck(target, database))
    return {**checks, "amcheck": 1} if checked else checks


async def _compare(
    target: Source, database: str, seal: Seal, tables: Sequence[Counted], copies: Copies
) -> Mapping[str, int]:
    whole = [one for one in tables if one.table.identity != "none"]
    digested = [one.table for one in whole if one.digest is not None]
    ordered = {one.table.oid for one in whole if one.digest is not None and one.digest.startswith(ORDERED)}
    found = await digest_tables(target, database, digested, ordered=ordered)
    rows = {oid: digest.rows for oid, digest in found.items()}
    rows |= await _count(target, database, [one for one in whole if one.digest is None])
    for one in whole:
        if rows[one.table.oid] != one.rows:
            raise _differs(seal, one, f"{rows[one.table.oid]} rows where {one.rows} were captured")
        digest = found.get(one.table.oid)
        if digest is None or digest.hex == one.digest:
            continue
        if one.table.oid not in ordered or not await _holds_copy(target, database, one, await copies(one)):
            raise _differs(seal, one, "other values than were captured")
    return {"counts": len(whole), "digests": len(found)}


async def _count(target: Source, database: str, tables: Sequence[Counted]) -> dict[int, int]:
    """The rows of tables that are there, by their oid."""
    found: dict[int, int] = {}
    async with AsyncExitStack() as stack:
        free = [await stack.enter_async_context(target.session(database)) for _ in range(COUNTED_AT_ONCE)]

        async def count(one: Counted) -> None:
            session = free.pop()
            try:
                ((rows,),) = await session.fetch(f"SELECT count(*) FROM ONLY {table_name(one.table)}")  # noqa: S608 (quoted)
            finally:
                free.append(session)
            found[one.table.oid] = int(rows)

        await run_bounded(map(count, tables), parallel=COUNTED_AT_ONCE)
    return found


async def _holds_copy(target: Source, database: str, one: Counted, copy: AsyncIterator[bytes]) -> bool:
    """Whether a table has the rows of its copy in another order: how a server lays them is its own business."""
    wanted = RowsDigest()
    async for block in copy:
        wanted.add_block(block)
    wanted.end()
    found = await digest_tables(target, database, [one.table])
    return found[one.table.oid].hex == wanted.hex


async def _amcheck(target: Source, database: str) -> bool:
    """Whether pg_amcheck was there, and found nothing. Raises RestoreFailed."""
    async with target.session(database) as session:
        had = await session.fetch("SELECT 1 FROM pg_extension WHERE extname = 'amcheck'")
        checked = await target.check(database)
        if not had:  # the check has installed it
            await session.script("DROP EXTENSION IF EXISTS amcheck")
    return bool(checked)


def _differs(seal: Seal, one: Counted, how: str) -> RestoreFailed:
    return RestoreFailed(
        f"table {one.table.label} of {seal.database!r} at {format_lsn(seal.lsn)} comes out with {how}",
        hint="restore an earlier point, and keep this copy of the ledger as evidence",
    )
