"""Captures a cluster into a ledger until it is killed, in one process: capture and ledger die together.

python -m tests.fault.cluster_capture_worker LEDGER PORT BINARIES
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from ledger.errors import CaptureFailed
from tests.support.captured_cluster import cluster_capture
from tests.support.captured_postgres import recording
from tests.support.postgres import PostgresServer


async def main(root: Path, port: int, binaries: Path) -> None:
    server = PostgresServer(Path("/"), binaries, port)
    async with recording(root) as ledger:
        capture = cluster_capture(ledger, server, every_s=1, base_every_s=3)
        while True:
            try:
                await capture.watch(lambda _: None)
            except CaptureFailed as error:  # the server is down
                print(error, file=sys.stderr, flush=True)
                await asyncio.sleep(0.5)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])))
