"""Auditing a directory site: entries per second against hashing and parsing alone, peak memory, and what bounds it.

`python -m tests.bench.audit SITE PROCESSES` audits once, in a process of its own, and prints seconds, its peak memory
and that of its largest worker; with 0 processes it is the limit: SHA-256 and `json.loads` of every entry, nothing else.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from cli.auditing import Place, Wanted, audit_place
from cli.config import Environment
from ledger.auditor.scan import RangeFacts, _follow_time, _note_acts
from ledger.auditor.spill import Spill
from ledger.core.checkpoint import origin_prefix
from ledger.core.merkle import leaf_hash, root_hash
from ledger.core.policy import format_policy
from ledger.core.quick import quick_entries
from ledger.core.tiles import decode_bundle
from ledger.store.base import Prefixed
from ledger.store.directory import DirectoryStore
from tests.bench.paired import Pair, stopwatch
from tests.bench.restore import MIB, ORIGIN, POLICY, SUBJECTS, build_site

ENTRIES = 1_000_000
SIZES = (300_000, ENTRIES)
LIMIT = "sha256 and json.loads"
_SMALL = (
    b'{"actor":"local:bench","data":{"n":%d},"id":"e%d","recordedtime":"2026-11-24T00:00:00.000000Z",'
    b'"source":"urn:bench","specversion":"1.0","streamversion":%d,"subject":"s%d","time":"2026-11-24T00:00:00.000000Z",'
    b'"type":"record.amended.v1"}'
)


def small_entry(number: int) -> bytes:
    """Entry `number` of the bench's ledger, about 230 bytes."""
    return _SMALL % (number, number, number // SUBJECTS + 1, number % SUBJECTS)


async def run(scratch: Path, rounds: int, entries: int) -> None:
    """Audits of two sizes, each beside the limit in the same minute; then where the time of an entry goes."""
    sizes = (min(SIZES[0], entries or ENTRIES), entries or ENTRIES)
    peaks: list[float] = []
    for size in sizes:
        site = scratch / f"site-{size}"
        await build_site(site, size, small_entry)
        for processes in (1, 2):
            pair = Pair(f"audit, {size:,} entries, {processes} process{'es' * (processes > 1)}", "entries/s", LIMIT)
            memory: list[tuple[float, float]] = []
            for number in range(min(rounds, 3)):
                took_s, peak, worker = _audit_apart(site, processes)
                limit_s, _, _ = _audit_apart(site, 0)
                if number or rounds == 1:  # the first round warms the disk's cache, where there are several
                    pair.ours.append(size / took_s)
                    pair.theirs.append(size / limit_s)
                memory.append((peak, worker))
            pair.show()
            peak, worker = max(memory)
            peaks.append(peak + processes * worker if processes > 1 else peak)
            workers = f" + {processes} x {worker / MIB:,.0f} MiB" if processes > 1 else ""
            print(
                f"  peak memory {peak / MIB:,.0f} MiB{workers}   ratio to the smallest {peaks[-1] / peaks[0]:.2f}",
                flush=True,
            )
        if size == sizes[-1]:
            await _where_time_goes(site)
        shutil.rmtree(site)


def _audit_apart(site: Path, processes: int) -> tuple[float, float, float]:
    """(seconds, peak resident bytes, those of the largest worker) of a child process that audits."""
    command = [sys.executable, "-m", "tests.bench.audit", str(site), str(processes)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds, peak, worker = done.stdout.split()
    return float(seconds), float(peak), float(worker)


async def _where_time_goes(site: Path) -> None:
    """Microseconds an entry in one process, step by step, and the limit: SHA-256 of every entry and nothing else."""
    objects = Prefixed(DirectoryStore(site), origin_prefix(ORIGIN))
    numbers = range(200)
    steps: list[tuple[str, float]] = []
    with stopwatch() as watch:
        bundles = [(await objects.get(f"tile/entries/{number:03d}")).data for number in numbers]
    steps.append(("read", watch.seconds))
    with stopwatch() as watch:
        entries = [decode_bundle(data, 256) for data in bundles]
    steps.append(("cut", watch.seconds))
    with stopwatch() as watch:
        for one in entries:
            root_hash([leaf_hash(entry) for entry in one])
    steps.append(("tree", watch.seconds))
    with stopwatch() as watch:
        for one in entries:
            quick_entries(one)
    steps.append(("parse, canonical form", watch.seconds))
    values = [quick_entries(one) for one in entries]
    facts, spill = RangeFacts(0, 0), Spill(0, 64)
    with stopwatch() as watch:
        for number, one in enumerate(values):
            spill.add(256 * number, one)
    steps.append(("keys", watch.seconds))
    with stopwatch() as watch:
        for one, found in zip(entries, values, strict=True):
            _follow_time(facts, 0, found)
            _note_acts(facts, 0, one, found, {})
    steps.append(("times, acts", watch.seconds))
    with stopwatch() as watch:
        for one in entries:
            for entry in one:
                hashlib.sha256(entry).digest()
    count = 256 * len(numbers)
    for name, seconds in steps:
        print(f"  {name:<24} {seconds / count * 1e6:6.2f} us an entry")
    total = sum(seconds for _, seconds in steps)
    print(
        f"  {'all of it':<24} {total / count * 1e6:6.2f} us; hashing alone {watch.seconds / count * 1e6:.2f} us",
        flush=True,
    )


def limit(site: Path) -> None:
    """What any audit has to do with the same bytes, in one process: read them, hash them, parse them."""
    folder = site / origin_prefix(ORIGIN) / "tile" / "entries"
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        data, at = file.read_bytes(), 0
        while at < len(data):
            stop = at + 2 + int.from_bytes(data[at : at + 2], "big")
            entry = data[at + 2 : stop]
            hashlib.sha256(b"\0" + entry).digest()
            json.loads(entry)
            at = stop


def main() -> None:
    site, processes = Path(sys.argv[1]), int(sys.argv[2])
    if not processes:
        with stopwatch() as watch:
            limit(site)
        print(watch.seconds, 0, 0)
        return
    with TemporaryDirectory(dir=site.parent) as folder:
        policy = Path(folder) / "trust.policy"
        policy.write_bytes(format_policy(POLICY))
        wanted = Wanted(processes=processes, scratch=Path(folder))
        with stopwatch() as watch:
            report = asyncio.run(audit_place(Place(str(site), policy), Environment(ledger=None), wanted))
        # A bench's site has neither `pending` nor a first entry that announces keys: nothing else may fail.
        assert [check.name for check in report.failed] == ["pending"], report.failed
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2): bytes there, KiB on Linux
    own, workers = (
        resource.getrusage(who).ru_maxrss * unit for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    print(watch.seconds, own, workers)


if __name__ == "__main__":
    main()
