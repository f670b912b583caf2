"""Restoring from a directory site: entries per second against raw SQLite inserts, and peak memory by ledger size.

`python -m tests.bench.restore SITE STORE` restores once, in a process of its own, and prints seconds and peak memory.
"""

from __future__ import annotations

import asyncio
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from cli.system import SystemClock
from ledger.core.checkpoint import CHECKPOINT, Checkpoint, origin_prefix
from ledger.core.entry import decode_entry, encode_entry
from ledger.core.note import Note, NoteSignature, format_note
from ledger.core.policy import make_policy
from ledger.core.tiling import Tiler
from ledger.store.base import Prefixed
from ledger.store.directory import DirectoryStore
from ledger.store.sqlite import SqliteEntryStore
from replication.site import Site, init_site
from restore.fetch import open_site
from restore.rebuild.ledger import COMMIT_ENTRIES, rebuild
from tests.bench.append import raw
from tests.bench.paired import Pair, run_paired, stopwatch
from tests.support.ledgers import log_signer, mirror_cosigner

ORIGIN = "example.test/bench"
SIGNER = log_signer(ORIGIN)
COSIGNER = mirror_cosigner(f"{ORIGIN}/mirror")
POLICY = make_policy(SIGNER.key, {"site": COSIGNER.key}, threshold="all")
ENTRIES = 50_000
MEMORY_ENTRIES = (100_000, 300_000, 1_000_000)
SUBJECTS = 5_000
MIB = 2**20

_ENTRY = (
    '{"actor":"local:bench","data":{"edition":"2026","new":{"name":"东城区","note":"%s"},"old":{"name":""}},'
    '"id":"e%%d","recordedtime":"2026-11-24T00:00:00.000000Z","source":"urn:bench","specversion":"1.0",'
    '"streamversion":%%d,"subject":"s%%d","time":"2026-11-24T00:00:00.000000Z","type":"record.amended.v1"}'
)
_TEMPLATE = (_ENTRY % ("x" * 150)).encode()


def entry(number: int) -> bytes:
    """Entry `number` of the bench's ledger, about 400 bytes: canonical, but written without the encoder."""
    return _TEMPLATE % (number, number // SUBJECTS + 1, number % SUBJECTS)


def entries_of(size: int, make: Callable[[int], bytes] = entry) -> Iterator[list[bytes]]:
    """The ledger's entries, in parts."""
    for first in range(0, size, COMMIT_ENTRIES):
        yield [make(number) for number in range(first, min(size, first + COMMIT_ENTRIES))]


async def build_site(root: Path, size: int, make: Callable[[int], bytes] = entry) -> None:
    """A cosigned directory site of `size` entries, as a follower and a mirror leave it, but not fsynced."""
    assert encode_entry(decode_entry(make(0))) == make(0)
    objects = Prefixed(DirectoryStore(root, create=True), origin_prefix(ORIGIN))
    await init_site(Site("site", objects, COSIGNER.key), COSIGNER, ORIGIN, now=SystemClock().now())
    folder = root / origin_prefix(ORIGIN)
    tiler = Tiler(0, [], [])
    for part in entries_of(size, make):
        for tile, data in tiler.extend(part):
            _write(folder / tile.path, data)
    for tile, data in tiler.partials():
        _write(folder / tile.path, data)
    text = Checkpoint(ORIGIN, size, tiler.tree().root()).text
    log = NoteSignature(ORIGIN, SIGNER.key.key_id, SIGNER.sign(text))
    timestamp_s = int(SystemClock().now().timestamp())
    mirror = NoteSignature(COSIGNER.key.name, COSIGNER.key.key_id, COSIGNER.cosign(text, timestamp_s))
    _write(folder / CHECKPOINT, format_note(Note(text, (log, mirror))))


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


async def restore(site: Path, store: Path) -> float:
    """Restore the site's copy into a new SQLite store; entries per second, opening and verifying included."""
    with stopwatch() as watch:
        objects = Prefixed(DirectoryStore(site), origin_prefix(ORIGIN))
        copy = await open_site(objects, POLICY, ORIGIN, now=SystemClock().now())
        target = await SqliteEntryStore.open(store, create=True)
        size = await rebuild(copy, target)
        await target.close()
    return size / watch.seconds


async def run(scratch: Path, rounds: int, _entries: int) -> None:
    """50,000 entries, verified and rebuilt; the limit inserts the same bytes without looking at them."""
    site = scratch / "site"
    await build_site(site, ENTRIES)
    entries = [one for part in entries_of(ENTRIES) for one in part]

    async def ours(number: int) -> float:
        folder = scratch / f"ours-{number}"
        folder.mkdir()
        rate = await restore(site, folder / "ledger.sqlite")
        shutil.rmtree(folder)
        return rate

    async def theirs(number: int) -> float:
        return await asyncio.to_thread(raw, scratch / f"raw-{number}", entries, COMMIT_ENTRIES)

    await run_paired(Pair("restore from a directory site", "entries/s", "raw sqlite3"), ours, theirs, rounds)


async def run_memory(scratch: Path, rounds: int, entries: int) -> None:
    """Peak memory of a process that restores, for growing ledgers: it does not grow with them. One round each."""
    sizes = sorted({*(size for size in MEMORY_ENTRIES if not entries or size < entries), entries or MEMORY_ENTRIES[-1]})
    peaks: list[float] = []
    for size in sizes:
        site = scratch / f"site-{size}"
        await build_site(site, size)
        took_s, peak = _restore_apart(site, scratch / "restored.sqlite")
        peaks.append(peak)
        print(
            f"{f'memory, {size:,} entries':<38} {size / took_s:>12,.0f} entries/s   peak {peak / MIB:,.0f} MiB"
            f"   ratio to the smallest {peak / peaks[0]:.2f}",
            flush=True,
        )
        shutil.rmtree(site)
        for file in scratch.glob("restored.sqlite*"):
            file.unlink()


def _restore_apart(site: Path, store: Path) -> tuple[float, float]:
    """(seconds, peak resident bytes) of a child process that restores."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.restore", str(site), str(store)], check=True, capture_output=True, text=True
    )
    seconds, peak = done.stdout.split()
    return float(seconds), float(peak)


def main() -> None:
    with stopwatch() as watch:
        asyncio.run(restore(Path(sys.argv[1]), Path(sys.argv[2])))
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2): bytes there, KiB on Linux
    print(watch.seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


if __name__ == "__main__":
    main()
