"""pgbench at work, while its server, and the process that captures it, are killed: nothing lost, nothing twice."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from ledger.capture.base import Restoring
from ledger.capture.postgres.events import SEALED, parse_seal
from ledger.capture.postgres.pgoutput import parse_lsn
from restore.rebuild.postgres import rebuild_postgres
from tests.support.captured_postgres import (
    ASSET,
    begun,
    contents,
    held,
    newest_in,
    pgbench,
    recording,
    source_of,
    sql,
    start_worker,
    tool,
    working,
)
from tests.support.postgres import PostgresServer, private_postgres

WORKER = "tests.fault.postgres_capture_worker"


class Observed(NamedTuple):
    """What was there at a seal, as questions to the server tell, and in the long form as `pg_dump` does."""

    index: int
    contents: Mapping[str, str]
    dump: list[str] | None


@pytest.mark.slow
async def test_killed_at_random(tmp_path: Path) -> None:
    await killed(tmp_path, seconds=8, kills=5, seed=random.randrange(10_000))


@pytest.mark.soak
async def test_killed_at_random_for_five_minutes(tmp_path: Path) -> None:
    await killed(tmp_path, seconds=300, kills=60, seed=random.randrange(10_000), dumped=True)


async def killed(tmp_path: Path, *, seconds: float, kills: int, seed: int, dumped: bool = False) -> None:
    print(f"seed={seed}")
    dice = random.Random(seed)
    with private_postgres(wal_level="logical") as server:
        pgbench(server, "-i", "-s", "1", "-q")
        sql(server, "ALTER TABLE pgbench_history ADD COLUMN id bigserial PRIMARY KEY")
        sql(server, "CREATE TABLE other (id serial PRIMARY KEY)")
        worker = start_worker(WORKER, tmp_path / "ledger", server)
        await begun(tmp_path / "ledger")
        oracle: list[Observed] = []
        try:
            with working(server):
                for number in range(kills):
                    time.sleep(dice.uniform(0.3, 2 * seconds / kills - 0.3))
                    if dice.random() < 0.5:
                        worker.kill()
                        worker.wait()
                        worker = start_worker(WORKER, tmp_path / "ledger", server)
                    else:
                        server.stop(signal.SIGKILL)
                        server.start()
                    if number in (1, kills // 2, kills - 1):
                        oracle.append(await observed(server, tmp_path / "ledger", dumped))
        finally:
            worker.kill()
            worker.wait()
        async with recording(tmp_path / "ledger") as ledger:
            capture = ledger.capture(source_of(server))
            last = await capture.once()
            rebuild = rebuild_postgres(lambda place: source_of(server, place))
            done = await rebuild(ledger.view(), Restoring(ASSET, "back"))
            assert done.sealed == last.index
            assert contents(server, "back") == contents(server, "postgres")
            transactions = sql(server, "SELECT count(*) FROM pgbench_history")[0][0]
            assert isinstance(transactions, int)
            assert transactions > 100, "there was something to lose"
            for one in oracle:
                await rebuild(ledger.view(one.index + 1), Restoring(ASSET, "back", replace=True))
                assert _benched(contents(server, "back")) == _benched(one.contents)
                if one.dump is not None:
                    assert rows_dumped(server, "back") == one.dump


def _benched(found: Mapping[str, str]) -> dict[str, str]:
    return {name: content for name, content in found.items() if "pgbench" in name}


def rows_dumped(server: PostgresServer, database: str) -> list[str]:
    """What pg_dump says of pgbench's rows, a line each; they lie in another order after a restore."""
    rows = ["--data-only", "--inserts", "--table=public.pgbench_*", "--exclude-table=public.pgbench_*_seq"]
    return sorted(
        line for line in tool(server, "pg_dump", *rows, database).stdout.splitlines() if line.startswith("INSERT INTO")
    )


async def observed(server: PostgresServer, root: Path, dumped: bool) -> Observed:
    """What is there while nobody may write, and the seal that is made meanwhile."""
    with held(server):
        since = parse_lsn(str(sql(server, "SELECT pg_current_wal_insert_lsn()")[0][0]))
        found = contents(server, "postgres")
        dump = rows_dumped(server, "postgres") if dumped else None  # nobody writes: it sees the same
        sql(server, "INSERT INTO other DEFAULT VALUES")  # so that there is something to seal
        while True:
            newest = await newest_in(root, SEALED)
            if newest is not None:
                seal = parse_seal(newest.entry.event.data or b"")
                if seal.lsn > since:
                    return Observed(newest.index, found, dump)
            await asyncio.sleep(0.2)
