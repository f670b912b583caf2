"""Clusters: a base backup, a second one after 1 % of the rows changed, and a restore, against pgBackRest's of the same.

With the machine's own PostgreSQL, which both know. Restores of both go on until the server has recovered and is shut
down again; ours has then held every file against the backup's manifest, and run pg_amcheck.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from tests.bench.paired import Pair, run_paired, stopwatch
from tests.support.captured_cluster import Protected, reachable_directory, restored_server
from tests.support.captured_postgres import pgbench, recording, sql
from tests.support.postgres import NOBODY, USER, PostgresServer, machine_binaries, private_postgres

SCALE = 20
ROWS = 100_000
PGBACKREST = shutil.which("pgbackrest")


class Pgbackrest:
    """Its repository beside a server, run as the user of that server."""

    def __init__(self, root: Path, server: PostgresServer) -> None:
        self.repository = root / "repository"
        self._root = root
        self._server = server
        for name in ("repository", "logs", "locks", "spool", "sockets"):
            (root / name).mkdir()
        self._configure(server.root / "data", server.port)
        for path in (root, *root.iterdir()):
            os.chown(path, NOBODY, NOBODY)
        server.settings |= {
            "archive_mode": "on",
            "archive_command": f"{PGBACKREST} --config={root / 'pgbackrest.conf'} --stanza=bench archive-push %p",
            "unix_socket_directories": str(root / "sockets"),
        }

    def _configure(self, data: Path, port: int) -> None:
        self._root.joinpath("pgbackrest.conf").write_text(
            f"[global]\nrepo1-path={self.repository}\nlog-path={self._root}/logs\nlock-path={self._root}/locks\n"
            f"spool-path={self._root}/spool\nlog-level-console=error\nstart-fast=y\ncompress-type=zst\nprocess-max=2\n"
            f"repo1-bundle=y\n[bench]\npg1-path={data}\npg1-port={port}\n"
            f"pg1-socket-path={self._root}/sockets\npg1-user={USER}\n"
        )

    def run(self, *words: str) -> None:
        command = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--", PGBACKREST or ""]
        command += [f"--config={self._root / 'pgbackrest.conf'}", "--stanza=bench", *words]
        done = subprocess.run(command, capture_output=True, text=True, cwd="/", check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def size_of(*roots: Path) -> int:
    return sum(path.stat().st_size for root in roots for path in root.rglob("*") if path.is_file())


async def run(scratch: Path, rounds: int, entries: int) -> None:
    """MB/s over the bytes of the cluster; `entries`: pgbench's scale, 15 MB each (default 20)."""
    binaries = machine_binaries()
    if PGBACKREST is None or not binaries or os.getuid() != 0:
        print("physical: skipped, it needs pgbackrest and a PostgreSQL of the machine (apt-get), and root")
        return
    with private_postgres(binaries[-1]) as server, reachable_directory() as directory:
        server.stop()
        (directory / "theirs").mkdir()
        peer = Pgbackrest(directory / "theirs", server)
        server.settings |= {"max_wal_size": "4GB", "shared_buffers": "256MB"}
        server.start()
        peer._configure(server.root / "data", server.port)
        pgbench(server, "-i", "-q", "-s", str(entries or SCALE))
        peer.run("stanza-create")
        peer.run("check")  # a segment is archived, before the first backup waits for one
        await _measure(directory, server, peer, rounds, (entries or SCALE) * ROWS)


async def _measure(directory: Path, server: PostgresServer, peer: Pgbackrest, rounds: int, rows: int) -> None:
    megabytes = size_of(server.root / "data" / "base") / 1e6
    sizes: dict[str, tuple[int, int]] = {}

    def both() -> tuple[int, int]:
        return size_of(directory / "ours" / "content"), size_of(peer.repository)

    async with recording(directory / "ours") as ledger:
        one = Protected(server, ledger, directory)

        async def full(number: int) -> float:
            if number:
                return await _again(one)
            with stopwatch() as watch:
                await one.once()
            return megabytes / watch.seconds

        async def _again(one: Protected) -> float:
            other = directory / f"ours-{time.monotonic_ns()}"
            async with recording(other) as fresh:
                with stopwatch() as watch:
                    await Protected(server, fresh, directory).once(slot="bench")
            shutil.rmtree(other)
            return megabytes / watch.seconds

        async def their_full(_number: int) -> float:
            with stopwatch() as watch:
                peer.run("backup", "--type=full", "--repo1-retention-full=1")
            return megabytes / watch.seconds

        async def second(number: int) -> float:
            _change(server, rows, number)
            with stopwatch() as watch:
                await one.once(base_every_s=1)
            return megabytes / watch.seconds

        async def their_second(_number: int) -> float:
            with stopwatch() as watch:
                peer.run("backup", "--type=incr")
            return megabytes / watch.seconds

        async def restore(_number: int) -> float:
            with stopwatch() as watch:
                place = await one.restore()
            shutil.rmtree(place.parent)
            return megabytes / watch.seconds

        async def their_restore(number: int) -> float:
            place = directory / f"theirs-{number}" / "data"
            _make([place.parent, place])
            with stopwatch() as watch:
                peer.run("restore", f"--pg1-path={place}", "--target-action=promote", "--type=immediate")
                with restored_server(place, server.binaries) as restored:
                    while sql(restored, "SELECT pg_is_in_recovery()")[0][0]:
                        time.sleep(0.05)
            shutil.rmtree(place.parent)
            return megabytes / watch.seconds

        await run_paired(Pair("cluster, base backup", "MB/s", "pgBackRest full"), full, their_full, rounds)
        sizes["first"] = both()
        await run_paired(Pair("cluster, 1 % changed", "MB/s", "pgBackRest incr"), second, their_second, rounds)
        sizes["second"] = both()
        await run_paired(Pair("cluster, restored", "MB/s", "pgBackRest restore"), restore, their_restore, rounds)
    (ours, theirs), (our_second, their_second_size) = sizes["first"], sizes["second"]
    print(f"{'cluster, stored':<38} {ours / 1e6:>12,.0f} MB of {megabytes:,.0f}  pgBackRest: {theirs / 1e6:,.0f}")
    each = (our_second - ours) / (rounds + 1) / 1e6, (their_second_size - theirs) / (rounds + 1) / 1e6
    print(f"{'cluster, stored by each second one':<38} {each[0]:>12,.0f} MB          pgBackRest: {each[1]:,.0f}")


def _make(paths: Sequence[Path]) -> None:
    for path in paths:
        path.mkdir(mode=0o700 if path.name == "data" else 0o755)
        os.chown(path, NOBODY, NOBODY)


def _change(server: PostgresServer, rows: int, number: int) -> None:
    part = rows // 100
    first = (number * 7 * part) % rows
    sql(server, f"UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid BETWEEN {first} AND {first + part}")
    time.sleep(1.1)  # a base backup is due after a second
