"""A tree captured into a ledger on disk, verified or restored, each by a process of its own: to be measured or killed.

python -m tests.support.files_worker capture|verify|restore|replace DIRECTORY TREE

DIRECTORY holds the ledger; on stdout: what came of it, as one line of JSON.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from threading import get_ident

import uvloop

from cli.system import calm_allocator, calm_collector
from ledger.capture.base import Restoring, Subject
from ledger.capture.files import FilesCapture
from ledger.capture.files.point import tree_at
from ledger.capture.leased import LeasedAppender
from ledger.content import ChunkIndex, ContentStore, Leases, Piece
from ledger.core.acts import CREATED, acts_source
from ledger.core.chunks import ContentKeys
from ledger.core.event import Event
from ledger.keyring.data import DataKeys
from ledger.sealing import Opener, Sealer
from ledger.sequencer import Sequencer
from ledger.sources import SEALING
from ledger.store.directory import DirectoryStore
from ledger.store.sqlite import SqliteEntryStore
from restore.rebuild.files import rebuild_files
from tests.support.files import SOURCE, StoreView
from tests.support.ledgers import ACTOR, FixedClock
from tests.support.sealing import ORIGIN, RECOVERY, MemoryKek

KEYS = ContentKeys.derive(bytes(range(32)))


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[tuple[SqliteEntryStore, DataKeys, ContentStore]]:
    """A ledger's store, keys and content; made where there is none."""
    fresh = not (directory / "ledger.sqlite").exists()
    for name in ("objects", "keyring"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    objects = DirectoryStore(directory / "objects")
    keys = DataKeys(
        DirectoryStore(directory / "keyring"), MemoryKek(), recovery_public=RECOVERY.public, clock=FixedClock()
    )
    store = await SqliteEntryStore.open(directory / "ledger.sqlite", create=fresh)
    index = ChunkIndex(directory / "index.sqlite")
    try:
        yield store, keys, ContentStore(objects, KEYS, index, Leases(objects))
    finally:
        index.close()
        await store.close()


async def capture(directory: Path, tree: Path) -> dict[str, object]:
    async with opened(directory) as (store, keys, content):
        async with Sequencer(store, FixedClock(), sealer=await Sealer.open(store, keys)) as sequencer:
            if not (await store.head()).size:
                data = {"format": 1, "origin": ORIGIN, "sealing": SEALING}
                created = Event.of_json(data, id="created", source=acts_source(ORIGIN), type=CREATED, subject=ORIGIN)
                await sequencer.append([created], actor=ACTOR)
        async with Sequencer(store, FixedClock(), sealer=await Sealer.open(store, keys)) as sequencer:
            view = StoreView(store, await Opener.of(store, keys), content)
            appender = LeasedAppender(sequencer, content)
            options = {"path": str(tree)}
            subject = Subject(
                "tree", SOURCE, options, view, appender, content, FixedClock(), ACTOR, directory / "state"
            )
            files = FilesCapture(subject)
            captured = await files.once()
            files.close()
    return {"index": captured.index, "repeated": captured.repeated, "problems": captured.problems}


async def verify(directory: Path, _: Path) -> dict[str, object]:
    async with opened(directory) as (store, keys, content):
        view = StoreView(store, await Opener.of(store, keys), content)
        async with tree_at(view, SOURCE) as point:
            reader = await content.reading()
            manifests = (item.record.manifest for item in point.tree.items())
            sizes: Counter[int] = Counter()

            def count(piece: Piece) -> None:
                sizes[get_ident()] += len(piece.data)

            await reader.scatter((manifest for manifest in manifests if manifest is not None), count)
    size = sizes.total()
    return {"bytes": size}


async def restore(directory: Path, tree: Path, *, replace: bool = False) -> dict[str, object]:
    async with opened(directory) as (store, keys, content):
        view = StoreView(store, await Opener.of(store, keys), content)
        restored = await rebuild_files(view, Restoring(SOURCE, str(tree), replace=replace))
    return {"sealed": restored.sealed, "counts": dict(restored.counts), "checks": dict(restored.checks)}


async def over(directory: Path, tree: Path) -> dict[str, object]:
    return await restore(directory, tree, replace=True)


if __name__ == "__main__":
    calm_collector()
    calm_allocator()
    what = {"capture": capture, "verify": verify, "restore": restore, "replace": over}[sys.argv[1]]
    print(json.dumps(uvloop.run(what(Path(sys.argv[2]), Path(sys.argv[3])))))
