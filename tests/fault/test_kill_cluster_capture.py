"""pgbench at work, while its server, and the process that captures it, are killed: every point comes back whole."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from pathlib import Path

import pytest

from ledger.capture.physical.events import BASE, SEALED, parse_base, parse_seal
from ledger.capture.postgres.pgoutput import parse_lsn
from tests.support.captured_cluster import Protected, dump, reachable_directory
from tests.support.captured_postgres import (
    ASSET,
    begun,
    held,
    newest_in,
    pgbench,
    recording,
    sql,
    start_worker,
    working,
)
from tests.support.postgres import PostgresServer, private_postgres

WORKER = "tests.fault.cluster_capture_worker"


@pytest.mark.slow
async def test_killed_at_random() -> None:
    await killed(seconds=8, kills=4, seed=random.randrange(10_000))


@pytest.mark.soak
async def test_killed_at_random_for_five_minutes() -> None:
    await killed(seconds=300, kills=60, seed=random.randrange(10_000))


async def killed(*, seconds: float, kills: int, seed: int) -> None:
    print(f"seed={seed}")
    dice = random.Random(seed)
    with private_postgres(summarize_wal="on") as server, reachable_directory() as directory:
        pgbench(server, "-i", "-s", "1", "-q")
        root = directory / "ledger"
        worker = start_worker(WORKER, root, server)
        await begun(root)
        oracle: list[tuple[int, str]] = []
        try:
            with working(server):
                for number in range(kills):
                    time.sleep(dice.uniform(0.3, 2 * seconds / kills - 0.3))
                    if dice.random() < 0.5:
                        worker.kill()
                        worker.wait()
                        worker = start_worker(WORKER, root, server)
                    else:
                        server.stop(signal.SIGKILL)
                        server.start()
                    if number in (1, kills - 1):
                        oracle.append(await observed(server, root))
        finally:
            worker.kill()
            worker.wait()
        async with recording(root) as ledger:
            one = Protected(server, ledger, directory)
            last = await one.once()
            assert not last.problems
            bases = [
                parse_base(found.entry.event.data or b"")
                async for found in one.ledger.view().entries(ASSET, event_type=BASE)
            ]
            print(f"{len(bases)} base backups, {sum(base.depth > 0 for base in bases)} of them incremental")
            assert await one.restored_dump() == dump(server)
            transactions = sql(server, "SELECT count(*) FROM pgbench_history")[0][0]
            assert isinstance(transactions, int)
            assert transactions > 100, "there was something to lose"
            for index, found in oracle:
                assert await one.restored_dump(index + 1) == found


async def observed(server: PostgresServer, root: Path) -> tuple[int, str]:
    """What is there while nobody may write, and the first seal that was made meanwhile."""
    with held(server):
        found = dump(server)
        since = parse_lsn(str(sql(server, "SELECT pg_logical_emit_message(true, 'test', '')")[0][0]))
        while True:
            newest = await newest_in(root, SEALED)
            if newest is not None and parse_seal(newest.entry.event.data or b"").lsn >= since:
                return newest.index, found
            await asyncio.sleep(0.2)
