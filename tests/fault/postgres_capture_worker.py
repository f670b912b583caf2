"""Captures a database into a ledger until it is killed, in one process: capture and ledger die together.

python -m tests.fault.postgres_capture_worker LEDGER PORT BINARIES

On stdout, a line for every consistent point: the index of its entry.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from ledger.capture.base import Captured
from ledger.errors import CaptureFailed
from tests.support.captured_postgres import recording, source_of
from tests.support.postgres import PostgresServer


def sealed(captured: Captured) -> None:
    print(captured.index, flush=True)


async def main(root: Path, port: int, binaries: Path) -> None:
    server = PostgresServer(Path("/"), binaries, port)
    async with recording(root) as ledger:
        capture = ledger.capture(source_of(server), every_s=1)
        while True:
            try:
                await capture.watch(sealed)
            except CaptureFailed as error:  # the server is down for longer than a watch waits
                print(error, file=sys.stderr, flush=True)
                await asyncio.sleep(0.5)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])))
