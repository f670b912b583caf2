"""Replays a copy from its bytes against a checkpoint: ranges of entries in parallel, then what crosses them.

The copy may be what a primary published, or what a site holds; whether the checkpoint itself is to be trusted has been
decided before (core/policy.py).
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

from ledger.auditor.acts import check_successions
from ledger.auditor.report import FINDINGS_MAX, Check, Findings, not_run
from ledger.auditor.scan import RANGE_ENTRIES, RangeFacts, Scanner
from ledger.auditor.spill import Spilled, check_partition, partitions_of
from ledger.content.references import Gone
from ledger.content.released import ReleaseAudit
from ledger.core.checkpoint import Checkpoint
from ledger.core.merkle import CompactRange, root_hash
from ledger.core.tiles import ENTRIES, TILE_WIDTH, Tile, encode_tile, levels, needed
from ledger.core.tiling import frontier_of
from ledger.errors import Tampered, Unavailable
from ledger.keyring import KEYRING, KeyringAudit
from ledger.store.base import ObjectStore
from ledger.store.versions import EveryVersion
from ledger.tasks import Report
from ledger.verify import AuthenticatedTiles, check_leftovers, read_tile

MISSING_MAX = 1_000_000
"""Keys that are missing and may turn out to have been erased."""

_T = TypeVar("_T")

OpenObjects = Callable[[], ObjectStore]
"""Opens the copy again in another process: it is pickled, and goes there through a pipe. Credentials may be in it, but
not in its repr.
"""


@dataclass(frozen=True, slots=True)
class ReplaySettings:
    """`folder`: scratch space for what crosses ranges, about 100 bytes an entry. `open_objects` None: one process."""

    folder: Path
    processes: int = 1
    open_objects: OpenObjects | None = None


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay came to: the recomputed root, the checks, and the ledger's own acts by index, in order."""

    root: bytes
    checks: tuple[Check, ...]
    acts: tuple[tuple[int, bytes], ...]


async def replay(
    objects: ObjectStore, checkpoint: Checkpoint, settings: ReplaySettings, *, report: Report | None = None
) -> Replayed:
    """Replay a copy (prefixed to its origin) and check everything that its bytes and the checkpoint decide.

    Raises:
        StoreUnavailable, DiskFull: it cannot be read, or there is no scratch space.
    """
    return await _Replay(objects, checkpoint, settings, report).run()


