"""A cluster as an asset of kind postgres-cluster, over the real command: protected, sealed, brought back."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.captured_cluster import RUN_AS, dsn_of, dump, reachable_directory, restored_server
from tests.support.captured_postgres import sql
from tests.support.cli import Jinshi
from tests.support.postgres import private_postgres


@pytest.mark.slow
def test_a_cluster_is_protected_and_restored_by_the_command(tmp_path: Path) -> None:
    with private_postgres() as server, reachable_directory() as directory:
        jinshi = Jinshi(tmp_path, environment={"CLUSTER_DSN": dsn_of(server)})
        jinshi("init", tmp_path / "ledger")
        jinshi = jinshi.at(tmp_path / "ledger")
        sql(server, "CREATE TABLE 案件 (n int)", "INSERT INTO 案件 SELECT generate_series(1, 1000)")
        options = ("--set", f"bin={server.binaries}", "--set", "incremental=no", "--secret", "dsn=env:CLUSTER_DSN")
        jinshi("asset", "add", "人口库", "--kind", "postgres-cluster", "--grade", 3, "--owner", "数据局", *options)
        jinshi("capture", "人口库")
        before = dump(server)
        sql(server, "INSERT INTO 案件 VALUES (1001)")
        jinshi("capture", "人口库")
        place = directory / "restored" / "data"
        place.parent.mkdir()
        run_as = ("--set", f"run_as={RUN_AS}") if RUN_AS else ()
        assert "案件" not in jinshi("log", "--json").out, "every entry of it is sealed"
        done = jinshi("restore", "asset", "人口库", "--to", place, *run_as, "--json").json["assets"][0]
        assert done["checks"]["files"] > 900
        assert done["checks"]["positions"] == 1
        with restored_server(place, server.binaries) as restored:
            assert dump(restored) == dump(server) != before
        failed = jinshi("restore", "asset", "人口库", "--to", place, *run_as, code=2)
        assert "is not empty" in failed.stderr
        left = jinshi("asset", "retire", "人口库", "--reason", "moved", "--drop-slots")
        assert "removed: replication slot jinshi_" in left.out
        assert not sql(server, "SELECT 1 FROM pg_replication_slots")
