"""A restore that is killed while the server recovers leaves no server, and nothing at its place."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.captured_cluster import protected

SCRIPT = """
import asyncio, sys
from pathlib import Path
from ledger.capture.base import Restoring
from restore.rebuild.physical import rebuild_cluster, recovery
from tests.support.captured_cluster import RUN_AS
from tests.support.captured_postgres import ASSET, recording

async def wait(self, process, sockets):
    print(process._popen.pid, flush=True)
    await asyncio.sleep(60)

async def main():
    recovery.Recovery._until_ready = wait
    async with recording(Path(sys.argv[1])) as ledger:
        options = {"bin": sys.argv[3], "run_as": RUN_AS}
        await rebuild_cluster(ledger.view(), Restoring(ASSET, sys.argv[2], options=options))

asyncio.run(main())
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/usr/bin/setpriv").exists(), reason="util-linux is not installed")
async def test_no_server_outlives_a_killed_restore() -> None:
    async with protected() as one:
        await one.once()
        place = one.directory / "place"
        command = [sys.executable, "-c", SCRIPT, one.ledger.root, place, one.server.binaries]
        restoring = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert restoring.stdout is not None
        server = int(restoring.stdout.readline())
        os.kill(server, 0)
        restoring.send_signal(signal.SIGKILL)
        restoring.wait()
        restoring.stdout.close()
        for _ in range(600):
            if not _runs(server):
                break
            time.sleep(0.05)
        else:
            raise AssertionError(f"the server {server} still runs")
        assert not place.exists()
        await one.restore(place=place)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