class _Replay:
    """One replay: its findings, and the tree as it is recomputed."""

    def __init__(
        self, objects: ObjectStore, checkpoint: Checkpoint, settings: ReplaySettings, report: Report | None
    ) -> None:
        self._objects = objects
        self._checkpoint = checkpoint
        self._settings = settings
        self._report = report
        self._partitions = partitions_of(checkpoint.size)
        self._whole = RangeFacts(0, checkpoint.size)  # what all ranges come to, but for what would grow with them
        self._suspects: dict[int, list[bytes]] = {}
        self._levels: list[list[bytes]] = [[], [], []]  # the right edge at level 0, 1, and all that is above
        self._spilled: list[Spilled] = []
        self._keyring = KeyringAudit(checkpoint.origin)
        self._releases = ReleaseAudit()
        self._acts: list[tuple[int, bytes]] = []

    async def run(self) -> Replayed:
        size = self._checkpoint.size
        every_version = isinstance(self._objects, EveryVersion)
        with _executor(self._settings, self._partitions, self._checkpoint, every_version) as executor:
            async with aclosing(self._ranges(executor)) as ranges:
                async for facts in ranges:
                    await self._take(facts)
                    if self._report is not None:
                        self._report(facts.stop, size)
            root = await self._check_tree()
            ids, streams = await self._check_partitions(executor)
        await self._check_tiles_left()
        whole, depth = self._whole, sum(level >= 0 for level in levels(size))
        checks = [
            whole.unreadable.check("entries", f"{size:,} entries, each against the signed tree"),
            self._root_check(root),
            whole.tiles.check("tiles", f"every tile of {depth} levels, against the recomputed tree"),
            whole.canonical.check("canonical form", "every entry is exactly the bytes its content has"),
            streams.check("stream versions", "1, 2, 3, ... in every stream"),
            whole.times.check("recorded time", "it never goes back"),
            ids.check("idempotency keys", "each (source, id) stands once"),
            self._sealed_check(),
            await self._keyring_check(),
            self._content_check(),
            self._releases_check(),
            await check_successions(self._acts, self._objects, self._checkpoint),
        ]
        return Replayed(root, tuple(checks), tuple(self._acts))

    # -- ranges --

    async def _ranges(self, executor: Executor | None) -> AsyncGenerator[RangeFacts, None]:
        """The facts of each range, in order; a few more than there are processes are under way."""
        size = self._checkpoint.size
        jobs = [(start, min(start + RANGE_ENTRIES, size)) for start in range(0, size, RANGE_ENTRIES)]
        if executor is None:
            scanner = Scanner(self._objects, self._settings.folder, self._partitions, self._checkpoint)
            for start, stop in jobs:
                yield await scanner.scan(start, stop)
            return
        loop = asyncio.get_running_loop()
        async with aclosing(
            _in_order(
                (loop.run_in_executor(executor, _scan, start, stop) for start, stop in jobs),
                2 * self._settings.processes,
            )
        ) as results:
            async for facts in results:
                yield facts

    async def _take(self, facts: RangeFacts) -> None:
        whole = self._whole
        for name in ("unreadable", "tiles", "canonical", "times", "sealed", "keys"):
            getattr(whole, name).extend(getattr(facts, name))
        if facts.first_time and facts.first_time < whole.last_time:
            whole.times.add(f"entry {facts.start}", f"recorded at {facts.first_time}, after {whole.last_time}")
        whole.last_time = max(whole.last_time, facts.last_time)
        whole.sealed_count += facts.sealed_count
        whole.dataref_count += facts.dataref_count
        whole.content_count += facts.content_count
        whole.packs_count += facts.packs_count
        room = MISSING_MAX - len(whole.content)
        whole.content += facts.content[:room]
        whole.content_more += len(facts.content[room:])
        self._releases.add(facts.referring)
        for index, data in facts.releases:
            self._releases.take(index, data)
        whole.entries_read += facts.entries_read
        for keyid, index in facts.missing.items():
            if len(whole.missing) < MISSING_MAX:
                whole.missing.setdefault(keyid, index)
            else:
                whole.keys.more += 1
        for index, data in facts.acts:
            try:
                await self._keyring.take(index, [data])
            except Tampered as error:
                whole.keys.add_error(error, f"entry {index}")
        self._acts += facts.acts
        if facts.spilled is not None:
            self._spilled.append(facts.spilled)
        if isinstance(self._objects, EveryVersion):
            self._objects.alarms.add(facts.alarms)
        self._suspects.update(
            {index: hashes for index, hashes in facts.suspects.items() if len(self._suspects) < FINDINGS_MAX}
        )
        await self._compare_tile(1, facts.start // RANGE_ENTRIES, facts.nodes)
        if facts.stop - facts.start == RANGE_ENTRIES:
            self._levels[2].append(root_hash(facts.nodes))
        else:
            self._levels[0], self._levels[1] = facts.edge, facts.nodes

    # -- the tree --

    async def _compare_tile(self, level: int, index: int, hashes: Sequence[bytes]) -> None:
        """A stored tile against the recomputed one."""
        if not hashes:
            return
        try:
            stored = await read_tile(self._objects, Tile(level, index, len(hashes)))
        except Tampered as error:
            if isinstance(self._objects, EveryVersion):
                self._whole.suspects.setdefault(level << 48 | index, [])
            else:
                self._whole.tiles.add_error(error)
            return
        if stored == encode_tile(hashes):
            return
        below = range(min(len(hashes), len(stored) // 32))
        wrong = [number for number in below if stored[number * 32 : number * 32 + 32] != hashes[number]]
        for number in wrong[:FINDINGS_MAX]:
            if level == 1:
                self._suspects.setdefault((index << 8) + number, [])
        self._whole.suspects.setdefault(level << 48 | index, [])

    async def _check_tree(self) -> bytes:
        """Put the tree together above the ranges, compare its tiles, and return its root; name what is suspect."""
        edges = [self._levels[0], self._levels[1]]
        row = self._levels[2]
        while row:
            level = len(edges)
            for tile in needed(len(row) << (8 * level), level):
                await self._compare_tile(level, tile.index, row[tile.index * TILE_WIDTH :][: tile.width])
            full = len(row) - len(row) % TILE_WIDTH
            edges.append(row[full:])
            row = [root_hash(row[first : first + TILE_WIDTH]) for first in range(0, full, TILE_WIDTH)]
        root = CompactRange(self._checkpoint.size, frontier_of(edges)).root()
        if self._suspects or self._whole.suspects or root != self._checkpoint.root:
            await self._name_suspects()
        return root

    async def _name_suspects(self) -> None:
        """Tell what is wrong from what is right, by authenticating tiles from the checkpoint's root down."""
        whole = self._whole
        try:
            tiles = await AuthenticatedTiles.open(self._objects, self._checkpoint)
        except Tampered as error:
            whole.tiles.add_error(error)
            return
        try:
            for place in whole.suspects:
                await self._authenticate(tiles, place >> 48, place & (1 << 48) - 1)
            for index, recomputed in self._suspects.items():
                signed = await self._authenticate(tiles, 0, index)
                for number, (ours, theirs) in enumerate(zip(recomputed, signed, strict=False)):
                    if ours != theirs:
                        entry = index * TILE_WIDTH + number
                        bundle = Tile(ENTRIES, index, len(recomputed)).path
                        whole.unreadable.add(bundle, f"entry {entry} is not the one that was signed for")
        finally:
            tiles.close()

    async def _authenticate(self, tiles: AuthenticatedTiles, level: int, index: int) -> Sequence[bytes]:
        try:
            return await tiles.hashes(level, index)
        except Tampered as error:
            self._whole.tiles.add_error(error)
            return []

    async def _check_tiles_left(self) -> None:
        """What else lies among the tiles must not contradict them; told only when the tree itself is right."""
        if not self._whole.tiles and not self._whole.unreadable:
            try:
                await check_leftovers(self._objects, self._checkpoint.size)
            except Tampered as error:
                self._whole.tiles.add_error(error)

    def _root_check(self, root: bytes) -> Check:
        findings, size = Findings(), self._checkpoint.size
        if root != self._checkpoint.root:
            findings.add("checkpoint", f"the tree recomputed from {size:,} entries has another root: {root.hex()}")
        return findings.check("tree root", f"recomputed over {size:,} entries: {self._checkpoint.root.hex()}")

    # -- what crosses ranges --

    async def _check_partitions(self, executor: Executor | None) -> tuple[Findings, Findings]:
        ids, streams = Findings(), Findings()
        numbers = range(self._partitions)
        if executor is None:
            results = [await asyncio.to_thread(check_partition, number, self._spilled) for number in numbers]
        else:
            loop = asyncio.get_running_loop()
            jobs = (loop.run_in_executor(executor, check_partition, number, self._spilled) for number in numbers)
            results = [one async for one in _in_order(jobs, 2 * self._settings.processes)]
        for found_ids, found_streams in results:
            ids.extend(found_ids)
            streams.extend(found_streams)
        return ids, streams

    def _sealed_check(self) -> Check:
        whole = self._whole
        if not whole.sealed_count:
            return not_run("sealed data, form", "no entry is sealed")
        return whole.sealed.check(
            "sealed data, form", f"suite, nonce, tag and key name of {whole.sealed_count:,} entries"
        )

    async def _keyring_check(self) -> Check:
        whole, erased = self._whole, self._keyring.erasures.erased
        for keyid, index in whole.missing.items():
            if keyid not in erased:
                whole.keys.add(KEYRING + keyid, f"it is missing: entry {index} is sealed with it, and nobody erased it")
        try:
            await self._keyring.check(self._objects)
        except Tampered as error:
            whole.keys.add_error(error)
        gone = f", {len(erased):,} erased" if erased else ""
        return whole.keys.check("keyring", f"every key announced or named by an entry is there{gone}")

    def _content_check(self) -> Check:
        whole, name, findings = self._whole, "content references", Findings()
        elsewhere = f"{whole.dataref_count:,} entries refer to what is kept elsewhere" if whole.dataref_count else ""
        if not whole.content_count:
            return not_run(name, elsewhere or "no entry refers to content")
        findings.more += whole.content_more
        gone = Gone(self._keyring.erasures.erased, self._releases.released)
        for one in whole.content:
            if one not in gone:
                what = one.what if one.key == f"entry {one.index}" else f"entry {one.index} refers to it: {one.what}"
                findings.add(one.key, what)
        detail = f"whole and there: packs: {whole.packs_count:,}, for entries: {whole.content_count:,}"
        return findings.check(name, f"{detail}; {elsewhere}" if elsewhere else detail)

    def _releases_check(self) -> Check:
        name, findings, released = "released content", Findings(), self._releases.released
        for index, what in released.wrong.items():
            findings.add(f"entry {index}", what)
        count = sum(len(released.of(source)) for source in released.sources)
        if not count and not findings:
            return not_run(name, "no content was released")
        return findings.check(name, f"{count:,} entries need theirs no more, each as an entry after it says")


# -- processes ------------------------------------------------------------------------------------------------------

_scanner: Scanner | None = None
"""This process's own, where it is a worker's."""


def _begin(
    open_objects: OpenObjects, folder: Path, partitions: int, checkpoint: Checkpoint, every_version: bool
) -> None:
    global _scanner
    # Values are trees and freed as they go: looking for cycles among them would take a third of the time.
    gc.disable()
    gc.freeze()
    objects = open_objects()
    _scanner = Scanner(
        EveryVersion(objects, keyring=False) if every_version else objects, folder, partitions, checkpoint
    )


def _scan(start: int, stop: int) -> RangeFacts:
    assert _scanner is not None, "_begin has run"
    try:
        return asyncio.run(_scanner.scan(start, stop))
    finally:
        gc.collect()  # what a client of an object store has left behind


@contextmanager
def _executor(
    settings: ReplaySettings, partitions: int, checkpoint: Checkpoint, every_version: bool
) -> Iterator[Executor | None]:
    """Worker processes; None: everything happens in this one."""
    if settings.open_objects is None or settings.processes < 2:
        yield None
        return
    begin = (settings.open_objects, settings.folder, partitions, checkpoint, every_version)
    pool = ProcessPoolExecutor(settings.processes, get_context("spawn"), initializer=_begin, initargs=begin)
    try:
        yield pool
    except BrokenProcessPool as error:
        raise Unavailable("a process of the audit was ended from outside", hint="run it again") from error
    finally:
        pool.shutdown(cancel_futures=True)


async def _in_order(jobs: Iterable[asyncio.Future[_T]], ahead: int) -> AsyncGenerator[_T, None]:
    """The results of jobs in their order, so many of them under way."""
    waiting: list[asyncio.Future[_T]] = []
    try:
        for job in jobs:
            waiting.append(job)
            if len(waiting) >= ahead:
                yield await waiting.pop(0)
        while waiting:
            yield await waiting.pop(0)
    finally:
        for one in waiting:
            one.cancel()
