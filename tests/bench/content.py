"""Content per second: taken (cut, named, packed, sealed, stored) and read back, against SHA-256 of the same bytes.

And, where restic is installed, both against restic's backup and restore of the same files.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ledger.content import ChunkIndex, Content, ContentReader, ContentWriter, Leases, Piece, synchronise
from ledger.core.chunks import ContentKeys
from ledger.store.directory import DirectoryStore
from tests.bench.paired import Pair, run_paired, stopwatch

FILES = 2_000
FILE_SIZE_MAX = 4 * 2**20
KEYS = ContentKeys.derive(bytes(32))
RESTIC = shutil.which("restic")


def _make_tree(root: Path, files: int) -> list[Path]:
    """Texts of a bounded vocabulary, of 40 KiB in the median; two in ten are noise, three in ten another, shifted."""
    source = random.Random(1)
    words = [source.randbytes(source.randint(2, 10)).hex().encode() for _ in range(4_000)]
    made: list[Path] = []
    unlike = [b""]
    for number in range(files):
        size = min(FILE_SIZE_MAX, int(source.lognormvariate(10.6, 1.4)))
        kind = number % 10
        if kind < 5:
            unlike.append(b" ".join(source.choices(words, k=size // 12))[:size])
        elif kind < 7:
            unlike.append(source.randbytes(size))
        shifted = source.randbytes(source.randint(1, 100)) + source.choice(unlike)
        path = root / f"{number // 100:03}" / f"{number:06}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(unlike[-1] if kind < 7 else shifted)
        made.append(path)
    return made


def _take(writer: ContentWriter, paths: list[Path]) -> Iterator[Content]:
    for path in paths:
        with path.open("rb", buffering=0) as file:
            yield writer.take(file)


async def _capture(store: Path, paths: list[Path]) -> list[Content]:
    store.mkdir(exist_ok=True)
    objects = DirectoryStore(store)
    leases = Leases(objects)
    lease = await leases.begin()
    index = ChunkIndex(store.with_suffix(".sqlite"))
    async with await ContentWriter.open(objects, KEYS, index, lease) as writer:
        contents = await _in_threads(writer, paths)
        await writer.flush()
    index.close()
    return contents


async def _in_threads(writer: ContentWriter, paths: list[Path]) -> list[Content]:
    def some(part: list[Path]) -> list[Content]:
        return list(_take(writer, part))

    loop = asyncio.get_running_loop()
    half = (len(paths) + 1) // 2
    with ThreadPoolExecutor(2) as threads:
        parts = await asyncio.gather(*(loop.run_in_executor(threads, some, p) for p in (paths[:half], paths[half:])))
    return [content for part in parts for content in part]


async def _restore(store: Path, contents: list[Content], to: Path) -> None:
    objects = DirectoryStore(store)
    index = ChunkIndex()
    await synchronise(index, objects, KEYS)
    reader = ContentReader(objects, KEYS, index)
    to.mkdir()

    for number, content in enumerate(contents):
        with (to / str(number)).open("wb") as file:
            file.truncate(content.manifest.length)

    def write(piece: Piece) -> None:
        with (to / str(piece.content)).open("r+b", buffering=0) as file:
            file.seek(piece.offset)
            file.write(piece.data)

    await reader.scatter((content.manifest for content in contents), write)


def _size(root: Path) -> int:
    return sum(path.stat().st_size for path in root.rglob("*") if path.is_file())


def _restic(*words: str, repository: Path) -> None:
    environment = {**os.environ, "RESTIC_PASSWORD": "bench", "RESTIC_REPOSITORY": str(repository)}
    command = [RESTIC or "restic", "--no-cache", "-q", *words]
    subprocess.run(command, env=environment, check=True, capture_output=True)


async def run(scratch: Path, rounds: int, entries: int) -> None:
    """MB/s over the bytes of the tree; `entries`: how many files (default 2,000)."""
    paths = _make_tree(scratch / "tree", entries or FILES)
    megabytes = sum(path.stat().st_size for path in paths) / 1e6
    kept: list[Content] = []

    async def take(number: int) -> float:
        with stopwatch() as watch:
            kept[:] = await _capture(scratch / f"store-{number}", paths)
        return megabytes / watch.seconds

    async def again(number: int) -> float:
        with stopwatch() as watch:
            await _capture(scratch / f"store-{number}", paths)
        return megabytes / watch.seconds

    async def restore(number: int) -> float:
        to = scratch / f"restored-{number}"
        with stopwatch() as watch:
            await _restore(scratch / f"store-{number}", kept, to)
        shutil.rmtree(to)
        return megabytes / watch.seconds

    async def digests(_number: int) -> float:
        with stopwatch() as watch:
            for path in paths:
                hashlib.sha256(path.read_bytes()).digest()
        return megabytes / watch.seconds

    async def restic_backup(number: int) -> float:
        repository = scratch / f"restic-{number}"
        _restic("init", repository=repository)
        with stopwatch() as watch:
            _restic("backup", str(scratch / "tree"), repository=repository)
        return megabytes / watch.seconds

    async def restic_again(number: int) -> float:
        with stopwatch() as watch:
            _restic("backup", "--force", str(scratch / "tree"), repository=scratch / f"restic-{number}")
        return megabytes / watch.seconds

    async def restic_restore(number: int) -> float:
        to = scratch / f"restic-restored-{number}"
        with stopwatch() as watch:
            _restic("restore", "latest", "--target", str(to), repository=scratch / f"restic-{number}")
        shutil.rmtree(to)
        return megabytes / watch.seconds

    if RESTIC:
        await run_paired(Pair("content, taken", "MB/s", "restic backup"), take, restic_backup, rounds)
        await run_paired(Pair("content, taken again", "MB/s", "restic --force"), again, restic_again, rounds)
        await run_paired(Pair("content, read back", "MB/s", "restic restore"), restore, restic_restore, rounds)
        ours, theirs = _size(scratch / "store-1"), _size(scratch / "restic-1")
        print(f"{'content, stored':<38} {ours / 1e6:>12,.0f} MB          restic: {theirs / 1e6:>12,.0f}")
    else:
        await run_paired(Pair("content, taken", "MB/s", "SHA-256 alone"), take, digests, rounds)
        await run_paired(Pair("content, taken again", "MB/s", "SHA-256 alone"), again, digests, rounds)
        await run_paired(Pair("content, read back", "MB/s", "SHA-256 alone"), restore, digests, rounds)
        print(f"{'content, stored':<38} {_size(scratch / 'store-1') / 1e6:>12,.0f} MB of {megabytes:,.0f}")
