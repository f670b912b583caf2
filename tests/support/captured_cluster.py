"""Clusters captured in tests: a real server with replication allowed, and what its data directory comes to."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from ledger.capture.base import Captured, Restoring, View
from ledger.capture.physical import ClusterCapture
from ledger.core.canonical import JsonValue
from ledger.protocols import Clock
from restore.rebuild.physical import rebuild_cluster
from tests.support.captured_postgres import ASSET, Recording, recording, tool
from tests.support.postgres import USER, PostgresServer, private_postgres

RUN_AS = "nobody" if os.getuid() == 0 else ""


def dsn_of(server: PostgresServer, user: str = USER) -> str:
    """As the secret of an asset."""
    return f"postgresql://{user}@127.0.0.1:{server.port}/postgres"


def cluster_capture(
    ledger: Recording, server: PostgresServer, *, user: str = USER, clock: Clock | None = None, **options: JsonValue
) -> ClusterCapture:
    """A capture of a test's server, with the tools of its own release."""
    subject = ledger.subject(clock=clock, **{"bin": str(server.binaries), **options})
    return ClusterCapture(subject, {"dsn": lambda: dsn_of(server, user)})


@contextmanager
def reachable_directory() -> Iterator[Path]:
    """A directory that the user whom a server runs as can work in."""
    directory = Path(tempfile.mkdtemp(prefix="jinshi-cluster-"))
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@dataclass
class Protected:
    """A running server, a ledger that it is captured into, and a directory for what is restored."""

    server: PostgresServer
    ledger: Recording
    directory: Path

    async def once(self, server: PostgresServer | None = None, **options: JsonValue) -> Captured:
        return await cluster_capture(self.ledger, server or self.server, **options).once()

    async def restore(
        self, size: int | None = None, *, view: View | None = None, place: Path | None = None, **options: JsonValue
    ) -> Path:
        """The data directory as of that size of the ledger."""
        if place is None:
            place = self.directory / f"restored-{secrets.token_hex(4)}" / "data"
            place.parent.mkdir()
        where = {"bin": str(self.server.binaries), "run_as": RUN_AS, **options}
        await rebuild_cluster(view or self.ledger.view(size), Restoring(ASSET, str(place), options=where))
        return place

    async def restored_dump(self, size: int | None = None, **options: JsonValue) -> str:
        """What a restored server says, as of that size of the ledger."""
        with restored_server(await self.restore(size, **options), self.server.binaries) as server:
            return dump(server)


@asynccontextmanager
async def protected(binaries: Path | None = None, **settings: str) -> AsyncIterator[Protected]:
    """All of it; gone on leaving."""
    with private_postgres(binaries, **settings) as server, reachable_directory() as directory:
        async with recording(directory / "ledger") as ledger:
            yield Protected(server, ledger, directory)


@contextmanager
def restored_server(data: Path, binaries: Path) -> Iterator[PostgresServer]:
    """A server on a restored data directory, which is called `data`."""
    server = PostgresServer(data.parent, binaries)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def dump(server: PostgresServer, database: str = "postgres") -> str:
    """What pg_dump says of a database, but for what is new at each run."""
    said = tool(server, "pg_dump", database).stdout
    return "\n".join(line for line in said.splitlines() if not line.startswith("\\"))
