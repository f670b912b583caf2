"""A database captured into a ledger, or restored out of it, by a process of its own: to be measured.

python -m tests.support.postgres_worker capture|restore LEDGER PORT BINARIES
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from ledger.capture.base import Restoring
from restore.rebuild.postgres import rebuild_postgres
from tests.support.captured_postgres import ASSET, recording, source_of
from tests.support.postgres import PostgresServer

BACK = "back"
"""The database that is restored into."""


async def main(step: str, root: Path, server: PostgresServer) -> None:
    async with recording(root) as ledger:
        if step == "capture":
            await ledger.capture(source_of(server)).once()
        else:
            rebuild = rebuild_postgres(lambda place: source_of(server, place))
            await rebuild(ledger.view(), Restoring(ASSET, BACK))


if __name__ == "__main__":
    directory, port, binaries = sys.argv[2:]
    asyncio.run(main(sys.argv[1], Path(directory), PostgresServer(Path("/"), Path(binaries), int(port))))
