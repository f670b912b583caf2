"""A PostgreSQL database as an operator protects it: registered, captured, looked into, brought back; all sealed."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.captured_postgres import contents, registered_database, sql


def test_a_database_is_protected_from_the_command_line(tmp_path: Path) -> None:
    with registered_database(tmp_path, 5_000) as (server, jinshi, address):
        first = jinshi("capture", "人口库", "--json").json
        before = contents(server, "population")
        sql(server, "UPDATE resident SET name = upper(name) || 'x'", database="population")  # content, not an entry
        sql(server, "UPDATE resident SET name = NULL WHERE id = 7", database="population")
        jinshi("capture", "人口库")

        jinshi("restore", "asset", "人口库", "--to", f"{address}/now")
        assert contents(server, "now") == contents(server, "population")
        jinshi("restore", "asset", "人口库", "--at", first["index"], "--to", f"{address}/then")
        assert contents(server, "then") == before

        told = jinshi("rows", "人口库", "public.resident", "7", "--json").json_lines
        assert [(one["op"], one["new"]["name"]) for one in told] == [
            ("copied", "居民 7"),
            ("update", "居民 7x"),
            ("update", None),
        ]
        assert "name: 居民 7x -> NULL" in jinshi("rows", "人口库", "public.resident", "7").out
        jinshi("rows", "人口库", "public.nobody", "7", code=2)
        shown = json.dumps(jinshi("log", "--json").json_lines, ensure_ascii=False)
        assert address not in shown, "where it is stays out of the ledger"
        retired = jinshi("asset", "retire", "人口库", "--reason", "moved")
        assert "its replication slots stay on the server" in retired.stderr, "which would fill its disk in silence"
        assert "--drop-slots" in jinshi("doctor", "--no-beside", code=1).out

        server.stop()
        away = jinshi("asset", "retire", "人口库", "--drop-slots", code=4)
        assert "what it left at its server cannot be removed" in away.stderr
        assert [one["check"] for one in jinshi("doctor", "--json", code=1).json["assets"][0]["findings"]] == ["left"]
        server.start()
        removed = jinshi("asset", "retire", "人口库", "--drop-slots", "--json").json["removed"]
        assert len(removed) == 3, removed
        assert not sql(server, "SELECT 1 FROM pg_replication_slots")
        assert not sql(server, "SELECT 1 FROM pg_publication", database="population")
        jinshi("doctor")
        assert "has left nothing" in jinshi("asset", "retire", "人口库", "--drop-slots", code=2).stderr
