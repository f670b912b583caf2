"""Databases: changes captured per second against pg_recvlogical writing a file, the first copy against pg_dump, and a
restore against pg_restore of a dump (alone, and with pg_amcheck), with where its time goes; on pgbench's tables."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ledger.capture.base import Restoring
from ledger.capture.postgres.catalog import current_lsn
from ledger.capture.postgres.events import SEALED
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
    """Ours compares what it made as well, so it stands beside pg_restore with pg_amcheck, too.

    Of a copy without changes, and with the changes of all rounds to apply; theirs has only to load.
    """
    tool(server, "pg_dump", "-Fc", "-f", str(scratch / "dump"), "postgres")
    (rows,) = sql(server, "SELECT (SELECT count(*) FROM pgbench_accounts) + (SELECT count(*) FROM pgbench_history)")[0]
    assert isinstance(rows, int)
    async with recording(scratch / "changes") as ledger:
        first = await anext(ledger.view().entries(ASSET, event_type=SEALED))
    phases = Phases()
    rebuild = rebuild_postgres(lambda place: source_of(server, place), phases)

    async def restored(size: int | None) -> float:
        phases.clear()
        sql(server, "DROP DATABASE IF EXISTS ours")  # as theirs: it takes a checkpoint of the server
        async with recording(scratch / "changes") as ledger:
            with stopwatch() as watch, phases("other"):
                done = await rebuild(ledger.view(size), Restoring(ASSET, "ours"))
        return done.counts["rows"] / watch.seconds

    async def with_changes(_number: int) -> float:
        return await restored(None)

    async def without_changes(_number: int) -> float:
        return await restored(first.index + 1)

    async def loaded(_number: int, *, checked: bool = False) -> float:
        sql(server, "DROP DATABASE IF EXISTS theirs", "CREATE DATABASE theirs")
        with stopwatch() as watch:
            tool(server, "pg_restore", "-j2", "-d", "theirs", str(scratch / "dump"))
            if checked:
                tool(server, "pg_amcheck", "--install-missing", "-j2", "-d", "theirs")
        return rows / watch.seconds

    async def loaded_and_checked(number: int) -> float:
        return await loaded(number, checked=True)

    restore, check = "pg_restore -j2", "pg_restore -j2, pg_amcheck"
    await run_paired(Pair("rows restored", "rows/s", restore), with_changes, loaded, rounds)
    phases.show()
    await run_paired(Pair("rows restored, checked", "rows/s", check), with_changes, loaded_and_checked, rounds)
    copy = "rows of a copy restored, checked"
    await run_paired(Pair(copy, "rows/s", check), without_changes, loaded_and_checked, rounds)
    phases.show()


class Phases:
    """Where the time of one restore goes: seconds, and those of this process's processors; what is within, once."""

    def __init__(self) -> None:
        self._spent: dict[str, tuple[float, float]] = {}
        self._within: list[str] = []
        self._since = (0.0, 0.0)

    def clear(self) -> None:
        self._spent.clear()

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self._count()
        self._within.append(name)
        try:
            yield
        finally:
            self._count()
            self._within.pop()

    def _count(self) -> None:
        now = time.perf_counter(), time.process_time()
        if self._within:
            wall_s, processor_s = self._spent.get(self._within[-1], (0.0, 0.0))
            spent = wall_s + now[0] - self._since[0], processor_s + now[1] - self._since[1]
            self._spent[self._within[-1]] = spent
        self._since = now

    def show(self) -> None:
        whole_s = sum(wall_s for wall_s, _ in self._spent.values())
        for name, (wall_s, processor_s) in self._spent.items():
            print(f"  {name:<36} {wall_s:>8.2f} s {wall_s / whole_s:>6.0%}   processor, here: {processor_s:.2f} s")
