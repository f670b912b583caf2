"""pgbench at work, while its server, and the process that captures it, are killed: every point comes back whole."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ledger.capture.physical.events import BASE, SEALED, parse_base, parse_seal
from ledger.capture.postgres.pgoutput import parse_lsn
from ledger.content import ChunkIndex, ContentStore
from ledger.store.directory import DirectoryStore
from ledger.store.sqlite import SqliteEntryStore
from tests.support.captured_cluster import Protected, dump, reachable_directory, working
from tests.support.captured_postgres import ASSET, PlainView, connect, pgbench, recording, sql
from tests.support.content import KEYS
from tests.support.postgres import PostgresServer, private_postgres


@pytest.mark.slow
async def test_killed_at_random() -> None:
    await killed(seconds=8, kills=4, seed=random.randrange(10_000))


@pytest.mark.soak
async def test_killed_at_random_for_five_minutes() -> None:
    await killed(seconds=300, kills=60, seed=random.randrange(10_000))


async def killed(*, seconds: float, kills: int, seed: int) -> None:
    print(f"seed={seed}")
    dice = random.Random(seed)
    with private_postgres() as server, reachable_directory() as directory:
        server.stop()
        server.settings["summarize_wal"] = "on"
        server.start()
        pgbench(server, "-i", "-s", "1", "-q")
        root = directory / "ledger"
        worker = start_worker(root, server)
        oracle: list[tuple[int, str]] = []
        try:
            with working(server):
                for number in range(kills):
                    time.sleep(dice.uniform(0.3, 2 * seconds / kills - 0.3))
                    if dice.random() < 0.5:
                        worker.kill()
                        worker.wait()
                        worker = start_worker(root, server)
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
    with connect(server) as holding:
        holding.execute(
            b"BEGIN; LOCK TABLE pgbench_accounts, pgbench_branches, pgbench_history, pgbench_tellers IN SHARE MODE"
        )
        found = dump(server)
        since = parse_lsn(str(sql(server, "SELECT pg_logical_emit_message(true, 'test', '')")[0][0]))
        while True:
            store = await SqliteEntryStore.open(root / "entries.sqlite")
            try:
                content = ContentStore(DirectoryStore(root / "content"), KEYS, ChunkIndex())
                newest = await PlainView(store, content).newest(ASSET, SEALED)
            finally:
                content.close()
                await store.close()
            if newest is not None and parse_seal(newest.entry.event.data or b"").lsn >= since:
                return newest.index, found
            await asyncio.sleep(0.2)


def start_worker(ledger: Path, server: PostgresServer) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.fault.cluster_capture_worker", ledger, str(server.port), server.binaries]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)
