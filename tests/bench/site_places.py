"""What the benchmarks of sites share: a published ledger made quickly, and new places in SeaweedFS to ship it to."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final

from cli.system import SystemClock, nonce
from ledger.core.checkpoint import Checkpoint, origin_prefix, step_key, step_sizes
from ledger.core.tiling import Tiler
from ledger.publisher import sign_checkpoint
from ledger.store.base import ObjectStore, Prefixed
from ledger.store.directory import DirectoryStore
from ledger.store.memory import MemoryObjectStore
from ledger.store.s3 import S3Store
from ledger.store.s3_client import make_client
from replication.follower import Follower
from replication.mirror import Mirror
from replication.site import Site, init_site
from tests.bench.restore import ORIGIN, SIGNER, build_site, entries_of
from tests.support.ledgers import mirror_cosigner
from tests.support.servers import S3Server, private_seaweed

_numbers: Final = count()


@dataclass(frozen=True, slots=True)
class Published:
    """What a primary has published, in a directory."""

    root: Path
    objects: ObjectStore
    entries: int

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return self.root / origin_prefix(ORIGIN)

    @property
    def bytes(self) -> int:
        """Of the tiles and bundles."""
        return sum(file.stat().st_size for file in (self.folder / "tile").rglob("*") if file.is_file())

    @property
    def count(self) -> int:
        """Of the tiles and bundles."""
        return sum(1 for file in (self.folder / "tile").rglob("*") if file.is_file())


async def publish(root: Path, entries: int) -> Published:
    """A ledger of so many entries, with the checkpoints of its steps."""
    await build_site(root, entries)
    objects = Prefixed(DirectoryStore(root), origin_prefix(ORIGIN))
    tiler, steps = Tiler(0, [], []), list(step_sizes(0, entries - 1))
    for part in entries_of(entries):
        while steps and steps[0] <= tiler.size + len(part):
            cut = steps[0] - tiler.size
            deque(tiler.extend(part[:cut]), maxlen=0)
            part = part[cut:]
            for tile, data in tiler.partials():  # as the publisher leaves them, where the full ones are not there yet
                if tile.index == entries >> (8 * (tile.level + 1)):
                    await objects.put_immutable(tile.path, data)
            note = sign_checkpoint(Checkpoint(ORIGIN, tiler.size, tiler.tree().root()), SIGNER)
            await objects.put_immutable(step_key(steps.pop(0)), note)
        deque(tiler.extend(part), maxlen=0)
    return Published(root, objects, entries)


@contextmanager
def seaweeds(scratch: Path, number: int, *, memory: str = "200MiB") -> Iterator[list[S3Server]]:
    """So many servers of their own, started; each with so much memory."""
    with ExitStack() as stack:
        folders = [scratch / f"weed-{one}" for one in range(number)]
        yield [stack.enter_context(private_seaweed(folder, memory=memory)).start() for folder in folders]


async def new_site(server: S3Server, *, port: int | None = None) -> tuple[Site, Mirror]:
    """An empty site of the ledger in a server's bucket, under a prefix of its own, over another port if need be."""
    endpoint = server.endpoint if port is None else f"http://127.0.0.1:{port}"
    client = make_client(
        endpoint_url=endpoint,
        region="us-east-1",
        access_key=server.access_key,
        secret_key=server.secret_key,
        timeout_s=120.0,
    )
    store = S3Store(client, server.bucket, f"bench-{next(_numbers)}")
    cosigner, clock = mirror_cosigner(f"{ORIGIN}/mirror"), SystemClock()
    site = Site("bench", Prefixed(store, origin_prefix(ORIGIN)), cosigner.key)
    await init_site(site, cosigner, ORIGIN, now=clock.now())
    return site, Mirror(site, cosigner, SIGNER.key, ORIGIN, clock, MemoryObjectStore("memory"))


def follower(source: ObjectStore, site: Site) -> Follower:
    """Ships to a site what is published."""
    return Follower(source, site, ORIGIN, SIGNER.key, epoch=1, nonce=nonce)


async def check(mirror: Mirror, entries: int) -> None:
    """Let a site's mirror verify everything: otherwise nothing was measured."""
    cosigned = await mirror.advance()
    assert cosigned is not None
    assert cosigned.checkpoint.size == entries
