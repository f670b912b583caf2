"""Databases: changes captured per second against pg_recvlogical writing a file, the first copy against pg_dump, and a
restore against pg_restore of a dump; on pgbench's tables."""

from __future__ import annotations

from pathlib import Path

from ledger.capture.base import Restoring
from ledger.capture.postgres.catalog import current_lsn
from ledger.capture.postgres.pgoutput import format_lsn
from restore.rebuild.postgres import rebuild_postgres
from tests.bench.paired import Pair, run_paired, stopwatch
from tests.support.captured_postgres import ASSET, pgbench, recording, source_of, sql, tool
from tests.support.postgres import PostgresServer, private_postgres

SCALE = 5
TRANSACTIONS = 10_000
CHANGES_EACH = 4


async def run(scratch: Path, rounds: int, entries: int) -> None:
    """`entries`: pgbench's scale, 100,000 rows each (default 5)."""
    with private_postgres(wal_level="logical", max_wal_size="8GB", shared_buffers="256MB") as server:
        pgbench(server, "-i", "-q", "-s", str(entries or SCALE))
        sql(server, "ALTER TABLE pgbench_history ADD COLUMN id bigserial PRIMARY KEY")
        sql(server, "CREATE PUBLICATION everything FOR ALL TABLES")
        await _first_copy(scratch, server, rounds, (entries or SCALE) * 100_000)
        await _changes(scratch, server, rounds)
        await _restore(scratch, server, rounds)


async def _first_copy(scratch: Path, server: PostgresServer, rounds: int, rows: int) -> None:
    async def ours(number: int) -> float:
        async with recording(scratch / f"first-{number}") as ledger:
            with stopwatch() as watch:
                await ledger.capture(source_of(server), slot=f"first{number}").once()
        sql(server, "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")
        return rows / watch.seconds

    async def theirs(number: int) -> float:
        with stopwatch() as watch:
            tool(server, "pg_dump", "-f", str(scratch / f"dump-{number}.sql"), "postgres")
        return rows / watch.seconds

    await run_paired(Pair("rows of a first copy", "rows/s", "pg_dump"), ours, theirs, rounds)


async def _changes(scratch: Path, server: PostgresServer, rounds: int) -> None:
    async with recording(scratch / "changes") as ledger:
        source = source_of(server)
        capture = ledger.capture(source)
        await capture.once()
        sql(server, "SELECT pg_create_logical_replication_slot('theirs', 'pgoutput')")

        async def ours(_number: int) -> float:
            pgbench(server, "-n", "-c", "2", "-t", str(TRANSACTIONS // 2))
            with stopwatch() as watch:
                await capture.once()
            return TRANSACTIONS * CHANGES_EACH / watch.seconds

        async def theirs(number: int) -> float:
            async with source.session("postgres") as session:
                end = format_lsn(await current_lsn(session))
            options = ["-d", "postgres", "-o", "proto_version=1", "-o", "publication_names=everything"]
            options += ["-f", str(scratch / f"r-{number}")]
            with stopwatch() as watch:
                tool(server, "pg_recvlogical", "--start", "-S", "theirs", "--endpos", end, *options)
            return TRANSACTIONS * CHANGES_EACH / watch.seconds

        await run_paired(Pair("changes captured", "changes/s", "pg_recvlogical"), ours, theirs, rounds)
        sql(server, "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE NOT active")


async def _restore(scratch: Path, server: PostgresServer, rounds: int) -> None:
    """Ours has the changes of all rounds to apply as well, and compares what it made; theirs has only to load."""
    tool(server, "pg_dump", "-Fc", "-f", str(scratch / "dump"), "postgres")
    (rows,) = sql(server, "SELECT (SELECT count(*) FROM pgbench_accounts) + (SELECT count(*) FROM pgbench_history)")[0]
    assert isinstance(rows, int)
    rebuild = rebuild_postgres(lambda place: source_of(server, place))

    async def ours(_number: int) -> float:
        async with recording(scratch / "changes") as ledger:
            with stopwatch() as watch:
                await rebuild(ledger.view(), Restoring(ASSET, "ours", replace=True))
        return rows / watch.seconds

    async def theirs(_number: int) -> float:
        sql(server, "DROP DATABASE IF EXISTS theirs", "CREATE DATABASE theirs")
        with stopwatch() as watch:
            tool(server, "pg_restore", "-j2", "-d", "theirs", str(scratch / "dump"))
        return rows / watch.seconds

    await run_paired(Pair("rows restored", "rows/s", "pg_restore -j2"), ours, theirs, rounds)
