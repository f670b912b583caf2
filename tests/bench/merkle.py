"""Merkle leaves per second against hashlib alone hashing the same leaves."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ledger.core.merkle import CompactRange, leaf_hash
from tests.bench.paired import Pair, run_paired, stopwatch

LEAVES = 262_144


async def run(_scratch: Path, rounds: int, _entries: int) -> None:
    """Leaf hash and compact range of 262,144 entries of 300 bytes; the limit is two SHA-256 a leaf and nothing else."""
    entries = [b"%d" % n * 50 for n in range(LEAVES)]

    async def ours(_number: int) -> float:
        with stopwatch() as watch:
            CompactRange.empty().extend([leaf_hash(entry) for entry in entries]).root()
        return LEAVES / watch.seconds

    async def hashes_alone(_number: int) -> float:
        pair = b"\1" * 65
        with stopwatch() as watch:
            for entry in entries:
                hashlib.sha256(entry).digest()
                hashlib.sha256(pair).digest()
        return LEAVES / watch.seconds

    await run_paired(Pair("merkle, leaf hash + tree", "leaves/s", "hashlib"), ours, hashes_alone, rounds)
