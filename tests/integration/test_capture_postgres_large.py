"""A table far larger than memory should ever have to hold: its first copy, many changes, and its restore."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.bench.files import measured
from tests.support.captured_postgres import sql
from tests.support.postgres import PostgresServer, private_postgres
from tests.support.postgres_worker import BACK

ROWS = 10_000_000
MEMORY_MAX = 400
"""MiB; the table has about as many as text, and each of its rows would be several times as large as an object."""

SUM = "SELECT count(*), sum(hashint8extended(id, v)) FROM narrow"


@pytest.mark.soak
def test_ten_million_rows_take_bounded_memory(tmp_path: Path) -> None:
    with private_postgres(wal_level="logical", max_wal_size="8GB") as server:
        sql(
            server,
            "CREATE TABLE narrow (id bigint, v int)",
            f"INSERT INTO narrow SELECT n, n % 1000 FROM generate_series(1, {ROWS}) n",  # noqa: S608 (numbers)
            "ALTER TABLE narrow ADD PRIMARY KEY (id)",
        )
        peaks = [peak_of("capture", tmp_path, server)]
        few = [f"UPDATE narrow SET v = v + 1 WHERE id BETWEEN {n * 97} AND {n * 97 + 49}" for n in range(1, 1_001)]  # noqa: S608 (numbers)
        sql(server, *few, f"UPDATE narrow SET v = -1 WHERE id > {ROWS - 50_000}")  # noqa: S608 (numbers)
        peaks += [peak_of("capture", tmp_path, server), peak_of("restore", tmp_path, server)]
        print("peak MiB of the first copy, the changes, the restore:", *map(round, peaks))
        assert sql(server, SUM) == sql(server, SUM, database=BACK)
    assert max(peaks) < MEMORY_MAX


def peak_of(step: str, root: Path, server: PostgresServer) -> float:
    """Peak MiB of a process."""
    command = [sys.executable, "-m", "tests.support.postgres_worker", step, root, str(server.port), server.binaries]
    return measured(*command).memory
