"""After what is beyond its retention was released and collected, every point that is kept comes back as it was."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ledger.capture.base import Restoring
from ledger.capture.physical.events import BASE
from ledger.capture.postgres.events import SEALED
from ledger.capture.postgres.rows import row_history
from ledger.content import ContentStore, referenced_packs
from ledger.content.released import released_events
from ledger.core.indexes import Indexes
from ledger.core.manifest import PACKS, pack_key
from ledger.errors import ContentReleased
from ledger.sealing import Opener
from ledger.store.base import EntryStore, ObjectStore
from restore.rebuild.postgres import rebuild_postgres
from restore.retained.base import History, Keeping, Releasable
from restore.retained.files import releasable_files
from restore.retained.kept import Kept
from restore.retained.physical import releasable_cluster
from restore.retained.postgres import releasable_databases
from tests.support.captured_cluster import dump, protected
from tests.support.captured_postgres import ASSET, Recording, contents, pgbench, recording, source_of, sql
from tests.support.files import SOURCE, capturing, looks
from tests.support.ledgers import ACTOR
from tests.support.postgres import private_postgres
from tests.support.retained import kept_sizes, some_keeping


async def let_go(entries: EntryStore, content: ContentStore, released: Indexes) -> int:
    """Remove what only released entries refer to; how many packs."""
    needed = await referenced_packs(entries, content.objects, lambda index, _: index not in released)
    there = {bytes.fromhex(key.removeprefix(PACKS)) async for key in content.objects.list_keys(PACKS)}
    content.index.forget(there - needed)
    for pack in there - needed:
        await content.objects.purge(pack_key(pack))
    return len(there - needed)


async def released_of(ledger: Recording, releasable: Releasable, keeping: Keeping) -> Indexes:
    history = History(ledger.store, await Opener.of(ledger.store, None), ledger.view(), ASSET)
    return await releasable(history, keeping)


def objects_of(ledger: Recording) -> Callable[[], Awaitable[ObjectStore]]:
    async def objects() -> ObjectStore:
        return ledger.content.objects

    return objects


# -- trees ------------------------------------------------------------------------------------------------------------


def change(root: Path, chance: random.Random) -> None:
    """Files new, changed, gone, moved, linked, back as they once were."""
    for _ in range(chance.randint(1, 5)):
        path, other = (root / f"f{chance.randint(0, 7)}" for _ in range(2))
        roll = chance.random()
        if not path.exists() or roll < 0.5:
            path.unlink(missing_ok=True)
            path.write_bytes(random.Random(chance.randint(0, 30)).randbytes(3_000))
        elif roll < 0.7:
            path.unlink()
        elif path != other:
            other.unlink(missing_ok=True)
            os.link(path, other) if roll < 0.85 else path.rename(other)


@pytest.mark.parametrize("seed", range(4))
async def test_trees_come_back_at_every_kept_point(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    async with capturing(tmp_path) as tree:
        points: dict[int, object] = {}

        async def capture() -> None:
            change(tree.root, chance)
            (tree.root / "always").write_bytes(chance.randbytes(2_000))
            points[(await tree.once()).index] = looks(tree.root)

        for _ in range(12):
            await capture()
        size = await tree.size()
        keeping = some_keeping(chance, size, points)
        history = History(tree.ledger.store, tree.opener, tree.view(), SOURCE)
        released = await releasable_files(history, keeping)
        removed = await let_go(tree.ledger.store, tree.content(), released)
        kept = kept_sizes(points, keeping, size)
        for _ in range(2):  # what has gone is stored anew, where it comes again
            await capture()
            kept.append(await tree.size())
        for at in sorted({max(point for point in points if point < one) for one in kept}):
            place = tmp_path / f"at-{at}"
            await tree.restore(place, at=at)
            assert looks(place) == points[at], f"{seed=}: the point of entry {at}, {keeping}"
        assert removed or keeping.horizon < size // 2 or not released, f"{seed=}"
        again = (await releasable_files(history, keeping)).without(released)
        assert not again


# -- databases --------------------------------------------------------------------------------------------------------


async def test_databases_come_back_at_every_kept_point(tmp_path: Path) -> None:
    """Large transactions, copies of tables taken anew, definitions that go there and back; a mark far back."""
    with private_postgres(wal_level="logical", fsync="off") as server:
        sql(server, "CREATE TABLE case_file (id int PRIMARY KEY, title text)", "CREATE TABLE note (id int PRIMARY KEY)")
        async with recording(tmp_path / "ledger") as ledger:
            capture, points = ledger.capture(source_of(server)), dict[int, object]()
            for number in range(8):
                rows = f"SELECT n, 'turn {number} ' || md5(n::text) FROM generate_series(1, 3000) n"
                sql(server, "DELETE FROM case_file", f"INSERT INTO case_file {rows}")
                sql(server, f"INSERT INTO note VALUES ({number})")
                if number in (2, 5):  # both tables are copied again
                    for table in ("case_file", "note"):
                        sql(server, f"ALTER TABLE {table} ADD COLUMN c{number} int")
                if number in (1, 3, 4):  # and back to definitions that are recorded already
                    sql(server, "CREATE VIEW seen AS SELECT 1" if number != 3 else "DROP VIEW seen")
                points[(await capture.once()).index] = contents(server, "postgres")
            indexes = list(points)
            keeping = Keeping(indexes[6] + 1, (indexes[1] + 1,))
            released = await released_of(ledger, releasable_databases, keeping)
            size = (await ledger.store.head()).size
            assert await let_go(ledger.store, ledger.content, released)
            # The capture goes on, and so do definitions that there were before.
            sql(server, "DROP VIEW seen", "INSERT INTO note VALUES (100)")
            points[(await capture.once()).index] = contents(server, "postgres")
            rebuild = rebuild_postgres(lambda place: source_of(server, place))
            kept = [*kept_sizes(indexes, keeping, size), max(points) + 1]
            assert len(kept) == 4
            for at in kept:
                await rebuild(ledger.view(at), Restoring(ASSET, f"restored_{at}"))
                assert contents(server, f"restored_{at}") == points[at - 1]
            # What is said of a point that has gone, before anything is made; and of a row's history.
            acts = released_events("example.test/log", ASSET, released, 1, size)
            await ledger.sequencer.append(acts, actor=ACTOR)
            kept_there = Kept(ledger.store, objects_of(ledger), "db", ASSET, SEALED)
            what = Restoring(ASSET, "lost", released=released, check_kept=kept_there.check)
            with pytest.raises(ContentReleased, match="of db, beyond its retention, was released on"):
                await rebuild(ledger.view(indexes[3] + 1), what)
            await rebuild(ledger.view(indexes[6] + 1), replace(what, place="found"))
            steps = [
                step.op async for step in row_history(ledger.view(), ASSET, "postgres", "public.note", ["0"], released)
            ]
            assert steps[:1] == ["copied"]
            assert steps[-2:] == ["released", "copied"]


# -- clusters ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_clusters_come_back_at_every_kept_point() -> None:
    """Base backups one upon the other: the chain below the oldest point stays, the one before it goes."""
    async with protected(summarize_wal="on") as one:
        pgbench(one.server, "-i", "-s", "1")
        points: dict[int, str] = {}
        for number in range(5):
            pgbench(one.server, "-t", "50")
            due = number in (1, 2)
            await asyncio.sleep(1.1 if due else 0)
            captured = await one.once(base_every_s=1 if due else 86_400, incremental=number != 1)
            points[captured.index] = dump(one.server)
        oldest = list(points)[3]
        keeping = Keeping(oldest + 1)
        released = await released_of(one.ledger, releasable_cluster, keeping)
        bases = [found.index async for found in one.ledger.view().entries(ASSET, event_type=BASE)]
        assert [base in released for base in bases] == [True, False, False]
        assert await let_go(one.ledger.store, one.ledger.content, released)
        assert await one.restored_dump(oldest + 1) == points[oldest]
